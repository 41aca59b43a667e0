//! Measuring in a process of its own: one JSON object a line, questions on its standard input, answers on its
//! standard output.
//!
//! The benchmark asks itself so where a process has to be weighed or started, and a JVM where Pekko is measured. The README
//! says what the objects hold.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::case::{Case, Embedded, Kind};
use crate::exit::Failure;
use crate::load::{Measured, Timing};

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) work: Task,
    pub(crate) contender: String,
    /// The database, password included; empty where none is used.
    pub(crate) url: String,
    pub(crate) callers: usize,
    pub(crate) users: usize,
    pub(crate) population: usize,
    /// The percentage of requests that are reads, or for `latency` of the rate that can be reached.
    pub(crate) percent: u32,
    /// For `read-rate`, how many reads begin each second; 0 otherwise.
    pub(crate) rate: u32,
    pub(crate) warm_up_seconds: f64,
    pub(crate) seconds: f64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Task {
    Write,
    Mix,
    Read,
    Recover,
    Passivate,
    Memory,
    Latency,
    ReadRate,
    StartUp,
    Feed,
}

/// An answer: figures, or why there are none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    NotRun { not_run: String },
    Measured(Measured),
}

/// A process that answers. It ends with this value.
pub(crate) struct Peer {
    _child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Request {
    pub(crate) fn of(case: &Case, contender: &str, url: &str, timing: Timing) -> Self {
        let (work, percent) = match case.kind {
            Kind::Write | Kind::Held { .. } | Kind::Sqlite(Embedded::Write | Embedded::Create) => {
                (Task::Write, 0)
            }
            Kind::Mix => (Task::Mix, 75),
            Kind::Read => (Task::Read, 100),
            Kind::Recover | Kind::Sqlite(Embedded::Recover) => (Task::Recover, 100),
            Kind::Passivate => (Task::Passivate, 0),
            Kind::Memory => (Task::Memory, 0),
            Kind::Latency { percent } => (Task::Latency, percent),
            Kind::ReadRate { .. } => (Task::ReadRate, 100),
            Kind::StartUp => (Task::StartUp, 0),
            Kind::Feed => (Task::Feed, 0),
        };
        let rate = match case.kind {
            Kind::ReadRate { per_second } => per_second,
            _ => 0,
        };
        Self {
            work,
            contender: contender.to_owned(),
            url: url.to_owned(),
            callers: case.callers,
            users: case.users,
            population: case.population,
            percent,
            rate,
            warm_up_seconds: timing.warm_up.as_secs_f64(),
            seconds: timing.measured.as_secs_f64(),
        }
    }
}

impl Peer {
    /// This program, as a peer of itself.
    pub(crate) fn of_this_program() -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::unavailable(&error))?;
        Self::start(Command::new(program).arg("--peer"))
    }

    /// Starts a process. What it writes to standard error is shown.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Failure> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::unavailable(&error))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for");
        };
        Ok(Self {
            _child: child,
            questions,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(
        &mut self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Measured, Failure> {
        let line = serde_json::to_string(request)
            .map_err(|error| Failure::new(1, error.to_string()))?
            + "\n";
        let asking = async {
            self.questions.write_all(line.as_bytes()).await?;
            self.questions.flush().await?;
            self.answers.next_line().await
        };
        let answer = tokio::time::timeout(timeout, asking)
            .await
            .map_err(|_| Failure::new(1, "the process did not answer in time"))?
            .map_err(|error| Failure::unavailable(&error))?
            .ok_or_else(|| Failure::new(1, "the process ended without an answer"))?;
        match serde_json::from_str(&answer) {
            Ok(Answer::Measured(measured)) => Ok(measured),
            Ok(Answer::NotRun { not_run }) => Err(Failure::new(1, not_run)),
            Err(error) => Err(Failure::new(
                1,
                format!("the answer is not understood: {error}"),
            )),
        }
    }
}

/// Answers what is asked on standard input until it ends.
pub(crate) async fn answer_all() -> Result<(), Failure> {
    while let Some(line) = question().await? {
        let request: Request = serde_json::from_str(&line)
            .map_err(|error| Failure::usage(format!("the question is not understood: {error}")))?;
        let answer = match Box::pin(crate::contender::answer(&request)).await {
            Ok(measured) => Answer::Measured(measured),
            Err(failure) => Answer::NotRun {
                not_run: failure.to_string(),
            },
        };
        let line =
            serde_json::to_string(&answer).map_err(|error| Failure::new(1, error.to_string()))?;
        writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::unavailable(&error))?;
    }
    Ok(())
}

/// The next line of standard input, read where it may block.
async fn question() -> Result<Option<String>, Failure> {
    let reading = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().transpose());
    let line = reading
        .await
        .map_err(|error| Failure::new(1, error.to_string()))?;
    line.map_err(|error| Failure::unavailable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let case = crate::case::all().remove(0);
        Request::of(&case, "pekko", "", Timing::of(Duration::from_secs(1)))
    }

    /// A shell that reads a line and says something.
    async fn asked(says: &str) -> Result<Measured, Failure> {
        let script = format!("read line; echo '{says}'");
        let mut peer = Peer::start(Command::new("sh").args(["-c", &script]))?;
        peer.ask(&request(), Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn figures_are_read_and_those_missing_are_unknown() {
        let measured = asked(r#"{"per_second":1800,"p50_us":28000}"#)
            .await
            .unwrap();
        assert_eq!(measured.per_second, Some(1_800.0));
        assert_eq!(measured.p50_us, Some(28_000.0));
        assert_eq!((measured.p99_us, measured.errors), (None, 0));
    }

    #[tokio::test]
    async fn a_reason_is_told_and_so_is_a_process_that_ends_or_talks_nonsense() {
        for (says, told) in [
            (r#"{"not_run":"the plugin does not resolve"}"#, "plugin"),
            ("Hello", "not understood"),
        ] {
            let failure = asked(says).await.unwrap_err();
            assert!(failure.to_string().contains(told), "{failure:?}");
        }
        let mut peer = Peer::start(Command::new("sh").args(["-c", "read line"])).unwrap();
        let failure = peer
            .ask(&request(), Duration::from_secs(10))
            .await
            .unwrap_err();
        assert!(failure.to_string().contains("ended"), "{failure:?}");
    }

    #[test]
    fn a_question_is_one_line_of_json_and_comes_back_the_same() {
        let line = serde_json::to_string(&request()).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request());
        assert!(line.contains(r#""work":"write""#), "{line}");
    }
}
