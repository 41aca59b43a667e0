//! Goal: on PostgreSQL the pages of a feed are bounded, whatever the rows are: alike in their time, large, or damaged.
//! Method: rows made with plain SQL; TOAST values removed by the server's own tool for surgery.

#![cfg(feature = "postgres")]

mod support;

use std::collections::BTreeSet;
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use support::{Database, Outcome};
use tokio::time::timeout;
use user_state_store::{
    Backend as _, ChangesQuery, ConnectOptions, FeedSettings, PAGE_BYTES_MAX, PageEnd,
    PayloadColumn, PostgresStore, SliceRange, StateChange, StateFeeds as _, StoreError,
    StoredValue, TimestampOffset, UnreadableChange, changes_by_slices, current_changes_by_slices,
    migrate,
};

/// Far beyond what a slow machine needs.
const PATIENCE: Duration = Duration::from_mins(2);

async fn open(database: &Database) -> Result<Arc<PostgresStore>, Box<dyn Error>> {
    let options = ConnectOptions::parse(database.url())?;
    Ok(Arc::new(PostgresStore::open(&options).await?))
}

async fn current(
    store: &PostgresStore,
    offset: TimestampOffset,
) -> Vec<Result<StateChange, StoreError>> {
    current_changes_by_slices(store, "", SliceRange::ALL, offset)
        .collect()
        .await
}

/// Looks often.
fn live(
    store: &Arc<PostgresStore>,
    offset: TimestampOffset,
) -> Result<impl Stream<Item = Result<StateChange, StoreError>> + Unpin + use<>, Box<dyn Error>> {
    let settings = FeedSettings::default()
        .refresh_interval(Duration::from_millis(20))
        .behind_current_time(Duration::from_millis(10))
        .max_backoff(Duration::from_millis(200));
    let store = Arc::clone(store);
    Ok(changes_by_slices(
        store,
        "",
        SliceRange::ALL,
        offset,
        settings,
    )?)
}

async fn next(
    feed: &mut (impl Stream<Item = Result<StateChange, StoreError>> + Unpin),
) -> Result<Result<String, Box<UnreadableChange>>, Box<dyn Error>> {
    match timeout(PATIENCE, feed.next()).await?.ok_or("it ended")? {
        Ok(change) => Ok(Ok(change.state.persistence_id.to_string())),
        Err(StoreError::UnreadableChange(change)) => Ok(Err(change)),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
async fn a_hundred_thousand_rows_of_one_instant_come_once_each_and_a_feed_goes_on_inside_it()
-> Outcome {
    const ROWS: usize = 100_000;
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state
             SELECT n % 1024, '', 'user-' || lpad(n::text, 6, '0'), 1 + n % 2, to_timestamp(10), 31, 'm', 'x', NULL
             FROM generate_series(1, 100000) AS n",
        )
        .await?;
    let store = open(&database).await?;
    let changes: Vec<StateChange> = current(&store, TimestampOffset::default())
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    assert_eq!(changes.len(), ROWS);
    let key = |change: &StateChange| (change.state.revision, change.state.persistence_id.clone());
    assert!(changes.is_sorted_by(|one, next| key(one) < key(next)));
    let middle = &changes[ROWS - 10_000];
    assert_eq!(middle.offset.seen.len(), ROWS - 9_999);
    let rest = current(&store, middle.offset.clone()).await;
    let rest: Vec<StateChange> = rest.into_iter().collect::<Result<_, _>>()?;
    let states = |changes: &[StateChange]| -> Vec<_> {
        changes.iter().map(|change| change.state.clone()).collect()
    };
    assert_eq!(states(&rest), states(&changes[ROWS - 9_999..]));
    assert_eq!(rest.last(), changes.last());

    let feed = live(&store, TimestampOffset::default())?;
    let told: BTreeSet<_> = timeout(
        PATIENCE,
        feed.take(ROWS).map_ok(|change| key(&change)).try_collect(),
    )
    .await??;
    assert_eq!(told.len(), ROWS);
    Ok(())
}

#[tokio::test]
async fn a_row_that_the_server_cannot_give_is_named_behind_the_rows_before_it() -> Outcome {
    let database = Database::migrated().await?;
    // Values of their own that do not compress are kept apart from their rows.
    database
        .execute(
            "CREATE EXTENSION pg_surgery;
             INSERT INTO durable_state
             SELECT n, '', 'user-' || n, 1, to_timestamp(n), 31, 'm',
               (SELECT string_agg(sha512((n * 1000 + m)::text::bytea), '') FROM generate_series(1, 100) AS m), NULL
             FROM generate_series(1, 9) AS n;
             DO $$
             DECLARE toast text; lost tid[];
             BEGIN
               SELECT reltoastrelid::regclass::text INTO toast FROM pg_class WHERE oid = 'durable_state'::regclass;
               EXECUTE 'SELECT array_agg(ctid) FROM ' || toast || ' WHERE chunk_id =
                 (SELECT chunk_id FROM ' || toast || ' GROUP BY chunk_id ORDER BY chunk_id OFFSET 4 LIMIT 1)' INTO lost;
               PERFORM heap_force_kill(toast::regclass, lost);
             END $$",
        )
        .await?;
    let store = open(&database).await?;
    let mut items = current(&store, TimestampOffset::default()).await;
    let Some(Err(StoreError::UnreadableChange(damaged))) = items.pop() else {
        return Err("it was read".into());
    };
    assert_eq!(damaged.row.persistence_id.as_str(), "user-5");
    assert_eq!(damaged.row.slice.get(), 5);
    assert_eq!(damaged.row.db_timestamp.timestamp(), 5);
    assert_eq!(damaged.row.revision, 1);
    assert!(
        matches!(damaged.row.reason, StoreError::Unavailable(_)),
        "{damaged:?}"
    );
    let names = |items: Vec<Result<StateChange, StoreError>>| {
        items
            .into_iter()
            .map(|item| item.map(|change| change.state.persistence_id.to_string()))
            .collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(names(items)?, ["user-1", "user-2", "user-3", "user-4"]);
    let behind = current(&store, damaged.behind.clone()).await;
    assert_eq!(names(behind)?, ["user-6", "user-7", "user-8", "user-9"]);

    let mut feed = live(&store, TimestampOffset::default())?;
    for name in ["user-1", "user-2", "user-3", "user-4"] {
        assert_eq!(next(&mut feed).await?.map_err(|_| name)?, name);
    }
    for _ in 0..3 {
        let again = next(&mut feed).await?.err().ok_or("it was passed over")?;
        assert_eq!(again, damaged);
    }
    drop(feed);
    let mut feed = live(&store, damaged.behind)?;
    let mut told = BTreeSet::new();
    // Looking back tells again what was before the offset.
    while !told.contains("user-9") {
        told.insert(
            next(&mut feed)
                .await?
                .map_err(|_| "it was not passed over")?,
        );
    }
    assert!(!told.contains("user-5"));
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_be_decoded_is_an_error_until_it_is_fixed() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (1, '', 'before', 1, to_timestamp(1), 31, 'm', 'x', NULL),
             (2, '', 'broken', -1, to_timestamp(2), 31, 'm', 'x', NULL),
             (3, '', 'behind', 1, to_timestamp(3), 31, 'm', 'x', NULL)",
        )
        .await?;
    let store = open(&database).await?;
    let mut feed = live(&store, TimestampOffset::default())?;
    assert_eq!(next(&mut feed).await?.map_err(|_| "broken")?, "before");
    for _ in 0..2 {
        let broken = next(&mut feed).await?.err().ok_or("it was passed over")?;
        assert_eq!(broken.row.persistence_id.as_str(), "broken");
        assert!(matches!(broken.row.reason, StoreError::Corrupt { .. }));
    }
    database
        .execute("UPDATE durable_state SET revision = 1")
        .await?;
    let fixed = loop {
        if let Ok(name) = next(&mut feed).await? {
            break name;
        }
    };
    assert_eq!(fixed, "broken");
    assert_eq!(next(&mut feed).await?.map_err(|_| "again")?, "behind");
    store.close().await;
    Ok(())
}

/// As bytes, and as JSON that takes little room where it is stored.
#[tokio::test]
async fn a_page_holds_eight_mebibytes_of_payload_however_they_are_stored() -> Outcome {
    const BYTES: usize = 900 * 1024;
    for (column, value) in [
        (
            PayloadColumn::Bytea,
            "convert_to(repeat('x', 921600), 'UTF8')",
        ),
        (
            PayloadColumn::Json,
            "('\"' || repeat('x', 921598) || '\"')::json",
        ),
    ] {
        let database = Database::empty().await?;
        let mut options = ConnectOptions::parse(database.url())?;
        options.settings.payload_column = column;
        migrate(&options).await?;
        database
            .execute(&format!(
                "INSERT INTO durable_state
                 SELECT n, '', 'user-' || n, 1, to_timestamp(n), 31, 'm', {value}, NULL
                 FROM generate_series(1, 100) AS n"
            ))
            .await?;
        let store = PostgresStore::open(&options).await?;
        let mut query = ChangesQuery::all("", SliceRange::ALL);
        let mut reached = 0;
        loop {
            let page = store.changes(&query).await?;
            for state in &page.states {
                let StoredValue::State(payload) = &state.value else {
                    return Err("nothing was deleted".into());
                };
                assert_eq!(payload.bytes.len(), BYTES);
            }
            assert!(page.states.len() <= PAGE_BYTES_MAX / BYTES, "{column:?}");
            reached += page.states.len();
            match page.end {
                PageEnd::Behind(from, after) => (query.from, query.after) = (from, Some(after)),
                end => {
                    assert_eq!(end, PageEnd::Complete);
                    break;
                }
            }
        }
        assert_eq!(reached, 100);
        let all: Vec<_> =
            current_changes_by_slices(&store, "", SliceRange::ALL, TimestampOffset::default())
                .map_ok(|change| change.state.db_timestamp.timestamp())
                .try_collect()
                .await?;
        assert!(all.into_iter().eq(1..=100));
        store.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_feed_whose_end_is_ahead_of_the_servers_clock_reads_each_row_before_the_end_once()
-> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state
             SELECT n, '', 'user-' || n, 1, now() + n * interval '1 minute', 31, 'm', 'x', NULL
             FROM generate_series(1, 300) AS n",
        )
        .await?;
    let store = open(&database).await?;
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT now()")
        .fetch_one(&mut database.connect().await?)
        .await?;
    let until = now + TimeDelta::minutes(200) + TimeDelta::seconds(30);
    for rows_max in [None, NonZeroUsize::new(60)] {
        for length in [None, Some(TimeDelta::minutes(50))] {
            let mut query = ChangesQuery::all("", SliceRange::ALL);
            query.from = now - TimeDelta::minutes(1);
            query.until = Some(until);
            query.limit = NonZeroUsize::new(30).ok_or("zero")?;
            query.rows_max = rows_max;
            query.to = length.map(|length| query.from + length);
            let mut reached = Vec::new();
            // A page at the end of the server's own time would be asked for again and again.
            for _ in 0..100 {
                let page = store.changes(&query).await?;
                assert_eq!(page.until, until);
                let names = page.states.iter();
                reached.extend(names.map(|state| state.slice.get()));
                match page.end {
                    PageEnd::Behind(from, after) => (query.from, query.after) = (from, Some(after)),
                    PageEnd::Before(from) => (query.from, query.after) = (from, None),
                    PageEnd::Crowded => {
                        query.to = Some(query.from + TimeDelta::minutes(20));
                        continue;
                    }
                    end => {
                        assert_eq!(end, PageEnd::Complete);
                        break;
                    }
                }
                query.to = length.map(|length| query.from + length);
            }
            assert!(
                reached.iter().copied().eq(1..=200),
                "{rows_max:?} {length:?}: {reached:?}"
            );
        }
    }
    store.close().await;
    Ok(())
}

/// The payloads of what is left of the instant do not fit into the temporary files that are allowed.
#[tokio::test]
async fn a_page_inside_a_crowded_instant_sorts_no_payloads() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "ALTER TABLE durable_state ALTER COLUMN state_payload SET STORAGE PLAIN;
             INSERT INTO durable_state
             SELECT n % 1024, '', 'user-' || n, 1, to_timestamp(10), 31, 'm',
               convert_to(repeat(md5(n::text), 50), 'UTF8'), NULL
             FROM generate_series(1, 20000) AS n",
        )
        .await?;
    let options = ConnectOptions::parse(&format!(
        "{}?options=-c%20temp_file_limit%3D8MB%20-c%20work_mem%3D1MB",
        database.url()
    ))?;
    let store = PostgresStore::open(&options).await?;
    let mut query = ChangesQuery::all("", SliceRange::ALL);
    query.to = Some(DateTime::from_timestamp(11, 0).ok_or("no instant")?);
    let mut reached = BTreeSet::new();
    loop {
        let page = store.changes(&query).await?;
        reached.extend(
            page.states
                .iter()
                .map(|state| state.persistence_id.to_string()),
        );
        match page.end {
            PageEnd::Behind(from, after) => (query.from, query.after) = (from, Some(after)),
            PageEnd::Before(_) => break,
            end => assert_eq!(end, PageEnd::Complete),
        }
        if reached.len() == 20_000 {
            break;
        }
    }
    assert_eq!(reached.len(), 20_000);
    store.close().await;
    Ok(())
}
