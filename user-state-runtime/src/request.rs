//! What callers ask of an entity, and what it answers.

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use user_state_store::{PersistenceId, Revision};

use crate::clock::Moment;
use crate::lifecycle::PassivationReason;

/// A state and the revision it was read at.
///
/// ```
/// use user_state_runtime::Versioned;
/// use user_state_store::Revision;
///
/// let read = Versioned { state: "anything", revision: Revision::FIRST };
/// assert_eq!(read.revision.get(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<A> {
    /// The state.
    pub state: A,
    /// The durable revision it stands for.
    pub revision: Revision,
}

/// A request in a mailbox; `T` is where its answer goes.
pub(crate) struct Message<A: Aggregate, T> {
    pub(crate) persistence_id: PersistenceId,
    /// The clock reading at acceptance: what idle time counts from.
    pub(crate) accepted_at: Moment,
    pub(crate) request: Request<A>,
    pub(crate) ticket: T,
}

/// What is asked of an entity.
pub(crate) enum Request<A: Aggregate> {
    /// A command; gone while or after it is handled, unless a copy is kept for a retry.
    Execute(Option<A::Command>),
    /// The state, linearizable.
    Read,
    /// The state, after a look at the database.
    Confirm,
    /// Deletion at this calendar time.
    Delete(DateTime<Utc>),
    /// Passivation, whatever the idle time.
    Passivate,
    /// Passivation that the shard itself has decided on.
    Leave(PassivationReason),
}

impl<A: Aggregate> Request<A> {
    /// Whether it waits until nothing is gathered or in flight.
    pub(crate) fn stands_alone(&self) -> bool {
        !matches!(self, Self::Execute(_) | Self::Read)
    }

    /// Whether it asks the entity to leave.
    pub(crate) fn is_passivation(&self) -> bool {
        matches!(self, Self::Passivate | Self::Leave(_))
    }
}

/// What an entity answers, once the revision it was decided at is durable. `S` holds the state of a
/// read: `A` itself, or a box while the answer waits.
pub(crate) enum Answer<A: Aggregate, S> {
    /// The command was handled.
    Done,
    /// The domain refused it.
    Rejected(A::Error),
    /// The state that was read.
    State(S),
    /// The deletion was made.
    Deleted,
    /// The entity left memory, or was not there.
    Passivated,
}

/// An answer that waits: states are boxed, so that the answers of commands, of which thousands may
/// wait, stay small.
pub(crate) type WaitingAnswer<A> = Answer<A, Box<A>>;

impl<A: Aggregate, S> Answer<A, S> {
    /// Whether it is part of a change, not just a look at the state.
    pub(crate) fn is_change(&self) -> bool {
        matches!(self, Self::Done | Self::Deleted)
    }
}

impl<A: Aggregate> WaitingAnswer<A> {
    pub(crate) fn unboxed(self) -> Answer<A, A> {
        match self {
            Self::Done => Answer::Done,
            Self::Rejected(error) => Answer::Rejected(error),
            Self::State(state) => Answer::State(*state),
            Self::Deleted => Answer::Deleted,
            Self::Passivated => Answer::Passivated,
        }
    }
}
