//! One database, and the parts of it: what each backend does, whatever its database.
//!
//! [`Store`] is the handle that programs hold. Each part is a trait of its own: [`Backend`] is what all parts share,
//! [`DurableStateStore`] loads and writes states, and [`StateFeeds`] reads what changed.

use std::fmt;
use std::sync::Arc;

use futures_util::Stream;

use crate::changes::{
    FeedSettings, StateChange, TimestampOffset, changes_by_slices, current_changes_by_slices,
    current_persistence_ids,
};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::settings::InvalidSetting;
use crate::slice::SliceRange;

mod backend;
mod batch;
mod companion;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod feeds;
mod guard;
mod settled;
mod signal;
mod states;
mod write;

pub use backend::{Backend, Fence, UnknownOutcome, WriterSession};
pub use batch::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, InvalidBatch, LOAD_BYTES_MAX, WriteBatch};
pub use companion::{
    Companion, CompanionColumn, CompanionKind, CompanionSql, CompanionType, CompanionValue,
    Companions, InvalidCompanion,
};
pub use feeds::StateFeeds;
pub use guard::{Guard, GuardKind, Guards};
pub use settled::{Early, Settled};
pub use signal::WriteSignal;
pub(crate) use signal::{Listening, Span};
pub use states::{DurableStateStore, LoadedRow, StoredState, StoredValue, WriteOutcome};
pub use write::{Change, Write};

/// A handle to one open database. Cloning is cheap and gives the same database.
///
/// Made by [`connect`](crate::connect), or from a store of a backend: `PostgresStore`, `SqliteStore`, or one of your own.
///
/// ```
/// use futures_util::TryStreamExt as _;
/// use user_state_store::{PersistenceId, Store, connect};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("user-state.db").display());
/// // `url` is "sqlite:user-state.db" or "postgres://user:password@host/database".
/// let store: Store = connect(&url.parse()?).await?;
///
/// let user = PersistenceId::unique("mall-user")?;
/// assert_eq!(store.states().load_one(&user).await?, None);
/// let ids: Vec<PersistenceId> = store.current_persistence_ids().try_collect().await?;
/// assert!(ids.is_empty());
///
/// store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    /// Its supertraits are the other parts.
    states: Arc<dyn DurableStateStore>,
}

impl Store {
    /// The durable states: what is loaded and written.
    pub fn states(&self) -> &Arc<dyn DurableStateStore> {
        &self.states
    }

    /// The states that change from the offset on; a stream without end. See
    /// [`changes_by_slices`](crate::changes_by_slices).
    ///
    /// # Errors
    /// If the settings make no sense.
    pub fn changes_by_slices(
        &self,
        entity_type: &str,
        slices: SliceRange,
        offset: TimestampOffset,
        settings: FeedSettings,
    ) -> Result<
        impl Stream<Item = Result<StateChange, StoreError>> + Send + Unpin + use<>,
        InvalidSetting,
    > {
        changes_by_slices(self.states.clone(), entity_type, slices, offset, settings)
    }

    /// The states that have changed from the offset until now. See
    /// [`current_changes_by_slices`](crate::current_changes_by_slices).
    pub fn current_changes_by_slices(
        &self,
        entity_type: &str,
        slices: SliceRange,
        offset: TimestampOffset,
    ) -> impl Stream<Item = Result<StateChange, StoreError>> + Send {
        current_changes_by_slices(self.states.as_ref(), entity_type, slices, offset)
    }

    /// All persistence ids. See [`current_persistence_ids`](crate::current_persistence_ids).
    pub fn current_persistence_ids(
        &self,
    ) -> impl Stream<Item = Result<PersistenceId, StoreError>> + Send {
        current_persistence_ids(self.states.as_ref())
    }

    /// Closes all connections, waiting for calls in flight; later calls through any handle get [`StoreError::Closed`].
    pub async fn close(&self) {
        self.states.close().await;
    }
}

/// The parts, as their backend shows itself.
impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Store").field(&self.states).finish()
    }
}

impl From<Arc<dyn DurableStateStore>> for Store {
    fn from(states: Arc<dyn DurableStateStore>) -> Self {
        Self { states }
    }
}

impl<S: DurableStateStore> From<Arc<S>> for Store {
    fn from(states: Arc<S>) -> Self {
        Self { states }
    }
}

impl<S: DurableStateStore> From<S> for Store {
    fn from(states: S) -> Self {
        Self::from(Arc::new(states))
    }
}

impl From<&Store> for Store {
    fn from(store: &Store) -> Self {
        store.clone()
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::connect::StoreSettings;
    use crate::sqlite::Store as SqliteStore;

    #[tokio::test]
    async fn a_handle_shows_itself_in_a_line_that_names_no_place() -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("secret-place.db");
        let store = Store::from(SqliteStore::open(&path, &StoreSettings::default()).await?);
        let shown = format!("{store:?}");
        assert_eq!(shown, "Store(SqliteStore { access: ReadWrite, .. })");
        Ok(())
    }

    #[tokio::test]
    async fn closing_one_handle_closes_the_store_of_all() -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("store.db");
        let owned = Arc::new(SqliteStore::open(&path, &StoreSettings::default()).await?);
        let store = Store::from(Arc::clone(&owned));
        let other = Store::from(&store);
        store.close().await;
        let user = PersistenceId::unique("mall-user")?;
        let loaded = other.states().load_one(&user).await;
        assert_eq!(loaded, Err(StoreError::Closed));
        assert_eq!(owned.load_one(&user).await, Err(StoreError::Closed));
        Ok(())
    }
}
