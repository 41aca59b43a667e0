//! A store without a database: it answers at once.

use std::fmt;
use std::num::NonZeroUsize;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use user_state_domain::UserState;
use user_state_store::{
    Backend, Cause, ChangesPage, ChangesQuery, DurableStateStore, Fence, LoadedRow, PageEnd,
    PersistenceId, Revision, StateFeeds, StateMapping as _, StoreError, StoredState, StoredValue,
    UserStateMapping, WriteBatch, WriteOutcome, WriteSignal, WriterSession,
};

use crate::sample;

/// A store that has a row for every id, loses every write, and never waits: what is measured on it is the
/// runtime's own work. Where a runtime is the only writer and no user leaves memory, the runtime cannot tell it from one
/// that keeps its rows.
pub struct InstantStore {
    mapping: UserStateMapping,
    state: UserState,
    at: DateTime<Utc>,
    /// Silent, as there are no rows that a feed could tell of.
    signal: WriteSignal,
}

impl InstantStore {
    /// A store in which every user has the usual state at revision 1.
    pub fn new() -> Self {
        let at = DateTime::UNIX_EPOCH;
        Self {
            mapping: UserStateMapping::new(),
            state: sample::usual_state(at),
            at,
            signal: WriteSignal::default(),
        }
    }

    fn row(&self, id: &PersistenceId) -> LoadedRow {
        let payload = self
            .mapping
            .encode(id, &self.state)
            .map_err(|_| StoreError::Unavailable(Cause::Protocol))?;
        Ok(Some(StoredState {
            persistence_id: id.clone(),
            slice: id.slice(),
            entity_type: id.entity_type().into(),
            revision: Revision::FIRST,
            db_timestamp: self.at,
            value: StoredValue::State(payload),
            tags: self.mapping.tags(),
        }))
    }
}

#[async_trait]
impl DurableStateStore for InstantStore {
    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, StoreError> {
        Ok(ids.iter().map(|id| self.row(id)).collect())
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        vec![WriteOutcome::Applied(Some(self.at)); batch.writes().len()]
    }
}

#[async_trait]
impl StateFeeds for InstantStore {
    async fn changes(&self, _: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        Ok(ChangesPage {
            states: Vec::new(),
            until: self.at,
            end: PageEnd::Complete,
        })
    }

    async fn persistence_ids(
        &self,
        _: Option<&PersistenceId>,
        _: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Backend for InstantStore {
    async fn fence(&self, _: &WriterSession) -> Fence {
        Fence::Closed
    }

    fn write_signal(&self) -> &WriteSignal {
        &self.signal
    }

    async fn close(&self) {
        self.signal.close();
    }
}

impl Default for InstantStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for InstantStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("InstantStore")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use user_state_runtime::Runtime;

    use super::*;

    #[tokio::test]
    async fn a_runtime_lives_on_it() -> Result<(), Box<dyn std::error::Error>> {
        let runtime = Runtime::for_users(Arc::new(InstantStore::new())).start()?;
        let user = runtime.entity(sample::persistence_id(1));
        assert_eq!(
            user.state().await?.state,
            sample::usual_state(DateTime::UNIX_EPOCH)
        );
        let command = sample::command(&mut fastrand::Rng::new(), DateTime::UNIX_EPOCH);
        assert_eq!(user.execute(command).await?.get(), 2);
        runtime.shutdown().await?;
        Ok(())
    }
}
