//! Requests reach the state of an entity: one after the other, and only if nothing is ahead.

use chrono::{DateTime, Utc};
use user_state_store::Revision;

use super::{Entity, Load, Next, OpenRequest, Phase, Surroundings};
use crate::effects::{AggregateOf, Counter, Effects, Handled, Hands, Started};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::lifecycle::PassivationReason;
use crate::persistence::Persistence;
use crate::request::{Answer, Request, WaitingAnswer};

impl<E: Effects> Entity<E> {
    /// Handles a request: at once if nothing is ahead of it, otherwise behind the others.
    pub(crate) fn accept(
        &mut self,
        request: OpenRequest<E>,
        around: &mut Surroundings<'_, E>,
    ) -> Next<E> {
        if self.is_open(around.out) && !request.request.stands_alone() {
            return self.handle(request, around).unwrap_or(Next::Wait);
        }
        self.enqueue(request, around);
        self.pump(around)
    }

    /// Puts a request behind the others.
    pub(crate) fn enqueue(&mut self, request: OpenRequest<E>, around: &mut Surroundings<'_, E>) {
        if self.is_abandoned() {
            request.fail(RequestError::behind_unresolved(), around);
            return;
        }
        let work = self.work_mut(around.desk);
        work.leaving |= matches!(request.request, Request::Leave(_));
        work.waiting.push_back(request);
    }

    /// Handles waiting requests as far as possible.
    pub(super) fn pump(&mut self, around: &mut Surroundings<'_, E>) -> Next<E> {
        while self.phase == Phase::Ready {
            let clean = self.is_clean();
            let cut_first = self.is_cut_first(around.out.persistence());
            let Some(work) = self.work.as_deref_mut() else {
                break;
            };
            if work.is_blocked() || cut_first {
                break;
            }
            let Some(next) = work.waiting.front() else {
                break;
            };
            if next.request.stands_alone() && !clean {
                break;
            }
            if matches!(next.request, Request::Confirm) && !planted(Fault::ConfirmedFromMemory) {
                self.phase = Phase::Loading(Load::Confirmation);
                return Next::Load;
            }
            let Some(request) = work.waiting.pop_front() else {
                break;
            };
            if let Some(next) = self.handle(request, around) {
                return next;
            }
        }
        self.rest(around.desk);
        Next::Wait
    }

    /// What waited for a write to be cut goes on.
    pub(crate) fn on_cut(&mut self, around: &mut Surroundings<'_, E>) -> Next<E> {
        self.pump(around)
    }

    /// A handler that waited for something has finished.
    pub(crate) fn on_handled(
        &mut self,
        handled: Handled<AggregateOf<E>>,
        around: &mut Surroundings<'_, E>,
    ) -> Next<E> {
        self.phase = Phase::Ready;
        if let Some(request) = self.work.as_mut().and_then(|work| work.handling.take()) {
            self.conclude(request, handled, around);
        }
        if let Some(invalid) = self.work.as_mut().and_then(|work| work.invalid.take()) {
            return self.undo(invalid, around);
        }
        self.pump(around)
    }

    /// A command or a read may be handled now, and none waits ahead of it.
    fn is_open(&self, out: &E) -> bool {
        self.phase == Phase::Ready
            && self
                .work
                .as_ref()
                .is_none_or(|work| work.waiting.is_empty() && !work.is_blocked())
            && !self.is_cut_first(out.persistence())
    }

    fn handle(
        &mut self,
        mut request: OpenRequest<E>,
        around: &mut Surroundings<'_, E>,
    ) -> Option<Next<E>> {
        let retry = request.may_retry();
        match &mut request.request {
            Request::Execute(slot) => {
                let Some(command) = slot.take() else {
                    request.fail(RequestError::Conflict, around);
                    return None;
                };
                let hands = around.out.hands();
                if retry {
                    *slot = hands.copy_command(&command);
                }
                let started = hands.start(&self.state, command);
                around.out.count(Counter::Commands, 1);
                match started {
                    Started::Finished(handled) => self.conclude(request, handled, around),
                    Started::Waits(running) => {
                        self.phase = Phase::Handling;
                        self.work_mut(around.desk).handling = Some(request);
                        return Some(Next::Run(running));
                    }
                }
            }
            Request::Read | Request::Confirm => self.read(request, around),
            Request::Delete(at) => {
                let at = *at;
                self.delete(request, at, around);
            }
            Request::Passivate => return Some(self.leave(PassivationReason::Requested, request)),
            Request::Leave(reason) => {
                let reason = *reason;
                return Some(self.leave(reason, request));
            }
        }
        None
    }

    fn conclude(
        &mut self,
        request: OpenRequest<E>,
        handled: Handled<AggregateOf<E>>,
        around: &mut Surroundings<'_, E>,
    ) {
        match handled {
            Handled::Changed(state, events) => match self.gather(events, around) {
                Ok(revision) => {
                    self.replace_state(state, around.out);
                    self.revision = revision;
                    self.settle(request, Answer::Done, around);
                }
                Err(error) => {
                    around.out.hands().discard(state);
                    request.fail(error, around);
                    self.rest(around.desk);
                }
            },
            Handled::Unchanged => self.settle(request, Answer::Done, around),
            Handled::Rejected(error) => self.settle(request, Answer::Rejected(error), around),
            Handled::Panicked => request.fail(RequestError::Panicked, around),
        }
    }

    /// Adds events to the next write. Returns the revision that they lead to.
    fn gather(
        &mut self,
        events: Vec<<AggregateOf<E> as cqrs_es::Aggregate>::Event>,
        around: &mut Surroundings<'_, E>,
    ) -> Result<Revision, RequestError> {
        let revision = self.revision;
        let work = self.work_mut(around.desk);
        let out = &*around.out;
        let gather = || {
            out.persistence()
                .gather(&mut work.gathered, revision, events)
        };
        out.hands()
            .guard(gather)
            .unwrap_or(Err(RequestError::Panicked))
    }

    pub(super) fn read(&mut self, request: OpenRequest<E>, around: &mut Surroundings<'_, E>) {
        match around.out.hands().copy_state(&self.state) {
            Some(state) if self.is_clean() || planted(Fault::DirtyRead) => {
                request.answer(self.revision, Answer::State(state), around);
            }
            Some(state) => self.settle(request, Answer::State(Box::new(state)), around),
            None => request.fail(RequestError::Panicked, around),
        }
    }

    fn delete(
        &mut self,
        request: OpenRequest<E>,
        at: DateTime<Utc>,
        around: &mut Surroundings<'_, E>,
    ) {
        let out = &*around.out;
        let deletion = out
            .hands()
            .guard(|| out.persistence().delete(self.revision, at));
        match deletion {
            Some(Ok(Some(deletion))) => {
                self.replace_state(deletion.state, out);
                self.revision = deletion.revision;
                self.work_mut(around.desk).deletes = true;
                self.settle(request, Answer::Deleted, around);
            }
            Some(Ok(None)) => self.settle(request, Answer::Deleted, around),
            Some(Err(error)) => request.fail(error, around),
            None => request.fail(RequestError::Panicked, around),
        }
    }

    fn leave(&mut self, reason: PassivationReason, request: OpenRequest<E>) -> Next<E> {
        let mut others = self
            .work
            .take()
            .map(|work| work.waiting)
            .unwrap_or_default();
        if planted(Fault::LostStash) {
            others.clear();
        }
        Next::Leave {
            reason,
            request,
            others,
        }
    }

    /// Answers at once if the state is durable, otherwise when it will be.
    fn settle(
        &mut self,
        request: OpenRequest<E>,
        answer: WaitingAnswer<AggregateOf<E>>,
        around: &mut Surroundings<'_, E>,
    ) {
        if self.is_clean() || planted(Fault::AnswerBeforeDurable) {
            request.answer(self.revision, answer.unboxed(), around);
        } else if self.is_abandoned() {
            around.out.hands().discard(answer);
            request.fail(RequestError::behind_unresolved(), around);
        } else {
            let held = request.hold(self.revision, answer, &mut around.desk.counts);
            self.work_mut(around.desk).held.push(held);
        }
    }
}
