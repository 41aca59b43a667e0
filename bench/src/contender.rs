//! The contenders, and how each does the work.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::case::{Case, Kind};
use crate::database::Databases;
use crate::exit::Failure;
use crate::files::Files;
use crate::load::callers::{Requests, Users};
use crate::load::{Measured, Timing, Zipf};
use crate::population::Tables;

mod actors;
mod held;
mod idle;
mod live;
mod pekko;
mod postgres_es;
mod raw;
mod raw_sqlite;
mod statements;
mod user_state;

#[cfg(test)]
pub(crate) use idle::Idle;
pub(crate) use live::System;
pub(crate) use pekko::Program;

/// How many of a hundred requests of [`Kind::Mix`] are reads.
const MIX_READS_PERCENT: u8 = 75;

/// One that is measured.
#[async_trait]
pub(crate) trait Contender: Send {
    fn name(&self) -> &'static str;

    /// Does once what takes long before anything can be measured.
    async fn prepare(&mut self) {}

    /// Why it does not do this work; `None` where it does.
    fn not_run(&self, case: &Case) -> Option<String>;

    /// Does the work once. What it needs for that, and keeps for the next time, it opens before it measures.
    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure>;

    /// Lets go of everything it keeps.
    async fn rest(&mut self);
}

/// What contenders share.
pub(crate) struct World {
    pub(crate) timing: Timing,
    pub(crate) databases: Databases,
    pub(crate) files: Files,
    /// How many rows `user-state` wrote in a transaction of a SQLite file, by the work.
    pub(crate) rows_per_transaction: HashMap<&'static str, usize>,
    zipf: Option<(usize, Arc<Zipf>)>,
}

impl World {
    pub(crate) fn new(timing: Timing, databases: Databases) -> Self {
        Self {
            timing,
            databases,
            files: Files::default(),
            rows_per_transaction: HashMap::new(),
            zipf: None,
        }
    }

    /// What callers of a case ask for.
    pub(crate) fn requests(&mut self, case: &Case) -> Requests {
        let reads_percent = match case.kind {
            Kind::Read => 100,
            Kind::Mix => MIX_READS_PERCENT,
            _ => 0,
        };
        let users = match case.kind {
            Kind::Mix => Users::Skewed(self.zipf(case.users)),
            _ => Users::Even(case.users),
        };
        Requests {
            reads_percent,
            users,
        }
    }

    fn zipf(&mut self, users: usize) -> Arc<Zipf> {
        match &self.zipf {
            Some((of, zipf)) if *of == users => Arc::clone(zipf),
            _ => {
                let zipf = Arc::new(Zipf::new(users));
                self.zipf = Some((users, Arc::clone(&zipf)));
                zipf
            }
        }
    }
}

/// Every contender, in the order of the table. A quick run leaves out what takes it too long.
pub(crate) fn all(pekko: &Arc<Program>, quick: bool) -> Vec<Box<dyn Contender>> {
    let mut with_defaults = pekko::Pekko::with_defaults(pekko);
    if quick {
        with_defaults.leave_out();
    }
    vec![
        Box::new(live::Callers::new(user_state::UserStates)),
        Box::new(held::Store::default()),
        Box::new(raw::Batches::default()),
        Box::new(raw::Selects::default()),
        Box::new(raw::Rows::default()),
        Box::new(raw_sqlite::Transactions::default()),
        Box::new(live::Callers::new(actors::Actors)),
        Box::new(live::Callers::new(postgres_es::PostgresEs::EVENTS)),
        Box::new(live::Callers::new(postgres_es::PostgresEs::SNAPSHOTS)),
        Box::new(live::Callers::new(postgres_es::PostgresEs::AGGREGATE)),
        Box::new(with_defaults),
        Box::new(pekko::Pekko::at_its_best(pekko)),
        Box::new(live::Callers::new(idle::Idling)),
    ]
}

/// The systems that measure themselves in a process of their own, by name.
pub(crate) async fn answer(request: &crate::peer::Request) -> Result<Measured, Failure> {
    match request.contender.as_str() {
        "user-state" => user_state::UserStates.answer(request).await,
        "actors" => actors::Actors.answer(request).await,
        name => {
            for system in [
                postgres_es::PostgresEs::EVENTS,
                postgres_es::PostgresEs::SNAPSHOTS,
                postgres_es::PostgresEs::AGGREGATE,
            ] {
                if System::name(&system) == name {
                    return system.answer(request).await;
                }
            }
            Err(Failure::usage(format!("there is no contender {name} here")))
        }
    }
}

/// Where a contender keeps its users in a case.
fn database_of(name: &'static str, tables: Tables, case: &Case) -> crate::database::Wanted {
    crate::database::Wanted {
        contender: name,
        tables,
        users: case.population,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_a_name_of_its_own_and_does_something_or_says_why_not() {
        let contenders = all(&Arc::new(Program::named("java")), false);
        let mut names: Vec<_> = contenders
            .iter()
            .map(|contender| contender.name())
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), contenders.len());
        for case in crate::case::all() {
            for contender in &contenders {
                let reason = contender.not_run(&case);
                assert!(
                    reason.as_deref() != Some(""),
                    "{} {}",
                    contender.name(),
                    case.work
                );
            }
            let runs = |name: &str| {
                contenders
                    .iter()
                    .any(|contender| contender.name() == name && contender.not_run(&case).is_none())
            };
            for name in case.only().unwrap_or(&["user-state"]) {
                assert!(runs(name), "{name} {}", case.work);
            }
        }
    }
}
