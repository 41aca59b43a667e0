//! A server in a container, from the project's `docker-compose.yml`, for machines with a running Docker engine.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::error::ProvisionError;
use crate::port::free_port;
use crate::supervisor::Supervisor;

const SCRIPT: &str = include_str!("docker.sh");
const COMPOSE_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker-compose.yml");
/// What the compose file calls its parameters and its database.
const PORT_VARIABLE: &str = "USER_STATE_POSTGRES_PORT";
const PASSWORD_VARIABLE: &str = "USER_STATE_POSTGRES_PASSWORD";
const DATABASE: &str = "user_state";

/// A running container. It is removed, volume and all, when the process ends. `Debug` hides the password.
#[derive(Clone)]
pub(crate) struct DockerServer {
    port: u16,
    password: String,
    /// Only held: the container goes when this does.
    _supervisor: Arc<Mutex<Supervisor>>,
}

impl DockerServer {
    /// A new server; the inner error is why the machine cannot run one. Blocks.
    pub(crate) fn start() -> Result<Result<Self, Box<str>>, ProvisionError> {
        if !Path::new(COMPOSE_FILE).is_file() {
            return Ok(Err("the project's docker-compose.yml is not there".into()));
        }
        if let Err(reason) = ask_engine() {
            return Ok(Err(reason));
        }
        let (port, password) = (free_port()?, Uuid::new_v4().simple().to_string());
        let project = format!("user-state-test-{}", Uuid::new_v4().simple());
        let mut command = command(&project, port, &password);
        let mut supervisor = Supervisor::start(&mut command, Stdio::null()).map_err(|error| {
            ProvisionError::Program {
                program: "/bin/sh".into(),
                kind: error.kind(),
            }
        })?;
        match supervisor.order("up") {
            Ok(answer) if answer == "done" => Ok(Ok(Self {
                port,
                password,
                _supervisor: Arc::new(Mutex::new(supervisor)),
            })),
            Ok(log) => Err(ProvisionError::Docker { log: log.into() }),
            Err(error) => Err(ProvisionError::Docker {
                log: error.kind().to_string().into(),
            }),
        }
    }

    /// The URL of the database that the container comes with, password included.
    pub(crate) fn url(&self) -> String {
        let Self { port, password, .. } = self;
        format!("postgres://postgres:{password}@127.0.0.1:{port}/{DATABASE}")
    }
}

impl fmt::Debug for DockerServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DockerServer")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Asks the engine, since an installed client says nothing about it, and for compose, which is an extension.
fn ask_engine() -> Result<(), Box<str>> {
    let succeeds = |arguments: &[&str]| {
        Command::new("docker")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !succeeds(&["info"]) {
        return Err("no Docker engine answers".into());
    }
    if !succeeds(&["compose", "version"]) {
        return Err("docker has no compose".into());
    }
    Ok(())
}

/// The command that looks after the container of `project`. Docker's client needs our environment.
fn command(project: &str, port: u16, password: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT, "docker", project])
        .arg(OsStr::new(COMPOSE_FILE))
        .env(PORT_VARIABLE, port.to_string())
        .env(PASSWORD_VARIABLE, password);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compose_file_has_the_parameters_that_are_passed() -> std::io::Result<()> {
        let file = std::fs::read_to_string(COMPOSE_FILE)?;
        let command = command("project", 10_240, "marker");
        let passed: Vec<_> = command
            .get_envs()
            .filter_map(|(name, _)| name.to_str())
            .collect();
        assert_eq!(passed.len(), 2);
        for name in passed {
            assert!(file.contains(&format!("${{{name}:-")), "{name}");
        }
        assert!(file.contains(&format!("POSTGRES_DB: {DATABASE}\n")));
        assert!(
            file.contains("\"127.0.0.1:${"),
            "published on the loopback interface only"
        );
        Ok(())
    }

    #[test]
    fn the_password_is_no_argument_that_a_process_list_shows() {
        let command = command("project", 10_240, "marker");
        assert!(command.get_args().all(|argument| argument != "marker"));
        assert!(
            command
                .get_envs()
                .any(|(_, value)| value == Some(OsStr::new("marker")))
        );
    }
}
