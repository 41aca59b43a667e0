//! The live change feed: what is there, and then what comes.
//!
//! **Problem.** A reader that follows the times of rows misses a transaction that took its time early and committed late. One
//! that waits until nothing can be late any more is late itself.
//!
//! **How.** As Pekko's `changesBySlices`: look forward from the offset, wait, look again; now and then look back over a
//! window of time for what became visible behind the offset. Beside that, the store names the times of its own
//! writes, and those are read at once. What to read next is decided in `live/core.rs`; here it is read.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::time::{Instant, timeout_at};

use crate::changes::settings::FeedSettings;
use crate::changes::{StateChange, TimestampOffset};
use crate::error::StoreError;
use crate::settings::InvalidSetting;
use crate::slice::SliceRange;
use crate::store::{Listening, StateFeeds};

mod core;
mod memory;

use self::core::{Core, Step};

/// The latest states of an entity type's entities in some slices, those behind the offset first, and from then on each
/// change as it happens. The stream goes on until the store is closed.
///
/// As Pekko's `changesBySlices`, with less waiting and a wider net:
///
/// - **At least once.** Every change of before the offset's instant was told to whoever stored it; of every entity
///   that changes later, the latest state comes. States in between may be skipped: a row holds one state. Marks of
///   deletion are changes; an erased row is none. Reads go to the server that is written to, not to a replica.
/// - **Nothing is late for ever.** A transaction can take its time early and commit when the feed is already past it. If
///   it commits within [`FeedSettings::backtracking_window`] (2 min) of its time, the feed tells it, at most
///   half a window later. The same covers a database clock that is set back by less than the window, and what was
///   open when an offset was stored: a resumed feed begins with a look back over two windows before its offset.
/// - **Order.** Revisions of an entity never go backwards, unless it was erased in between. Among entities the order is
///   that of `db_timestamp`, then revision, except for what comes out of turn: writes of `store` itself, and what is
///   found by looking back.
/// - **Own writes at once.** A write applied by `store` (the value given, or the store that it wraps) is read
///   as soon as it is acknowledged, once the feed has caught up with what was there. Writes of others come within
///   [`FeedSettings::refresh_interval`].
/// - **Repetition.** The feed leaves out what it told, as far as it remembers: exact for the last
///   [`FeedSettings::remembered_max`] entities. What it has forgotten, and what a resumed feed finds
///   in the two windows before its offset, comes again. Leave a repetition out by its revision.
///
/// **Offsets.** Store the offset of a change when it was handled, and resume from it, with a window no shorter than
/// the one before. A change out of turn carries the offset of the last one in turn, and where looking back is far behind,
/// the offset stays so near to it that a resumed feed gets there. So the offsets of a stream never go backwards, and each
/// of them is safe. An offset made by hand from an instant and nothing seen begins there.
///
/// **Cost.** A query per `refresh_interval`, one per acknowledged batch of own writes (fewer where they come faster than
/// they are read; at most half of the time is spent on them), and the looks back. The table's index begins with the slice,
/// so a query takes a probe per slice: on PostgreSQL some 5 ms for all of them. A page costs that and what it returns,
/// however many rows lie behind it; only pages inside an instant of more rows than a page holds look at all that are left of
/// the instant. One page is held in memory, at most `buffer_size` rows and 8 MiB of payload, and what the feed remembers. A
/// slow reader holds up nobody: the feed reads no page ahead.
///
/// # Errors
/// [`InvalidSetting`] at once. An error in the stream is an item and not its end: the feed waits
/// ([`FeedSettings::min_backoff`], doubled up to `max_backoff`) and reads the same page again, so nothing is lost.
/// Stop reading to give up. They are those of [`StateFeeds::changes`], and [`StoreError::UnreadableChange`] if a
/// row cannot be read. What comes before that row is told first; the feed tries it again, reports it again, and withholds
/// what comes behind it, until the row is fixed. To leave the row out instead, drop the stream and begin a feed at the offset
/// in the error ([`UnreadableChange::behind`](crate::UnreadableChange::behind)). An unreadable row that a feed finds when it
/// looks back to before the offset it began at is reported once and passed over. Only [`StoreError::Closed`] ends the
/// stream, at once when the store is closed.
///
/// # Cancel safety
/// Dropping the future of `next()` loses nothing: the read goes on with the next call. The stream may be dropped, and
/// begun again from the offset of the last change that was handled.
///
/// ```
/// use futures_util::{StreamExt as _, TryStreamExt as _};
/// use user_state_store::{
///     FeedSettings, PersistenceId, Revision, SliceRange, TimestampOffset, Write, WriteBatch, connect,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("user-state.db").display());
/// let store = connect(&url.parse()?).await?;
/// let start = TimestampOffset::default();
/// let settings = FeedSettings::default();
/// let mut changes = store.changes_by_slices("", SliceRange::ALL, start, settings)?;
///
/// let write = Write::mark(PersistenceId::unique("mall-user")?, Revision::NONE);
/// store.states().write(&WriteBatch::new(vec![write])?).await;
/// let change = changes.try_next().await?.ok_or("a live feed does not end")?;
/// assert_eq!(change.state.persistence_id.as_str(), "mall-user");
/// // Handle the change, then store `change.offset`.
/// # store.close().await;
/// # assert!(changes.next().await.is_some_and(|item| item.is_err()));
/// # assert!(changes.next().await.is_none());
/// # Ok(())
/// # }
/// ```
pub fn changes_by_slices(
    store: Arc<dyn StateFeeds>,
    entity_type: &str,
    slices: SliceRange,
    offset: TimestampOffset,
    settings: FeedSettings,
) -> Result<
    impl Stream<Item = Result<StateChange, StoreError>> + Send + Unpin + use<>,
    InvalidSetting,
> {
    let feed = LiveFeed {
        core: Core::new(entity_type, slices, offset, settings)?,
        listening: store.write_signal().listen(entity_type, slices),
        store,
    };
    Ok(Box::pin(stream::unfold(Some(feed), async |feed| {
        let mut feed = feed?;
        let item = feed.next().await;
        let goes_on = item != Err(StoreError::Closed);
        Some((item, goes_on.then_some(feed)))
    })))
}

/// The loop around the decisions.
struct LiveFeed {
    core: Core,
    listening: Listening,
    store: Arc<dyn StateFeeds>,
}

impl LiveFeed {
    async fn next(&mut self) -> Result<StateChange, StoreError> {
        loop {
            if let Some(change) = self.core.next_change() {
                return change;
            }
            if self.listening.is_closed() {
                return Err(StoreError::Closed);
            }
            if let Some(span) = self.listening.take() {
                self.core.on_written(span);
            }
            match self.core.next_step(Instant::now()) {
                Step::Read(query) => {
                    let answer = self.store.changes(&query).await;
                    self.core.on_answer(answer, Instant::now())?;
                }
                // Whether the time passed or the bell rang, the core decides again.
                Step::Wait(until) => drop(timeout_at(until, self.listening.rung()).await),
            }
        }
    }
}
