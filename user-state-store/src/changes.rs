//! Change feeds by slice: the latest state of each entity, in the order of `db_timestamp`. One ends at the present, the
//! other (`changes/live.rs`) goes on.
//!
//! **Problem.** Rows that share a `db_timestamp` may lie on two pages, and a reader that goes on later must
//! neither miss one of them nor get one twice. A page must not cost more because much lies behind it.
//!
//! **How.** As Pekko's `currentChangesBySlices`: an offset is a time and the entities seen at exactly that time. Within a
//! feed, each page goes on behind the last row of the one before, by time, revision and id, and looks at a stretch of time
//! that is about as long as a page. The pure parts are `changes/feed.rs` and `changes/scan.rs`.
//!
//! **Guarantees.** Every entity of the slices whose latest write was committed before the feed began and lies behind
//! the offset comes, at least with its then latest state; oldest first. An entity written meanwhile comes as it was or
//! moves behind the feed's end, to be found by the next feed from the last offset.
//!
//! **Not here.** In the feed that ends: a transaction that takes its time before another one and commits after it. On
//! PostgreSQL it can be overtaken; the live feed looks back for it.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};

use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::{Slice, SliceRange};
use crate::store::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, StateFeeds, StoredState};

mod feed;
mod live;
mod scan;
mod seen;
mod settings;
mod typed;

use feed::Feed;
pub use live::changes_by_slices;
pub use seen::Seen;
pub use settings::FeedSettings;
pub use typed::{TypedChange, TypedValue, typed_changes};

/// The most payload bytes in a page of changes, unless its only row has more.
pub const PAGE_BYTES_MAX: usize = BATCH_BYTES_MAX;

/// The rows of a page of the feed that ends: each page costs a probe per slice, which is little beside so many rows.
const ENDING_PAGE_ROWS: NonZeroUsize = PAGE_ROWS.saturating_mul(PAGES);

const PAGES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// The rows of a page of a live feed or of ids, unless set otherwise: two of the largest batches.
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
    pub seen: Seen,
}

impl TimestampOffset {
    /// An instant of which nothing was seen.
    fn at(timestamp: DateTime<Utc>) -> Self {
        Self {
            timestamp,
            seen: Seen::default(),
        }
    }

    /// Goes on to a row that is not before this offset. A new instant forgets what was seen at the one before.
    fn go_on(&mut self, id: PersistenceId, at: DateTime<Utc>, revision: Revision) {
        if at > self.timestamp {
            *self = Self::at(at);
        }
        self.seen.push(id, revision);
    }
}

/// A question for one page of changes.
///
/// ```
/// use user_state_store::{ChangesQuery, SliceRange};
///
/// let query = ChangesQuery::all("User", SliceRange::ALL);
/// assert_eq!((query.after, query.to, query.until), (None, None, None));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesQuery {
    /// The entity type; empty for plain ids.
    pub entity_type: Box<str>,
    /// The slices.
    pub slices: SliceRange,
    /// Only rows written at or after this instant.
    pub from: DateTime<Utc>,
    /// Of the rows written at exactly `from`, only those behind this one in the order of a page; `None` for all of them.
    pub after: Option<RowKey>,
    /// Looks no farther than to this instant, which is excluded, however early that is before `until`.
    pub to: Option<DateTime<Utc>>,
    /// Only rows written before this instant; `None` for the transaction time of the query itself.
    pub until: Option<DateTime<Utc>>,
    /// The most rows in the page. Their payloads have at most [`PAGE_BYTES_MAX`] bytes together, or it is one row.
    pub limit: NonZeroUsize,
    /// The most rows that are looked at: where as many are found, the answer is [`PageEnd::Crowded`]. `None` looks at
    /// all of them to find the first.
    pub rows_max: Option<NonZeroUsize>,
}

impl ChangesQuery {
    /// The first page of everything until now, at most 1,000 rows.
    pub fn all(entity_type: &str, slices: SliceRange) -> Self {
        Self {
            entity_type: entity_type.into(),
            slices,
            from: DateTime::UNIX_EPOCH,
            after: None,
            to: None,
            until: None,
            limit: PAGE_ROWS,
            rows_max: None,
        }
    }

    /// How few rows are so few that the answer says where the next row is.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn few(&self) -> usize {
        (self.limit.get() / 16).max(1)
    }

    /// Where the rows behind this one begin, or those of the whole page.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn behind(&self, last: Option<&StoredState>) -> (DateTime<Utc>, Option<RowKey>) {
        match last {
            Some(last) => (last.db_timestamp, Some(RowKey::of(last))),
            None => (self.from, self.after.clone()),
        }
    }

    /// The page of these rows, of all that were looked at; `next` is when the first row behind them was written, if they
    /// are few and there is one.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn page(
        &self,
        states: Vec<StoredState>,
        unreadable: Option<UnreadableRow>,
        rows: usize,
        next: Option<DateTime<Utc>>,
        until: DateTime<Utc>,
    ) -> ChangesPage {
        let is_crowded = self.rows_max.is_some_and(|max| rows >= max.get());
        let cut = states.last().filter(|_| states.len() < rows);
        let to = self.to.filter(|to| *to < until);
        let end = match (unreadable, cut, to, next) {
            (Some(row), ..) => PageEnd::Unreadable(Box::new(row)),
            (None, Some(last), ..) => PageEnd::Behind(last.db_timestamp, RowKey::of(last)),
            _ if is_crowded => PageEnd::Crowded,
            (_, _, None, _) => PageEnd::Complete,
            (_, _, Some(_), Some(next)) => PageEnd::Before(next),
            (_, _, Some(_), None) if rows < self.few() => PageEnd::Complete,
            (_, _, Some(to), None) => PageEnd::Before(to),
        };
        ChangesPage { states, until, end }
    }
}

/// A row among those of one instant: pages are ordered by `db_timestamp`, then revision, then persistence id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKey {
    /// The revision, as the column has it: in a row that cannot be read it may be negative.
    pub revision: i64,
    /// Whose row it is.
    pub persistence_id: PersistenceId,
}

impl RowKey {
    /// The key of a row.
    pub fn of(state: &StoredState) -> Self {
        Self {
            revision: state.revision.get(),
            persistence_id: state.persistence_id.clone(),
        }
    }
}

/// The answer to a [`ChangesQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesPage {
    /// The rows, by `db_timestamp`, then revision, then persistence id.
    pub states: Vec<StoredState>,
    /// The upper bound that was used: give it as `until` to ask for the next page of the same query.
    pub until: DateTime<Utc>,
    /// How far the page reaches.
    pub end: PageEnd,
}

/// How far a [`ChangesPage`] reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageEnd {
    /// There are no more rows before [`ChangesPage::until`].
    Complete,
    /// There are no more rows before this instant. Go on from it.
    Before(DateTime<Utc>),
    /// There may be more rows behind this one, which is the last of the page. Go on `from` its instant, `after` it.
    Behind(DateTime<Utc>, RowKey),
    /// The page is empty, since [`ChangesQuery::rows_max`] rows or more would have to be looked at. Ask for an earlier
    /// [`ChangesQuery::to`].
    Crowded,
    /// The next row behind those of the page cannot be read.
    Unreadable(Box<UnreadableRow>),
}

/// A row that a page of changes cannot give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRow {
    /// Whose row it is.
    pub persistence_id: PersistenceId,
    /// Its slice.
    pub slice: Slice,
    /// Its revision, as the column has it.
    pub revision: i64,
    /// When it was last written.
    pub db_timestamp: DateTime<Utc>,
    /// What is wrong with it: [`StoreError::Corrupt`], or what the database said when it was to give the row.
    pub reason: StoreError,
}

impl UnreadableRow {
    fn key(&self) -> RowKey {
        RowKey {
            revision: self.revision,
            persistence_id: self.persistence_id.clone(),
        }
    }

    /// The revision that stands for it in an offset.
    fn seen_as(&self) -> Revision {
        Revision::new(self.revision).unwrap_or_default()
    }
}

/// The row that a feed cannot get past, and the choice to go on behind it; see [`StoreError::UnreadableChange`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableChange {
    /// The row.
    pub row: UnreadableRow,
    /// A feed that begins at this offset goes on behind the row, and leaves it out.
    pub behind: TimestampOffset,
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
/// the end is the database's time when the first page is read, itself excluded. The feed reads a page of at most 4,000
/// rows and 8 MiB of payload when the one before is used up.
///
/// **Cost.** A page costs what it returns and a probe of the index per slice, however many rows lie behind it. Pages
/// inside an instant are the exception: each looks at all rows of the instant that are left.
///
/// # Errors
/// Those of [`StateFeeds::changes`], and [`StoreError::UnreadableChange`] behind the last row before one that
/// cannot be read. After an error the stream ends. To go on behind that row, begin a feed at the offset in the error.
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
    store: &'a dyn StateFeeds,
    entity_type: &str,
    slices: SliceRange,
    offset: TimestampOffset,
) -> impl Stream<Item = Result<StateChange, StoreError>> + Send + 'a {
    let feed = Feed::new(entity_type, slices, offset, ENDING_PAGE_ROWS);
    stream::try_unfold(
        (feed, VecDeque::new()),
        move |(mut feed, mut ready)| async move {
            loop {
                if let Some(state) = ready.pop_front() {
                    let change = feed.tell(state);
                    return Ok(Some((change, (feed, ready))));
                }
                let Some(query) = feed.next_query()? else {
                    return Ok(None);
                };
                let page = store.changes(&query).await?;
                ready.extend(feed.on_page(page));
            }
        },
    )
}

/// All persistence ids, in the order of the database's collation; those of deleted states that left a mark included.
///
/// As Pekko's `currentPersistenceIds`. Every id that has a row from the beginning to the end comes exactly once; pages
/// of 1,000 ids are read one after the other.
///
/// # Errors
/// Those of [`StateFeeds::persistence_ids`]. After an error the stream ends.
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
    store: &dyn StateFeeds,
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
