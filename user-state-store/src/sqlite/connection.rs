//! Connections to one SQLite file: a lane of one for writing, a lane of several for reading.
//!
//! **Problem.** sqlx runs each connection on a thread of its own, which goes on with a statement when the
//! future that waits for it is dropped. A connection given back in that moment would carry an open
//! transaction into the next call.
//!
//! **How.** A call holds its connection in a [`Lease`]. Only [`Lease::finish`] puts it back; a lease dropped
//! before, by an error, a deadline or a dropped future, closes it, and closing rolls back what is open.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::before_commit;
use super::watch::{Watch, beside};
use crate::connect::{Access, StoreSettings};
use crate::deadline::{now, until};
use crate::error::{Cause, StoreError};
use crate::open_error::OpenError;

/// How many prepared statements a connection keeps: more than this backend has.
const STATEMENT_CACHE: usize = 64;

/// How many results a connection's thread may be ahead of whoever reads them: those of a whole text of statements.
const RESULTS_AHEAD: usize = 256;

/// How many pages the log may hold before they are moved into the file, 82 MB. A batch of 500 random rows writes more than
/// the 1,000 that SQLite has by default, and each commit would be followed by a checkpoint.
const LOG_PAGES: &str = "20000";

/// A longer log is cut to this length when it is begun anew. It has room for its pages and a batch of 500 random rows, so that
/// a log of the usual length is written over and over, which is faster than to let a file grow.
const LOG_BYTES: &str = "88000000";

/// The writer's page cache, 64 MiB: less than that does not hold the pages of a batch and of the index above them.
const CACHE_KIB: &str = "-65536";

/// How many connections read at once: enough for loads and feeds side by side, few enough threads.
pub(super) const READERS: u32 = 4;

/// Connections of one kind to one file, at most a fixed number at a time.
#[derive(Debug)]
pub(super) struct Lane {
    source: Source,
    deadline: Duration,
    width: u32,
    turns: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<SqliteConnection>>>,
    closed: AtomicBool,
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    connection: SqliteConnection,
    unlocked: Option<Unlocked>,
    idle: Option<Arc<Mutex<Vec<SqliteConnection>>>>,
    _turn: OwnedSemaphorePermit,
}

/// How connections to the file are made.
#[derive(Debug)]
struct Source {
    watch: Arc<Watch>,
    options: SqliteConnectOptions,
    access: Access,
    /// Whether its connections write, and make a file that is missing as long as the store is being opened.
    writes: bool,
}

/// A file read without locks, as it was before the read.
///
/// A reader of a file that nobody has open would have to create the side files `-wal` and `-shm`, and leave them behind.
/// So such a file is read without locks, and what was read counts only if nobody opened it for writing meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Unlocked {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
}

impl Lane {
    /// The lane of the writer: one connection, as SQLite has one writer at a time.
    pub(super) fn for_writing(watch: &Arc<Watch>, settings: &StoreSettings) -> Self {
        let options = options(watch.path(), settings)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", LOG_PAGES)
            .pragma("journal_size_limit", LOG_BYTES)
            .pragma("cache_size", CACHE_KIB);
        Self::new(watch, settings, options, 1)
    }

    /// The lane of the readers.
    pub(super) fn for_reading(watch: &Arc<Watch>, settings: &StoreSettings, width: u32) -> Self {
        let path = watch.path();
        // In a store that writes, a reader is not opened read-only: the last connection to close removes the side files, and a
        // read-only one could not.
        let options = match settings.access {
            Access::ReadWrite => options(path, settings).pragma("query_only", "ON"),
            Access::ReadOnly => options(path, settings).read_only(true),
        };
        let mut lane = Self::new(watch, settings, options, width);
        lane.source.writes = false;
        lane
    }

    fn new(
        watch: &Arc<Watch>,
        settings: &StoreSettings,
        options: SqliteConnectOptions,
        width: u32,
    ) -> Self {
        let source = Source {
            watch: Arc::clone(watch),
            options,
            access: settings.access,
            writes: true,
        };
        let permits = usize::try_from(width).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            source,
            deadline: settings.statement_timeout,
            width,
            turns: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            idle: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// When a call that begins now has to be over.
    pub(super) fn deadline(&self) -> Instant {
        now() + self.deadline
    }

    /// A connection of this lane, waiting for one until the deadline.
    pub(super) async fn lease(&self, deadline: Instant) -> Result<Lease, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let turn = until(deadline, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| StoreError::Unavailable(Cause::PoolTimeout))?
            .map_err(|_| StoreError::Closed)?;
        self.source.watch.check()?;
        let unlocked = self.source.unlocked();
        let idle = lock(&self.idle).pop();
        let connection = if let Some(connection) = idle {
            connection
        } else {
            let connection = until(deadline, self.source.connect(unlocked.is_some()))
                .await
                .map_err(|_| StoreError::Unavailable(Cause::Deadline))?
                .map_err(|error| before_commit(&error))?;
            // Which file was opened is known only now.
            self.source.watch.check()?;
            connection
        };
        // Whether the file may be read without locks is asked anew for each call, so those connections are not kept.
        let idle = match self.source.access {
            Access::ReadWrite => Some(Arc::clone(&self.idle)),
            Access::ReadOnly => None,
        };
        Ok(Lease {
            connection,
            unlocked,
            idle,
            _turn: turn,
        })
    }

    /// Whether a commit is in the file that a later open will read; see [`Watch`].
    pub(super) fn check_commit(&self) -> Result<(), Cause> {
        self.source.watch.check_commit()
    }

    /// One connection outside the lane, for opening.
    pub(super) async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.source.connect(self.source.unlocked().is_some()).await
    }

    /// Puts a connection made by [`Lane::connect`] into the lane.
    pub(super) fn keep(&self, connection: SqliteConnection) {
        lock(&self.idle).push(connection);
    }

    /// Lets nobody in any more, waits for the calls under way and closes the connections.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Turns are given in order, so all calls that were let in are over when all turns are here. An error says that
        // another close was faster.
        let all = Arc::clone(&self.turns).acquire_many_owned(self.width).await;
        self.turns.close();
        drop(all);
        let connections = std::mem::take(&mut *lock(&self.idle));
        for connection in connections {
            if let Err(error) = connection.close().await {
                tracing::debug!(error = %super::error::cause(&error), "closing a connection failed");
            }
        }
    }
}

impl Lease {
    /// The connection.
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Puts the connection back. Call it when nothing of it is under way and no transaction is open.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the file was read without locks and somebody opened it for writing
    /// meanwhile: what was read does not count.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        if let Some(idle) = self.idle {
            lock(&idle).push(self.connection);
        }
        match self.unlocked {
            Some(before) if Unlocked::of(&before.path).as_ref() != Some(&before) => {
                Err(StoreError::Unavailable(Cause::other(
                    "the database file changed while it was read",
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    fn unlocked(&self) -> Option<Unlocked> {
        match self.access {
            Access::ReadWrite => None,
            Access::ReadOnly => Unlocked::of(self.watch.path()),
        }
    }

    async fn connect(&self, unlocked: bool) -> Result<SqliteConnection, sqlx::Error> {
        let options = self.options.clone().immutable(unlocked);
        if !self.writes {
            return options.connect().await;
        }
        let makes_file = !self.watch.has_begun();
        let connection = options.create_if_missing(makes_file).connect().await?;
        self.watch.new_writer();
        Ok(connection)
    }
}

impl Unlocked {
    /// The file as it is, where no connection has it open for writing.
    fn of(path: &Path) -> Option<Self> {
        let resolved = std::fs::canonicalize(path).ok()?;
        // If nobody can say whether there is a log, the read takes its locks.
        if beside(&resolved, "-wal").try_exists().unwrap_or(true) {
            return None;
        }
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

/// The path as it is opened: absolute, so that SQLite takes it neither for `:memory:` nor for a `file:` URI.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, OpenError> {
    if path.as_os_str().is_empty() || path == Path::new(":memory:") {
        return Err(OpenError::InMemory);
    }
    std::path::absolute(path).map_err(|error| OpenError::Unreachable(Cause::Io(error.kind())))
}

fn options(path: &Path, settings: &StoreSettings) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        // At most an hour, far below the milliseconds that SQLite's own setting holds in 32 bits.
        .busy_timeout(settings.statement_timeout)
        .statement_cache_capacity(STATEMENT_CACHE)
        .row_buffer_size(RESULTS_AHEAD)
        .disable_statement_logging()
}

/// A poisoned list of idle connections is as good as any: each push and pop leaves it whole.
fn lock(idle: &Mutex<Vec<SqliteConnection>>) -> std::sync::MutexGuard<'_, Vec<SqliteConnection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    async fn pragma(lane: &Lane, name: &str) -> Result<String, Box<dyn Error>> {
        let mut lease = lane.lease(lane.deadline()).await?;
        let select = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
        let value = sqlx::query_scalar(&select)
            .fetch_one(lease.connection())
            .await?;
        lease.finish()?;
        Ok(value)
    }

    #[tokio::test]
    async fn the_writer_syncs_every_commit_and_the_readers_cannot_write()
    -> Result<(), Box<dyn Error>> {
        const FULL: &str = "2";
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("store.db");
        let settings = StoreSettings::default();
        let writer = Lane::for_writing(&Watch::on(&path), &settings);
        let readers = Lane::for_reading(&Watch::on(&path), &settings, READERS);
        assert_eq!(pragma(&writer, "synchronous").await?, FULL);
        assert_eq!(pragma(&writer, "journal_mode").await?, "wal");
        let mut lease = readers.lease(readers.deadline()).await?;
        let refused = sqlx::query("CREATE TABLE t (x)")
            .execute(lease.connection())
            .await;
        assert!(refused.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn only_a_finished_lease_gives_its_connection_back() -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("store.db");
        let writer = Lane::for_writing(&Watch::on(&path), &StoreSettings::default());
        let lease = writer.lease(writer.deadline()).await?;
        drop(lease);
        assert_eq!(lock(&writer.idle).len(), 0);
        let lease = writer.lease(writer.deadline()).await?;
        lease.finish()?;
        assert_eq!(lock(&writer.idle).len(), 1);
        writer.close().await;
        assert_eq!(lock(&writer.idle).len(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn a_lane_that_is_taken_is_waited_for_until_the_deadline() -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("store.db");
        let writer = Lane::for_writing(&Watch::on(&path), &StoreSettings::default());
        let taken = writer.lease(writer.deadline()).await?;
        let refused = writer.lease(now()).await.err();
        assert_eq!(refused, Some(StoreError::Unavailable(Cause::PoolTimeout)));
        taken.finish()?;
        assert!(writer.lease(writer.deadline()).await.is_ok());
        Ok(())
    }
}
