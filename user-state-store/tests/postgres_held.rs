//! Goal: what somebody else holds (a row, a row just being made, the table) keeps nobody waiting whose row is free, and is
//! written when it becomes free, or answered when the lock time-out is over. What is refused harms nobody else either.
//! Method: transactions of the test's own hold locks on a real server while batches are written, and outcomes are caught
//! as they are reported.

#![cfg(feature = "postgres")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::Executor as _;
use support::proxy::Proxy;
use support::{Database, Outcome, change, holding, load, put, write};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use user_state_store::{
    Cause, Change, ConnectOptions, DurableStateStore as _, PostgresStore, Settled, StoreError,
    StoreSettings, Write, WriteBatch, WriteOutcome,
};

type TestResult<T> = Result<T, Box<dyn std::error::Error>>;

/// How long to wait for what takes milliseconds, before it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Far beyond what a free row takes, far below the lock time-out of [`SLOW`].
const PROMPT: Duration = Duration::from_secs(6);

/// Its lock time-out is 16 s.
const SLOW: Duration = Duration::from_secs(40);

/// Its lock time-out is 1.2 s.
const QUICK: Duration = Duration::from_secs(3);

/// A store that reaches the server through a proxy, which counts.
async fn open_counted(
    database: &Database,
    statement_timeout: Duration,
) -> TestResult<(Arc<PostgresStore>, Proxy)> {
    let proxy = Proxy::to(database.address()?).await?;
    let mut options = ConnectOptions::parse(&database.url_at(proxy.address()))?;
    options.settings.statement_timeout = statement_timeout;
    Ok((Arc::new(PostgresStore::open(&options).await?), proxy))
}

async fn open(database: &Database, statement_timeout: Duration) -> TestResult<Arc<PostgresStore>> {
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.statement_timeout = statement_timeout;
    Ok(Arc::new(PostgresStore::open(&options).await?))
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}-{number:03}"))
        .collect()
}

fn puts(ids: &[String], expected: i64) -> Vec<Write> {
    let puts = ids.iter().map(|id| put(id, expected, expected + 1, b"x"));
    puts.collect()
}

/// A write in a task of its own, and its outcomes as they come, by id.
struct Writing {
    outcomes: mpsc::Receiver<(String, WriteOutcome, Arrival)>,
    task: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Early,
    Last,
}

fn writing(store: &Arc<PostgresStore>, writes: Vec<Write>) -> TestResult<Writing> {
    let batch = WriteBatch::new(writes)?;
    let store = Arc::clone(store);
    let (sender, outcomes) = mpsc::channel(2_000);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let report = |settled: Vec<Settled>, arrival| {
            for Settled { index, outcome } in settled {
                let id = batch.writes()[index].persistence_id.to_string();
                sender.try_send((id, outcome, arrival)).unwrap();
            }
        };
        let early = |settled| report(settled, Arrival::Early);
        let last = store.write_early(&batch, &early).await;
        report(last, Arrival::Last);
    });
    Ok(Writing { outcomes, task })
}

impl Writing {
    async fn next(&mut self, within: Duration) -> TestResult<(String, WriteOutcome, Arrival)> {
        let next = timeout(within, self.outcomes.recv()).await?;
        Ok(next.ok_or("all outcomes were reported")?)
    }

    /// Waits for so many outcomes, which all are applied.
    async fn applied(&mut self, count: usize, within: Duration) -> Outcome {
        let until = Instant::now() + within;
        for _ in 0..count {
            let (id, outcome, _) = self.next(until - Instant::now()).await?;
            assert!(
                matches!(outcome, WriteOutcome::Applied(_)),
                "{id}: {outcome:?}"
            );
        }
        Ok(())
    }

    /// The rest, once everything is settled.
    async fn rest(mut self) -> TestResult<Vec<(String, WriteOutcome, Arrival)>> {
        timeout(PATIENCE + SLOW, self.task.join_next()).await?;
        let mut rest = Vec::new();
        while let Ok(outcome) = self.outcomes.try_recv() {
            rest.push(outcome);
        }
        Ok(rest)
    }
}

fn is_held(outcome: &WriteOutcome) -> bool {
    matches!(
        outcome,
        WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Database(error)))
            if &*error.code == "55P03"
    )
}

async fn created(store: &PostgresStore, ids: &[String]) -> Outcome {
    for chunk in ids.chunks(500) {
        let outcomes = write(store, puts(chunk, 0)).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, WriteOutcome::Applied(_)))
        );
    }
    Ok(())
}

#[tokio::test]
async fn updates_beside_held_rows_are_reported_at_once_and_the_held_ones_when_they_are_free()
-> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    let all = ids("user", 40);
    created(&store, &all).await?;
    let mut holder = holding(
        &database,
        "SELECT FROM durable_state WHERE persistence_id IN ('user-003', 'user-030') FOR UPDATE",
    )
    .await?;
    let mut writing = writing(&store, puts(&all, 1))?;
    for _ in 0..38 {
        let (id, outcome, arrival) = writing.next(PROMPT).await?;
        assert!(
            matches!(outcome, WriteOutcome::Applied(_)),
            "{id}: {outcome:?}"
        );
        assert_eq!(arrival, Arrival::Early, "{id}");
        assert!(!["user-003", "user-030"].contains(&id.as_str()));
    }
    holder.execute("COMMIT").await?;
    writing.applied(2, PROMPT).await?;
    assert!(writing.rest().await?.is_empty(), "each exactly once");
    Ok(())
}

#[tokio::test]
async fn a_held_row_that_is_changed_meanwhile_is_a_conflict() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    let all = ids("user", 4);
    created(&store, &all).await?;
    let mut holder = holding(
        &database,
        "UPDATE durable_state SET revision = 9 WHERE persistence_id = 'user-001';
         DELETE FROM durable_state WHERE persistence_id = 'user-002';
         SELECT FROM durable_state WHERE persistence_id = 'user-003' FOR UPDATE",
    )
    .await?;
    let mut writes = puts(&all, 1);
    writes[3] = change("user-003", 1, Change::Erase);
    let mut writing = writing(&store, writes)?;
    writing.applied(1, PROMPT).await?;
    holder.execute("COMMIT").await?;
    let mut rest = writing.rest().await?;
    rest.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let outcomes: Vec<_> = rest
        .iter()
        .map(|(id, outcome, _)| (id.as_str(), outcome))
        .collect();
    assert!(
        matches!(
            outcomes[..],
            [
                ("user-001", WriteOutcome::Conflict),
                ("user-002", WriteOutcome::Conflict),
                ("user-003", WriteOutcome::Applied(None)),
            ]
        ),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_row_held_too_long_is_answered_at_the_lock_time_out_and_its_next_write_delays_nobody()
-> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, QUICK).await?;
    let all = ids("user", 20);
    created(&store, &all).await?;
    let mut holder = holding(
        &database,
        "SELECT FROM durable_state WHERE persistence_id = 'user-007' FOR UPDATE",
    )
    .await?;
    for expected in [1, 2] {
        let began = Instant::now();
        let mut writes = puts(&all, expected);
        writes[7] = put("user-007", 1, 2, b"x");
        let mut writing = writing(&store, writes)?;
        writing.applied(19, PROMPT).await?;
        let rest = writing.rest().await?;
        assert!(
            matches!(&rest[..], [(id, outcome, Arrival::Last)] if id == "user-007" && is_held(outcome)),
            "{rest:?}"
        );
        assert!(began.elapsed() >= QUICK * 2 / 5, "{:?}", began.elapsed());
    }
    holder.execute("COMMIT").await?;
    let outcomes = write(&*store, vec![put("user-007", 1, 2, b"x")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn many_batches_with_held_rows_take_no_session_from_the_others() -> Outcome {
    let database = Database::migrated().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.statement_timeout = SLOW;
    options.settings.writer_connections = 1;
    let store = Arc::new(PostgresStore::open(&options).await?);
    let (held, free) = (ids("held", 60), ids("free", 20));
    created(&store, &held).await?;
    created(&store, &free).await?;
    let mut holder = holding(
        &database,
        "SELECT FROM durable_state WHERE persistence_id LIKE 'held-%' FOR UPDATE",
    )
    .await?;
    let mut waiting = Vec::new();
    for id in &held {
        waiting.push(writing(&store, vec![put(id, 1, 2, b"x")])?);
    }
    for expected in 1..6 {
        let outcomes = timeout(PROMPT, write(&*store, puts(&free, expected))).await?;
        assert!(
            outcomes
                .iter()
                .all(|it| matches!(it, WriteOutcome::Applied(_)))
        );
    }
    holder.execute("COMMIT").await?;
    for mut writing in waiting {
        writing.applied(1, PROMPT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn updates_creations_and_erasures_of_a_batch_do_not_wait_for_each_other() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    created(&store, &ids("user", 3)).await?;
    for stopped in ["user-000", "new"] {
        let database_of = Database::migrated().await?;
        let store = open(&database_of, SLOW).await?;
        created(&store, &ids("user", 3)).await?;
        database_of.stop_at(stopped).await?;
        let mut holder = holding(&database_of, "SELECT pg_advisory_xact_lock(1)").await?;
        let mut writing = writing(
            &store,
            vec![
                put("user-000", 1, 2, b"x"),
                change("user-001", 1, Change::Erase),
                put("new", 0, 1, b"x"),
            ],
        )?;
        for _ in 0..2 {
            let (id, outcome, arrival) = writing.next(PROMPT).await?;
            assert_ne!(id, stopped);
            assert!(
                matches!(outcome, WriteOutcome::Applied(_)),
                "{id}: {outcome:?}"
            );
            assert_eq!(arrival, Arrival::Early);
        }
        holder.execute("COMMIT").await?;
        writing.applied(1, PROMPT).await?;
    }
    drop(store);
    Ok(())
}

#[tokio::test]
async fn only_what_waits_for_somebody_else_is_reported_as_waiting() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    let users = ids("user", 3);
    created(&store, &users).await?;
    let writes = |expected| -> Vec<Write> {
        let too_large = vec![0; StoreSettings::default().payload_bytes_max + 1];
        // An update, an erasure, a creation, and one that is refused before it is sent.
        vec![
            put("user-000", expected, expected + 1, b"x"),
            change(&format!("user-00{expected}"), 1, Change::Erase),
            put(&format!("new-{expected}"), 0, 1, b"x"),
            put("large", 0, 1, &too_large),
        ]
    };
    let batch = WriteBatch::new(writes(1))?;
    let reports = Mutex::new(Vec::new());
    let early = |settled: Vec<Settled>| reports.lock().unwrap().push(settled.len());
    let last = store.write_early(&batch, &early).await;
    let told = std::mem::take(&mut *reports.lock().unwrap());
    assert_eq!(last.len() + told.iter().sum::<usize>(), 4);
    assert!(!told.contains(&0), "nothing waited: {told:?}");
    // Whatever is settled of a batch is reported before the rest is said to wait, and that only once.
    let mut holder = holding(
        &database,
        "SELECT FROM durable_state WHERE persistence_id = 'user-000' FOR UPDATE",
    )
    .await?;
    let (all_wait, waits) = tokio::sync::oneshot::channel();
    let all_wait = Mutex::new(Some(all_wait));
    let early = |settled: Vec<Settled>| {
        if settled.is_empty() {
            all_wait.lock().unwrap().take().unwrap().send(()).unwrap();
        }
        reports.lock().unwrap().push(settled.len());
    };
    let batch = WriteBatch::new(writes(2))?;
    let (last, released) = tokio::join!(store.write_early(&batch, &early), async {
        timeout(PROMPT, waits).await??;
        let told: usize = reports.lock().unwrap().iter().sum();
        assert_eq!(told, 3);
        holder.execute("COMMIT").await?;
        TestResult::Ok(())
    });
    released?;
    assert_eq!(last.len(), 1);
    assert!(matches!(last[0].outcome, WriteOutcome::Applied(_)));
    Ok(())
}

#[tokio::test]
async fn creations_that_meet_a_foreign_transaction_harm_no_other_user() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    created(&store, &["existing".to_owned()]).await?;
    let held = ids("held", 150);
    let mut holder = holding(
        &database,
        "INSERT INTO durable_state
         SELECT 1, '', 'held-' || to_char(i, 'FM000'), 1, now(), 31, 'm', 'theirs', NULL
         FROM generate_series(0, 149) AS i",
    )
    .await?;
    let mut writes = puts(&held, 0);
    writes.push(put("existing", 1, 2, b"x"));
    writes.push(put("free", 0, 1, b"x"));
    let mut writing = writing(&store, writes)?;
    writing.applied(2, PROMPT).await?;
    holder.execute("ROLLBACK").await?;
    writing.applied(150, PROMPT).await?;
    assert!(writing.rest().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn creations_held_too_long_are_answered_at_the_lock_time_out() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, QUICK).await?;
    let holder = holding(
        &database,
        "INSERT INTO durable_state
         SELECT 1, '', 'held-' || to_char(i, 'FM000'), 1, now(), 31, 'm', 'theirs', NULL
         FROM generate_series(0, 499) AS i",
    )
    .await?;
    let began = Instant::now();
    let outcomes = write(&*store, puts(&ids("held", 500), 0)).await;
    assert!(outcomes.iter().all(is_held), "{outcomes:?}");
    assert!(began.elapsed() < QUICK + QUICK, "{:?}", began.elapsed());
    drop(holder);
    Ok(())
}

/// Writes that wait for a lock on the table while it is there, and go through behind it.
async fn waits_of_table(store: &Arc<PostgresStore>, database: &Database, mode: &str) -> Outcome {
    let mut holder = holding(
        database,
        &format!("LOCK TABLE durable_state IN {mode} MODE"),
    )
    .await?;
    let mut waiting = Vec::new();
    for number in 0..50 {
        let new = format!("{}-{number}", mode.replace(' ', "-"));
        let expected = if mode == "SHARE" { 1 } else { 2 };
        let old = format!("user-{number:03}");
        waiting.push(writing(
            store,
            vec![
                put(&new, 0, 1, b"x"),
                put(&old, expected, expected + 1, b"x"),
            ],
        )?);
    }
    // All of them wait, and hold no session.
    tokio::task::yield_now().await;
    holder.execute("ROLLBACK").await?;
    for mut writing in waiting {
        writing.applied(2, PROMPT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_waits_for_a_lock_on_the_table_is_written_when_that_is_gone() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    created(&store, &ids("user", 50)).await?;
    waits_of_table(&store, &database, "SHARE").await?;
    waits_of_table(&store, &database, "ACCESS EXCLUSIVE").await
}

#[tokio::test]
async fn a_lock_on_the_table_is_answered_at_the_lock_time_out() -> Outcome {
    let database = Database::migrated().await?;
    let (store, proxy) = open_counted(&database, QUICK).await?;
    created(&store, &ids("user", 2)).await?;
    let holder = holding(&database, "LOCK TABLE durable_state IN SHARE MODE").await?;
    let began = Instant::now();
    let before = proxy.requests();
    let mut waiting = Vec::new();
    for id in ids("new", 500) {
        waiting.push(writing(&store, vec![put(&id, 0, 1, b"x")])?);
    }
    for writing in waiting {
        let rest = writing.rest().await?;
        assert!(
            matches!(&rest[..], [(_, outcome, _)] if is_held(outcome)),
            "{rest:?}"
        );
    }
    assert!(began.elapsed() < QUICK + QUICK, "{:?}", began.elapsed());
    let requests = proxy.requests() - before;
    assert!(requests < 120, "{requests}");
    drop(holder);
    Ok(())
}

#[tokio::test]
async fn held_rows_of_many_batches_share_their_statements() -> Outcome {
    let database = Database::migrated().await?;
    let (store, proxy) = open_counted(&database, QUICK).await?;
    let held = ids("held", 400);
    created(&store, &held).await?;
    let holder = holding(&database, "SELECT FROM durable_state FOR UPDATE").await?;
    // The first time every batch finds out by itself, the second time it is known.
    for (most, updates) in [(300, puts(&held, 1)), (60, puts(&held, 1))] {
        let before = proxy.requests();
        let mut waiting = Vec::new();
        for batch in updates.chunks(10) {
            waiting.push(writing(&store, batch.to_vec())?);
        }
        for writing in waiting {
            let rest = writing.rest().await?;
            assert_eq!(rest.len(), 10);
            assert!(
                rest.iter().all(|(_, outcome, _)| is_held(outcome)),
                "{rest:?}"
            );
        }
        let requests = proxy.requests() - before;
        assert!(requests <= most, "{requests}");
    }
    drop(holder);
    Ok(())
}

/// What poolers make up with severity ERROR: the connection was the problem, so nobody knows what was applied.
#[tokio::test]
async fn an_error_about_the_connection_leaves_the_outcome_unknown() -> Outcome {
    for code in ["08006", "08P01", "40003", "57P01", "57P02", "57P05"] {
        let database = Database::migrated().await?;
        let store = open(&database, SLOW).await?;
        created(&store, &ids("user", 3)).await?;
        database
            .execute(&format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$;
                 CREATE TRIGGER refuse BEFORE UPDATE ON durable_state FOR EACH ROW
                   EXECUTE FUNCTION refuse()"
            ))
            .await?;
        let outcomes = write(&*store, puts(&ids("user", 3), 1)).await;
        assert!(
            outcomes
                .iter()
                .all(|it| matches!(it, WriteOutcome::Unknown(_))),
            "{code}: {outcomes:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_a_session_cannot_do_is_sent_once_more_on_another() -> Outcome {
    for code in ["25006", "0A000", "26000"] {
        let database = Database::migrated().await?;
        let store = open(&database, SLOW).await?;
        created(&store, &ids("user", 3)).await?;
        database
            .execute(&format!(
                "CREATE TABLE unfit AS SELECT pid FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid();
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN
                     IF pg_backend_pid() IN (SELECT pid FROM unfit) THEN
                       RAISE EXCEPTION 'no' USING ERRCODE = '{code}';
                     END IF;
                     RETURN NEW;
                   END $$;
                 CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON durable_state FOR EACH ROW
                   EXECUTE FUNCTION refuse()"
            ))
            .await?;
        for writes in [puts(&ids("user", 3), 1), puts(&ids("new", 3), 0)] {
            let outcomes = write(&*store, writes).await;
            assert!(
                outcomes
                    .iter()
                    .all(|it| matches!(it, WriteOutcome::Applied(_))),
                "{code}: {outcomes:?}"
            );
        }
        // Every session is unfit.
        database
            .execute("INSERT INTO unfit SELECT * FROM generate_series(1, 1000000)")
            .await?;
        let outcomes = write(&*store, puts(&ids("user", 3), 2)).await;
        assert!(
            outcomes
                .iter()
                .all(|it| matches!(it, WriteOutcome::NotApplied(StoreError::Misconfigured(_)))),
            "{code}: {outcomes:?}"
        );
    }
    Ok(())
}

/// A foreign key that is checked at the commit: what it refuses is refused alone, whichever statement it comes with.
#[tokio::test]
async fn a_constraint_that_refuses_at_the_commit_refuses_one_row() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "CREATE TABLE manifest (name text PRIMARY KEY);
             INSERT INTO manifest VALUES ('com.example.State');
             ALTER TABLE durable_state ADD CONSTRAINT known FOREIGN KEY (state_ser_manifest)
               REFERENCES manifest DEFERRABLE INITIALLY DEFERRED",
        )
        .await?;
    let store = open(&database, SLOW).await?;
    let all = ids("user", 30);
    for expected in [0, 1] {
        let mut writes = puts(&all, expected);
        if let Change::Put { payload, .. } = &mut writes[11].change {
            payload.manifest = user_state_store::Manifest::new("unknown");
        }
        if expected == 1 {
            writes[11].expected = user_state_store::Revision::FIRST;
            created(&store, &all[11..12]).await?;
        }
        let outcomes = write(&*store, writes).await;
        for (index, outcome) in outcomes.iter().enumerate() {
            match outcome {
                WriteOutcome::Applied(_) => assert_ne!(index, 11),
                WriteOutcome::NotApplied(StoreError::Refused(error)) => {
                    assert_eq!((index, &*error.code), (11, "23503"));
                }
                other => return Err(format!("{index}: {other:?}").into()),
            }
        }
    }
    let sessions: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'user-state'",
    )
    .fetch_one(&mut database.connect().await?)
    .await?;
    assert!(sessions <= 2, "the session is fit after it: {sessions}");
    Ok(())
}

/// Whatever a policy or a trigger raises, of classes that nobody knows too.
#[tokio::test]
async fn whatever_refuses_a_row_refuses_it_alone() -> Outcome {
    for code in [
        "42501", "U1234", "XX001", "55000", "09000", "2F003", "P0001", "58030",
    ] {
        let database = Database::migrated().await?;
        database
            .execute(&format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$;
                 CREATE TRIGGER refuse BEFORE INSERT ON durable_state FOR EACH ROW
                   WHEN (NEW.persistence_id = 'user-021') EXECUTE FUNCTION refuse()"
            ))
            .await?;
        let store = open(&database, SLOW).await?;
        let outcomes = write(&*store, puts(&ids("user", 40), 0)).await;
        for (index, outcome) in outcomes.iter().enumerate() {
            let is_refused = matches!(outcome, WriteOutcome::NotApplied(_));
            assert_eq!(is_refused, index == 21, "{code} {index}: {outcome:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn where_every_row_is_refused_few_statements_are_sent() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    database
        .execute(
            "CREATE SEQUENCE statements;
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM nextval('statements');
                  RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON durable_state FOR EACH ROW
               EXECUTE FUNCTION refuse()",
        )
        .await?;
    let outcomes = write(&*store, puts(&ids("user", 500), 0)).await;
    assert!(outcomes.iter().all(|outcome| matches!(
        outcome,
        WriteOutcome::NotApplied(StoreError::Misconfigured(_))
    )));
    let statements: i64 = sqlx::query_scalar("SELECT last_value FROM statements")
        .fetch_one(&mut database.connect().await?)
        .await?;
    assert!(statements <= 40, "{statements}");
    Ok(())
}

#[tokio::test]
async fn a_write_that_waits_for_another_table_is_written_when_that_is_free() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "CREATE TABLE manifest (name text PRIMARY KEY);
             INSERT INTO manifest VALUES ('com.example.State'), ('held');
             ALTER TABLE durable_state ADD CONSTRAINT known FOREIGN KEY (state_ser_manifest)
               REFERENCES manifest",
        )
        .await?;
    let store = open(&database, SLOW).await?;
    let all = ids("user", 12);
    created(&store, &all).await?;
    let mut holder = holding(
        &database,
        "SELECT FROM manifest WHERE name = 'held' FOR UPDATE",
    )
    .await?;
    let mut writes = puts(&all, 1);
    if let Change::Put { payload, .. } = &mut writes[5].change {
        payload.manifest = user_state_store::Manifest::new("held");
    }
    let mut writing = writing(&store, writes)?;
    writing.applied(11, PROMPT).await?;
    holder.execute("COMMIT").await?;
    writing.applied(1, PROMPT).await?;
    assert_eq!(
        load(&*store, "user-005")
            .await?
            .ok_or("no row")?
            .revision
            .get(),
        2
    );
    Ok(())
}

/// Those who ask for all go away in the middle; the others are answered all the same.
#[tokio::test]
async fn whoever_asks_for_the_others_may_be_dropped() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    let held = ids("held", 6);
    created(&store, &held).await?;
    let mut holder = holding(&database, "SELECT FROM durable_state FOR UPDATE").await?;
    let mut waiting = Vec::new();
    for id in &held {
        waiting.push(writing(&store, vec![put(id, 1, 2, b"x")])?);
    }
    let began = Mutex::new(Instant::now());
    while waiting.len() > 1 {
        let Writing { mut task, .. } = waiting.remove(0);
        // In whatever it does just now.
        while began.lock().map_err(|_| "poisoned")?.elapsed() < Duration::from_millis(130) {
            tokio::task::yield_now().await;
        }
        task.shutdown().await;
        *began.lock().map_err(|_| "poisoned")? = Instant::now();
    }
    holder.execute("COMMIT").await?;
    for mut writing in waiting {
        writing.applied(1, PROMPT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_a_trigger_leaves_out_is_a_conflict_also_beside_a_held_row() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database, SLOW).await?;
    created(&store, &ids("user", 4)).await?;
    database
        .execute(
            "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN
                 IF NEW.persistence_id = 'user-001' THEN RETURN NULL; END IF;
                 RETURN NEW;
               END $$;
             CREATE TRIGGER leave_out BEFORE UPDATE ON durable_state FOR EACH ROW
               EXECUTE FUNCTION leave_out()",
        )
        .await?;
    let mut operator = database.connect().await?;
    operator
        .execute("BEGIN; SELECT FROM durable_state WHERE persistence_id = 'user-000' FOR UPDATE")
        .await?;
    // Held rows are expected from here on, and left out.
    let mut held = JoinSet::new();
    held.spawn({
        let (store, held) = (Arc::clone(&store), puts(&ids("user", 1), 1));
        async move { write(&*store, held).await }
    });
    let others: Vec<String> = ids("user", 4).split_off(1);
    timeout(PROMPT, async {
        loop {
            let locked: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)
                   OR EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%SKIP LOCKED%'
                     AND pid <> pg_backend_pid())",
            )
            .fetch_one(&mut operator)
            .await?;
            if locked {
                return Ok::<_, sqlx::Error>(());
            }
        }
    })
    .await??;
    let outcomes = timeout(PROMPT, write(&*store, puts(&others, 1))).await?;
    assert!(
        matches!(
            outcomes.as_slice(),
            [
                WriteOutcome::Conflict,
                WriteOutcome::Applied(_),
                WriteOutcome::Applied(_)
            ]
        ),
        "{outcomes:?}"
    );
    operator.execute("COMMIT").await?;
    let outcomes = timeout(PROMPT, held.join_next())
        .await?
        .ok_or("no task")??;
    assert!(
        matches!(outcomes.as_slice(), [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    Ok(())
}
