//! The handle to a running set of shards.

use std::fmt;
use std::sync::Arc;

use cqrs_es::Aggregate;
use futures_util::Stream;
use user_state_store::{
    FeedSettings, InvalidSetting, PersistenceId, SliceRange, StoreError, TimestampOffset,
    TypedChange, typed_changes,
};

use crate::entity_ref::EntityRef;
use crate::lifecycle::Lifecycle;
use crate::live_aggregate::LiveAggregate;
use crate::running::Running;
use crate::stats::Stats;

/// Live entities of one aggregate on one store. Cloning is cheap and gives the same runtime.
///
/// When the last handle (and the last [`EntityRef`]) is dropped, the shards finish what was accepted and end;
/// [`Runtime::shutdown`] does the same and waits for it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use user_state_runtime::Runtime;
///
/// let runtime = Runtime::for_users(&store).start()?;
/// assert_eq!(runtime.stats().live, 0);
/// runtime.user(&"mall-user".parse()?).state().await?;
/// assert_eq!(runtime.stats().live, 1);
/// runtime.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub struct Runtime<A: Aggregate>(Arc<Running<A>>);

/// Not everything was finished in the time for shutting down; the callers concerned were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the runtime did not finish everything in time; the callers concerned were told")]
pub struct ShutdownTimedOut;

impl<A: LiveAggregate> Runtime<A> {
    pub(crate) fn of(running: Arc<Running<A>>) -> Self {
        Self(running)
    }

    /// The handle to an entity. Costs no I/O; the entity comes to life with its first message.
    pub fn entity(&self, persistence_id: PersistenceId) -> EntityRef<A> {
        EntityRef::new(Arc::clone(&self.0), persistence_id)
    }

    /// Follows the stored states of an entity type (empty for plain ids) in some slices, whoever writes them: what is there
    /// behind the offset, and then each change as it happens.
    ///
    /// As [`changes_by_slices`](user_state_store::changes_by_slices) on the runtime's store, decoded by the runtime's mapping; see [`typed_changes`] for what becomes
    /// of a state that cannot be decoded. The stream goes on until the store is closed, also when the runtime has ended.
    ///
    /// # Errors
    /// When a setting is out of its range.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
    /// # let store = user_state_store::connect(&url.parse()?).await?;
    /// use futures_util::TryStreamExt as _;
    /// use user_state_domain::UserCommand;
    /// use user_state_runtime::Runtime;
    /// use user_state_store::{FeedSettings, SliceRange, TimestampOffset};
    ///
    /// let runtime = Runtime::for_users(&store).start()?;
    /// let (start, settings) = (TimestampOffset::default(), FeedSettings::default());
    /// let mut changes = runtime.changes("", SliceRange::ALL, start, settings)?;
    ///
    /// let at = "2026-01-01T09:00:00Z".parse()?;
    /// runtime.user(&"mall-user".parse()?).execute(UserCommand::Login { at }).await?;
    /// let change = changes.try_next().await?.ok_or("a live feed does not end")?;
    /// assert_eq!(change.persistence_id.as_str(), "mall-user");
    /// assert_eq!(change.state().and_then(|state| state.last_login), Some(at));
    /// // Handle the change, then store `change.offset`.
    /// # runtime.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(
        &self,
        entity_type: &str,
        slices: SliceRange,
        offset: TimestampOffset,
        settings: FeedSettings,
    ) -> Result<
        impl Stream<Item = Result<TypedChange<A>, StoreError>> + Send + Unpin + use<A>,
        InvalidSetting,
    > {
        let source = self.0.source();
        let changes = source
            .store
            .changes_by_slices(entity_type, slices, offset, settings)?;
        Ok(typed_changes(changes, Arc::clone(&source.mapping)))
    }

    /// Subscribes to what happens to entities from now on.
    pub fn lifecycle(&self) -> Lifecycle {
        self.0.context().lifecycle.subscribe()
    }

    /// What the runtime has done and what it holds.
    pub fn stats(&self) -> Stats {
        self.0.context().counters.read()
    }

    /// Ends the runtime: takes nothing new, makes everything accepted durable, answers every caller. Takes
    /// at most `shutdown_timeout`.
    ///
    /// # Errors
    /// When that time was not enough; callers of writes under way got `Unknown`, the others
    /// `Unavailable` or `Closed`.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting; the runtime ends all the same.
    pub async fn shutdown(&self) -> Result<(), ShutdownTimedOut> {
        if self.0.shutdown().await {
            Ok(())
        } else {
            Err(ShutdownTimedOut)
        }
    }
}

impl<A: Aggregate> Clone for Runtime<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Aggregate> fmt::Debug for Runtime<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shards, live) = (self.0.shards(), self.0.context().counters.read().live);
        write!(
            formatter,
            "Runtime({}, {live} live in {shards} shards)",
            A::TYPE
        )
    }
}
