//! Changes become durable: batches are cut, land, conflict, fail, or have to be resolved.

use cqrs_es::Aggregate;
use tokio::time::Instant;
use user_state_store::{Resolution, UnresolvedWrite, Write, WriteBatch};

use super::Effect;
use super::core::Core;
use super::entities::EntityKey;
use crate::entity::{Entity, Moved};
use crate::settings::Settings;
use crate::work::{Landing, Written};

/// How many batches take turns at the database where none of them is full.
const TURNS: usize = 2;

/// The fewest rows that are sent as two batches instead of one.
const SPLIT_ROWS_MIN: usize = 32;

/// How many requests are answered before those who asked are let in again: few enough that what was touched for an answer
/// is still in the processor's cache when its caller comes back.
const ANSWERS_AT_ONCE: usize = 512;

/// What has become of writes of a batch.
pub(super) type Landed = std::vec::IntoIter<(EntityKey, Landing)>;

/// What a shard has on its way to the database.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InFlight {
    batches: usize,
    rows: usize,
}

impl InFlight {
    fn send(&mut self, rows: usize) {
        self.batches += 1;
        self.rows += rows;
    }

    fn land(&mut self, rows: usize) {
        self.batches = self.batches.saturating_sub(1);
        self.rows = self.rows.saturating_sub(rows);
    }

    /// How many of the rows that wait are to be sent now.
    ///
    /// Rows that wait make the next batch cheaper, and while the database works on one batch another can be made ready. So
    /// two take turns, each about half of what there is: where one is on its way, the other goes when it has at least half as
    /// many rows. Where batches are full, waiting makes nothing cheaper, and more follow at once.
    fn rows_due(self, waiting: usize, settings: &Settings) -> usize {
        let (batches_max, rows_max) = (settings.batches_in_flight_max, settings.batch_rows_max);
        match self.batches {
            sent if sent >= batches_max => 0,
            _ if waiting >= rows_max => rows_max,
            0 if waiting >= SPLIT_ROWS_MIN && batches_max > 1 => waiting.div_ceil(TURNS),
            0 => waiting,
            sent if sent < TURNS && 2 * waiting >= self.rows => waiting,
            _ => 0,
        }
    }
}

impl<A> Core<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    /// Sends what is dirty, in as many batches as are due.
    pub(super) fn cut_batches(&mut self) {
        loop {
            let settings = &self.context.settings;
            // Where a write had no room in the last batch, there is enough for a full one, going by the bytes.
            let waiting = match self.held_over {
                Some(_) => settings.batch_rows_max,
                None => self.dirty.len(),
            };
            let rows = self.in_flight.rows_due(waiting, settings);
            let Some((keys, batch)) = self.cut_batch(rows) else {
                return;
            };
            self.counters.batches(1);
            self.in_flight.send(keys.len());
            self.effects.push(Effect::Write { keys, batch });
        }
    }

    /// Cuts the next writes into a batch, with the keys of their entities in its order.
    fn cut_batch(&mut self, rows_max: usize) -> Option<(Vec<EntityKey>, WriteBatch)> {
        let bytes_max = self.context.settings.batch_bytes_max;
        let mut cut = Vec::with_capacity(self.dirty.len().min(rows_max));
        let mut bytes = 0;
        while cut.len() < rows_max {
            let Some((key, write)) = self.held_over.take().or_else(|| self.cut_next()) else {
                break;
            };
            bytes += write.payload_len();
            if bytes > bytes_max && !cut.is_empty() {
                self.held_over = Some((key, write));
                break;
            }
            cut.push((key, write));
        }
        if cut.is_empty() {
            return None;
        }
        // As the batch sorts them, so that each outcome comes back to its own entity.
        cut.sort_unstable_by(|(_, one), (_, other)| one.persistence_id.cmp(&other.persistence_id));
        let (keys, writes) = cut.into_iter().unzip();
        let batch = WriteBatch::new(writes).unwrap_or_else(|broken| {
            unreachable!("a shard cuts one valid write per entity: {broken}")
        });
        Some((keys, batch))
    }

    /// Cuts the write of the next dirty entity that has one.
    fn cut_next(&mut self) -> Option<(EntityKey, Write)> {
        while let Some(key) = self.dirty.pop_front() {
            let mut cut = None;
            self.with_entity(key, |entity, driver| match entity.cut(driver) {
                Ok(write) => {
                    cut = write;
                    // What waited for a creation to be cut goes on.
                    entity.pump(driver)
                }
                Err(moved) => moved,
            });
            if let Some(write) = cut {
                return Some((key, write));
            }
        }
        None
    }

    /// Writes of a batch have landed; their entities are told by [`Core::on_landed`].
    pub(super) fn on_written(&mut self, written: Written) {
        debug_assert!(self.landed.len() == 0, "one report after the other");
        if written.rows_freed > 0 {
            self.in_flight.land(written.rows_freed);
        }
        self.landed = written.landings.into_iter();
    }

    /// Tells entities what became of their writes, until enough requests are answered. How many that are; `None` where nobody
    /// was left to be told.
    pub(super) fn on_landed(&mut self, now: Instant) -> Option<usize> {
        if self.landed.len() == 0 {
            return None;
        }
        let open = self.requests.count();
        let mut answered = 0;
        let (mut keys, mut unknown) = (Vec::new(), Vec::new());
        while answered < ANSWERS_AT_ONCE
            && let Some((key, landing)) = self.landed.next()
        {
            match landing {
                Landing::Applied(db_timestamp) => {
                    self.with_entity(key, |entity, driver| {
                        entity.on_applied(db_timestamp, driver)
                    });
                }
                Landing::Conflict => {
                    self.with_entity(key, Entity::on_conflict);
                }
                Landing::NotApplied(error) => {
                    self.fail_barrier_of(key);
                    self.with_entity(key, |entity, driver| entity.on_not_applied(error, driver));
                }
                Landing::Lost(write) => {
                    debug_assert!(
                        self.entities
                            .get(key)
                            .is_none_or(|live| live.id == write.write().persistence_id),
                        "an outcome is its own entity's"
                    );
                    let deadline = now + self.context.settings.resolve_timeout;
                    self.with_entity(key, |entity, driver| {
                        entity.on_unknown(deadline, driver);
                        Moved::Waits
                    });
                    self.unresolved.push(key);
                    keys.push(key);
                    unknown.push(write);
                }
            }
            answered = open.saturating_sub(self.requests.count());
        }
        if !unknown.is_empty() {
            self.effects.push(Effect::Resolve {
                keys,
                writes: unknown,
                again: false,
            });
        }
        Some(answered)
    }

    pub(super) fn on_resolved(
        &mut self,
        resolutions: Vec<(EntityKey, UnresolvedWrite, Resolution)>,
    ) {
        let (mut keys, mut unresolved) = (Vec::new(), Vec::new());
        for (key, write, resolution) in resolutions {
            match resolution {
                Resolution::Unresolved(_) => {
                    keys.push(key);
                    unresolved.push(write);
                    continue;
                }
                Resolution::Applied(db_timestamp) => {
                    self.with_entity(key, |entity, driver| {
                        entity.on_applied(db_timestamp, driver)
                    });
                }
                Resolution::NotApplied => {
                    self.with_entity(key, Entity::on_conflict);
                }
                Resolution::Unknown => {
                    self.fail_barrier_of(key);
                    self.with_entity(key, Entity::on_lost);
                }
            }
            self.unresolved.retain(|other| *other != key);
        }
        if !unresolved.is_empty() {
            self.effects.push(Effect::Resolve {
                keys,
                writes: unresolved,
                again: true,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// The rows of each batch that lands, where some callers are there first, the others come while those wait, and each
    /// asks again when answered.
    fn batches(callers: usize, first: usize, settings: &Settings) -> Vec<usize> {
        let (mut in_flight, mut lanes) = (InFlight::default(), VecDeque::new());
        let (mut waiting, mut later) = (first, callers - first);
        let mut landed = Vec::new();
        while landed.len() < 100 {
            loop {
                let rows = in_flight.rows_due(waiting, settings);
                if rows == 0 {
                    break;
                }
                in_flight.send(rows);
                lanes.push_back(rows);
                waiting -= rows;
            }
            waiting += std::mem::take(&mut later);
            let rows = lanes.pop_front().unwrap();
            in_flight.land(rows);
            landed.push(rows);
            waiting += rows;
        }
        landed
    }

    #[test]
    fn two_batches_take_turns_and_become_alike_however_the_callers_began() {
        let settings = Settings::default();
        for callers in [32, 64, 333, 900] {
            for first in [1, 2, callers / 3, callers - 1, callers] {
                let landed = batches(callers, first, &settings);
                let tail = &landed[50..];
                let least = tail.iter().copied().min().unwrap();
                let most = tail.iter().copied().max().unwrap();
                assert!(2 * least >= most - 1, "{callers}, {first}: {landed:?}");
                assert_eq!(least + most, callers, "{callers}, {first}: {landed:?}");
            }
        }
    }

    #[test]
    fn few_go_together_and_one_goes_alone() {
        let settings = Settings::default();
        assert_eq!(batches(1, 1, &settings), [1; 100]);
        assert_eq!(batches(20, 20, &settings), [20; 100]);
    }

    #[test]
    fn full_batches_do_not_take_turns() {
        let settings = Settings::default();
        let (mut in_flight, rows_max) = (InFlight::default(), settings.batch_rows_max);
        for _ in 0..settings.batches_in_flight_max {
            assert_eq!(in_flight.rows_due(10_000, &settings), rows_max);
            in_flight.send(rows_max);
        }
        assert_eq!(in_flight.rows_due(10_000, &settings), 0);
        in_flight.land(rows_max);
        assert_eq!(in_flight.rows_due(rows_max - 1, &settings), 0, "not full");
    }

    #[test]
    fn a_limit_of_one_batch_is_kept() {
        let settings = Settings::default().batches_in_flight_max(1);
        assert_eq!(batches(64, 64, &settings), [64; 100]);
    }
}
