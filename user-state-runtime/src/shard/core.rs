//! The state of a shard and what it makes of each input. No awaits, no I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use cqrs_es::Aggregate;
use hashlink::LinkedHashMap;
use tokio::task::JoinError;
use tokio::time::Instant;
use user_state_store::{PersistenceId, Revision};

use super::entities::{Entities, EntityKey, Live};
use super::flushing::{InFlight, Landed};
use super::{Effect, Mail};
use crate::barrier::BarrierError;
use crate::clock::Moment;
use crate::context::Context;
use crate::driver::Driver;
use crate::entity::{Entity, Moved, SpareWork};
use crate::error::Failure;
use crate::handler::Handled;
use crate::lifecycle::PassivationReason;
use crate::pending::{OpenRequests, Pending};
use crate::request::{Answer, Message, Request};
use crate::stats::Counters;
use crate::work::Done;

/// A shard's entities and queues.
pub(super) struct Core<A: Aggregate> {
    pub(super) context: Arc<Context<A>>,
    pub(super) counters: Arc<Counters>,
    pub(super) entities: Entities<A>,
    /// Entities with changes that are not on their way.
    pub(super) dirty: VecDeque<EntityKey>,
    /// A write that is cut, but had no room in its batch.
    pub(super) held_over: Option<(EntityKey, user_state_store::Write)>,
    pub(super) in_flight: InFlight,
    /// The rest of a batch that has landed.
    pub(super) landed: Landed,
    /// Entities whose write has an unknown outcome.
    pub(super) unresolved: Vec<EntityKey>,
    /// The latest clock reading of any input.
    pub(super) now: Moment,
    /// When those go on to leave who are due and had no place in the last turn of leaving; `None` where nobody is left.
    pub(super) leaves_resume: Option<Instant>,
    /// Entities that are due and not idle were told to leave since the last turn.
    pub(super) leaves_opened: bool,
    pub(super) effects: Vec<Effect<A>>,
    /// Empty: room for whom the mail of a turn is for.
    addressees: Vec<Option<EntityKey>>,
    /// Entities whose row has to be loaded.
    loads: VecDeque<EntityKey>,
    loads_in_flight: usize,
    /// Requests to entities that wait for room below the limit on live ones, in order. None of these entities is live,
    /// so nothing overtakes them.
    admission: LinkedHashMap<PersistenceId, VecDeque<Pending<A>>>,
    /// How many requests wait there.
    admission_requests: usize,
    pub(super) requests: OpenRequests,
    spare_work: SpareWork<A>,
    barriers: Vec<Waiter>,
    ending: Ending,
}

/// Somebody who waits for the shard to catch up with a clock.
struct Waiter {
    reply: oneshot::Sender<Result<(), BarrierError>>,
    flush_failed: bool,
}

/// How far the shard is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It runs.
    No,
    /// What was accepted is finished until this real time; the mailbox takes nothing new.
    Until(Instant),
    /// The mailbox is closed and empty; what was accepted is finished, until this real time where one is set.
    MailboxEmpty(Option<Instant>),
    /// Time is over.
    Now,
}

impl<A> Core<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    pub(super) fn new(context: Arc<Context<A>>, counters: Arc<Counters>) -> Self {
        Self {
            now: context.clock.now(),
            context,
            counters,
            entities: Entities::new(),
            dirty: VecDeque::new(),
            held_over: None,
            in_flight: InFlight::default(),
            landed: Landed::default(),
            unresolved: Vec::new(),
            leaves_resume: None,
            leaves_opened: false,
            effects: Vec::new(),
            addressees: Vec::new(),
            loads: VecDeque::new(),
            loads_in_flight: 0,
            admission: LinkedHashMap::new(),
            admission_requests: 0,
            requests: OpenRequests::default(),
            spare_work: SpareWork::default(),
            barriers: Vec::new(),
            ending: Ending::No,
        }
    }

    /// How much mail there is room for behind the mailbox; none where nothing can come out of it any more.
    pub(super) fn mail_room(&self) -> usize {
        match self.ending {
            Ending::No | Ending::Until(_) => {
                let limit = self.context.settings.shard_requests_max;
                limit.saturating_sub(self.requests.count())
            }
            Ending::MailboxEmpty(_) | Ending::Now => 0,
        }
    }

    /// Whether the mailbox is to take nothing new.
    pub(super) fn closes_mailbox(&self) -> bool {
        matches!(self.ending, Ending::Until(_))
    }

    pub(super) fn is_finished(&self) -> bool {
        match self.ending {
            Ending::No | Ending::Until(_) => false,
            Ending::MailboxEmpty(_) => self.requests.count() == 0,
            Ending::Now => true,
        }
    }

    /// The next real time at which something is to be done.
    pub(super) fn real_deadline(&self) -> Option<Instant> {
        let ending = match self.ending {
            Ending::Until(until) | Ending::MailboxEmpty(Some(until)) => Some(until),
            _ => None,
        };
        let resolving = self
            .unresolved
            .iter()
            .filter_map(|key| self.entities.get(*key)?.entity.resolve_deadline());
        resolving.chain(ending).chain(self.leaves_resume).min()
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect<A>> {
        std::mem::take(&mut self.effects)
    }

    /// Mail has come; none at all means that the mailbox is closed and empty.
    pub(super) fn on_mail(&mut self, mail: &mut Vec<Mail<A>>) {
        if mail.is_empty() {
            self.ending = Ending::MailboxEmpty(match self.ending {
                Ending::Until(until) => Some(until),
                _ => None,
            });
        }
        // Whom all of it is for is looked up before any is handled: where these do not depend on each other, the processor
        // waits for memory once for several.
        let mut keys = std::mem::take(&mut self.addressees);
        keys.extend(mail.iter().map(|mail| match mail {
            Mail::Request(message) => self.entities.key_of(&message.persistence_id),
            Mail::Advance { .. } => None,
        }));
        for key in keys.iter().flatten() {
            self.entities.touch(*key);
        }
        for (mail, key) in mail.drain(..).zip(keys.drain(..)) {
            match mail {
                Mail::Request(message) => self.on_message(message, key),
                Mail::Advance { to, reply } => self.on_advance(to, reply),
            }
        }
        self.addressees = keys;
    }

    /// The runtime shuts down until this real time.
    pub(super) fn on_ending(&mut self, until: Option<Instant>) {
        if let (Some(until), Ending::No | Ending::Until(_)) = (until, self.ending) {
            self.ending = Ending::Until(until);
        }
    }

    /// Mail that came too late.
    pub(super) fn refuse(&mut self, mail: Mail<A>) {
        match mail {
            Mail::Request(message) => {
                let pending = Pending::open(message.request, message.accepted_at, &self.requests);
                self.driver(&message.persistence_id)
                    .fail(pending, Failure::Closed);
            }
            // A shard that has ended is caught up with everything.
            Mail::Advance { reply, .. } => drop(reply.send(Ok(()))),
        }
    }

    /// A message has come for the entity that was here when it was looked up.
    fn on_message(&mut self, message: Message<A>, key: Option<EntityKey>) {
        let Message {
            persistence_id,
            accepted_at,
            request,
        } = message;
        self.now = self.now.max(accepted_at);
        let pending = Pending::open(request, accepted_at, &self.requests);
        match key {
            Some(key) if self.entities.get(key).is_some() => {
                self.deliver_to(key, persistence_id, pending);
            }
            _ => self.deliver(persistence_id, pending),
        }
    }

    fn on_advance(&mut self, to: Moment, reply: oneshot::Sender<Result<(), BarrierError>>) {
        self.now = self.now.max(to);
        // Everything that is due leaves in the epoch that the barrier waits for.
        while self.expire() {}
        self.leaves_resume = None;
        self.requests.next_epoch();
        let flush_failed = self.is_abandoned_and_due();
        self.barriers.push(Waiter {
            reply,
            flush_failed,
        });
    }

    /// Whether an entity is due that stays until its write is resolved, whenever that will be.
    fn is_abandoned_and_due(&self) -> bool {
        self.unresolved
            .iter()
            .filter_map(|key| self.entities.get(*key))
            .any(|live| live.entity.is_abandoned() && self.is_due(&live.entity))
    }

    /// A piece of database work has come to its end. How many requests that has answered; those of a batch that has landed are
    /// answered by [`Core::on_landed`].
    pub(super) fn on_done(&mut self, done: Result<Done<A>, JoinError>) -> usize {
        let open = self.requests.count();
        match done {
            Ok(Done::Loaded(rows)) => {
                self.loads_in_flight = self.loads_in_flight.saturating_sub(1);
                for (key, row) in rows {
                    self.with_entity(key, |entity, driver| entity.on_loaded(row, driver));
                }
            }
            Ok(Done::Written(written)) => self.on_written(written),
            Ok(Done::Resolved(resolutions)) => self.on_resolved(resolutions),
            // The tokio runtime is going down, and this shard with it.
            Err(error) if error.is_cancelled() => {}
            // Database work catches the panics of stores and mappings.
            Err(error) => unreachable!("database work always comes to its end: {error}"),
        }
        open.saturating_sub(self.requests.count())
    }

    pub(super) fn on_handled(&mut self, key: EntityKey, handled: Handled<A>) {
        self.with_entity(key, |entity, driver| entity.on_handled(handled, driver));
    }

    /// Real time has passed: idle entities go on to leave; an unresolved write's callers, or everybody at the end, are told.
    pub(super) fn on_real_time(&mut self, now: Instant) {
        self.leaves_resume.take_if(|at| *at <= now);
        let over = match self.ending {
            Ending::Until(until) | Ending::MailboxEmpty(Some(until)) => until <= now,
            _ => false,
        };
        if over {
            self.give_up();
            return;
        }
        for key in std::mem::take(&mut self.unresolved) {
            let late = self
                .entities
                .get(key)
                .and_then(|live| live.entity.resolve_deadline())
                .is_some_and(|deadline| deadline <= now);
            if late {
                self.fail_barrier_of(key);
                self.with_entity(key, |entity, driver| {
                    entity.abandon(driver);
                    Moved::Waits
                });
            }
            self.unresolved.push(key);
        }
    }

    /// What every input is followed by: idle entities leave, loads and batches start.
    pub(super) fn turn(&mut self, now: impl FnOnce() -> Instant) {
        self.expire_in_turns(now);
        self.admit();
        if std::mem::take(&mut self.leaves_opened) && !self.barriers.is_empty() {
            // Whoever came to life behind a barrier and was due already has to leave before it is passed, too.
            self.requests.next_epoch();
        }
        self.start_loads();
        self.cut_batches();
        self.pass_barrier();
    }

    fn give_up(&mut self) {
        self.ending = Ending::Now;
        let keys: Vec<_> = self.entities.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.with_entity(key, |entity, driver| {
                entity.give_up(driver);
                Moved::Waits
            });
        }
        for (id, waiting) in std::mem::take(&mut self.admission) {
            for pending in waiting {
                self.driver(&id).fail(pending, Failure::Closed);
            }
        }
    }

    /// Gives a request to its entity, which comes to life for it where there is room.
    pub(super) fn deliver(&mut self, id: PersistenceId, pending: Pending<A>) {
        match self.entities.key_of(&id) {
            Some(key) => self.deliver_to(key, id, pending),
            None => self.enter(id, pending),
        }
    }

    fn deliver_to(&mut self, key: EntityKey, id: PersistenceId, pending: Pending<A>) {
        self.entities.renew(key);
        let Some(Live { entity, .. }) = self.entities.get_mut(key) else {
            unreachable!("who was found is there")
        };
        let settings = &self.context.settings;
        let due = settings.is_due(entity.touched(), pending.accepted_at);
        if due && entity.is_idle() {
            self.passivate(key, PassivationReason::Idle);
            self.enter(id, pending);
            return;
        }
        if entity.open_requests() >= settings.entity_requests_max {
            self.driver(&id).fail(pending, Failure::Overloaded);
            return;
        }
        if due {
            let leave = (!entity.is_leaving()).then(|| self.open_leave(PassivationReason::Idle));
            self.with_entity(key, |entity, driver| {
                if let Some(leave) = leave {
                    entity.enqueue(leave, driver);
                }
                entity.accept(pending, driver)
            });
            return;
        }
        if !matches!(
            pending.request,
            Request::Passivate { .. } | Request::Leave(_)
        ) {
            entity.touch(pending.accepted_at);
        }
        self.with_entity(key, |entity, driver| entity.accept(pending, driver));
    }

    pub(super) fn open_leave(&self, reason: PassivationReason) -> Pending<A> {
        Pending::open(Request::Leave(reason), self.now, &self.requests)
    }

    /// A request to an entity that is not live.
    fn enter(&mut self, id: PersistenceId, pending: Pending<A>) {
        let passivates = matches!(
            pending.request,
            Request::Passivate { .. } | Request::Leave(_)
        );
        if passivates && !self.admission.contains_key(&id) {
            self.driver(&id)
                .answer(pending, Revision::NONE, Answer::Done);
        } else if self.admission.is_empty() && self.make_room() {
            self.bring_to_life(id, pending);
        } else if self.admission_requests < self.context.settings.admission_requests_max {
            self.admission_requests += 1;
            self.admission
                .entry(id)
                .or_insert_with(VecDeque::new)
                .push_back(pending);
        } else {
            self.driver(&id).fail(pending, Failure::Overloaded);
        }
    }

    fn bring_to_life(&mut self, id: PersistenceId, pending: Pending<A>) {
        let accepted_at = pending.accepted_at;
        let mut entity = Entity::new(accepted_at);
        entity.enqueue(pending, &self.driver(&id));
        if self.context.settings.is_due(accepted_at, self.now) {
            // It waited for room until it was due.
            let leave = self.open_leave(PassivationReason::Idle);
            entity.enqueue(leave, &self.driver(&id));
            self.leaves_opened = true;
        }
        self.counters.entity_entered();
        let key = self.entities.insert(id, entity);
        self.loads.push_back(key);
    }

    /// Requests that waited for room get it, in their order.
    fn admit(&mut self) {
        while !self.admission.is_empty() && self.make_room() {
            let Some((id, mut waiting)) = self.admission.pop_front() else {
                return;
            };
            self.admission_requests -= waiting.len();
            if let Some(first) = waiting.pop_front() {
                self.bring_to_life(id.clone(), first);
            }
            for pending in waiting {
                self.deliver(id.clone(), pending);
            }
        }
    }

    fn start_loads(&mut self) {
        let settings = &self.context.settings;
        while self.loads_in_flight < settings.loads_in_flight_max && !self.loads.is_empty() {
            let count = self.loads.len().min(settings.batch_rows_max);
            let entities = &self.entities;
            let id_of = |key| Some((key, entities.get(key)?.id.clone()));
            let (keys, ids) = self.loads.drain(..count).filter_map(id_of).unzip();
            self.effects.push(Effect::Load { keys, ids });
            self.loads_in_flight += 1;
        }
    }

    fn pass_barrier(&mut self) {
        if self.has_more_due() || !self.requests.earlier_are_handled() {
            return;
        }
        for waiter in self.barriers.drain(..) {
            let passed = if waiter.flush_failed {
                Err(BarrierError::FlushFailed)
            } else {
                Ok(())
            };
            drop(waiter.reply.send(passed));
        }
    }

    /// A barrier that waits for this entity to leave will not see it flushed.
    pub(super) fn fail_barrier_of(&mut self, key: EntityKey) {
        let live = self.entities.get(key);
        if live.is_some_and(|live| live.entity.is_leaving()) {
            self.fail_barriers();
        }
    }

    fn fail_barriers(&mut self) {
        for waiter in &mut self.barriers {
            waiter.flush_failed = true;
        }
    }

    /// Moves an entity and does what follows from it.
    pub(super) fn with_entity(
        &mut self,
        key: EntityKey,
        move_it: impl FnOnce(&mut Entity<A>, &Driver<'_, A>) -> Moved<A>,
    ) {
        let Some(Live { id, entity, .. }) = self.entities.get_mut(key) else {
            return;
        };
        let driver = driver(
            &self.context,
            &self.counters,
            &self.requests,
            &self.spare_work,
            id,
        );
        let moved = move_it(entity, &driver);
        if entity.list_as_dirty() {
            self.dirty.push_back(key);
        }
        self.follow(key, moved);
    }

    fn follow(&mut self, key: EntityKey, moved: Moved<A>) {
        match moved {
            Moved::Waits => {}
            Moved::Handles(running) => self.effects.push(Effect::Handle(key, running)),
            Moved::Loads => self.loads.push_back(key),
            Moved::Leaves {
                reason,
                request,
                others,
            } => {
                let Some((id, revision)) = self.passivate(key, reason) else {
                    unreachable!("who leaves was there")
                };
                self.driver(&id).answer(request, revision, Answer::Done);
                for pending in others {
                    self.deliver(id.clone(), pending);
                }
            }
            Moved::Drops(others) => {
                // It was due and could not be flushed.
                if others
                    .iter()
                    .any(|pending| matches!(pending.request, Request::Leave(_)))
                {
                    self.fail_barriers();
                }
                let Some((id, _)) = self.entities.remove(key) else {
                    unreachable!("who is dropped was there")
                };
                self.counters.entity_left();
                for pending in others {
                    self.deliver(id.clone(), pending);
                }
            }
        }
    }

    pub(super) fn driver<'a>(&'a self, id: &'a PersistenceId) -> Driver<'a, A> {
        driver(
            &self.context,
            &self.counters,
            &self.requests,
            &self.spare_work,
            id,
        )
    }
}

fn driver<'a, A: Aggregate>(
    context: &'a Context<A>,
    counters: &'a Counters,
    requests: &'a OpenRequests,
    spare_work: &'a SpareWork<A>,
    persistence_id: &'a PersistenceId,
) -> Driver<'a, A> {
    Driver {
        persistence_id,
        services: &context.services,
        mapping: context.mapping.as_ref(),
        tags: &context.tags,
        delete_form: context.delete_form,
        conflict_policy: &context.conflict_policy,
        counters,
        lifecycle: &context.lifecycle,
        requests,
        spare_work,
    }
}
