//! What an error of the driver or the server means. The one place that decides it.
//!
//! Decided by kind and SQLSTATE, never by message text. An error with severity `ERROR` is the server's word
//! that the statement was not applied; a lost connection or a server process that ended (`FATAL`) leaves
//! it open whether a statement already sent was applied.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::{Cause, DatabaseError, StoreError};
use crate::open_error::OpenError;
use crate::postgres::table::TABLE;

/// Why a statement did not do its work, sorted by what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// A value of some row is refused. Find the row; the others may go through.
    Refused(DatabaseError),
    /// A unique index holds such a row already. Find the row, it has a conflict.
    Taken(Taken),
    /// Lost against a concurrent transaction. Sending it again helps.
    Contended(DatabaseError),
    /// Somebody else holds a row locked for too long. Find the row; the others may go through.
    Locked(DatabaseError),
    /// Not applied, and this session cannot do it: close it, and make the call once more on a new one.
    Unfit(Cause),
    /// Surely not applied; the database cannot do it now.
    Unavailable(Cause),
    /// Surely not applied; the database is not set up for it.
    Misconfigured(Cause),
    /// The connection is unusable, and what was sent last may still be applied.
    Lost(Cause),
    /// The store was closed, nothing was sent.
    Closed,
}

/// What a unique index said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) error: DatabaseError,
    /// Whether it is an index of another table than that of the states.
    pub(super) elsewhere: bool,
}

impl Failure {
    /// The meaning of an error.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let elsewhere = table(error).is_some_and(|table| table != TABLE);
        let Some(error) = database_error(error) else {
            return match error {
                sqlx::Error::PoolTimedOut => Self::Unavailable(Cause::PoolTimeout),
                sqlx::Error::PoolClosed => Self::Closed,
                _ => Self::Lost(cause(error)),
            };
        };
        if error.severity != "ERROR" {
            return match &*error.code {
                // A session that was idle for too long ends before it begins with the statement that comes too late.
                "57P05" | "25P03" => Self::Unfit(Cause::Database(error)),
                _ => Self::Lost(Cause::Database(error)),
            };
        }
        let (class, subclass) = error.code.split_at_checked(2).unwrap_or_default();
        match (class, subclass) {
            // A plan that no longer fits its table, a statement, portal or cursor that is not there or is there twice, a
            // search path that somebody changed, a transaction that somebody left open or a server that became
            // read-only (25006): another session does not have it.
            ("0A", "000") | ("24" | "25" | "26" | "34", _) | ("42", "P01" | "P03" | "P05") => {
                Self::Unfit(Cause::Database(error))
            }
            ("23", "505") => Self::Taken(Taken { error, elsewhere }),
            ("21" | "22" | "23" | "44" | "54" | "P0", _) => Self::Refused(error),
            ("40", "001" | "P01") => Self::Contended(error),
            ("55", "P03") => Self::Locked(error),
            // The connection was the problem, whoever noticed; 40003 says the outcome is unknown. Poolers report these
            // with severity ERROR, too.
            ("08", _) | ("40", "003") | ("57", "P01" | "P02" | "P03" | "P04" | "P05") => {
                Self::Lost(Cause::Database(error))
            }
            ("28" | "3D" | "3F" | "42", _) => Self::Misconfigured(Cause::Database(error)),
            _ => Self::Unavailable(Cause::Database(error)),
        }
    }

    /// Whether a single row can be the reason, so that its neighbours may go through without it. An error of the server
    /// is, unless it is known to concern the session or the server: a policy or a trigger can raise nearly anything.
    pub(super) fn may_concern_a_row(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Taken(_) => true,
            Self::Unavailable(Cause::Database(error))
            | Self::Misconfigured(Cause::Database(error)) => {
                let (class, subclass) = error.code.split_at_checked(2).unwrap_or_default();
                !matches!(
                    (class, subclass),
                    ("08" | "40" | "53" | "57", _)
                        | ("0A", "000")
                        | ("25", "006")
                        | ("55", "P03")
                        | ("42", "P01")
                )
            }
            _ => false,
        }
    }

    /// What the server says of the refusal. A row that exists already says nothing of another one.
    pub(super) fn refusal(&self) -> Option<&DatabaseError> {
        match self {
            Self::Refused(error)
            | Self::Unavailable(Cause::Database(error))
            | Self::Misconfigured(Cause::Database(error)) => Some(error),
            _ => None,
        }
    }

    /// The SQLSTATE of a refusal that may hold for all rows.
    pub(super) fn refusing_code(&self) -> Option<&str> {
        self.refusal().map(|error| &*error.code)
    }

    /// The same, where a session's unfitness may hold for all rows, too.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Unfit(Cause::Database(error)) => Some(&error.code),
            failure => failure.refusing_code(),
        }
    }

    /// The same failure of a statement that changes nothing before a later COMMIT that was not sent.
    pub(super) fn surely_not_applied(self) -> Self {
        match self {
            Self::Lost(cause) => Self::Unavailable(cause),
            failure => failure,
        }
    }
}

/// The failure as the cause of an outcome that nobody knows.
impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) | Failure::Contended(error) | Failure::Locked(error) => {
                Self::Database(error)
            }
            Failure::Unfit(cause)
            | Failure::Unavailable(cause)
            | Failure::Misconfigured(cause)
            | Failure::Lost(cause) => cause,
            Failure::Taken(_) => Self::Other("a unique index refused the commit".into()),
            Failure::Closed => Self::Other("the store is closed".into()),
        }
    }
}

/// The error of a call that cannot have changed anything.
impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => Self::Refused(error),
            Failure::Contended(error) | Failure::Locked(error) => {
                Self::Unavailable(Cause::Database(error))
            }
            Failure::Taken(_) => Self::Unavailable(Cause::other("a unique index refused the row")),
            Failure::Unavailable(cause) | Failure::Lost(cause) => Self::Unavailable(cause),
            Failure::Unfit(cause) | Failure::Misconfigured(cause) => Self::Misconfigured(cause),
            Failure::Closed => Self::Closed,
        }
    }
}

/// Whether this is the word of a server that takes no writes.
pub(super) fn is_read_only(cause: &Cause) -> bool {
    matches!(cause, Cause::Database(error) if &*error.code == "25006")
}

/// Whether the server has as many sessions as it takes, in all or of this user or database.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| &*error.code == "53300")
}

/// What an error on the way to a usable store means.
pub(super) fn open_error(error: &sqlx::Error) -> OpenError {
    let Some(database) = database_error(error) else {
        return match cause(error) {
            Cause::Tls => OpenError::TlsRefused,
            other => OpenError::Unreachable(other),
        };
    };
    let (class, subclass) = database.code.split_at_checked(2).unwrap_or_default();
    match (class, subclass) {
        // So a pooler says everything: that it knows a start-up parameter not, and that its server is away.
        ("08", "P01") => OpenError::StartupRefused(database),
        ("28", _) | ("42", "501") => OpenError::AuthenticationFailed(database),
        ("3D", _) => OpenError::DatabaseMissing,
        ("53" | "57" | "08", _) => OpenError::Unreachable(Cause::Database(database)),
        ("25", "006") => OpenError::ReadOnly {
            why: "it refuses a read-write transaction",
        },
        _ => OpenError::Database(Cause::Database(database)),
    }
}

/// What an error in answer to a setting means.
pub(super) fn refused_setting(setting: &str, error: &sqlx::Error) -> OpenError {
    match database_error(error) {
        Some(refused) if refused.severity == "ERROR" => OpenError::SettingRefused {
            setting: setting.into(),
            cause: Cause::Database(refused),
        },
        _ => open_error(error),
    }
}

/// The server's error, reduced to what may be shown.
fn database_error(error: &sqlx::Error) -> Option<DatabaseError> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    Some(DatabaseError {
        code: error.code().into(),
        severity: match error.severity() {
            PgSeverity::Panic => "PANIC".into(),
            PgSeverity::Fatal => "FATAL".into(),
            _ => "ERROR".into(),
        },
        constraint: error.constraint().map(Into::into),
    })
}

/// The table that the server names with its error.
fn table(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<PgDatabaseError>()?.table()
}

/// How a call came to nothing without the server's word.
fn cause(error: &sqlx::Error) -> Cause {
    match error {
        // rustls reports a refused certificate as invalid data.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Cause::Tls,
        sqlx::Error::Io(error) => Cause::Io(error.kind()),
        sqlx::Error::Tls(_) => Cause::Tls,
        sqlx::Error::PoolTimedOut => Cause::PoolTimeout,
        sqlx::Error::Configuration(_) => Cause::other("the driver refused the configuration"),
        _ => Cause::Protocol,
    }
}
