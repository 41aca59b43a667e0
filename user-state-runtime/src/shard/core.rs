//! What a shard makes of each input: its entities move, and effects follow. No awaits, no I/O, no
//! clock.
//!
//! **How.** [`Core::step`] takes one input and decides the order of everything that follows from it.
//! While batches are in flight, commands keep being handled and gather for the next one, so load
//! decides the size of a batch and no timer is needed. Callers that a batch has answered are let back
//! in before more are answered, and before the next batch is cut.

use std::collections::VecDeque;

use user_state_store::PersistenceId;

use super::admission::Admission;
use super::batching::{InFlight, Landed};
use super::entities::Entities;
use super::limits::Limits;
use super::{Input, Mail, MailOf, Recovered, Step};
use crate::barrier::BarrierError;
use crate::clock::Moment;
use crate::effects::{Effects, WriteOf};
use crate::entity::{Desk, Next, OpenRequest};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::lifecycle::PassivationReason;
use crate::persistence::Key;
use crate::real_time::RealTime;
use crate::request::{Message, Request};

/// A shard's entities and queues.
pub(super) struct Core<E: Effects> {
    pub(super) limits: Limits,
    pub(super) entities: Entities<E>,
    /// Entities with changes that are not in flight.
    pub(super) dirty: VecDeque<Key>,
    /// A write that is cut, but had no room in its batch.
    pub(super) held_over: Option<(Key, WriteOf<E>)>,
    pub(super) in_flight: InFlight,
    /// Outcomes that their entities do not know yet.
    pub(super) landed: Landed<E>,
    /// Entities with a write whose outcome is unknown.
    pub(super) unresolved: Vec<Key>,
    /// The latest clock reading of any input.
    pub(super) now: Moment,
    /// When the next passivation turn may run; `None` if nothing is overdue.
    pub(super) leaves_resume: Option<RealTime>,
    /// Entities that are due and not idle were asked to leave since the last turn.
    pub(super) leaves_opened: bool,
    /// Scratch buffer of [`Core::on_mail`]; empty between turns.
    addressees: Vec<Option<Key>>,
    /// Entities that have to be loaded.
    pub(super) loads: VecDeque<Key>,
    loads_in_flight: usize,
    pub(super) admission: Admission<E>,
    pub(super) desk: Desk<E>,
    barriers: Vec<Waiter<E>>,
    ending: Ending,
    /// How many of those who were just answered are still waited for.
    returning: usize,
}

/// A barrier that waits for the shard to catch up with a clock.
struct Waiter<E: Effects> {
    ticket: E::BarrierTicket,
    flush_failed: bool,
}

/// How far the shard is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It runs.
    No,
    /// What was accepted is finished until this real time; the mailbox takes nothing new.
    Until(RealTime),
    /// The mailbox is closed and empty; what was accepted is finished, until this real time if one is
    /// set.
    MailboxEmpty(Option<RealTime>),
    /// Time is over.
    Now,
}

impl Ending {
    /// When time is over, if it will be.
    fn deadline(self) -> Option<RealTime> {
        match self {
            Self::Until(until) | Self::MailboxEmpty(Some(until)) => Some(until),
            Self::No | Self::MailboxEmpty(None) | Self::Now => None,
        }
    }
}

impl<E: Effects> Core<E> {
    pub(super) fn new(limits: Limits, now: Moment) -> Self {
        Self {
            limits,
            entities: Entities::new(),
            dirty: VecDeque::new(),
            held_over: None,
            in_flight: InFlight::default(),
            landed: Landed::default(),
            unresolved: Vec::new(),
            now,
            leaves_resume: None,
            leaves_opened: false,
            addressees: Vec::new(),
            loads: VecDeque::new(),
            loads_in_flight: 0,
            admission: Admission::default(),
            desk: Desk::default(),
            barriers: Vec::new(),
            ending: Ending::No,
            returning: 0,
        }
    }

    /// Makes of one input whatever follows from it. Says what the next input may be.
    ///
    /// The time is asked for only if something depends on it: a clock costs more than many an input.
    pub(super) fn step(
        &mut self,
        input: Input<'_, E>,
        now: impl Fn() -> RealTime + Copy,
        out: &mut E,
    ) -> Step {
        let open = self.desk.counts.open();
        match input {
            Input::Mail(mail) => {
                self.returning = self.returning.saturating_sub(mail.len());
                self.on_mail(mail, out);
            }
            Input::MailboxEmpty => {
                self.returning = 0;
                self.on_mailbox_empty();
            }
            Input::NobodyReturned => self.returning = 0,
            Input::ShutDown { until } => self.on_shut_down(until),
            Input::Recovered(recovered) => {
                self.on_recovered(recovered, out);
                self.returning = self.answered_since(open);
            }
            Input::Written(report) => self.on_written(report),
            Input::Resolved(resolutions) => {
                self.on_resolved(resolutions, out);
                self.returning = self.answered_since(open);
            }
            Input::Handled(key, handled) => {
                self.with_entity(key, out, |entity, around| {
                    entity.on_handled(handled, around)
                });
            }
            Input::ClockReached(moment) => self.now = self.now.max(moment),
            Input::RealTimeReached => self.on_real_time(now(), out),
        }
        self.go_on(now, out)
    }

    /// Goes on until somebody has to be waited for.
    fn go_on(&mut self, now: impl Fn() -> RealTime + Copy, out: &mut E) -> Step {
        loop {
            if self.ending == Ending::Now {
                return Step::Finished;
            }
            if self.returning > 0 && self.mail_room() > 0 {
                return Step::LetReturn;
            }
            self.returning = 0;
            match self.tell_landed(now, out) {
                Some(answered) => self.returning = answered,
                None => break,
            }
        }
        self.turn(now, out);
        if self.is_finished() {
            Step::Finished
        } else {
            Step::Wait
        }
    }

    /// What every input is followed by: idle entities leave, loads and batches start.
    fn turn(&mut self, now: impl Fn() -> RealTime, out: &mut E) {
        self.expire_in_turns(now, out);
        // Before what it may lead to: an entity that cannot be encoded leaves, and is loaded anew for
        // those that waited.
        self.cut_batches(out);
        self.admit(out);
        if std::mem::take(&mut self.leaves_opened) && !self.barriers.is_empty() {
            // What came to life behind a barrier and was due already has to leave before it is passed,
            // too.
            self.desk.counts.next_epoch();
        }
        self.start_loads(out);
        self.pass_barriers(out);
    }

    /// How many requests were answered since so many were open, if none was opened.
    pub(super) fn answered_since(&self, open: usize) -> usize {
        open.saturating_sub(self.desk.counts.open())
    }

    /// How much mail there is room for behind the mailbox; none if nothing can come out of it any more.
    pub(super) fn mail_room(&self) -> usize {
        match self.ending {
            Ending::No | Ending::Until(_) => self
                .limits
                .shard_requests_max
                .saturating_sub(self.desk.counts.open()),
            Ending::MailboxEmpty(_) | Ending::Now => 0,
        }
    }

    /// Whether the mailbox is to take nothing new.
    pub(super) fn closes_mailbox(&self) -> bool {
        matches!(self.ending, Ending::Until(_))
    }

    fn is_finished(&self) -> bool {
        match self.ending {
            Ending::No | Ending::Until(_) => false,
            Ending::MailboxEmpty(_) => self.desk.counts.open() == 0,
            Ending::Now => true,
        }
    }

    /// The next real time at which something is to be done.
    pub(super) fn real_deadline(&self) -> Option<RealTime> {
        let ending = self.ending.deadline();
        let resolving = self
            .unresolved
            .iter()
            .filter_map(|key| self.entities.get(*key)?.entity.resolve_deadline())
            .filter(|_| !planted(Fault::ForgottenTimer));
        resolving.chain(ending).chain(self.leaves_resume).min()
    }

    /// Resolves every addressee before handling any message, so that the cache misses overlap.
    fn on_mail(&mut self, mail: &mut Vec<MailOf<E>>, out: &mut E) {
        let mut keys = std::mem::take(&mut self.addressees);
        keys.extend(mail.iter().map(|mail| match mail {
            Mail::Request(message) => self.entities.key_of(&message.persistence_id),
            Mail::Advance { .. } => None,
        }));
        for key in keys.iter().flatten() {
            self.entities.prefetch(*key);
        }
        for (mail, key) in mail.drain(..).zip(keys.drain(..)) {
            match mail {
                Mail::Request(message) => self.on_message(message, key, out),
                Mail::Advance { to, ticket } => self.on_advance(to, ticket, out),
            }
        }
        self.addressees = keys;
    }

    fn on_mailbox_empty(&mut self) {
        if matches!(self.ending, Ending::No | Ending::Until(_)) {
            self.ending = Ending::MailboxEmpty(self.ending.deadline());
        }
    }

    fn on_shut_down(&mut self, until: RealTime) {
        if matches!(self.ending, Ending::No | Ending::Until(_)) {
            self.ending = Ending::Until(until);
        }
    }

    /// Refuses mail that came too late.
    pub(super) fn refuse(&mut self, mail: MailOf<E>, out: &mut E) {
        match mail {
            Mail::Request(message) => {
                let (id, request) = self.open(message);
                self.fail(&id, request, RequestError::Closed, out);
            }
            // A shard that has ended is caught up with everything.
            Mail::Advance { ticket, .. } => out.pass(ticket, Ok(())),
        }
    }

    fn open(
        &mut self,
        message: Message<E::Aggregate, E::Ticket>,
    ) -> (PersistenceId, OpenRequest<E>) {
        let counts = &mut self.desk.counts;
        let ticket = Some(message.ticket);
        let request = OpenRequest::open(message.request, ticket, message.accepted_at, counts);
        (message.persistence_id, request)
    }

    /// A message has come for the entity that was here when it was looked up.
    fn on_message(
        &mut self,
        message: Message<E::Aggregate, E::Ticket>,
        key: Option<Key>,
        out: &mut E,
    ) {
        self.now = self.now.max(message.accepted_at);
        let (id, request) = self.open(message);
        match key {
            Some(key) if self.entities.get(key).is_some() => {
                self.deliver_to(key, id, request, out);
            }
            _ => self.deliver(id, request, out),
        }
    }

    fn on_advance(&mut self, to: Moment, ticket: E::BarrierTicket, out: &mut E) {
        self.now = self.now.max(to);
        // Everything that is due leaves in the epoch that the barrier waits for.
        while self.expire(out) {}
        self.leaves_resume = None;
        self.desk.counts.next_epoch();
        let flush_failed = self.is_abandoned_and_due();
        self.barriers.push(Waiter {
            ticket,
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

    fn on_recovered(&mut self, recovered: Recovered<E>, out: &mut E) {
        self.loads_in_flight = self.loads_in_flight.saturating_sub(1);
        for (key, recovery) in recovered {
            self.with_entity(key, out, |entity, around| {
                entity.on_recovered(recovery, around)
            });
        }
    }

    /// Real time has passed: idle entities go on to leave, and the callers of unresolved writes, or
    /// everybody at the end, are answered.
    fn on_real_time(&mut self, now: RealTime, out: &mut E) {
        self.leaves_resume.take_if(|at| *at <= now);
        if self.ending.deadline().is_some_and(|until| until <= now) {
            self.give_up(out);
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
                self.with_entity(key, out, |entity, around| {
                    entity.abandon(around);
                    Next::Wait
                });
            }
            self.unresolved.push(key);
        }
    }

    fn give_up(&mut self, out: &mut E) {
        self.ending = Ending::Now;
        let keys: Vec<_> = self.entities.keys().collect();
        for key in keys {
            self.with_entity(key, out, |entity, around| {
                entity.give_up(around);
                Next::Wait
            });
        }
        for (id, request) in self.admission.take_all() {
            self.fail(&id, request, RequestError::Closed, out);
        }
        for waiter in self.barriers.drain(..) {
            out.pass(waiter.ticket, Err(BarrierError::FlushFailed));
        }
    }

    /// A request of the shard itself.
    pub(super) fn open_leave(&mut self, reason: PassivationReason) -> OpenRequest<E> {
        let counts = &mut self.desk.counts;
        OpenRequest::open(Request::Leave(reason), None, self.now, counts)
    }

    fn start_loads(&mut self, out: &mut E) {
        while self.loads_in_flight < self.limits.loads_in_flight_max && !self.loads.is_empty() {
            let count = self.loads.len().min(self.limits.batch_rows_max);
            let entities = &self.entities;
            let wanted = self
                .loads
                .drain(..count)
                .filter_map(|key| Some((key, entities.get(key)?.id.clone())))
                .collect();
            out.recover(wanted);
            self.loads_in_flight += 1;
        }
    }

    fn pass_barriers(&mut self, out: &mut E) {
        let ready = self.desk.counts.earlier_are_handled() || planted(Fault::LeakyBarrier);
        if self.has_more_due() || !ready {
            return;
        }
        for waiter in self.barriers.drain(..) {
            let passed = if waiter.flush_failed {
                Err(BarrierError::FlushFailed)
            } else {
                Ok(())
            };
            out.pass(waiter.ticket, passed);
        }
    }

    /// A barrier that waits for this entity to leave will not see it flushed.
    pub(super) fn fail_barrier_of(&mut self, key: Key) {
        let live = self.entities.get(key);
        if live.is_some_and(|live| live.entity.is_leaving()) {
            self.fail_barriers();
        }
    }

    pub(super) fn fail_barriers(&mut self) {
        for waiter in &mut self.barriers {
            waiter.flush_failed = true;
        }
    }
}

#[cfg(test)]
mod tests;
