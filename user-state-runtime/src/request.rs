//! What callers ask of an entity, and the answers on their way back.

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use oneshot::RecvError;
use user_state_store::{PersistenceId, Revision};

use crate::clock::Moment;
use crate::error::{ExecuteError, Failure, RequestError};
use crate::lifecycle::{FailureReason, LifecycleEvent, PassivationReason, Publisher};
use crate::stats::Counters;

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

/// Where an answer goes. Errors are boxed: they are large and rare, and each request pays for the room of its reply.
pub(crate) type Reply<T, E> = oneshot::Sender<Result<T, Box<E>>>;

/// A request on its way through a mailbox.
pub(crate) struct Message<A: Aggregate> {
    pub(crate) persistence_id: PersistenceId,
    /// The clock reading at acceptance: what idle time counts from.
    pub(crate) accepted_at: Moment,
    pub(crate) request: Request<A>,
}

/// What is asked of an entity.
pub(crate) enum Request<A: Aggregate> {
    /// A command; `command` is gone while or after it is handled, unless a copy is kept for a retry.
    Execute {
        command: Option<A::Command>,
        reply: Reply<Revision, ExecuteError<A>>,
    },
    /// A command whose caller does not wait.
    Tell { command: Option<A::Command> },
    /// The state, linearizable.
    Read {
        reply: Reply<Versioned<A>, RequestError>,
    },
    /// The state, after a look at the database.
    Confirm {
        reply: Reply<Versioned<A>, RequestError>,
    },
    /// Deletion at this calendar time.
    Delete {
        at: DateTime<Utc>,
        reply: Reply<Revision, RequestError>,
    },
    /// Passivation, whatever the idle time.
    Passivate { reply: Reply<(), RequestError> },
    /// Passivation that the runtime itself has decided on.
    Leave(PassivationReason),
}

/// What an entity answers, once the revision it was decided at is durable.
pub(crate) enum Answer<A: Aggregate> {
    /// The command was handled.
    Done,
    /// The domain refused it.
    Rejected(A::Error),
    /// A read; boxed, so that the answers of commands, of which thousands may wait, stay small.
    State(Box<A>),
    /// The deletion was made.
    Deleted,
}

/// Where answers and failures are also told to.
#[derive(Clone, Copy)]
pub(crate) struct Observers<'a> {
    pub(crate) counters: &'a Counters,
    pub(crate) lifecycle: &'a Publisher,
    pub(crate) persistence_id: &'a PersistenceId,
}

impl<A: Aggregate> Request<A> {
    /// Whether it waits until nothing is gathered or in flight.
    pub(crate) fn stands_alone(&self) -> bool {
        !matches!(
            self,
            Self::Execute { .. } | Self::Tell { .. } | Self::Read { .. }
        )
    }

    /// Brings the caller's reply into the processor's cache: it was written when the request was sent, perhaps thousands of
    /// requests ago.
    pub(crate) fn touch(&self) {
        if let Self::Execute { reply, .. } = self {
            std::hint::black_box(reply.is_closed());
        }
    }

    /// Gives the answer. A caller that has gone is no concern.
    pub(crate) fn answer(self, revision: Revision, answer: Answer<A>, observers: Observers<'_>) {
        match (self, answer) {
            (Self::Execute { reply, .. }, Answer::Done) => {
                observers.counters.acknowledged(1);
                drop(reply.send(Ok(revision)));
            }
            (Self::Execute { reply, .. }, Answer::Rejected(error)) => {
                observers.counters.rejected(1);
                refuse(reply, ExecuteError::Rejected(error));
            }
            (Self::Tell { .. }, Answer::Done) => observers.counters.acknowledged(1),
            (Self::Tell { .. }, Answer::Rejected(_)) => {
                observers.counters.rejected(1);
                observers.failed(FailureReason::Rejected);
            }
            (request, Answer::State(state)) => request.answer_read(revision, *state, observers),
            (Self::Delete { reply, .. }, Answer::Deleted) => drop(reply.send(Ok(revision))),
            (Self::Passivate { reply }, _) => drop(reply.send(Ok(()))),
            (Self::Leave(_), _) => {}
            // Each request gets the kind of answer it asked for.
            (request, _) => request.fail(Failure::Panicked, observers),
        }
    }

    /// Gives the answer of a read.
    pub(crate) fn answer_read(self, revision: Revision, state: A, observers: Observers<'_>) {
        match self {
            Self::Read { reply } | Self::Confirm { reply } => {
                observers.counters.reads(1);
                drop(reply.send(Ok(Versioned { state, revision })));
            }
            request => request.fail(Failure::Panicked, observers),
        }
    }

    /// Tells the caller of a failure, and where nobody waits, the lifecycle stream.
    pub(crate) fn fail(self, failure: Failure, observers: Observers<'_>) {
        match failure {
            Failure::Overloaded => observers.counters.overloaded(1),
            _ => observers.counters.failed(1),
        }
        match self {
            Self::Execute { command, reply } => {
                refuse(reply, failure.into_execute(command));
            }
            Self::Tell { .. } => observers.failed(FailureReason::from(&failure)),
            Self::Read { reply } | Self::Confirm { reply } => refuse(reply, failure),
            Self::Delete { reply, .. } => refuse(reply, failure),
            Self::Passivate { reply } => refuse(reply, failure),
            Self::Leave(_) => {}
        }
    }
}

/// The answer that came, or the error that none stands for.
pub(crate) fn received<T, E>(
    answer: Result<Result<T, Box<E>>, RecvError>,
    none: impl FnOnce() -> E,
) -> Result<T, E> {
    answer.map_or_else(|_| Err(none()), |answer| answer.map_err(|error| *error))
}

/// Sends an error. A caller that has gone is no concern.
fn refuse<T, E>(reply: Reply<T, E>, error: impl Into<E>) {
    drop(reply.send(Err(Box::new(error.into()))));
}

impl Observers<'_> {
    pub(crate) fn failed(self, reason: FailureReason) {
        self.lifecycle.publish(|| LifecycleEvent::Failed {
            persistence_id: self.persistence_id.clone(),
            reason,
        });
    }
}

impl From<&Failure> for FailureReason {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Overloaded => Self::Overloaded,
            Failure::Closed => Self::Closed,
            Failure::Conflict => Self::Conflict,
            Failure::Unavailable(_) => Self::Unavailable,
            Failure::Unreadable(_) => Self::Unreadable,
            Failure::Refused(_) => Self::Refused,
            Failure::Panicked => Self::Panicked,
            Failure::Unknown => Self::Unknown,
        }
    }
}
