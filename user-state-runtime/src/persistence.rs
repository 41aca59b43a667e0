//! The seam between live entities and the form in which they are stored.
//!
//! **Problem.** Shards, requests, group commit, passivation, conflicts and unknown outcomes are the
//! same whether an entity is stored as its last state or as its events.
//!
//! **How.** What differs stands behind [`Persistence`], which decides, and [`Storage`], which talks to
//! the database. Entities and shards know neither rows nor events. Everything that comes back carries
//! the key of its entity, so nothing depends on the order of parallel lists.

use chrono::{DateTime, Utc};
use user_state_store::{PersistenceId, Revision};

use crate::error::RequestError;
use crate::live_aggregate::LiveAggregate;

mod durable_state;

pub(crate) use durable_state::DurableState;

/// Identifies a live entity in its shard, from when it enters memory until it leaves. Never reused.
pub(crate) type Key = slotmap::DefaultKey;

/// What an entity knows to be stored: what its next write expects to find. A million idle entities
/// each hold one.
pub(crate) trait Known: Copy + Default + Send + Sync + 'static {
    /// The stored revision; [`Revision::NONE`] if nothing is stored.
    fn revision(self) -> Revision;
}

/// How entities of an aggregate are stored: the decisions.
///
/// # Contract
/// `gather`, `delete` and `cut` may call code of the user, which may panic: callers contain that, and a
/// method that panics has changed nothing.
pub(crate) trait Persistence<A: LiveAggregate>: Send + Sync + 'static {
    type Known: Known;
    /// What commands left for the next write beside the state.
    type Gathered: Default + Send + 'static;
    /// One entity's write.
    type Write: Send + 'static;
    /// A write whose answer was lost, with what is needed to resolve it.
    type Lost: Send + 'static;

    /// Adds the events of one command, handled at `revision`, to the next write. Returns the revision
    /// that they lead to.
    ///
    /// # Errors
    /// If an event cannot be stored, or no revision is left. `into` is unchanged then.
    fn gather(
        &self,
        into: &mut Self::Gathered,
        revision: Revision,
        events: Vec<A::Event>,
    ) -> Result<Revision, RequestError>;

    /// Whether the next write, which has gathered changes since revision `from`, takes more.
    fn intake(&self, from: Revision, gathered: &Self::Gathered) -> Intake;

    /// The deletion of an entity at this revision and time; `None` if there is nothing to delete.
    ///
    /// # Errors
    /// If the deletion has no revision left.
    fn delete(
        &self,
        revision: Revision,
        at: DateTime<Utc>,
    ) -> Result<Option<Deletion<A>>, RequestError>;

    /// Encodes a write.
    ///
    /// # Errors
    /// If what is to be written has no stored form.
    fn cut(&self, cut: Cut<'_, A, Self>) -> Result<Self::Write, RequestError>;

    fn weight(&self, write: &Self::Write) -> Weight;
}

/// Whether a write that is being gathered takes another command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intake {
    Open,
    /// The write has to be cut first.
    CutFirst,
}

/// What a deletion leaves.
#[derive(Debug)]
pub(crate) struct Deletion<A> {
    pub(crate) state: A,
    pub(crate) revision: Revision,
}

/// What a write is made of.
pub(crate) struct Cut<'a, A: LiveAggregate, P: Persistence<A> + ?Sized> {
    pub(crate) id: &'a PersistenceId,
    /// What the write expects to find.
    pub(crate) known: P::Known,
    /// The revision that the write leads to.
    pub(crate) to: Revision,
    /// The state at that revision.
    pub(crate) state: &'a A,
    pub(crate) change: ChangeKind<P::Gathered>,
}

/// What a write does to what is stored.
#[derive(Debug)]
pub(crate) enum ChangeKind<G> {
    Commands(G),
    Deletion,
}

/// How much of a batch a write takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Weight {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// How entities of an aggregate are stored: the database work.
///
/// Each method answers for every key it was given, exactly once, whatever the database or the code of
/// the user does.
pub(crate) trait Storage<A: LiveAggregate>: Persistence<A> {
    /// Loads entities.
    fn recover(
        &self,
        wanted: Vec<(Key, PersistenceId)>,
    ) -> impl Future<Output = Vec<(Key, Recovery<A, Self::Known>)>> + Send;

    /// Writes a batch. What settles before the rest is reported through `early`; an empty report says
    /// that the rest waits for somebody else, so that it need not count as in flight.
    fn write(
        &self,
        batch: Vec<(Key, Self::Write)>,
        early: &Early<'_, Self::Known, Self::Lost>,
    ) -> impl Future<Output = Outcomes<Self::Known, Self::Lost>> + Send;

    /// Makes one attempt to find out what became of writes.
    fn resolve(
        &self,
        lost: Vec<(Key, Self::Lost)>,
    ) -> impl Future<Output = Resolutions<Self::Known, Self::Lost>> + Send;
}

/// Outcomes with the keys of their entities.
pub(crate) type Outcomes<K, L> = Vec<(Key, Outcome<K, L>)>;

/// What an attempt to resolve writes found out, with the keys of their entities.
pub(crate) type Resolutions<K, L> = Vec<(Key, Resolution<K, L>)>;

/// Takes outcomes that are known before the rest of their batch.
pub(crate) type Early<'a, K, L> = dyn Fn(Outcomes<K, L>) + Send + Sync + 'a;

/// A state with what is known to be stored, or why there is none.
pub(crate) type Recovery<A, K> = Result<(A, K), RequestError>;

/// What became of a write.
#[derive(Debug)]
pub(crate) enum Outcome<K, L> {
    /// It is durable, and this is what is stored now.
    Applied(K),
    /// Another writer was faster.
    Conflict,
    /// Definitely not applied.
    NotApplied(RequestError),
    /// Its answer was lost.
    Unknown(L),
}

/// What an attempt to resolve a write found out.
#[derive(Debug)]
pub(crate) enum Resolution<K, L> {
    /// It is durable, and this is what is stored now.
    Applied(K),
    /// Definitely not applied, and it will not be later.
    NotApplied,
    /// Whether it was applied can no longer be found out.
    Unknown,
    /// Still open: attempt again.
    Open(L),
}
