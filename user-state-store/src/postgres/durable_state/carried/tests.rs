//! The texts of statements that carry something, and how the server plans them.

use std::error::Error;

use sqlx::{Connection as _, Executor as _, PgConnection};
use throwaway_postgres::TestDatabase;

use super::*;
use crate::connect::PayloadColumn;
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::create::{CREATE, INSERT_STATES};
use crate::postgres::durable_state::update::{
    DELETE_FREE_STATES, DELETE_STATES, ERASE, UPDATE, UPDATE_FREE_STATES, UPDATE_STATES,
};
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::{Companion, CompanionColumn, CompanionKind, CompanionSql, Guard, GuardKind};

static NOTE: CompanionKind = CompanionKind::new(
    &[CompanionColumn::text("name"), CompanionColumn::time("at")],
    CompanionSql::new("INSERT INTO notes SELECT persistence_id, name FROM companion"),
    CompanionSql::new(""),
);

static TOKEN: CompanionKind = CompanionKind::new(
    &[CompanionColumn::text("name")],
    CompanionSql::new(
        "DELETE FROM notes AS n USING companion AS c
  WHERE n.persistence_id = c.persistence_id AND n.name = c.name",
    )
    .requiring(
        "EXISTS (
      SELECT FROM notes AS n
      WHERE n.persistence_id = companion.persistence_id AND n.name = companion.name
      FOR UPDATE
    )",
    ),
    CompanionSql::new(""),
);

static LEASES: GuardKind = GuardKind::new(
    "SELECT ordinal FROM guard WHERE lost_lease(first_slice, epoch)",
    "",
);

fn write(id: &str) -> Result<Write, Box<dyn Error>> {
    Ok(Write::mark(PersistenceId::unique(id)?, Revision::FIRST))
}

/// Two writes, of which the second carries a companion of each kind.
fn batch() -> Result<WriteBatch, Box<dyn Error>> {
    let note = Companion::new(&NOTE, ["a".into(), None::<i64>.into()])?;
    let token = Companion::new(&TOKEN, ["b".into()])?;
    let writes = vec![write("a")?, write("b")?.companions([note, token])];
    Ok(WriteBatch::new(writes)?)
}

fn carried<'batch>(batch: &'batch WriteBatch, part: &[usize]) -> Option<Carried<'batch>> {
    let writes: Vec<&Write> = part.iter().map(|index| &batch.writes()[*index]).collect();
    Carried::of(batch, part, &writes)
}

#[test]
fn a_statement_that_carries_nothing_is_the_same_text() -> Result<(), Box<dyn Error>> {
    let batch = batch()?;
    let carries_nothing = WriteBatch::new(vec![write("a")?])?;
    assert!(carried(&carries_nothing, &[0]).is_none());
    assert!(carried(&batch, &[0]).is_none(), "this part carries nothing");
    for (statement, shape) in [
        (UPDATE_STATES.of(PayloadColumn::Bytea), UPDATE),
        (DELETE_STATES, ERASE),
        (INSERT_STATES.of(PayloadColumn::Bytea), CREATE),
    ] {
        let sent = text(None, statement, shape);
        assert!(matches!(sent, Cow::Borrowed(same) if std::ptr::eq(same, statement)));
    }
    Ok(())
}

#[test]
fn the_writes_become_a_part_of_the_statement() -> Result<(), Box<dyn Error>> {
    let guards = [Guard {
        slices: SliceRange::ALL,
        epoch: 7,
    }];
    let batch = batch()?.guarded(&LEASES, guards)?;
    let carried = carried(&batch, &[0, 1]).ok_or("it carries something")?;
    let shape = Shape {
        arguments: 1,
        ..ERASE
    };
    let statement = "DELETE FROM t USING unnest($1::text[])\nWHERE true\nRETURNING w.ordinal";
    assert_eq!(
        text(Some(&carried), statement, shape),
        "WITH lost AS MATERIALIZED (
  WITH guard AS (
    SELECT
      generate_series(1, cardinality($2::int[])::bigint) AS ordinal,
      unnest($2::int[]) AS first_slice,
      unnest($3::int[]) AS last_slice,
      unnest($4::bigint[]) AS epoch
  )
  SELECT lost.ordinal
  FROM (
    SELECT ordinal FROM guard WHERE lost_lease(first_slice, epoch)
  ) AS lost (ordinal)
),
sent_0 AS (
  SELECT
    unnest($5::bigint[]) AS write_ordinal,
    unnest($6::text[]) AS persistence_id,
    unnest($7::int[]) AS slice,
    unnest($8::bigint[]) AS revision,
    unnest($9::text[]) AS name,
    transaction_timestamp() AS written_at
),
sent_1 AS (
  SELECT
    unnest($10::bigint[]) AS write_ordinal,
    unnest($11::text[]) AS persistence_id,
    unnest($12::int[]) AS slice,
    unnest($13::bigint[]) AS revision,
    unnest($14::text[]) AS name,
    unnest($15::timestamptz[]) AS at,
    transaction_timestamp() AS written_at
),
written AS (
DELETE FROM t USING unnest($1::text[])
WHERE true
  AND NOT EXISTS (SELECT FROM lost)
  AND (w.ordinal IN (
    SELECT companion.write_ordinal
    FROM sent_0 AS companion
    WHERE (EXISTS (
      SELECT FROM notes AS n
      WHERE n.persistence_id = companion.persistence_id AND n.name = companion.name
      FOR UPDATE
    )) IS NOT TRUE
  )) IS NOT TRUE
RETURNING w.ordinal
),
run_0 AS (
  WITH companion AS (
    SELECT persistence_id, slice, revision, written_at, name
    FROM sent_0
    WHERE (write_ordinal IN (SELECT ordinal FROM written)) IS TRUE
  )
  DELETE FROM notes AS n USING companion AS c
  WHERE n.persistence_id = c.persistence_id AND n.name = c.name
),
run_1 AS (
  WITH companion AS (
    SELECT persistence_id, slice, revision, written_at, name, at
    FROM sent_1
    WHERE (write_ordinal IN (SELECT ordinal FROM written)) IS TRUE
  )
  INSERT INTO notes SELECT persistence_id, name FROM companion
)
SELECT ordinal FROM written
UNION ALL
SELECT -ordinal FROM lost"
    );
    Ok(())
}

#[test]
fn only_the_guards_of_a_part_are_asked_for() -> Result<(), Box<dyn Error>> {
    let ranges = SliceRange::split(1024).ok_or("every slice")?;
    let guards = ranges.into_iter().map(|slices| Guard { slices, epoch: 1 });
    let batch = batch()?.guarded(&LEASES, guards)?;
    let slices = batch.writes().iter();
    let slices: Vec<usize> = slices
        .map(|write| write.persistence_id.slice().get().into())
        .collect();
    let both = carried(&batch, &[0, 1]).ok_or("it is guarded")?;
    assert_eq!(both.places(&[1, 2, 3, 0, -1]), slices);
    let second = carried(&batch, &[1]).ok_or("it is guarded")?;
    assert_eq!(second.places(&[1, 2]), slices[1..]);
    Ok(())
}

/// A session as the store's own, with temporary tables of which nothing is known.
async fn session(
    database: &TestDatabase,
    payload_column: PayloadColumn,
) -> Result<PgConnection, Box<dyn Error>> {
    let mut session = crate::postgres::tests::session(database, payload_column).await?;
    session
        .execute(
            "CREATE TABLE notes (persistence_id text, name text, PRIMARY KEY (persistence_id, name));
             CREATE FUNCTION pg_temp.lost_lease(int, bigint) RETURNS boolean
             LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN false; END'",
        )
        .await?;
    Ok(session)
}

#[tokio::test]
async fn rows_are_found_by_key_and_companions_by_hash() -> Result<(), Box<dyn Error>> {
    static OF_SESSION: GuardKind = GuardKind::new(
        "SELECT ordinal FROM guard WHERE pg_temp.lost_lease(first_slice, epoch)",
        "",
    );
    let database = TestDatabase::create().await?;
    let guards = [Guard {
        slices: SliceRange::ALL,
        epoch: 7,
    }];
    let batch = batch()?.guarded(&OF_SESSION, guards)?;
    let carried = carried(&batch, &[0, 1]).ok_or("it carries something")?;
    for column in [
        PayloadColumn::Bytea,
        PayloadColumn::Json,
        PayloadColumn::Jsonb,
    ] {
        let mut session = session(&database, column).await?;
        for (statement, shape) in [
            (UPDATE_STATES.of(column), UPDATE),
            (UPDATE_FREE_STATES.of(column), UPDATE),
            (DELETE_STATES, ERASE),
            (DELETE_FREE_STATES, ERASE),
            (INSERT_STATES.of(column), CREATE),
        ] {
            let text = text(Some(&carried), statement, shape);
            session
                .execute(&*format!("PREPARE planned AS {text}"))
                .await?;
            let nothing = vec!["NULL"; shape.arguments + 14].join(", ");
            let explain = format!("EXPLAIN EXECUTE planned ({nothing})");
            let lines: Vec<String> = sqlx::query_scalar(&explain).fetch_all(&mut session).await?;
            let plan = lines.join("\n");
            session.execute("DEALLOCATE planned").await?;
            assert!(plan.contains("durable_state_pkey"), "{plan}");
            assert!(plan.contains("notes_pkey"), "{plan}");
            assert!(!plan.contains("Seq Scan"), "{plan}");
            // The token's condition, and the membership of each kind.
            assert_eq!(plan.matches("(hashed SubPlan").count(), 3, "{plan}");
            assert!(plan.contains("One-Time Filter"), "{plan}");
        }
        session.close().await?;
    }
    Ok(())
}
