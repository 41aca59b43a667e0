//! A request behind the mailbox: open until it is answered, and counted while it is.

use std::cell::Cell;

use cqrs_es::Aggregate;
use user_state_store::Revision;

use crate::clock::Moment;
use crate::error::Failure;
use crate::policy::ConflictPolicy;
use crate::request::{Answer, Observers, Request};

/// Counts a shard's requests: the open ones, for its bound, and the unhandled ones, for its barriers.
///
/// An epoch ends when a barrier arrives; the barrier waits for the requests of all epochs before its own.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests {
    open: Cell<usize>,
    epoch: Cell<u32>,
    unhandled_before: Cell<usize>,
    unhandled_now: Cell<usize>,
}

impl OpenRequests {
    /// Requests that were neither answered nor failed.
    pub(crate) fn count(&self) -> usize {
        self.open.get()
    }

    /// Whether all requests of earlier epochs are handled.
    pub(crate) fn earlier_are_handled(&self) -> bool {
        self.unhandled_before.get() == 0
    }

    /// Ends the epoch.
    pub(crate) fn next_epoch(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.unhandled_before
            .set(self.unhandled_before.get() + self.unhandled_now.take());
    }

    fn opened(&self) -> u32 {
        self.open.set(self.open.get() + 1);
        self.unhandled_now.set(self.unhandled_now.get() + 1);
        self.epoch.get()
    }

    fn handled(&self, epoch: u32) {
        let unhandled = if epoch == self.epoch.get() {
            &self.unhandled_now
        } else {
            &self.unhandled_before
        };
        unhandled.set(unhandled.get().saturating_sub(1));
    }

    fn closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

/// A request that waits for its entity.
pub(crate) struct Pending<A: Aggregate> {
    pub(crate) request: Request<A>,
    pub(crate) accepted_at: Moment,
    /// How often it was handled already; after the second time there is no third.
    attempts: u8,
    /// The epoch it was opened in, while it is unhandled.
    epoch: Option<u32>,
}

/// A request that was handled: its answer goes out when `revision` is durable.
pub(crate) struct Settled<A: Aggregate> {
    pending: Pending<A>,
    pub(crate) revision: Revision,
    answer: Answer<A>,
}

/// What a request is to be told when the state it was handled on is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// Handle it again where that is possible.
    Everything,
    /// Fail what changed the state; handle again what only looked at it.
    Changes,
}

impl<A: Aggregate> Pending<A> {
    pub(crate) fn open(request: Request<A>, accepted_at: Moment, requests: &OpenRequests) -> Self {
        Self {
            request,
            accepted_at,
            attempts: 0,
            epoch: Some(requests.opened()),
        }
    }

    /// Whether a copy of the command is worth keeping: it may be handled once more.
    pub(crate) fn may_retry(&self) -> bool {
        self.attempts == 0
    }

    pub(crate) fn settle(
        mut self,
        revision: Revision,
        answer: Answer<A>,
        requests: &OpenRequests,
    ) -> Settled<A> {
        self.mark_handled(requests);
        Settled {
            pending: self,
            revision,
            answer,
        }
    }

    pub(crate) fn answer(
        mut self,
        revision: Revision,
        answer: Answer<A>,
        requests: &OpenRequests,
        observers: Observers<'_>,
    ) {
        self.mark_handled(requests);
        requests.closed();
        self.request.answer(revision, answer, observers);
    }

    pub(crate) fn answer_read(
        mut self,
        revision: Revision,
        state: A,
        requests: &OpenRequests,
        observers: Observers<'_>,
    ) {
        self.mark_handled(requests);
        requests.closed();
        self.request.answer_read(revision, state, observers);
    }

    pub(crate) fn fail(
        mut self,
        failure: Failure,
        requests: &OpenRequests,
        observers: Observers<'_>,
    ) {
        self.mark_handled(requests);
        requests.closed();
        self.request.fail(failure, observers);
    }

    fn mark_handled(&mut self, requests: &OpenRequests) {
        if let Some(epoch) = self.epoch.take() {
            requests.handled(epoch);
        }
    }

    /// The request, to be handled again; an error where it was handled twice or the policy does not want it.
    fn retry(mut self, policy: &ConflictPolicy<A>) -> Result<Self, Self> {
        let repeatable = match &self.request {
            Request::Execute { command, .. } | Request::Tell { command } => {
                // The policy decided when the command was handled whether a copy of it is kept.
                command.is_some() && self.attempts == 0
            }
            Request::Delete { .. } => policy.retries() && self.attempts == 0,
            Request::Read { .. }
            | Request::Confirm { .. }
            | Request::Passivate { .. }
            | Request::Leave(_) => true,
        };
        if repeatable {
            self.attempts = self.attempts.saturating_add(1);
            Ok(self)
        } else {
            Err(self)
        }
    }
}

impl<A: Aggregate> Settled<A> {
    /// Sends the answer: its revision is durable.
    pub(crate) fn send(self, requests: &OpenRequests, observers: Observers<'_>) {
        self.pending
            .answer(self.revision, self.answer, requests, observers);
    }

    pub(crate) fn fail(self, failure: Failure, requests: &OpenRequests, observers: Observers<'_>) {
        self.pending.fail(failure, requests, observers);
    }

    /// Brings the caller's reply into the processor's cache.
    pub(crate) fn touch(&self) {
        self.pending.request.touch();
    }

    /// Whether the answer is part of a change, not just a look at the state.
    pub(crate) fn is_change(&self) -> bool {
        matches!(self.answer, Answer::Done | Answer::Deleted)
    }

    /// The request, to be handled again, where `undo` allows it and it can be.
    pub(crate) fn undo(
        self,
        undo: Undo,
        policy: &ConflictPolicy<A>,
    ) -> Result<Pending<A>, Pending<A>> {
        if undo == Undo::Changes && self.is_change() {
            return Err(self.pending);
        }
        self.pending.retry(policy)
    }
}
