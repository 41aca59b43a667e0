//! A shard: one task that owns a part of the live entities.
//!
//! The loop here is thin: it waits for the next input, hands it to the [`Core`] (plain data, no awaits), and
//! starts the work the core asks for. Group commit needs no timer: while batches are on their way, commands keep
//! being handled and gather for the next one, so load decides the size of a batch.

use std::sync::Arc;
use std::time::Duration;

use cqrs_es::Aggregate;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;
use user_state_store::PersistenceId;

use crate::barrier::BarrierError;
use crate::clock::Moment;
use crate::context::Context;
use crate::handler::Handled;
use crate::request::Message;
use crate::work::{self, Done};

mod core;
mod flushing;
mod passivation;

use core::Core;

/// The most messages a shard takes from its mailbox in one turn: enough to fill a batch, few enough that finished
/// database work is not kept waiting.
const MAIL_PER_TURN_MAX: usize = 1_024;

/// What stands in a mailbox.
pub(crate) enum Mail<A: Aggregate> {
    /// A request to an entity.
    Request(Message<A>),
    /// A clock that is moved by hand has reached this moment; answered when the shard has caught up.
    Advance {
        to: Moment,
        reply: oneshot::Sender<Result<(), BarrierError>>,
    },
}

/// What a core wants done outside.
pub(crate) enum Effect<A: Aggregate> {
    /// Load these rows.
    Load(Vec<PersistenceId>),
    /// Write this batch.
    Write(user_state_store::WriteBatch),
    /// Attempt to resolve these writes, after the interval where they were attempted before.
    Resolve {
        writes: Vec<user_state_store::UnresolvedWrite>,
        again: bool,
    },
    /// Run this handler to its end.
    Handle(PersistenceId, crate::handler::Running<A>),
}

type Handlers<A> = FuturesUnordered<BoxFuture<'static, (PersistenceId, Handled<A>)>>;

/// Runs a shard until its mailbox is closed and everything accepted is answered, or until the real time that
/// `ending` tells.
pub(crate) async fn run<A>(
    context: Arc<Context<A>>,
    mut mailbox: mpsc::Receiver<Mail<A>>,
    mut ending: watch::Receiver<Option<Instant>>,
) where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let mut core = Core::new(Arc::clone(&context));
    let mut mail = Vec::with_capacity(MAIL_PER_TURN_MAX);
    let mut work = JoinSet::new();
    let mut handlers = Handlers::new();
    let mut idle_timer: Option<BoxFuture<'static, ()>> = None;
    while !core.is_finished() {
        let real_deadline = core.real_deadline();
        let room = core.mail_room().min(MAIL_PER_TURN_MAX);
        tokio::select! {
            count = mailbox.recv_many(&mut mail, room), if room > 0 => {
                core.on_mail(mail.drain(..), count);
            }
            Ok(()) = ending.changed() => core.on_ending(*ending.borrow_and_update()),
            Some(done) = work.join_next() => core.on_done(done, Instant::now()),
            Some((id, handled)) = handlers.next() => core.on_handled(&id, handled),
            () = wait(&mut idle_timer), if idle_timer.is_some() => {
                idle_timer = None;
                core.on_idle_time();
            }
            () = tokio::time::sleep_until(real_deadline.unwrap_or_else(Instant::now)),
                if real_deadline.is_some() => core.on_real_time(Instant::now()),
            // Other tasks of this thread run between two turns.
            () = tokio::task::yield_now(), if core.has_more_due() => {}
        }
        core.turn();
        if core.closes_mailbox() {
            mailbox.close();
        }
        for effect in core.take_effects() {
            start(effect, &context, &mut work, &mut handlers);
        }
        if idle_timer.is_none() && !core.has_more_due() {
            idle_timer = core.next_idle_time().map(|moment| sleep(&context, moment));
        }
    }
    // Where time was over before the mailbox was empty, whoever is left in it is told.
    mailbox.close();
    while let Some(mail) = mailbox.recv().await {
        core.refuse(mail);
    }
}

async fn wait(timer: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(sleep) = timer {
        sleep.await;
    }
}

fn sleep<A>(context: &Arc<Context<A>>, moment: Moment) -> BoxFuture<'static, ()>
where
    A: Aggregate + 'static,
    A::Command: Send + 'static,
{
    let clock = Arc::clone(&context.clock);
    async move { clock.sleep_until(moment).await }.boxed()
}

fn start<A>(
    effect: Effect<A>,
    context: &Arc<Context<A>>,
    work: &mut JoinSet<Done<A>>,
    handlers: &mut Handlers<A>,
) where
    A: Aggregate + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let store = Arc::clone(&context.store);
    match effect {
        Effect::Load(ids) => {
            let span = tracing::debug_span!("load", aggregate = A::TYPE, rows = ids.len());
            let load = work::load(store, Arc::clone(&context.mapping), ids);
            work.spawn(load.instrument(span));
        }
        Effect::Write(batch) => {
            let rows = batch.writes().len();
            let span = tracing::debug_span!("write", aggregate = A::TYPE, rows);
            work.spawn(work::write(store, batch).instrument(span));
        }
        Effect::Resolve { writes, again } => {
            let delay = if again {
                context.settings.resolve_interval
            } else {
                Duration::ZERO
            };
            let rows = writes.len();
            let span = tracing::debug_span!("resolve", aggregate = A::TYPE, rows, again);
            let resolve = work::resolve(store, writes, context.writers, delay);
            work.spawn(resolve.instrument(span));
        }
        Effect::Handle(id, running) => {
            handlers.push(running.map(|handled| (id, handled)).boxed());
        }
    }
}
