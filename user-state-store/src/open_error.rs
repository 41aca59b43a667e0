//! Why a store could not be opened.

use crate::connect::PayloadColumn;
use crate::error::{Cause, DatabaseError};
use crate::settings::InvalidSetting;

/// A store that did not open. Opening fails closed: nothing is used that the start-up check has not passed.
///
/// Shows no secret: of a URL at most the scheme, of a database's answer its SQLSTATE.
///
/// ```
/// use user_state_store::{ConnectOptions, OpenError};
///
/// let refused = ConnectOptions::parse("mysql://user:secret@host/database").unwrap_err();
/// assert_eq!(refused, OpenError::UnknownScheme { scheme: "mysql".into() });
/// assert_eq!(refused.to_string(), "unknown store scheme mysql, expected postgres or sqlite");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The text is no URL of a store.
    #[error("the store url is invalid: {problem}")]
    InvalidUrl {
        /// What is wrong with it; never a part of the URL that can hold a secret.
        problem: Box<str>,
    },
    /// A URL of something else.
    #[error("unknown store scheme {scheme}, expected postgres or sqlite")]
    UnknownScheme {
        /// The scheme.
        scheme: Box<str>,
    },
    /// The crate was built without this backend.
    #[error("this program was built without the {backend} feature; enable it")]
    BackendNotEnabled {
        /// The feature to enable.
        backend: &'static str,
    },
    /// A setting is out of its range.
    #[error(transparent)]
    InvalidSetting(#[from] InvalidSetting),
    /// An option is not one of the words that it may be.
    #[error("option {option} is invalid: {problem}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The connection would leave this machine without proof of who answers. Use `sslmode=verify-full`, or
    /// allow it with [`crate::RemoteTls::AsConfigured`].
    #[error(
        "off loopback only sslmode verify-full is allowed, not {asked}; use verify-full, or allow less by RemoteTls::AsConfigured"
    )]
    InsecureTls {
        /// The TLS mode asked for.
        asked: &'static str,
    },
    /// The TLS session was refused: by this side if the server's certificate is not trusted or names another host, or if
    /// `sslkey` does not belong to `sslcert`; by the server if it has no TLS. Name the server's authority by `sslrootcert`,
    /// and the server as its certificate does.
    #[error(
        "the TLS session was refused: no trusted certificate for this host, or no TLS there; check sslrootcert and the host"
    )]
    TlsRefused,
    /// Nobody answers, or the server takes no connections now; for SQLite, the file cannot be opened or is locked.
    #[error(
        "the database cannot be reached; check its address, and whether it is up and not locked"
    )]
    Unreachable(#[source] Cause),
    /// A pooler or proxy refused the session (SQLSTATE 08P01): it cannot reach its server, or does not know a start-up
    /// parameter. The store sends no `options` of a URL, so such a parameter comes from the environment (`PGOPTIONS`)
    /// or from the options of a caller's pool (sqlx adds `extra_float_digits`); pgbouncer passes over those named in
    /// `ignore_startup_parameters`.
    #[error(
        "a pooler refused the session: it cannot reach its server, or refuses a start-up parameter (pgbouncer: \
         ignore_startup_parameters = extra_float_digits,options)"
    )]
    StartupRefused(#[source] DatabaseError),
    /// A setting of the session was refused, or is not in force although it was set. A pooler that gives a server
    /// session to several clients cannot be used.
    #[error("setting {setting} of the session was refused")]
    SettingRefused {
        /// The setting.
        setting: Box<str>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The server does not accept this user and password.
    #[error(
        "the database refused the user or its password; correct them, or the server's pg_hba.conf"
    )]
    AuthenticationFailed(#[source] DatabaseError),
    /// The server has no database of this name; for SQLite, there is no such file.
    #[error("there is no such database; create it, or correct its name")]
    DatabaseMissing,
    /// The directory of the SQLite file does not exist.
    #[error("the directory of the database file does not exist; make it, or correct the path")]
    DirectoryMissing,
    /// A SQLite database in memory, which would not be durable.
    #[error("a store needs a file: a sqlite database in memory is not durable")]
    InMemory,
    /// The file is no SQLite database, or a damaged one.
    #[error(
        "the file is not a sqlite database, or is damaged; correct the path, or restore the file"
    )]
    NotADatabase(#[source] Cause),
    /// The file system does not support SQLite's write-ahead log, which needs shared memory (network file
    /// systems mostly do not have it).
    #[error("the file system does not support the write-ahead log; put the file on a local disk")]
    NoWriteAheadLog,
    /// The server is older than supported.
    #[error("the database server is version {found}, at least {minimum} is needed")]
    ServerTooOld {
        /// The server's version.
        found: Box<str>,
        /// The oldest supported one.
        minimum: &'static str,
    },
    /// The search path finds no such table. Run the migrations; if it is there, grant USAGE on its schema to this role, or
    /// correct the search path.
    #[error(
        "table {table} is missing; run the migrations, or check the search path and USAGE on its schema"
    )]
    TableMissing {
        /// The table.
        table: &'static str,
    },
    /// A new session finds the table in another schema than the session that opened the store did: its search path or
    /// its server is another one.
    #[error("table {table} is found in schema {found}, no longer in {expected}")]
    OtherTable {
        /// The table.
        table: &'static str,
        /// The schema in which it was found when the store was opened.
        expected: Box<str>,
        /// The schema in which it is found now.
        found: Box<str>,
    },
    /// Something else has the table's name. Rename it, and run the migrations.
    #[error("{table} is {found}, not a table; rename it and run the migrations")]
    NotATable {
        /// The name.
        table: &'static str,
        /// What has it.
        found: &'static str,
    },
    /// A column is not there or has another type.
    ///
    /// Of `state_payload` the type is a setting: set [`payload_column`](crate::StoreSettings::payload_column) to the
    /// one found, and see there what it asks of the mapping.
    #[error(
        "column {table}.{column} must be {expected}, found {found}{}",
        advice(column, found)
    )]
    ColumnMismatch {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The type it must have.
        expected: &'static str,
        /// The type it has; `nothing` where it is missing.
        found: Box<str>,
    },
    /// The table has no unique index that keeps writers apart.
    #[error("table {table} lacks its primary key ({columns}); add it")]
    KeyMissing {
        /// The table.
        table: &'static str,
        /// The columns of the key.
        columns: &'static str,
    },
    /// The database takes no writes.
    #[error(
        "the database is read-only: {why}; open a writable one, or open it by Access::ReadOnly"
    )]
    ReadOnly {
        /// Why.
        why: &'static str,
    },
    /// The user may not do what the store needs.
    #[error("the database user lacks {privilege} on {table}; grant it")]
    MissingPrivilege {
        /// The privilege.
        privilege: &'static str,
        /// The table.
        table: &'static str,
    },
    /// Row-level security applies to this role: rows that its policies hide would read as never written. Use the table's
    /// owner, a role with BYPASSRLS or a table without policies; or, if the policies show this role all rows of its users,
    /// accept them by [`crate::RowSecurity::Accept`].
    #[error(
        "row-level security of {table} applies to this role, so rows could be hidden; disable it, give the role BYPASSRLS, or set row_security to Accept"
    )]
    RowSecurity {
        /// The table.
        table: &'static str,
    },
    /// A row like those of the store could not be written. It was tried at opening, in a transaction that was rolled back.
    #[error("table {table} does not take the store's {operation}; {advice}")]
    Unwritable {
        /// The table.
        table: &'static str,
        /// The statement.
        operation: &'static str,
        /// What to do.
        advice: &'static str,
        /// What the server answered.
        #[source]
        reason: Cause,
    },
    /// The server is of another kind than `target_session_attrs` asks for. Correct one of them.
    #[error("the url asks for a {asked} by target_session_attrs, and the server is a {found}")]
    OtherServer {
        /// The kind asked for.
        asked: &'static str,
        /// The kind that answered.
        found: &'static str,
    },
    /// A commit would not survive a crash of the server. Allow it with [`crate::Durability::AllowRelaxed`].
    #[error("{setting} is {value}: commits would not survive a crash of the server")]
    NotDurable {
        /// The server's setting, or `table` and the name of the table or partition.
        setting: Box<str>,
        /// Its value; of a table `unlogged` or `temporary`.
        value: Box<str>,
    },
    /// The database failed in another way. The SQLSTATE of the source says how, and the server's log has the details.
    #[error("the database failed while it was opened; see the server's log")]
    Database(#[source] Cause),
}

/// What to do about a column of another type, where something can be done on this side.
fn advice(column: &str, found: &str) -> String {
    match found.parse::<PayloadColumn>() {
        Ok(found) if column == "state_payload" => format!("; set payload_column to {found}"),
        _ => String::new(),
    }
}
