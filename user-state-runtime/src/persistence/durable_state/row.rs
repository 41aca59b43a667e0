//! The row that an entity knows to be stored: what its next write expects to find.

use std::num::NonZeroI64;

use chrono::{DateTime, Utc};
use user_state_store::Revision;

use crate::persistence::Known;

/// A row, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row {
    revision: Revision,
    /// `db_timestamp` if it is known, in a form in which "unknown" takes no space: a million idle entities have one.
    at: Option<NonZeroI64>,
}

impl Row {
    /// No row.
    pub(crate) const NONE: Self = Self {
        revision: Revision::NONE,
        at: None,
    };

    pub(crate) fn new(revision: Revision, db_timestamp: Option<DateTime<Utc>>) -> Self {
        Self {
            revision,
            // No instant of chrono's has as few microseconds as `i64::MIN`, so no instant becomes the zero.
            at: db_timestamp
                .and_then(|at| NonZeroI64::new(at.timestamp_micros().wrapping_sub(i64::MIN))),
        }
    }

    /// When the row was written, in whole microseconds.
    pub(crate) fn db_timestamp(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.at?.get().wrapping_add(i64::MIN))
    }
}

impl Known for Row {
    fn revision(self) -> Revision {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_to_the_microsecond_and_takes_eight_bytes() {
        let micros = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        for at in [
            DateTime::UNIX_EPOCH,
            micros(-1),
            micros(1_700_000_000_123_456),
            micros(DateTime::<Utc>::MIN_UTC.timestamp_micros()),
            micros(DateTime::<Utc>::MAX_UTC.timestamp_micros()),
        ] {
            let row = Row::new(Revision::FIRST, Some(at));
            assert_eq!(row.db_timestamp(), Some(at));
        }
        assert_eq!(Row::new(Revision::FIRST, None).db_timestamp(), None);
        assert_eq!(size_of::<Row>(), size_of::<Revision>() + 8);
    }
}
