//! Simulates a shard: random schedules of everything that can happen to it, and a model of what its
//! callers may see.
//!
//! **How.** A seed makes a schedule of 200 events: mail, finished loads and writes (refused, lost,
//! early, late, in conflict), other writers, time on both clocks, panics of user code, shutdown. The
//! real core plays it; the store, the callers and the clocks are models. After every step the model
//! checks what was promised; at the end everything settles without faults, and everybody must be
//! answered.
//!
//! **To run more**: `SIMULATION_SCHEDULES=100000 cargo test -p user-state-runtime --lib simulation`.
//! `SIMULATION_SEED=N` begins with that seed. A schedule that fails is printed with its seed, and
//! shortened.

use std::panic::AssertUnwindSafe;

mod books;
pub(super) mod callers;
mod checks;
mod mail;
pub(super) mod player;
pub(super) mod schedule;
mod work;
pub(super) mod world;

use schedule::{Scale, Schedule};

use crate::fault;

/// How many schedules are played of each scale, unless more are asked for.
const SCHEDULES: u64 = 2_000;

/// A schedule that broke a promise.
#[derive(Debug)]
struct Failure {
    seed: u64,
    broken: String,
    shortest: Schedule,
}

fn play(schedule: &Schedule, traces: bool) -> Result<(), String> {
    let playing = AssertUnwindSafe(|| player::play(schedule, traces));
    std::panic::catch_unwind(playing).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Err(format!("the core panicked: {message:?}"))
    })
}

/// Plays so many schedules, until one fails.
fn simulate(scale: Scale, first: u64, schedules: u64) -> Result<(), Box<Failure>> {
    for seed in (first..).take(usize::try_from(schedules).unwrap_or(usize::MAX)) {
        let schedule = Schedule::new(scale, seed);
        if play(&schedule, false).is_err() {
            let shortest = schedule::shrink(&schedule, |shorter| play(shorter, false).is_err());
            // What happens in it is shown if nobody expects it to fail.
            let traces = !fault::is_planted();
            let broken = play(&shortest, traces).expect_err("the shortest schedule fails, too");
            return Err(Box::new(Failure {
                seed,
                broken,
                shortest,
            }));
        }
    }
    Ok(())
}

fn asked_for(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

mod tests {
    use super::*;
    use crate::fault::Fault;

    type TestResult = Result<(), Box<Failure>>;

    fn simulate_as_asked(scale: Scale) -> TestResult {
        let first = asked_for("SIMULATION_SEED").unwrap_or(0);
        let schedules = asked_for("SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
        simulate(scale, first, schedules)
    }

    #[test]
    fn an_entity_keeps_its_promises_whatever_happens() -> TestResult {
        simulate_as_asked(Scale::Entity)
    }

    #[test]
    fn a_shard_keeps_its_promises_whatever_happens() -> TestResult {
        simulate_as_asked(Scale::Shard)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the seed is to differ each time")]
    fn a_shard_keeps_its_promises_for_seeds_that_nobody_has_seen() -> TestResult {
        let first = chrono::Utc::now().timestamp().unsigned_abs() << 16;
        println!("first seed: {first}");
        simulate(Scale::Entity, first, SCHEDULES / 8)?;
        simulate(Scale::Shard, first, SCHEDULES / 8)
    }

    #[test]
    fn every_planted_fault_is_found() {
        let faults = [
            Fault::AnswerBeforeDurable,
            Fault::SecondWriteInFlight,
            Fault::DirtyRead,
            Fault::LostStash,
            Fault::CreationBeyondFirst,
            Fault::ConflictAsApplied,
            Fault::UnknownAsRefused,
            Fault::LeakyBarrier,
            Fault::LimitOffByOne,
            Fault::ForgottenTimer,
            Fault::EarlyAnswerTwice,
            Fault::DroppedWrite,
            Fault::LeavesInFlight,
            Fault::ReorderedRetry,
            Fault::ConfirmedFromMemory,
            Fault::TurnNeverEnds,
        ];
        for fault in faults {
            fault::plant(Some(fault));
            let found = simulate(Scale::Shard, 0, SCHEDULES);
            fault::plant(None);
            let found = found.expect_err(&format!("{fault:?} is not found"));
            println!(
                "{fault:?}: seed {}, {} events: {}",
                found.seed,
                found.shortest.events.len(),
                found.broken
            );
        }
    }
}
