//! Which stretch of time a feed asks for next. No clock, no I/O.
//!
//! **Problem.** The table's index begins with the slice, so the rows of a range of slices have to be sorted by their time: a
//! page that is cut out of everything behind an offset costs as much as everything.
//!
//! **How.** Each question has an end in time, and names how many rows a stretch may have at most before the database gives
//! up. The stretches follow the density that was found: one that was nearly empty is followed by a longer one, one that
//! did not fit into a page by a shorter one, and one with more rows than allowed is asked for again, shorter. Where
//! nothing is, the database says when the next row was written. Within an instant of more rows than a page holds, pages go
//! on by the revision and the id.
//!
//! **Guarantees.** Whatever the lengths are, no row is left out and none comes twice: a question begins exactly where
//! the last answer ended. See the simulation in `scan/tests.rs`.

use std::num::NonZeroUsize;

use chrono::{DateTime, TimeDelta, Utc};

use super::{ChangesPage, ChangesQuery, PageEnd, RowKey};
use crate::slice::SliceRange;

/// The step between two instants of a database.
const MICROSECOND: i64 = 1;

/// By how much stretches grow while they are nearly empty, and shrink while they hold too much.
const FACTOR: i64 = 16;

/// How many times the usual rows a page may have inside one instant. The index says nothing of the order there, so each
/// page looks at all that is left of the instant; the page's bytes remain the bound.
const IN_ONE_INSTANT: usize = 32;

/// A place in the order of all changes, and how to go on from it.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    from: DateTime<Utc>,
    after: Option<RowKey>,
    /// The length of the next stretch in microseconds; `None` for all that is left.
    length: Option<i64>,
    /// Whether the instant `from` has more rows than may be looked at for one page.
    in_one_instant: bool,
    /// The rows of the next page: fewer than `limit` while payloads are large, more inside one instant.
    rows: usize,
    limit: NonZeroUsize,
}

/// Whether a scan is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more.
    More,
    /// Everything before the end was answered.
    Done,
}

impl Scan {
    /// A scan that begins with all rows of this instant.
    ///
    /// It begins with all that is left: nearly always that is little, and if it is not, the answer is cheap.
    pub(super) fn new(from: DateTime<Utc>, limit: NonZeroUsize) -> Self {
        Self {
            from,
            after: None,
            length: None,
            in_one_instant: false,
            rows: limit.get(),
            limit,
        }
    }

    /// The same, but behind a row of the instant.
    pub(super) fn behind(from: DateTime<Utc>, after: RowKey, limit: NonZeroUsize) -> Self {
        Self {
            after: Some(after),
            ..Self::new(from, limit)
        }
    }

    /// The instant that the next question begins at: all rows before it were answered.
    pub(super) const fn from(&self) -> DateTime<Utc> {
        self.from
    }

    /// Whether the next question begins with all rows of its instant.
    pub(super) const fn begins_whole(&self) -> bool {
        self.after.is_none()
    }

    /// The next question.
    pub(super) fn query(
        &self,
        entity_type: &str,
        slices: SliceRange,
        until: Option<DateTime<Utc>>,
    ) -> ChangesQuery {
        let length = if self.in_one_instant {
            Some(MICROSECOND)
        } else {
            self.length
        };
        ChangesQuery {
            entity_type: entity_type.into(),
            slices,
            from: self.from,
            after: self.after.clone(),
            to: length.and_then(|length| later(self.from, length)),
            until,
            limit: NonZeroUsize::new(self.rows).unwrap_or(NonZeroUsize::MIN),
            rows_max: (!self.in_one_instant).then(|| self.limit.saturating_mul(TWO)),
        }
    }

    /// Takes note of the answer to the last question.
    pub(super) fn on_page(&mut self, page: &ChangesPage) -> Progress {
        let rows = page.states.len();
        match &page.end {
            PageEnd::Complete => return Progress::Done,
            PageEnd::Before(instant) => {
                self.grow(rows);
                self.from = *instant;
                self.after = None;
                self.in_one_instant = false;
            }
            PageEnd::Behind(at, key) => {
                self.go_behind(*at, key.clone());
                // Fewer rows than were asked for: they were large. The next page may be twice as long.
                self.rows = rows.max(1).saturating_mul(2).min(self.rows_max());
            }
            PageEnd::Crowded => self.shrink(page.until),
            PageEnd::Unreadable(_) => {
                if let Some(last) = page.states.last() {
                    self.go_behind(last.db_timestamp, RowKey::of(last));
                }
            }
        }
        Progress::More
    }

    /// Goes on behind a row, whatever the question was.
    pub(super) fn go_behind(&mut self, at: DateTime<Utc>, key: RowKey) {
        let passed = micros(at - self.from);
        if passed > 0 {
            self.in_one_instant = false;
            // As many rows need as much time again; three quarters of it, so that they fit.
            self.length = Some((passed / 4 * 3).max(MICROSECOND));
        } else {
            // A whole page of one instant.
            self.in_one_instant = true;
        }
        self.from = at;
        self.after = Some(key);
    }

    fn grow(&mut self, rows: usize) {
        if self.in_one_instant {
            self.rows = self.rows.min(self.limit.get());
            return;
        }
        self.rows = self.rows.saturating_mul(2).min(self.limit.get());
        let limit = self.limit.get();
        let factor = if rows < limit / 16 {
            FACTOR
        } else if rows < limit / 4 {
            4
        } else if rows < limit / 2 {
            2
        } else {
            1
        };
        self.length = self.length.and_then(|length| length.checked_mul(factor));
    }

    const fn rows_max(&self) -> usize {
        if self.in_one_instant {
            self.limit.get().saturating_mul(IN_ONE_INSTANT)
        } else {
            self.limit.get()
        }
    }

    fn shrink(&mut self, until: DateTime<Utc>) {
        let length = self.length.unwrap_or_else(|| micros(until - self.from));
        if length <= MICROSECOND {
            self.in_one_instant = true;
        }
        self.length = Some((length / FACTOR).max(MICROSECOND));
    }
}

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

fn micros(delta: TimeDelta) -> i64 {
    delta.num_microseconds().unwrap_or(i64::MAX)
}

/// `None` where there is no instant so late.
fn later(instant: DateTime<Utc>, micros: i64) -> Option<DateTime<Utc>> {
    instant.checked_add_signed(TimeDelta::microseconds(micros))
}

#[cfg(test)]
mod tests;
