//! The change feed tells every entity's latest state once, whatever the pages and wherever it begins.
//!
//! Method: random histories on SQLite, written in batches larger than a page, compared with a model; the feed is
//! cut at random places and continued from the offset there.

#![cfg(feature = "sqlite")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use proptest::prelude::*;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tempfile::TempDir;
use user_state_store::{
    BATCH_ROWS_MAX, Backend as _, ChangesQuery, DurableStateStore, FeedSettings, Manifest,
    PAGE_BYTES_MAX, PageEnd, Payload, PersistenceId, Revision, SerializerId, SliceRange,
    SqliteStore, StateChange, StateFeeds as _, StoreError, StoreSettings, StoredState,
    TimestampOffset, Write, WriteBatch, WriteOutcome, changes_by_slices, current_changes_by_slices,
    current_persistence_ids,
};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

async fn open() -> TestResult<(TempDir, SqliteStore)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
    Ok((directory, store))
}

fn put(id: PersistenceId, expected: Revision) -> Write {
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("State"),
        bytes: Vec::new(),
    };
    Write::update(id, expected, payload)
}

/// Advances each of these entities by one, in one batch.
async fn advance(
    store: &SqliteStore,
    model: &mut BTreeMap<PersistenceId, Revision>,
    ids: impl IntoIterator<Item = PersistenceId>,
) -> TestResult {
    let writes = ids
        .into_iter()
        .map(|id| {
            let revision = model.entry(id.clone()).or_default();
            let write = put(id, *revision);
            *revision = write.new_revision();
            write
        })
        .collect();
    let outcomes = store.write(&WriteBatch::new(writes)?).await;
    let applied = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Applied(_));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    Ok(())
}

async fn feed(
    store: &dyn DurableStateStore,
    entity_type: &str,
    offset: TimestampOffset,
) -> Result<Vec<StateChange>, StoreError> {
    current_changes_by_slices(store, entity_type, SliceRange::ALL, offset)
        .try_collect()
        .await
}

fn states(changes: &[StateChange]) -> impl Iterator<Item = &StoredState> {
    changes.iter().map(|change| &change.state)
}

fn latest(changes: &[StateChange]) -> BTreeMap<PersistenceId, Revision> {
    let rows = changes.iter().map(|change| &change.state);
    rows.map(|state| (state.persistence_id.clone(), state.revision))
        .collect()
}

/// Batches of entity numbers, each batch without repetition.
fn histories() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let batch = proptest::sample::subsequence((0..24).collect::<Vec<u8>>(), 0..=12);
    proptest::collection::vec(batch, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_feed_cut_anywhere_and_continued_tells_what_one_feed_tells(
        history in histories(),
        later in histories(),
        cut in 0_usize..24,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (_directory, store) = open().await.unwrap();
            let mut model = BTreeMap::new();
            let id = |number: u8| PersistenceId::unique(&format!("user-{number}")).unwrap();
            for batch in history {
                advance(&store, &mut model, batch.into_iter().map(id)).await.unwrap();
            }
            let whole = feed(&store, "", TimestampOffset::default()).await.unwrap();
            prop_assert_eq!(whole.len(), model.len());
            prop_assert_eq!(latest(&whole), model.clone());

            let until = cut.min(whole.len());
            let start = TimestampOffset::default();
            let first: Vec<StateChange> =
                current_changes_by_slices(&store, "", SliceRange::ALL, start)
                    .take(until)
                    .try_collect()
                    .await
                    .unwrap();
            let offset = first.last().map_or_else(TimestampOffset::default, |change| change.offset.clone());
            let rest = feed(&store, "", offset.clone()).await.unwrap();
            let joined: Vec<StateChange> = first.iter().cloned().chain(rest).collect();
            prop_assert_eq!(&joined, &whole);

            // What is written afterwards is told by a feed from any offset before it.
            for batch in later {
                advance(&store, &mut model, batch.into_iter().map(id)).await.unwrap();
            }
            let rest = feed(&store, "", offset).await.unwrap();
            let mut known = latest(&first);
            known.extend(latest(&rest));
            prop_assert_eq!(known, model);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn entities_of_full_batches_share_their_time_and_all_come() -> TestResult {
    let (_directory, store) = open().await?;
    let mut model = BTreeMap::new();
    for batch in 0..5 {
        let ids = (0..BATCH_ROWS_MAX)
            .map(|number| PersistenceId::of("User", &format!("{batch}-{number}")))
            .collect::<Result<Vec<_>, _>>()?;
        advance(&store, &mut model, ids).await?;
    }
    let changes = feed(&store, "User", TimestampOffset::default()).await?;
    assert_eq!(changes.len(), 5 * BATCH_ROWS_MAX);
    assert_eq!(latest(&changes), model);
    let last = changes.last().ok_or("nothing came")?;
    assert_eq!(last.offset.seen.len(), BATCH_ROWS_MAX);
    assert!(feed(&store, "User", last.offset.clone()).await?.is_empty());
    Ok(())
}

/// Statements of another program on the same file.
async fn execute(directory: &TempDir, sql: &str) -> TestResult {
    let options = SqliteConnectOptions::new().filename(directory.path().join("store.db"));
    let mut connection = SqliteConnection::connect_with(&options).await?;
    connection.execute(sql).await?;
    connection.close().await?;
    Ok(())
}

#[tokio::test]
async fn an_instant_of_any_size_comes_whole_and_in_order() -> TestResult {
    const ROWS: usize = 30_000;
    let (directory, store) = open().await?;
    execute(
        &directory,
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 30000)
         INSERT INTO durable_state
         SELECT n % 1024, '', printf('user-%05d', n), n % 3, 1000000, 31, 'State', x'7b7d', NULL FROM n",
    )
    .await?;
    let changes = feed(&store, "", TimestampOffset::default()).await?;
    assert_eq!(changes.len(), ROWS);
    let key = |change: &StateChange| (change.state.revision, change.state.persistence_id.clone());
    assert!(changes.is_sorted_by(|one, next| key(one) < key(next)));
    let middle = &changes[ROWS / 2];
    assert_eq!(middle.offset.seen.len(), ROWS / 2 + 1);
    let rest = feed(&store, "", middle.offset.clone()).await?;
    assert!(states(&rest).eq(states(&changes[ROWS / 2 + 1..])));
    assert_eq!(rest.last(), changes.last());

    let settings = FeedSettings::default();
    let start = TimestampOffset::default();
    let live = changes_by_slices(Arc::new(store), "", SliceRange::ALL, start, settings)?;
    let live: Vec<StateChange> = live.take(ROWS).try_collect().await?;
    assert!(live.iter().map(key).eq(changes.iter().map(key)));
    Ok(())
}

#[tokio::test]
async fn rows_before_an_unreadable_one_come_and_the_error_says_how_to_go_on() -> TestResult {
    let (directory, store) = open().await?;
    let mut model = BTreeMap::new();
    for number in 0..6 {
        let id = PersistenceId::unique(&format!("user-{number}"))?;
        advance(&store, &mut model, [id]).await?;
    }
    let whole = feed(&store, "", TimestampOffset::default()).await?;
    for damage in [
        "state_payload = 5",
        "revision = -1",
        "revision = 'text'",
        "db_timestamp = db_timestamp + 0.5",
        "tags = 'no list'",
        "state_payload = zeroblob(5000000)",
    ] {
        execute(
            &directory,
            &format!("UPDATE durable_state SET {damage} WHERE persistence_id = 'user-3'"),
        )
        .await?;
        let start = TimestampOffset::default();
        let mut items: Vec<_> = current_changes_by_slices(&store, "", SliceRange::ALL, start)
            .collect()
            .await;
        let Some(Err(StoreError::UnreadableChange(unreadable))) = items.pop() else {
            return Err(format!("{damage}: it was read").into());
        };
        let told = items.into_iter().collect::<Result<Vec<_>, _>>()?;
        assert_eq!(told, whole[..3], "{damage}");
        let id = &unreadable.row.persistence_id;
        assert_eq!(id.as_str(), "user-3", "{damage}");
        assert_eq!(unreadable.row.slice, id.slice());
        assert_eq!(
            unreadable.row.db_timestamp, whole[3].state.db_timestamp,
            "{damage}"
        );
        let rest = feed(&store, "", unreadable.behind).await?;
        assert_eq!(rest, whole[4..], "{damage}");
        let saved = &whole[3].state;
        execute(
            &directory,
            &format!(
                "UPDATE durable_state SET state_payload = x'', revision = 1, tags = NULL,
                 state_ser_manifest = 'State', db_timestamp = {} WHERE persistence_id = 'user-3'",
                saved.db_timestamp.timestamp_micros()
            ),
        )
        .await?;
    }
    assert_eq!(feed(&store, "", TimestampOffset::default()).await?, whole);
    Ok(())
}

#[tokio::test]
async fn a_page_holds_eight_mebibytes_of_payload_or_one_row() -> TestResult {
    let (directory, store) = open().await?;
    execute(
        &directory,
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 60)
         INSERT INTO durable_state
         SELECT n, '', 'user-' || n, 1, n, 31, 'State', zeroblob(921600), NULL FROM n",
    )
    .await?;
    let mut query = ChangesQuery::all("", SliceRange::ALL);
    let mut reached = 0;
    loop {
        let page = store.changes(&query).await?;
        assert!(page.states.len() <= PAGE_BYTES_MAX / 921_600);
        reached += page.states.len();
        match page.end {
            PageEnd::Behind(from, after) => (query.from, query.after) = (from, Some(after)),
            end => {
                assert_eq!(end, PageEnd::Complete);
                break;
            }
        }
    }
    assert_eq!(reached, 60);
    assert_eq!(
        feed(&store, "", TimestampOffset::default()).await?.len(),
        60
    );
    Ok(())
}

#[tokio::test]
async fn the_ids_of_many_pages_come_once_each() -> TestResult {
    let (_directory, store) = open().await?;
    let mut model = BTreeMap::new();
    for batch in 0..5 {
        let ids = (0..BATCH_ROWS_MAX)
            .map(|number| PersistenceId::unique(&format!("user-{number}-{batch}")))
            .collect::<Result<Vec<_>, _>>()?;
        advance(&store, &mut model, ids).await?;
    }
    let ids: Vec<PersistenceId> = current_persistence_ids(&store).try_collect().await?;
    let expected: Vec<PersistenceId> = model.into_keys().collect();
    assert_eq!(ids, expected);
    Ok(())
}

#[tokio::test]
async fn a_feed_on_a_closed_store_ends_with_its_error() -> TestResult {
    let (_directory, store) = open().await?;
    store.close().await;
    let start = TimestampOffset::default();
    let items: Vec<_> = current_changes_by_slices(&store, "", SliceRange::ALL, start)
        .collect()
        .await;
    assert_eq!(items, [Err(StoreError::Closed)]);
    let items: Vec<_> = current_persistence_ids(&store).collect().await;
    assert_eq!(items, [Err(StoreError::Closed)]);
    Ok(())
}

#[tokio::test]
async fn a_live_feed_with_settings_out_of_range_does_not_begin() -> TestResult {
    let (_directory, store) = open().await?;
    let settings = FeedSettings::default().refresh_interval(Duration::ZERO);
    let start = TimestampOffset::default();
    let refused = changes_by_slices(Arc::new(store), "", SliceRange::ALL, start, settings).err();
    assert_eq!(
        refused.map(|refused| refused.setting),
        Some("refresh_interval")
    );
    Ok(())
}
