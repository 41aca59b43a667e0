//! What has to hold for a batch, or nothing of it is applied.
//!
//! **Problem.** Of several programs that each know an entity, one may write it at a time. A program that lost this right
//! without noticing (it was stopped, or cut off) must not write any more.
//!
//! **How.** The right is to a range of slices, and has an epoch, a number that goes up each time the range changes hands. A
//! batch names for each of its ranges the [`Guard`] that it writes under. A [`GuardKind`] describes how a backend finds the
//! guards that do not hold, once per statement or transaction and not for each row. A statement with such a guard
//! applies nothing: the writes under it are [`Fenced`](crate::WriteOutcome::Fenced), and the others are sent again without
//! them.
//!
//! **Not here.** Who gets a range, and the table of the epochs.

use crate::slice::{Slice, SliceRange};
use crate::store::{InvalidBatch, Write};

/// How a backend finds the guards of a statement that do not hold; one `static` for each kind.
///
/// Each query reads a relation `guard`, with one row for each guard of the statement, and gives the `ordinal` of each that does
/// not hold, as one column:
///
/// | column | PostgreSQL | SQLite | what it is |
/// |---|---|---|---|
/// | `ordinal` | `bigint` | `INTEGER` | counts the guards of the statement from 1, by their slices |
/// | `first_slice`, `last_slice` | `int` | `INTEGER` | the range |
/// | `epoch` | `bigint` | `INTEGER` | the epoch |
///
/// What it finds has to stay true until the transaction ends. On SQLite the lock on the file sees to that. On PostgreSQL the
/// query has to lock: a function that takes a shared advisory lock of each range in order, and compares the epochs after that
/// with a snapshot of its own, costs least. Whoever raises an epoch takes the exclusive lock.
///
/// ```
/// use user_state_store::GuardKind;
///
/// static LEASE: GuardKind = GuardKind::new(
///     "SELECT lost
///      FROM (
///        SELECT array_agg(ordinal ORDER BY ordinal) AS ordinals,
///          array_agg(first_slice / 8 ORDER BY ordinal) AS ranges,
///          array_agg(epoch ORDER BY ordinal) AS epochs
///        FROM guard
///      ) AS g, lost_leases(g.ordinals, g.ranges, g.epochs) AS lost",
///     "SELECT ordinal
///      FROM guard AS g
///      WHERE NOT EXISTS (
///        SELECT 1 FROM leases AS l WHERE l.range_id = g.first_slice / 8 AND l.epoch = g.epoch
///      )",
/// );
/// # assert!(LEASE.sqlite().contains("leases"));
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct GuardKind {
    postgres: &'static str,
    sqlite: &'static str,
}

/// The right to write the entities of some slices.
///
/// ```
/// use user_state_store::{Guard, SliceRange};
///
/// // As of the third time that these slices changed hands.
/// let guard = Guard { slices: SliceRange::ALL, epoch: 3 };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The slices.
    pub slices: SliceRange,
    /// How often the right to them has changed hands.
    pub epoch: i64,
}

/// The guards of a batch, by their slices, and which of them each write is under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guards {
    kind: &'static GuardKind,
    by_slices: Vec<Guard>,
    /// For each write of the batch its guard's place.
    of_writes: Vec<usize>,
}

impl GuardKind {
    /// A kind with the query of each backend.
    pub const fn new(postgres: &'static str, sqlite: &'static str) -> Self {
        Self { postgres, sqlite }
    }

    /// What PostgreSQL asks.
    pub const fn postgres(&self) -> &'static str {
        self.postgres
    }

    /// What SQLite asks.
    pub const fn sqlite(&self) -> &'static str {
        self.sqlite
    }
}

impl Guards {
    /// Guards of these writes. Equal ones count once.
    pub(super) fn new(
        kind: &'static GuardKind,
        mut guards: Vec<Guard>,
        writes: &[Write],
    ) -> Result<Self, InvalidBatch> {
        guards.sort_unstable_by_key(|guard| (guard.slices.min(), guard.slices.max(), guard.epoch));
        guards.dedup();
        let overlap = guards
            .windows(2)
            .any(|pair| matches!(pair, [left, right] if right.slices.min() <= left.slices.max()));
        if overlap {
            return Err(InvalidBatch::OverlappingGuards);
        }
        let mut all = Self {
            kind,
            by_slices: guards,
            of_writes: Vec::new(),
        };
        let of_writes = writes
            .iter()
            .map(|write| all.place_of(write.persistence_id.slice()))
            .collect::<Option<Vec<_>>>();
        all.of_writes = of_writes.ok_or(InvalidBatch::Unguarded)?;
        Ok(all)
    }

    /// How a backend finds out whether they hold.
    pub fn kind(&self) -> &'static GuardKind {
        self.kind
    }

    /// The guards, by their slices.
    pub fn as_slice(&self) -> &[Guard] {
        &self.by_slices
    }

    /// The guard of this slice, if there is one.
    pub fn of(&self, slice: Slice) -> Option<Guard> {
        self.by_slices.get(self.place_of(slice)?).copied()
    }

    /// Where the guard of the write at this place stands in [`Guards::as_slice`].
    pub fn place_of_write(&self, index: usize) -> Option<usize> {
        self.of_writes.get(index).copied()
    }

    fn place_of(&self, slice: Slice) -> Option<usize> {
        let guards = &self.by_slices;
        let behind = guards.partition_point(|guard| guard.slices.min() <= slice);
        let place = behind.checked_sub(1)?;
        let guard = guards.get(place)?;
        guard.slices.contains(slice).then_some(place)
    }
}
