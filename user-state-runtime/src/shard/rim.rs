//! The world around a shard's core: callers, database work, handlers, counters and clocks.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;
use user_state_store::{PersistenceId, Revision};

use super::database::{self, Done, EarlyReports};
use super::hands::{Running, UserHands};
use crate::barrier::BarrierError;
use crate::clock::Moment;
use crate::context::Context;
use crate::effects::{Attempt, Counter, Effects, Handled, LostOf, WriteOf};
use crate::error::RequestError;
use crate::lifecycle::{FailureReason, LifecycleEvent};
use crate::live_aggregate::LiveAggregate;
use crate::persistence::{Key, Storage};
use crate::real_time::RealTime;
use crate::reply::{BarrierReply, Reply};
use crate::request::Answer;
use crate::stats::Counters;

/// The target of the spans of database work, wherever they are made.
const TARGET: &str = "user_state_runtime::shard";

/// Carries out what a core asks for.
pub(super) struct Rim<A: LiveAggregate, P: Storage<A>> {
    context: Arc<Context>,
    counters: Arc<Counters>,
    hands: UserHands<A>,
    persistence: Arc<P>,
    /// Database work, in tasks of its own: nothing that a caller does can drop it half-way.
    pub(super) work: JoinSet<Done<A, P>>,
    pub(super) early: Arc<EarlyReports<A, P>>,
    pub(super) handlers: FuturesUnordered<BoxFuture<'static, (Key, Handled<A>)>>,
    started: Instant,
}

impl<A: LiveAggregate, P: Storage<A>> Rim<A, P> {
    pub(super) fn new(
        context: Arc<Context>,
        shard: usize,
        hands: UserHands<A>,
        persistence: Arc<P>,
    ) -> Self {
        Self {
            counters: Arc::clone(context.counters.of(shard)),
            context,
            hands,
            persistence,
            work: JoinSet::new(),
            early: Arc::default(),
            handlers: FuturesUnordered::new(),
            started: Instant::now(),
        }
    }

    /// Tells the real time whenever it is asked.
    pub(super) fn clock(&self) -> impl Fn() -> RealTime + Copy + use<A, P> {
        let started = self.started;
        move || RealTime::from_start(started.elapsed())
    }

    pub(super) fn real_time(&self, instant: Instant) -> RealTime {
        RealTime::from_start(instant.saturating_duration_since(self.started))
    }

    pub(super) fn instant(&self, at: RealTime) -> Instant {
        // Settings keep time-outs far below what an instant can hold.
        self.started + at.since_start()
    }

    pub(super) fn clock_now(&self) -> Moment {
        self.context.clock.now()
    }

    pub(super) fn sleep(&self, until: Moment) -> BoxFuture<'static, ()> {
        let clock = Arc::clone(&self.context.clock);
        async move { clock.sleep_until(until).await }.boxed()
    }

    /// Publishes a failure for which no caller waits.
    fn report(&self, id: &PersistenceId, unheard: Option<FailureReason>) {
        if let Some(reason) = unheard {
            self.context.lifecycle.publish(|| LifecycleEvent::Failed {
                persistence_id: id.clone(),
                reason,
            });
        }
    }

    fn spawn(
        &mut self,
        span: tracing::Span,
        work: impl Future<Output = Done<A, P>> + Send + 'static,
    ) {
        self.work.spawn(work.instrument(span));
    }
}

impl<A: LiveAggregate, P: Storage<A>> Effects for Rim<A, P> {
    type Aggregate = A;
    type Persistence = P;
    type Hands = UserHands<A>;
    type Ticket = Reply<A>;
    type BarrierTicket = BarrierReply;

    fn persistence(&self) -> &P {
        &self.persistence
    }

    fn hands(&self) -> &UserHands<A> {
        &self.hands
    }

    fn answer(
        &mut self,
        ticket: Reply<A>,
        id: &PersistenceId,
        revision: Revision,
        answer: Answer<A, A>,
    ) {
        let unheard = ticket.answer(revision, answer, &self.hands);
        self.report(id, unheard);
    }

    fn fail(
        &mut self,
        ticket: Reply<A>,
        id: &PersistenceId,
        command: Option<A::Command>,
        error: RequestError,
    ) {
        match error {
            RequestError::Panicked => tracing::debug!(persistence_id = %id, "its entity"),
            _ if error.is_behind_unresolved() => {
                tracing::debug!(persistence_id = %id, "an unresolved write is ahead of a request");
            }
            _ => {}
        }
        let unheard = ticket.fail(command, error, &self.hands);
        self.report(id, unheard);
    }

    fn prefetch(&self, ticket: &Reply<A>) {
        ticket.prefetch();
    }

    fn pass(&mut self, barrier: BarrierReply, passed: Result<(), BarrierError>) {
        drop(barrier.send(passed));
    }

    fn recover(&mut self, wanted: Vec<(Key, PersistenceId)>) {
        let span = tracing::debug_span!(target: TARGET, "load", aggregate = A::TYPE, entities = wanted.len());
        let load = database::recover(Arc::clone(&self.persistence), wanted);
        self.spawn(span, load);
    }

    fn write(&mut self, batch: Vec<(Key, WriteOf<Self>)>, rows: usize) {
        let span = tracing::debug_span!(target: TARGET, "write", aggregate = A::TYPE, rows);
        let (persistence, early) = (Arc::clone(&self.persistence), Arc::clone(&self.early));
        self.spawn(span, database::write(persistence, batch, rows, early));
    }

    fn resolve(&mut self, lost: Vec<(Key, LostOf<Self>)>, attempt: Attempt) {
        let pause = match attempt {
            Attempt::First => Duration::ZERO,
            Attempt::Again => self.context.settings.resolve_interval,
        };
        let span = tracing::debug_span!(
            target: TARGET,
            "resolve",
            aggregate = A::TYPE,
            writes = lost.len(),
            ?attempt
        );
        let resolve = database::resolve(Arc::clone(&self.persistence), lost, pause);
        self.spawn(span, resolve);
    }

    fn run(&mut self, key: Key, running: Running<A>) {
        self.handlers
            .push(running.map(move |handled| (key, handled)).boxed());
    }

    fn count(&mut self, counter: Counter, by: u64) {
        let counters = &self.counters;
        match counter {
            Counter::Entered => counters.entity_entered(),
            Counter::Left => counters.entity_left(),
            Counter::Recovered => counters.recovered(by),
            Counter::Passivated => counters.passivated(by),
            Counter::Commands => counters.commands(by),
            Counter::Acknowledged => counters.acknowledged(by),
            Counter::Rejected => counters.rejected(by),
            Counter::Reads => counters.reads(by),
            Counter::Persisted => counters.persisted(by),
            Counter::Batches => counters.batches(by),
            Counter::Conflicts => counters.conflicts(by),
            Counter::Failed => counters.failed(by),
            Counter::Overloaded => counters.overloaded(by),
            Counter::Unknown => counters.unknown(by),
        }
    }

    fn publish(&mut self, happened: impl FnOnce() -> LifecycleEvent) {
        self.context.lifecycle.publish(happened);
    }
}
