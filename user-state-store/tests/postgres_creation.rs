//! Goal: no interleaving with another writer leaves two rows for one id, and each creation gets its own answer.
//! Method: the other writer does what Pekko's plugin does (an insert at revision 1, then an update to 2, each committed by
//! itself), stopped at each point by a row lock or a transaction that the test holds open.

#![cfg(feature = "postgres")]

mod support;

use std::sync::Arc;

use sqlx::{Connection as _, Executor as _, PgConnection};
use support::{Database, Outcome, change, load, put, write};
use tokio::task::JoinSet;
use user_state_store::{
    Change, DurableStateStore as _, PersistenceId, PostgresStore, StoreError, WriteOutcome,
};

const PEKKO_INSERT: &str = "INSERT INTO durable_state VALUES
    (1, '', 'a', 1, transaction_timestamp(), 31, 'm', 'theirs', NULL)";

const PEKKO_UPDATE: &str =
    "UPDATE durable_state SET revision = 2, db_timestamp = transaction_timestamp()
    WHERE persistence_id = 'a' AND revision = 1";

/// Stops those who wait for the test, until this transaction ends.
const HOLD: &str = "BEGIN; SELECT pg_advisory_xact_lock(1)";

/// Waits until this many sessions of the store wait for a lock, or have met one: a wait is over soon, and then the
/// transaction is rolled back, or the rows are looked for that are held.
async fn until_waiting(observer: &mut PgConnection, count: i64) -> Result<(), sqlx::Error> {
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND (wait_event_type = 'Lock'
               OR application_name = 'user-state'
                 AND (query = 'ROLLBACK' OR query LIKE '%SKIP LOCKED%'))",
        )
        .fetch_one(&mut *observer)
        .await?;
        if waiting >= count {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

async fn rows_of(observer: &mut PgConnection, id: &str) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT revision FROM durable_state WHERE persistence_id = $1 ORDER BY 1")
        .bind(id)
        .fetch_all(observer)
        .await
}

/// A creation of `a` beside neighbours, on its way in a task of its own.
fn creating(store: &Arc<PostgresStore>) -> JoinSet<Vec<WriteOutcome>> {
    let store = store.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let batch = vec![
            put("0-before", 0, 1, b"ours"),
            put("a", 0, 1, b"ours"),
            put("b-behind", 0, 1, b"ours"),
        ];
        write(&*store, batch).await
    });
    task
}

async fn only(mut task: JoinSet<Vec<WriteOutcome>>) -> Result<Vec<WriteOutcome>, String> {
    match task.join_next().await {
        Some(Ok(outcomes)) => Ok(outcomes),
        other => Err(format!("{other:?}")),
    }
}

fn conflict_in_the_middle(outcomes: &[WriteOutcome]) -> bool {
    matches!(
        outcomes,
        [
            WriteOutcome::Applied(Some(_)),
            WriteOutcome::Conflict,
            WriteOutcome::Applied(Some(_))
        ]
    )
}

#[tokio::test]
async fn a_creation_beside_an_uncommitted_insert_conflicts_when_that_commits() -> Outcome {
    let database = Database::migrated().await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let mut observer = database.connect().await?;
    let mut pekko = database.connect().await?;
    pekko.execute("BEGIN").await?;
    pekko.execute(PEKKO_INSERT).await?;
    let task = creating(&store);
    until_waiting(&mut observer, 1).await?;
    pekko.execute("COMMIT").await?;
    assert!(conflict_in_the_middle(&only(task).await?));
    assert_eq!(rows_of(&mut observer, "a").await?, [1]);
    Ok(())
}

#[tokio::test]
async fn a_creation_beside_an_uncommitted_insert_is_applied_when_that_rolls_back() -> Outcome {
    let database = Database::migrated().await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let mut observer = database.connect().await?;
    let mut pekko = database.connect().await?;
    pekko.execute("BEGIN").await?;
    pekko.execute(PEKKO_INSERT).await?;
    let task = creating(&store);
    until_waiting(&mut observer, 1).await?;
    pekko.execute("ROLLBACK").await?;
    let outcomes = only(task).await?;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, WriteOutcome::Applied(Some(_))))
    );
    assert_eq!(rows_of(&mut observer, "a").await?, [1]);
    Ok(())
}

/// The case that `NOT EXISTS` alone gets wrong: the store's snapshot sees no row, its insert then waits, and meanwhile
/// the other writer's row has moved on to revision 2.
#[tokio::test]
async fn a_creation_whose_id_reaches_revision_2_meanwhile_leaves_no_second_row() -> Outcome {
    let database = Database::migrated().await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let mut observer = database.connect().await?;
    let mut pekko = database.connect().await?;
    let mut blocker = database.connect().await?;
    // Holds the store's statement at its first id, after its snapshot was taken.
    database.stop_at("0-before").await?;
    blocker.execute(HOLD).await?;
    let task = creating(&store);
    until_waiting(&mut observer, 1).await?;
    pekko.execute(PEKKO_INSERT).await?;
    pekko.execute(PEKKO_UPDATE).await?;
    blocker.execute("ROLLBACK").await?;
    assert!(conflict_in_the_middle(&only(task).await?));
    assert_eq!(rows_of(&mut observer, "a").await?, [2]);
    Ok(())
}

#[tokio::test]
async fn a_creation_during_an_uncommitted_update_to_revision_2_leaves_no_second_row() -> Outcome {
    let database = Database::migrated().await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let mut observer = database.connect().await?;
    let mut pekko = database.connect().await?;
    let mut blocker = database.connect().await?;
    database.stop_at("0-before").await?;
    blocker.execute(HOLD).await?;
    let task = creating(&store);
    until_waiting(&mut observer, 1).await?;
    pekko.execute(PEKKO_INSERT).await?;
    pekko.execute("BEGIN").await?;
    pekko.execute(PEKKO_UPDATE).await?;
    blocker.execute("ROLLBACK").await?;
    // Now it waits for the row that is being updated.
    until_waiting(&mut observer, 1).await?;
    pekko.execute("COMMIT").await?;
    assert!(conflict_in_the_middle(&only(task).await?));
    assert_eq!(rows_of(&mut observer, "a").await?, [2]);
    Ok(())
}

#[tokio::test]
async fn racing_creators_of_both_kinds_leave_one_row_each_and_one_winner() -> Outcome {
    let database = Database::migrated().await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let ids: Vec<String> = (0..60).map(|index| format!("id-{index:02}")).collect();
    let mut ours = JoinSet::new();
    for writer in 0..4_usize {
        let (store, ids) = (store.clone(), ids.clone());
        ours.spawn(async move {
            let mut applied = 0;
            for chunk in ids.chunks(7 + writer) {
                let batch = chunk.iter().map(|id| put(id, 0, 1, b"ours")).collect();
                for outcome in write(&*store, batch).await {
                    match outcome {
                        WriteOutcome::Applied(_) => applied += 1,
                        WriteOutcome::Conflict => {}
                        other => return Err(format!("{other:?}")),
                    }
                }
            }
            Ok(applied)
        });
    }
    let mut theirs = JoinSet::new();
    for actor in 0..3 {
        let (mut pekko, ids) = (database.connect().await?, ids.clone());
        theirs.spawn(async move {
            let mut applied = 0;
            // Each id has one actor: two of them would make a second row without us.
            for id in ids.iter().skip(actor).step_by(3) {
                let inserting = sqlx::query(
                    "INSERT INTO durable_state VALUES
                     (1, '', $1, 1, transaction_timestamp(), 31, 'm', 'theirs', NULL)",
                );
                match inserting.bind(id).execute(&mut pekko).await {
                    Ok(_) => applied += 1,
                    Err(sqlx::Error::Database(error)) if error.is_unique_violation() => continue,
                    Err(error) => return Err(error.to_string()),
                }
                for revision in 1..4_i64 {
                    let updating = sqlx::query(
                        "UPDATE durable_state SET revision = $2 + 1
                         WHERE persistence_id = $1 AND revision = $2",
                    );
                    let updating = updating.bind(id).bind(revision).execute(&mut pekko);
                    updating.await.map_err(|error| error.to_string())?;
                }
            }
            Ok(applied)
        });
    }
    let mut created = 0;
    for outcome in ours
        .join_all()
        .await
        .into_iter()
        .chain(theirs.join_all().await)
    {
        created += outcome?;
    }
    assert_eq!(created, ids.len(), "one winner each");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM durable_state")
        .fetch_one(&mut database.connect().await?)
        .await?;
    assert_eq!(usize::try_from(rows)?, ids.len(), "one row each");
    Ok(())
}

#[tokio::test]
async fn an_existing_row_at_any_revision_conflicts_with_a_creation() -> Outcome {
    let database = Database::migrated().await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (1, '', 'a', 5, now(), 31, 'm', 'x', NULL),
             (1, '', 'b', 3, now(), 0, '', '', NULL)",
        )
        .await?;
    let outcomes = write(
        &store,
        vec![put("a", 0, 1, b"x"), change("b", 0, Change::Mark)],
    )
    .await;
    assert_eq!(outcomes, [WriteOutcome::Conflict, WriteOutcome::Conflict]);
    Ok(())
}

#[tokio::test]
async fn an_operators_unique_index_works_and_its_refusals_are_conflicts() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute("CREATE UNIQUE INDEX one_row ON durable_state (persistence_id)")
        .await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let mut observer = database.connect().await?;
    let mut pekko = database.connect().await?;
    pekko.execute("BEGIN").await?;
    // Pekko 1.2.0's fallback: a first row above revision 1, which the primary key alone would let pass.
    pekko
        .execute(
            "INSERT INTO durable_state VALUES
             (1, '', 'a', 7, transaction_timestamp(), 31, 'm', 'theirs', NULL)",
        )
        .await?;
    let task = creating(&store);
    until_waiting(&mut observer, 1).await?;
    pekko.execute("COMMIT").await?;
    assert!(conflict_in_the_middle(&only(task).await?));
    assert_eq!(rows_of(&mut observer, "a").await?, [7]);
    Ok(())
}

#[tokio::test]
async fn a_second_row_in_the_way_of_an_update_is_a_conflict_of_that_write_alone() -> Outcome {
    let database = Database::migrated().await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let ids: Vec<String> = (0..9).map(|index| format!("id-{index}")).collect();
    let created = write(&store, ids.iter().map(|id| put(id, 0, 1, b"x")).collect()).await;
    assert!(
        created
            .iter()
            .all(|outcome| matches!(outcome, WriteOutcome::Applied(_)))
    );
    database
        .execute("INSERT INTO durable_state VALUES (1, '', 'id-4', 2, now(), 31, 'm', 'x', NULL)")
        .await?;
    let outcomes = write(&store, ids.iter().map(|id| put(id, 1, 2, b"y")).collect()).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        if index == 4 {
            assert_eq!(*outcome, WriteOutcome::Conflict);
        } else {
            assert!(matches!(outcome, WriteOutcome::Applied(_)), "{index}");
        }
    }
    assert!(matches!(
        load(&store, "id-4").await,
        Err(StoreError::DuplicateRows { .. })
    ));
    Ok(())
}

#[tokio::test]
async fn deadlocks_of_opposite_writers_are_retried() -> Outcome {
    let database = Database::migrated().await?;
    let store = Arc::new(PostgresStore::open(&database.url().parse()?).await?);
    let created = write(&*store, vec![put("a", 0, 1, b"x"), put("b", 0, 1, b"x")]).await;
    assert!(
        created
            .iter()
            .all(|outcome| matches!(outcome, WriteOutcome::Applied(_)))
    );
    let mut observer = database.connect().await?;
    let mut other = database.connect().await?;
    // The other side is patient, so that the server finds the store's session first.
    other.execute("SET deadlock_timeout = '1min'").await?;
    other.execute("BEGIN").await?;
    other
        .execute("UPDATE durable_state SET tags = NULL WHERE persistence_id = 'b'")
        .await?;
    let mut task = JoinSet::new();
    let writing = store.clone();
    task.spawn(
        async move { write(&*writing, vec![put("a", 1, 2, b"x"), put("b", 1, 2, b"x")]).await },
    );
    until_waiting(&mut observer, 1).await?;
    other
        .execute("UPDATE durable_state SET tags = NULL WHERE persistence_id = 'a'")
        .await?;
    other.execute("COMMIT").await?;
    let outcomes = only(task).await?;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, WriteOutcome::Applied(_))),
        "{outcomes:?}"
    );
    let ids = [PersistenceId::unique("a")?, PersistenceId::unique("b")?];
    for row in store.load(&ids).await? {
        assert_eq!(row?.ok_or("no row")?.revision.get(), 2);
    }
    observer.close().await?;
    Ok(())
}
