//! Change feeds by slice: the latest state of each entity, in the order of `db_timestamp`. One ends at the present, the
//! other (`changes/live.rs`) goes on.
//!
//! **Problem.** Rows that share a `db_timestamp` may lie on two pages, and a reader that goes on later must
//! neither miss one of them nor get one twice.
//!
//! **How.** As Pekko's `currentChangesBySlices`: an offset is a time and the entities seen at exactly that time. Each page
//! begins at the time of the last one, and what was seen is left out. The pure part is `changes/feed.rs`.
//!
//! **Guarantees.** Every entity of the slices whose latest write was committed before the feed began and lies behind
//! the offset comes, at least with its then latest state; oldest first. An entity written meanwhile comes as it was or
//! moves behind the feed's end, to be found by the next feed from the last offset.
//!
//! **Not here.** In the feed that ends: a transaction that takes its time before another one and commits after it. On
//! PostgreSQL it can be overtaken; the live feed looks back for it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};

use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::{BATCH_ROWS_MAX, DurableStateStore, StoredState};

mod feed;
mod live;
mod settings;

use feed::Feed;
pub use live::changes_by_slices;
pub use settings::{FeedSettings, InvalidFeedSettings};

/// The rows of a page of a feed or of ids.
///
/// Rows of one batch share their time, and as many as fill a page cannot be told from more than fill it: so a page
/// holds two of the largest batches.
const PAGE_ROWS: NonZeroUsize = match NonZeroUsize::new(2 * BATCH_ROWS_MAX) {
    Some(rows) => rows,
    None => NonZeroUsize::MIN,
};

/// A position in a change feed: a `db_timestamp`, and what was already seen at exactly that instant.
///
/// The same as Pekko's `TimestampOffset`, without its `readTimestamp`.
///
/// ```
/// use user_state_store::TimestampOffset;
///
/// let start = TimestampOffset::default();
/// assert_eq!(start.timestamp.timestamp(), 0);
/// assert!(start.seen.is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimestampOffset {
    /// Changes before this instant were seen; 1970-01-01 at the start of a feed.
    pub timestamp: DateTime<Utc>,
    /// The entities seen at exactly this instant, with the revision seen.
    ///
    /// Shared, since the offsets of the changes of one instant differ little.
    pub seen: Arc<BTreeMap<PersistenceId, Revision>>,
}

impl TimestampOffset {
    /// An instant of which nothing was seen.
    fn at(timestamp: DateTime<Utc>) -> Self {
        Self {
            timestamp,
            seen: Arc::default(),
        }
    }

    /// Goes on to a row, unless it was seen; whether it was not. A new instant forgets who was seen at the one before.
    fn see(&mut self, id: &PersistenceId, at: DateTime<Utc>, revision: Revision) -> bool {
        match at.cmp(&self.timestamp) {
            Ordering::Less => return false,
            Ordering::Equal => {
                if self.seen.get(id).is_some_and(|seen| *seen >= revision) {
                    return false;
                }
            }
            Ordering::Greater => *self = Self::at(at),
        }
        // Copies only while somebody still holds the offset of the change before.
        Arc::make_mut(&mut self.seen).insert(id.clone(), revision);
        true
    }
}

/// A question for one page of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesQuery {
    /// The entity type; empty for plain ids.
    pub entity_type: Box<str>,
    /// The slices.
    pub slices: SliceRange,
    /// Only rows written at or after this instant.
    pub from: DateTime<Utc>,
    /// Only rows written before this instant; `None` for the transaction time of the query itself.
    pub until: Option<DateTime<Utc>>,
    /// The most rows in the page.
    pub limit: NonZeroUsize,
}

/// The answer to a [`ChangesQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesPage {
    /// The rows, by `db_timestamp`, then revision.
    pub states: Vec<StoredState>,
    /// The upper bound that was used: give it as `until` to ask for the next page of the same query.
    pub until: DateTime<Utc>,
}

/// A state out of a change feed; see [`current_changes_by_slices`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// The row, as it was when its page was read.
    pub state: StoredState,
    /// Where a feed goes on behind it.
    pub offset: TimestampOffset,
}

/// The latest states of an entity type's entities in some slices, oldest first, up to the moment the feed begins.
///
/// As Pekko's `currentChangesBySlices`: marks of deletion are included, what was seen at the offset is not, and
/// the end is the database's time when the first page is read, itself excluded. The feed reads a page of 1,000 rows
/// when the one before is used up, and ends with the first page that holds nothing new.
///
/// # Errors
/// Those of [`DurableStateStore::changes`]; [`StoreError::TooLarge`] where more rows than a page holds share
/// one time, since a feed cannot get past them. After an error the stream ends.
///
/// # Cancel safety
/// The stream may be dropped, and begun again from the offset of the last change that was taken.
///
/// ```
/// use futures_util::TryStreamExt as _;
/// use user_state_store::{
///     SliceRange, SqliteStore, StoreSettings, TimestampOffset, current_changes_by_slices,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
/// let start = TimestampOffset::default();
/// let changes = current_changes_by_slices(&store, "", SliceRange::ALL, start);
/// assert!(changes.try_collect::<Vec<_>>().await?.is_empty());
/// # Ok(())
/// # }
/// ```
pub fn current_changes_by_slices<'a>(
    store: &'a dyn DurableStateStore,
    entity_type: &str,
    slices: SliceRange,
    offset: TimestampOffset,
) -> impl Stream<Item = Result<StateChange, StoreError>> + Send + 'a {
    let feed = Feed::new(entity_type, slices, offset, PAGE_ROWS);
    stream::try_unfold(
        (feed, VecDeque::new()),
        move |(mut feed, mut ready)| async move {
            while ready.is_empty() {
                let Some(query) = feed.next_query() else {
                    return Ok(None);
                };
                let page = store.changes(&query).await?;
                ready.extend(feed.on_page(page)?);
            }
            let change = ready.pop_front().map(|state| feed.tell(state));
            Ok(change.map(|change| (change, (feed, ready))))
        },
    )
}

/// All persistence ids, in the order of the database's collation; those of deleted states that left a mark included.
///
/// As Pekko's `currentPersistenceIds`. Every id that has a row from the beginning to the end comes exactly once; pages
/// of 1,000 ids are read one after the other.
///
/// # Errors
/// Those of [`DurableStateStore::persistence_ids`]. After an error the stream ends.
///
/// # Cancel safety
/// The stream may be dropped.
///
/// ```
/// use futures_util::TryStreamExt as _;
/// use user_state_store::{SqliteStore, StoreSettings, current_persistence_ids};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
/// assert!(current_persistence_ids(&store).try_collect::<Vec<_>>().await?.is_empty());
/// # Ok(())
/// # }
/// ```
pub fn current_persistence_ids(
    store: &dyn DurableStateStore,
) -> impl Stream<Item = Result<PersistenceId, StoreError>> + Send {
    let state = (None::<PersistenceId>, VecDeque::new());
    stream::try_unfold(state, move |(mut last, mut ready)| async move {
        if ready.is_empty() {
            ready.extend(store.persistence_ids(last.as_ref(), PAGE_ROWS).await?);
            last = ready.back().cloned();
        }
        Ok(ready.pop_front().map(|id| (id, (last, ready))))
    })
}
