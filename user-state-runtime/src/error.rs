//! What callers of an entity are told when their request has no plain answer.

use std::fmt;

use cqrs_es::Aggregate;
use user_state_store::{InvalidSetting, PersistenceId, StoreError};

/// Why a command was not acknowledged, sorted by what the caller can do next.
///
/// `Debug` and `Display` never show the command.
///
/// ```
/// use user_state_domain::UserState;
/// use user_state_runtime::ExecuteError;
///
/// let lost = ExecuteError::<UserState>::Unknown;
/// assert!(!lost.is_surely_not_applied());
/// assert!(ExecuteError::<UserState>::Conflict.is_surely_not_applied());
/// ```
#[non_exhaustive]
pub enum ExecuteError<A: Aggregate> {
    /// The domain refused the command; nothing changed. The state that refused it is durable.
    Rejected(A::Error),
    /// A bound was reached; the command was not taken and comes back. Try again later.
    Overloaded(A::Command),
    /// The runtime is shutting down; the command was not taken and comes back.
    Closed(A::Command),
    /// Another writer was faster, and faster again where the policy retries. Surely not applied: read
    /// the state and decide again.
    Conflict,
    /// The database could not be used, or an unresolved write is ahead. Surely not applied: try again later.
    Unavailable(StoreError),
    /// The stored row cannot be read, so nothing can follow it. Surely not applied: mend the row.
    Unreadable(StoreError),
    /// The new state cannot be stored. Surely not applied; trying again will not help.
    Refused(StoreError),
    /// The handler, the reducer or the encoder panicked. Surely not applied.
    Panicked,
    /// The write was sent and its answer lost: it may have been applied. Read the state before trying again.
    Unknown,
}

/// Why a request other than a command had no plain answer.
///
/// ```
/// use user_state_runtime::RequestError;
///
/// assert_eq!(RequestError::Closed.to_string(), "the runtime is shutting down");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A bound was reached; the request was not taken. Try again later.
    #[error("overloaded: a bound was reached; try again later")]
    Overloaded,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Closed,
    /// Another writer was faster, twice.
    #[error("another writer was faster; read the state and decide again")]
    Conflict,
    /// The database could not be used, or an unresolved write is ahead; nothing was applied.
    #[error("the store is unavailable, nothing was applied")]
    Unavailable(#[source] StoreError),
    /// The stored row cannot be read.
    #[error("the stored state cannot be read")]
    Unreadable(#[source] StoreError),
    /// The new state cannot be stored; nothing was applied.
    #[error("the state cannot be stored, nothing was applied")]
    Refused(#[source] StoreError),
    /// The reducer or the encoder panicked; nothing was applied.
    #[error("the aggregate panicked, nothing was applied")]
    Panicked,
    /// The write was sent and its answer lost.
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

/// Why a request fails, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    Overloaded,
    Closed,
    Conflict,
    Unavailable(StoreError),
    Unreadable(StoreError),
    Refused(StoreError),
    Panicked,
    Unknown,
}

impl Failure {
    /// The failure of a write that surely was not applied.
    pub(crate) fn not_applied(error: StoreError) -> Self {
        match error {
            StoreError::Refused(_)
            | StoreError::TooLarge { .. }
            | StoreError::Unencodable { .. } => Self::Refused(error),
            other => Self::Unavailable(other),
        }
    }

    /// The failure of a load.
    pub(crate) fn not_loaded(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. }
            | StoreError::Unreadable { .. }
            | StoreError::DuplicateRows { .. } => Self::Unreadable(error),
            StoreError::Refused(_) => Self::Refused(error),
            other => Self::Unavailable(other),
        }
    }

    /// The failure as the caller of a command sees it; `None` hands the command back to the caller of this
    /// function where there is nothing to tell but that.
    pub(crate) fn into_execute<A: Aggregate>(self, command: Option<A::Command>) -> ExecuteError<A> {
        match (self, command) {
            (Self::Overloaded, Some(command)) => ExecuteError::Overloaded(command),
            (Self::Closed, Some(command)) => ExecuteError::Closed(command),
            // A command that was handled once is no longer there to come back.
            (Self::Overloaded | Self::Closed, None) => {
                ExecuteError::Unavailable(StoreError::Closed)
            }
            (Self::Conflict, _) => ExecuteError::Conflict,
            (Self::Unavailable(error), _) => ExecuteError::Unavailable(error),
            (Self::Unreadable(error), _) => ExecuteError::Unreadable(error),
            (Self::Refused(error), _) => ExecuteError::Refused(error),
            (Self::Panicked, _) => ExecuteError::Panicked,
            (Self::Unknown, _) => ExecuteError::Unknown,
        }
    }

    /// An unresolved write is ahead.
    pub(crate) fn behind_unresolved(persistence_id: &PersistenceId) -> Self {
        tracing::debug!(%persistence_id, "a request waited behind an unresolved write for too long");
        Self::Unavailable(StoreError::OutcomeUnknown(
            user_state_store::Cause::Deadline,
        ))
    }
}

impl From<Failure> for RequestError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Overloaded => Self::Overloaded,
            Failure::Closed => Self::Closed,
            Failure::Conflict => Self::Conflict,
            Failure::Unavailable(error) => Self::Unavailable(error),
            Failure::Unreadable(error) => Self::Unreadable(error),
            Failure::Refused(error) => Self::Refused(error),
            Failure::Panicked => Self::Panicked,
            Failure::Unknown => Self::Unknown,
        }
    }
}

impl<A: Aggregate> ExecuteError<A> {
    /// Whether the command surely was not applied. False for [`ExecuteError::Unknown`] alone.
    pub const fn is_surely_not_applied(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    fn summary(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "the domain refused the command",
            Self::Overloaded(_) => "overloaded: a bound was reached; try again later",
            Self::Closed(_) => "the runtime is shutting down",
            Self::Conflict => "another writer was faster; read the state and decide again",
            Self::Unavailable(_) => "the store is unavailable, nothing was applied",
            Self::Unreadable(_) => "the stored state cannot be read",
            Self::Refused(_) => "the state cannot be stored, nothing was applied",
            Self::Panicked => "the aggregate panicked, nothing was applied",
            Self::Unknown => "the outcome is unknown: the answer of the write was lost",
        }
    }
}

impl<A: Aggregate> fmt::Display for ExecuteError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.summary())
    }
}

impl<A: Aggregate> fmt::Debug for ExecuteError<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(error) => formatter.debug_tuple("Rejected").field(error).finish(),
            Self::Overloaded(_) => formatter.write_str("Overloaded(..)"),
            Self::Closed(_) => formatter.write_str("Closed(..)"),
            Self::Conflict => formatter.write_str("Conflict"),
            Self::Unavailable(error) => formatter.debug_tuple("Unavailable").field(error).finish(),
            Self::Unreadable(error) => formatter.debug_tuple("Unreadable").field(error).finish(),
            Self::Refused(error) => formatter.debug_tuple("Refused").field(error).finish(),
            Self::Panicked => formatter.write_str("Panicked"),
            Self::Unknown => formatter.write_str("Unknown"),
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
            Self::Unavailable(error) | Self::Unreadable(error) | Self::Refused(error) => {
                Some(error)
            }
            _ => None,
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
