//! The guards of a statement.
//!
//! They are asked for once, in a part of its own. That the writes depend on it, and on nothing of a row, lets the planner ask
//! before the first row is looked at.

use crate::postgres::durable_state::array::Array;
use crate::postgres::durable_state::carried::{Parameters, Statement};
use crate::store::{Guard, GuardKind, Guards};

/// Nothing is written under a guard that does not hold, nor beside it.
pub(super) const CONDITION: &str = "\n  AND NOT EXISTS (SELECT FROM lost)";

/// The guards of a part, and where each stands in the batch.
#[derive(Debug)]
pub(super) struct Gate {
    kind: &'static GuardKind,
    guards: Vec<(usize, Guard)>,
}

impl Gate {
    /// The guards of a part's writes, and no others: those of the rest of the batch may be lost already.
    pub(super) fn of(guards: &Guards, part: &[usize]) -> Self {
        let places = part
            .iter()
            .filter_map(|index| guards.place_of_write(*index));
        let mut places: Vec<usize> = places.collect();
        places.sort_unstable();
        places.dedup();
        let of_part = places
            .into_iter()
            .filter_map(|place| Some((place, *guards.as_slice().get(place)?)));
        Self {
            kind: guards.kind(),
            guards: of_part.collect(),
        }
    }

    /// The places in the batch of these guards, which are counted from 1.
    pub(super) fn places(&self, lost: &[i64]) -> Vec<usize> {
        let places = lost.iter().filter_map(|ordinal| {
            let index = usize::try_from(*ordinal).ok()?.checked_sub(1)?;
            self.guards.get(index).map(|(place, _)| *place)
        });
        places.collect()
    }

    /// The guards that do not hold.
    pub(super) fn lost(&self, parameters: &mut Parameters) -> String {
        let (first, last, epoch) = (parameters.next(), parameters.next(), parameters.next());
        format!(
            "lost AS MATERIALIZED (
  WITH guard AS (
    SELECT
      generate_series(1, cardinality(${first}::int[])::bigint) AS ordinal,
      unnest(${first}::int[]) AS first_slice,
      unnest(${last}::int[]) AS last_slice,
      unnest(${epoch}::bigint[]) AS epoch
  )
  SELECT lost.ordinal
  FROM (
    {}
  ) AS lost (ordinal)
)",
            self.kind.postgres()
        )
    }

    pub(super) fn bind<'query>(&'query self, query: Statement<'query>) -> Statement<'query> {
        let guards = || self.guards.iter().map(|(_, guard)| guard);
        let first = guards().map(|guard| i32::from(guard.slices.min().get()));
        let last = guards().map(|guard| i32::from(guard.slices.max().get()));
        let epoch = guards().map(|guard| guard.epoch);
        query
            .bind(Array::new(first))
            .bind(Array::new(last))
            .bind(Array::new(epoch))
    }
}
