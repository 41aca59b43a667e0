//! One live entity: plain data and a state machine without awaits, clock, channels or I/O.
//!
//! **Problem.** Commands arrive while earlier ones are in flight to the database. Nobody may learn of a
//! state that is not durable, and whatever becomes of a write, every caller gets a true answer.
//!
//! **How.** Requests wait in order (`waiting`) until the entity can handle them. The answer of a
//! request that was handled on a state which is not durable yet is held back (`held`). A write takes
//! these answers along (`flight`), and they go out when it is durable. If the write fails, the requests
//! behind the answers are handled again or fail, and the entity is loaded anew or leaves.
//!
//! **Guarantees.** At most one write in flight. A deletion is alone in its write. No answer leaves
//! before the revision it was decided at is durable.

use std::collections::VecDeque;

use user_state_store::{PersistenceId, Revision};

use crate::clock::Moment;
use crate::effects::{AggregateOf, Effects, GatheredOf, Hands, KnownOf, RunningOf};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::lifecycle::{FailureReason, LifecycleEvent, PassivationReason};
use crate::persistence::{Intake, Known, Persistence};

mod flight;
mod open_request;
mod recovery;
mod requests;
#[cfg(test)]
mod scene;
mod spare;

use flight::Flight;
pub(crate) use flight::Slip;
use open_request::{HeldAnswer, Retry, Undo};
pub(crate) use open_request::{OpenRequest, RequestCounts};
use spare::Spare;

/// A live entity.
pub(crate) struct Entity<E: Effects> {
    state: AggregateOf<E>,
    /// The revision of `state`.
    revision: Revision,
    /// What is known to be stored.
    durable: KnownOf<E>,
    /// The latest clock reading of an accepted message.
    touched: Moment,
    phase: Phase,
    /// Present while there is anything to do; an idle entity pays for a pointer only.
    work: Option<Box<Work<E>>>,
}

/// What the entity waits for before it can handle requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is being loaded.
    Loading(Load),
    /// Nothing: it handles requests.
    Ready,
    /// A handler that waits for something.
    Handling,
}

/// Why an entity is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// It enters memory.
    Recovery,
    /// Its state turned out to be outdated.
    Reload,
    /// A caller wants the database looked at.
    Confirmation,
}

struct Work<E: Effects> {
    waiting: VecDeque<OpenRequest<E>>,
    /// Answers that wait for the next write, or for the one in flight if they depend on no other.
    held: Vec<HeldAnswer<E>>,
    /// Spare answer buffer, kept for its capacity. Always empty.
    sent: Vec<HeldAnswer<E>>,
    /// What commands left for the next write beside the state.
    gathered: GatheredOf<E>,
    /// The request whose handler runs.
    handling: Option<OpenRequest<E>>,
    /// The next write is a deletion.
    deletes: bool,
    flight: Option<Flight<E>>,
    /// The state is lost, and this is why; dealt with as soon as no handler runs on it.
    invalid: Option<Invalid>,
    /// The entity is in the shard's list of dirty ones.
    queued: bool,
    /// A request to leave is among the waiting ones.
    leaving: bool,
}

/// Why the state in memory is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Invalid {
    /// Another writer was faster.
    Conflict,
    /// The write was definitely not applied.
    NotApplied(RequestError),
    /// Whether the write was applied cannot be found out.
    Unknown,
    /// Callers were answered long ago that the write is unresolved; now it is resolved.
    Abandoned,
}

/// What the shard has to do after it called an entity.
pub(crate) enum Next<E: Effects> {
    /// Nothing.
    Wait,
    /// Run this handler to its end.
    Run(RunningOf<E>),
    /// Load the entity.
    Load,
    /// Take it out of memory, its state durable, and give the others to its next incarnation.
    Leave {
        reason: PassivationReason,
        request: OpenRequest<E>,
        others: VecDeque<OpenRequest<E>>,
    },
    /// Take it out of memory, its state lost, and give the others to its next incarnation.
    Drop(VecDeque<OpenRequest<E>>),
}

/// What an entity needs of its shard while it is called.
pub(crate) struct Surroundings<'a, E: Effects> {
    pub(crate) id: &'a PersistenceId,
    pub(crate) out: &'a mut E,
    pub(crate) desk: &'a mut Desk<E>,
}

/// What the entities of a shard share.
pub(crate) struct Desk<E: Effects> {
    pub(crate) counts: RequestCounts,
    spare: Spare<E>,
}

impl<E: Effects> Entity<E> {
    /// An entity about to be loaded, with the state of one that is not stored.
    pub(crate) fn new(initial: AggregateOf<E>, touched: Moment) -> Self {
        Self {
            state: initial,
            revision: Revision::NONE,
            durable: KnownOf::<E>::default(),
            touched,
            phase: Phase::Loading(Load::Recovery),
            work: None,
        }
    }

    pub(crate) fn touched(&self) -> Moment {
        self.touched
    }

    pub(crate) fn touch(&mut self, at: Moment) {
        self.touched = self.touched.max(at);
    }

    pub(crate) fn durable(&self) -> Revision {
        self.durable.revision()
    }

    /// How many requests it has not answered.
    pub(crate) fn open_requests(&self) -> usize {
        self.work.as_ref().map_or(0, |work| {
            let flying = work.flight.as_ref().map_or(0, Flight::answers);
            work.waiting.len() + work.held.len() + usize::from(work.handling.is_some()) + flying
        })
    }

    /// Nothing to do and nothing to lose: it may leave at once.
    pub(crate) fn is_idle(&self) -> bool {
        self.phase == Phase::Ready
            && (self.work.is_none()
                || planted(Fault::LeavesInFlight)
                    && self
                        .work
                        .as_ref()
                        .is_some_and(|work| work.waiting.is_empty()))
    }

    /// Whether it leaves without being asked to: a request to leave waits already, or it is dropped
    /// when its write is resolved.
    pub(crate) fn is_leaving(&self) -> bool {
        self.work
            .as_ref()
            .is_some_and(|work| work.leaving || work.is_abandoned())
    }

    /// Its write is unresolved and its callers were answered.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.is_abandoned())
    }

    /// Whether the entity belongs in the shard's list of dirty ones and is not there yet; marks it as
    /// listed.
    pub(crate) fn list_as_dirty(&mut self) -> bool {
        let due = self.is_dirty();
        let Some(work) = self.work.as_mut() else {
            return false;
        };
        if work.queued || work.flight.is_some() && !planted(Fault::SecondWriteInFlight) || !due {
            return false;
        }
        work.queued = true;
        true
    }

    /// The state is the durable one, and nothing in flight will change that.
    fn is_clean(&self) -> bool {
        self.revision == self.durable()
            && self
                .work
                .as_ref()
                .is_none_or(|work| work.flight.is_none() && !work.deletes)
    }

    /// There is a change that is not in flight to the database.
    fn is_dirty(&self) -> bool {
        let Some(work) = &self.work else { return false };
        work.invalid.is_none() && (work.deletes || self.revision != self.written())
    }

    /// The revision that is stored when the write in flight has landed.
    fn written(&self) -> Revision {
        let flight = self.work.as_ref().and_then(|work| work.flight.as_ref());
        flight.map_or(self.durable(), Flight::revision)
    }

    /// Whether the changes that are gathered have to be cut before the next command.
    fn is_cut_first(&self, persistence: &E::Persistence) -> bool {
        let Some(work) = &self.work else { return false };
        let written = self.written();
        self.revision != written
            && persistence.intake(written, &work.gathered) == Intake::CutFirst
            && !planted(Fault::CreationBeyondFirst)
    }

    /// Puts a state in the place of the old one, whose `Drop` is code of the user.
    fn replace_state(&mut self, state: AggregateOf<E>, out: &E) {
        let place = &mut self.state;
        let _replaced = out.hands().guard(|| *place = state);
    }

    fn work_mut(&mut self, desk: &mut Desk<E>) -> &mut Work<E> {
        self.work.get_or_insert_with(|| desk.spare.take())
    }

    /// Gives the room for work back if there is none.
    fn rest(&mut self, desk: &mut Desk<E>) {
        if self.phase == Phase::Ready
            && let Some(work) = self.work.take_if(|work| work.is_empty())
        {
            desk.spare.give(work);
        }
    }
}

impl<E: Effects> Work<E> {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
            && self.held.is_empty()
            && self.handling.is_none()
            && self.flight.is_none()
            && !self.deletes
            && self.invalid.is_none()
            && !self.queued
    }

    /// A deletion waits for its write, the state is lost, or the outcome of a write is unknown.
    fn is_blocked(&self) -> bool {
        self.deletes || self.invalid.is_some() || self.flight.as_ref().is_some_and(Flight::blocks)
    }

    fn is_abandoned(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_abandoned)
    }
}

impl<E: Effects> Default for Work<E> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            held: Vec::new(),
            sent: Vec::new(),
            gathered: GatheredOf::<E>::default(),
            handling: None,
            deletes: false,
            flight: None,
            invalid: None,
            queued: false,
            leaving: false,
        }
    }
}

impl<E: Effects> Default for Desk<E> {
    fn default() -> Self {
        Self {
            counts: RequestCounts::default(),
            spare: Spare::default(),
        }
    }
}

impl<E: Effects> Surroundings<'_, E> {
    /// Reports a failure of the entity itself.
    fn report(&mut self, error: &RequestError) {
        let reason = FailureReason::from(error);
        self.out.publish(|| LifecycleEvent::Failed {
            persistence_id: self.id.clone(),
            reason,
        });
    }
}

#[cfg(test)]
mod tests;
