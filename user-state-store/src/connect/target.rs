//! What a store URL points at, kept so that its secrets cannot be shown.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::open_error::OpenError;

/// The query parameters a PostgreSQL URL may have: those of libpq that mean the same here.
///
/// Others are refused by name. To pass an unknown one on would put its value into a driver's warning.
const POSTGRES_PARAMETERS: [&str; 11] = [
    "application_name",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Where the rows are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A PostgreSQL server. The URL holds the password.
    Postgres(Url),
    /// A SQLite file.
    Sqlite(PathBuf),
}

impl Target {
    /// The target of a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(invalid("a path must follow sqlite:"));
            }
            if path.contains('?') {
                return Err(invalid("sqlite: takes no parameters"));
            }
            return Ok(Self::Sqlite(path.into()));
        }
        let url = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(OpenError::UnknownScheme {
                scheme: url.scheme().into(),
            });
        }
        if url.cannot_be_a_base() {
            return Err(invalid("a host must follow postgres://"));
        }
        // A `?`, `#` or `/` in a password that is not encoded ends the authority, and the rest of the secret, with the `@`
        // behind it, would pass for a path or a parameter.
        let behind_authority = [Some(url.path()), url.query(), url.fragment()];
        if behind_authority
            .into_iter()
            .flatten()
            .any(|part| part.contains('@'))
        {
            return Err(invalid(
                "an `@` behind the host; percent-encode the password",
            ));
        }
        for (name, _) in url.query_pairs() {
            if !POSTGRES_PARAMETERS.contains(&&*name) {
                let shown = name
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter == '_');
                return Err(invalid(&if shown {
                    format!("unknown parameter {name:?}")
                } else {
                    "a parameter whose name is not made of lower-case letters".to_owned()
                }));
            }
        }
        Ok(Self::Postgres(url))
    }
}

/// Shows where the rows are, without user, password and parameters.
impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => {
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
    fn a_wrong_url_is_refused_without_its_secrets() {
        for url in [
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
