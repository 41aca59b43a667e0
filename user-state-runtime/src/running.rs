//! A running set of shards: what the handles of a runtime share.

use std::sync::{Arc, Weak};

use cqrs_es::Aggregate;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use user_state_store::{PersistenceId, StateMapping, Store};

use crate::barrier::{Barrier, BarrierError};
use crate::clock::{Clock, Moment};
use crate::context::Context;
use crate::live_aggregate::LiveAggregate;
use crate::persistence::Storage;
use crate::placement;
use crate::shard::{self, Mail, ShardMail, UserHands};
use crate::stats::Counters;

/// Where the states are stored, and how they are read: for those who follow their changes.
pub(crate) struct Source<A> {
    pub(crate) store: Store,
    pub(crate) mapping: Arc<dyn StateMapping<A>>,
}

/// The shards of a runtime, and the ways to them.
pub(crate) struct Running<A: Aggregate> {
    context: Arc<Context>,
    source: Source<A>,
    mailboxes: Vec<mpsc::Sender<ShardMail<A>>>,
    shards: Mutex<JoinSet<()>>,
    /// Until when, in real time, the shards have to end.
    ending: watch::Sender<Option<Instant>>,
}

impl<A: LiveAggregate> Running<A> {
    /// Starts the shards on the current tokio runtime.
    pub(crate) fn start<P: Storage<A>>(
        context: Context,
        hands: &UserHands<A>,
        persistence: P,
        source: Source<A>,
    ) -> Arc<Self> {
        let (context, persistence) = (Arc::new(context), Arc::new(persistence));
        let mut shards = JoinSet::new();
        let (ending, until) = watch::channel(None);
        let mailboxes = (0..context.settings.shards)
            .map(|shard| {
                let (sender, mailbox) = mpsc::channel(context.settings.mailbox_messages_max);
                let (context, persistence) = (Arc::clone(&context), Arc::clone(&persistence));
                let (hands, until) = (hands.clone(), until.clone());
                shards.spawn(shard::run(
                    context,
                    shard,
                    hands,
                    persistence,
                    mailbox,
                    until,
                ));
                sender
            })
            .collect();
        Arc::new(Self {
            context,
            source,
            mailboxes,
            shards: Mutex::new(shards),
            ending,
        })
    }

    /// What lets a clock that is moved by hand wait for these shards.
    pub(crate) fn barrier(self: &Arc<Self>) -> Barrier {
        let running = Arc::downgrade(self);
        Barrier::new(move |moment| pass_barrier(Weak::clone(&running), moment))
    }
}

impl<A: Aggregate> Running<A> {
    /// Ends the shards; whether everything was finished in the time for that.
    pub(crate) async fn shutdown(&self) -> bool {
        let until = Instant::now() + self.context.settings.shutdown_timeout;
        // Beside the mailboxes: one that is full must not keep its shard from ending.
        self.ending.send_replace(Some(until));
        let mut shards = self.shards.lock().await;
        let mut in_time = true;
        while let Some(ended) = shards.join_next().await {
            in_time &= ended.is_ok() && Instant::now() < until;
        }
        self.context.lifecycle.end();
        in_time
    }

    /// How many there are.
    pub(crate) fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn source(&self) -> &Source<A> {
        &self.source
    }

    pub(crate) fn shard_of(&self, persistence_id: &PersistenceId) -> usize {
        placement::shard_of(persistence_id.slice(), self.shards())
    }

    pub(crate) fn mailbox(&self, shard: usize) -> &mpsc::Sender<ShardMail<A>> {
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

impl<A: Aggregate> Drop for Running<A> {
    fn drop(&mut self) {
        // Dropping the set would abort the shards, but they still have to finish what was accepted.
        self.shards.get_mut().detach_all();
    }
}

fn pass_barrier<A: LiveAggregate>(
    running: Weak<Running<A>>,
    to: Moment,
) -> BoxFuture<'static, Result<(), BarrierError>> {
    async move {
        let Some(running) = running.upgrade() else {
            return Ok(());
        };
        let timeout = running.context.settings.advance_timeout;
        let shards = running.mailboxes.iter().map(|mailbox| async move {
            let (ticket, passed) = oneshot::async_channel();
            if mailbox.send(Mail::Advance { to, ticket }).await.is_err() {
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
