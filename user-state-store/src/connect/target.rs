//! What a store URL points at, kept so that its secrets cannot be shown.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::connect::parameters::{self, Asked};
use crate::open_error::OpenError;

/// Where the rows are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A PostgreSQL server.
    Postgres(PostgresTarget),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// A PostgreSQL server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostgresTarget {
    /// Its URL, with the parameters that the driver knows. It holds the password.
    pub(crate) url: Url,
    /// What the other parameters ask for.
    pub(crate) asked: Asked,
}

impl Target {
    /// The target of a URL. Schemes are known in any case, as the standard of URLs asks.
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        if let Some((scheme, path)) = url.split_once(':')
            && scheme.trim_start().eq_ignore_ascii_case("sqlite")
        {
            return sqlite(path);
        }
        let parsed = Url::parse(url).map_err(|error| {
            let (authority, behind) = authority(url);
            if has_several_hosts(authority) {
                parameters::several_hosts()
            } else if !authority.contains('@') && behind.contains('@') {
                invalid("an `@` behind the host; percent-encode the password")
            } else {
                invalid(&error.to_string())
            }
        })?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(OpenError::UnknownScheme {
                scheme: parsed.scheme().into(),
            });
        }
        postgres(url, parsed)
    }
}

fn sqlite(path: &str) -> Result<Target, OpenError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err(invalid("a path must follow sqlite:"));
    }
    if path.contains('?') {
        return Err(invalid("sqlite: takes no parameters"));
    }
    Ok(Target::Sqlite(path.into()))
}

fn postgres(text: &str, mut url: Url) -> Result<Target, OpenError> {
    if url.cannot_be_a_base() {
        return Err(invalid("a host must follow postgres://"));
    }
    if has_several_hosts(authority(text).0) {
        return Err(parameters::several_hosts());
    }
    // A `?`, `#` or `/` in a password that is not encoded ends the authority, and the rest of the secret, with the `@` behind
    // it, would pass for a path or a parameter. Only in the value of a known parameter an `@` has no such meaning.
    if url.path().contains('@') {
        return Err(invalid(
            "an `@` behind the host; percent-encode the password, or the database's name",
        ));
    }
    if url.fragment().is_some() {
        return Err(invalid("a `#`; percent-encode it"));
    }
    let asked = parameters::take(&mut url)?;
    Ok(Target::Postgres(PostgresTarget { url, asked }))
}

/// The authority of a URL, and what stands behind it.
fn authority(url: &str) -> (&str, &str) {
    let behind_scheme = url.split_once("://").map_or("", |(_, behind)| behind);
    let end = behind_scheme
        .find(['/', '?', '#'])
        .unwrap_or(behind_scheme.len());
    behind_scheme.split_at(end)
}

/// Whether an authority lists hosts, as libpq allows.
fn has_several_hosts(authority: &str) -> bool {
    let hosts = authority.rsplit('@').next();
    hosts.is_some_and(|hosts| hosts.contains(','))
}

/// Shows where the rows are, without user, password and parameters.
impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(PostgresTarget { url, .. }) => {
                let host = url.host_str().unwrap_or_default();
                write!(formatter, "postgres://{host}")?;
                if let Some(port) = url.port() {
                    write!(formatter, ":{port}")?;
                }
                formatter.write_str(url.path())
            }
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
        }
    }
}

fn invalid(problem: &str) -> OpenError {
    OpenError::InvalidUrl {
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_shows_is_free_of_user_password_and_parameters() {
        let target = Target::parse(
            "postgresql://marker-user:marker-password@db.example:5433/users?password=marker-too",
        )
        .unwrap();
        assert_eq!(format!("{target:?}"), "postgres://db.example:5433/users");
    }

    #[test]
    fn a_sqlite_path_may_follow_two_slashes() {
        for (url, path) in [
            ("sqlite:users.db", "users.db"),
            ("sqlite://users.db", "users.db"),
            ("sqlite:/var/users.db", "/var/users.db"),
            ("sqlite:///var/users.db", "/var/users.db"),
        ] {
            assert_eq!(Target::parse(url), Ok(Target::Sqlite(path.into())), "{url}");
        }
    }

    #[test]
    fn the_case_of_a_scheme_and_an_at_sign_in_a_parameter_have_no_meaning() {
        assert_eq!(
            Target::parse("SQLite:Users.db"),
            Ok(Target::Sqlite("Users.db".into()))
        );
        for url in [
            "Postgres://user:secret@host/database",
            "POSTGRESQL://user:secret@host/database?application_name=a@b",
            "postgres://host/database?application_name=a@b",
            "postgres://user@server:secret@host/database?user=user@server",
            "postgres://user:a,b@host/database?options=endpoint%3Dx",
        ] {
            assert!(
                matches!(Target::parse(url), Ok(Target::Postgres(_))),
                "{url}"
            );
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_secrets() {
        for url in [
            "SQLITE:",
            "postgres:",
            "postgres://user:marker@host:port/database",
            "postgres://user:marker@/database?sslpassword=marker",
            "postgres://user:?marker@host/database",
            "postgres://user:12?marker@host/database",
            "postgres://user:/marker@host/database",
            "postgres://user:#marker@host/database",
            "postgres://host/database?Marker7=x&marker7=x",
            "sqlite:",
            "sqlite://",
            "sqlite:users.db?key=marker",
            "postgres://user:marker@one,two/database",
            "postgres://user:marker@one:1,two:2/database",
            "postgres://user:marker@/database?host=one,two",
            "postgres://host/database#marker",
            "no url marker",
            "",
        ] {
            let refused = Target::parse(url).unwrap_err();
            assert!(
                matches!(refused, OpenError::InvalidUrl { .. }),
                "{url}: {refused}"
            );
            assert!(!format!("{refused:?}{refused}").contains("marker"), "{url}");
        }
    }
}
