//! What the runtime asks of an aggregate beyond cqrs-es's trait.

use cqrs_es::Aggregate;

/// An aggregate whose entities can live in a runtime.
///
/// Every [`Aggregate`] of cqrs-es that can be cloned, with commands and errors that may cross threads,
/// is one; nothing has to be implemented. Handlers run on a clone, so that a state is never left half
/// changed.
///
/// ```
/// use user_state_domain::UserState;
/// use user_state_runtime::LiveAggregate;
///
/// fn name_of<A: LiveAggregate>() -> &'static str {
///     A::TYPE
/// }
/// assert_eq!(name_of::<UserState>(), "UserState");
/// ```
pub trait LiveAggregate:
    Aggregate<Command: Send + 'static, Error: Send + Sync + 'static> + Clone + 'static
{
}

impl<A> LiveAggregate for A where
    A: Aggregate<Command: Send + 'static, Error: Send + Sync + 'static> + Clone + 'static
{
}
