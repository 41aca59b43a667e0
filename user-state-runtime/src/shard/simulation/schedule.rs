//! What happens to a simulated shard: a list of events, made from a seed, that can be shortened.

use std::time::Duration;

use super::super::limits::Limits;
use crate::testing::database::Deletes;

/// How many things happen in a schedule.
pub(in crate::shard) const EVENTS: usize = 200;

/// Something that happens; the dice decide its details, independent of what else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) struct Event {
    pub(in crate::shard) what: What,
    pub(in crate::shard) dice: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum What {
    /// Callers ask, some at once.
    Mail,
    /// A load, a write, an attempt to resolve or a handler finishes, well or badly.
    FinishWork,
    FinishHandler,
    /// A lost write is applied after all.
    LateWrite,
    /// Another writer changes a row.
    ForeignWrite,
    /// Time passes on the runtime's clock.
    Clock,
    /// The runtime's clock is moved by hand.
    Barrier,
    /// Real time passes.
    RealTime,
    /// The next call of user code panics.
    Panic,
    ShutDown,
}

/// What a schedule plays on.
#[derive(Debug, Clone)]
pub(in crate::shard) struct Setup {
    pub(in crate::shard) limits: Limits,
    pub(in crate::shard) entities: usize,
    pub(in crate::shard) retries: bool,
    pub(in crate::shard) deletes: Deletes,
    /// Of a hundred writes, how many are refused or lose their answer.
    pub(in crate::shard) faults: u8,
}

/// A whole schedule.
#[derive(Debug, Clone)]
pub(in crate::shard) struct Schedule {
    pub(in crate::shard) setup: Setup,
    pub(in crate::shard) events: Vec<Event>,
}

/// How many entities take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum Scale {
    /// One, and room for it.
    Entity,
    /// Several, which crowd each other out.
    Shard,
}

impl Schedule {
    pub(in crate::shard) fn new(scale: Scale, seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let setup = Setup::new(scale, &mut dice);
        let foreign = dice.bool();
        let events = (0..EVENTS)
            .map(|_| Event {
                what: what(&mut dice, foreign),
                dice: dice.u64(..),
            })
            .collect();
        Self { setup, events }
    }
}

impl Setup {
    fn new(scale: Scale, dice: &mut fastrand::Rng) -> Self {
        let entities = match scale {
            Scale::Entity => 1,
            Scale::Shard => dice.usize(2..12),
        };
        let crowded = scale == Scale::Shard && dice.bool();
        let limits = Limits {
            idle_timeout: Duration::from_mins(30),
            live_entities_max: if crowded {
                dice.usize(1..=entities)
            } else {
                entities
            },
            entity_requests_max: dice.usize(2..10),
            shard_requests_max: dice.usize(8..64),
            admission_requests_max: dice.usize(1..8),
            batch_rows_max: dice.usize(1..6),
            batch_bytes_max: dice.usize(4..200),
            batches_in_flight_max: dice.usize(1..4),
            loads_in_flight_max: dice.usize(1..3),
            resolve_timeout: Duration::from_secs(10),
        };
        Self {
            limits,
            entities,
            retries: dice.bool(),
            deletes: if dice.bool() {
                Deletes::Reset
            } else {
                Deletes::Erase
            },
            faults: if dice.bool() { 0 } else { dice.u8(1..60) },
        }
    }
}

fn what(dice: &mut fastrand::Rng, foreign: bool) -> What {
    match dice.u8(0..100) {
        0..40 => What::Mail,
        40..74 => What::FinishWork,
        74..80 => What::FinishHandler,
        80..83 => What::LateWrite,
        83..86 if foreign => What::ForeignWrite,
        83..90 => What::Clock,
        90..93 => What::Barrier,
        93..97 => What::RealTime,
        97..99 => What::Panic,
        _ if dice.u8(0..4) == 0 => What::ShutDown,
        _ => What::Mail,
    }
}

/// The shortest schedule that still fails, found by leaving events out.
pub(in crate::shard) fn shrink(schedule: &Schedule, fails: impl Fn(&Schedule) -> bool) -> Schedule {
    let mut shortest = schedule.clone();
    let mut chunk = shortest.events.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < shortest.events.len() {
            let mut shorter = shortest.clone();
            let end = (at + chunk).min(shorter.events.len());
            shorter.events.drain(at..end);
            if fails(&shorter) {
                shortest = shorter;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    shortest
}
