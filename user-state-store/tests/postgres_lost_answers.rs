//! Goal: an answer that was lost is unknown, never a failure; a fence ends the session that may still be writing, and only
//! that one; what surely was not applied says so.
//! Method: the store reaches the server through a proxy that is cut or frozen while a write waits for a lock that the test
//! holds, so the server goes on with a statement whose client is gone.

#![cfg(feature = "postgres")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Executor as _, PgConnection};
use support::proxy::Proxy;
use support::{Database, Outcome, WAIT_FOR_THE_TEST, change, load, put, write};
use tokio::task::JoinSet;
use user_state_store::{
    Backend as _, Cause, Change, ConnectOptions, Fence, PostgresStore, StoreError, UnknownOutcome,
    Write, WriteOutcome, WriterSession,
};

/// A store behind a proxy, and the test's own ways to the server.
struct Scene {
    proxy: Proxy,
    store: Arc<PostgresStore>,
    observer: PgConnection,
    blocker: PgConnection,
    // Dropped last: the database goes with it.
    database: Database,
}

impl Scene {
    /// A row `a` at revision 1, which the blocker holds.
    async fn with_a_locked_row(
        statement_timeout: Duration,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut scene = Self::new(statement_timeout).await?;
        let created = write(
            &*scene.store,
            vec![put("a", 0, 1, b"1"), put("b", 0, 1, b"1")],
        )
        .await;
        assert!(
            created
                .iter()
                .all(|outcome| matches!(outcome, WriteOutcome::Applied(_)))
        );
        scene.blocker.execute("BEGIN").await?;
        scene
            .blocker
            .execute("SELECT FROM durable_state WHERE persistence_id = 'a' FOR UPDATE")
            .await?;
        Ok(scene)
    }

    /// A row `a` at revision 1, whose update waits inside its statement for the blocker.
    async fn with_a_row_that_waits() -> Result<Self, Box<dyn std::error::Error>> {
        let mut scene = Self::with_a_locked_row(LONG).await?;
        scene.blocker.execute("ROLLBACK").await?;
        scene.database.stop_at("a").await?;
        scene.blocker.execute(HOLD).await?;
        Ok(scene)
    }

    async fn new(statement_timeout: Duration) -> Result<Self, Box<dyn std::error::Error>> {
        let database = Database::migrated().await?;
        let proxy = Proxy::to(database.address()?).await?;
        let mut options = ConnectOptions::parse(&database.url_at(proxy.address()))?;
        options.settings.statement_timeout = statement_timeout;
        Ok(Self {
            store: Arc::new(PostgresStore::open(&options).await?),
            observer: database.connect().await?,
            blocker: database.connect().await?,
            proxy,
            database,
        })
    }

    fn writing(&self, writes: Vec<Write>) -> JoinSet<Vec<WriteOutcome>> {
        let store = self.store.clone();
        let mut task = JoinSet::new();
        task.spawn(async move { write(&*store, writes).await });
        task
    }

    /// Waits until a session of the store waits for a lock.
    async fn until_waiting(&mut self) -> Result<(), sqlx::Error> {
        while self.waiting().await? == 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn waiting(&mut self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut self.observer)
        .await
    }

    async fn revision(&mut self, id: &str) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query_scalar("SELECT revision FROM durable_state WHERE persistence_id = $1")
            .bind(id)
            .fetch_optional(&mut self.observer)
            .await
    }
}

async fn end(mut task: JoinSet<Vec<WriteOutcome>>) -> Result<Vec<WriteOutcome>, String> {
    match task.join_next().await {
        Some(Ok(outcomes)) => Ok(outcomes),
        other => Err(format!("{other:?}")),
    }
}

/// The session of outcomes that are all unknown.
fn unknown(outcomes: &[WriteOutcome]) -> Result<(WriterSession, Cause), String> {
    match outcomes {
        [
            WriteOutcome::Unknown(UnknownOutcome {
                session: Some(session),
                cause,
            }),
            rest @ ..,
        ] if rest.iter().all(|other| Some(other) == outcomes.first()) => {
            Ok((*session, cause.clone()))
        }
        other => Err(format!("{other:?}")),
    }
}

/// Stops those who wait for the test, until this transaction ends.
const HOLD: &str = "BEGIN; SELECT pg_advisory_xact_lock(1)";

const LONG: Duration = Duration::from_secs(30);

/// The deadline where a lock is waited for in vain: that wait is two fifths of it, and the rest is for a slow machine.
const PATIENT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_lost_update_may_still_be_applied_and_is_unknown() -> Outcome {
    let mut scene = Scene::with_a_row_that_waits().await?;
    let task = scene.writing(vec![put("a", 1, 2, b"2"), put("b", 1, 2, b"2")]);
    scene.until_waiting().await?;
    scene.proxy.cut();
    let (_, cause) = unknown(&end(task).await?)?;
    assert!(matches!(cause, Cause::Io(_)), "{cause:?}");
    assert_eq!(
        scene.revision("a").await?,
        Some(1),
        "a reader still sees the old row"
    );
    // Nobody fences, and the server applies what its client gave up long ago.
    scene.blocker.execute("COMMIT").await?;
    while scene.revision("a").await? != Some(2) {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn after_the_fence_a_lost_update_is_never_applied() -> Outcome {
    let mut scene = Scene::with_a_row_that_waits().await?;
    let task = scene.writing(vec![put("a", 1, 2, b"lost"), put("b", 1, 2, b"lost")]);
    scene.until_waiting().await?;
    scene.proxy.cut();
    let (session, _) = unknown(&end(task).await?)?;
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    assert_eq!(
        scene.waiting().await?,
        0,
        "nobody waits for the row any more"
    );
    scene.blocker.execute("COMMIT").await?;
    assert_eq!(scene.revision("a").await?, Some(1));
    // The identical compare-and-set goes through now, and the fence may be asked again.
    let again = write(&*scene.store, vec![put("a", 1, 2, b"again")]).await;
    assert!(matches!(again[..], [WriteOutcome::Applied(_)]), "{again:?}");
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    Ok(())
}

#[tokio::test]
async fn a_server_that_stands_still_is_given_up_at_the_deadline() -> Outcome {
    let mut scene = Scene::with_a_locked_row(LONG).await?;
    let mut options = ConnectOptions::parse(&scene.database.url_at(scene.proxy.address()))?;
    options.settings.statement_timeout = Duration::from_millis(200);
    scene.store = Arc::new(PostgresStore::open(&options).await?);
    scene.proxy.freeze();
    let outcomes = write(&*scene.store, vec![put("b", 1, 2, b"2")]).await;
    let (session, cause) = unknown(&outcomes)?;
    assert_eq!(cause, Cause::Deadline);
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    Ok(())
}

#[tokio::test]
async fn a_session_ended_by_an_operator_leaves_its_write_unknown() -> Outcome {
    let mut scene = Scene::with_a_row_that_waits().await?;
    let task = scene.writing(vec![put("a", 1, 2, b"2")]);
    scene.until_waiting().await?;
    scene
        .observer
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .await?;
    let (session, cause) = unknown(&end(task).await?)?;
    assert!(
        matches!(&cause, Cause::Database(error) if &*error.code == "57P01" && error.severity == "FATAL"),
        "{cause:?}"
    );
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    Ok(())
}

#[tokio::test]
async fn a_creation_cut_before_its_commit_surely_was_not_applied() -> Outcome {
    let mut scene = Scene::new(LONG).await?;
    scene.database.stop_at("a").await?;
    scene.blocker.execute(HOLD).await?;
    let task = scene.writing(vec![put("a", 0, 1, b"1"), put("b", 0, 1, b"1")]);
    scene.until_waiting().await?;
    scene.proxy.cut();
    for outcome in end(task).await? {
        assert!(
            matches!(
                outcome,
                WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Io(_)))
            ),
            "{outcome:?}"
        );
    }
    // The server goes on with the insert, and finds no client to commit it.
    scene.blocker.execute("ROLLBACK").await?;
    while scene.waiting().await? > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.revision("a").await?, None);
    assert_eq!(scene.revision("b").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_creation_cut_during_its_commit_is_unknown_until_it_is_fenced() -> Outcome {
    let mut scene = Scene::new(LONG).await?;
    // A constraint that is checked at the commit, and there waits for the test.
    scene.database.execute(WAIT_FOR_THE_TEST).await?;
    scene
        .observer
        .execute(
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON durable_state
               DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_the_test()",
        )
        .await?;
    scene.blocker.execute("SELECT pg_advisory_lock(1)").await?;
    let task = scene.writing(vec![put("a", 0, 1, b"1"), put("b", 0, 1, b"1")]);
    scene.until_waiting().await?;
    scene.proxy.cut();
    let (session, cause) = unknown(&end(task).await?)?;
    assert!(matches!(cause, Cause::Io(_)), "{cause:?}");
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    scene
        .blocker
        .execute("SELECT pg_advisory_unlock(1)")
        .await?;
    assert_eq!(scene.revision("a").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_lock_held_too_long_is_a_write_surely_not_applied() -> Outcome {
    let mut scene = Scene::with_a_locked_row(PATIENT).await?;
    let outcomes = write(
        &*scene.store,
        vec![
            put("a", 1, 2, b"2"),
            change("c", 4, Change::Erase),
            put("d", 0, 1, b"1"),
        ],
    )
    .await;
    assert!(
        matches!(
            &outcomes[..],
            [
                WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Database(error))),
                WriteOutcome::Conflict,
                WriteOutcome::Applied(_),
            ] if &*error.code == "55P03"
        ),
        "{outcomes:?}"
    );
    scene.blocker.execute("COMMIT").await?;
    assert_eq!(scene.revision("a").await?, Some(1));
    assert!(load(&*scene.store, "a").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_lock_held_too_long_on_one_row_harms_no_neighbour() -> Outcome {
    let mut scene = Scene::with_a_locked_row(PATIENT).await?;
    let neighbours = ["0", "1", "b", "c"];
    let create = neighbours.map(|id| put(id, 0, 1, b"1"));
    write(&*scene.store, create.to_vec()).await;
    let mut writes: Vec<_> = neighbours.map(|id| put(id, 1, 2, b"2")).to_vec();
    writes.push(put("a", 1, 2, b"2"));
    writes.push(put("nobody", 4, 5, b"5"));

    let outcomes = write(&*scene.store, writes).await;
    assert!(
        matches!(
            &outcomes[..],
            [
                WriteOutcome::Applied(_),
                WriteOutcome::Applied(_),
                WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Database(error))),
                WriteOutcome::Applied(_),
                WriteOutcome::Applied(_),
                WriteOutcome::Conflict,
            ] if &*error.code == "55P03"
        ),
        "{outcomes:?}"
    );
    scene.blocker.execute("COMMIT").await?;
    for id in neighbours {
        assert_eq!(scene.revision(id).await?, Some(2), "{id}");
    }
    assert_eq!(scene.revision("a").await?, Some(1));
    Ok(())
}

#[tokio::test]
async fn a_row_that_somebody_else_is_just_making_harms_no_neighbour() -> Outcome {
    let mut scene = Scene::with_a_locked_row(Duration::from_secs(1)).await?;
    scene
        .blocker
        .execute(
            "INSERT INTO durable_state
             VALUES (1, '', 'new-3', 1, now(), 31, 'm', 'theirs', NULL)",
        )
        .await?;
    let ids: Vec<String> = (0..8).map(|number| format!("new-{number}")).collect();
    let writes = ids.iter().map(|id| put(id, 0, 1, b"ours")).collect();
    let outcomes = write(&*scene.store, writes).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        match outcome {
            WriteOutcome::Applied(_) if number != 3 => {}
            WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Database(error)))
                if number == 3 && &*error.code == "55P03" => {}
            other => return Err(format!("{number}: {other:?}").into()),
        }
    }
    scene.blocker.execute("ROLLBACK").await?;
    Ok(())
}

#[tokio::test]
async fn a_fence_never_ends_a_session_that_has_the_same_process_id_only() -> Outcome {
    let mut scene = Scene::with_a_locked_row(LONG).await?;
    let process_id: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut scene.blocker)
        .await?;
    let older = WriterSession {
        process_id,
        started_at_micros: Some(1),
    };
    assert_eq!(scene.store.fence(&older).await, Fence::Closed);
    scene.blocker.execute("COMMIT").await?;
    Ok(())
}

#[tokio::test]
async fn a_fence_without_a_way_to_the_server_stays_open() -> Outcome {
    let scene = Scene::new(LONG).await?;
    let Scene {
        proxy,
        store,
        database,
        ..
    } = scene;
    drop(proxy);
    let session = WriterSession {
        process_id: 1,
        started_at_micros: Some(1),
    };
    assert_eq!(store.fence(&session).await, Fence::Open);
    drop(database);
    Ok(())
}

#[tokio::test]
async fn a_closed_store_says_so_and_leaves_no_session() -> Outcome {
    let mut scene = Scene::new(LONG).await?;
    write(&*scene.store, vec![put("a", 0, 1, b"1")]).await;
    scene.store.close().await;
    let outcomes = write(&*scene.store, vec![put("a", 1, 2, b"2")]).await;
    assert_eq!(outcomes, [WriteOutcome::NotApplied(StoreError::Closed)]);
    assert_eq!(load(&*scene.store, "a").await, Err(StoreError::Closed));
    scene.store.close().await;
    let mut sessions = 1_i64;
    while sessions > 0 {
        sessions = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'user-state'",
        )
        .fetch_one(&mut scene.observer)
        .await?;
    }
    Ok(())
}
