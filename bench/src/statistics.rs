//! Middle and spread of a few rounds.

/// The middle one of some figures, or the mean of the two in the middle; `None` of none.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied()?;
    if sorted.len().is_multiple_of(2) {
        let lower = sorted.get(sorted.len() / 2 - 1).copied()?;
        Some(f64::midpoint(lower, upper))
    } else {
        Some(upper)
    }
}

/// How far the largest and the smallest figure are apart, as a part of the median; `None` of none, and of a median
/// of 0.
pub(crate) fn spread(figures: &[f64]) -> Option<f64> {
    let median = median(figures).filter(|median| *median > 0.0)?;
    let least = figures.iter().copied().min_by(f64::total_cmp)?;
    let most = figures.iter().copied().max_by(f64::total_cmp)?;
    Some((most - least) / median)
}

/// A count as a number to calculate with. Counts here are far below the limit of 4 billion, at which it stops.
pub(crate) fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The same of a number of things in memory.
pub(crate) fn float_of(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal but for rounding.
    fn near(actual: Option<f64>, expected: f64) -> bool {
        actual.is_some_and(|actual| (actual - expected).abs() < 1e-9)
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert!(near(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(near(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(near(median(&[7.0]), 7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert!(near(median(&[10.0, 11.0, 9.0, 10.0, 1_000.0]), 10.0));
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert!(near(spread(&[90.0, 100.0, 120.0]), 0.3));
        assert!(near(spread(&[5.0]), 0.0));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[0.0, 0.0]), None);
    }

    #[test]
    fn a_count_stays_what_it_is() {
        assert!(near(Some(float(1_500_000)), 1_500_000.0));
    }
}
