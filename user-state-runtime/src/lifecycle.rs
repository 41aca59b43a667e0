//! The lifecycle stream: what happens to entities, for probes and applications.
//!
//! Bounded per subscriber: one that is slow loses events and is told how many; a shard never waits for it.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::broadcast;
use tokio::task::coop::unconstrained;
use user_state_store::{PersistenceId, Revision};

/// Something that happened to an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LifecycleEvent {
    /// The entity came to life at this revision (0 where nothing was stored).
    Recovered {
        /// The entity.
        persistence_id: PersistenceId,
        /// The revision it recovered.
        revision: Revision,
    },
    /// Its state became durable at this revision (0 after an erasing delete).
    Persisted {
        /// The entity.
        persistence_id: PersistenceId,
        /// The durable revision.
        revision: Revision,
    },
    /// It left memory; its state is durable at this revision.
    Passivated {
        /// The entity.
        persistence_id: PersistenceId,
        /// The durable revision.
        revision: Revision,
        /// Why it left.
        reason: PassivationReason,
    },
    /// A recovery, a write or a `tell` failed.
    Failed {
        /// The entity.
        persistence_id: PersistenceId,
        /// What failed.
        reason: FailureReason,
    },
}

impl LifecycleEvent {
    /// Whose event this is.
    pub fn persistence_id(&self) -> &PersistenceId {
        match self {
            Self::Recovered { persistence_id, .. }
            | Self::Persisted { persistence_id, .. }
            | Self::Passivated { persistence_id, .. }
            | Self::Failed { persistence_id, .. } => persistence_id,
        }
    }
}

/// Why an entity left memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PassivationReason {
    /// It was idle for the idle time-out.
    Idle,
    /// The limit on live entities was reached and it was the least recently used.
    Limit,
    /// A caller asked for it.
    Requested,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureReason {
    /// The stored row cannot be read.
    Unreadable,
    /// The store was unavailable.
    Unavailable,
    /// The new state cannot be stored.
    Refused,
    /// Another writer was faster, twice.
    Conflict,
    /// The outcome of a write is unknown.
    Unknown,
    /// The aggregate panicked.
    Panicked,
    /// The domain refused a command that was told.
    Rejected,
    /// A bound was reached behind the mailbox for a command that was told.
    Overloaded,
    /// The runtime shut down before a command that was told was handled.
    Closed,
}

/// A subscription to what happens to entities, from the moment it was made: a [`Stream`] that ends with the runtime.
///
/// A subscriber that reads too slowly gets [`Lagged`] as an item, and then the events that were kept.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use futures_util::TryStreamExt as _;
/// use user_state_runtime::{LifecycleEvent, Runtime};
///
/// let runtime = Runtime::for_users(store).start()?;
/// let mut lifecycle = runtime.lifecycle();
/// runtime.user(&"mall-user".parse()?).state().await?;
/// let event = lifecycle.recv().await.ok_or("the runtime has ended")??;
/// assert!(matches!(event, LifecycleEvent::Recovered { .. }));
///
/// runtime.shutdown().await?;
/// let rest: Vec<LifecycleEvent> = lifecycle.try_collect().await?;
/// assert!(rest.is_empty(), "an entity that was only read has nothing to write");
/// # Ok(())
/// # }
/// ```
pub struct Lifecycle {
    events: Events,
    subscribers: Arc<AtomicUsize>,
}

/// The receiver as a stream, which owns the future that waits for the next event.
type Events = Pin<Box<dyn Stream<Item = Result<LifecycleEvent, Lagged>> + Send + Sync>>;

/// This many events were lost, because the subscriber was too slow. The stream goes on behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lagged behind by {0} lifecycle events")]
pub struct Lagged(pub u64);

impl Lifecycle {
    fn new(receiver: broadcast::Receiver<LifecycleEvent>, subscribers: Arc<AtomicUsize>) -> Self {
        let events = stream::unfold(receiver, async |mut receiver| {
            let item = match receiver.recv().await {
                Ok(event) => Ok(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => Err(Lagged(lost)),
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((item, receiver))
        });
        Self {
            events: Box::pin(events.fuse()),
            subscribers,
        }
    }

    /// The next event, or how many were lost before it; `None` when the runtime has ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn recv(&mut self) -> Option<Result<LifecycleEvent, Lagged>> {
        self.events.next().await
    }

    /// What [`Lifecycle::recv`] has at once; `None` when nothing has happened since, or the runtime has ended.
    pub fn try_recv(&mut self) -> Option<Result<LifecycleEvent, Lagged>> {
        // A task that has done much is made to wait by tokio, which would look like no event.
        unconstrained(self.events.next()).now_or_never().flatten()
    }
}

impl Stream for Lifecycle {
    type Item = Result<LifecycleEvent, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Lifecycle")
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The runtime's end of the stream.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    /// `None` when the runtime has ended, which handles may outlive.
    sender: Arc<RwLock<Option<broadcast::Sender<LifecycleEvent>>>>,
    /// Read before an event is made: without subscribers the stream costs one relaxed load.
    subscribers: Arc<AtomicUsize>,
}

impl Publisher {
    pub(crate) fn new(events_max: usize) -> Self {
        Self {
            sender: Arc::new(RwLock::new(Some(broadcast::Sender::new(events_max)))),
            subscribers: Arc::default(),
        }
    }

    pub(crate) fn subscribe(&self) -> Lifecycle {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
        let ended = || broadcast::channel(1).1;
        let receiver = sender
            .as_ref()
            .map_or_else(ended, broadcast::Sender::subscribe);
        Lifecycle::new(receiver, Arc::clone(&self.subscribers))
    }

    pub(crate) fn publish(&self, event: impl FnOnce() -> LifecycleEvent) {
        if self.subscribers.load(Ordering::Relaxed) > 0 {
            let sender = self.sender.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = sender.as_ref() {
                // The last subscriber may just have gone; then nobody misses the event.
                drop(sender.send(event()));
            }
        }
    }

    /// Ends the stream: nothing will happen any more.
    pub(crate) fn end(&self) {
        *self.sender.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
