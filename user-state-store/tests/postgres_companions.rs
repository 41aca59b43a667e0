//! Goal: companions share the outcome of their write, whatever the server says of either: one that is refused harms no
//! neighbour, one of a held row is stored when the row is written, and one of a lost write is there if the write is.
//! Method: a table of notes whose constraints and triggers refuse in every way, and transactions of the test's own that hold
//! rows of both tables while batches are written.

#![cfg(feature = "postgres")]
#![expect(clippy::indexing_slicing, reason = "a wrong constant ends the test")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor as _;
use support::notes::{NOTE, NOWHERE, carrying, noting, removing};
use support::proxy::Proxy;
use support::{Database, Outcome, change, holding, load, put, write, writing};
use user_state_store::{
    Backend as _, Cause, Change, ConnectOptions, Fence, PostgresStore, Resolution, StoreError,
    UnresolvedWrite, Write, WriteBatch, WriteOutcome, Writers,
};

type TestResult<T> = Result<T, Box<dyn std::error::Error>>;

async fn open(database: &Database) -> TestResult<Arc<PostgresStore>> {
    Ok(Arc::new(
        PostgresStore::open(&database.url().parse()?).await?,
    ))
}

fn is_applied(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Applied(_))
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("user-{n:03}")).collect()
}

/// Makes a write of an entity.
type Form = fn(&str) -> Write;

/// A write of each form, by the revision that it leaves.
const FORMS: [(Form, i64); 3] = [
    (|id| put(id, 0, 1, b"{}"), 1),
    (|id| put(id, 1, 2, b"{}"), 2),
    (|id| change(id, 2, Change::Erase), 0),
];

/// Writes 20 rows in every form, of which one carries this companion, and holds that it alone is refused with this SQLSTATE.
async fn assert_refused(database: &Database, name: &str, token: &str, code: &str) -> Outcome {
    let store = open(database).await?;
    let ids = ids(20);
    for (form, revision) in FORMS {
        let writes = ids.iter().enumerate().map(|(n, id)| match n {
            11 => carrying(noting(form(id), "good"), &NOTE, [name, token]),
            _ if n % 2 == 0 => noting(form(id), "good"),
            _ => form(id),
        });
        let before = load(&*store, &ids[11]).await?;
        let outcomes = write(&*store, writes.collect()).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                WriteOutcome::NotApplied(
                    StoreError::Refused(error)
                    | StoreError::Misconfigured(Cause::Database(error))
                    | StoreError::Unavailable(Cause::Database(error)),
                ) if n == 11 => assert_eq!(&*error.code, code, "{name}"),
                outcome => assert!(n != 11 && is_applied(outcome), "{name} {n}: {outcome:?}"),
            }
        }
        assert_eq!(load(&*store, &ids[11]).await?, before, "{name}");
        let good = ids.iter().step_by(2);
        let good = good.map(|id| format!("{id}/good@{revision}"));
        assert_eq!(database.notes().await?, good.collect(), "{name}");
        database.execute("DELETE FROM notes").await?;
        assert!(is_applied(&write(&*store, vec![form(&ids[11])]).await[0]));
    }
    Ok(())
}

#[tokio::test]
async fn however_the_server_refuses_a_companion_its_write_alone_is_refused() -> Outcome {
    let database = Database::with_notes().await?;
    let token = "00000000-0000-0000-0000-000000000001";
    for (name, token, code) in [
        ("cast", "no token", "22P02"),
        ("longer than it may be", token, "22001"),
        ("nul\0", token, "22021"),
        ("null", token, "23502"),
        ("foreign", token, "23503"),
        ("good", token, "23505"),
        ("checked", token, "23514"),
        ("raised", token, "P0001"),
        ("coded", token, "ZZ001"),
    ] {
        assert_refused(&database, name, token, code).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_constraint_that_is_checked_at_the_commit_refuses_one_write() -> Outcome {
    let database = Database::with_notes().await?;
    database
        .execute(
            "INSERT INTO kinds VALUES ('good');
             ALTER TABLE notes ADD FOREIGN KEY (name) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED",
        )
        .await?;
    assert_refused(
        &database,
        "unknown",
        "00000000-0000-0000-0000-000000000001",
        "23503",
    )
    .await
}

#[tokio::test]
async fn companions_without_a_table_harm_nobody_else() -> Outcome {
    let database = Database::with_notes().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    // Each refusal opens new sessions, which takes long on a busy machine.
    options.settings.statement_timeout = Duration::from_secs(40);
    let store = PostgresStore::open(&options).await?;
    let ids = ids(12);
    for (form, _) in FORMS {
        let writes = ids.iter().enumerate().map(|(n, id)| match n {
            3 | 9 => carrying(form(id), &NOWHERE, ["a"]),
            _ => form(id),
        });
        let outcomes = write(&store, writes.collect()).await;
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                WriteOutcome::NotApplied(StoreError::Misconfigured(Cause::Database(error))) => {
                    assert!(matches!(n, 3 | 9), "{n}: {outcome:?}");
                    assert_eq!(&*error.code, "42P01");
                }
                outcome => assert!(is_applied(outcome), "{n}: {outcome:?}"),
            }
        }
        write(&store, vec![form(&ids[3]), form(&ids[9])]).await;
    }
    Ok(())
}

#[tokio::test]
async fn when_every_companion_is_refused_the_rest_is_not_sent() -> Outcome {
    let database = Database::with_notes().await?;
    database.execute("CREATE SEQUENCE tries").await?;
    database
        .execute(
            "CREATE OR REPLACE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'no'; END $$",
        )
        .await?;
    let store = open(&database).await?;
    let writes = ids(300)
        .iter()
        .map(|id| noting(put(id, 0, 1, b"{}"), "a"))
        .collect();
    for outcome in write(&*store, writes).await {
        assert!(
            matches!(&outcome, WriteOutcome::NotApplied(StoreError::Refused(error)) if &*error.code == "P0001"),
            "{outcome:?}"
        );
    }
    let mut connection = database.connect().await?;
    let tries: i64 = sqlx::query_scalar("SELECT last_value FROM tries")
        .fetch_one(&mut connection)
        .await?;
    assert!(tries < 40, "{tries}");
    Ok(())
}

async fn created(store: &PostgresStore, ids: &[String], name: &str) -> Outcome {
    let writes = ids.iter().map(|id| noting(put(id, 0, 1, b"{}"), name));
    let outcomes = write(store, writes.collect()).await;
    assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
    Ok(())
}

#[tokio::test]
async fn companions_of_held_rows_are_stored_when_these_are_written() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let ids = ids(60);
    created(&store, &ids, "made").await?;
    let held = ["user-003", "user-030", "user-031", "user-059"];
    let mut holder = holding(
        &database,
        "SELECT FROM durable_state
         WHERE persistence_id IN ('user-003', 'user-030', 'user-031') FOR UPDATE;
         UPDATE durable_state SET revision = 9 WHERE persistence_id = 'user-059'",
    )
    .await?;
    let writes = ids.iter().enumerate().map(|(n, id)| {
        let write = match n % 5 {
            1 => change(id, 1, Change::Erase),
            _ => put(id, 1, 2, b"{}"),
        };
        removing(noting(write, "late"), "made")
    });
    let (mut outcomes, _task) = writing(&store, WriteBatch::new(writes.collect())?);
    for _ in 0..56 {
        let settled = outcomes.recv().await.ok_or("more are open")?;
        assert!(is_applied(&settled.outcome), "{settled:?}");
    }
    let notes = database.notes().await?;
    assert_eq!(notes.len(), 60);
    for id in held {
        assert!(notes.contains(&format!("{id}/made@1")), "{id}");
    }
    holder.execute("COMMIT").await?;
    let mut conflicts = 0;
    while let Some(settled) = outcomes.recv().await {
        match settled.outcome {
            WriteOutcome::Conflict => {
                assert_eq!(settled.index, 59);
                conflicts += 1;
            }
            outcome => assert!(is_applied(&outcome), "{}: {outcome:?}", settled.index),
        }
    }
    assert_eq!(conflicts, 1);
    let expected = ids.iter().enumerate().map(|(n, id)| match n {
        59 => format!("{id}/made@1"),
        n if n % 5 == 1 => format!("{id}/late@0"),
        _ => format!("{id}/late@2"),
    });
    assert_eq!(database.notes().await?, expected.collect::<BTreeSet<_>>());
    Ok(())
}

#[tokio::test]
async fn a_companion_that_waits_for_somebody_else_keeps_its_write_waiting_and_no_other() -> Outcome
{
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let ids = ids(30);
    created(&store, &ids, "made").await?;
    // A note of the same key that is just being made, and a token that is just being taken.
    let mut holder = holding(
        &database,
        "INSERT INTO notes VALUES ('user-007', 'late', NULL, 0);
         DELETE FROM notes WHERE persistence_id = 'user-019'",
    )
    .await?;
    let writes = |revision: i64| -> Vec<Write> {
        let writes = ids.iter().map(|id| {
            let write = put(id, revision, revision + 1, b"{}");
            match revision {
                1 => removing(noting(write, "late"), "made"),
                _ => noting(write, "made"),
            }
        });
        writes.collect()
    };
    let (mut outcomes, _task) = writing(&store, WriteBatch::new(writes(1))?);
    for _ in 0..28 {
        let settled = outcomes.recv().await.ok_or("more are open")?;
        assert!(is_applied(&settled.outcome), "{settled:?}");
        assert!(!matches!(settled.index, 7 | 19), "{settled:?}");
    }
    holder.execute("ROLLBACK").await?;
    for _ in 0..2 {
        let settled = outcomes.recv().await.ok_or("more are open")?;
        assert!(is_applied(&settled.outcome), "{settled:?}");
    }
    let late = ids.iter().map(|id| format!("{id}/late@2"));
    assert_eq!(database.notes().await?, late.collect::<BTreeSet<_>>());
    Ok(())
}

#[tokio::test]
async fn a_token_that_somebody_else_takes_meanwhile_makes_its_write_a_conflict() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let ids = ids(3);
    created(&store, &ids, "made").await?;
    // The row of the second is changed as well, and stays as its write expects it.
    let mut holder = holding(
        &database,
        "DELETE FROM notes WHERE persistence_id = 'user-000';
         UPDATE durable_state SET tags = '{x}' WHERE persistence_id = 'user-001'",
    )
    .await?;
    let writes = ids.iter().map(|id| removing(put(id, 1, 2, b"{}"), "made"));
    let (mut outcomes, _task) = writing(&store, WriteBatch::new(writes.collect())?);
    let mut observer = database.connect().await?;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    loop {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut observer).await?;
        if waiting > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    holder.execute("COMMIT").await?;
    let mut conflicts = Vec::new();
    while let Some(settled) = outcomes.recv().await {
        match settled.outcome {
            WriteOutcome::Conflict => conflicts.push(settled.index),
            outcome => assert!(is_applied(&outcome), "{}: {outcome:?}", settled.index),
        }
    }
    assert_eq!(conflicts, [0]);
    assert!(database.notes().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_gone_is_a_conflict_while_held_rows_are_left_out() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let ids = ids(12);
    created(&store, &ids, "made").await?;
    let mut holder = holding(
        &database,
        "SELECT FROM durable_state WHERE persistence_id = 'user-000' FOR UPDATE",
    )
    .await?;
    let held = vec![put("user-000", 1, 2, b"{}"), put("user-001", 1, 2, b"{}")];
    let (mut first, _task) = writing(&store, WriteBatch::new(held)?);
    let settled = first.recv().await.ok_or("one of them is free")?;
    assert!(is_applied(&settled.outcome), "{settled:?}");
    // For a while the store expects further held rows, and waits for none.
    database
        .execute("DELETE FROM notes WHERE persistence_id = 'user-007'")
        .await?;
    let writes = ids.iter().skip(2);
    let writes = writes.map(|id| removing(put(id, 1, 2, b"{}"), "made"));
    let (mut second, _task) = writing(&store, WriteBatch::new(writes.collect())?);
    while let Some(settled) = second.recv().await {
        match settled.index {
            5 => assert_eq!(settled.outcome, WriteOutcome::Conflict),
            index => assert!(is_applied(&settled.outcome), "{index}: {settled:?}"),
        }
    }
    holder.execute("COMMIT").await?;
    let settled = first.recv().await.ok_or("the other one is free now")?;
    assert!(is_applied(&settled.outcome), "{settled:?}");
    Ok(())
}

#[tokio::test]
async fn companions_of_a_lost_write_are_there_if_and_only_if_its_row_is() -> Outcome {
    let database = Database::with_notes().await?;
    let proxy = Proxy::to(database.address()?).await?;
    let options = ConnectOptions::parse(&database.url_at(proxy.address()))?;
    let store = Arc::new(PostgresStore::open(&options).await?);
    created(&store, &ids(1), "made").await?;
    database.stop_at("user-000").await?;
    let mut holder = database.connect().await?;
    holder.execute("SELECT pg_advisory_lock(1)").await?;
    let lost = removing(noting(put("user-000", 1, 2, b"{}"), "late"), "made");
    let (mut outcomes, _task) = writing(&store, WriteBatch::new(vec![lost.clone()])?);
    let mut observer = database.connect().await?;
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while sqlx::query_scalar::<_, i64>(waiting)
        .fetch_one(&mut observer)
        .await?
        == 0
    {
        tokio::task::yield_now().await;
    }
    proxy.cut();
    let settled = outcomes.recv().await.ok_or("it has an outcome")?;
    let WriteOutcome::Unknown(unknown) = settled.outcome else {
        return Err(format!("{settled:?}").into());
    };
    assert_eq!(
        database.notes().await?,
        BTreeSet::from(["user-000/made@1".to_owned()])
    );
    holder.execute("SELECT pg_advisory_unlock(1)").await?;
    let session = unknown.session.ok_or("the session is known")?;
    while store.fence(&session).await == Fence::Open {
        tokio::task::yield_now().await;
    }
    // Whichever of the two was faster: both or neither, and then both.
    let row = load(&*store, "user-000").await?.ok_or("it was made")?;
    let both = BTreeSet::from(["user-000/late@2".to_owned()]);
    let neither = BTreeSet::from(["user-000/made@1".to_owned()]);
    let expected = if row.revision.get() == 2 {
        &both
    } else {
        &neither
    };
    assert_eq!(database.notes().await?, *expected);
    let mut unresolved = UnresolvedWrite::new(lost, &unknown);
    let resolution = unresolved.attempt(&*store, Writers::Sole).await;
    assert!(
        matches!(resolution, Resolution::Applied(_)),
        "{resolution:?}"
    );
    assert_eq!(database.notes().await?, both);
    Ok(())
}
