//! The state of an entity comes from the database, and is given up if it turns out to be wrong.

use std::collections::VecDeque;

use super::flight::fail_lost;
use super::{Entity, Invalid, Load, Next, OpenRequest, Phase, Retry, Surroundings, Undo};
use crate::effects::{AggregateOf, Counter, Effects, Hands, KnownOf};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::lifecycle::LifecycleEvent;
use crate::persistence::{Known, Recovery};
use crate::request::Request;

impl<E: Effects> Entity<E> {
    /// The entity was loaded, or could not be.
    pub(crate) fn on_recovered(
        &mut self,
        recovery: Recovery<AggregateOf<E>, KnownOf<E>>,
        around: &mut Surroundings<'_, E>,
    ) -> Next<E> {
        let Phase::Loading(load) = self.phase else {
            return Next::Wait;
        };
        self.phase = Phase::Ready;
        let error = match recovery {
            Ok((state, known)) => {
                self.adopt(state, known, load, around);
                return self.pump(around);
            }
            Err(error) => error,
        };
        around.report(&error);
        // A row known to be unreadable must not be written over from memory.
        if load == Load::Confirmation && !matches!(error, RequestError::Unreadable(_)) {
            if let Some(unconfirmed) = self.next_waiting() {
                unconfirmed.fail(error, around);
            }
            return self.pump(around);
        }
        let work = self.work.take();
        let waiting = work.into_iter().flat_map(|work| work.waiting);
        let (leaves, others): (VecDeque<_>, VecDeque<_>) = waiting.partition(|request| {
            load == Load::Reload && matches!(request.request, Request::Leave(_))
        });
        for request in others {
            request.fail(error.clone(), around);
        }
        Next::Drop(leaves)
    }

    fn adopt(
        &mut self,
        state: AggregateOf<E>,
        known: KnownOf<E>,
        load: Load,
        around: &mut Surroundings<'_, E>,
    ) {
        let revision = known.revision();
        if load == Load::Recovery {
            around.out.count(Counter::Recovered, 1);
            around.out.publish(|| LifecycleEvent::Recovered {
                persistence_id: around.id.clone(),
                revision,
            });
        }
        self.replace_state(state, around.out);
        self.revision = revision;
        self.durable = known;
        if load == Load::Confirmation
            && let Some(confirmed) = self.next_waiting()
        {
            self.read(confirmed, around);
        }
    }

    fn next_waiting(&mut self) -> Option<OpenRequest<E>> {
        self.work.as_mut()?.waiting.pop_front()
    }

    /// Gives up the state in memory, as soon as no handler runs on it.
    pub(super) fn invalidate(
        &mut self,
        invalid: Invalid,
        around: &mut Surroundings<'_, E>,
    ) -> Next<E> {
        if self.phase == Phase::Handling {
            if let Some(work) = self.work.as_mut() {
                work.invalid = Some(invalid);
            }
            return Next::Wait;
        }
        self.undo(invalid, around)
    }

    /// Handles again what was handled on a lost state, or fails it.
    pub(super) fn undo(&mut self, invalid: Invalid, around: &mut Surroundings<'_, E>) -> Next<E> {
        let Some(mut work) = self.work.take() else {
            return Next::Drop(VecDeque::new());
        };
        let (undo, error, reloads) = match invalid {
            Invalid::Conflict | Invalid::Unknown => {
                (Undo::Everything, RequestError::Conflict, true)
            }
            Invalid::NotApplied(error) => (Undo::Changes, error, false),
            Invalid::Abandoned => (Undo::Changes, RequestError::behind_unresolved(), false),
        };
        let retries = around.out.hands().retries();
        let mut again = VecDeque::with_capacity(work.held.len() + work.waiting.len());
        for held in std::mem::take(&mut work.held) {
            match held.undo(undo, retries) {
                Retry::Again(request) => again.push_back(request),
                Retry::No(request) => request.fail(error.clone(), around),
            }
        }
        if planted(Fault::ReorderedRetry) {
            std::mem::swap(&mut again, &mut work.waiting);
        }
        again.append(&mut work.waiting);
        if !reloads {
            return Next::Drop(again);
        }
        work.waiting = again;
        work.gathered = Default::default();
        work.deletes = false;
        work.queued = false;
        self.work = Some(work);
        // What is lost is no change: until the entity is loaded, nothing of this state may be written.
        self.revision = self.durable();
        self.phase = Phase::Loading(Load::Reload);
        Next::Load
    }

    /// Fails every request: the runtime's time to shut down is over.
    pub(crate) fn give_up(&mut self, around: &mut Surroundings<'_, E>) {
        let Some(work) = self.work.take() else { return };
        let work = *work;
        if let Some(flight) = work.flight {
            fail_lost(flight.into_answers(), &RequestError::Closed, around);
        }
        for held in work.held {
            held.fail(RequestError::Closed, around);
        }
        for request in work.handling.into_iter().chain(work.waiting) {
            request.fail(RequestError::Closed, around);
        }
    }
}
