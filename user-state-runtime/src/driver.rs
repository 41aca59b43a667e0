//! What an entity needs from its shard while it moves.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use cqrs_es::Aggregate;
use user_state_store::{DeleteForm, PersistenceId, Revision, StateMapping, Tags};

use crate::entity::SpareWork;
use crate::error::Failure;
use crate::lifecycle::{FailureReason, LifecycleEvent, Publisher};
use crate::pending::{OpenRequests, Pending, Settled};
use crate::policy::ConflictPolicy;
use crate::request::{Answer, Observers};
use crate::stats::Counters;

/// The entity's surroundings: its id, its aggregate's collaborators, and who is told what.
pub(crate) struct Driver<'a, A: Aggregate> {
    pub(crate) persistence_id: &'a PersistenceId,
    pub(crate) services: &'a Arc<A::Services>,
    pub(crate) mapping: &'a dyn StateMapping<A>,
    pub(crate) tags: &'a Tags,
    pub(crate) delete_form: DeleteForm,
    pub(crate) conflict_policy: &'a ConflictPolicy<A>,
    pub(crate) counters: &'a Counters,
    pub(crate) lifecycle: &'a Publisher,
    pub(crate) requests: &'a OpenRequests,
    pub(crate) spare_work: &'a SpareWork<A>,
}

impl<A: Aggregate> Driver<'_, A> {
    /// A copy of a command for a second handling, where the policy wants one.
    pub(crate) fn copy_of(&self, command: &A::Command) -> Option<A::Command> {
        let copy = self.conflict_policy.copy()?;
        self.guard(|| copy(command))
    }

    /// Runs code of the aggregate that may panic; `None` where it did.
    pub(crate) fn guard<T>(&self, code: impl FnOnce() -> T) -> Option<T> {
        let result = std::panic::catch_unwind(AssertUnwindSafe(code)).ok();
        if result.is_none() {
            tracing::error!(aggregate = A::TYPE, "an aggregate panicked");
            tracing::debug!(persistence_id = %self.persistence_id, "its entity");
        }
        result
    }

    pub(crate) fn answer(&self, pending: Pending<A>, revision: Revision, answer: Answer<A>) {
        pending.answer(revision, answer, self.requests, self.observers());
    }

    pub(crate) fn answer_read(&self, pending: Pending<A>, revision: Revision, state: A) {
        pending.answer_read(revision, state, self.requests, self.observers());
    }

    pub(crate) fn send(&self, settled: Settled<A>) {
        settled.send(self.requests, self.observers());
    }

    pub(crate) fn fail(&self, pending: Pending<A>, failure: Failure) {
        pending.fail(failure, self.requests, self.observers());
    }

    pub(crate) fn fail_settled(&self, settled: Settled<A>, failure: Failure) {
        settled.fail(failure, self.requests, self.observers());
    }

    /// Counts that the entity came to life, and tells the lifecycle stream.
    pub(crate) fn recovered(&self, revision: Revision) {
        self.counters.recovered(1);
        self.lifecycle.publish(|| LifecycleEvent::Recovered {
            persistence_id: self.persistence_id.clone(),
            revision,
        });
    }

    /// Tells the lifecycle stream of a failure of the entity itself.
    pub(crate) fn report(&self, failure: &Failure) {
        self.observers().failed(FailureReason::from(failure));
    }

    fn observers(&self) -> Observers<'_> {
        Observers {
            counters: self.counters,
            lifecycle: self.lifecycle,
            persistence_id: self.persistence_id,
        }
    }
}
