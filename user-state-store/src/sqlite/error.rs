//! What a SQLite error means: which failures say "nothing was applied", and which refuse one value only.
//!
//! Decided by result code (<https://www.sqlite.org/rescode.html>), never by message text.

use std::io;

use crate::error::{Cause, DatabaseError, StoreError};

const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READONLY: u32 = 8;
const CORRUPT: u32 = 11;
const CANTOPEN: u32 = 14;
const TOOBIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const ERROR: u32 = 1;
const PERM: u32 = 3;
const AUTH: u32 = 23;
const RANGE: u32 = 25;
const NOTADB: u32 = 26;

/// A SQLite file that could not be opened as a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path names no file: a state in memory only is not durable.
    #[error("a store needs a file: a sqlite database in memory is not durable")]
    InMemory,
    /// There is no such file, and a read-only open makes none.
    #[error("there is no such database file")]
    NoSuchFile,
    /// The directory of the file does not exist.
    #[error("the directory of the database file does not exist")]
    NoSuchDirectory,
    /// The file or its directory cannot be written.
    #[error("the database file or its directory cannot be written")]
    ReadOnly(#[source] Cause),
    /// The file cannot be opened.
    #[error("the database file cannot be opened")]
    CannotOpen(#[source] Cause),
    /// The file is no SQLite database, or a damaged one.
    #[error("the file is not a sqlite database, or is damaged")]
    NotADatabase(#[source] Cause),
    /// The database has no such table, and a read-only open makes none.
    #[error("the database has no table {table}")]
    MissingTable {
        /// The table.
        table: &'static str,
    },
    /// A table is there, in another form than ours.
    #[error("table {table} does not have the expected columns")]
    ForeignTable {
        /// The table.
        table: &'static str,
        /// What the database said of it.
        #[source]
        cause: Cause,
    },
    /// The file system does not support the write-ahead log, which needs shared memory (network file
    /// systems mostly do not have it).
    #[error("the file system does not support the write-ahead log")]
    NoWriteAheadLog,
    /// The file could not be opened just now; another process holds its lock, say.
    #[error("the database is unavailable")]
    Unavailable(#[source] Cause),
}

/// What an error says of the statement that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Another connection holds the lock.
    Busy,
    /// The value is refused; the transaction goes on.
    Refused,
    /// The database is read-only.
    ReadOnly,
    /// The file cannot be opened.
    CannotOpen,
    /// The file is damaged or no database.
    NotADatabase,
    /// The tables are not what they should be.
    Schema,
    /// Anything else: input and output, memory, a full disk, a lost worker thread.
    Other,
}

/// Sorts an error by what it says of its statement.
pub(super) fn kind(error: &sqlx::Error) -> Kind {
    // The low byte of an extended result code is the primary one.
    let primary = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .and_then(|code| code.parse::<u32>().ok())
        .map(|code| code & 0xff);
    match primary {
        Some(BUSY | LOCKED) => Kind::Busy,
        Some(CONSTRAINT | TOOBIG | MISMATCH | RANGE) => Kind::Refused,
        Some(READONLY | PERM | AUTH) => Kind::ReadOnly,
        Some(CANTOPEN) => Kind::CannotOpen,
        Some(CORRUPT | NOTADB) => Kind::NotADatabase,
        Some(ERROR) => Kind::Schema,
        _ => Kind::Other,
    }
}

/// Reduces an error to what may be shown.
pub(super) fn cause(error: &sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => Cause::Database(database_error(error.as_ref())),
        sqlx::Error::Io(error) => Cause::Io(error.kind()),
        sqlx::Error::WorkerCrashed => Cause::Other("the thread of the database connection ended"),
        sqlx::Error::PoolTimedOut => Cause::PoolTimeout,
        sqlx::Error::Protocol(_) => Cause::Protocol,
        _ => Cause::Other("the database library failed"),
    }
}

/// The store error for a statement that failed before `COMMIT` was sent: nothing is applied, whatever it is.
pub(super) fn before_commit(error: &sqlx::Error) -> StoreError {
    match (kind(error), error) {
        (Kind::Refused, sqlx::Error::Database(error)) => {
            StoreError::Refused(database_error(error.as_ref()))
        }
        (Kind::ReadOnly | Kind::NotADatabase | Kind::Schema, _) => {
            StoreError::Misconfigured(cause(error))
        }
        _ => StoreError::Unavailable(cause(error)),
    }
}

/// The error for a failure while opening.
pub(super) fn on_open(error: &sqlx::Error) -> OpenError {
    let cause = cause(error);
    match kind(error) {
        Kind::ReadOnly => OpenError::ReadOnly(cause),
        Kind::CannotOpen => OpenError::CannotOpen(cause),
        Kind::NotADatabase => OpenError::NotADatabase(cause),
        Kind::Busy | Kind::Refused | Kind::Schema | Kind::Other => OpenError::Unavailable(cause),
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::CannotOpen(Cause::Io(error.kind()))
    }
}

fn database_error(error: &dyn sqlx::error::DatabaseError) -> DatabaseError {
    DatabaseError {
        code: error.code().unwrap_or_default().into(),
        severity: "",
        constraint: None,
    }
}
