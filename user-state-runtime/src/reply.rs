//! Where answers go: to a caller that waits, or to nobody.

use cqrs_es::Aggregate;
use oneshot::{RecvError, Sender};
use user_state_store::Revision;

use crate::barrier::BarrierError;
use crate::effects::Hands;
use crate::error::{ExecuteError, RequestError};
use crate::lifecycle::FailureReason;
use crate::live_aggregate::LiveAggregate;
use crate::request::{Answer, Versioned};

/// Where one kind of answer goes. Errors are boxed: they are large and rare, and each request pays for
/// the room of its reply.
pub(crate) type ReplyTo<T, E> = Sender<Result<T, Box<E>>>;

/// Where the answer of a barrier goes.
pub(crate) type BarrierReply = Sender<Result<(), BarrierError>>;

/// Where the answer of a request goes.
pub(crate) enum Reply<A: Aggregate> {
    Execute(ReplyTo<Revision, ExecuteError<A>>),
    /// A command whose caller does not wait.
    Tell,
    State(ReplyTo<Versioned<A>, RequestError>),
    Delete(ReplyTo<Revision, RequestError>),
    Passivate(ReplyTo<(), RequestError>),
}

impl<A: LiveAggregate> Reply<A> {
    /// Gives the answer. A caller that has gone is no concern. Returns what is to be reported if nobody
    /// waits for a failure.
    pub(crate) fn answer(
        self,
        revision: Revision,
        answer: Answer<A, A>,
        hands: &impl Hands<A>,
    ) -> Option<FailureReason> {
        match (self, answer) {
            (Self::Execute(reply), Answer::Done) => drop_unsent(reply.send(Ok(revision)), hands),
            (Self::Execute(reply), Answer::Rejected(error)) => {
                let rejected = Box::new(ExecuteError::Rejected(error));
                drop_unsent(reply.send(Err(rejected)), hands);
            }
            (Self::Tell, Answer::Rejected(error)) => {
                hands.discard(error);
                return Some(FailureReason::Rejected);
            }
            (Self::State(reply), Answer::State(state)) => {
                drop_unsent(reply.send(Ok(Versioned { state, revision })), hands);
            }
            (Self::Delete(reply), Answer::Deleted) => drop(reply.send(Ok(revision))),
            (Self::Passivate(reply), Answer::Passivated) => drop(reply.send(Ok(()))),
            // An entity answers what it was asked. `Tell` expects no answer; any other caller would
            // see its reply dropped, which says that nothing is known.
            (_, answer) => hands.discard(answer),
        }
        None
    }

    /// Gives an error, with the command if it comes back. Returns what is to be reported if nobody
    /// waits.
    pub(crate) fn fail(
        self,
        command: Option<A::Command>,
        error: RequestError,
        hands: &impl Hands<A>,
    ) -> Option<FailureReason> {
        match self {
            Self::Execute(reply) => {
                let error = ExecuteError::new(error, command);
                drop_unsent(reply.send(Err(Box::new(error))), hands);
                return None;
            }
            Self::Tell => {
                hands.discard(command);
                return Some(FailureReason::from(&error));
            }
            Self::State(reply) => drop_unsent(reply.send(Err(Box::new(error))), hands),
            Self::Delete(reply) => drop(reply.send(Err(Box::new(error)))),
            Self::Passivate(reply) => drop(reply.send(Err(Box::new(error)))),
        }
        None
    }

    /// Brings the receiver into the processor's cache.
    pub(crate) fn prefetch(&self) {
        if let Self::Execute(reply) = self {
            std::hint::black_box(reply.is_closed());
        }
    }
}

/// A caller that has gone is no concern, but what it leaves may panic when it is dropped.
fn drop_unsent<A: LiveAggregate, T>(
    sent: Result<(), oneshot::SendError<T>>,
    hands: &impl Hands<A>,
) {
    if let Err(unsent) = sent {
        hands.discard(unsent);
    }
}

/// The answer that came, or the error that none means.
pub(crate) fn received<T, E>(
    answer: Result<Result<T, Box<E>>, RecvError>,
    none: impl FnOnce() -> E,
) -> Result<T, E> {
    answer.map_or_else(|_| Err(none()), |answer| answer.map_err(|error| *error))
}
