//! Goal: a feed gives decoded states, and a row that only its mapping cannot read is an error in its place, never a gap and
//! never the end.
//! Method: the same changes through a live feed and one that ends, on SQLite and on PostgreSQL, with a mapping that refuses
//! one row and panics on another.

#![cfg(all(feature = "postgres", feature = "sqlite"))]

mod support;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use support::{Database, Outcome};
use tokio::time::timeout;
use user_state_store::{
    DecodeError, DurableStateStore, EncodeError, FeedSettings, Payload, PersistenceId,
    PrimitiveMapping, Revision, SliceRange, SqliteStore, StateChange, StateMapping, StoreError,
    StoreSettings, Tags, TimestampOffset, TypedChange, TypedValue, UnreadableChange, Write,
    WriteBatch, WriteOutcome, changes_by_slices, connect, current_changes_by_slices, typed_changes,
};

/// Far beyond what a slow machine needs.
const PATIENCE: Duration = Duration::from_mins(1);

/// Counts, of which 13 cannot be read and 14 makes the mapping panic.
struct Counts(PrimitiveMapping<i64>);

impl Counts {
    fn shared() -> Arc<dyn StateMapping<i64>> {
        Arc::new(Self(PrimitiveMapping::new()))
    }
}

impl StateMapping<i64> for Counts {
    fn encode(&self, id: &PersistenceId, state: &i64) -> Result<Payload, EncodeError> {
        self.0.encode(id, state)
    }

    #[expect(clippy::panic, reason = "a mapping that panics is what is tested")]
    fn decode(&self, id: &PersistenceId, payload: &Payload) -> Result<i64, DecodeError> {
        match self.0.decode(id, payload)? {
            13 => Err(DecodeError::MalformedVersion),
            14 => panic!("as a mapping may"),
            count => Ok(count),
        }
    }

    fn reset(&self, _: DateTime<Utc>) -> i64 {
        0
    }
}

type Store = Arc<dyn DurableStateStore>;
type Item = Result<TypedChange<i64>, StoreError>;

fn id(name: &str) -> Result<PersistenceId, Box<dyn Error>> {
    Ok(PersistenceId::of("Count", name)?)
}

async fn write(store: &Store, write: Write) -> Outcome {
    let outcomes = store.write(&WriteBatch::new(vec![write])?).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    Ok(())
}

async fn put(store: &Store, name: &str, count: i64) -> Outcome {
    let payload = Counts::shared().encode(&id(name)?, &count)?;
    let create = Write::create(id(name)?, payload);
    write(store, create.tags(Tags::one("count"))).await
}

/// A state, one that cannot be read, one that panics, a state, and a deletion.
async fn write_all(store: &Store) -> Outcome {
    put(store, "a", 1).await?;
    put(store, "unreadable", 13).await?;
    put(store, "panics", 14).await?;
    put(store, "b", 2).await?;
    put(store, "deleted", 3).await?;
    write(store, Write::mark(id("deleted")?, Revision::FIRST)).await
}

fn changes(
    store: &Store,
    offset: TimestampOffset,
) -> impl Stream<Item = Result<StateChange, StoreError>> {
    current_changes_by_slices(store.as_ref(), "Count", SliceRange::ALL, offset)
}

fn live(store: &Store) -> Result<impl Stream<Item = Item> + Unpin, Box<dyn Error>> {
    let (start, settings) = (TimestampOffset::default(), FeedSettings::default());
    let live = changes_by_slices(store.clone(), "Count", SliceRange::ALL, start, settings)?;
    Ok(typed_changes(live, Counts::shared()))
}

fn unreadable(item: &Item) -> Result<&UnreadableChange, Box<dyn Error>> {
    match item {
        Err(StoreError::UnreadableChange(change)) => Ok(change),
        other => Err(format!("not an unreadable change: {other:?}").into()),
    }
}

fn assert_refused(item: &Item, name: &str, expected: &DecodeError) -> Outcome {
    let UnreadableChange { row, .. } = unreadable(item)?;
    assert_eq!((&row.persistence_id, row.revision), (&id(name)?, 1));
    assert_eq!(row.slice, row.persistence_id.slice());
    let StoreError::Corrupt {
        persistence_id,
        reason,
        ..
    } = &row.reason
    else {
        return Err(format!("{:?}", row.reason).into());
    };
    assert_eq!((persistence_id, reason), (&row.persistence_id, expected));
    Ok(())
}

/// What both kinds of feeds give of everything that was written.
fn assert_all(items: &[Item], raw: &[StateChange]) -> Outcome {
    let [a, unreadable, panics, b, deleted] = items else {
        return Err(format!("{items:?}").into());
    };
    let [raw_a, _, _, raw_b, raw_deleted] = raw else {
        return Err(format!("{raw:?}").into());
    };
    assert_refused(unreadable, "unreadable", &DecodeError::MalformedVersion)?;
    assert_refused(panics, "panics", &DecodeError::Panicked)?;
    for (item, raw, value) in [
        (a, raw_a, TypedValue::State(1)),
        (b, raw_b, TypedValue::State(2)),
        (deleted, raw_deleted, TypedValue::Deleted),
    ] {
        let change = item.as_ref().map_err(Clone::clone)?;
        assert_eq!(change.value, value);
        assert_eq!(change.persistence_id, raw.state.persistence_id);
        assert_eq!(change.slice, raw.state.slice);
        assert_eq!(change.revision, raw.state.revision);
        assert_eq!(change.db_timestamp, raw.state.db_timestamp);
        assert_eq!(change.tags, raw.state.tags);
        assert_eq!(change.tags, Tags::one("count"));
    }
    assert_eq!(a.as_ref().map_err(Clone::clone)?.state(), Some(&1));
    assert_eq!(deleted.as_ref().map_err(Clone::clone)?.state(), None);
    Ok(())
}

async fn both_kinds_of_feeds_are_typed(store: Store) -> Outcome {
    write_all(&store).await?;
    let start = TimestampOffset::default;
    let raw: Vec<_> = changes(&store, start()).collect().await;
    let raw = raw.into_iter().collect::<Result<Vec<_>, _>>()?;

    let ending = typed_changes(changes(&store, start()), Counts::shared());
    let items: Vec<Item> = ending.collect().await;
    assert_all(&items, &raw)?;
    for (item, raw) in items.iter().zip(&raw) {
        let offset = match item {
            Ok(change) => &change.offset,
            Err(_) => &unreadable(item)?.behind,
        };
        assert_eq!(
            offset, &raw.offset,
            "a typed feed resumes where a raw one does"
        );
    }

    let mut live = live(&store)?;
    let mut items = Vec::new();
    while items.len() < raw.len() {
        items.push(
            timeout(PATIENCE, live.next())
                .await?
                .ok_or("a live feed goes on")?,
        );
    }
    assert_all(&items, &raw)?;
    put(&store, "later", 4).await?;
    let later = timeout(PATIENCE, live.next())
        .await?
        .ok_or("a live feed goes on")??;
    assert_eq!(later.state(), Some(&4));

    // Leaving out what cannot be read is a choice.
    let behind = unreadable(items.get(2).ok_or("five came")?)?.behind.clone();
    let rest = typed_changes(changes(&store, behind), Counts::shared());
    let rest: Vec<Item> = rest.collect().await;
    let names = rest.iter().map(|item| match item {
        Ok(change) => change.persistence_id.entity_id(),
        Err(_) => "an error",
    });
    assert_eq!(names.collect::<Vec<_>>(), ["b", "deleted", "later"]);

    store.close().await;
    let closed = timeout(PATIENCE, live.next()).await?;
    assert_eq!(closed, Some(Err(StoreError::Closed)));
    assert_eq!(live.next().await, None);
    Ok(())
}

#[tokio::test]
async fn both_kinds_of_feeds_are_typed_on_sqlite() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("user-state.db");
    let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
    both_kinds_of_feeds_are_typed(Arc::new(store)).await
}

#[tokio::test]
async fn both_kinds_of_feeds_are_typed_on_postgres() -> Outcome {
    let database = Database::migrated().await?;
    let store = connect(&database.url().parse()?).await?;
    both_kinds_of_feeds_are_typed(Arc::clone(store.states())).await
}
