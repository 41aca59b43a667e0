//! `pekko`, `pekko-tuned`: Apache Pekko with its R2DBC plugin, in a JVM of its own, with its default settings and
//! with its best.
//!
//! A program does the work; the README says how it is spoken to. It is that of the interoperability tests, built by Maven,
//! unless another is named. It is started once and kept, since a JVM gets faster while it runs.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use user_state_interop::{Profile, load_command};

use crate::case::{Case, Kind};
use crate::contender::{Contender, World, database_of};
use crate::exit::Failure;
use crate::load::Measured;
use crate::peer::{Peer, Request};
use crate::population::Tables;

/// How long it may take to answer: a JVM starts, and 100,000 users come to life at some thousands a second.
const TIMEOUT: Duration = Duration::from_mins(10);

/// The most users that come to life in that time on any machine.
const USERS_MAX: usize = 100_000;

/// The program that measures Pekko, which both contenders share.
#[derive(Debug)]
pub(crate) struct Program {
    source: Source,
    /// The program and its arguments, or why there is none; unset until it is prepared.
    command: OnceCell<Result<Vec<OsString>, String>>,
}

/// Where the program comes from.
#[derive(Debug)]
enum Source {
    /// Somebody named it, with its arguments.
    Named(String),
    /// That of the interoperability tests, with these versions.
    Built(Profile),
}

impl Program {
    /// One with its arguments, with spaces between.
    pub(crate) fn named(command: &str) -> Self {
        Self::of(Source::Named(command.to_owned()))
    }

    /// That of the interoperability tests, with these versions.
    pub(crate) fn built(profile: Profile) -> Self {
        Self::of(Source::Built(profile))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            command: OnceCell::new(),
        }
    }

    async fn command(&self) -> &Result<Vec<OsString>, String> {
        let find = async || match &self.source {
            Source::Named(command) => named(command),
            Source::Built(profile) => build(*profile).await,
        };
        self.command.get_or_init(find).await
    }

    async fn start(&self) -> Result<Peer, Failure> {
        let command = self.command().await.as_ref();
        let words = command.map_err(|reason| Failure::usage(reason.as_str()))?;
        match words.split_first() {
            Some((program, arguments)) => Peer::start(Command::new(program).args(arguments)),
            None => Err(Failure::usage("the command for Pekko is empty")),
        }
    }

    /// Why it does not do this work; `None` where it does.
    fn not_run(&self, case: &Case) -> Option<String> {
        if let Some(Err(reason)) = self.command.get() {
            return Some(reason.clone());
        }
        if matches!(self.source, Source::Named(_)) {
            return None;
        }
        match case.kind {
            Kind::Memory | Kind::Passivate => Some(
                "a million actors are a million reads of a database; this work has none".to_owned(),
            ),
            Kind::Feed => {
                Some("its queries are not part of the program that is measured".to_owned())
            }
            _ if case.population > USERS_MAX => Some(
                "so many users take longer to come to life than the rest of the run".to_owned(),
            ),
            _ => None,
        }
    }
}

fn named(command: &str) -> Result<Vec<OsString>, String> {
    let words: Vec<_> = command
        .split_ascii_whitespace()
        .map(OsString::from)
        .collect();
    if words.is_empty() {
        return Err("the command for Pekko is empty".to_owned());
    }
    Ok(words)
}

/// Lets Maven build it. The reason of a failure is one line; all that Maven said is shown.
async fn build(profile: Profile) -> Result<Vec<OsString>, String> {
    let built = tokio::task::spawn_blocking(move || load_command(profile)).await;
    let built = built.map_err(|error| error.to_string())?;
    built.map_err(|error| {
        let reason = error.to_string();
        eprintln!("Pekko is not measured: {reason}");
        reason.lines().next().unwrap_or_default().to_owned()
    })
}

/// Pekko, with one of its two configurations.
pub(crate) struct Pekko {
    name: &'static str,
    program: Arc<Program>,
    peer: Option<Peer>,
    is_left_out: bool,
}

/// Why a quick run has one configuration only.
const LEFT_OUT: &str = "a quick run has no time for it; name it with --contenders";

impl Pekko {
    pub(crate) fn with_defaults(program: &Arc<Program>) -> Self {
        Self::new("pekko", program)
    }

    pub(crate) fn at_its_best(program: &Arc<Program>) -> Self {
        Self::new("pekko-tuned", program)
    }

    fn new(name: &'static str, program: &Arc<Program>) -> Self {
        Self {
            name,
            program: Arc::clone(program),
            peer: None,
            is_left_out: false,
        }
    }

    /// Measures nothing, and says so.
    pub(crate) fn leave_out(&mut self) {
        self.is_left_out = true;
    }

    async fn peer(&mut self) -> Result<&mut Peer, Failure> {
        let peer = match self.peer.take() {
            Some(peer) => peer,
            None => self.program.start().await?,
        };
        Ok(self.peer.insert(peer))
    }
}

#[async_trait]
impl Contender for Pekko {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn prepare(&mut self) {
        self.program.command().await;
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        if self.is_left_out {
            return Some(LEFT_OUT.to_owned());
        }
        self.program.not_run(case)
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let wanted = database_of(self.name, Tables::DurableState, case);
        let url = world.databases.settled(&wanted).await?;
        let request = Request::of(case, self.name, &url, world.timing);
        if case.kind == Kind::StartUp {
            self.peer = None;
        }
        let started = Instant::now();
        let mut answer = self.peer().await?.ask(&request, TIMEOUT).await;
        if let (Kind::StartUp, Ok(measured)) = (case.kind, &mut answer) {
            measured.p50_us = Some(started.elapsed().as_secs_f64() * 1e6);
        }
        if answer.is_err() {
            // What it was about to say is not the answer to the next question.
            self.peer = None;
        }
        answer
    }

    async fn rest(&mut self) {
        self.peer = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(kind: Kind) -> Case {
        let mut cases = crate::case::all().into_iter();
        cases.find(|case| case.kind == kind).unwrap()
    }

    #[tokio::test]
    async fn an_empty_command_is_a_reason_that_both_contenders_tell_for_every_work() {
        let program = Arc::new(Program::named(" "));
        let mut defaults = Pekko::with_defaults(&program);
        defaults.prepare().await;
        for contender in [defaults, Pekko::at_its_best(&program)] {
            let reason = contender.not_run(&case(Kind::Write)).unwrap();
            assert!(reason.contains("empty"), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_named_is_asked_for_every_work_with_its_arguments() {
        let program = Arc::new(Program::named("java  -jar load.jar"));
        let mut pekko = Pekko::with_defaults(&program);
        pekko.prepare().await;
        assert_eq!(pekko.not_run(&case(Kind::Memory)), None);
        let words = program.command().await.as_ref().unwrap();
        assert_eq!(words, &["java", "-jar", "load.jar"]);
    }

    #[test]
    fn one_that_is_left_out_says_how_it_is_measured() {
        let program = Arc::new(Program::built(Profile::PekkoNewest));
        let mut pekko = Pekko::with_defaults(&program);
        assert_eq!(pekko.not_run(&case(Kind::Write)), None);
        pekko.leave_out();
        let reason = pekko.not_run(&case(Kind::Write)).unwrap();
        assert!(reason.contains("--contenders"), "{reason}");
    }

    #[test]
    fn the_program_that_is_built_says_which_works_it_does_not_do() {
        let pekko = Pekko::with_defaults(&Arc::new(Program::built(Profile::PekkoNewest)));
        assert_eq!(pekko.not_run(&case(Kind::Recover)), None);
        for kind in [Kind::Memory, Kind::Passivate] {
            assert!(pekko.not_run(&case(kind)).is_some());
        }
    }
}
