//! Durable states in a SQLite file: the embedded default, with no server to run.
//!
//! **Problem.** A program, a test or a demonstration should keep its states durable with nothing installed.
//!
//! **How.** The tables of the Pekko schema in SQLite form, in one file with a write-ahead log. One connection
//! writes, several read; a reader never waits for the writer.
//!
//! **Guarantees.** Those of [`DurableStateStore`]. `synchronous=FULL`: a write that was reported applied survives a crash
//! of the process and of the machine.
//!
//! **Not here.** Several machines on one file: the write-ahead log needs shared memory, so the file has to be on
//! a local disk. Several processes on one machine are fine.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::Connection;
use tokio::time::{Instant, sleep, timeout_at};

use crate::changes::{ChangesPage, ChangesQuery};
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::store::{
    DurableStateStore, Fence, StoredState, WriteBatch, WriteOutcome, WriterSession,
};

mod connection;
mod durable_state;
mod error;
mod schema;

use connection::{Lane, READERS};
pub use error::OpenError;

/// How long an operation may take by default, its waiting for a connection or a lock included.
const DEADLINE: Duration = Duration::from_secs(5);

/// The most payload bytes by default, 1 MiB: a thousand times a usual state, and harmless to memory.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// How long an open waits before it tries a locked file again.
const OPEN_RETRY: Duration = Duration::from_millis(10);

/// Durable states in a SQLite file.
///
/// ```
/// use user_state_store::{
///     Change, DurableStateStore, Manifest, Payload, PersistenceId, Revision, SerializerId,
///     SqliteSettings, SqliteStore, Tags, Write, WriteBatch, WriteOutcome,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &SqliteSettings::default()).await?;
/// let id = PersistenceId::unique("mall-user")?;
/// let write = Write {
///     persistence_id: id.clone(),
///     expected: Revision::NONE,
///     change: Change::Put {
///         revision: Revision::FIRST,
///         payload: Payload {
///             serializer_id: SerializerId::JACKSON_JSON,
///             manifest: Manifest::new("com.example.State"),
///             bytes: b"{}".to_vec(),
///         },
///         tags: Tags::NONE,
///     },
/// };
/// let outcomes = store.write(&WriteBatch::new(vec![write])?).await;
/// assert!(matches!(outcomes[..], [WriteOutcome::Applied(Some(_))]));
///
/// let state = store.load(&[id]).await?.remove(0)?.expect("it was just written");
/// assert_eq!(state.revision, Revision::FIRST);
/// store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    access: Access,
    payload_bytes_max: usize,
    writer: Lane,
    readers: Lane,
}

/// How a SQLite file is used.
///
/// ```
/// use user_state_store::{SqliteAccess, SqliteSettings};
///
/// let settings = SqliteSettings { access: SqliteAccess::ReadOnly, ..SqliteSettings::default() };
/// assert_eq!(settings.payload_bytes_max, 1024 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether the store may write; it may by default.
    pub access: Access,
    /// How many connections read at the same time, 4 by default; each has a thread.
    pub readers: NonZeroUsize,
    /// How long an operation may take, its waiting included; 5 seconds by default.
    pub deadline: Duration,
    /// The most bytes of a payload that are written or read; 1 MiB by default.
    pub payload_bytes_max: usize,
}

/// Whether a store may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// Reads and writes; a missing file and missing tables are made on opening.
    #[default]
    ReadWrite,
    /// Reads only: no file and no table is made, and each write is [`StoreError::Misconfigured`].
    ReadOnly,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::ReadWrite,
            readers: READERS,
            deadline: DEADLINE,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }
}

impl Store {
    /// Opens a file. Where it may write, it makes the file and its tables if they are missing.
    ///
    /// # Errors
    /// See [`OpenError`]. `:memory:` is refused: such a database is not durable, and each connection would see
    /// its own.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn open(path: &Path, settings: &Settings) -> Result<Self, OpenError> {
        let path = connection::absolute(path)?;
        let store = Self {
            access: settings.access,
            payload_bytes_max: settings.payload_bytes_max,
            writer: Lane::for_writing(&path, settings),
            readers: Lane::for_reading(&path, settings),
            path,
        };
        let deadline = Instant::now() + settings.deadline;
        loop {
            let attempt = timeout_at(deadline, store.prepare()).await;
            let error = match attempt {
                Ok(Ok(())) => return Ok(store),
                Ok(Err(error)) => schema::explain(error, &store.path, store.access),
                Err(_) => return Err(OpenError::Unavailable(Cause::Deadline)),
            };
            // Switching a new file to the write-ahead log does not wait for a lock, so two processes that open it at once
            // can get in each other's way.
            if !matches!(error, OpenError::Unavailable(_)) || Instant::now() >= deadline {
                return Err(error);
            }
            sleep(OPEN_RETRY).await;
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn prepare(&self) -> Result<(), OpenError> {
        let lane = match self.access {
            Access::ReadWrite => &self.writer,
            Access::ReadOnly => &self.readers,
        };
        let mut connection = lane
            .connect()
            .await
            .map_err(|error| error::on_open(&error))?;
        schema::prepare(&mut connection, self.access).await?;
        match self.access {
            Access::ReadWrite => lane.keep(connection),
            Access::ReadOnly => connection
                .close()
                .await
                .map_err(|error| error::on_open(&error))?,
        }
        Ok(())
    }
}

#[async_trait]
impl DurableStateStore for Store {
    async fn load(
        &self,
        ids: &[PersistenceId],
    ) -> Result<Vec<Result<Option<StoredState>, StoreError>>, StoreError> {
        durable_state::load(&self.readers, ids, self.payload_bytes_max).await
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        if self.access == Access::ReadOnly {
            let error =
                StoreError::Misconfigured(Cause::Other("the store is open for reading only"));
            return vec![WriteOutcome::NotApplied(error); batch.writes().len()];
        }
        durable_state::write(&self.writer, batch, self.payload_bytes_max, now_micros).await
    }

    /// No session of SQLite outlives its client: the write lock stands for it, see `sqlite/durable_state.rs`.
    async fn fence(&self, _session: &WriterSession) -> Fence {
        Fence::Closed
    }

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

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
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
