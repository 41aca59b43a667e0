//! How connections are opened: TLS, time-outs, and the settings of each kind of session.
//!
//! No setting is sent at start-up, since poolers refuse or drop what they do not know; see [`super::proof`].

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};
use tokio::time::sleep;
use url::Url;

use crate::connect::{
    Access, ConnectOptions, PostgresTarget, RemoteTls, StoreSettings, TLS_MODES, Target, TlsMode,
};
use crate::deadline::within;
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::certificates::{Files, Named};
use crate::postgres::error::{Failure, is_full, open_error};
use crate::postgres::proof::Standard;
use crate::postgres::setting::{self, Setting};

/// A connection that was not used for this long is proven again before it is used: a server restarted meanwhile then
/// costs a round trip, not the answer of a call.
pub(super) const IDLE_UNTRIED_MAX: Duration = Duration::from_secs(30);

/// What this side waits beyond the server's own time-outs, which do not run in a server that is stopped.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How often a server that has no room for another session is asked again, each time after a longer pause: half a second
/// in all.
const ROOM_TRIES_MAX: u32 = 10;

const ROOM_INTERVAL: Duration = Duration::from_millis(11);

/// How often a server looks whether the client of a running statement is still there.
pub(super) const CLIENT_CHECK_INTERVAL: &str = "1s";

/// How long a statement waits for a row that somebody else holds, before the row leaves its batch: longer than another
/// writer's commit takes, short enough that the rows beside it hardly wait.
const LOCK_NOTICED_AFTER: Duration = Duration::from_millis(25);

/// How long a write is tried while somebody else holds its row or its table.
pub(super) fn lock_timeout(settings: &StoreSettings) -> Duration {
    settings.statement_timeout * 2 / 5
}

/// The time after which an answer is given up and its connection closed.
pub(super) fn answer_deadline(settings: &StoreSettings) -> Duration {
    settings.statement_timeout + ANSWER_GRACE
}

/// How long a connection serves: the maximum age, or up to a quarter less.
pub(super) fn lifetime(age_max: Duration) -> Duration {
    // Each `RandomState` has keys of its own, which is all the chance that is needed.
    let chance = RandomState::new().hash_one(());
    let less = u32::try_from(chance % 1024).unwrap_or_default();
    age_max.saturating_sub(age_max / 4096 * less)
}

/// Where connections lead, and what the user wants to be set in each.
#[derive(Clone)]
pub(super) struct Route {
    connect: PgConnectOptions,
    asked: Vec<Setting>,
}

/// How connections of one kind are opened.
#[derive(Clone)]
pub(super) struct Opener {
    connect: PgConnectOptions,
    standard: Standard,
    within: Duration,
}

impl Route {
    /// To the server that the URL names.
    pub(super) fn of(options: &ConnectOptions) -> Result<Self, OpenError> {
        let Target::Postgres(PostgresTarget { url, .. }) = options.target() else {
            return Err(invalid("the scheme is not postgres"));
        };
        let mut route = Self::of_connect_options(connect_options(options)?)?;
        for (_, asked) in url.query_pairs().filter(|(name, _)| name == OPTIONS) {
            for setting in setting::parse(&asked)? {
                setting::put(&mut route.asked, setting);
            }
        }
        Ok(route)
    }

    /// To the server of a caller's pool.
    pub(super) fn of_pool(pool: &PgPool) -> Result<Self, OpenError> {
        Self::of_connect_options(pool.connect_options().as_ref().clone())
    }

    /// What is among the options (they came from a caller or the environment) is sent at start-up, and set by
    /// statement too, since a pooler may drop it.
    fn of_connect_options(connect: PgConnectOptions) -> Result<Self, OpenError> {
        let asked = setting::parse(connect.get_options().unwrap_or_default())?;
        Ok(Self {
            // A caller's pool logs as the caller likes; what this store sends is one statement per batch.
            connect: connect.extra_float_digits(None).disable_statement_logging(),
            asked,
        })
    }

    /// For connections set to what was asked for, and nothing else.
    pub(super) fn plain(&self, settings: &StoreSettings) -> Opener {
        self.opener(Standard::of_reads(self.asked.clone(), settings), settings)
    }

    /// For the store's pool.
    pub(super) fn reading(&self, settings: &StoreSettings) -> Opener {
        let standard = Standard::of_reads(self.asked.clone(), settings)
            .with([statement_timeout(settings)])
            .with(read_only(settings));
        self.opener(standard, settings)
    }

    /// For the store's own sessions.
    ///
    /// The planner settings keep the batch update on the primary key, row by row in the order of the ids, while a
    /// new table has no statistics: a hash join would lock rows in an order of its own and read the whole table.
    pub(super) fn writing(&self, settings: &StoreSettings) -> Opener {
        let statement = settings.statement_timeout;
        let standard = Standard::of_sessions(self.asked.clone(), settings)
            .with([
                statement_timeout(settings),
                Setting::new(
                    "lock_timeout",
                    milliseconds(lock_timeout(settings).min(LOCK_NOTICED_AFTER)),
                ),
                Setting::new(
                    "idle_in_transaction_session_timeout",
                    milliseconds(statement * 2),
                ),
                Setting::new("default_transaction_isolation", "read committed"),
                Setting::new("enable_seqscan", "off"),
                Setting::new("enable_hashjoin", "off"),
                Setting::new("enable_mergejoin", "off"),
                Setting::new("plan_cache_mode", "force_generic_plan"),
            ])
            .with(read_only(settings));
        self.opener(standard, settings)
    }

    fn opener(&self, standard: Standard, settings: &StoreSettings) -> Opener {
        Opener {
            connect: self.connect.clone(),
            standard,
            within: settings.connect_timeout,
        }
    }
}

impl Opener {
    /// The same, for a table that was found in this schema.
    pub(super) fn in_schema(self, schema: Box<str>) -> Self {
        Self {
            standard: self.standard.in_schema(schema),
            ..self
        }
    }

    pub(super) fn standard(&self) -> &Standard {
        &self.standard
    }

    /// Opens a connection that is set and proven.
    pub(super) async fn open(&self) -> Result<PgConnection, OpenError> {
        Ok(self.open_first().await?.0)
    }

    /// The same; gives the schema in which the table is found, too.
    pub(super) async fn open_first(&self) -> Result<(PgConnection, Box<str>), OpenError> {
        let mut connection = self.connect().await?;
        let schema = self.standard.prove(&mut connection).await?;
        Ok((connection, schema))
    }

    /// Opens a connection that is set, for a database that has no table yet.
    pub(super) async fn open_unproven(&self) -> Result<PgConnection, OpenError> {
        let mut connection = self.connect().await?;
        within(self.within, self.standard.set(&mut connection))
            .await
            .map_err(|_| OpenError::Unreachable(Cause::Deadline))??;
        Ok(connection)
    }

    async fn connect(&self) -> Result<PgConnection, OpenError> {
        within(self.within, self.connect_when_there_is_room())
            .await
            .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
            .map_err(|error| open_error(&error))
    }

    /// The server counts a session that was just closed until its process has ended.
    async fn connect_when_there_is_room(&self) -> Result<PgConnection, sqlx::Error> {
        let mut tries = 1;
        loop {
            // The future is large and rarely awaited, so it lives on the heap.
            match Box::pin(PgConnection::connect_with(&self.connect)).await {
                Err(error) if is_full(&error) && tries < ROOM_TRIES_MAX => {
                    sleep(ROOM_INTERVAL * tries).await;
                    tries += 1;
                }
                connected => return connected,
            }
        }
    }
}

/// The parameter of a URL that holds settings.
const OPTIONS: &str = "options";

/// sqlx's options for the server that the URL names. Of its `options`, only what leads a proxy to the server.
///
/// sqlx logs statements (never bound values); that is switched off, since it would log one line per batch.
fn connect_options(options: &ConnectOptions) -> Result<PgConnectOptions, OpenError> {
    let Target::Postgres(PostgresTarget { url, asked }) = options.target() else {
        return Err(invalid("the scheme is not postgres"));
    };
    let environment = Environment::read(url)?;
    // The driver would connect to `[::1]` by that name, brackets included.
    let bracketed = url
        .host_str()
        .and_then(|host| host.strip_prefix('[')?.strip_suffix(']'));
    let mut connect = PgConnectOptions::from_url(&without_settings(url))
        .map_err(|_| invalid("a part of it cannot be decoded"))?
        .disable_statement_logging();
    if let Some(host) = bracketed {
        connect = connect.host(host);
    }
    if connect.get_application_name().is_none() {
        connect = connect.application_name("user-state");
    }
    let mut tls = asked_tls(options, &environment)?;
    let in_variable = |name| environment.root.as_deref() == Some(name);
    if asked.system_roots || (parameter(url, "sslrootcert").is_none() && in_variable("system")) {
        tls = Some(system_tls(tls)?);
        connect = connect.ssl_root_cert_from_pem(Vec::new());
    }
    if let Some(path) = &options.root_certificate {
        connect = connect.ssl_root_cert(path);
    }
    let mode = tls_mode(is_local(&connect), tls, options.remote_tls)?;
    if !matches!(mode, PgSslMode::Disable) {
        files(options, url, environment).check()?;
    }
    Ok(connect.ssl_mode(mode))
}

fn without_settings(url: &Url) -> Url {
    let mut bare = url.clone();
    let pairs = url.query_pairs().filter_map(|(name, value)| {
        if name != OPTIONS {
            return Some((name, value));
        }
        let sent = setting::for_proxies(&value);
        (!sent.is_empty()).then(|| (name, sent.into()))
    });
    bare.query_pairs_mut().clear().extend_pairs(pairs);
    bare
}

/// What the environment says of a connection and the driver does not check.
struct Environment {
    tls_mode: Option<TlsMode>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Environment {
    fn read(url: &Url) -> Result<Self, OpenError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let tls_mode = variable("PGSSLMODE").map(|mode| mode.parse()).transpose();
        // The driver would use the usual port instead.
        let port = variable("PGPORT")
            .map(|port| port.parse::<u16>())
            .transpose();
        if url.port().is_none() && parameter(url, "port").is_none() && port.is_err() {
            return Err(OpenError::InvalidOption {
                option: "PGPORT",
                problem: "it must be a number",
            });
        }
        Ok(Self {
            tls_mode: tls_mode.map_err(|_| OpenError::InvalidOption {
                option: "PGSSLMODE",
                problem: TLS_MODES,
            })?,
            root: variable("PGSSLROOTCERT"),
            certificate: variable("PGSSLCERT"),
            key: variable("PGSSLKEY"),
        })
    }
}

/// The value that counts of a parameter: the last one, as for the driver.
fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .filter(|(found, _)| found == name)
        .last()
        .map(|(_, value)| value.into_owned())
}

/// The TLS mode that is asked for: by the URL, else by the environment, else by the options.
fn asked_tls(
    options: &ConnectOptions,
    environment: &Environment,
) -> Result<Option<TlsMode>, OpenError> {
    let Target::Postgres(PostgresTarget { url, .. }) = options.target() else {
        return Ok(None);
    };
    let of_url = parameter(url, "sslmode").map(|mode| mode.parse());
    Ok(of_url
        .transpose()?
        .or(environment.tls_mode)
        .or(options.tls_mode))
}

/// `sslrootcert=system` proves the name, as in libpq: of a public authority everybody gets a certificate.
fn system_tls(asked: Option<TlsMode>) -> Result<TlsMode, OpenError> {
    match asked {
        None | Some(TlsMode::VerifyFull) => Ok(TlsMode::VerifyFull),
        Some(_) => Err(OpenError::InvalidOption {
            option: "sslmode",
            problem: "with sslrootcert=system it must be verify-full",
        }),
    }
}

/// The files that TLS needs.
fn files(options: &ConnectOptions, url: &Url, environment: Environment) -> Files {
    let named = |option, name, of_variable: Option<String>| match parameter(url, option) {
        Some(path) => Some(Named::file(option, Path::new(&path))),
        None => of_variable.map(|value| Named::variable(name, value)),
    };
    let root = match &options.root_certificate {
        Some(path) => Some(Named::file("root_certificate", path)),
        None => named(
            "sslrootcert",
            "PGSSLROOTCERT",
            environment.root.filter(|root| root != "system"),
        ),
    };
    Files {
        root,
        certificate: named("sslcert", "PGSSLCERT", environment.certificate),
        key: named("sslkey", "PGSSLKEY", environment.key),
    }
}

/// The TLS mode to use, or a refusal where the connection would leave this machine unproven.
fn tls_mode(
    local: bool,
    asked: Option<TlsMode>,
    remote: RemoteTls,
) -> Result<PgSslMode, OpenError> {
    let mode = asked.unwrap_or(if local {
        TlsMode::Prefer
    } else {
        TlsMode::VerifyFull
    });
    if !local && remote == RemoteTls::VerifyFull && mode != TlsMode::VerifyFull {
        return Err(OpenError::InsecureTls {
            asked: mode.as_str(),
        });
    }
    Ok(match mode {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    })
}

/// Whether the connection stays on this machine.
fn is_local(connect: &PgConnectOptions) -> bool {
    let host = connect.get_host();
    connect.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn statement_timeout(settings: &StoreSettings) -> Setting {
    Setting::new(
        "statement_timeout",
        milliseconds(settings.statement_timeout),
    )
}

fn read_only(settings: &StoreSettings) -> Option<Setting> {
    (settings.access == Access::ReadOnly)
        .then(|| Setting::new("default_transaction_read_only", "on"))
}

/// The pool for reads.
pub(super) fn pool(options: &ConnectOptions, opener: &Opener) -> PgPool {
    let settings = &options.settings;
    let standard = opener.standard.clone();
    PgPoolOptions::new()
        .max_connections(options.pool_connections_max)
        .acquire_timeout(settings.acquire_timeout)
        .max_lifetime(settings.session_age_max)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let standard = standard.clone();
            Box::pin(async move {
                // For others that use the pool. An error shows again where the store has the connection proven, and
                // is told there; here the pool would only try again for as long as a call waits.
                drop(standard.set(connection).await);
                Ok(())
            })
        })
        .connect_lazy_with(opener.connect.clone())
}

fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn invalid(problem: &str) -> OpenError {
    OpenError::InvalidUrl {
        problem: problem.into(),
    }
}

/// What an [`OpenError`] means to a call that needed a new connection: nothing was sent.
pub(super) fn not_connected(error: OpenError) -> Failure {
    match error {
        OpenError::Unreachable(cause) | OpenError::Database(cause) => Failure::Unavailable(cause),
        OpenError::AuthenticationFailed(database) => {
            Failure::Misconfigured(Cause::Database(database))
        }
        // Of a store that did open, the pooler cannot reach its server now.
        OpenError::StartupRefused(database) => Failure::Unavailable(Cause::Database(database)),
        OpenError::DatabaseMissing => Failure::Misconfigured(Cause::other("no such database")),
        OpenError::TlsRefused => Failure::Misconfigured(Cause::Tls),
        error => Failure::Misconfigured(Cause::Session(Box::new(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_with(url: &str) -> Result<PgSslMode, OpenError> {
        let options = ConnectOptions::parse(url)?;
        connect_options(&options).map(|connect| connect.get_ssl_mode())
    }

    #[test]
    fn off_this_machine_only_a_proven_server_is_accepted() {
        for mode in ["disable", "prefer", "require", "verify-ca"] {
            let refused = open_with(&format!("postgres://u@db.example/d?sslmode={mode}"));
            assert!(
                matches!(refused, Err(OpenError::InsecureTls { asked }) if asked == mode),
                "{mode}: {refused:?}"
            );
        }
        for url in [
            "postgres://u@db.example/d",
            "postgres://u@192.0.2.1/d?sslmode=verify-full",
        ] {
            assert!(matches!(open_with(url), Ok(PgSslMode::VerifyFull)), "{url}");
        }
        assert!(matches!(
            open_with("postgres://u@localhost/d?host=db.example&sslmode=disable"),
            Err(OpenError::InsecureTls { .. })
        ));
    }

    #[test]
    fn on_this_machine_plain_text_is_accepted() {
        for url in [
            "postgres://u@localhost/d",
            "postgres://u@127.0.0.2/d",
            "postgres://u@[::1]/d",
            "postgres:///d?host=/run/postgresql",
            "postgres://u@%2Frun%2Fpostgresql/d",
        ] {
            assert!(matches!(open_with(url), Ok(PgSslMode::Prefer)), "{url}");
        }
    }

    #[test]
    fn a_named_option_allows_less_than_proof() {
        let mut options =
            ConnectOptions::parse("postgres://u@db.example/d?sslmode=disable").unwrap();
        options.remote_tls = RemoteTls::AsConfigured;
        let connect = connect_options(&options).unwrap();
        assert!(matches!(connect.get_ssl_mode(), PgSslMode::Disable));
    }
}
