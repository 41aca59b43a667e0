//! The run: every case, every round, every contender in turn.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::case::{self, Case, Kind};
use crate::contender::{self, Contender, Program, World};
use crate::database::Databases;
use crate::exit::Failure;
use crate::load::Measured;
use crate::peer;
use crate::report::{self, Row};

/// The exit status where a contender that should have run did not.
const FAILED: u8 = 1;

/// Memory is counted, not timed: it hardly differs between rounds, and a million users take a while.
const MEMORY_ROUNDS_MAX: usize = 1;

/// Measures what the arguments ask for, and reports.
pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.peer {
        peer::answer_all().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let cases =
        case::chosen(&arguments.work, arguments.quick, arguments.users_max()).map_err(|name| {
            Failure::usage(format!("there is no work {name}; there are {}", works()))
        })?;
    let mut contenders = chosen(arguments)?;
    for contender in &mut contenders {
        contender.prepare().await;
    }
    let databases = Databases::new(arguments.timing().measured);
    let mut world = World::new(arguments.timing(), databases);
    let mut rows = Vec::new();
    let mut population = None;
    for case in &cases {
        if population.is_some_and(|of| of != case.population) {
            rest(&mut contenders).await;
            world.databases.clear().await?;
            world.files.clear();
        }
        population = Some(case.population);
        rows.extend(measure(case, &mut contenders, arguments.rounds(), &mut world).await);
    }
    rest(&mut contenders).await;
    report(arguments, &rows)?;
    let failed = rows
        .iter()
        .any(|row| row.not_run.as_deref().is_some_and(is_failure));
    Ok(if failed {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// One case: every contender in every round, each round beginning with another one.
async fn measure(
    case: &Case,
    contenders: &mut [Box<dyn Contender>],
    rounds: usize,
    world: &mut World,
) -> Vec<Row> {
    let rounds = match case.kind {
        Kind::Memory => rounds.min(MEMORY_ROUNDS_MAX),
        _ => rounds,
    };
    let mut measured: Vec<Result<Vec<Measured>, String>> = contenders
        .iter()
        .map(|contender| {
            let reason = match case.only() {
                Some(names) if !names.contains(&contender.name()) => {
                    Some(format!("this is about `{}`", names.join("` and `")))
                }
                _ => contender.not_run(case),
            };
            reason.map_or(Ok(Vec::new()), Err)
        })
        .collect();
    let mut slow = Vec::new();
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let index = (turn + round) % contenders.len();
            let (Some(contender), Some(figures)) =
                (contenders.get_mut(index), measured.get_mut(index))
            else {
                continue;
            };
            if slow.contains(&index) {
                continue;
            }
            if let Ok(measured) = figures {
                eprintln!(
                    "{}: {} users, {} callers, round {} of {rounds}: {}",
                    case.work,
                    case.users,
                    case.callers,
                    round + 1,
                    contender.name()
                );
                let one = contender.measure(case, world).await;
                if one
                    .as_ref()
                    .is_ok_and(|one| is_slow(one, world.timing.measured))
                {
                    slow.push(index);
                }
                match one {
                    Ok(one) => measured.push(one),
                    Err(failure) => {
                        eprintln!("{}: {failure}", contender.name());
                        *figures = Err(failure_text(&failure));
                    }
                }
            }
        }
    }
    contenders
        .iter()
        .zip(measured)
        .map(|(contender, figures)| match figures {
            Ok(rounds) => Row::of(case, contender.name(), &rounds),
            Err(reason) => Row::not_run(case, contender.name(), reason),
        })
        .collect()
}

/// Whether an answer takes longer than a measurement should: more rounds would take most of the run.
fn is_slow(measured: &Measured, should_take: Duration) -> bool {
    let answer = measured.p50_us.unwrap_or_default();
    answer > should_take.as_secs_f64() * 1e6
}

/// What tells a contender that failed from one that does not do a work.
const FAILURE: &str = "failed: ";

fn failure_text(failure: &Failure) -> String {
    format!("{FAILURE}{failure}")
}

fn is_failure(reason: &str) -> bool {
    reason.starts_with(FAILURE)
}

async fn rest(contenders: &mut [Box<dyn Contender>]) {
    for contender in contenders {
        contender.rest().await;
    }
}

/// The contenders that are asked for, all of them where none is named.
fn chosen(arguments: &Arguments) -> Result<Vec<Box<dyn Contender>>, Failure> {
    let pekko = match &arguments.pekko {
        Some(command) => Program::named(command),
        None => Program::built(arguments.pekko_profile),
    };
    let names = &arguments.contenders;
    let all = contender::all(&Arc::new(pekko), arguments.quick && names.is_empty());
    for name in names {
        if !all
            .iter()
            .any(|contender| case::is_named(contender.name(), name))
        {
            let there_are: Vec<_> = all.iter().map(|contender| contender.name()).collect();
            let there_are = there_are.join(", ");
            return Err(Failure::usage(format!(
                "there is no contender {name}; there are {there_are}"
            )));
        }
    }
    Ok(all
        .into_iter()
        .filter(|contender| {
            names.is_empty()
                || names
                    .iter()
                    .any(|name| case::is_named(contender.name(), name))
        })
        .collect())
}

/// The names of all works.
fn works() -> String {
    let mut works: Vec<_> = case::all().iter().map(|case| case.work).collect();
    works.dedup();
    works.join(", ")
}

fn report(arguments: &Arguments, rows: &[Row]) -> Result<(), Failure> {
    write!(std::io::stdout(), "{}", report::table::text(rows))
        .map_err(|error| Failure::new(1, format!("cannot write to stdout: {error}")))?;
    if let Some(path) = &arguments.json {
        let json = report::json(rows).map_err(|error| Failure::new(1, error.to_string()))?;
        write_file(path, &json)?;
    }
    if let Some(path) = &arguments.svg {
        write_file(path, &report::chart::svg(rows))?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::new(1, format!("cannot write {}: {error}", path.display())))
}
