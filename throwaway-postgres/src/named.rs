//! The server that `DATABASE_URL` names: somebody else's, used with care.

use std::fmt;
use std::net::IpAddr;

use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::error::ProvisionError;

const URL_VARIABLE: &str = "DATABASE_URL";
const REMOTE_VARIABLE: &str = "USER_STATE_TEST_ALLOW_REMOTE";

/// Whether a server may be on another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remote {
    Allowed,
    Refused,
}

/// A checked URL of a PostgreSQL database. `Debug` shows nothing of it.
#[derive(Clone)]
pub(crate) struct DatabaseUrl(Url);

impl DatabaseUrl {
    /// The URL in the environment; `None` where there is none.
    pub(crate) fn from_environment() -> Result<Option<Self>, ProvisionError> {
        let remote = match std::env::var(REMOTE_VARIABLE) {
            Ok(value) if value == "1" => Remote::Allowed,
            _ => Remote::Refused,
        };
        match std::env::var(URL_VARIABLE) {
            Ok(text) if !text.is_empty() => Self::parse(&text, remote).map(Some),
            _ => Ok(None),
        }
    }

    fn parse(text: &str, remote: Remote) -> Result<Self, ProvisionError> {
        let refused = |problem| ProvisionError::DatabaseUrl { problem };
        let url = Url::parse(text)
            .map_err(|_| refused("it is not a URL; use postgres://user:password@host/database"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(refused(
                "it is not PostgreSQL's; use postgres://, or unset it",
            ));
        }
        let options: PgConnectOptions = text
            .parse()
            .map_err(|_| refused("a part of it is not understood; see its port and parameters"))?;
        let local = options.get_socket().is_some() || is_loopback(options.get_host());
        if remote == Remote::Refused && !local {
            return Err(ProvisionError::Remote);
        }
        Ok(Self(url))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DatabaseUrl(..)")
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host == "localhost"
        || host.starts_with('/')
        || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_another_machine_needs_permission() {
        let remote = "postgres://user:marker@db.example.com/app";
        assert_eq!(
            DatabaseUrl::parse(remote, Remote::Refused).unwrap_err(),
            ProvisionError::Remote
        );
        assert!(DatabaseUrl::parse(remote, Remote::Allowed).is_ok());
        let parameter = "postgres://user@localhost/app?host=db.example.com";
        assert_eq!(
            DatabaseUrl::parse(parameter, Remote::Refused).unwrap_err(),
            ProvisionError::Remote
        );
    }

    #[test]
    fn a_server_on_the_loopback_interface_or_a_socket_does_not() -> Result<(), ProvisionError> {
        for url in [
            "postgres://user@localhost/app",
            "postgresql://user@127.0.0.1:5433/app?sslmode=disable",
            "postgres://user@[::1]/app",
            "postgres:///app?host=/var/run/postgresql",
        ] {
            DatabaseUrl::parse(url, Remote::Refused)?;
        }
        Ok(())
    }

    #[test]
    fn what_is_no_postgres_url_is_refused_without_being_shown() {
        for url in [
            "marker",
            "sqlite:marker.db",
            "postgres://u:marker@localhost/x?sslmode=marker",
        ] {
            let error = DatabaseUrl::parse(url, Remote::Allowed).unwrap_err();
            assert!(
                matches!(error, ProvisionError::DatabaseUrl { .. }),
                "{error}"
            );
            assert!(
                !format!("{error} {error:?}").contains("marker"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn debug_shows_no_password() -> Result<(), ProvisionError> {
        let url = DatabaseUrl::parse("postgres://user:marker@localhost/app", Remote::Refused)?;
        assert!(!format!("{url:?}").contains("marker"));
        Ok(())
    }
}
