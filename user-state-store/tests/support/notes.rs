//! A table of companions and one of epochs, and how writes carry them.

use std::collections::BTreeSet;

use sqlx::{Executor as _, PgConnection};
use user_state_store::{
    Companion, CompanionColumn, CompanionKind, CompanionSql, DurableStateStore, Guard, GuardKind,
    SliceRange, Write, WriteBatch, WriteOutcome,
};

use super::Database;

/// Adds a note; whatever is wrong with it, the server finds out.
pub(crate) static NOTE: CompanionKind = CompanionKind::new(
    &[
        CompanionColumn::text("name"),
        CompanionColumn::text("token"),
    ],
    CompanionSql::new(
        "INSERT INTO notes (persistence_id, name, token, revision)
         SELECT persistence_id, name, token::uuid, revision FROM companion",
    ),
    CompanionSql::new(""),
);

/// Removes a note, which has to be there.
pub(crate) static REMOVED: CompanionKind = CompanionKind::new(
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

/// A kind whose table is not there.
pub(crate) static NOWHERE: CompanionKind = CompanionKind::new(
    &[CompanionColumn::text("name")],
    CompanionSql::new("INSERT INTO nowhere SELECT persistence_id, name FROM companion"),
    CompanionSql::new(""),
);

/// The right to a range of eight slices. Each question takes a number of sequence `asked`.
pub(crate) static LEASES: GuardKind = GuardKind::new(
    "SELECT lost
     FROM (
       SELECT
         array_agg(ordinal ORDER BY ordinal) AS ordinals,
         array_agg(first_slice / 8 ORDER BY ordinal) AS ranges,
         array_agg(epoch ORDER BY ordinal) AS epochs
       FROM guard
     ) AS g, lost_leases(g.ordinals, g.ranges, g.epochs) AS lost",
    "",
);

const TABLES: &str = "\
CREATE TABLE kinds (name varchar(255) PRIMARY KEY);
CREATE TABLE notes (
  persistence_id varchar(255) NOT NULL,
  name varchar(12) NOT NULL CHECK (name <> 'checked'),
  token uuid,
  revision bigint NOT NULL,
  PRIMARY KEY (persistence_id, name)
);
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.name = 'raised' THEN RAISE EXCEPTION 'no'; END IF;
  IF NEW.name = 'coded' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'ZZ001'; END IF;
  IF NEW.name = 'foreign' THEN
    RAISE foreign_key_violation;
  END IF;
  IF NEW.name = 'null' THEN NEW.name := NULL; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER judge BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION judge();
CREATE TABLE leases (range_id int PRIMARY KEY, epoch bigint NOT NULL);
INSERT INTO leases SELECT n, 1 FROM generate_series(0, 127) AS n;
CREATE SEQUENCE asked;
CREATE FUNCTION lost_leases(ordinals bigint[], ranges int[], epochs bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM nextval('asked');
  PERFORM pg_advisory_xact_lock_shared(7301, r) FROM (SELECT unnest(ranges) AS r ORDER BY 1) AS o;
  RETURN QUERY
    SELECT g.ordinal
    FROM unnest(ordinals, ranges, epochs) AS g (ordinal, range_id, epoch)
    WHERE NOT EXISTS (SELECT FROM leases AS l WHERE l.range_id = g.range_id AND l.epoch = g.epoch);
END $$;";

impl Database {
    /// A database with the tables of states, companions and epochs.
    pub(crate) async fn with_notes() -> Result<Self, Box<dyn std::error::Error>> {
        let database = Self::migrated().await?;
        database.execute(TABLES).await?;
        Ok(database)
    }

    /// All notes, as `id/name@revision`.
    pub(crate) async fn notes(&self) -> Result<BTreeSet<String>, sqlx::Error> {
        let mut connection = self.connect().await?;
        let notes: Vec<String> = sqlx::query_scalar(
            "SELECT persistence_id || '/' || name || '@' || revision FROM notes",
        )
        .fetch_all(&mut connection)
        .await?;
        Ok(notes.into_iter().collect())
    }
}

/// The write with a note of this name.
pub(crate) fn noting(write: Write, name: &str) -> Write {
    carrying(write, &NOTE, [name, "00000000-0000-0000-0000-000000000001"])
}

/// The write that takes away the note of this name.
pub(crate) fn removing(write: Write, name: &str) -> Write {
    carrying(write, &REMOVED, [name])
}

pub(crate) fn carrying<const N: usize>(
    write: Write,
    kind: &'static CompanionKind,
    texts: [&str; N],
) -> Write {
    write.companions([Companion::new(kind, texts.map(Into::into)).unwrap()])
}

/// The range of a write.
pub(crate) fn range(write: &Write) -> i32 {
    i32::from(write.persistence_id.slice().get() / 8)
}

/// A batch under guards of all ranges with this epoch.
pub(crate) fn guarded(writes: Vec<Write>, epoch: i64) -> WriteBatch {
    let ranges = SliceRange::split(128).unwrap().into_iter();
    let guards = ranges.map(|slices| Guard { slices, epoch });
    let batch = WriteBatch::new(writes).unwrap();
    batch.guarded(&LEASES, guards).unwrap()
}

/// Writes under guards of all ranges with this epoch.
pub(crate) async fn write_guarded(
    store: &dyn DurableStateStore,
    writes: Vec<Write>,
    epoch: i64,
) -> Vec<WriteOutcome> {
    store.write(&guarded(writes, epoch)).await
}

/// Somebody else takes a range: waits for the statements that hold it, and raises its epoch. Ends with the transaction.
pub(crate) async fn claim(connection: &mut PgConnection, range: i32) -> Result<(), sqlx::Error> {
    connection
        .execute(&*format!("SELECT pg_advisory_xact_lock(7301, {range})"))
        .await?;
    connection
        .execute(&*format!(
            "UPDATE leases SET epoch = epoch + 1 WHERE range_id = {range}"
        ))
        .await?;
    Ok(())
}
