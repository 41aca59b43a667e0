//! How connections are opened: TLS, time-outs, and the settings of each kind of session.

use std::fs::File;
use std::net::IpAddr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};

use crate::connect::{Access, ConnectOptions, RemoteTls, StoreSettings, Target, TlsMode};
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::error::{Failure, open_error};

/// A connection that was not used for this long is tried before it is used: a server restarted meanwhile then
/// costs a round trip, not the answer of a call.
pub(super) const IDLE_UNTRIED_MAX: Duration = Duration::from_secs(30);

/// What this side waits beyond the server's own time-outs, which do not run in a server that is stopped.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

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

/// sqlx's options for the server that the URL names.
///
/// sqlx logs statements (never bound values); that is switched off, since it would log one line per batch.
pub(super) fn connect_options(options: &ConnectOptions) -> Result<PgConnectOptions, OpenError> {
    let Target::Postgres(url) = options.target() else {
        return Err(invalid("the scheme is not postgres"));
    };
    let asked = url
        .query_pairs()
        .find(|(name, _)| name == "sslmode")
        .map(|(_, mode)| mode.parse::<TlsMode>())
        .transpose()?
        .or(options.tls_mode);
    // The driver would connect to `[::1]` by that name, brackets included.
    let bracketed = url
        .host_str()
        .and_then(|host| host.strip_prefix('[')?.strip_suffix(']'));
    let mut connect = PgConnectOptions::from_url(url)
        .map_err(|_| invalid("a part of it cannot be decoded"))?
        .disable_statement_logging();
    if let Some(host) = bracketed {
        connect = connect.host(host);
    }
    if connect.get_application_name().is_none() {
        connect = connect.application_name("user-state");
    }
    if let Some(path) = &options.root_certificate {
        if File::open(path).is_err() {
            return Err(OpenError::InvalidOption {
                option: "root_certificate",
                problem: "the file cannot be read",
            });
        }
        connect = connect.ssl_root_cert(path);
    }
    let mode = tls_mode(is_local(&connect), asked, options.remote_tls)?;
    Ok(with_access(connect.ssl_mode(mode), &options.settings))
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

fn with_access(connect: PgConnectOptions, settings: &StoreSettings) -> PgConnectOptions {
    match settings.access {
        Access::ReadWrite => connect,
        Access::ReadOnly => connect.options([("default_transaction_read_only", "on")]),
    }
}

/// The pool for reads.
pub(super) fn pool(options: &ConnectOptions, connect: PgConnectOptions) -> PgPool {
    let settings = &options.settings;
    PgPoolOptions::new()
        .max_connections(options.pool_connections_max)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, usage| {
            Box::pin(async move {
                if usage.idle_for >= IDLE_UNTRIED_MAX {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(connect.options([(
            "statement_timeout",
            milliseconds(settings.statement_timeout),
        )]))
}

/// The options of the store's own sessions, on top of those it was given.
///
/// The planner settings keep the batch update on the primary key, row by row in the order of the ids, while a
/// new table has no statistics: a hash join would lock rows in an order of its own and read the whole table.
pub(super) fn session_options(
    connect: PgConnectOptions,
    settings: &StoreSettings,
) -> PgConnectOptions {
    let statement = settings.statement_timeout;
    let lock = lock_timeout(settings).min(LOCK_NOTICED_AFTER);
    with_access(connect.disable_statement_logging(), settings).options([
        ("statement_timeout", milliseconds(statement)),
        ("lock_timeout", milliseconds(lock)),
        (
            "idle_in_transaction_session_timeout",
            milliseconds(statement * 2),
        ),
        (
            "default_transaction_isolation",
            r"read\ committed".to_owned(),
        ),
        ("enable_seqscan", "off".to_owned()),
        ("enable_hashjoin", "off".to_owned()),
        ("enable_mergejoin", "off".to_owned()),
        ("plan_cache_mode", "force_generic_plan".to_owned()),
    ])
}

/// Opens one connection.
///
/// The future is large and rarely awaited, so it lives on the heap.
pub(super) async fn open(
    connect: &PgConnectOptions,
    within: Duration,
) -> Result<PgConnection, OpenError> {
    let opening = Box::pin(PgConnection::connect_with(connect));
    match tokio::time::timeout(within, opening).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(open_error(&error)),
        Err(_) => Err(OpenError::Unreachable(Cause::Deadline)),
    }
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
        OpenError::DatabaseMissing => Failure::Misconfigured(Cause::Other("no such database")),
        _ => Failure::Misconfigured(Cause::Tls),
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
