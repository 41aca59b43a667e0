//! A shard: one task that owns a part of the live entities.
//!
//! The loop here is thin: it waits for the next input, hands it to the [`Core`] (plain data, no awaits), and
//! starts the work the core asks for. Group commit needs no timer: while batches are on their way, commands keep
//! being handled and gather for the next one, so load decides the size of a batch. Those who are answered when one lands
//! are let back in before more are answered, and before the next is cut.

use std::sync::Arc;
use std::time::Duration;

use cqrs_es::Aggregate;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;
use user_state_store::PersistenceId;

use crate::barrier::BarrierError;
use crate::clock::Moment;
use crate::context::Context;
use crate::handler::Handled;
use crate::request::Message;
use crate::stats::Counters;
use crate::work::{self, Done, EarlyReports};

mod core;
mod entities;
mod flushing;
mod passivation;

use core::Core;
pub(crate) use entities::EntityKey;

/// The most messages a shard takes from its mailbox in one turn: enough to fill a batch, few enough that finished
/// database work is not kept waiting.
const MAIL_PER_TURN_MAX: usize = 1_024;

/// How many turns of the scheduler in a row a shard waits in vain for those it has just answered.
const GATHERING_TURNS_MISSED_MAX: usize = 3;

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
    /// Load the rows of these entities.
    Load {
        keys: Vec<EntityKey>,
        ids: Vec<PersistenceId>,
    },
    /// Write this batch, a write for each of these entities.
    Write {
        keys: Vec<EntityKey>,
        batch: user_state_store::WriteBatch,
    },
    /// Attempt to resolve these writes of these entities, after the interval where they were attempted before.
    Resolve {
        keys: Vec<EntityKey>,
        writes: Vec<user_state_store::UnresolvedWrite>,
        again: bool,
    },
    /// Run this handler to its end.
    Handle(EntityKey, crate::handler::Running<A>),
}

type Handlers<A> = FuturesUnordered<BoxFuture<'static, (EntityKey, Handled<A>)>>;

/// Runs a shard until its mailbox is closed and everything accepted is answered, or until the real time that
/// `ending` tells.
pub(crate) async fn run<A>(
    context: Arc<Context<A>>,
    counters: Arc<Counters>,
    mut mailbox: mpsc::Receiver<Mail<A>>,
    mut ending: watch::Receiver<Option<Instant>>,
) where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let mut core = Core::new(Arc::clone(&context), counters);
    let mut mail = Vec::with_capacity(MAIL_PER_TURN_MAX);
    let mut work = JoinSet::new();
    let reports = Arc::new(EarlyReports::default());
    let mut handlers = Handlers::new();
    let mut idle_timer: Option<BoxFuture<'static, ()>> = None;
    while !core.is_finished() {
        let real_deadline = core.real_deadline();
        let room = core.mail_room().min(MAIL_PER_TURN_MAX);
        tokio::select! {
            _ = mailbox.recv_many(&mut mail, room), if room > 0 => core.on_mail(&mut mail),
            Ok(()) = ending.changed() => core.on_ending(*ending.borrow_and_update()),
            Some(done) = work.join_next() => {
                let answered = core.on_done(done);
                land(&mut core, &mut mailbox, &mut mail, answered).await;
            }
            early = reports.next() => {
                for written in early {
                    core.on_written(written);
                    land(&mut core, &mut mailbox, &mut mail, 0).await;
                }
            }
            Some((key, handled)) = handlers.next() => core.on_handled(key, handled),
            () = wait(&mut idle_timer), if idle_timer.is_some() => {
                idle_timer = None;
                core.on_idle_time();
            }
            () = until(real_deadline), if real_deadline.is_some() => {
                core.on_real_time(Instant::now());
            }
        }
        core.turn(Instant::now);
        if core.closes_mailbox() {
            mailbox.close();
        }
        for effect in core.take_effects() {
            start(effect, &context, &reports, &mut work, &mut handlers);
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

/// Tells entities what became of their writes, and lets those who were answered back in meanwhile.
async fn land<A>(
    core: &mut Core<A>,
    mailbox: &mut mpsc::Receiver<Mail<A>>,
    mail: &mut Vec<Mail<A>>,
    answered: usize,
) where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let mut answered = Some(answered);
    while let Some(count) = answered {
        gather(core, mailbox, mail, count).await;
        answered = core.on_landed(Instant::now());
    }
}

/// Handles the mail of those who were just answered, who often ask again at once, so that the next batch has them, too.
///
/// Costs no time where nobody comes: it ends when as many have come as were answered, or when the other tasks of this
/// thread had their turn and nobody was among them.
async fn gather<A>(
    core: &mut Core<A>,
    mailbox: &mut mpsc::Receiver<Mail<A>>,
    mail: &mut Vec<Mail<A>>,
    answered: usize,
) where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let (mut came, mut missed) = (0, 0);
    while came < answered {
        let room = core.mail_room().min(MAIL_PER_TURN_MAX);
        if room == 0 {
            return;
        }
        // No waker is left in the mailbox by this, so that the turns below are not cut short by the first mail.
        let received = tokio::task::coop::unconstrained(mailbox.recv_many(mail, room));
        match received.now_or_never() {
            // The mailbox is closed, which the loop has to see.
            Some(0) => return,
            Some(count) => {
                core.on_mail(mail);
                came += count;
                missed = 0;
            }
            None if missed == GATHERING_TURNS_MISSED_MAX => return,
            None => {
                missed += 1;
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
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
    reports: &Arc<EarlyReports>,
    work: &mut JoinSet<Done<A>>,
    handlers: &mut Handlers<A>,
) where
    A: Aggregate + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let store = Arc::clone(&context.store);
    match effect {
        Effect::Load { keys, ids } => {
            let span = tracing::debug_span!("load", aggregate = A::TYPE, rows = ids.len());
            let load = work::load(store, Arc::clone(&context.mapping), keys, ids);
            work.spawn(load.instrument(span));
        }
        Effect::Write { keys, batch } => {
            let rows = batch.writes().len();
            let span = tracing::debug_span!("write", aggregate = A::TYPE, rows);
            let write = work::write(store, keys, batch, Arc::clone(reports));
            work.spawn(write.instrument(span));
        }
        Effect::Resolve {
            keys,
            writes,
            again,
        } => {
            let delay = if again {
                context.settings.resolve_interval
            } else {
                Duration::ZERO
            };
            let rows = writes.len();
            let span = tracing::debug_span!("resolve", aggregate = A::TYPE, rows, again);
            let resolve = work::resolve(store, keys, writes, context.writers, delay);
            work.spawn(resolve.instrument(span));
        }
        Effect::Handle(key, running) => {
            handlers.push(running.map(move |handled| (key, handled)).boxed());
        }
    }
}
