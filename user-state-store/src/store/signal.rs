//! Tells the live feeds of a store at once what that store has written.
//!
//! **Problem.** A feed that only polls shows a change seconds after it was acknowledged; a poll every few milliseconds
//! costs the database more than the changes do.
//!
//! **How.** Behind each write the store names the applied times to every feed that follows one of the written entities.
//! A feed's note is one span of times, whatever happened since it last looked.
//!
//! **Guarantees.** Without a feed, one atomic load per batch; with feeds, one short lock per batch and feed. A note is
//! never lost and never grows.
//!
//! **Not here.** Writes of other stores and processes, and those whose answer was lost: a feed finds them when it polls.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::slice::SliceRange;
use crate::store::{Settled, Write, WriteBatch, WriteOutcome};

/// The link from a store's writes to the live feeds that read the store.
///
/// A backend makes one when it is opened, calls [`WriteSignal::applied`] behind each batch and [`WriteSignal::close`]
/// when it is closed. Clones are the same signal.
///
/// ```
/// use user_state_store::{WriteBatch, WriteSignal};
///
/// let signal = WriteSignal::default();
/// signal.applied(&WriteBatch::new(Vec::new())?, &[]);
/// signal.close();
/// # Ok::<(), user_state_store::InvalidBatch>(())
/// ```
#[derive(Clone, Default)]
pub struct WriteSignal {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// The length of `listeners`, to be read without the lock.
    listening: AtomicUsize,
    closed: AtomicBool,
}

/// One feed's side of the signal; dropping it ends the listening.
pub(crate) struct Listening {
    signal: WriteSignal,
    listener: Arc<Listener>,
}

struct Listener {
    entity_type: Box<str>,
    slices: SliceRange,
    written: Mutex<Option<Span>>,
    bell: Notify,
}

/// Some times in some slices, both ends included: rows were written at the ends, and perhaps in between.
///
/// The slices spare the database: its index begins with the slice, so a read probes it once for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: DateTime<Utc>,
    pub(crate) last: DateTime<Utc>,
    pub(crate) slices: SliceRange,
}

impl WriteSignal {
    /// Tells the feeds of the entities in `batch` which of these writes of it were applied.
    ///
    /// Call it when the writes are visible to readers. Never blocks for longer than it takes to note a span.
    pub fn applied(&self, batch: &WriteBatch, settled: &[Settled]) {
        if self.shared.listening.load(Ordering::Acquire) == 0 {
            return;
        }
        for listener in self.listeners().iter() {
            let spans = settled.iter().filter_map(|settled| match settled.outcome {
                WriteOutcome::Applied(Some(at)) => {
                    listener.span(batch.writes().get(settled.index)?, at)
                }
                _ => None,
            });
            if let Some(span) = spans.reduce(Span::joined) {
                listener.note(span);
            }
        }
    }

    /// Tells all feeds that the store is closed, those to come too.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        for listener in self.listeners().iter() {
            listener.bell.notify_one();
        }
    }

    /// Listens to writes of this entity type in these slices from now on.
    pub(crate) fn listen(&self, entity_type: &str, slices: SliceRange) -> Listening {
        let listener = Arc::new(Listener {
            entity_type: entity_type.into(),
            slices,
            written: Mutex::default(),
            bell: Notify::new(),
        });
        let mut listeners = self.listeners();
        listeners.push(listener.clone());
        self.shared
            .listening
            .store(listeners.len(), Ordering::Release);
        drop(listeners);
        Listening {
            signal: self.clone(),
            listener,
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Arc<Listener>>> {
        let listeners = &self.shared.listeners;
        listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WriteSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listening = self.shared.listening.load(Ordering::Relaxed);
        formatter
            .debug_struct("WriteSignal")
            .field("listening", &listening)
            .finish_non_exhaustive()
    }
}

impl Listening {
    /// What was written since the last call.
    pub(crate) fn take(&self) -> Option<Span> {
        self.listener.written().take()
    }

    /// Whether the store was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.signal.shared.closed.load(Ordering::Acquire)
    }

    /// Returns when something was written, or the store closed, since the last return. May return once too often.
    pub(crate) async fn rung(&self) {
        self.listener.bell.notified().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.signal.listeners();
        listeners.retain(|listener| !Arc::ptr_eq(listener, &self.listener));
        let listening = &self.signal.shared.listening;
        listening.store(listeners.len(), Ordering::Release);
    }
}

impl Listener {
    /// What a write at this time is to the listener; `None` where it is not followed.
    fn span(&self, write: &Write, at: DateTime<Utc>) -> Option<Span> {
        let id = &write.persistence_id;
        if id.entity_type() != &*self.entity_type {
            return None;
        }
        let slice = id.slice();
        self.slices.contains(slice).then_some(Span {
            first: at,
            last: at,
            slices: SliceRange::new(slice, slice)?,
        })
    }

    fn note(&self, span: Span) {
        let mut written = self.written();
        *written = Some(written.map_or(span, |before| before.joined(span)));
        drop(written);
        self.bell.notify_one();
    }

    fn written(&self) -> MutexGuard<'_, Option<Span>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    /// The smallest span that holds both.
    pub(crate) fn joined(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            slices: hull(self.slices, other.slices),
        }
    }
}

/// The smallest range that holds both.
fn hull(left: SliceRange, right: SliceRange) -> SliceRange {
    let (min, max) = (left.min().min(right.min()), left.max().max(right.max()));
    SliceRange::new(min, max).unwrap_or(SliceRange::ALL)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::persistence_id::PersistenceId;
    use crate::revision::Revision;
    use crate::slice::Slice;

    type TestResult = Result<(), Box<dyn Error>>;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    /// Some times in the slices between those of two ids.
    fn span(first: i64, last: i64, ids: [&str; 2]) -> Span {
        let [low, high] = ids.map(Slice::of);
        Span {
            first: at(first),
            last: at(last),
            slices: SliceRange::new(low.min(high), low.max(high)).unwrap(),
        }
    }

    fn batch(ids: &[&str]) -> Result<WriteBatch, Box<dyn Error>> {
        let writes = ids.iter().map(|id| {
            let id = PersistenceId::unique(id)?;
            Ok(Write::mark(id, Revision::FIRST))
        });
        Ok(WriteBatch::new(
            writes.collect::<Result<_, Box<dyn Error>>>()?,
        )?)
    }

    fn one(outcome: WriteOutcome) -> Vec<Settled> {
        Settled::in_order(vec![outcome])
    }

    #[test]
    fn a_note_is_the_span_of_what_was_applied_since_it_was_taken() -> TestResult {
        let signal = WriteSignal::default();
        let listening = signal.listen("", SliceRange::ALL);
        assert_eq!(listening.take(), None);
        let outcomes = [
            WriteOutcome::Applied(Some(at(7))),
            WriteOutcome::Conflict,
            WriteOutcome::Applied(None),
            WriteOutcome::Applied(Some(at(5))),
        ];
        signal.applied(
            &batch(&["a", "b", "c", "d"])?,
            &Settled::in_order(outcomes.to_vec()),
        );
        signal.applied(&batch(&["a"])?, &one(WriteOutcome::Applied(Some(at(6)))));
        assert_eq!(listening.rung().now_or_never(), Some(()));
        assert_eq!(listening.take(), Some(span(5, 7, ["a", "d"])));
        assert_eq!(listening.take(), None);
        signal.applied(&batch(&["a"])?, &one(WriteOutcome::Conflict));
        assert_eq!(listening.take(), None);
        assert_eq!(listening.rung().now_or_never(), None);
        Ok(())
    }

    #[test]
    fn a_listener_hears_of_its_entity_type_and_slices_only() -> TestResult {
        let signal = WriteSignal::default();
        let slice = Slice::of("a");
        let only = SliceRange::new(slice, slice).ok_or("one slice")?;
        let narrow = signal.listen("", only);
        let typed = signal.listen("User", SliceRange::ALL);
        signal.applied(&batch(&["b"])?, &one(WriteOutcome::Applied(Some(at(1)))));
        assert_eq!((narrow.take(), typed.take()), (None, None));
        signal.applied(&batch(&["a"])?, &one(WriteOutcome::Applied(Some(at(2)))));
        signal.applied(
            &batch(&["User|a"])?,
            &one(WriteOutcome::Applied(Some(at(3)))),
        );
        assert_eq!(
            (narrow.take(), typed.take()),
            (
                Some(span(2, 2, ["a", "a"])),
                Some(span(3, 3, ["User|a", "User|a"]))
            )
        );
        Ok(())
    }

    #[test]
    fn a_listener_that_is_dropped_is_forgotten() {
        let signal = WriteSignal::default();
        let first = signal.listen("", SliceRange::ALL);
        let second = signal.listen("", SliceRange::ALL);
        drop(first);
        assert_eq!(signal.listeners().len(), 1);
        drop(second);
        assert_eq!(signal.shared.listening.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn closing_rings_every_listener_and_is_seen_by_later_ones() {
        let signal = WriteSignal::default();
        let listening = signal.listen("", SliceRange::ALL);
        assert!(!listening.is_closed());
        signal.close();
        assert_eq!(listening.rung().now_or_never(), Some(()));
        assert!(listening.is_closed());
        assert!(signal.listen("", SliceRange::ALL).is_closed());
    }
}
