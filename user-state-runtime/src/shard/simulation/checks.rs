//! What is checked after every step of a core.

use std::collections::{BTreeMap, BTreeSet};

use user_state_store::PersistenceId;

use super::super::Step;
use super::callers::Open;
use super::player::Player;

/// How much a core may do, at most, for each thing that it is given: a message may be delivered, its
/// entity loaded, written, resolved and answered, and all of that again after a conflict.
const EFFECTS_PER_INPUT_MAX: usize = 12;

impl Player {
    pub(in crate::shard) fn check_step(&mut self) {
        let world = &mut self.world;
        let kept = world.callers.check_refused(&world.database);
        world.check(kept);
        let open = world.callers.open.len();
        let open_kept = open <= self.setup.limits.shard_requests_max;
        world.demand(open_kept, "the limit on a shard's requests is kept");
        if self.setup.limits.live_entities_max >= self.setup.entities {
            // None waits for room, so what is open is the entities'.
            let limit = self.setup.limits.entity_requests_max;
            let ids = world.callers.open.values().map(|open| &open.id);
            let kept = ids.fold(BTreeMap::new(), |mut counts, id| {
                *counts.entry(id.clone()).or_insert(0) += 1;
                counts
            });
            let kept = kept.values().all(|count: &usize| *count <= limit);
            world.demand(kept, "the limit on an entity's requests is kept");
        }
        let bounded = world.effects <= EFFECTS_PER_INPUT_MAX * self.inputs;
        world.demand(bounded, "work is bounded by what arrives");
        self.check_barriers();
        self.check_lost();
        self.check_rest();
    }

    /// Nobody waits if nothing is outstanding, requests that wait for room keep their limit, and when
    /// the core waits its books are right.
    pub(in crate::shard) fn check_rest(&mut self) {
        let (core, world) = (&mut self.core, &mut self.world);
        let limits = self.setup.limits;
        let limit = limits.admission_requests_max;
        let waits_for_room = |open: &&Open| {
            let id = PersistenceId::unique(&open.id).expect("a valid id");
            core.entities.key_of(&id).is_none()
        };
        if limits.live_entities_max < self.setup.entities {
            let waiting = world.callers.open.values().filter(waits_for_room).count();
            world.demand(
                waiting <= limit,
                "the limit on requests that wait for room is kept",
            );
        }
        match self.step {
            Step::Wait => {}
            Step::LetReturn => {
                let has_room = core.mail_room() > 0;
                return world.demand(has_room, "those that return have room");
            }
            Step::Finished => {
                let nobody_waits = world.callers.open.is_empty() && world.barriers.is_empty();
                return world.demand(nobody_waits, "nobody waits for a shard that has ended");
            }
        }
        let kept = world.books.check(&world.hands.code);
        world.check(kept);
        if world.work.is_empty() && world.handlers.is_empty() && !core.has_more_due() {
            let nobody_waits = world.callers.open.is_empty() && world.barriers.is_empty();
            world.demand(nobody_waits, "nobody waits if nothing is outstanding");
        }
    }

    /// Behind a barrier, what was due has left.
    pub(in crate::shard) fn check_barriers(&mut self) {
        for (moment, passed) in std::mem::take(&mut self.world.passed) {
            if passed.is_err() {
                continue;
            }
            let due: Vec<_> = self
                .core
                .entities
                .keys()
                .filter_map(|key| self.core.entities.get(key))
                .map(|live| live.id.as_str())
                .filter(|id| {
                    let last = self.last_accepted.get(*id);
                    last.is_some_and(|last| self.setup.limits.is_due(*last, moment))
                })
                .map(str::to_owned)
                .collect();
            if !due.is_empty() {
                let moment = moment.since_origin();
                let broken = format!("the barrier of {moment:?} is passed, and {due:?} stay");
                self.world.check(Err(broken));
            }
        }
    }

    /// Callers of a write that stays unresolved are answered in time.
    pub(in crate::shard) fn check_lost(&mut self) {
        let world = &mut self.world;
        let handling: BTreeSet<u32> = world
            .handlers
            .iter()
            .map(|(_, running)| running.number())
            .collect();
        let timeout = self.setup.limits.resolve_timeout;
        let late: Vec<_> = world
            .callers
            .lost_since
            .iter()
            .filter(|(_, since)| **since + timeout < world.now)
            .filter(|(id, _)| world.callers.waits(id, &handling))
            .map(|(id, _)| id.clone())
            .collect();
        let in_time = late.is_empty();
        world.demand(
            in_time,
            "callers of an unresolved write are answered in time",
        );
    }
}
