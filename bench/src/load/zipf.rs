//! Popularity as it is in use: few users are asked for often, most rarely.

use fastrand::Rng;

use crate::statistics;

/// The exponent: the user of rank `n` is asked for in proportion to `1 / n^0.99`, as in the Yahoo! Cloud Serving
/// Benchmark (Cooper and others, 2010).
const EXPONENT: f64 = 0.99;

/// The same shuffle in every run.
const SEED: u64 = 20_261_122;

/// A Zipf distribution over users.
#[derive(Debug)]
pub(crate) struct Zipf {
    /// The share of each rank and all before it, ascending to 1.
    cumulative: Box<[f64]>,
    /// Whose rank it is: popular users do not stand beside each other in the table.
    users: Box<[usize]>,
}

impl Zipf {
    /// Over the users below this number, of whom there is at least one.
    pub(crate) fn new(users: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1_u64..).take(users.max(1)).map(|rank| {
            sum += statistics::float(rank).powf(-EXPONENT);
            sum
        });
        let mut cumulative: Box<[f64]> = weights.collect();
        for share in &mut cumulative {
            *share /= sum;
        }
        let mut users: Box<[usize]> = (0..cumulative.len()).collect();
        Rng::with_seed(SEED).shuffle(&mut users);
        Self { cumulative, users }
    }

    /// One user.
    pub(crate) fn choose(&self, random: &mut Rng) -> usize {
        let point = random.f64();
        let rank = self.cumulative.partition_point(|share| *share <= point);
        // Rounding can leave the last share a little below 1.
        self.users
            .get(rank)
            .or(self.users.last())
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_is_asked_for_about_twice_as_often_as_the_second() {
        let zipf = Zipf::new(1_000);
        let mut random = Rng::with_seed(1);
        let mut asked = vec![0_u32; 1_000];
        for _ in 0..200_000 {
            asked[zipf.choose(&mut random)] += 1;
        }
        let [first, second] = [asked[zipf.users[0]], asked[zipf.users[1]]].map(f64::from);
        assert!((1.8..2.2).contains(&(first / second)), "{first} {second}");
        assert!(asked.iter().all(|count| f64::from(*count) <= first));
    }

    #[test]
    fn every_user_can_be_asked_for_and_nobody_else() {
        let zipf = Zipf::new(3);
        let mut random = Rng::with_seed(1);
        let mut asked: Vec<usize> = (0..1_000).map(|_| zipf.choose(&mut random)).collect();
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked, [0, 1, 2]);
        assert_eq!(Zipf::new(1).choose(&mut random), 0);
    }
}
