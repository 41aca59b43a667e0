//! Changes become durable: batches are cut, land, conflict, fail, or have to be resolved.

use std::collections::VecDeque;

use super::core::Core;
use super::limits::Limits;
use super::{Report, Resolved};
use crate::effects::{Attempt, Counter, Effects, KnownOf, LostOf, WriteOf};
use crate::entity::{Entity, Next, Slip};
use crate::error::RequestError;
use crate::fault::{Fault, planted};
use crate::persistence::{Key, Outcome, Persistence, Resolution, Weight};
use crate::real_time::RealTime;

/// How many batches take turns at the database if none of them is full.
const TURNS: usize = 2;

/// The fewest rows that are sent as two batches instead of one.
const SPLIT_ROWS_MIN: usize = 32;

/// How many requests are answered before those that were answered are let in again: few enough that
/// what was touched for an answer is still in the processor's cache when its caller comes back.
const ANSWERS_AT_ONCE: usize = 512;

/// The outcome of an entity's write.
type OutcomeOf<E> = Outcome<KnownOf<E>, LostOf<E>>;

/// Outcomes that their entities do not know yet, in the order they came.
pub(super) struct Landed<E: Effects>(VecDeque<std::vec::IntoIter<(Key, OutcomeOf<E>)>>);

impl<E: Effects> Landed<E> {
    fn push(&mut self, outcomes: Vec<(Key, OutcomeOf<E>)>) {
        if !outcomes.is_empty() {
            self.0.push_back(outcomes.into_iter());
        }
    }
}

impl<E: Effects> Default for Landed<E> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

/// What a shard has in flight to the database.
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
    /// Rows that wait make the next batch cheaper, and while the database works on one batch another
    /// can be made ready. So two take turns, each about half of what there is: while one is in flight,
    /// the other goes when it has at least half as many rows. If batches are full, waiting makes
    /// nothing cheaper, and more follow at once.
    fn rows_due(self, waiting: usize, limits: &Limits) -> usize {
        let (batches_max, rows_max) = (limits.batches_in_flight_max, limits.batch_rows_max);
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

/// A batch that is being put together.
struct Batch<E: Effects> {
    writes: Vec<(Key, WriteOf<E>)>,
    weight: Weight,
}

impl<E: Effects> Core<E> {
    /// Sends what is dirty, in as many batches as are due.
    pub(super) fn cut_batches(&mut self, out: &mut E) {
        loop {
            // If a write had no room in the last batch, there is enough for a full one, going by bytes.
            let waiting = match self.held_over {
                Some(_) => self.limits.batch_rows_max,
                None => self.dirty.len(),
            };
            let rows = self.in_flight.rows_due(waiting, &self.limits);
            let batch = self.cut_batch(rows, out);
            if batch.writes.is_empty() {
                return;
            }
            out.count(Counter::Batches, 1);
            self.in_flight.send(batch.weight.rows);
            if !planted(Fault::DroppedWrite) {
                out.write(batch.writes, batch.weight.rows);
            }
        }
    }

    fn cut_batch(&mut self, rows_max: usize, out: &mut E) -> Batch<E> {
        let mut batch = Batch {
            writes: Vec::with_capacity(self.dirty.len().min(rows_max)),
            weight: Weight::default(),
        };
        while batch.weight.rows < rows_max {
            let Some((key, write)) = self.held_over.take().or_else(|| self.cut_next(out)) else {
                break;
            };
            let weight = out.persistence().weight(&write);
            let rows = batch.weight.rows + weight.rows;
            let bytes = batch.weight.bytes + weight.bytes;
            let full = rows > rows_max || bytes > self.limits.batch_bytes_max;
            if full && !batch.writes.is_empty() {
                self.held_over = Some((key, write));
                break;
            }
            batch.writes.push((key, write));
            batch.weight = Weight { rows, bytes };
        }
        batch
    }

    /// Cuts the write of the next dirty entity that has one.
    fn cut_next(&mut self, out: &mut E) -> Option<(Key, WriteOf<E>)> {
        while let Some(key) = self.dirty.pop_front() {
            let mut cut = None;
            self.with_entity(key, out, |entity, around| match entity.cut(around) {
                Slip::Write(write) => {
                    cut = Some(write);
                    entity.on_cut(around)
                }
                Slip::Nothing => entity.on_cut(around),
                Slip::Unencodable(next) => next,
            });
            if let Some(write) = cut {
                return Some((key, write));
            }
        }
        None
    }

    /// Writes of a batch have landed; their entities learn of it in [`Core::tell_landed`].
    pub(super) fn on_written(&mut self, report: Report<E>) {
        if report.rows_freed > 0 && !planted(Fault::TurnNeverEnds) {
            self.in_flight.land(report.rows_freed);
        }
        self.landed.push(report.outcomes);
    }

    /// Tells entities what became of their writes, until enough requests are answered. How many that
    /// are; `None` if no entity was left to be told.
    pub(super) fn tell_landed(
        &mut self,
        now: impl Fn() -> RealTime + Copy,
        out: &mut E,
    ) -> Option<usize> {
        let mut report = self.landed.0.pop_front()?;
        let open = self.desk.counts.open();
        let mut answered = 0;
        let mut unknown = Vec::new();
        while answered < ANSWERS_AT_ONCE
            && let Some((key, outcome)) = report.next()
        {
            self.on_outcome(key, outcome, now, &mut unknown, out);
            answered = self.answered_since(open);
        }
        if report.len() > 0 {
            self.landed.0.push_front(report);
        }
        if !unknown.is_empty() {
            out.resolve(unknown, Attempt::First);
        }
        Some(answered)
    }

    fn on_outcome(
        &mut self,
        key: Key,
        outcome: OutcomeOf<E>,
        now: impl Fn() -> RealTime,
        unknown: &mut Vec<(Key, LostOf<E>)>,
        out: &mut E,
    ) {
        match outcome {
            Outcome::Applied(known) => {
                self.with_entity(key, out, |entity, around| entity.on_applied(known, around));
            }
            Outcome::Conflict => self.with_entity(key, out, Entity::on_conflict),
            Outcome::NotApplied(error) => {
                self.fail_barrier_of(key);
                self.with_entity(key, out, |entity, around| {
                    entity.on_not_applied(error, around)
                });
            }
            Outcome::Unknown(_) if planted(Fault::UnknownAsRefused) => {
                let refused = RequestError::behind_unresolved();
                self.with_entity(key, out, |entity, around| {
                    entity.on_not_applied(refused, around)
                });
            }
            Outcome::Unknown(lost) => {
                let deadline = now() + self.limits.resolve_timeout;
                self.with_entity(key, out, |entity, around| {
                    entity.on_unknown(deadline, around);
                    Next::Wait
                });
                self.unresolved.push(key);
                unknown.push((key, lost));
            }
        }
    }

    pub(super) fn on_resolved(&mut self, resolutions: Resolved<E>, out: &mut E) {
        let mut open = Vec::new();
        for (key, resolution) in resolutions {
            match resolution {
                Resolution::Open(lost) => {
                    open.push((key, lost));
                    continue;
                }
                Resolution::Applied(known) => {
                    self.with_entity(key, out, |entity, around| entity.on_applied(known, around));
                }
                Resolution::NotApplied => {
                    self.with_entity(key, out, Entity::on_resolved_as_absent);
                }
                Resolution::Unknown => {
                    self.fail_barrier_of(key);
                    self.with_entity(key, out, Entity::on_lost);
                }
            }
            self.unresolved.retain(|other| *other != key);
        }
        if !open.is_empty() {
            out.resolve(open, Attempt::Again);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// The rows of each batch that lands, where some callers are there first, the others come while those wait, and each
    /// asks again when answered.
    fn batches(callers: usize, first: usize, limits: &Limits) -> Vec<usize> {
        let (mut in_flight, mut lanes) = (InFlight::default(), VecDeque::new());
        let (mut waiting, mut later) = (first, callers - first);
        let mut landed = Vec::new();
        while landed.len() < 100 {
            loop {
                let rows = in_flight.rows_due(waiting, limits);
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
        let limits = Limits::default();
        for callers in [32, 64, 333, 900] {
            for first in [1, 2, callers / 3, callers - 1, callers] {
                let landed = batches(callers, first, &limits);
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
        let limits = Limits::default();
        assert_eq!(batches(1, 1, &limits), [1; 100]);
        assert_eq!(batches(20, 20, &limits), [20; 100]);
    }

    #[test]
    fn full_batches_do_not_take_turns() {
        let limits = Limits::default();
        let (mut in_flight, rows_max) = (InFlight::default(), limits.batch_rows_max);
        for _ in 0..limits.batches_in_flight_max {
            assert_eq!(in_flight.rows_due(10_000, &limits), rows_max);
            in_flight.send(rows_max);
        }
        assert_eq!(in_flight.rows_due(10_000, &limits), 0);
        in_flight.land(rows_max);
        assert_eq!(in_flight.rows_due(rows_max - 1, &limits), 0, "not full");
    }

    #[test]
    fn a_limit_of_one_batch_is_kept() {
        let limits = Limits {
            batches_in_flight_max: 1,
            ..Limits::default()
        };
        assert_eq!(batches(64, 64, &limits), [64; 100]);
    }
}
