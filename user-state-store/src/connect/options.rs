//! How to connect, and the limits of a store.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::connect::target::Target;
use crate::open_error::OpenError;
use crate::settings::{InvalidSetting, setters};

/// The most payload bytes that [`StoreSettings::payload_bytes_max`] may allow: a row is held in memory several
/// times over on its way.
const PAYLOAD_BYTES_CEILING: usize = 64 * 1024 * 1024;

/// The most connections of a kind: beyond that a server runs out of processes, not of requests.
const CONNECTIONS_CEILING: u32 = 1_000;

/// The shortest time of a setting: nothing that crosses a network is faster on a bad day.
const TIME_MIN: Duration = Duration::from_millis(10);

/// The longest time-out: after an hour nobody waits for the answer any more.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// The longest life of a connection: what the server forgets to free, it frees daily.
const AGE_MAX: Duration = Duration::from_hours(24);

/// What is wrong with an unknown TLS mode.
pub(crate) const TLS_MODES: &str = "it must be disable, prefer, require, verify-ca or verify-full";

/// Everything needed to open a store. Its `Debug` form shows no secret.
///
/// ```
/// use std::time::Duration;
/// use user_state_store::{ConnectOptions, StoreSettings};
///
/// let options = ConnectOptions::parse("postgres://user:secret@localhost/users")?
///     .pool_connections_max(4)
///     .settings(StoreSettings::default().statement_timeout(Duration::from_secs(2)));
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
/// let settings = StoreSettings::default().writer_connections(2);
/// assert_eq!((settings.writer_connections, settings.payload_bytes_max), (2, 1024 * 1024));
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
/// use user_state_store::{ConnectOptions, PayloadColumn, StoreSettings};
///
/// let options = ConnectOptions::parse("postgres://user:password@localhost/users")?;
/// assert_eq!(options.settings.payload_column, PayloadColumn::Bytea);
/// let options = options.settings(StoreSettings::default().payload_column(PayloadColumn::Jsonb));
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
    /// - `connect_timeout` sets [`StoreSettings::connect_timeout`](field@StoreSettings::connect_timeout), in seconds, at most an hour; 0 stands for that.
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
        let mut options = Self {
            target: Target::parse(url)?,
            pool_connections_max: 8,
            tls_mode: None,
            remote_tls: RemoteTls::default(),
            root_certificate: None,
            settings: StoreSettings::default(),
        };
        options.apply_url();
        Ok(options)
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    setters! {
        pool_connections_max: u32,
        remote_tls: RemoteTls,
    }

    /// Sets [`tls_mode`](field@Self::tls_mode).
    #[must_use]
    pub fn tls_mode(mut self, mode: TlsMode) -> Self {
        self.tls_mode = Some(mode);
        self
    }

    /// Sets [`root_certificate`](field@Self::root_certificate).
    #[must_use]
    pub fn root_certificate(mut self, file: impl Into<PathBuf>) -> Self {
        self.root_certificate = Some(file.into());
        self
    }

    /// Sets [`settings`](field@Self::settings). A `connect_timeout` in the URL stays in force.
    #[must_use]
    pub fn settings(mut self, settings: StoreSettings) -> Self {
        self.settings = settings;
        self.apply_url();
        self
    }

    /// What the URL says comes first.
    fn apply_url(&mut self) {
        if let Target::Postgres(server) = &self.target
            && let Some(connect_timeout) = server.asked.connect_timeout
        {
            self.settings.connect_timeout = connect_timeout;
        }
    }

    /// Refuses numbers out of range.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "only backends open anything")
    )]
    pub(crate) fn validate(&self) -> Result<(), InvalidSetting> {
        let connections = 1..=CONNECTIONS_CEILING;
        InvalidSetting::unless_in(
            "pool_connections_max",
            self.pool_connections_max,
            connections,
        )?;
        self.settings.validate()
    }
}

impl StoreSettings {
    setters! {
        payload_bytes_max: usize,
        writer_connections: u32,
        connect_timeout: Duration,
        acquire_timeout: Duration,
        statement_timeout: Duration,
        session_age_max: Duration,
        durability: Durability,
        access: Access,
        payload_column: PayloadColumn,
        row_security: RowSecurity,
    }

    /// Refuses numbers out of range.
    pub(crate) fn validate(&self) -> Result<(), InvalidSetting> {
        let connections = 1..=CONNECTIONS_CEILING;
        InvalidSetting::unless_in("writer_connections", self.writer_connections, connections)?;
        let bytes = 1..=PAYLOAD_BYTES_CEILING;
        InvalidSetting::unless_in("payload_bytes_max", self.payload_bytes_max, bytes)?;
        InvalidSetting::unless_in("session_age_max", self.session_age_max, TIME_MIN..=AGE_MAX)?;
        for (setting, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("acquire_timeout", self.acquire_timeout),
            ("statement_timeout", self.statement_timeout),
        ] {
            InvalidSetting::unless_in(setting, timeout, TIME_MIN..=TIMEOUT_MAX)?;
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

    /// A time-out with its setter.
    type Named = (&'static str, fn(StoreSettings, Duration) -> StoreSettings);

    fn options() -> ConnectOptions {
        ConnectOptions::parse("sqlite:users.db").unwrap()
    }

    fn refused(settings: StoreSettings) -> String {
        let refused = options().settings(settings).validate();
        refused.unwrap_err().to_string()
    }

    #[test]
    fn options_out_of_range_are_refused_with_name_value_and_range() {
        let settings = StoreSettings::default;
        for bytes in [0, PAYLOAD_BYTES_CEILING + 1] {
            assert_eq!(
                refused(settings().payload_bytes_max(bytes)),
                format!("payload_bytes_max is {bytes}, it must be between 1 and 67108864")
            );
        }
        for connections in [0, 1_001] {
            assert_eq!(
                refused(settings().writer_connections(connections)),
                format!("writer_connections is {connections}, it must be between 1 and 1000")
            );
            let refused = options().pool_connections_max(connections).validate();
            assert_eq!(
                refused.unwrap_err().to_string(),
                format!("pool_connections_max is {connections}, it must be between 1 and 1000")
            );
        }
        let (short, long) = (Duration::from_millis(9), Duration::from_secs(3_601));
        let timeouts: [Named; 3] = [
            ("connect_timeout", StoreSettings::connect_timeout),
            ("acquire_timeout", StoreSettings::acquire_timeout),
            ("statement_timeout", StoreSettings::statement_timeout),
        ];
        for (setting, set) in timeouts {
            for timeout in [short, long] {
                assert_eq!(
                    refused(set(settings(), timeout)),
                    format!("{setting} is {timeout:?}, it must be between 10ms and 3600s")
                );
            }
        }
        for age in [short, AGE_MAX + short] {
            assert_eq!(
                refused(settings().session_age_max(age)),
                format!("session_age_max is {age:?}, it must be between 10ms and 86400s")
            );
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let settings = StoreSettings::default;
        assert_eq!(options().validate(), Ok(()));
        for bytes in [1, PAYLOAD_BYTES_CEILING] {
            assert_eq!(settings().payload_bytes_max(bytes).validate(), Ok(()));
        }
        for connections in [1, 1_000] {
            let options = options().pool_connections_max(connections);
            assert_eq!(options.validate(), Ok(()));
            assert_eq!(
                settings().writer_connections(connections).validate(),
                Ok(())
            );
        }
        for timeout in [TIME_MIN, TIMEOUT_MAX] {
            assert_eq!(settings().statement_timeout(timeout).validate(), Ok(()));
        }
        for age in [TIME_MIN, AGE_MAX] {
            assert_eq!(settings().session_age_max(age).validate(), Ok(()));
        }
    }

    #[test]
    fn the_time_out_of_a_url_stays_in_force() {
        let options =
            ConnectOptions::parse("postgres://localhost/users?connect_timeout=7").unwrap();
        let settings = StoreSettings::default().connect_timeout(Duration::from_secs(3));
        let options = options.settings(settings);
        assert_eq!(options.settings.connect_timeout, Duration::from_secs(7));
    }
}
