//! Requests reach their entities, which come to life for them, and what follows from it.

use user_state_store::{PersistenceId, Revision};

use super::core::Core;
use super::entities::Live;
use crate::effects::{Counter, Effects, Hands};
use crate::entity::{Entity, Next, OpenRequest, Surroundings};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::lifecycle::PassivationReason;
use crate::persistence::Key;
use crate::request::{Answer, Request};

impl<E: Effects> Core<E> {
    /// Gives a request to its entity, which is brought to life if there is room.
    pub(super) fn deliver(&mut self, id: PersistenceId, request: OpenRequest<E>, out: &mut E) {
        match self.entities.key_of(&id) {
            Some(key) => self.deliver_to(key, id, request, out),
            None => self.enter(id, request, out),
        }
    }

    /// Gives requests to their entity, in their order.
    pub(super) fn deliver_all(
        &mut self,
        id: &PersistenceId,
        requests: impl IntoIterator<Item = OpenRequest<E>>,
        out: &mut E,
    ) {
        for request in requests {
            self.deliver(id.clone(), request, out);
        }
    }

    pub(super) fn deliver_to(
        &mut self,
        key: Key,
        id: PersistenceId,
        request: OpenRequest<E>,
        out: &mut E,
    ) {
        let Some(Live { entity, .. }) = self.entities.get_mut(key) else {
            return self.enter(id, request, out);
        };
        let due = self.limits.is_due(entity.touched(), request.accepted_at);
        if due && entity.is_idle() {
            self.passivate(key, PassivationReason::Idle, out);
            self.enter(id, request, out);
            return;
        }
        let limit = self.limits.entity_requests_max + usize::from(planted(Fault::LimitOffByOne));
        if entity.open_requests() >= limit {
            self.fail(&id, request, RequestError::Overloaded, out);
            return;
        }
        if due {
            let leave = (!entity.is_leaving()).then(|| self.open_leave(PassivationReason::Idle));
            self.entities.set_aside(key);
            self.with_entity(key, out, |entity, around| {
                if let Some(leave) = leave {
                    entity.enqueue(leave, around);
                }
                entity.accept(request, around)
            });
            return;
        }
        if !request.request.is_passivation() {
            entity.touch(request.accepted_at);
            self.entities.renew(key);
        }
        self.with_entity(key, out, |entity, around| entity.accept(request, around));
    }

    pub(super) fn bring_to_life(
        &mut self,
        id: PersistenceId,
        request: OpenRequest<E>,
        out: &mut E,
    ) {
        let Some(initial) = out.hands().initial_state() else {
            self.fail(&id, request, RequestError::Panicked, out);
            return;
        };
        let accepted_at = request.accepted_at;
        let key = self.entities.insert(id, Entity::new(initial, accepted_at));
        out.count(Counter::Entered, 1);
        self.loads.push_back(key);
        // It may have waited for room until it was due.
        let leave = self
            .limits
            .is_due(accepted_at, self.now)
            .then(|| self.open_leave(PassivationReason::Idle));
        if leave.is_some() {
            self.entities.set_aside(key);
            self.leaves_opened = true;
        }
        self.with_entity(key, out, |entity, around| {
            for request in std::iter::once(request).chain(leave) {
                entity.enqueue(request, around);
            }
            Next::Wait
        });
    }

    /// Calls an entity and does what follows from it.
    pub(super) fn with_entity(
        &mut self,
        key: Key,
        out: &mut E,
        call: impl FnOnce(&mut Entity<E>, &mut Surroundings<'_, E>) -> Next<E>,
    ) {
        let Some(Live { id, entity, .. }) = self.entities.get_mut(key) else {
            return;
        };
        let desk = &mut self.desk;
        let next = call(entity, &mut Surroundings { id, out, desk });
        if entity.list_as_dirty() {
            self.dirty.push_back(key);
        }
        self.follow(key, next, out);
    }

    fn follow(&mut self, key: Key, next: Next<E>, out: &mut E) {
        match next {
            Next::Wait => {}
            Next::Run(running) => out.run(key, running),
            Next::Load => self.loads.push_back(key),
            Next::Leave {
                reason,
                request,
                others,
            } => {
                let Some((id, revision)) = self.passivate(key, reason, out) else {
                    return;
                };
                self.answer(&id, request, revision, out);
                self.deliver_all(&id, others, out);
            }
            Next::Drop(others) => {
                // It was due and could not be flushed.
                if others
                    .iter()
                    .any(|request| matches!(request.request, Request::Leave(_)))
                {
                    self.fail_barriers();
                }
                let Some((id, entity)) = self.entities.remove(key) else {
                    return;
                };
                out.hands().discard(entity);
                out.count(Counter::Left, 1);
                self.deliver_all(&id, others, out);
            }
        }
    }

    /// Answers a request to leave.
    pub(super) fn answer(
        &mut self,
        id: &PersistenceId,
        request: OpenRequest<E>,
        revision: Revision,
        out: &mut E,
    ) {
        let desk = &mut self.desk;
        request.answer(
            revision,
            Answer::Passivated,
            &mut Surroundings { id, out, desk },
        );
    }

    pub(super) fn fail(
        &mut self,
        id: &PersistenceId,
        request: OpenRequest<E>,
        error: RequestError,
        out: &mut E,
    ) {
        let desk = &mut self.desk;
        request.fail(error, &mut Surroundings { id, out, desk });
    }
}
