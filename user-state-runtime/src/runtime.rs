//! The handle to a running set of shards.

use std::fmt;
use std::sync::{Arc, Weak};

use cqrs_es::Aggregate;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use user_state_store::{PersistenceId, StateMapping, Store};

use crate::barrier::{Barrier, BarrierError};
use crate::builder::RuntimeBuilder;
use crate::clock::{Clock, Moment};
use crate::context::Context;
use crate::entity_ref::EntityRef;
use crate::lifecycle::Lifecycle;
use crate::shard::{self, Mail};
use crate::stats::{Counters, Stats};

/// Live entities of one aggregate on one store. Cloning is cheap and gives the same runtime.
///
/// When the last handle (and the last [`EntityRef`]) is dropped, the shards finish what was accepted and end;
/// [`Runtime::shutdown`] does the same and waits for it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use user_state_runtime::Runtime;
///
/// let runtime = Runtime::for_users(&store).start()?;
/// assert_eq!(runtime.stats().live, 0);
/// runtime.user(&"mall-user".parse()?).state().await?;
/// assert_eq!(runtime.stats().live, 1);
/// runtime.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub struct Runtime<A: Aggregate> {
    inner: Arc<Inner<A>>,
}

/// What handles share.
pub(crate) struct Inner<A: Aggregate> {
    context: Arc<Context<A>>,
    mailboxes: Vec<mpsc::Sender<Mail<A>>>,
    shards: Mutex<JoinSet<()>>,
    /// Until when, in real time, the shards have to end.
    ending: watch::Sender<Option<Instant>>,
}

/// Not everything was finished in the time for shutting down; the callers concerned were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the runtime did not finish everything in time; the callers concerned were told")]
pub struct ShutdownTimedOut;

impl<A> Runtime<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    /// A runtime about to be configured: where states are kept, in which form, and what handlers may call.
    pub fn builder(
        store: impl Into<Store>,
        mapping: impl StateMapping<A>,
        services: A::Services,
    ) -> RuntimeBuilder<A> {
        RuntimeBuilder::new(store.into(), Arc::new(mapping), Arc::new(services))
    }

    pub(crate) fn start(context: Context<A>) -> Self {
        let context = Arc::new(context);
        let mut shards = JoinSet::new();
        let (ending, until) = watch::channel(None);
        let mailboxes = (0..context.settings.shards)
            .map(|shard| {
                let (sender, mailbox) = mpsc::channel(context.settings.mailbox_messages_max);
                let counters = Arc::clone(context.counters.of(shard));
                let context = Arc::clone(&context);
                shards.spawn(shard::run(context, counters, mailbox, until.clone()));
                sender
            })
            .collect();
        let inner = Arc::new(Inner {
            context,
            mailboxes,
            shards: Mutex::new(shards),
            ending,
        });
        inner.context.clock.attach(barrier(&inner));
        Self { inner }
    }

    /// The handle to an entity. Costs no I/O; the entity comes to life with its first message.
    pub fn entity(&self, persistence_id: PersistenceId) -> EntityRef<A> {
        EntityRef::new(Arc::clone(&self.inner), persistence_id)
    }

    /// Subscribes to what happens to entities from now on.
    pub fn lifecycle(&self) -> Lifecycle {
        self.inner.context.lifecycle.subscribe()
    }

    /// What the runtime has done and what it holds.
    pub fn stats(&self) -> Stats {
        self.inner.context.counters.read()
    }

    /// Ends the runtime: takes nothing new, makes everything accepted durable, answers every caller. Takes
    /// at most `shutdown_timeout`.
    ///
    /// # Errors
    /// Where that time was not enough; callers of writes under way got `Unknown`, the others
    /// `Unavailable` or `Closed`.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting; the runtime ends all the same.
    pub async fn shutdown(&self) -> Result<(), ShutdownTimedOut> {
        let until = Instant::now() + self.inner.context.settings.shutdown_timeout;
        // Beside the mailboxes: one that is full must not keep its shard from ending.
        self.inner.ending.send_replace(Some(until));
        let mut shards = self.inner.shards.lock().await;
        let mut in_time = true;
        while let Some(ended) = shards.join_next().await {
            in_time &= ended.is_ok() && Instant::now() < until;
        }
        self.inner.context.lifecycle.end();
        if in_time {
            Ok(())
        } else {
            Err(ShutdownTimedOut)
        }
    }
}

fn barrier<A>(inner: &Arc<Inner<A>>) -> Barrier
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let inner = Arc::downgrade(inner);
    Barrier::new(move |moment| pass_barrier(Weak::clone(&inner), moment))
}

fn pass_barrier<A>(
    inner: Weak<Inner<A>>,
    to: Moment,
) -> BoxFuture<'static, Result<(), BarrierError>>
where
    A: Aggregate + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    async move {
        let Some(inner) = inner.upgrade() else {
            return Ok(());
        };
        let timeout = inner.context.settings.advance_timeout;
        let shards = inner.mailboxes.iter().map(|mailbox| async move {
            let (reply, passed) = oneshot::async_channel();
            if mailbox.send(Mail::Advance { to, reply }).await.is_err() {
                return Ok(());
            }
            // A shard that has ended is caught up with everything.
            passed.await.unwrap_or(Ok(()))
        });
        let all = futures_util::future::join_all(shards);
        let caught_up = tokio::time::timeout(timeout, all).await;
        caught_up
            .map_err(|_| BarrierError::Late(timeout))?
            .into_iter()
            .collect()
    }
    .boxed()
}

impl<A: Aggregate> Inner<A> {
    pub(crate) fn shard_of(&self, persistence_id: &PersistenceId) -> usize {
        usize::from(persistence_id.slice().get()) % self.mailboxes.len()
    }

    pub(crate) fn mailbox(&self, shard: usize) -> &mpsc::Sender<Mail<A>> {
        self.mailboxes
            .get(shard)
            .unwrap_or_else(|| unreachable!("every entity has a shard"))
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.context.clock.as_ref()
    }

    pub(crate) fn counters(&self, shard: usize) -> &Counters {
        self.context.counters.of(shard)
    }
}

impl<A: Aggregate> Drop for Inner<A> {
    fn drop(&mut self) {
        // Dropping the set would abort the shards, but they still have to finish what was accepted.
        self.shards.get_mut().detach_all();
    }
}

impl<A: Aggregate> Clone for Runtime<A> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<A: Aggregate> fmt::Debug for Runtime<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Runtime")
            .field("context", &self.inner.context)
            .field("stats", &self.inner.context.counters.read())
            .finish_non_exhaustive()
    }
}
