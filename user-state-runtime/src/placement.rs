//! Which shard an entity belongs to.
//!
//! **How.** The 1,024 slices of Pekko form 128 ranges of 8. A shard owns whole ranges, so that what a batch has to check
//! once per range stays little. The ranges are put into another order and cut into runs of equal length, one for each shard.
//!
//! **Why another order.** Ids that are counted up differ in their last characters only, so they crowd into every fourth
//! range or so. Runs of neighbours, or every n-th range, would give one shard several times as many of them as another.

use user_state_store::{NUMBER_OF_SLICES, Slice};

/// How many slices a range has.
const SLICES_PER_RANGE: usize = 8;

/// How many ranges there are.
const RANGES: usize = 128;

/// The most shards: each owns at least one range.
pub(crate) const SHARDS_MAX: usize = RANGES;

/// How far apart neighbours are in the other order. Odd, so that it is a permutation; of those the one which spreads ids
/// that are counted up most evenly over 2, 3, 4 and 8 shards.
const STRIDE: usize = 45;

const _: () = assert!(NUMBER_OF_SLICES == 1_024 && RANGES * SLICES_PER_RANGE == 1_024);

/// The shard of a slice, one of `shards`, which are between 1 and [`SHARDS_MAX`].
pub(crate) fn shard_of(slice: Slice, shards: usize) -> usize {
    let range = usize::from(slice.get()) / SLICES_PER_RANGE;
    range * STRIDE % RANGES * shards / RANGES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use user_state_store::PersistenceId;

    use super::*;

    fn slices() -> impl Iterator<Item = Slice> {
        (0..NUMBER_OF_SLICES).filter_map(Slice::new)
    }

    #[test]
    fn each_shard_owns_whole_ranges_and_at_most_one_more_than_another() {
        for shards in 1..=SHARDS_MAX {
            let mut ranges = vec![BTreeSet::new(); shards];
            for slice in slices() {
                ranges[shard_of(slice, shards)].insert(slice.get() / 8);
            }
            let owned: usize = ranges.iter().map(BTreeSet::len).sum();
            assert_eq!(owned, SHARDS_MAX, "{shards} shards: a range has one owner");
            let least = ranges.iter().map(BTreeSet::len).min().unwrap();
            let most = ranges.iter().map(BTreeSet::len).max().unwrap();
            assert!(
                least >= 1 && most - least <= 1,
                "{shards}: {least} to {most}"
            );
        }
    }

    #[test]
    fn ids_that_are_counted_up_are_spread_evenly_over_the_shards() {
        let names: [fn(u32) -> String; 2] = [
            |number| format!("mall-user{number:03}"),
            |number| format!("mall-user{number}"),
        ];
        for name in names {
            for shards in [2, 3, 4, 8] {
                let mut counts = vec![0; shards];
                for number in 0..1_000 {
                    let id = PersistenceId::unique(&name(number)).unwrap();
                    counts[shard_of(id.slice(), shards)] += 1;
                }
                // 15 % more than its part.
                let most = counts.iter().max().unwrap();
                assert!(most * shards <= 1_150, "{counts:?}");
            }
        }
    }
}
