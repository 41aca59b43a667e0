//! Which versions of Pekko are tested against.

use std::fmt;

/// A set of released versions that an application may run today. `pekko/pom.xml` has the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The first plugin with the present configuration, and the last Pekko of its line.
    Pekko11,
    /// The newest of everything before 2.0.
    PekkoNewest,
}

impl Profile {
    /// All profiles, oldest first.
    pub const ALL: [Self; 2] = [Self::Pekko11, Self::PekkoNewest];

    /// The name of the Maven profile, which begins the name of each of its cases.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pekko11 => "pekko-1.1",
            Self::PekkoNewest => "pekko-newest",
        }
    }

    /// The version of Pekko itself.
    pub const fn pekko_version(self) -> &'static str {
        match self {
            Self::Pekko11 => "1.1.5",
            Self::PekkoNewest => "1.7.0",
        }
    }

    /// The version of `pekko-persistence-r2dbc`.
    pub const fn plugin_version(self) -> &'static str {
        match self {
            Self::Pekko11 => "1.1.0",
            Self::PekkoNewest => "1.2.0",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
