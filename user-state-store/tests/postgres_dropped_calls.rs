//! Goal: a future dropped at any await point harms no later call and leaves nothing half done in a session in use.
//! Method: each kind of call is polled once, twice, ... and dropped; between two polls the test waits until the
//! server is through with what it was sent, so that every await point is met. A single writing session makes a
//! session reused in a bad state show at once.

#![cfg(feature = "postgres")]
#![expect(clippy::indexing_slicing, reason = "a short list ends the test")]

mod support;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use sqlx::PgConnection;
use support::{Database, Outcome, change, load, put, write};
use tokio::time::timeout;
use user_state_store::{
    Change, ConnectOptions, DurableStateStore as _, PersistenceId, PostgresStore, Revision, Write,
    WriteOutcome,
};

/// How long to wait for what takes milliseconds, before it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until no other session of the database runs a statement.
async fn until_quiet(observer: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        let active: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'",
        )
        .fetch_one(&mut *observer)
        .await?;
        if active == 0 {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

/// Polls a call until it was pending this often, then drops it. Tells whether it ended before.
async fn drop_after<T>(
    pendings: usize,
    observer: &mut PgConnection,
    call: impl Future<Output = T>,
) -> Result<Option<T>, sqlx::Error> {
    let mut call = pin!(call);
    for _ in 0..pendings {
        let mut call = call.as_mut();
        if let Poll::Ready(value) =
            poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
        {
            return Ok(Some(value));
        }
        until_quiet(observer).await?;
    }
    Ok(None)
}

async fn open(database: &Database) -> Result<PostgresStore, Box<dyn std::error::Error>> {
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.writer_connections = 1;
    options.pool_connections_max = 1;
    Ok(PostgresStore::open(&options).await?)
}

/// Waits until no session sits in a transaction: those that lost their client need a moment to notice.
async fn until_no_open_transaction(observer: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        let idle_in_transaction: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
        )
        .fetch_one(&mut *observer)
        .await?;
        if idle_in_transaction == 0 {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

async fn revision_of(store: &PostgresStore, id: &str) -> Result<Revision, String> {
    let row = load(store, id).await.map_err(|error| error.to_string())?;
    Ok(row.map_or(Revision::NONE, |row| row.revision))
}

/// Drops a write at each of its await points; the call that follows must work, and every row be whole.
async fn drop_writes_at_each_point(
    make: impl Fn(usize, Revision) -> Vec<Write>,
    prepare: impl Fn(usize) -> Vec<Write>,
) -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let mut observer = database.connect().await?;
    let outcomes = write(&store, vec![put("bystander", 0, 1, b"x")]).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    for pendings in 0.. {
        let prepared = write(&store, prepare(pendings)).await;
        assert!(
            prepared
                .iter()
                .all(|outcome| matches!(outcome, WriteOutcome::Applied(_)))
        );
        let ids: Vec<_> = make(pendings, Revision::NONE)
            .into_iter()
            .map(|write| write.persistence_id)
            .collect();
        let before = revision_of(&store, ids[0].as_str()).await?;
        let batch = make(pendings, before);
        let ended = drop_after(pendings, &mut observer, write(&store, batch)).await?;

        // A bystander goes through at once, in a session that is fit. It is an update, which commits by itself: in a
        // session left in a transaction nobody else would see it.
        let bystander = i64::try_from(pendings)?;
        let outcomes = write(
            &store,
            vec![put("bystander", bystander + 1, bystander + 2, b"x")],
        )
        .await;
        assert!(
            matches!(outcomes[..], [WriteOutcome::Applied(_)]),
            "{pendings}: {outcomes:?}"
        );
        let stored = revision_of(&store, "bystander").await?;
        assert_eq!(stored.get(), bystander + 2, "after {pendings}");
        timeout(PATIENCE, until_no_open_transaction(&mut observer)).await??;

        // All rows of a batch, or none.
        let applied: Vec<bool> = {
            let mut applied = Vec::new();
            for id in &ids {
                applied.push(revision_of(&store, id.as_str()).await? != before);
            }
            applied
        };
        assert!(
            applied.windows(2).all(|pair| pair[0] == pair[1]),
            "{pendings}: {applied:?}"
        );
        if let Some(outcomes) = ended {
            assert!(
                outcomes
                    .iter()
                    .all(|outcome| matches!(outcome, WriteOutcome::Applied(_)))
            );
            assert!(pendings > 1, "a write has await points");
            return Ok(());
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_update_may_be_dropped_at_any_point() -> Outcome {
    drop_writes_at_each_point(
        |round, before| {
            let next = before.get() + 1;
            let (low, high) = (format!("{round}-a"), format!("{round}-b"));
            vec![
                put(&low, next - 1, next.max(1), b"2"),
                put(&high, next - 1, next.max(1), b"2"),
            ]
        },
        |round| {
            let (low, high) = (format!("{round}-a"), format!("{round}-b"));
            vec![put(&low, 0, 1, b"1"), put(&high, 0, 1, b"1")]
        },
    )
    .await
}

#[tokio::test]
async fn a_creation_may_be_dropped_at_any_point() -> Outcome {
    drop_writes_at_each_point(
        |round, _| {
            let (low, high) = (format!("{round}-a"), format!("{round}-b"));
            vec![put(&low, 0, 1, b"1"), put(&high, 0, 1, b"1")]
        },
        |round| vec![put(&format!("other-{round}"), 0, 1, b"1")],
    )
    .await
}

#[tokio::test]
async fn an_erasure_may_be_dropped_at_any_point() -> Outcome {
    drop_writes_at_each_point(
        |round, before| {
            let (low, high) = (format!("{round}-a"), format!("{round}-b"));
            let expected = before.get().max(1);
            vec![
                change(&low, expected, Change::Erase),
                change(&high, expected, Change::Erase),
            ]
        },
        |round| {
            let (low, high) = (format!("{round}-a"), format!("{round}-b"));
            vec![put(&low, 0, 1, b"1"), put(&high, 0, 1, b"1")]
        },
    )
    .await
}

#[tokio::test]
async fn a_load_may_be_dropped_at_any_point() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let mut observer = database.connect().await?;
    let created = write(&store, vec![put("a", 0, 1, b"a"), put("b", 0, 1, b"b")]).await;
    assert_eq!(created.len(), 2);
    let ids = [PersistenceId::unique("a")?, PersistenceId::unique("b")?];
    for pendings in 0.. {
        let ended = drop_after(pendings, &mut observer, store.load(&ids[..1])).await?;
        let rows = store.load(&ids[1..]).await?;
        let row = rows[0]
            .as_ref()
            .map_err(Clone::clone)?
            .as_ref()
            .ok_or("no row")?;
        assert_eq!(
            row.persistence_id, ids[1],
            "{pendings}: the answer to the dropped call"
        );
        if ended.is_some() {
            assert!(pendings > 0, "a load has await points");
            return Ok(());
        }
    }
    Ok(())
}
