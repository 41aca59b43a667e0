//! Goal: a write whose session was ended while it waited for a synchronous standby is not reported as applied before a standby
//! has it.
//! Method: a server of the test's own with a synchronous standby that does not exist, until it is no longer asked for.

#![cfg(feature = "postgres")]

mod support;

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use support::{Outcome, change, load, put, write};
use throwaway_postgres::PostgresServer;
use tokio::task::JoinSet;
use user_state_store::{
    Change, ConnectOptions, PostgresStore, Resolution, UnresolvedWrite, Write, WriteBatch,
    WriteOutcome, Writers, resolve,
};

const WAITING: &str = "\
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'SyncRep'";

/// From now on commits wait for a standby that does not exist.
async fn ask_for_a_standby(observer: &mut PgConnection, url: &str) -> Outcome {
    observer
        .execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await?;
    observer.execute("SELECT pg_reload_conf()").await?;
    // The processes of the server follow one after the other; when this commit waits, all of them have.
    let url = url.to_owned();
    let mut probe = JoinSet::new();
    probe.spawn(async move {
        loop {
            let mut connection = PgConnection::connect(&url).await?;
            connection
                .execute("SELECT pg_logical_emit_message(true, 'probe', '')")
                .await?;
            connection.close().await?;
        }
        #[expect(unreachable_code, reason = "it says what the task returns")]
        Ok::<(), sqlx::Error>(())
    });
    until(observer, WAITING, 1).await?;
    observer
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event = 'SyncRep'",
        )
        .await?;
    probe.shutdown().await;
    until(observer, WAITING, 0).await
}

async fn until(observer: &mut PgConnection, query: &str, count: i64) -> Outcome {
    while sqlx::query_scalar::<_, i64>(query)
        .fetch_one(&mut *observer)
        .await?
        != count
    {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_no_standby_has_is_unresolved_until_one_has_it() -> Outcome {
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    let mut options: ConnectOptions = database.url().parse()?;
    options.settings.statement_timeout = Duration::from_secs(1);
    user_state_store::migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    let mut observer = PgConnection::connect(database.url()).await?;
    for outcome in write(&store, vec![put("a", 0, 1, b"1"), put("b", 0, 1, b"1")]).await {
        assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
    }
    ask_for_a_standby(&mut observer, database.url()).await?;

    let writes: Vec<Write> = vec![put("a", 1, 2, b"2"), change("b", 1, Change::Erase)];
    let batch = WriteBatch::new(writes)?;
    let outcomes = write(&store, batch.writes().to_vec()).await;
    let mut lost = Vec::new();
    for (write, outcome) in batch.writes().iter().zip(&outcomes) {
        match outcome {
            WriteOutcome::Unknown(outcome) => {
                lost.push(UnresolvedWrite::new(write.clone(), outcome));
            }
            WriteOutcome::NotApplied(_) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    assert!(!lost.is_empty(), "{outcomes:?}");
    for _ in 0..2 {
        for resolution in resolve(&store, &mut lost, Writers::Sole).await {
            assert!(
                matches!(resolution, Resolution::Unresolved(_)),
                "{resolution:?}"
            );
        }
        // It is committed here, and everybody sees it.
        let seen = load(&store, "a").await?.ok_or("the row is gone")?;
        assert_eq!(seen.revision.get(), 2);
        until(&mut observer, WAITING, 0).await?;
    }

    observer
        .execute("ALTER SYSTEM RESET synchronous_standby_names")
        .await?;
    observer.execute("SELECT pg_reload_conf()").await?;
    let mut open = lost;
    while !open.is_empty() {
        let resolutions = resolve(&store, &mut open, Writers::Sole).await;
        let mut still = Vec::new();
        for (unresolved, resolution) in open.into_iter().zip(resolutions) {
            let id = unresolved.write().persistence_id.as_str().to_owned();
            let row = load(&store, &id).await?;
            let applied = Resolution::Applied(row.map(|row| row.db_timestamp));
            match resolution {
                Resolution::Unresolved(_) => still.push(unresolved),
                resolution => assert_eq!(resolution, applied, "{id}"),
            }
        }
        open = still;
    }
    Ok(())
}
