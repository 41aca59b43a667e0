//! What becomes of commands when another writer was faster.

use std::fmt;

use cqrs_es::Aggregate;

/// What becomes of the commands without a durable outcome when another writer of their entity was faster.
///
/// Either way the entity is loaded anew, and reads are answered from the new state.
///
/// ```
/// use user_state_domain::UserState;
/// use user_state_runtime::ConflictPolicy;
///
/// let policy = ConflictPolicy::<UserState>::retry_once();
/// assert!(policy.retries());
/// assert!(!ConflictPolicy::<UserState>::fail().retries());
/// ```
pub struct ConflictPolicy<A: Aggregate>(Option<CopyCommand<A>>);

/// How a command is copied, for a second handling.
type CopyCommand<A> = fn(&<A as Aggregate>::Command) -> <A as Aggregate>::Command;

impl<A: Aggregate> ConflictPolicy<A> {
    /// They are handled once more, in their order, on the reloaded state; after a second conflict their callers
    /// get [`crate::RequestError::Conflict`]. A service may be called twice for one command. Costs a
    /// copy of each command.
    pub fn retry_once() -> Self
    where
        A::Command: Clone,
    {
        Self(Some(A::Command::clone))
    }

    /// Their callers get [`crate::RequestError::Conflict`] at once. No copy of a command is kept, so a rejection that was
    /// decided on a lost state is not decided again: its caller is told what became of the write it depended on.
    pub fn fail() -> Self {
        Self(None)
    }

    /// Whether commands are handled again.
    pub const fn retries(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn copy(&self) -> Option<CopyCommand<A>> {
        self.0
    }
}

impl<A: Aggregate> Clone for ConflictPolicy<A> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<A: Aggregate> fmt::Debug for ConflictPolicy<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.retries() { "RetryOnce" } else { "Fail" })
    }
}
