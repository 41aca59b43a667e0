//! The database and the handlers of a simulation finish, well or badly.

use super::super::{Input, Report};
use super::player::Player;
use super::world::{Batch, Work};
use crate::effects::Counter;
use crate::error::RequestError;
use crate::persistence::{Key, Outcome, Resolution};
use crate::testing::database::{Conflict, EntityId, Stamp, Write, refused};

impl Player {
    pub(in crate::shard) fn finish_handler(&mut self, dice: &mut fastrand::Rng) {
        if self.world.handlers.is_empty() {
            return;
        }
        let which = dice.usize(0..self.world.handlers.len());
        let (key, running) = self.world.handlers.swap_remove(which);
        self.feed(Input::Handled(key, running.finish()));
    }

    pub(in crate::shard) fn late_write(&mut self, dice: &mut fastrand::Rng) {
        if self.world.late.is_empty() {
            return;
        }
        let which = dice.usize(0..self.world.late.len());
        let write = self.world.late.swap_remove(which);
        let applied = self.world.database.apply(&write).map(drop);
        self.world.check(applied);
    }

    pub(in crate::shard) fn finish_work(&mut self, dice: &mut fastrand::Rng, faults: u8) {
        if self.world.work.is_empty() {
            return;
        }
        let which = dice.usize(0..self.world.work.len());
        match self.world.work.swap_remove(which) {
            Work::Recover(wanted) => self.recover(wanted, dice, faults),
            Work::Write(batch) => self.write(batch, dice, faults),
            Work::Resolve(lost) => self.resolve(lost, dice, faults),
        }
    }

    pub(in crate::shard) fn recover(
        &mut self,
        wanted: Vec<(Key, EntityId)>,
        dice: &mut fastrand::Rng,
        faults: u8,
    ) {
        let recovered = wanted
            .into_iter()
            .map(|(key, id)| {
                let recovery = match dice.u8(0..200) {
                    fault if fault >= faults => Ok(self.world.database.load(&id)),
                    fault if fault.is_multiple_of(2) => Err(RequestError::Unavailable(refused())),
                    _ => Err(RequestError::Unreadable(refused())),
                };
                if recovery.is_err() {
                    self.world.books.failures += 1;
                }
                (key, recovery)
            })
            .collect();
        self.feed(Input::Recovered(recovered));
    }

    /// Writes settle all at once, one after the other, or after those that wait for somebody else.
    pub(in crate::shard) fn write(
        &mut self,
        mut batch: Batch,
        dice: &mut fastrand::Rng,
        faults: u8,
    ) {
        let settles = if faults == 0 || dice.u8(0..4) > 0 {
            batch.open.len()
        } else {
            dice.usize(0..=batch.open.len())
        };
        let open = batch.open.split_off(settles);
        let settled = std::mem::replace(&mut batch.open, open);
        let outcomes: Vec<_> = settled
            .into_iter()
            .map(|(key, write)| (key, self.outcome(write, dice, faults)))
            .collect();
        let rest_waits = outcomes.is_empty();
        let ends = batch.open.is_empty() || rest_waits;
        let rows_freed = if ends {
            std::mem::take(&mut batch.rows)
        } else {
            0
        };
        if !batch.open.is_empty() {
            self.world.work.push(Work::Write(batch));
        }
        self.feed(Input::Written(Report {
            outcomes,
            rows_freed,
        }));
    }

    pub(in crate::shard) fn outcome(
        &mut self,
        write: Write,
        dice: &mut fastrand::Rng,
        faults: u8,
    ) -> Outcome<Stamp, Write> {
        let world = &mut self.world;
        let fault = dice.u8(0..100);
        if fault < faults && fault.is_multiple_of(3) {
            world.busy.remove(&write.id);
            world.books.failures += 1;
            return Outcome::NotApplied(RequestError::Refused(refused()));
        }
        if fault < faults {
            match dice.u8(0..4) {
                0 | 1 => {
                    let applied = world.database.apply(&write).map(drop);
                    world.check(applied);
                }
                2 => world.late.push(write.clone()),
                _ => {}
            }
            world.books.failures += 1;
            world.books.happened(Counter::Unknown);
            world.books.contended.insert(write.id.clone());
            world.books.lost.insert(write.id.clone());
            let now = world.now;
            world.callers.lost_since.insert(write.id.clone(), now);
            return Outcome::Unknown(write);
        }
        world.busy.remove(&write.id);
        match world.database.apply(&write) {
            Ok(Ok(stamp)) => {
                world.books.happened(Counter::Persisted);
                Outcome::Applied(stamp)
            }
            Ok(Err(Conflict)) => {
                world.books.happened(Counter::Conflicts);
                Outcome::Conflict
            }
            Err(broken) => {
                world.check(Err(broken));
                Outcome::Conflict
            }
        }
    }

    pub(in crate::shard) fn resolve(
        &mut self,
        lost: Vec<(Key, Write)>,
        dice: &mut fastrand::Rng,
        faults: u8,
    ) {
        let resolutions = lost
            .into_iter()
            .map(|(key, write)| {
                let stays_open = faults > 0 && dice.u8(0..3) == 0;
                (key, self.resolution(write, stays_open))
            })
            .collect();
        self.feed(Input::Resolved(resolutions));
    }

    pub(in crate::shard) fn resolution(
        &mut self,
        write: Write,
        stays_open: bool,
    ) -> Resolution<Stamp, Write> {
        if stays_open {
            return Resolution::Open(write);
        }
        let world = &mut self.world;
        // From now on its session applies nothing.
        world.late.retain(|late| late.id != write.id);
        world.busy.remove(&write.id);
        world.callers.lost_since.remove(&write.id);
        let resolution = world.database.resolve(&write);
        match &resolution {
            Resolution::Applied(_) => world.books.happened(Counter::Persisted),
            Resolution::NotApplied | Resolution::Unknown | Resolution::Open(_) => {}
        }
        resolution
    }
}
