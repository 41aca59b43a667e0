//! The blocking half of a server: its programs, files and process.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::binaries::Binaries;
use crate::error::ProvisionError;
use crate::fetched;
use crate::port::free_port;
use crate::run_directory::{self, RunDirectory};
use crate::supervisor::Supervisor;
use crate::way::Way;

const SCRIPT: &str = include_str!("postmaster.sh");
/// How long to wait between looks at a starting server, and how often: a minute, for a crash recovery on a busy disk.
const START_POLL: Duration = Duration::from_millis(20);
const START_POLLS_MAX: u32 = 3_000;
/// Ports to try: another process can take one between our look and the server's.
const PORTS_MAX: u32 = 5;
/// Configuration of every server. The first three are PostgreSQL's defaults, held against packages that differ.
const SETTINGS: [(&str, &str); 9] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("listen_addresses", "127.0.0.1"),
    // The path of a socket is limited to some 100 bytes, which a temporary directory can exceed.
    ("unix_socket_directories", ""),
    // Enough for a test binary whose tests run in parallel, each with a few pools.
    ("max_connections", "200"),
    // As files of the data directory, which are removed with it: those in /dev/shm outlive a killed server.
    ("dynamic_shared_memory_type", "mmap"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// A server and who looks after it. Dropping it ends the server and removes its files.
#[derive(Debug)]
pub(crate) struct Postmaster {
    /// Before the directory, so that the server has ended when that is removed.
    supervisor: Supervisor,
    directory: RunDirectory,
    binaries: Binaries,
    /// Stays the same over restarts.
    port: u16,
}

impl Postmaster {
    /// A new, running server; the inner error is why the machine has no server programs by `way`.
    pub(crate) fn launch(
        way: Way,
        settings: &[(String, String)],
        password: &str,
    ) -> Result<Result<Self, Box<str>>, ProvisionError> {
        let (directory, lock) = RunDirectory::create()?;
        let account = directory.account();
        run_directory::remove_abandoned(account);
        let binaries = match way {
            Way::Fetch => fetched::programs(account)?,
            _ => Binaries::installed(account),
        };
        let binaries = match binaries {
            Ok(binaries) => binaries,
            Err(reason) => return Ok(Err(reason)),
        };
        directory.write_secret("password", password)?;
        let mut command = account.command(Path::new("/bin/sh"));
        command
            .args([
                OsStr::new("-c"),
                OsStr::new(SCRIPT),
                OsStr::new("postmaster"),
            ])
            .args([directory.path(), binaries.bin()])
            .args(options(settings));
        let supervisor = Supervisor::start(&mut command, Stdio::from(lock)).map_err(|error| {
            ProvisionError::Program {
                program: "/bin/sh".into(),
                kind: error.kind(),
            }
        })?;
        let mut postmaster = Self {
            supervisor,
            directory,
            binaries,
            port: 0,
        };
        if postmaster.order("initialise", "initialise")? != "done" {
            return Err(postmaster.failed("initialise"));
        }
        postmaster.start_on_free_port()?;
        Ok(Ok(postmaster))
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn process_id(&mut self) -> Result<Option<u32>, ProvisionError> {
        Ok(self.order("process", "answer")?.parse().ok())
    }

    pub(crate) fn kill(&mut self) -> Result<(), ProvisionError> {
        self.order("kill", "stop").map(drop)
    }

    pub(crate) fn stop(&mut self) -> Result<(), ProvisionError> {
        self.order("stop", "stop").map(drop)
    }

    pub(crate) fn freeze(&mut self) -> Result<(), ProvisionError> {
        self.order("freeze", "freeze").map(drop)
    }

    pub(crate) fn thaw(&mut self) -> Result<(), ProvisionError> {
        self.order("thaw", "go on").map(drop)
    }

    /// Starts the server on its port and waits until it accepts connections.
    pub(crate) fn start(&mut self) -> Result<(), ProvisionError> {
        let process_id = self.order(&format!("start {}", self.port), "start")?;
        for _ in 0..START_POLLS_MAX {
            if self.directory.is_ready(&process_id) {
                return Ok(());
            }
            if self.order("process", "start")? != process_id {
                break;
            }
            thread::sleep(START_POLL);
        }
        Err(self.failed("start"))
    }

    fn start_on_free_port(&mut self) -> Result<(), ProvisionError> {
        let mut outcome = Err(self.failed("start"));
        for _ in 0..PORTS_MAX {
            self.port = free_port()?;
            outcome = self.start();
            // With another reason than a port that was taken, another port will not help.
            if outcome.is_ok() || !self.directory.log_end().contains("Address already in use") {
                break;
            }
        }
        outcome
    }

    fn order(&mut self, order: &str, stage: &'static str) -> Result<String, ProvisionError> {
        self.supervisor.order(order).map_err(|_| self.failed(stage))
    }

    fn failed(&self, stage: &'static str) -> ProvisionError {
        ProvisionError::Server {
            bin: self.binaries.bin().to_owned(),
            stage,
            log: self.directory.log_end(),
        }
    }
}

/// Command line options for our settings and then the caller's: of two for one setting the later one holds.
fn options(settings: &[(String, String)]) -> Vec<String> {
    let ours = SETTINGS.iter().map(|(name, value)| (*name, *value));
    let theirs = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    ours.chain(theirs)
        .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_caller_come_last_so_that_they_hold() {
        let options = options(&[("fsync".to_owned(), "off".to_owned())]);
        assert_eq!(options.first().map(String::as_str), Some("-c"));
        let fsync: Vec<_> = options
            .iter()
            .filter(|option| option.starts_with("fsync="))
            .collect();
        assert_eq!(fsync, ["fsync=on", "fsync=off"]);
    }
}
