//! What callers of an entity are told when their request has no plain answer.

use std::fmt;

use cqrs_es::Aggregate;
use user_state_store::{Cause, InvalidSetting, StoreError};

use crate::lifecycle::FailureReason;

/// Why a command was not acknowledged.
///
/// `Debug` and `Display` never show the command.
///
/// ```
/// use user_state_domain::UserState;
/// use user_state_runtime::{ExecuteError, RequestError};
///
/// let lost = ExecuteError::<UserState>::Failed(RequestError::Unknown);
/// assert!(!lost.is_definitely_not_applied());
/// let conflict = ExecuteError::<UserState>::Failed(RequestError::Conflict);
/// assert!(conflict.is_definitely_not_applied());
/// ```
#[non_exhaustive]
pub enum ExecuteError<A: Aggregate> {
    /// The domain refused the command; nothing changed. The state that refused it is durable.
    Rejected(A::Error),
    /// A bound was reached; the command was not applied and comes back. Try again later.
    Overloaded(A::Command),
    /// The runtime is shutting down; the command was not applied and comes back.
    Closed(A::Command),
    /// What can happen to any request.
    Failed(RequestError),
}

/// Why a request has no plain answer, sorted by what the caller can do next.
///
/// ```
/// use user_state_runtime::RequestError;
///
/// assert_eq!(RequestError::Closed.to_string(), "the runtime is shutting down");
/// assert!(RequestError::Closed.is_definitely_not_applied());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A bound was reached; nothing was applied. Try again later.
    #[error("overloaded: a bound was reached; try again later")]
    Overloaded,
    /// The runtime is shutting down; nothing was applied.
    #[error("the runtime is shutting down")]
    Closed,
    /// Another writer was faster, and faster again if the policy retries. Nothing was applied: read the
    /// state and decide again.
    #[error("another writer was faster; read the state and decide again")]
    Conflict,
    /// The database could not be used, or an unresolved write is ahead. Nothing was applied: try again
    /// later.
    #[error("the store is unavailable, nothing was applied")]
    Unavailable(#[source] StoreError),
    /// The stored row cannot be read, so nothing can follow it. Nothing was applied: fix the row.
    #[error("the stored state cannot be read")]
    Unreadable(#[source] StoreError),
    /// The new state cannot be stored. Nothing was applied, and trying again will not help.
    #[error("the state cannot be stored, nothing was applied")]
    Refused(#[source] StoreError),
    /// The entity is at the largest revision that a BIGINT column holds. Nothing was applied.
    #[error("the entity has no revision left, nothing was applied")]
    RevisionsExhausted,
    /// The handler, the reducer, the mapping or another part of the aggregate panicked. Nothing was
    /// applied.
    #[error("the aggregate panicked, nothing was applied")]
    Panicked,
    /// The write was sent and its answer lost: it may have been applied. Read the state before trying
    /// again.
    #[error("the outcome is unknown: the answer of the write was lost")]
    Unknown,
}

/// Why [`crate::EntityRef::tell`] did not take a command. The command comes back.
///
/// ```
/// use user_state_domain::{UserCommand, UserState};
/// use user_state_runtime::TellError;
///
/// let command = UserCommand::Login { at: "2026-01-01T09:00:00Z".parse()? };
/// let refused = TellError::<UserState>::Overloaded(command.clone());
/// assert_eq!(refused.into_command(), command);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub enum TellError<A: Aggregate> {
    /// The mailbox is full. Try again later.
    Overloaded(A::Command),
    /// The runtime is shutting down.
    Closed(A::Command),
}

/// Why a runtime did not start.
///
/// ```
/// use user_state_runtime::StartError;
///
/// let error = StartError::TooManyTags { tags: 17 };
/// assert_eq!(error.to_string(), "the mapping gives 17 tags, a row has at most 16");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of its range.
    #[error(transparent)]
    InvalidSetting(#[from] InvalidSetting),
    /// The mapping gives more tags than a row may have.
    #[error(
        "the mapping gives {tags} tags, a row has at most {}",
        user_state_store::TAGS_MAX
    )]
    TooManyTags {
        /// How many it gives.
        tags: usize,
    },
    /// No tokio runtime to run the shards on.
    #[error("a runtime has to be started inside a tokio runtime")]
    NoTokioRuntime,
}

impl RequestError {
    /// Whether the request was definitely not applied. False for [`RequestError::Unknown`] alone.
    pub const fn is_definitely_not_applied(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// A write that was definitely not applied.
    pub(crate) fn not_applied(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_)
            | StoreError::TooLarge { .. }
            | StoreError::Unencodable { .. } => Self::Refused(error),
            other => Self::Unavailable(other),
        }
    }

    /// A load that failed.
    pub(crate) fn not_loaded(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. }
            | StoreError::Unreadable { .. }
            | StoreError::DuplicateRows { .. } => Self::Unreadable(error),
            StoreError::Refused(_) => Self::Refused(error),
            other => Self::Unavailable(other),
        }
    }

    /// An unresolved write is ahead, and it took too long.
    pub(crate) const fn behind_unresolved() -> Self {
        Self::Unavailable(StoreError::OutcomeUnknown(Cause::Deadline))
    }

    pub(crate) fn is_behind_unresolved(&self) -> bool {
        matches!(self, Self::Unavailable(StoreError::OutcomeUnknown(_)))
    }
}

impl From<&RequestError> for FailureReason {
    fn from(error: &RequestError) -> Self {
        match error {
            RequestError::Overloaded => Self::Overloaded,
            RequestError::Closed => Self::Closed,
            RequestError::Conflict => Self::Conflict,
            RequestError::Unavailable(_) => Self::Unavailable,
            RequestError::Unreadable(_) => Self::Unreadable,
            RequestError::Refused(_) | RequestError::RevisionsExhausted => Self::Refused,
            RequestError::Panicked => Self::Panicked,
            RequestError::Unknown => Self::Unknown,
        }
    }
}

impl<A: Aggregate> ExecuteError<A> {
    /// The command comes back with an error that says no more than that it was not taken.
    pub(crate) fn new(error: RequestError, command: Option<A::Command>) -> Self {
        match (error, command) {
            (RequestError::Overloaded, Some(command)) => Self::Overloaded(command),
            (RequestError::Closed, Some(command)) => Self::Closed(command),
            (error, _) => Self::Failed(error),
        }
    }

    /// Whether the command was definitely not applied. False for [`RequestError::Unknown`] alone.
    pub const fn is_definitely_not_applied(&self) -> bool {
        match self {
            Self::Failed(error) => error.is_definitely_not_applied(),
            Self::Rejected(_) | Self::Overloaded(_) | Self::Closed(_) => true,
        }
    }
}

impl<A: Aggregate> From<RequestError> for ExecuteError<A> {
    fn from(error: RequestError) -> Self {
        Self::Failed(error)
    }
}

impl<A: Aggregate> fmt::Display for ExecuteError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(_) => formatter.write_str("the domain refused the command"),
            Self::Overloaded(_) => RequestError::Overloaded.fmt(formatter),
            Self::Closed(_) => RequestError::Closed.fmt(formatter),
            Self::Failed(error) => error.fmt(formatter),
        }
    }
}

impl<A: Aggregate> fmt::Debug for ExecuteError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(error) => formatter.debug_tuple("Rejected").field(error).finish(),
            Self::Overloaded(_) => formatter.write_str("Overloaded(..)"),
            Self::Closed(_) => formatter.write_str("Closed(..)"),
            Self::Failed(error) => formatter.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<A> std::error::Error for ExecuteError<A>
where
    A: Aggregate,
    A::Error: 'static,
{
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(error) => Some(error),
            Self::Failed(error) => std::error::Error::source(error),
            Self::Overloaded(_) | Self::Closed(_) => None,
        }
    }
}

impl<A: Aggregate> TellError<A> {
    /// The command that was not taken.
    pub fn into_command(self) -> A::Command {
        match self {
            Self::Overloaded(command) | Self::Closed(command) => command,
        }
    }
}

impl<A: Aggregate> fmt::Display for TellError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Overloaded(_) => "overloaded: the mailbox is full; try again later",
            Self::Closed(_) => "the runtime is shutting down",
        })
    }
}

impl<A: Aggregate> fmt::Debug for TellError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Overloaded(_) => "Overloaded(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<A: Aggregate> std::error::Error for TellError<A> {}
