//! How to connect, and the limits of a store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::connect::target::Target;
use crate::open_error::OpenError;

/// The most payload bytes that [`StoreSettings::payload_bytes_max`] may allow: a row is held in memory several
/// times over on its way.
const PAYLOAD_BYTES_CEILING: usize = 64 * 1024 * 1024;

/// The most connections of a kind: beyond that a server runs out of processes, not of requests.
const CONNECTIONS_CEILING: u32 = 1_000;

/// What is wrong with an unknown TLS mode.
pub(crate) const TLS_MODES: &str = "it must be disable, prefer, require, verify-ca or verify-full";

/// Everything needed to open a store. Its `Debug` form shows no secret.
///
/// ```
/// use std::time::Duration;
/// use user_state_store::ConnectOptions;
///
/// let mut options: ConnectOptions = "postgres://user:secret@localhost/users".parse()?;
/// options.pool_connections_max = 4;
/// options.settings.statement_timeout = Duration::from_secs(2);
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), user_state_store::OpenError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    target: Target,
    /// The most connections for reads. Default 8.
    pub pool_connections_max: u32,
    /// How TLS is used if neither the URL's `sslmode` nor the variable `PGSSLMODE` says it. Default `None`: `prefer` on
    /// loopback and sockets, `verify-full` elsewhere.
    pub tls_mode: Option<TlsMode>,
    /// What is allowed where the server is not on this machine. Default [`RemoteTls::VerifyFull`].
    pub remote_tls: RemoteTls,
    /// A PEM file with the certificate of an authority to trust beside the well-known ones.
    pub root_certificate: Option<PathBuf>,
    /// Limits and policies.
    pub settings: StoreSettings,
}

/// Limits and policies of a store, whichever way it is opened.
///
/// ```
/// use user_state_store::StoreSettings;
///
/// let mut settings = StoreSettings::default();
/// assert_eq!(settings.payload_bytes_max, 1024 * 1024);
/// settings.writer_connections = 2;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreSettings {
    /// The most bytes of a payload, stored or to be stored. Default 1 MiB, at most 64 MiB.
    pub payload_bytes_max: usize,
    /// How many batches are written at once, each on a connection of its own. Default 4.
    pub writer_connections: u32,
    /// How long opening a connection may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a call waits for a free connection. Default 5 s.
    pub acquire_timeout: Duration,
    /// How long the server may work on a statement. Default 5 s. This side waits a second longer, for servers
    /// that stopped altogether.
    ///
    /// A write whose row or table somebody else holds locked is tried for two fifths of this, counted from when it was
    /// first sent. So with a session at hand the last outcome of a batch comes within seven fifths and a second.
    pub statement_timeout: Duration,
    /// How long a connection serves before a new one takes its place. Each lives for this time or up to a quarter less,
    /// so that they do not all end at once. A new one proves again what opening the store checked. Connections of
    /// a caller's pool are proven again instead. Default 30 min.
    pub session_age_max: Duration,
    /// Whether a server that would lose commits in a crash is refused. Default [`Durability::Required`].
    pub durability: Durability,
    /// Whether the store may write. Default [`Access::ReadWrite`].
    pub access: Access,
    /// The type of column `state_payload`. Default [`PayloadColumn::Bytea`].
    pub payload_column: PayloadColumn,
    /// Whether a table whose row-level security applies to this role is refused. Default [`RowSecurity::Refuse`].
    pub row_security: RowSecurity,
}

/// How a connection is encrypted, as libpq's `sslmode`.
///
/// ```
/// use user_state_store::TlsMode;
///
/// assert_eq!("verify-full".parse(), Ok(TlsMode::VerifyFull));
/// assert_eq!(TlsMode::VerifyFull.to_string(), "verify-full");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Plain text.
    Disable,
    /// TLS where the server offers it, plain text otherwise.
    Prefer,
    /// TLS with whoever answers.
    Require,
    /// TLS with the holder of a trusted certificate. The driver checks the name too, so this accepts no server that
    /// [`VerifyFull`](Self::VerifyFull) does not accept.
    VerifyCa,
    /// TLS with the holder of a trusted certificate for this host.
    VerifyFull,
}

/// What is allowed for a server that is not on this machine.
///
/// ```
/// assert_eq!(user_state_store::RemoteTls::default(), user_state_store::RemoteTls::VerifyFull);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RemoteTls {
    /// Only [`TlsMode::VerifyFull`]; anything else is refused.
    #[default]
    VerifyFull,
    /// Whatever the URL or [`ConnectOptions::tls_mode`] asks for: somebody else secures the way there.
    AsConfigured,
}

/// Whether acknowledged writes have to survive a crash of the database server.
///
/// ```
/// assert_eq!(user_state_store::Durability::default(), user_state_store::Durability::Required);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// They have to: a server set up otherwise is refused.
    #[default]
    Required,
    /// They need not: for tests and measurements.
    AllowRelaxed,
}

/// Whether a store may write.
///
/// ```
/// assert_eq!(user_state_store::Access::default(), user_state_store::Access::ReadWrite);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// It reads and writes.
    #[default]
    ReadWrite,
    /// The database itself is told to refuse writes of this store.
    ReadOnly,
}

/// Whether a store opens on a PostgreSQL table whose row-level security applies to its role.
///
/// Rows that the policies hide read as never written, and no error says so. Superusers, roles with `BYPASSRLS` and the
/// table's owner (without `FORCE ROW LEVEL SECURITY`) are exempt from policies. On a partitioned table the policies of the
/// named table count, not those of its partitions.
///
/// ```
/// assert_eq!(user_state_store::RowSecurity::default(), user_state_store::RowSecurity::Refuse);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RowSecurity {
    /// It does not open.
    #[default]
    Refuse,
    /// It opens: the policies show this role every row that it is to work on.
    Accept,
}

/// The type of column `state_payload`, as Pekko 2.0's setting `payload-column-type`.
///
/// [`crate::migrate`] makes the tables with this type, and a store does not open on a table that has another one.
///
/// # JSON columns
/// [`Json`](Self::Json) and [`Jsonb`](Self::Jsonb) are PostgreSQL's, and Pekko's from 2.0 on: a Pekko 1.x application
/// cannot share the table.
/// - They take uncompressed JSON of serializers 31 and 32 and nothing else. So the mapping has to write JSON, and with
///   [`Compression::Off`](crate::Compression::Off): otherwise a state above 32 KiB is compressed. Any other payload
///   is [`crate::StoreError::Unencodable`], for its entity alone.
/// - What PostgreSQL itself refuses in JSON is [`crate::StoreError::Refused`], for its entity alone: with
///   [`Jsonb`](Self::Jsonb) a NUL character (SQLSTATE 22P05), for example.
/// - [`Jsonb`](Self::Jsonb) keeps the value, not the bytes: fields come back in another order and with a space behind
///   each colon and comma. [`StoreSettings::payload_bytes_max`] counts them, on writing too.
///
/// ```
/// use user_state_store::{ConnectOptions, PayloadColumn};
///
/// let mut options: ConnectOptions = "postgres://user:password@localhost/users".parse()?;
/// assert_eq!(options.settings.payload_column, PayloadColumn::Bytea);
/// options.settings.payload_column = PayloadColumn::Jsonb;
/// assert_eq!(options.settings.payload_column.to_string(), "jsonb");
/// # Ok::<(), user_state_store::OpenError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PayloadColumn {
    /// Bytes as they are, of any serializer; the only one that Pekko before 2.0 has, and SQLite's `BLOB`.
    #[default]
    Bytea,
    /// JSON text as it is.
    Json,
    /// JSON as a value.
    Jsonb,
}

impl ConnectOptions {
    /// The options of a URL, everything else at its default.
    ///
    /// `postgres://user:password@host:port/database` (or `postgresql:`), or `sqlite:PATH`. Parameters of PostgreSQL are
    /// libpq's:
    /// - `application_name`, `fallback_application_name`, `host` (also a socket's directory), `port`, `user`, `password`,
    ///   `dbname` and `options` mean what they mean there. Of `options`, what the store sets itself gives way to its own
    ///   values: time-outs (see [`StoreSettings`]), isolation, and how its statements are planned.
    /// - `sslmode`, `sslrootcert` (`system` for the well-known authorities alone), `sslcert` and `sslkey`: unencrypted PEM
    ///   files.
    /// - `connect_timeout` sets [`StoreSettings::connect_timeout`], in seconds; 0 stands for the longest, an hour.
    /// - `target_session_attrs` is checked at opening; a store that writes is refused on a standby in any case.
    /// - What changes nothing here is accepted, `channel_binding=prefer` or `keepalives` for example. What cannot be
    ///   honoured is refused by name, `channel_binding=require` for example.
    ///
    /// What the URL does not say is taken from `PGHOST`, `PGHOSTADDR`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGPASSFILE`,
    /// `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`, `PGSSLCERT`, `PGSSLKEY`, `PGAPPNAME` and `PGOPTIONS`, when the store is
    /// opened. Other variables of libpq do not count.
    ///
    /// # Errors
    /// [`OpenError::InvalidUrl`], [`OpenError::UnknownScheme`], and [`OpenError::InvalidOption`] for an unknown `sslmode`.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let target = Target::parse(url)?;
        let mut settings = StoreSettings::default();
        if let Target::Postgres(server) = &target
            && let Some(connect_timeout) = server.asked.connect_timeout
        {
            settings.connect_timeout = connect_timeout;
        }
        Ok(Self {
            target,
            pool_connections_max: 8,
            tls_mode: None,
            remote_tls: RemoteTls::default(),
            root_certificate: None,
            settings,
        })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Refuses numbers out of range.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "only backends open anything")
    )]
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        if !(1..=CONNECTIONS_CEILING).contains(&self.pool_connections_max) {
            return Err(OpenError::InvalidOption {
                option: "pool_connections_max",
                problem: "it must be between 1 and 1000",
            });
        }
        self.settings.validate()
    }
}

impl StoreSettings {
    /// Refuses numbers out of range.
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let refuse = |option, problem| Err(OpenError::InvalidOption { option, problem });
        if !(1..=CONNECTIONS_CEILING).contains(&self.writer_connections) {
            return refuse("writer_connections", "it must be between 1 and 1000");
        }
        if !(1..=PAYLOAD_BYTES_CEILING).contains(&self.payload_bytes_max) {
            return refuse("payload_bytes_max", "it must be between 1 byte and 64 MiB");
        }
        let ages = Duration::from_millis(10)..=Duration::from_hours(24);
        if !ages.contains(&self.session_age_max) {
            return refuse("session_age_max", "it must be between 10 ms and 24 h");
        }
        let range = Duration::from_millis(10)..=Duration::from_hours(1);
        for (option, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("acquire_timeout", self.acquire_timeout),
            ("statement_timeout", self.statement_timeout),
        ] {
            if !range.contains(&timeout) {
                return refuse(option, "it must be between 10 ms and 1 h");
            }
        }
        Ok(())
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1024 * 1024,
            writer_connections: 4,
            connect_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            session_age_max: Duration::from_mins(30),
            durability: Durability::default(),
            access: Access::default(),
            payload_column: PayloadColumn::default(),
            row_security: RowSecurity::default(),
        }
    }
}

impl FromStr for ConnectOptions {
    type Err = OpenError;

    fn from_str(url: &str) -> Result<Self, OpenError> {
        Self::parse(url)
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectOptions")
            .field("target", &self.target)
            .field("pool_connections_max", &self.pool_connections_max)
            .field("tls_mode", &self.tls_mode)
            .field("remote_tls", &self.remote_tls)
            .field("root_certificate", &self.root_certificate)
            .field("settings", &self.settings)
            .finish()
    }
}

impl PayloadColumn {
    /// PostgreSQL's name of the type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytea => "bytea",
            Self::Json => "json",
            Self::Jsonb => "jsonb",
        }
    }
}

impl fmt::Display for PayloadColumn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for PayloadColumn {
    type Err = OpenError;

    /// PostgreSQL's name of the type, in lower case.
    fn from_str(text: &str) -> Result<Self, OpenError> {
        [Self::Bytea, Self::Json, Self::Jsonb]
            .into_iter()
            .find(|column| column.as_str() == text)
            .ok_or(OpenError::InvalidOption {
                option: "payload_column",
                problem: "it must be bytea, json or jsonb",
            })
    }
}

impl TlsMode {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for TlsMode {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<Self, OpenError> {
        [
            Self::Disable,
            Self::Prefer,
            Self::Require,
            Self::VerifyCa,
            Self::VerifyFull,
        ]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or(OpenError::InvalidOption {
            option: "sslmode",
            problem: TLS_MODES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused_and_the_limits_themselves_are_not() {
        let options = ConnectOptions::parse("sqlite:users.db").unwrap();
        assert_eq!(options.validate(), Ok(()));
        for (bytes, allowed) in [
            (0, false),
            (1, true),
            (PAYLOAD_BYTES_CEILING, true),
            (PAYLOAD_BYTES_CEILING + 1, false),
        ] {
            let mut options = options.clone();
            options.settings.payload_bytes_max = bytes;
            assert_eq!(options.validate().is_ok(), allowed, "{bytes}");
        }
        for (connections, allowed) in [(0, false), (1, true), (1_000, true), (1_001, false)] {
            let mut options = options.clone();
            options.pool_connections_max = connections;
            assert_eq!(options.validate().is_ok(), allowed, "{connections}");
        }
        let mut options = options;
        options.settings.connect_timeout = Duration::ZERO;
        assert!(options.validate().is_err());
    }
}
