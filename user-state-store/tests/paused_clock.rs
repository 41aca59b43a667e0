//! Goal: deadlines of database calls are real. A paused clock of tokio jumps ahead whenever everybody waits, and everybody
//! waits while the database works; no call runs out of time by that.
//! Method: the clock is paused before the store is opened.

#![cfg(all(feature = "postgres", feature = "sqlite"))]
#![expect(clippy::disallowed_methods, reason = "this is about real time")]

mod support;

use std::error::Error;
use std::num::NonZeroUsize;
use std::time::Duration;

use support::{Database, Outcome, load, put, write};
use tokio::time::Instant;
use user_state_store::{
    ChangesQuery, DurableStateStore, OpenError, SliceRange, WriteOutcome, connect,
};

async fn read_everything(store: &dyn DurableStateStore) -> Outcome {
    for _ in 0..20 {
        assert!(load(store, "a").await?.is_some());
    }
    let query = ChangesQuery::all("", SliceRange::ALL);
    assert!(!store.changes(&query).await?.states.is_empty());
    let ids = store.persistence_ids(None, NonZeroUsize::MIN).await?;
    assert_eq!(ids.len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_call_to_a_server_runs_out_of_time() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state
             VALUES (0, '', 'a', 1, to_timestamp(1), 31, 'm', 'x', NULL)",
        )
        .await?;
    let before = Instant::now();
    let store = connect(&database.url().parse()?).await?;
    read_everything(store.states().as_ref()).await?;
    store.close().await;
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "the clock hardly moves: {:?}",
        before.elapsed()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_call_to_a_file_runs_out_of_time() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("states.db").display());
    let store = connect(&url.parse()?).await?;
    for id in ["a", "b", "c"] {
        let outcomes = write(store.states().as_ref(), vec![put(id, 0, 1, b"x")]).await;
        assert!(
            matches!(outcomes[..], [WriteOutcome::Applied(_)]),
            "{outcomes:?}"
        );
    }
    read_everything(store.states().as_ref()).await?;
    store.close().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_after_real_time() -> Outcome {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut options: user_state_store::ConnectOptions =
        format!("postgres://u@{}/d", silent.local_addr()?).parse()?;
    options.settings.connect_timeout = Duration::from_millis(100);
    let began = std::time::Instant::now();
    let error = connect(&options).await.err();
    assert!(
        matches!(error, Some(OpenError::Unreachable(_))),
        "{error:?}"
    );
    assert!(began.elapsed() >= options.settings.connect_timeout);
    Ok(())
}
