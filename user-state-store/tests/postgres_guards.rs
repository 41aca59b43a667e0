//! Goal: nothing is written under a guard that does not hold, at whatever moment it is lost, and the gate costs one question
//! for each statement.
//! Method: leases in a table, claimed by the test as another node would do it, while batches wait for locks that the test
//! holds; a sequence and a proxy count.

#![cfg(feature = "postgres")]
#![expect(clippy::indexing_slicing, reason = "a wrong constant ends the test")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::{Executor as _, PgConnection};
use support::notes::{LEASES, NOTE, carrying, claim, guarded, noting, range, write_guarded};
use support::proxy::Proxy;
use support::{Database, Outcome, change, load, put, write, writing};
use tokio::task::JoinSet;
use user_state_store::{
    Change, ConnectOptions, DurableStateStore, Guard, PostgresStore, Settled, SliceRange, Write,
    WriteBatch, WriteOutcome,
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

fn puts(count: usize, expected: i64) -> Vec<Write> {
    (0..count)
        .map(|n| put(&format!("user-{n:03}"), expected, expected + 1, b"{}"))
        .collect()
}

/// How often the gate was asked since the last time.
async fn asked(database: &Database) -> TestResult<i64> {
    let mut connection = database.connect().await?;
    let asked: i64 = sqlx::query_scalar("SELECT nextval('asked') - 1")
        .fetch_one(&mut connection)
        .await?;
    connection.execute("ALTER SEQUENCE asked RESTART").await?;
    Ok(asked)
}

async fn lose(database: &Database, range: i32) -> Result<(), sqlx::Error> {
    database
        .execute(&format!(
            "UPDATE leases SET epoch = epoch + 1 WHERE range_id = {range}"
        ))
        .await
}

#[tokio::test]
async fn what_a_batch_carries_costs_no_round_trip_and_one_question() -> Outcome {
    let database = Database::with_notes().await?;
    let proxy = Proxy::to(database.address()?).await?;
    let options = ConnectOptions::parse(&database.url_at(proxy.address()))?;
    let store = PostgresStore::open(&options).await?;
    let mut requests = Vec::new();
    // Statements are prepared in the first two rounds.
    for carries in [false, true, false, true] {
        database.execute("DELETE FROM notes").await?;
        let create = puts(20, 0);
        let update = puts(20, 1);
        let erase = create
            .iter()
            .map(|write| change(write.persistence_id.as_str(), 2, Change::Erase))
            .collect();
        for writes in [create, update, erase] {
            let batch = if carries {
                let name = writes[0].new_revision().to_string();
                let noting = writes.into_iter().map(|write| noting(write, &name));
                guarded(noting.collect(), 1)
            } else {
                WriteBatch::new(writes)?
            };
            let before = proxy.requests();
            let outcomes = store.write(&batch).await;
            assert!(outcomes.iter().all(is_applied), "{:?}", outcomes[0]);
            requests.push(proxy.requests() - before);
            assert_eq!(asked(&database).await?, i64::from(carries));
        }
    }
    assert_eq!(requests[6..9], [4, 1, 1], "{requests:?}");
    assert_eq!(requests[9..], [4, 1, 1], "{requests:?}");
    assert_eq!(database.notes().await?.len(), 60);
    Ok(())
}

#[tokio::test]
async fn a_fenced_statement_is_sent_once_more_without_its_lost_ranges() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let writes = puts(400, 0);
    let lost = [range(&writes[7]), range(&writes[200])];
    for range in lost {
        lose(&database, range).await?;
    }
    for expected in [0, 1] {
        let writes = puts(400, expected);
        let outcomes = write_guarded(&*store, writes.clone(), 1).await;
        for (write, outcome) in writes.iter().zip(&outcomes) {
            if lost.contains(&range(write)) {
                assert_eq!(*outcome, WriteOutcome::Fenced);
            } else {
                assert!(is_applied(outcome), "{outcome:?}");
            }
        }
        assert_eq!(asked(&database).await?, 2);
    }
    Ok(())
}

#[tokio::test]
async fn only_the_guards_of_its_writes_count_for_a_batch() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let writes = puts(3, 0);
    for range_id in 0..128 {
        if !writes.iter().any(|write| range(write) == range_id) {
            lose(&database, range_id).await?;
        }
    }
    assert!(
        write_guarded(&*store, writes, 1)
            .await
            .iter()
            .all(is_applied)
    );
    assert_eq!(asked(&database).await?, 1);
    Ok(())
}

/// Waits until somebody waits for an advisory lock, of this class if one is given.
async fn until_waiting(observer: &mut PgConnection, class: i32) -> Outcome {
    let waiting = format!(
        "SELECT count(*) FROM pg_locks
         WHERE locktype = 'advisory' AND classid = {class} AND NOT granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    while sqlx::query_scalar::<_, i64>(&waiting)
        .fetch_one(&mut *observer)
        .await?
        == 0
    {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_range_that_is_lost_while_its_rows_are_held_fences_them() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let writes = puts(40, 0);
    assert!(write(&*store, writes.clone()).await.iter().all(is_applied));
    let (lost, kept) = (&writes[3], &writes[30]);
    assert_ne!(range(lost), range(kept));
    let mut holder = database.connect().await?;
    holder.execute("BEGIN").await?;
    holder
        .execute(
            "SELECT FROM durable_state WHERE persistence_id IN ('user-003', 'user-030') FOR UPDATE",
        )
        .await?;
    let updates = puts(40, 1).into_iter().map(|write| noting(write, "a"));
    let (mut outcomes, _task) = writing(&store, guarded(updates.collect(), 1));
    for _ in 0..38 {
        let settled = outcomes.recv().await.ok_or("more are open")?;
        assert!(is_applied(&settled.outcome), "{settled:?}");
    }
    lose(&database, range(lost)).await?;
    holder.execute("COMMIT").await?;
    let mut rest = BTreeMap::new();
    while let Some(settled) = outcomes.recv().await {
        rest.insert(settled.index, settled.outcome);
    }
    assert_eq!(rest.len(), 2);
    assert_eq!(rest[&3], WriteOutcome::Fenced);
    assert!(is_applied(&rest[&30]), "{rest:?}");
    assert_eq!(
        load(&*store, "user-003")
            .await?
            .map(|row| row.revision.get()),
        Some(1)
    );
    let notes = database.notes().await?;
    assert_eq!((notes.len(), notes.contains("user-003/a@2")), (39, false));
    // Whoever has the range now finds nothing held.
    let outcomes = write_guarded(&*store, vec![put("user-003", 1, 2, b"{}")], 2).await;
    assert!(is_applied(&outcomes[0]));
    Ok(())
}

#[tokio::test]
async fn a_statement_that_waits_for_a_claim_is_fenced_if_the_claim_commits() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let mut observer = database.connect().await?;
    assert!(write(&*store, puts(20, 0)).await.iter().all(is_applied));
    let claimed = range(&puts(1, 0)[0]);
    for (end, expected) in [("ROLLBACK", 1), ("COMMIT", 2)] {
        let mut claimant = database.connect().await?;
        claimant.execute("BEGIN").await?;
        claim(&mut claimant, claimed).await?;
        let mut writes = puts(20, expected);
        writes.push(put(&format!("new-{end}"), 0, 1, b"{}"));
        let batch = guarded(writes, 1);
        let is_claimed = |settled: &Settled| range(&batch.writes()[settled.index]) == claimed;
        let (mut outcomes, _task) = writing(&store, batch.clone());
        until_waiting(&mut observer, 7301).await?;
        claimant.execute(end).await?;
        while let Some(settled) = outcomes.recv().await {
            if end == "COMMIT" && is_claimed(&settled) {
                assert_eq!(settled.outcome, WriteOutcome::Fenced);
            } else {
                assert!(is_applied(&settled.outcome), "{settled:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn writes_of_other_ranges_do_not_wait_for_a_claim_that_takes_long() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let writes = puts(40, 0);
    assert!(write(&*store, writes.clone()).await.iter().all(is_applied));
    let claimed = range(&writes[7]);
    let of_claimed = writes.iter().filter(|write| range(write) == claimed);
    let of_claimed = of_claimed.count();
    let mut claimant = database.connect().await?;
    claimant.execute("BEGIN").await?;
    claim(&mut claimant, claimed).await?;
    let batch = guarded(puts(40, 1), 1);
    let is_claimed = |settled: &Settled| range(&batch.writes()[settled.index]) == claimed;
    let (mut outcomes, _task) = writing(&store, batch.clone());
    for _ in 0..40 - of_claimed {
        let settled = outcomes.recv().await.ok_or("more are open")?;
        assert!(is_applied(&settled.outcome), "{settled:?}");
        assert!(!is_claimed(&settled), "{settled:?}");
    }
    claimant.execute("COMMIT").await?;
    while let Some(settled) = outcomes.recv().await {
        assert_eq!(settled.outcome, WriteOutcome::Fenced);
        assert!(is_claimed(&settled), "{settled:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_claim_waits_until_what_is_written_under_its_range_is_committed() -> Outcome {
    let database = Database::with_notes().await?;
    let store = open(&database).await?;
    let mut observer = database.connect().await?;
    database.stop_at("user-000").await?;
    for expected in [0, 1] {
        let mut stopper = database.connect().await?;
        stopper.execute("SELECT pg_advisory_lock(1)").await?;
        let write = put("user-000", expected, expected + 1, b"{}");
        let claimed = range(&write);
        let epoch = expected + 1;
        let (mut outcomes, _task) = writing(&store, guarded(vec![write], epoch));
        until_waiting(&mut observer, 0).await?;
        let mut claimant = database.connect().await?;
        let mut claiming = JoinSet::new();
        claiming.spawn(async move {
            claimant.execute("BEGIN").await?;
            claim(&mut claimant, claimed).await?;
            let revision: i64 = sqlx::query_scalar("SELECT revision FROM durable_state")
                .fetch_one(&mut claimant)
                .await?;
            claimant.execute("COMMIT").await?;
            Ok::<_, sqlx::Error>(revision)
        });
        until_waiting(&mut observer, 7301).await?;
        stopper.execute("SELECT pg_advisory_unlock(1)").await?;
        let settled = outcomes.recv().await.ok_or("it has an outcome")?;
        assert!(is_applied(&settled.outcome), "{settled:?}");
        let seen = claiming.join_next().await.ok_or("it was started")???;
        assert_eq!(seen, expected + 1, "the claimant sees what was written");
    }
    Ok(())
}

/// A program that claims a range now and then, and writes all entities under the epochs that it knows.
async fn node(
    database: Arc<Database>,
    store: Arc<PostgresStore>,
    number: i64,
) -> TestResult<(usize, usize)> {
    let mut connection = database.connect().await?;
    let (mut applied, mut fenced) = (0, 0);
    let mut epochs = vec![0_i64; 128];
    for round in 0..40_i64 {
        for n in 0..12 {
            let range = range(&put(&format!("user-{n:03}"), 0, 1, b""));
            if (round + n + number) % 5 == 0 {
                connection.execute("BEGIN").await?;
                claim(&mut connection, range).await?;
                let epoch = sqlx::query_scalar("SELECT epoch FROM leases WHERE range_id = $1");
                epochs[usize::try_from(range)?] =
                    epoch.bind(range).fetch_one(&mut connection).await?;
                connection.execute("COMMIT").await?;
            }
        }
        let mut writes = Vec::new();
        for n in 0..12 {
            let id = format!("user-{n:03}");
            let revision = load(&*store, &id)
                .await?
                .map_or(0, |row| row.revision.get());
            let write = put(&id, revision, revision + 1, b"{}");
            let epoch = epochs[usize::try_from(range(&write))?];
            let token = "00000000-0000-0000-0000-000000000001";
            let name = format!("{}:{epoch}", revision + 1);
            writes.push(carrying(write, &NOTE, [&name, token]));
        }
        let ranges = SliceRange::split(128).ok_or("it divides")?.into_iter();
        let guards = ranges.zip(&epochs).map(|(slices, epoch)| Guard {
            slices,
            epoch: *epoch,
        });
        let batch = WriteBatch::new(writes)?.guarded(&LEASES, guards)?;
        for outcome in store.write(&batch).await {
            match outcome {
                WriteOutcome::Applied(_) => applied += 1,
                WriteOutcome::Fenced => fenced += 1,
                WriteOutcome::Conflict => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
    Ok((applied, fenced))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_revision_is_written_under_an_older_epoch_than_the_one_before() -> Outcome {
    let database = Arc::new(Database::with_notes().await?);
    let mut nodes = JoinSet::new();
    for number in 0..3 {
        let store = open(&database).await?;
        let database = Arc::clone(&database);
        nodes.spawn(async move {
            let ran = node(database, store, number).await;
            ran.map_err(|error| error.to_string())
        });
    }
    let (mut applied, mut fenced) = (0, 0);
    while let Some(ran) = nodes.join_next().await {
        let (of_node, fenced_of_node) = ran??;
        applied += of_node;
        fenced += fenced_of_node;
    }
    assert!(applied > 100 && fenced > 100, "{applied} {fenced}");
    let mut connection = database.connect().await?;
    let stored: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT persistence_id, name, revision FROM notes ORDER BY 1, 3")
            .fetch_all(&mut connection)
            .await?;
    assert_eq!(
        stored.len(),
        applied,
        "one companion for each applied write"
    );
    let mut last: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for (id, name, revision) in stored {
        let (named, epoch) = name.split_once(':').ok_or("as it was given")?;
        let (named, epoch): (i64, i64) = (named.parse()?, epoch.parse()?);
        let (before, epoch_before) = last.get(&id).copied().unwrap_or_default();
        assert_eq!((named, revision), (before + 1, before + 1), "{id}");
        assert!(
            epoch >= epoch_before,
            "{id}@{revision}: {epoch} after {epoch_before}"
        );
        last.insert(id, (revision, epoch));
    }
    for (id, (revision, _)) in last {
        let mut connection = database.connect().await?;
        let stored: i64 =
            sqlx::query_scalar("SELECT revision FROM durable_state WHERE persistence_id = $1")
                .bind(&id)
                .fetch_one(&mut connection)
                .await?;
        assert_eq!(stored, revision, "{id}");
    }
    Ok(())
}
