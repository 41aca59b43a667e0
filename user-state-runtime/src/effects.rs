//! What the core of a shard asks of the world around it.
//!
//! **Problem.** A core that sends on channels, reads clocks and polls futures can be tested only
//! together with them.
//!
//! **How.** Entities and shards are plain data. Whatever they want done is a call of a statically
//! dispatched [`Effects`]: a shard's task carries it out, a simulation records it. Code of the user is
//! reached through [`Hands`] only, which contain its panics.

use cqrs_es::Aggregate;
use user_state_store::{PersistenceId, Revision};

use crate::barrier::BarrierError;
use crate::error::RequestError;
use crate::lifecycle::LifecycleEvent;
use crate::live_aggregate::LiveAggregate;
use crate::persistence::{Key, Persistence};
use crate::request::Answer;

pub(crate) type AggregateOf<E> = <E as Effects>::Aggregate;
pub(crate) type CommandOf<E> = <<E as Effects>::Aggregate as Aggregate>::Command;
pub(crate) type KnownOf<E> =
    <<E as Effects>::Persistence as Persistence<<E as Effects>::Aggregate>>::Known;
pub(crate) type GatheredOf<E> =
    <<E as Effects>::Persistence as Persistence<<E as Effects>::Aggregate>>::Gathered;
pub(crate) type WriteOf<E> =
    <<E as Effects>::Persistence as Persistence<<E as Effects>::Aggregate>>::Write;
pub(crate) type LostOf<E> =
    <<E as Effects>::Persistence as Persistence<<E as Effects>::Aggregate>>::Lost;
pub(crate) type RunningOf<E> = <<E as Effects>::Hands as Hands<<E as Effects>::Aggregate>>::Running;

/// The world around a shard's core.
pub(crate) trait Effects: Sized {
    type Aggregate: LiveAggregate;
    type Persistence: Persistence<Self::Aggregate>;
    type Hands: Hands<Self::Aggregate>;
    /// Where an answer goes. Opaque to the core.
    type Ticket;
    /// Where the answer of a barrier goes.
    type BarrierTicket;

    fn persistence(&self) -> &Self::Persistence;

    fn hands(&self) -> &Self::Hands;

    /// Gives an answer; `revision` is durable.
    fn answer(
        &mut self,
        ticket: Self::Ticket,
        id: &PersistenceId,
        revision: Revision,
        answer: Answer<Self::Aggregate, Self::Aggregate>,
    );

    /// Gives an error, and the command back if it was not handled.
    fn fail(
        &mut self,
        ticket: Self::Ticket,
        id: &PersistenceId,
        command: Option<CommandOf<Self>>,
        error: RequestError,
    );

    /// Gives an answer that was given already, for a planted fault.
    #[cfg(test)]
    fn repeat_answer(&mut self, _ticket: &Self::Ticket) {}

    /// Brings the receiver of an answer into the processor's cache: it was written when the request
    /// was sent, perhaps thousands of requests ago.
    fn prefetch(&self, _ticket: &Self::Ticket) {}

    /// Answers a barrier.
    fn pass(&mut self, barrier: Self::BarrierTicket, passed: Result<(), BarrierError>);

    /// Loads entities; each comes back as [`Input::Recovered`](crate::shard::Input).
    fn recover(&mut self, wanted: Vec<(Key, PersistenceId)>);

    /// Sends a batch, which takes up so many rows; its outcomes come back.
    fn write(&mut self, batch: Vec<(Key, WriteOf<Self>)>, rows: usize);

    /// Makes an attempt to resolve writes; what it finds comes back.
    fn resolve(&mut self, lost: Vec<(Key, LostOf<Self>)>, attempt: Attempt);

    /// Runs a handler that waits for something; its end comes back.
    fn run(&mut self, key: Key, running: RunningOf<Self>);

    fn count(&mut self, counter: Counter, by: u64);

    /// Publishes what happened to those who listen, if there are any.
    fn publish(&mut self, happened: impl FnOnce() -> LifecycleEvent);
}

/// Which attempt to resolve a write it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The first, made at once.
    First,
    /// A later one, made after a pause.
    Again,
}

/// What a core counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Counter {
    /// An entity entered memory, about to be loaded.
    Entered,
    /// An entity left memory.
    Left,
    Recovered,
    Passivated,
    Commands,
    Acknowledged,
    Rejected,
    Reads,
    Persisted,
    Batches,
    Conflicts,
    Failed,
    Overloaded,
    Unknown,
}

/// Access to the code of the user. A panic in it ends nothing but the call.
pub(crate) trait Hands<A: LiveAggregate> {
    /// A handler that waits for something.
    type Running;

    /// Runs a command on a copy of the state, to its end if it does not have to wait.
    fn start(&self, state: &A, command: A::Command) -> Started<A, Self::Running>;

    /// Whether commands are handled again after a conflict.
    fn retries(&self) -> bool;

    /// A copy of a command for a second handling; `None` if there is to be none.
    fn copy_command(&self, command: &A::Command) -> Option<A::Command>;

    /// Runs code that may panic; `None` if it did.
    fn guard<T>(&self, code: impl FnOnce() -> T) -> Option<T>;

    fn copy_state(&self, state: &A) -> Option<A> {
        self.guard(|| state.clone())
    }

    /// The state of an entity of which nothing is stored.
    fn initial_state(&self) -> Option<A> {
        self.guard(A::default)
    }

    /// Drops what the user's types are in.
    fn discard<T>(&self, value: T) {
        let _dropped = self.guard(|| drop(value));
    }
}

/// A handler that was started.
pub(crate) enum Started<A: LiveAggregate, R> {
    Finished(Handled<A>),
    Waits(R),
}

/// What became of a command.
pub(crate) enum Handled<A: Aggregate> {
    /// It made these events, which are in this state.
    Changed(A, Vec<A::Event>),
    /// It made none.
    Unchanged,
    /// The domain refused it.
    Rejected(A::Error),
    /// The handler or `apply` panicked.
    Panicked,
}
