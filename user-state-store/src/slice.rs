//! Slices: the fixed partition of all persistence ids that change feeds are read by.

use std::ops::RangeInclusive;

/// How many slices there are. Fixed by Pekko (`Persistence.numberOfSlices`), not configurable.
pub const NUMBER_OF_SLICES: u16 = 1024;

/// The slice of a persistence id, 0 to 1023.
///
/// The absolute value of the remainder by 1024 of Java's `String.hashCode` over the UTF-16 units of
/// the id, as Pekko's `Persistence.sliceForPersistenceId` computes it. The remainder is taken first,
/// so the smallest `i32` gives slice 0.
///
/// ```
/// use user_state_store::Slice;
///
/// assert_eq!(Slice::of("pid-1").get(), 111);
/// assert_eq!(Slice::of("polygenelubricants").get(), 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice(u16);

impl Slice {
    /// The slice of a persistence id given as text.
    pub fn of(persistence_id: &str) -> Self {
        let hash = persistence_id.encode_utf16().fold(0_i32, |hash, unit| {
            hash.wrapping_mul(31).wrapping_add(i32::from(unit))
        });
        let slice = (hash % i32::from(NUMBER_OF_SLICES)).unsigned_abs();
        Self(u16::try_from(slice).unwrap_or_default())
    }

    /// The slice with this number, or `None` at 1024 and above.
    pub const fn new(number: u16) -> Option<Self> {
        if number < NUMBER_OF_SLICES {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number, as the `slice` column holds it.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A contiguous range of slices, both ends included.
///
/// ```
/// use user_state_store::SliceRange;
///
/// let quarters = SliceRange::split(4).unwrap();
/// assert_eq!(quarters[1].as_range(), 256..=511);
/// assert!(SliceRange::split(3).is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SliceRange {
    min: Slice,
    max: Slice,
}

impl SliceRange {
    /// All 1024 slices.
    pub const ALL: Self = Self {
        min: Slice(0),
        max: Slice(NUMBER_OF_SLICES - 1),
    };

    /// The range from `min` to `max`, both included; `None` when `min` is above `max`.
    pub fn new(min: Slice, max: Slice) -> Option<Self> {
        (min <= max).then_some(Self { min, max })
    }

    /// All slices cut into `count` ranges of equal length, in order; `None` unless `count` divides
    /// 1024 (as Pekko's `Persistence.sliceRanges` demands).
    pub fn split(count: u16) -> Option<Vec<Self>> {
        if count == 0 || !NUMBER_OF_SLICES.is_multiple_of(count) {
            return None;
        }
        let length = NUMBER_OF_SLICES / count;
        Some(
            (0..count)
                .map(|index| Self {
                    min: Slice(index * length),
                    max: Slice((index + 1) * length - 1),
                })
                .collect(),
        )
    }

    /// The lowest slice of the range.
    pub const fn min(self) -> Slice {
        self.min
    }

    /// The highest slice of the range.
    pub const fn max(self) -> Slice {
        self.max
    }

    /// Whether the range holds this slice.
    pub fn contains(self, slice: Slice) -> bool {
        self.min <= slice && slice <= self.max
    }

    /// The numbers of the slices.
    pub const fn as_range(self) -> RangeInclusive<u16> {
        self.min.0..=self.max.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_those_of_pekko() {
        let vectors = [
            ("pid-1", 111),
            ("pid-2", 112),
            ("pid-6712", 92),
            ("polygenelubricants", 0),
            ("user|1", 960),
            ("User|\u{3c1}-1", 620),
            ("A|\u{1F642}", 832),
            ("p500", 645),
            ("p20180", 645),
            ("p92", 905),
            ("", 0),
        ];
        for (persistence_id, slice) in vectors {
            assert_eq!(Slice::of(persistence_id).get(), slice, "{persistence_id}");
        }
    }

    #[test]
    fn every_slice_is_in_exactly_one_range_of_a_split() {
        for count in [1, 2, 4, 64, 1024] {
            let ranges = SliceRange::split(count).unwrap();
            assert_eq!(ranges.len(), usize::from(count));
            for number in 0..NUMBER_OF_SLICES {
                let slice = Slice::new(number).unwrap();
                let holders = ranges.iter().filter(|range| range.contains(slice)).count();
                assert_eq!(holders, 1, "slice {number} of a split into {count}");
            }
        }
    }

    #[test]
    fn a_split_that_does_not_divide_1024_is_refused() {
        for count in [0, 3, 5, 100, 2048] {
            assert!(SliceRange::split(count).is_none(), "{count}");
        }
    }
}
