//! Requests to entities that are not live wait for room below the limit on live ones, in order.

use std::collections::VecDeque;

use hashlink::LinkedHashMap;
use user_state_store::{PersistenceId, Revision};

use super::core::Core;
use crate::effects::Effects;
use crate::entity::OpenRequest;
use crate::error::RequestError;

/// What waits for room. None of these entities is live, so nothing overtakes it.
pub(super) struct Admission<E: Effects> {
    waiting: LinkedHashMap<PersistenceId, VecDeque<OpenRequest<E>>>,
    requests: usize,
}

impl<E: Effects> Default for Admission<E> {
    fn default() -> Self {
        Self {
            waiting: LinkedHashMap::new(),
            requests: 0,
        }
    }
}

impl<E: Effects> Admission<E> {
    fn push(&mut self, id: PersistenceId, request: OpenRequest<E>) {
        self.requests += 1;
        let of_entity = self.waiting.entry(id).or_insert_with(VecDeque::new);
        of_entity.push_back(request);
    }

    /// The entity that has waited longest, with its requests.
    fn pop(&mut self) -> Option<(PersistenceId, VecDeque<OpenRequest<E>>)> {
        let (id, requests) = self.waiting.pop_front()?;
        self.requests -= requests.len();
        Some((id, requests))
    }

    /// Every request that waits.
    pub(super) fn take_all(
        &mut self,
    ) -> impl Iterator<Item = (PersistenceId, OpenRequest<E>)> + use<E> {
        let all = std::mem::take(self);
        all.waiting
            .into_iter()
            .flat_map(|(id, requests)| requests.into_iter().map(move |one| (id.clone(), one)))
    }
}

impl<E: Effects> Core<E> {
    /// A request to an entity that is not live.
    pub(super) fn enter(&mut self, id: PersistenceId, request: OpenRequest<E>, out: &mut E) {
        let waits = !self.admission.waiting.is_empty();
        if request.request.is_passivation() && !self.admission.waiting.contains_key(&id) {
            self.answer(&id, request, Revision::NONE, out);
        } else if !waits && self.make_room(out) {
            self.bring_to_life(id, request, out);
        } else if self.admission.requests < self.limits.admission_requests_max {
            self.admission.push(id, request);
        } else {
            self.fail(&id, request, RequestError::Overloaded, out);
        }
    }

    /// Requests that waited for room get it, in their order.
    pub(super) fn admit(&mut self, out: &mut E) {
        while !self.admission.waiting.is_empty() && self.make_room(out) {
            let Some((id, mut waiting)) = self.admission.pop() else {
                return;
            };
            if let Some(first) = waiting.pop_front() {
                self.bring_to_life(id.clone(), first, out);
            }
            self.deliver_all(&id, waiting, out);
        }
    }
}
