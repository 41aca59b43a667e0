//! `pekko`, `pekko-tuned`: Apache Pekko with its R2DBC plugin, in a JVM of its own, with its default settings and
//! with its best.
//!
//! A program that somebody names does the work; the README says how it is spoken to. It is started once and kept, since a
//! JVM gets faster while it runs.

use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;
use tokio::time::Instant;

use crate::case::{Case, Kind};
use crate::contender::{Contender, World, database_of};
use crate::exit::Failure;
use crate::load::Measured;
use crate::peer::{Peer, Request};
use crate::population::Tables;

/// How long it may take to answer: a JVM starts, and 100,000 users come to life at some thousands a second.
const TIMEOUT: Duration = Duration::from_mins(10);

/// Pekko, with one of its two configurations.
pub(crate) struct Pekko {
    name: &'static str,
    command: Option<String>,
    peer: Option<Peer>,
}

impl Pekko {
    pub(crate) fn with_defaults(command: Option<&str>) -> Self {
        Self::new("pekko", command)
    }

    pub(crate) fn at_its_best(command: Option<&str>) -> Self {
        Self::new("pekko-tuned", command)
    }

    fn new(name: &'static str, command: Option<&str>) -> Self {
        Self {
            name,
            command: command.map(str::to_owned),
            peer: None,
        }
    }

    fn peer(&mut self) -> Result<&mut Peer, Failure> {
        let peer = match self.peer.take() {
            Some(peer) => peer,
            None => self.start()?,
        };
        Ok(self.peer.insert(peer))
    }

    fn start(&self) -> Result<Peer, Failure> {
        let command = self.command.as_deref().unwrap_or_default();
        let mut words = command.split_ascii_whitespace();
        let program = words.next();
        let program = program.ok_or_else(|| Failure::usage("the command for Pekko is empty"))?;
        Peer::start(Command::new(program).args(words))
    }
}

#[async_trait]
impl Contender for Pekko {
    fn name(&self) -> &'static str {
        self.name
    }

    fn not_run(&self, _: &Case) -> Option<String> {
        match self.command {
            Some(_) => None,
            None => Some("no program that measures Pekko was named with --pekko".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let wanted = database_of(self.name, Tables::DurableState, case);
        let url = world.databases.settled(&wanted).await?;
        let request = Request::of(case, self.name, &url, world.timing);
        if case.kind == Kind::StartUp {
            self.peer = None;
        }
        let started = Instant::now();
        let mut answer = self.peer()?.ask(&request, TIMEOUT).await;
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

    #[test]
    fn without_a_program_it_is_said_plainly_that_pekko_was_not_run() {
        let case = crate::case::all().remove(0);
        let reason = Pekko::with_defaults(None).not_run(&case).unwrap();
        assert!(reason.contains("--pekko"), "{reason}");
        assert_eq!(Pekko::at_its_best(Some("java")).not_run(&case), None);
    }
}
