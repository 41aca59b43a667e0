//! What a SQLite error means: which failures say "nothing was applied", and which refuse one value only.
//!
//! Decided by result code (<https://www.sqlite.org/rescode.html>), never by message text.

use std::path::Path;

use crate::connect::Access;
use crate::error::{Cause, DatabaseError, StoreError};
use crate::open_error::OpenError;

const ERROR: u32 = 1;
const PERM: u32 = 3;
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READONLY: u32 = 8;
const CORRUPT: u32 = 11;
const CANTOPEN: u32 = 14;
const TOOBIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const AUTH: u32 = 23;
const RANGE: u32 = 25;
const NOTADB: u32 = 26;

/// Why a file that is there takes no writes.
const UNWRITABLE: &str = "its file or directory cannot be written";

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

/// Whether a part of the file is damaged. Other parts may be fine.
pub(super) fn is_damage(error: &DatabaseError) -> bool {
    error
        .code
        .parse::<u32>()
        .is_ok_and(|code| code & 0xff == CORRUPT)
}

/// Whether a trigger raised it. `RAISE(FAIL)` leaves the row changed and `RAISE(ROLLBACK)` ends the transaction, and nothing
/// tells these from `RAISE(ABORT)`.
pub(super) fn is_of_trigger(error: &sqlx::Error) -> bool {
    const CONSTRAINT_TRIGGER: &str = "1811";
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == CONSTRAINT_TRIGGER)
}

/// Reduces an error to what may be shown.
pub(super) fn cause(error: &sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => Cause::Database(database_error(error.as_ref())),
        sqlx::Error::Io(error) => Cause::Io(error.kind()),
        sqlx::Error::WorkerCrashed => Cause::other("the thread of the database connection ended"),
        sqlx::Error::PoolTimedOut => Cause::PoolTimeout,
        sqlx::Error::Protocol(_) => Cause::Protocol,
        _ => Cause::other("the database library failed"),
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

/// The error for a failure while opening the file, with the reason that "cannot open" leaves open.
pub(super) fn on_open(error: &sqlx::Error, path: &Path, access: Access) -> OpenError {
    let cause = cause(error);
    match kind(error) {
        Kind::ReadOnly => OpenError::ReadOnly { why: UNWRITABLE },
        Kind::NotADatabase => OpenError::NotADatabase(cause),
        Kind::CannotOpen if !path.parent().is_some_and(Path::is_dir) => OpenError::DirectoryMissing,
        Kind::CannotOpen if access == Access::ReadOnly && !path.exists() => {
            OpenError::DatabaseMissing
        }
        Kind::CannotOpen if access == Access::ReadWrite && !path.is_dir() => {
            OpenError::ReadOnly { why: UNWRITABLE }
        }
        Kind::CannotOpen | Kind::Busy => OpenError::Unreachable(cause),
        Kind::Refused | Kind::Schema | Kind::Other => OpenError::Database(cause),
    }
}

fn database_error(error: &dyn sqlx::error::DatabaseError) -> DatabaseError {
    DatabaseError {
        code: error.code().unwrap_or_default().into(),
        severity: "".into(),
        constraint: None,
    }
}
