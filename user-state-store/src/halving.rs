//! Finding the culprits among many by halves.
//!
//! **Problem.** A database answers a question about many with one error, because of one of them. **How.** The many are cut
//! in halves until the culprits are alone; the others have their answers. **Guarantees.** If everything fails alike, the
//! search ends after a few, which are taken from all over the place: a row of culprits is not everything. **Not here.**
//! Asking the database.

use std::ops::Range;

/// How many in succession may fail alone, alike and without any success, before the rest is taken to fail as well.
pub(crate) const ALIKE_MAX: usize = 8;

/// What is left to ask for, after a question about all of them failed.
#[derive(Debug)]
pub(crate) struct Halving {
    /// The parts to ask for.
    parts: Vec<Range<usize>>,
    /// The half to go on with, on the way down to one alone.
    half: Option<Range<usize>>,
    /// How many ways down were begun. They go left and right in turn.
    descents: usize,
    succeeded: bool,
    /// The code that the last ones failed with alone, and how many they were.
    alike: Option<(Box<str>, usize)>,
}

/// What to do with a part that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Nothing: its halves come.
    Halved,
    /// It was one alone: the failure is its own.
    Alone,
}

impl Halving {
    /// So many, which failed together.
    pub(crate) fn of(count: usize) -> Self {
        let mut halving = Self {
            parts: Vec::new(),
            half: None,
            descents: 0,
            succeeded: false,
            alike: None,
        };
        halving.split(&(0..count));
        halving
    }

    /// The next part to ask for: a half of the one that failed, or else the largest there is.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        if let Some(half) = self.half.take() {
            return Some(half);
        }
        self.descents += 1;
        let parts = self.parts.iter().enumerate();
        let (largest, _) = parts.max_by_key(|(_, part)| part.len())?;
        Some(self.parts.swap_remove(largest))
    }

    /// The part was answered.
    pub(crate) fn on_answered(&mut self) {
        self.succeeded = true;
        self.alike = None;
    }

    /// The part failed, with this code.
    pub(crate) fn on_failed(&mut self, part: &Range<usize>, code: &str) -> Failed {
        if part.len() > 1 {
            self.split(part);
            return Failed::Halved;
        }
        let count = match self.alike.take() {
            Some((last, count)) if &*last == code => count + 1,
            _ => 1,
        };
        self.alike = Some((code.into(), count));
        Failed::Alone
    }

    /// Whether the rest is to be taken to fail as the last one did.
    pub(crate) fn is_hopeless(&self) -> bool {
        !self.succeeded
            && self
                .alike
                .as_ref()
                .is_some_and(|(_, count)| *count >= ALIKE_MAX)
    }

    fn split(&mut self, part: &Range<usize>) {
        let middle = part.start + part.len() / 2;
        let (left, right) = (part.start..middle, middle..part.end);
        let (half, other) = if self.descents.is_multiple_of(2) {
            (left, right)
        } else {
            (right, left)
        };
        self.half = Some(half).filter(|half| !half.is_empty());
        self.parts
            .extend(Some(other).filter(|other| !other.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Who failed alone, who was left unasked, and how many questions that took.
    fn search(count: usize, culprits: &BTreeSet<usize>) -> (BTreeSet<usize>, usize, usize) {
        let mut halving = Halving::of(count);
        let (mut found, mut unasked, mut questions) = (BTreeSet::new(), 0, 0);
        while let Some(part) = halving.next() {
            if halving.is_hopeless() {
                unasked += part.len();
                continue;
            }
            questions += 1;
            if part.clone().all(|index| !culprits.contains(&index)) {
                halving.on_answered();
            } else if halving.on_failed(&part, "XX001") == Failed::Alone {
                found.extend(part);
            }
        }
        (found, unasked, questions)
    }

    #[test]
    fn exactly_the_culprits_fail() {
        for (count, culprits) in [
            (1, vec![0]),
            (2, vec![1]),
            (400, vec![7]),
            (400, vec![0, 1, 2, 3, 4, 5, 6, 399]),
            (400, (0..254).collect()),
            (400, (146..400).collect()),
            (400, (0..400).filter(|index| index % 2 == 0).collect()),
            (400, (0..400).filter(|index| index % 3 > 0).collect()),
        ] {
            let culprits = BTreeSet::from_iter(culprits);
            let (found, unasked, questions) = search(count, &culprits);
            assert_eq!((found, unasked), (culprits.clone(), 0));
            assert!(
                questions <= 2 * count.min(10 * culprits.len()),
                "{questions}"
            );
        }
    }

    #[test]
    fn a_search_ends_early_if_all_fail_alike() {
        let (found, unasked, questions) = search(500, &(0..500).collect());
        assert_eq!(found.len(), ALIKE_MAX);
        assert_eq!(unasked, 500 - ALIKE_MAX);
        assert!(questions <= 9 * ALIKE_MAX, "{questions}");
    }

    #[test]
    fn a_search_goes_on_while_codes_differ_or_something_succeeded() {
        let mut halving = Halving::of(100);
        let mut codes = ["XX001", "22021"].into_iter().cycle();
        let mut alone = 0;
        while let Some(part) = halving.next() {
            let code = if part.len() == 1 { codes.next() } else { None };
            if halving.on_failed(&part, code.unwrap_or_default()) == Failed::Alone {
                alone += 1;
            }
            assert!(!halving.is_hopeless());
        }
        assert_eq!(alone, 100);
    }
}
