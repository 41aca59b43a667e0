//! Pekko under load: the command that starts what the benchmark talks to. Its protocol is told in `bench/README.md`.

use std::ffi::OsString;

use crate::maven::{self, BuildError, NotResolved};
use crate::peer::java_program;
use crate::profile::Profile;

const MAIN: &str = "com.example.interop.load.LoadPeerKt";

/// How Java is set up: as it is by default on a server, but for these.
const OPTIONS: [&str; 4] = [
    // The collector that takes the least from the work; pauses are short with states of 250 bytes.
    "-XX:+UseParallelGC",
    "-Dfile.encoding=UTF-8",
    "-Duser.timezone=UTC",
    // Where the database is behind, each refused write would be a stack trace; they are counted instead.
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=off",
];

/// Why Pekko cannot be put under load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The application cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The plugin is in no repository within reach.
    #[error(transparent)]
    NotResolved(#[from] NotResolved),
}

/// The program that measures Pekko in these versions, and its arguments. Builds it where its sources have changed, which
/// takes up to a minute, more where Maven has to fetch everything first.
///
/// # Errors
/// Where Maven is missing or fails, or does not find the plugin.
pub fn load_command(profile: Profile) -> Result<Vec<OsString>, LoadError> {
    let classpath = maven::build(profile)?.live?;
    let mut command = vec![java_program().into_os_string()];
    command.extend(OPTIONS.map(OsString::from));
    command.extend(["-classpath".into(), classpath, MAIN.into()]);
    Ok(command)
}
