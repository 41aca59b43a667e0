//! A write of an entity in flight to the database: cut, landed, or its answer lost.

use user_state_store::Revision;

use super::{Entity, HeldAnswer, Invalid, Next, Surroundings};
use crate::effects::{Counter, Effects, Hands, KnownOf, WriteOf};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::lifecycle::LifecycleEvent;
use crate::persistence::{ChangeKind, Cut, Known, Persistence};
use crate::real_time::RealTime;

/// How many answers ahead of the one that is sent memory is touched: enough to hide how long that
/// takes.
const ANSWERS_AHEAD: usize = 4;

/// A write in flight, with the answers that depend on it.
pub(super) struct Flight<E: Effects> {
    revision: Revision,
    answers: Vec<HeldAnswer<E>>,
    /// A deletion: nothing is handled behind it before its outcome is known.
    deletes: bool,
    resolution: Resolution,
}

/// How far an unknown outcome is from being known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// The answer has not come yet.
    NotNeeded,
    /// The answer was lost; callers wait until the deadline.
    Until(RealTime),
    /// The deadline has passed and callers were answered.
    Abandoned,
}

impl<E: Effects> Flight<E> {
    /// How many answers depend on it.
    pub(super) fn answers(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn blocks(&self) -> bool {
        self.deletes || self.resolution != Resolution::NotNeeded
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.resolution == Resolution::Abandoned
    }

    pub(super) fn into_answers(self) -> Vec<HeldAnswer<E>> {
        self.answers
    }
}

/// What cutting an entity's changes gives.
pub(crate) enum Slip<E: Effects> {
    /// Its write, which is in flight from now on.
    Write(WriteOf<E>),
    /// There is nothing to write.
    Nothing,
    /// The state has no stored form, and this is what becomes of the entity.
    Unencodable(Next<E>),
}

impl<E: Effects> Entity<E> {
    /// Cuts the gathered changes into a write.
    pub(crate) fn cut(&mut self, around: &mut Surroundings<'_, E>) -> Slip<E> {
        let dirty = self.is_dirty();
        let Some(work) = self.work.as_deref_mut() else {
            return Slip::Nothing;
        };
        work.queued = false;
        if !dirty || work.flight.is_some() && !planted(Fault::SecondWriteInFlight) {
            return Slip::Nothing;
        }
        let deletes = std::mem::take(&mut work.deletes);
        let gathered = std::mem::take(&mut work.gathered);
        let cut = Cut {
            id: around.id,
            known: self.durable,
            to: self.revision,
            state: &self.state,
            change: if deletes {
                ChangeKind::Deletion
            } else {
                ChangeKind::Commands(gathered)
            },
        };
        let out = &*around.out;
        let write = out.hands().guard(|| out.persistence().cut(cut));
        match write.unwrap_or(Err(RequestError::Panicked)) {
            Ok(write) => {
                work.flight = Some(Flight {
                    revision: self.revision,
                    answers: std::mem::replace(&mut work.held, std::mem::take(&mut work.sent)),
                    deletes,
                    resolution: Resolution::NotNeeded,
                });
                Slip::Write(write)
            }
            Err(error) => Slip::Unencodable(self.invalidate(Invalid::NotApplied(error), around)),
        }
    }

    /// The write in flight is durable, and this is what is stored now.
    pub(crate) fn on_applied(
        &mut self,
        known: KnownOf<E>,
        around: &mut Surroundings<'_, E>,
    ) -> Next<E> {
        let Some(flight) = self.work.as_mut().and_then(|work| work.flight.take()) else {
            return Next::Wait;
        };
        self.durable = known;
        around.out.count(Counter::Persisted, 1);
        around.out.publish(|| LifecycleEvent::Persisted {
            persistence_id: around.id.clone(),
            revision: known.revision(),
        });
        let abandoned = flight.is_abandoned();
        let mut answers = flight.answers;
        let mut sending = answers.drain(..);
        while let Some(next) = sending.next() {
            if let Some(later) = sending.as_slice().get(ANSWERS_AHEAD) {
                later.prefetch(around.out);
            }
            next.send(around);
        }
        drop(sending);
        if let Some(work) = &mut self.work {
            work.sent = answers;
        }
        if abandoned {
            return self.invalidate(Invalid::Abandoned, around);
        }
        self.send_durable(around);
        self.pump(around)
    }

    /// Sends the held answers that were decided at the revision that is durable now.
    fn send_durable(&mut self, around: &mut Surroundings<'_, E>) {
        let durable = self.durable();
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        if work.deletes {
            return;
        }
        let ready = work
            .held
            .iter()
            .take_while(|held| held.revision == durable)
            .count();
        for held in work.held.drain(..ready) {
            held.send(around);
        }
    }

    /// Another writer was faster than the write in flight.
    pub(crate) fn on_conflict(&mut self, around: &mut Surroundings<'_, E>) -> Next<E> {
        around.out.count(Counter::Conflicts, 1);
        if planted(Fault::ConflictAsApplied) {
            return self.on_applied(self.durable, around);
        }
        self.bring_back(Invalid::Conflict, around)
    }

    /// The write in flight lost its answer, was not applied, and will not be. Its requests are handled as
    /// after a conflict, on what is stored now, but no other writer was met.
    pub(crate) fn on_resolved_as_absent(&mut self, around: &mut Surroundings<'_, E>) -> Next<E> {
        self.bring_back(Invalid::Conflict, around)
    }

    /// The write in flight was definitely not applied.
    pub(crate) fn on_not_applied(
        &mut self,
        error: RequestError,
        around: &mut Surroundings<'_, E>,
    ) -> Next<E> {
        around.report(&error);
        self.bring_back(Invalid::NotApplied(error), around)
    }

    /// The answer of the write in flight was lost, so it has to be resolved. Callers wait until
    /// `deadline`.
    pub(crate) fn on_unknown(&mut self, deadline: RealTime, around: &mut Surroundings<'_, E>) {
        around.out.count(Counter::Unknown, 1);
        around.report(&RequestError::Unknown);
        if let Some(flight) = self.work.as_mut().and_then(|work| work.flight.as_mut()) {
            flight.resolution = Resolution::Until(deadline);
        }
    }

    /// Whether the write in flight was applied can no longer be found out.
    pub(crate) fn on_lost(&mut self, around: &mut Surroundings<'_, E>) -> Next<E> {
        let Some(work) = self.work.as_deref_mut() else {
            return Next::Wait;
        };
        if let Some(flight) = &mut work.flight {
            let (changes, others): (Vec<_>, Vec<_>) = std::mem::take(&mut flight.answers)
                .into_iter()
                .partition(HeldAnswer::is_change);
            flight.answers = others;
            for held in changes {
                held.fail(RequestError::Unknown, around);
            }
        }
        self.bring_back(Invalid::Unknown, around)
    }

    /// When the callers of an unresolved write have to be answered, if they have not been yet.
    pub(crate) fn resolve_deadline(&self) -> Option<RealTime> {
        match self.work.as_ref()?.flight.as_ref()?.resolution {
            Resolution::Until(deadline) => Some(deadline),
            Resolution::NotNeeded | Resolution::Abandoned => None,
        }
    }

    /// Fails the callers of an unresolved write: their time is over. The entity stays closed until the
    /// write is resolved.
    pub(crate) fn abandon(&mut self, around: &mut Surroundings<'_, E>) {
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        let Some(flight) = &mut work.flight else {
            return;
        };
        flight.resolution = Resolution::Abandoned;
        let answers = std::mem::take(&mut flight.answers);
        fail_lost(answers, &RequestError::behind_unresolved(), around);
        for held in std::mem::take(&mut work.held) {
            held.fail(RequestError::behind_unresolved(), around);
        }
        work.leaving = false;
        for request in std::mem::take(&mut work.waiting) {
            request.fail(RequestError::behind_unresolved(), around);
        }
    }

    /// The write in flight is over: its requests come before those that wait for the next write again,
    /// and the state is given up.
    fn bring_back(&mut self, invalid: Invalid, around: &mut Surroundings<'_, E>) -> Next<E> {
        let Some(work) = self.work.as_deref_mut() else {
            return Next::Wait;
        };
        let Some(flight) = work.flight.take() else {
            return Next::Wait;
        };
        let abandoned = flight.is_abandoned();
        let mut answers = flight.answers;
        answers.append(&mut work.held);
        work.held = answers;
        self.invalidate(
            if abandoned {
                Invalid::Abandoned
            } else {
                invalid
            },
            around,
        )
    }
}

/// Fails the callers of a write that may have been applied: those of its changes do not know, and the
/// others get this error.
pub(super) fn fail_lost<E: Effects>(
    answers: Vec<HeldAnswer<E>>,
    otherwise: &RequestError,
    around: &mut Surroundings<'_, E>,
) {
    for held in answers {
        let error = if held.is_change() {
            RequestError::Unknown
        } else {
            otherwise.clone()
        };
        held.fail(error, around);
    }
}

#[cfg(test)]
mod tests;
