//! Goal: on PostgreSQL, where transactions take their times early and commit late, a live feed misses nothing; it sees what
//! others write, and outlives an outage of the database.
//! Method: transactions written by hand as another writer's, held open while the feed goes past their times; two stores
//! that write at once; a server that is stopped and started.

#![cfg(feature = "postgres")]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use sqlx::{Connection as _, Executor as _, PgConnection};
use support::{Database, Outcome, put, write};
use throwaway_postgres::PostgresServer;
use tokio::task::JoinSet;
use tokio::time::timeout;
use user_state_store::{
    ConnectOptions, FeedSettings, PersistenceId, PostgresStore, SliceRange, StateChange,
    StoreError, TimestampOffset, WriteOutcome, changes_by_slices, migrate,
};

/// Far beyond what a slow machine needs.
const PATIENCE: Duration = Duration::from_mins(1);

/// Looks often, and back every five seconds.
fn eager() -> FeedSettings {
    FeedSettings::default()
        .refresh_interval(Duration::from_millis(20))
        .behind_current_time(Duration::from_millis(10))
        .backtracking_window(Duration::from_secs(10))
        .max_backoff(Duration::from_millis(200))
}

/// Looks once and then not before the test is over.
fn lazy() -> FeedSettings {
    FeedSettings::default().refresh_interval(Duration::from_hours(1))
}

trait Feed: Stream<Item = Result<StateChange, StoreError>> + Unpin {}

impl<S: Stream<Item = Result<StateChange, StoreError>> + Unpin> Feed for S {}

fn start(
    store: &Arc<PostgresStore>,
    offset: TimestampOffset,
    settings: FeedSettings,
) -> Result<impl Feed + use<>, Box<dyn Error>> {
    let store = Arc::clone(store);
    Ok(changes_by_slices(
        store,
        "",
        SliceRange::ALL,
        offset,
        settings,
    )?)
}

async fn item(feed: &mut impl Feed) -> Result<Result<StateChange, StoreError>, Box<dyn Error>> {
    let item = timeout(PATIENCE, feed.next()).await?;
    Ok(item.ok_or("a live feed does not end")?)
}

async fn next(feed: &mut impl Feed) -> Result<StateChange, Box<dyn Error>> {
    Ok(item(feed).await??)
}

async fn open(database: &Database) -> Result<Arc<PostgresStore>, Box<dyn Error>> {
    let options = ConnectOptions::parse(database.url())?;
    Ok(Arc::new(PostgresStore::open(&options).await?))
}

fn name(change: &StateChange) -> &str {
    change.state.persistence_id.as_str()
}

/// Writes a first revision as Pekko does: the time of the row is that of the transaction.
async fn insert(connection: &mut PgConnection, id: &str) -> Result<(), Box<dyn Error>> {
    let slice = PersistenceId::unique(id)?.slice();
    sqlx::query(
        "INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
           state_ser_manifest, state_payload)
         VALUES ($1, '', $2, 1, transaction_timestamp(), 31, 'com.example.State', '{}')",
    )
    .bind(i32::from(slice.get()))
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// A transaction that has taken its time and written nothing yet.
async fn early(database: &Database) -> Result<PgConnection, Box<dyn Error>> {
    let mut connection = database.connect().await?;
    connection.execute("BEGIN").await?;
    connection.execute("SELECT transaction_timestamp()").await?;
    Ok(connection)
}

#[tokio::test]
async fn a_transaction_that_commits_after_later_ones_were_told_is_told_too() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let mut feed = start(&store, TimestampOffset::default(), eager())?;
    let mut late = early(&database).await?;
    let mut other = database.connect().await?;
    for id in ["a", "b"] {
        insert(&mut other, id).await?;
        assert_eq!(name(&next(&mut feed).await?), id);
    }
    insert(&mut late, "late").await?;
    late.execute("COMMIT").await?;
    let change = next(&mut feed).await?;
    assert_eq!(name(&change), "late");
    assert!(
        change.state.db_timestamp < change.offset.timestamp,
        "the feed had gone past it"
    );
    insert(&mut other, "c").await?;
    assert_eq!(name(&next(&mut feed).await?), "c", "nothing is repeated");
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_commits_while_no_feed_runs_is_told_by_the_resumed_one() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let mut late = early(&database).await?;
    let mut offset = TimestampOffset::default();
    {
        let mut feed = start(&store, offset, eager())?;
        let mut other = database.connect().await?;
        insert(&mut other, "a").await?;
        offset = next(&mut feed).await?.offset;
    }
    insert(&mut late, "late").await?;
    late.execute("COMMIT").await?;
    let mut feed = start(&store, offset.clone(), lazy())?;
    let change = next(&mut feed).await?;
    assert_eq!(
        name(&change),
        "late",
        "what was seen at the offset is not repeated"
    );
    assert!(change.state.db_timestamp < offset.timestamp);
    assert_eq!(change.offset, offset);
    Ok(())
}

#[tokio::test]
async fn an_own_write_that_commits_late_is_told_when_it_is_acknowledged() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let created = write(&*store, vec![put("a", 0, 1, b"1"), put("b", 0, 1, b"1")]).await;
    assert!(created.iter().all(is_applied), "{created:?}");
    let mut feed = start(&store, TimestampOffset::default(), lazy())?;
    for _ in 0..2 {
        next(&mut feed).await?;
    }
    // The write of `a` takes its time, and then waits inside its statement.
    database.stop_at("a").await?;
    let mut blocker = database.connect().await?;
    blocker
        .execute("BEGIN; SELECT pg_advisory_xact_lock(1)")
        .await?;
    let writer = Arc::clone(&store);
    let mut writing = JoinSet::new();
    writing.spawn(async move { write(&*writer, vec![put("a", 1, 2, b"2")]).await });
    let mut observer = database.connect().await?;
    while waiting(&mut observer).await? == 0 {
        tokio::task::yield_now().await;
    }
    write(&*store, vec![put("b", 1, 2, b"2")]).await;
    let overtaking = next(&mut feed).await?;
    assert_eq!(name(&overtaking), "b");
    blocker.execute("COMMIT").await?;
    let outcomes = writing.join_next().await.ok_or("it was spawned")??;
    assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
    let change = next(&mut feed).await?;
    assert_eq!(name(&change), "a");
    assert!(change.state.db_timestamp < overtaking.state.db_timestamp);
    Ok(())
}

async fn waiting(observer: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .fetch_one(observer)
    .await
}

fn is_applied(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Applied(_))
}

#[tokio::test]
async fn what_others_write_comes_in_the_order_of_its_times() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let mut feed = start(&store, TimestampOffset::default(), eager())?;
    let mut other = database.connect().await?;
    let ids: Vec<String> = (0..50).map(|number| format!("foreign-{number}")).collect();
    for id in &ids {
        insert(&mut other, id).await?;
    }
    let mut before = TimestampOffset::default();
    for id in &ids {
        let change = next(&mut feed).await?;
        assert_eq!(name(&change), id);
        assert_eq!(change.offset.timestamp, change.state.db_timestamp);
        assert!(before.timestamp < change.offset.timestamp);
        before = change.offset;
    }
    Ok(())
}

#[tokio::test]
async fn of_two_stores_that_write_at_once_every_final_revision_is_told_in_order() -> Outcome {
    const ENTITIES: i64 = 200;
    const ROUNDS: i64 = 60;
    let database = Database::migrated().await?;
    let own = open(&database).await?;
    let foreign = open(&database).await?;
    let settings = eager().buffer_size(501);
    let mut feed = start(&own, TimestampOffset::default(), settings)?;
    let mut tasks = JoinSet::new();
    for (writer, store) in [&own, &own, &foreign, &foreign].into_iter().enumerate() {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                // In each round another third of the entities, each at the revision it has by then.
                let writes = (0..ENTITIES).filter(|entity| (entity + round) % 3 == 0);
                let writes = writes.map(|entity| {
                    let revision = (0..round).filter(|past| (entity + past) % 3 == 0).count();
                    let revision = i64::try_from(revision).unwrap();
                    put(&format!("{writer}-{entity}"), revision, revision + 1, b"{}")
                });
                let outcomes = write(&*store, writes.collect()).await;
                assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
            }
        });
    }
    let mut known: BTreeMap<PersistenceId, i64> = BTreeMap::new();
    let total = usize::try_from(4 * ENTITIES)?;
    while known.len() < total || known.values().any(|revision| *revision < ROUNDS / 3) {
        let state = next(&mut feed).await?.state;
        let revision = state.revision.get();
        let before = known.insert(state.persistence_id, revision).unwrap_or(0);
        assert!(before <= revision, "{revision} after {before}");
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    assert!(known.values().all(|revision| *revision == ROUNDS / 3));
    Ok(())
}

#[tokio::test]
async fn an_outage_is_an_error_that_the_feed_outlives() -> Outcome {
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    let options = ConnectOptions::parse(database.url())?;
    migrate(&options).await?;
    let store = Arc::new(PostgresStore::open(&options).await?);
    let mut feed = start(&store, TimestampOffset::default(), eager())?;
    let mut other = PgConnection::connect(database.url()).await?;
    insert(&mut other, "before").await?;
    assert_eq!(name(&next(&mut feed).await?), "before");

    server.stop().await?;
    for _ in 0..3 {
        let error = item(&mut feed).await?.err().ok_or("nobody was there")?;
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
    server.restart().await?;
    let mut other = PgConnection::connect(database.url()).await?;
    insert(&mut other, "after").await?;
    let change = loop {
        match item(&mut feed).await? {
            Ok(change) => break change,
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
    };
    assert_eq!(name(&change), "after");
    Ok(())
}
