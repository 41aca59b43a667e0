//! A store that fails on request, between a runtime and a real store.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use user_state_store::{
    Backend, Cause, ChangesPage, ChangesQuery, DurableStateStore, Early, Fence, LoadedRow,
    PersistenceId, Settled, StateFeeds, Store, StoreError, StoredState, StoredValue,
    UnknownOutcome, Write, WriteBatch, WriteOutcome, WriteSignal, WriterSession,
};

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WriteFault {
    /// It fails before it is sent: surely not applied.
    FailBefore,
    /// It is applied, then the connection fails: the outcome is unknown, and it was applied.
    FailAfterCommit,
    /// It is lost on its way: the outcome is unknown, and it will never be applied.
    LoseRequest,
    /// Its answer is lost while it is still running: the outcome is unknown, and it is applied just before the
    /// old session is fenced.
    LoseAnswer,
    /// Another writer was faster.
    Conflict,
}

/// What goes wrong with a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadFault {
    /// The database is unavailable.
    Fail,
    /// The payload's bytes arrive damaged.
    Corrupt,
}

/// Between a runtime and a store: passes everything on, but for the faults it is told to inject.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use std::sync::Arc;
/// use user_state_domain::UserCommand;
/// use user_state_runtime::testkit::{FaultyStore, ManualTime, WriteFault};
/// use user_state_runtime::{Clock, ExecuteError, RequestError, Runtime};
///
/// let faulty = Arc::new(FaultyStore::new(store));
/// let time = ManualTime::new();
/// let runtime = Runtime::for_users(faulty.clone()).clock(time.clone()).start()?;
/// let user = runtime.user(&"mall-user".parse()?);
///
/// faulty.fail_writes(WriteFault::FailBefore, 1);
/// let login = UserCommand::Login { at: time.utc_now() };
/// let failed = user.execute(login.clone()).await.unwrap_err();
/// assert!(matches!(failed, ExecuteError::Failed(RequestError::Unavailable(_))));
/// assert_eq!(user.execute(login).await?.get(), 1, "the fault was for one write");
/// # Ok(())
/// # }
/// ```
pub struct FaultyStore {
    store: Arc<dyn DurableStateStore>,
    script: Mutex<Script>,
    writes: Gate,
    loads: Gate,
}

/// Where calls can be held.
struct Gate {
    held: watch::Sender<bool>,
    /// How many calls have arrived.
    arrived: watch::Sender<u64>,
}

#[derive(Default)]
struct Script {
    writes: Vec<Injection<WriteFault>>,
    loads: Vec<Injection<LoadFault>>,
    /// Writes that still run although their client is gone.
    running: Vec<WriteBatch>,
}

struct Injection<F> {
    fault: F,
    /// `None` for whatever comes.
    only: Option<PersistenceId>,
    times: u32,
}

/// While this is alive, writes wait before they are sent.
#[must_use = "writes are held while this is alive"]
pub struct HeldWrites(watch::Sender<bool>);

/// While this is alive, loads wait before they are sent.
#[must_use = "loads are held while this is alive"]
pub struct HeldLoads(watch::Sender<bool>);

impl FaultyStore {
    /// Passes everything on to this store.
    pub fn new(store: impl Into<Store>) -> Self {
        Self {
            store: store.into().states().clone(),
            script: Mutex::default(),
            writes: Gate::new(),
            loads: Gate::new(),
        }
    }

    /// The next `times` batches meet this fault, with all their writes.
    pub fn fail_writes(&self, fault: WriteFault, times: u32) {
        self.script().writes.push(Injection {
            fault,
            only: None,
            times,
        });
    }

    /// The next `times` writes of this entity meet this fault; their neighbours do not.
    pub fn fail_writes_of(&self, id: &PersistenceId, fault: WriteFault, times: u32) {
        self.script().writes.push(Injection {
            fault,
            only: Some(id.clone()),
            times,
        });
    }

    /// The next `times` loads meet this fault, with all their rows.
    pub fn fail_loads(&self, fault: LoadFault, times: u32) {
        self.script().loads.push(Injection {
            fault,
            only: None,
            times,
        });
    }

    /// The next `times` loads of this entity meet this fault; their neighbours do not.
    pub fn fail_loads_of(&self, id: &PersistenceId, fault: LoadFault, times: u32) {
        self.script().loads.push(Injection {
            fault,
            only: Some(id.clone()),
            times,
        });
    }

    /// From now on writes wait before they are sent, until the guard is dropped.
    pub fn hold_writes(&self) -> HeldWrites {
        self.writes.held.send_replace(true);
        HeldWrites(self.writes.held.clone())
    }

    /// From now on loads wait before they are sent, until the guard is dropped.
    pub fn hold_loads(&self) -> HeldLoads {
        self.loads.held.send_replace(true);
        HeldLoads(self.loads.held.clone())
    }

    /// Returns when this many batches have arrived since the store was made, held ones included.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn batches_arrived(&self, count: u64) {
        self.writes.arrived(count).await;
    }

    /// Returns when this many loads have arrived since the store was made, held ones included.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn loads_arrived(&self, count: u64) {
        self.loads.arrived(count).await;
    }

    /// Forgets the faults that were told and not met yet. Writes that were lost stay lost.
    pub fn heal(&self) {
        let mut script = self.script();
        script.writes.clear();
        script.loads.clear();
    }

    /// Faults that were told and not met yet.
    pub fn unmet_faults(&self) -> usize {
        let script = self.script();
        script.writes.len() + script.loads.len()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies writes, each for itself (two may be of one entity), and forgets the answers.
    async fn apply(&self, writes: Vec<WriteBatch>) {
        for write in writes {
            self.store.write(&write).await;
        }
    }
}

impl Gate {
    fn new() -> Self {
        Self {
            held: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
        }
    }

    /// Passes a call on, once calls are not held any more.
    async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        // The sender lives as long as this gate.
        drop(self.held.subscribe().wait_for(|held| !held).await);
    }

    async fn arrived(&self, count: u64) {
        let mut arrived = self.arrived.subscribe();
        // The sender lives as long as this gate.
        drop(arrived.wait_for(|arrived| *arrived >= count).await);
    }
}

#[async_trait]
impl DurableStateStore for FaultyStore {
    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, StoreError> {
        self.loads.pass().await;
        let (whole, single) = {
            let loads = &mut self.script().loads;
            let whole = next_fault(loads, None);
            let single: Vec<_> = ids.iter().map(|id| next_fault(loads, Some(id))).collect();
            (whole, single)
        };
        if whole == Some(LoadFault::Fail) {
            return Err(unavailable());
        }
        let rows = self.store.load(ids).await?;
        Ok(rows
            .into_iter()
            .zip(single)
            .map(|(row, fault)| match fault.or(whole) {
                Some(LoadFault::Fail) => Err(unavailable()),
                Some(LoadFault::Corrupt) => row.map(|row| row.map(damage)),
                None => row,
            })
            .collect())
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        Settled::all_of(self, batch).await
    }

    async fn write_early(&self, batch: &WriteBatch, early: &Early<'_>) -> Vec<Settled> {
        self.writes.pass().await;
        let faults: Vec<_> = {
            let writes = &mut self.script().writes;
            let whole = next_fault(writes, None);
            let single = batch.writes().iter();
            single
                .map(|write| next_fault(writes, Some(&write.persistence_id)).or(whole))
                .collect()
        };
        let (mut passed_on, mut places, mut met) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (write, fault)) in batch.writes().iter().zip(&faults).enumerate() {
            let outcome = match fault {
                None | Some(WriteFault::FailAfterCommit) => {
                    places.push((index, *fault));
                    passed_on.push(write.clone());
                    continue;
                }
                Some(WriteFault::LoseAnswer) => {
                    let alone = part_of(batch, vec![write.clone()]);
                    self.script().running.extend(alone);
                    lost()
                }
                Some(WriteFault::LoseRequest) => lost(),
                Some(WriteFault::FailBefore) => WriteOutcome::NotApplied(unavailable()),
                Some(WriteFault::Conflict) => WriteOutcome::Conflict,
            };
            met.push(Settled { index, outcome });
        }
        let in_place = |settled: Vec<Settled>| -> Vec<Settled> {
            let settled = settled
                .into_iter()
                .filter_map(|Settled { index, outcome }| {
                    let (index, fault) = *places.get(index)?;
                    let outcome = if fault.is_some() { lost() } else { outcome };
                    Some(Settled { index, outcome })
                });
            settled.collect()
        };
        if let Some(batch) = part_of(batch, passed_on) {
            let passing = |settled| early(in_place(settled));
            met.extend(in_place(self.store.write_early(&batch, &passing).await));
        }
        met
    }
}

#[async_trait]
impl StateFeeds for FaultyStore {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        self.store.changes(query).await
    }

    async fn persistence_ids(
        &self,
        after: Option<&PersistenceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError> {
        self.store.persistence_ids(after, limit).await
    }
}

#[async_trait]
impl Backend for FaultyStore {
    async fn fence(&self, session: &WriterSession) -> Fence {
        let running = std::mem::take(&mut self.script().running);
        self.apply(running).await;
        if *session == OWN_SESSION {
            Fence::Closed
        } else {
            self.store.fence(session).await
        }
    }

    fn write_signal(&self) -> &WriteSignal {
        self.store.write_signal()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "FaultyStore({} unmet faults)",
            self.unmet_faults()
        )
    }
}

impl fmt::Debug for HeldWrites {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HeldWrites")
    }
}

impl fmt::Debug for HeldLoads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HeldLoads")
    }
}

impl Drop for HeldLoads {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Drop for HeldWrites {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// The session that injected losses claim to have had.
const OWN_SESSION: WriterSession = WriterSession {
    process_id: -1,
    started_at_micros: Some(0),
};

/// Some writes of a batch in its order, which are a batch under the same guards.
fn part_of(batch: &WriteBatch, writes: Vec<Write>) -> Option<WriteBatch> {
    WriteBatch::new(writes)
        .and_then(|part| part.guarded_as(batch.guards()))
        .ok()
}

/// Takes the next fault for this entity, or for whatever comes.
fn next_fault<F: Copy>(
    injections: &mut Vec<Injection<F>>,
    id: Option<&PersistenceId>,
) -> Option<F> {
    let index = injections
        .iter()
        .position(|injection| injection.only.as_ref() == id)?;
    let injection = injections.get_mut(index)?;
    let fault = injection.fault;
    injection.times = injection.times.saturating_sub(1);
    if injection.times == 0 {
        injections.remove(index);
    }
    Some(fault)
}

fn damage(mut row: StoredState) -> StoredState {
    if let StoredValue::State(payload) = &mut row.value {
        payload.bytes.insert(0, 0xff);
    }
    row
}

fn unavailable() -> StoreError {
    StoreError::Unavailable(Cause::other("an injected fault"))
}

fn lost() -> WriteOutcome {
    WriteOutcome::Unknown(UnknownOutcome {
        session: Some(OWN_SESSION),
        cause: Cause::other("an injected fault"),
    })
}
