//! A request behind the mailbox: open until it is answered, and counted while it is.

use user_state_store::Revision;

use crate::clock::Moment;
use crate::effects::{AggregateOf, Counter, Effects, Hands};
use crate::entity::Surroundings;
use crate::error::RequestError;
#[cfg(test)]
use crate::fault::{Fault, planted};
use crate::request::{Answer, Request, WaitingAnswer};

/// Counts a shard's requests: the open ones, for its bound, and the unhandled ones, for its barriers.
///
/// An epoch ends when a barrier arrives; the barrier waits for the requests of all epochs before its
/// own.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    open: usize,
    epoch: u32,
    unhandled_before: usize,
    unhandled_now: usize,
}

impl RequestCounts {
    /// Requests that were neither answered nor failed.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Whether all requests of earlier epochs are handled.
    pub(crate) fn earlier_are_handled(&self) -> bool {
        self.unhandled_before == 0
    }

    /// Ends the epoch.
    pub(crate) fn next_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.unhandled_before += std::mem::take(&mut self.unhandled_now);
    }

    fn opened(&mut self) -> u32 {
        self.open += 1;
        self.unhandled_now += 1;
        self.epoch
    }

    fn handled(&mut self, epoch: u32) {
        let unhandled = if epoch == self.epoch {
            &mut self.unhandled_now
        } else {
            &mut self.unhandled_before
        };
        *unhandled = unhandled.saturating_sub(1);
    }

    fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }
}

/// A request that waits for its entity.
pub(crate) struct OpenRequest<E: Effects> {
    pub(crate) request: Request<AggregateOf<E>>,
    /// Where its answer goes; `None` if the shard itself has asked.
    ticket: Option<E::Ticket>,
    pub(crate) accepted_at: Moment,
    /// How often it was handled already; after the second time there is no third.
    attempts: u8,
    /// The epoch it was opened in, while it is unhandled.
    epoch: Option<u32>,
}

/// A request that was handled, and its answer, which goes out when `revision` is durable.
pub(crate) struct HeldAnswer<E: Effects> {
    handled: OpenRequest<E>,
    pub(crate) revision: Revision,
    answer: WaitingAnswer<AggregateOf<E>>,
}

/// What becomes of requests that were handled on a state that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// Handle each again, if that is possible.
    Everything,
    /// Fail those that changed the state; handle again those that only looked at it.
    Changes,
}

/// Whether a request is handled again.
pub(crate) enum Retry<E: Effects> {
    Again(OpenRequest<E>),
    No(OpenRequest<E>),
}

impl<E: Effects> OpenRequest<E> {
    pub(crate) fn open(
        request: Request<AggregateOf<E>>,
        ticket: Option<E::Ticket>,
        accepted_at: Moment,
        counts: &mut RequestCounts,
    ) -> Self {
        Self {
            request,
            ticket,
            accepted_at,
            attempts: 0,
            epoch: Some(counts.opened()),
        }
    }

    /// Whether a copy of the command is worth keeping: it may be handled once more.
    pub(crate) fn may_retry(&self) -> bool {
        self.attempts == 0
    }

    /// Holds its answer back until `revision` is durable.
    pub(crate) fn hold(
        mut self,
        revision: Revision,
        answer: WaitingAnswer<AggregateOf<E>>,
        counts: &mut RequestCounts,
    ) -> HeldAnswer<E> {
        self.mark_handled(counts);
        HeldAnswer {
            handled: self,
            revision,
            answer,
        }
    }

    /// Answers at once.
    pub(crate) fn answer(
        mut self,
        revision: Revision,
        answer: Answer<AggregateOf<E>, AggregateOf<E>>,
        around: &mut Surroundings<'_, E>,
    ) {
        self.mark_handled(&mut around.desk.counts);
        around.desk.counts.closed();
        let counter = match &answer {
            Answer::Done => Some(Counter::Acknowledged),
            Answer::Rejected(_) => Some(Counter::Rejected),
            Answer::State(_) => Some(Counter::Reads),
            Answer::Deleted | Answer::Passivated => None,
        };
        if let Some(counter) = counter {
            around.out.count(counter, 1);
        }
        if let Request::Execute(Some(copy)) = self.request {
            around.out.hands().discard(copy);
        }
        if let Some(ticket) = self.ticket {
            around.out.answer(ticket, around.id, revision, answer);
        }
    }

    pub(crate) fn fail(mut self, error: RequestError, around: &mut Surroundings<'_, E>) {
        self.mark_handled(&mut around.desk.counts);
        around.desk.counts.closed();
        let counter = match error {
            RequestError::Overloaded => Counter::Overloaded,
            _ => Counter::Failed,
        };
        around.out.count(counter, 1);
        let command = match self.request {
            Request::Execute(command) => command,
            _ => None,
        };
        if let Some(ticket) = self.ticket {
            around.out.fail(ticket, around.id, command, error);
        }
    }

    fn mark_handled(&mut self, counts: &mut RequestCounts) {
        if let Some(epoch) = self.epoch.take() {
            counts.handled(epoch);
        }
    }

    /// The request, to be handled again if it was handled once only and the policy wants it.
    fn retry(mut self, retries: bool) -> Retry<E> {
        let repeatable = match &self.request {
            // The policy decided when the command was handled whether a copy of it is kept.
            Request::Execute(command) => command.is_some() && self.attempts == 0,
            Request::Delete(_) => retries && self.attempts == 0,
            Request::Read | Request::Confirm | Request::Passivate | Request::Leave(_) => true,
        };
        if !repeatable {
            return Retry::No(self);
        }
        self.attempts = self.attempts.saturating_add(1);
        Retry::Again(self)
    }
}

impl<E: Effects> HeldAnswer<E> {
    /// Gives the answer: its revision is durable.
    pub(crate) fn send(self, around: &mut Surroundings<'_, E>) {
        #[cfg(test)]
        if planted(Fault::EarlyAnswerTwice)
            && let Some(ticket) = &self.handled.ticket
        {
            around.out.repeat_answer(ticket);
        }
        self.handled
            .answer(self.revision, self.answer.unboxed(), around);
    }

    pub(crate) fn fail(self, error: RequestError, around: &mut Surroundings<'_, E>) {
        self.handled.fail(error, around);
    }

    /// Brings the receiver of the answer into the processor's cache.
    pub(crate) fn prefetch(&self, out: &E) {
        if let Some(ticket) = &self.handled.ticket {
            out.prefetch(ticket);
        }
    }

    /// Whether the answer is part of a change, not just a look at the state.
    pub(crate) fn is_change(&self) -> bool {
        self.answer.is_change()
    }

    /// The request, to be handled again if `undo` allows it and it can be.
    pub(crate) fn undo(self, undo: Undo, retries: bool) -> Retry<E> {
        if undo == Undo::Changes && self.is_change() {
            return Retry::No(self.handled);
        }
        self.handled.retry(retries)
    }
}

#[cfg(test)]
mod tests;
