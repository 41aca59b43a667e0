//! Why there is no PostgreSQL for a test, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::way::Way;

/// No throw-away PostgreSQL could be provided.
///
/// Each message says what to do. None holds a password or a URL. Cloning is cheap: the tests of one process share
/// the outcome of one attempt.
///
/// ```
/// use throwaway_postgres::{ProvisionError, Way};
///
/// let error = "podman".parse::<Way>().unwrap_err();
/// assert!(matches!(error, ProvisionError::UnknownWay { .. }));
/// assert!(error.to_string().contains("use database-url, local, docker or fetch"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// `USER_STATE_TEST_POSTGRES` names no way.
    #[error(
        "USER_STATE_TEST_POSTGRES is {value:?}; use database-url, local, docker or fetch, or unset it"
    )]
    UnknownWay {
        /// Its value.
        value: Box<str>,
    },
    /// `DATABASE_URL` cannot be used for tests.
    #[error("DATABASE_URL cannot be used: {problem}")]
    DatabaseUrl {
        /// Why, and what to do.
        problem: &'static str,
    },
    /// `DATABASE_URL` names a server on another machine, and nothing says that this is meant.
    #[error(
        "DATABASE_URL is not on the loopback interface; set USER_STATE_TEST_ALLOW_REMOTE=1 if tests may create and drop databases there"
    )]
    Remote,
    /// The machine has none of the ways that were allowed.
    #[error(
        "no PostgreSQL for the tests: install PostgreSQL's server programs (version 14 or newer), start Docker, set DATABASE_URL, or allow https to repo1.maven.org; tried {0}"
    )]
    NoWay(Attempts),
    /// The process is root, PostgreSQL refuses that, and there is no other user to run it.
    #[error(
        "PostgreSQL does not run as root: create a user named postgres, or run the tests as another user"
    )]
    NoAccount,
    /// A directory or file could not be used.
    #[error("{} cannot be used ({kind}); {advice}", path.display())]
    File {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system says.
        kind: io::ErrorKind,
        /// What to do.
        advice: &'static str,
    },
    /// A program could not be run.
    #[error("{} cannot be run ({kind})", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// What the operating system says.
        kind: io::ErrorKind,
    },
    /// No port of the loopback interface is free.
    #[error("no free port on 127.0.0.1 between 10240 and 32767; end some servers")]
    NoPort,
    /// A server of our own did not come up.
    #[error("PostgreSQL in {} did not {stage}; see its log, or choose another way by USER_STATE_TEST_POSTGRES: {log}", bin.display())]
    Server {
        /// The directory of the server programs.
        bin: PathBuf,
        /// How far it got: `initialise`, `start`, `stop`, `freeze` or `go on`.
        stage: &'static str,
        /// The end of its log.
        log: Box<str>,
    },
    /// The Docker engine did not bring up the server.
    #[error(
        "docker compose did not bring up PostgreSQL; mend it, or choose another way by USER_STATE_TEST_POSTGRES: {log}"
    )]
    Docker {
        /// The end of what it said.
        log: Box<str>,
    },
    /// There is no directory to keep fetched programs in.
    #[error("no cache directory: set USER_STATE_TEST_CACHE or HOME")]
    NoCache,
    /// Somebody else could have put something into a directory of programs.
    #[error("{} is writable by others or belongs to another user; remove it, or set USER_STATE_TEST_CACHE", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
    },
    /// What was fetched is not the archive that was pinned. Nothing of it was unpacked.
    #[error(
        "the fetched archive has SHA-256 {found}, not {expected}; do not use this network or registry"
    )]
    Checksum {
        /// The pinned hash.
        expected: Box<str>,
        /// The hash of what came.
        found: Box<str>,
    },
    /// The fetched archive could not be unpacked.
    #[error(
        "the fetched archive could not be unpacked ({reason}); see that the cache has 100 MB left"
    )]
    Unpack {
        /// Why.
        reason: Box<str>,
    },
    /// A test database could not be created or dropped.
    #[error(
        "the test database could not be {operation} ({reason}); see that the server is up and the role has CREATEDB"
    )]
    Database {
        /// `created` or `dropped`.
        operation: &'static str,
        /// The SQLSTATE, or what went wrong on the way to the server.
        reason: Box<str>,
    },
    /// The asynchronous runtime of the caller is shutting down.
    #[error("the runtime is shutting down; ask for a database earlier")]
    ShuttingDown,
}

impl ProvisionError {
    pub(crate) fn file(path: &Path, error: &io::Error, advice: &'static str) -> Self {
        Self::File {
            path: path.to_owned(),
            kind: error.kind(),
            advice,
        }
    }
}

/// The ways that were tried, and why each did not serve.
///
/// ```
/// use throwaway_postgres::ProvisionError;
///
/// fn explain(error: &ProvisionError) {
///     if let ProvisionError::NoWay(attempts) = error {
///         eprintln!("tried {attempts}");
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attempts(Vec<(Way, Box<str>)>);

impl Attempts {
    pub(crate) fn add(&mut self, way: Way, reason: impl Into<Box<str>>) {
        self.0.push((way, reason.into()));
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (way, reason)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(formatter, "{separator}{way}: {reason}")?;
        }
        Ok(())
    }
}
