//! A store that loses answers: before or after the write was applied.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use user_state_store::{
    Backend, Cause, ChangesPage, ChangesQuery, DurableStateStore, Fence, LoadedRow, PersistenceId,
    SqliteStore, StateFeeds, StoreError, UnknownOutcome, WriteBatch, WriteOutcome, WriteSignal,
    WriterSession,
};

/// What happens to one call of `write`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The answer is lost, and the write too.
    LostBefore,
    /// The answer is lost, the write is applied.
    LostAfter,
    /// The write does not reach the database, and that is known.
    Unavailable,
}

/// A SQLite store with planned faults. Without a plan everything passes; each loss has a session of its own.
#[derive(Debug)]
pub(crate) struct LossyStore {
    inner: SqliteStore,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    faults: VecDeque<Fault>,
    fence: Fence,
    fenced: Vec<WriterSession>,
    losses: i32,
    writes: usize,
}

impl LossyStore {
    pub(crate) fn new(inner: SqliteStore) -> Self {
        let plan = Plan {
            faults: VecDeque::new(),
            fence: Fence::Closed,
            fenced: Vec::new(),
            losses: 0,
            writes: 0,
        };
        Self {
            inner,
            plan: Mutex::new(plan),
        }
    }

    /// The faults of the next writes.
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// What fencing answers from now on.
    pub(crate) fn answer_fences(&self, fence: Fence) {
        self.lock().fence = fence;
    }

    /// The sessions that were to be fenced, in order.
    pub(crate) fn fenced(&self) -> Vec<WriterSession> {
        self.lock().fenced.clone()
    }

    /// How many batches were sent.
    pub(crate) fn writes(&self) -> usize {
        self.lock().writes
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self) -> (Option<Fault>, WriterSession) {
        let mut plan = self.lock();
        plan.writes += 1;
        let fault = plan.faults.pop_front();
        plan.losses += i32::from(fault.is_some());
        let session = WriterSession {
            process_id: plan.losses,
            started_at_micros: Some(0),
        };
        (fault, session)
    }
}

#[async_trait]
impl DurableStateStore for LossyStore {
    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, StoreError> {
        self.inner.load(ids).await
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        let (fault, session) = self.next_fault();
        let lost = WriteOutcome::Unknown(UnknownOutcome {
            session: Some(session),
            cause: Cause::other("the answer was lost by a plan"),
        });
        match fault {
            None => self.inner.write(batch).await,
            Some(Fault::LostBefore) => vec![lost; batch.writes().len()],
            Some(Fault::LostAfter) => {
                self.inner.write(batch).await;
                vec![lost; batch.writes().len()]
            }
            Some(Fault::Unavailable) => {
                let error = StoreError::Unavailable(Cause::Deadline);
                vec![WriteOutcome::NotApplied(error); batch.writes().len()]
            }
        }
    }
}

#[async_trait]
impl StateFeeds for LossyStore {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        self.inner.changes(query).await
    }

    async fn persistence_ids(
        &self,
        after: Option<&PersistenceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError> {
        self.inner.persistence_ids(after, limit).await
    }
}

#[async_trait]
impl Backend for LossyStore {
    async fn fence(&self, session: &WriterSession) -> Fence {
        let mut plan = self.lock();
        plan.fenced.push(*session);
        plan.fence
    }

    fn write_signal(&self) -> &WriteSignal {
        self.inner.write_signal()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
