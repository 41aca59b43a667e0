//! The ways to a PostgreSQL, and which one the environment asks for.

use std::fmt;
use std::str::FromStr;

use crate::error::ProvisionError;

/// Takes one way and no other.
pub(crate) const WAY_VARIABLE: &str = "USER_STATE_TEST_POSTGRES";

/// Where a throw-away PostgreSQL comes from.
///
/// ```
/// use throwaway_postgres::Way;
///
/// assert_eq!("fetch".parse::<Way>()?, Way::Fetch);
/// assert_eq!(Way::DatabaseUrl.to_string(), "database-url");
/// # Ok::<(), throwaway_postgres::ProvisionError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Way {
    /// The server that `DATABASE_URL` names.
    DatabaseUrl,
    /// Server programs installed on this machine.
    Local,
    /// A Docker engine that runs the project's `docker-compose.yml`.
    Docker,
    /// Server programs fetched once from the Java registry.
    Fetch,
}

impl Way {
    /// Every way, in the order in which they are tried.
    pub(crate) const ALL: [Self; 4] = [Self::DatabaseUrl, Self::Local, Self::Docker, Self::Fetch];

    /// The one way the environment asks for, if it does.
    pub(crate) fn forced() -> Result<Option<Self>, ProvisionError> {
        match std::env::var(WAY_VARIABLE) {
            Ok(value) if !value.is_empty() => value.parse().map(Some),
            _ => Ok(None),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::DatabaseUrl => "database-url",
            Self::Local => "local",
            Self::Docker => "docker",
            Self::Fetch => "fetch",
        })
    }
}

impl FromStr for Way {
    type Err = ProvisionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|way| way.to_string() == text)
            .ok_or_else(|| ProvisionError::UnknownWay { value: text.into() })
    }
}
