//! A Java virtual machine that is asked line by line.
//!
//! Requests are sent as they come and answered as they are ready, so many can be under way. The machine ends with its
//! standard input, which closes with this process however that ends; dropping a [`Peer`] ends it at once.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::maven::Built;

/// Where what a machine prints is kept.
const LOGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers");

/// Requests that may wait to be written; behind them callers wait.
const REQUESTS_WAITING_MAX: usize = 64;

/// More than any request takes; a test fails instead of hanging.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(3);

/// How much of what a machine printed an error shows.
const LOG_LINES_SHOWN: usize = 12;

/// Which class stands for a stored state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateClass {
    /// Version 1, as an application has it that never changed its class.
    One,
    /// Version 1 with a migration that lets it read version 2, as during a rolling upgrade.
    OneForward,
    /// Version 2, with a migration from version 1.
    Two,
}

/// How a machine is started.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// The class of states.
    pub class: StateClass,
    /// The zone its clock runs in (`user.timezone`).
    pub zone: String,
}

impl Default for PeerOptions {
    /// Version 1, UTC.
    fn default() -> Self {
        Self {
            class: StateClass::One,
            zone: "UTC".to_owned(),
        }
    }
}

/// A running machine.
pub struct Peer {
    requests: mpsc::Sender<Vec<u8>>,
    pending: Arc<Pending>,
    next_id: AtomicU64,
    process: Mutex<Child>,
    log: PathBuf,
}

/// A request that was not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// There is no Java.
    #[error(
        "`java` is not there: install a JDK of 17 or later (on Debian: apt-get install \
         openjdk-17-jdk-headless), or set JAVA_HOME"
    )]
    NoJava,
    /// The machine could not be started.
    #[error("the Java virtual machine could not be started: {0}")]
    Start(#[from] io::Error),
    /// Pekko, or the application, refused.
    #[error("Pekko refused `{command}`: {refusal}")]
    Refused {
        /// What was asked for.
        command: String,
        /// With which exception.
        refusal: Refusal,
    },
    /// The answer is not of the form that the caller expects.
    #[error("the answer to `{command}` is not what was expected: {problem}")]
    Answer {
        /// What was asked for.
        command: String,
        /// What is wrong.
        problem: serde_json::Error,
    },
    /// The machine ended.
    #[error("the Java virtual machine ended before it answered `{command}`; {log}")]
    Ended {
        /// What was asked for.
        command: String,
        /// The end of what it printed.
        log: String,
    },
    /// The machine did not answer.
    #[error("no answer to `{command}` in {ANSWER_TIMEOUT:?}; {log}")]
    Late {
        /// What was asked for.
        command: String,
        /// The end of what it printed.
        log: String,
    },
}

impl PeerError {
    /// The exception, where Pekko or the application refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// An exception.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// Its class.
    #[serde(rename = "type")]
    pub class: String,
    /// Its message, or nothing.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.class, self.message)
    }
}

#[derive(Serialize)]
struct Request<'a, A> {
    id: u64,
    command: &'a str,
    #[serde(flatten)]
    arguments: A,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default, rename = "answer")]
    value: Value,
    error: Option<Refusal>,
}

impl Peer {
    /// Starts a machine that serializes.
    ///
    /// # Errors
    /// Where there is no Java, or it cannot be started.
    pub fn serialization(built: &Built, options: &PeerOptions) -> Result<Self, PeerError> {
        Self::start(
            built,
            &built.serialization,
            "com.example.interop.PeerKt",
            options,
        )
    }

    /// Starts a machine that also keeps states in databases; its class path is `live` of what was built.
    ///
    /// # Errors
    /// Where there is no Java, or it cannot be started.
    pub fn live(built: &Built, live: &OsStr, options: &PeerOptions) -> Result<Self, PeerError> {
        Self::start(built, live, "com.example.interop.live.LivePeerKt", options)
    }

    fn start(
        built: &Built,
        classpath: &OsStr,
        main: &str,
        options: &PeerOptions,
    ) -> Result<Self, PeerError> {
        let (log, stderr) = new_log()?;
        let mut process = java(built, classpath, main, options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => PeerError::NoJava,
                _ => PeerError::Start(error),
            })?;
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let stdout = process.stdout.take().ok_or_else(missing)?;
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        let pending = Arc::new(Pending::default());
        thread::spawn(move || write_requests(waiting, stdin));
        let answered = Arc::clone(&pending);
        thread::spawn(move || read_answers(stdout, &answered));
        Ok(Self {
            requests,
            pending,
            next_id: AtomicU64::new(1),
            process: Mutex::new(process),
            log,
        })
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// [`PeerError::Refused`] with the exception, where Pekko or the application throws one.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer; what was asked for may be done.
    pub async fn call<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: impl Serialize,
    ) -> Result<T, PeerError> {
        let name = || command.to_owned();
        let unreadable = |problem| PeerError::Answer {
            command: name(),
            problem,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Request {
            id,
            command,
            arguments,
        };
        let line = serde_json::to_vec(&request).map_err(unreadable)?;
        let answer = self.pending.expect(id);
        let exchange = async {
            self.requests.send(line).await.ok()?;
            answer.await.ok()
        };
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                return Err(PeerError::Ended {
                    command: name(),
                    log: self.said(),
                });
            }
            Err(_) => {
                return Err(PeerError::Late {
                    command: name(),
                    log: self.said(),
                });
            }
        };
        match answer.error {
            Some(refusal) => Err(PeerError::Refused {
                command: name(),
                refusal,
            }),
            None => serde_json::from_value(answer.value).map_err(unreadable),
        }
    }

    /// Ends the machine at once, as `kill -9` does. Requests under way get [`PeerError::Ended`].
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // A machine that has ended already is what was asked for.
        drop(process.kill());
        drop(process.wait());
    }

    /// The end of what the machine printed, and where all of it is.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let (_, last) = lines.split_at(lines.len().saturating_sub(LOG_LINES_SHOWN));
        format!("it printed to {}:\n{}", self.log.display(), last.join("\n"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
        // A log that says nothing is of no use, and there would be many.
        if fs::metadata(&self.log).is_ok_and(|log| log.len() == 0) {
            drop(fs::remove_file(&self.log));
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Peer")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

/// Requests without an answer, by id.
#[derive(Default)]
struct Pending {
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    open: HashMap<u64, oneshot::Sender<Answer>>,
    /// No answer can come any more.
    ended: bool,
}

impl Pending {
    fn expect(&self, id: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        let mut answers = self.answers();
        if !answers.ended {
            answers.open.insert(id, sender);
        }
        receiver
    }

    fn answered(&self, answer: Answer) {
        if let Some(sender) = self.answers().open.remove(&answer.id) {
            // Nobody waits where the caller was dropped.
            drop(sender.send(answer));
        }
    }

    fn ended(&self) {
        let mut answers = self.answers();
        answers.ended = true;
        answers.open.clear();
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_requests(mut waiting: mpsc::Receiver<Vec<u8>>, mut stdin: ChildStdin) {
    while let Some(mut line) = waiting.blocking_recv() {
        line.push(b'\n');
        if stdin.write_all(&line).is_err() {
            break;
        }
    }
}

fn read_answers(stdout: ChildStdout, pending: &Pending) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(answer) => pending.answered(answer),
            Err(error) => {
                eprintln!("a line of the Java virtual machine is no answer: {error}");
                break;
            }
        }
    }
    pending.ended();
}

/// Java, of `JAVA_HOME` where that is set and not empty.
pub(crate) fn java_program() -> PathBuf {
    let home = std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    home.map_or_else(
        || PathBuf::from("java"),
        |home| Path::new(&home).join("bin/java"),
    )
}

fn java(built: &Built, classpath: &OsStr, main: &str, options: &PeerOptions) -> Command {
    let mut java = Command::new(java_program());
    // Small and quick to start: several run beside each other and beside a database.
    java.args([
        "-Xmx768m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
    ]);
    java.args([
        "-Dfile.encoding=UTF-8",
        &format!("-Duser.timezone={}", options.zone),
    ]);
    let mut path = OsString::new();
    match options.class {
        StateClass::One => {}
        StateClass::OneForward => {
            java.arg("-Dinterop.migration=com.example.persistdurable.model.ForwardMigration");
        }
        StateClass::Two => {
            java.arg("-Dinterop.migration=com.example.persistdurable.model.VersionTwoMigration");
            path.push(&built.model_two);
            path.push(":");
        }
    }
    path.push(classpath);
    java.arg("-classpath").arg(path).arg(main);
    java
}

/// A file of its own for what a machine prints.
fn new_log() -> io::Result<(PathBuf, File)> {
    static STARTED: AtomicU64 = AtomicU64::new(1);
    fs::create_dir_all(LOGS)?;
    let name = format!(
        "{}-{}.log",
        std::process::id(),
        STARTED.fetch_add(1, Ordering::Relaxed)
    );
    let log = Path::new(LOGS).join(name);
    let file = File::create(&log)?;
    Ok((log, file))
}
