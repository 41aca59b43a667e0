//! How a batch or a load that the database refuses is cut until the culprits are alone.
//!
//! **Problem.** A statement fails as a whole for one row. Halving finds the culprits, but where every row is refused it
//! would send twice as many statements as there are rows; and whoever stops early must not forget rows that would go
//! through.
//!
//! **How.** Both halves of a part are sent before either is cut again, so that a healthy half goes through at once. The
//! smallest part that fails is cut next, which leads to the first culprits in a few steps. While nothing was applied,
//! single rows from all other parts follow: when eight rows in succession fail with one SQLSTATE, the rest gets that
//! answer unsent. As soon as a row is applied every culprit is searched for.
//!
//! Plain data, without the writes themselves: rows are numbers.

use std::collections::VecDeque;

/// After so many single rows in succession that failed alike, the others are taken to fail, too.
const ALIKE_MAX: usize = 8;

/// Rows that are sent together.
pub(crate) type Part = Vec<usize>;

/// The parts of a batch that have no outcome yet.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// To be sent next; the last one first.
    pending: Vec<Part>,
    /// Refused as a whole; the smallest one last.
    refused: VecDeque<Part>,
    applied: bool,
    /// How many single rows in succession failed with this SQLSTATE.
    alike: (Box<str>, usize),
}

/// What follows from a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its parts are sent next.
    Cut,
    /// These rows fail: the one that was refused alone, or with it all that are left.
    Fail(Part),
}

impl Cuts {
    /// A batch in one part.
    pub(crate) fn of(rows: Part) -> Self {
        Self {
            pending: vec![rows],
            refused: VecDeque::new(),
            applied: false,
            alike: (Box::default(), 0),
        }
    }

    /// The next part to send.
    pub(crate) fn next(&mut self) -> Option<Part> {
        loop {
            if let Some(part) = self.pending.pop() {
                if part.is_empty() {
                    continue;
                }
                return Some(part);
            }
            if !self.applied && self.alike.1 > 0 {
                // One row of each other part in turn.
                let mut part = self.refused.pop_front()?;
                let row = part.pop();
                match part.len() {
                    0 => {}
                    1 => self.pending.push(part),
                    _ => self.refused.push_back(part),
                }
                self.pending.extend(row.map(|row| vec![row]));
            } else {
                let mut part = self.refused.pop_back()?;
                let behind = part.split_off(part.len() / 2);
                self.pending.push(behind);
                self.pending.push(part);
            }
        }
    }

    /// A part was answered. `applied` says whether any row of it was changed.
    pub(crate) fn answered(&mut self, applied: bool) {
        self.applied |= applied;
    }

    /// A part was refused. Without an SQLSTATE that could hold for all rows nothing is concluded for others.
    pub(crate) fn refused(&mut self, part: Part, code: Option<&str>) -> Verdict {
        if part.len() > 1 {
            self.refused.push_back(part);
            return Verdict::Cut;
        }
        match code {
            Some(code) if *self.alike.0 == *code => self.alike.1 += 1,
            Some(code) => self.alike = (code.into(), 1),
            None => self.alike = (Box::default(), 0),
        }
        if self.applied || self.alike.1 < ALIKE_MAX {
            return Verdict::Fail(part);
        }
        Verdict::Fail(part.into_iter().chain(self.take_rest()).collect())
    }

    /// Sends these rows once more, together.
    #[cfg(feature = "postgres")]
    pub(crate) fn again(&mut self, part: Part) {
        self.pending.push(part);
    }

    #[cfg(any(feature = "postgres", test))]
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.iter().all(Vec::is_empty) && self.refused.is_empty()
    }

    /// All rows that have no outcome yet.
    pub(crate) fn take_rest(&mut self) -> Part {
        let pending = std::mem::take(&mut self.pending);
        let refused = std::mem::take(&mut self.refused);
        pending.into_iter().chain(refused).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What becomes of rows when a server refuses some of them: statements sent, rows applied, rows failed.
    fn run(rows: usize, bad: impl Fn(usize) -> bool) -> (usize, BTreeSet<usize>, BTreeSet<usize>) {
        let mut cuts = Cuts::of((0..rows).collect());
        let (mut sent, mut applied, mut failed) = (0, BTreeSet::new(), BTreeSet::new());
        while let Some(part) = cuts.next() {
            assert!(!part.is_empty());
            sent += 1;
            if part.iter().any(|row| bad(*row)) {
                if let Verdict::Fail(rows) = cuts.refused(part, Some("42501")) {
                    for row in rows {
                        assert!(failed.insert(row), "{row} twice");
                    }
                }
            } else {
                cuts.answered(true);
                for row in part {
                    assert!(applied.insert(row), "{row} twice");
                }
            }
        }
        assert!(cuts.is_empty());
        (sent, applied, failed)
    }

    #[test]
    fn one_culprit_is_found_in_few_statements() {
        for culprit in [0, 1, 250, 499] {
            let (sent, applied, failed) = run(500, |row| row == culprit);
            assert_eq!((applied.len(), failed.len()), (499, 1));
            assert!(sent <= 19, "{sent}");
        }
    }

    #[test]
    fn where_every_row_is_refused_the_rest_is_not_sent() {
        let (sent, applied, failed) = run(500, |_| true);
        assert_eq!((applied.len(), failed.len()), (0, 500));
        assert!(sent <= 1 + 18 + 8, "{sent}");
        let (sent, ..) = run(40, |_| true);
        assert!(sent <= 1 + 12 + 8, "{sent}");
    }

    #[test]
    fn a_healthy_half_goes_through_whichever_it_is() {
        for healthy in [0..250, 250..500, 250..375, 375..500, 100..350] {
            let (_, applied, failed) = run(500, |row| !healthy.contains(&row));
            assert_eq!(applied, healthy.clone().collect(), "{healthy:?}");
            assert_eq!(failed.len(), 500 - healthy.len());
        }
    }

    #[test]
    fn failures_that_are_not_alike_say_nothing_of_the_others() {
        let mut cuts = Cuts::of((0..40).collect());
        let mut sent = 0;
        while let Some(part) = cuts.next() {
            sent += 1;
            let code = if sent % 2 == 0 { "P0001" } else { "23514" };
            let alone = part.len() == 1;
            match cuts.refused(part, Some(code)) {
                Verdict::Cut => assert!(!alone),
                Verdict::Fail(rows) => assert_eq!(rows.len(), 1),
            }
        }
        assert!(sent >= 40, "{sent}");
    }

    proptest! {
        /// Every row has one end, no healthy row fails once anything went through, and few statements are sent for each
        /// culprit.
        #[test]
        fn each_row_ends_once(bad in proptest::collection::btree_set(0_usize..300, 0..30), rows in 1_usize..300) {
            let (sent, applied, failed) = run(rows, |row| bad.contains(&row));
            prop_assert_eq!(applied.len() + failed.len(), rows);
            let expected: BTreeSet<_> = bad.iter().copied().filter(|row| *row < rows).collect();
            prop_assert!(failed.is_superset(&expected));
            if !applied.is_empty() {
                prop_assert_eq!(&failed, &expected);
            }
            let log = usize::try_from(rows.ilog2()).unwrap() + 2;
            prop_assert!(sent <= 2 * expected.len() * log + 16 + 8, "{sent}");
        }
    }
}
