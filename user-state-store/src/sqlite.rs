//! Durable states in a SQLite file: the embedded default, with no server to run.
//!
//! **Problem.** A program, a test or a demonstration should keep its states durable with nothing installed.
//!
//! **How.** The tables of the Pekko schema in SQLite form, in one file with a write-ahead log. One connection
//! writes, several read; a reader never waits for the writer.
//!
//! **Guarantees.** Those of [`DurableStateStore`]. `synchronous=FULL`: a write that was reported applied survives a crash
//! of the process and of the machine. A file that is removed or replaced while it is open is noticed at the next call: the
//! store then refuses everything until it is opened again, and never makes a new file by itself.
//!
//! **Not here.** Several machines on one file: the write-ahead log needs shared memory, so the file has to be on
//! a local disk. Several processes on one machine are fine.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Connection;
use tokio::time::sleep;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::connect::{Access, PayloadColumn, StoreSettings};
use crate::deadline;
use crate::error::{Cause, StoreError};
use crate::open_error::OpenError;
use crate::persistence_id::PersistenceId;
use crate::store::{
    Backend, DurableStateStore, Early, Fence, LoadedRow, Settled, StateFeeds, WriteBatch,
    WriteOutcome, WriteSignal, WriterSession,
};

mod connection;
mod durable_state;
mod error;
mod schema;
mod watch;

use connection::{Lane, READERS};
use error::{Kind, kind, on_open};
use schema::Refusal;
use watch::Watch;

/// How long an open waits before it tries a locked file again.
const OPEN_RETRY: Duration = Duration::from_millis(10);

/// Durable states in a SQLite file.
///
/// ```
/// use user_state_store::{
///     Backend as _, DurableStateStore as _, Manifest, Payload, PersistenceId, Revision,
///     SerializerId, SqliteStore, StoreSettings, Write, WriteBatch, WriteOutcome,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
/// let id = PersistenceId::unique("mall-user")?;
/// let payload = Payload {
///     serializer_id: SerializerId::JACKSON_JSON,
///     manifest: Manifest::new("com.example.State"),
///     bytes: b"{}".to_vec(),
/// };
/// let write = Write::create(id.clone(), payload);
/// let outcomes = store.write(&WriteBatch::new(vec![write])?).await;
/// assert!(matches!(outcomes[..], [WriteOutcome::Applied(Some(_))]));
///
/// let state = store.load_one(&id).await?.expect("it was just written");
/// assert_eq!(state.revision, Revision::FIRST);
/// store.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Store {
    watch: Arc<Watch>,
    access: Access,
    payload_bytes_max: usize,
    writer: Lane,
    readers: Lane,
    signal: WriteSignal,
}

impl Store {
    /// Opens a file. Where it may write, it makes the file and its tables if they are missing; where not, it makes
    /// nothing.
    ///
    /// Of the settings it heeds `payload_bytes_max`, `access`, and `statement_timeout`, which is the whole time that a
    /// call may take, its waiting for a connection or a lock included. Four connections read and one
    /// writes, each on a thread of its own.
    ///
    /// Commits go to the log beside the file, `-wal`, which is synced each time. Its pages are moved into the file when there
    /// are 20,000 of them: so the log takes about 82 MB of disk (with pages of 4 KiB), and one batch more. It grows beyond that
    /// while a reader, of this program or another, stays inside one transaction, and is cut back to 88 MB when that is over.
    /// The last connection of all programs removes it.
    ///
    /// A file that is removed, emptied or replaced while it is open (or whose `-wal` or `-shm` is) refuses every call from
    /// then on with [`Cause::FileReplaced`]; the outcome of a commit that met it is unknown. Open the store again then.
    /// On Windows an open file cannot be removed or replaced.
    ///
    /// # Errors
    /// See [`OpenError`]. A `payload_column` other than bytes is refused. `:memory:` is refused: such a database is not durable, and each connection would see
    /// its own.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn open(path: &Path, settings: &StoreSettings) -> Result<Self, OpenError> {
        Self::open_with_readers(path, settings, READERS).await
    }

    /// Opens a file with so many connections for reading.
    pub(crate) async fn open_with_readers(
        path: &Path,
        settings: &StoreSettings,
        readers: u32,
    ) -> Result<Self, OpenError> {
        settings.validate()?;
        if settings.payload_column != PayloadColumn::Bytea {
            return Err(OpenError::InvalidOption {
                option: "payload_column",
                problem: "sqlite keeps payloads as bytes; leave it at bytea",
            });
        }
        let watch = Watch::on(&connection::absolute(path)?);
        let store = Self {
            access: settings.access,
            payload_bytes_max: settings.payload_bytes_max,
            writer: Lane::for_writing(&watch, settings),
            readers: Lane::for_reading(&watch, settings, readers),
            watch,
            signal: WriteSignal::default(),
        };
        let deadline = store.writer.deadline();
        loop {
            let error = match deadline::until(deadline, store.prepare()).await {
                Ok(Ok(())) => return Ok(store),
                Ok(Err(Refusal::Unfit(error))) => return Err(error),
                Ok(Err(Refusal::Failed(error))) => error,
                Err(_) => return Err(OpenError::Unreachable(Cause::Deadline)),
            };
            // Switching a new file to the write-ahead log does not wait for a lock, so two processes that open it at once
            // can get in each other's way.
            if kind(&error) != Kind::Busy || deadline::now() >= deadline {
                return Err(on_open(&error, store.path(), store.access));
            }
            sleep(OPEN_RETRY).await;
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.watch.path()
    }

    async fn prepare(&self) -> Result<(), Refusal> {
        let lane = match self.access {
            Access::ReadWrite => &self.writer,
            Access::ReadOnly => &self.readers,
        };
        let mut connection = lane.connect().await?;
        schema::prepare(&mut connection, self.access).await?;
        match self.access {
            Access::ReadWrite => lane.keep(connection),
            Access::ReadOnly => connection.close().await?,
        }
        let begun = self.watch.begin();
        begun.map_err(|error| Refusal::Unfit(OpenError::Unreachable(Cause::Io(error.kind()))))
    }
}

#[async_trait]
impl DurableStateStore for Store {
    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, StoreError> {
        durable_state::load(&self.readers, ids, self.payload_bytes_max).await
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        let settled = self.write_early(batch, &|_| ()).await;
        Settled::collect(batch.writes().len(), settled)
    }

    /// All of a batch is one transaction, so nothing is known early.
    async fn write_early(&self, batch: &WriteBatch, _: &Early<'_>) -> Vec<Settled> {
        if self.access == Access::ReadOnly {
            let error =
                StoreError::Misconfigured(Cause::other("the store is open for reading only"));
            let refused = vec![WriteOutcome::NotApplied(error); batch.writes().len()];
            return Settled::in_order(refused);
        }
        let limit = self.payload_bytes_max;
        let outcomes = durable_state::write(&self.writer, batch, limit, now_micros).await;
        let settled = Settled::in_order(outcomes);
        self.signal.applied(batch, &settled);
        settled
    }
}

#[async_trait]
impl StateFeeds for Store {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        let now = DateTime::<Utc>::from_timestamp_micros(now_micros()).unwrap_or_default();
        durable_state::changes(&self.readers, query, self.payload_bytes_max, now).await
    }

    async fn persistence_ids(
        &self,
        after: Option<&PersistenceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError> {
        durable_state::persistence_ids(&self.readers, after, limit.get()).await
    }
}

#[async_trait]
impl Backend for Store {
    /// No session of SQLite outlives its client: the write lock stands for it, see `sqlite/durable_state.rs`.
    async fn fence(&self, _session: &WriterSession) -> Fence {
        Fence::Closed
    }

    fn write_signal(&self) -> &WriteSignal {
        &self.signal
    }

    async fn close(&self) {
        self.signal.close();
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// One line: neither the path nor the connections.
impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SqliteStore")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// The database's clock, in microseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "sqlite runs in this process, so its clock is this one; its own functions give milliseconds only"
)]
fn now_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or_default()
}
