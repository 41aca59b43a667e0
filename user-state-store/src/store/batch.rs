//! A set of writes that a store can send together.

use crate::store::{Guard, GuardKind, Guards, Write};
use crate::tags::TAGS_MAX;

/// The most writes in a batch, and the most ids in a load.
///
/// The rows of a batch share one `db_timestamp`, and a Pekko change feed fails on as many rows of one timestamp as
/// its buffer holds, 1000 by default: half of that leaves room for another writer at the same microsecond. Beyond
/// some hundreds of rows a larger statement gains nothing, while its locks are held longer.
pub const BATCH_ROWS_MAX: usize = 500;

/// The most bytes of payloads and companions in a batch: 8 MiB keep one statement's memory on both sides small. A batch of
/// a single write may exceed it; the payload's own limit holds for that.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most payload bytes that a load answers with, and so the most that one holds in memory. A load of a single id may
/// exceed it; the payload's own limit holds for that.
pub const LOAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Writes of distinct entities, sorted by persistence id.
///
/// The order makes concurrent writers lock rows in the same order; distinct ids make each outcome belong to
/// one entity (an `UPDATE` that meets an id twice changes the row once, silently).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBatch {
    writes: Vec<Write>,
    guards: Option<Box<Guards>>,
    has_companions: bool,
}

/// Why writes make no batch. Programs that keep one write per entity never meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// Two writes for one id.
    #[error("a batch holds two writes for one persistence id")]
    RepeatedId,
    /// More writes than [`BATCH_ROWS_MAX`].
    #[error("a batch has at most {BATCH_ROWS_MAX} writes, this one has {rows}")]
    TooManyRows {
        /// How many there are.
        rows: usize,
    },
    /// More bytes of payloads and companions than [`BATCH_BYTES_MAX`].
    #[error(
        "a batch has at most {BATCH_BYTES_MAX} bytes of payloads and companions, this one has {bytes}"
    )]
    TooManyBytes {
        /// How many there are.
        bytes: usize,
    },
    /// A new revision that is not above the expected one, or a creating write above revision 1.
    #[error("a write's new revision must follow the expected one, and be 1 where it creates")]
    WrongRevision,
    /// More tags than [`TAGS_MAX`].
    #[error("a row has at most {TAGS_MAX} tags")]
    TooManyTags,
    /// [`Change::Erase`](crate::Change::Erase) of an entity that has no row.
    #[error("there is nothing to erase at revision 0")]
    NothingToErase,
    /// Guards that share a slice.
    #[error("two guards of a batch are for one slice")]
    OverlappingGuards,
    /// A write whose slice is in none of the batch's guards.
    #[error("a batch holds a write that none of its guards is for")]
    Unguarded,
}

impl WriteBatch {
    /// A batch of these writes; sorts them by persistence id.
    ///
    /// # Errors
    /// Where a rule of batches is broken; see [`InvalidBatch`].
    pub fn new(mut writes: Vec<Write>) -> Result<Self, InvalidBatch> {
        if writes.len() > BATCH_ROWS_MAX {
            return Err(InvalidBatch::TooManyRows { rows: writes.len() });
        }
        let bytes = writes.iter().map(Write::bytes).sum();
        if bytes > BATCH_BYTES_MAX && writes.len() > 1 {
            return Err(InvalidBatch::TooManyBytes { bytes });
        }
        writes.iter().try_for_each(Write::validate)?;
        writes.sort_unstable_by(|left, right| left.persistence_id.cmp(&right.persistence_id));
        let repeated = writes.windows(2).any(
            |pair| matches!(pair, [left, right] if left.persistence_id == right.persistence_id),
        );
        if repeated {
            return Err(InvalidBatch::RepeatedId);
        }
        let has_companions = writes.iter().any(|write| !write.companions.is_empty());
        Ok(Self {
            writes,
            guards: None,
            has_companions,
        })
    }

    /// The same batch, of which nothing is applied under a guard that does not hold. Guards without a write have no effect.
    ///
    /// # Errors
    /// If two guards share a slice, or a write has none.
    ///
    /// ```
    /// use user_state_store::{Guard, GuardKind, InvalidBatch, PersistenceId, SliceRange, WriteBatch};
    ///
    /// # static LEASES: GuardKind = GuardKind::new("", "");
    /// # fn example(writes: Vec<user_state_store::Write>) -> Result<(), Box<dyn std::error::Error>> {
    /// // The right to each range of eight slices, as this program knows it.
    /// let ranges = SliceRange::split(128).ok_or("128 divides 1024")?;
    /// let guards = ranges.into_iter().map(|slices| Guard { slices, epoch: 7 });
    /// let batch = WriteBatch::new(writes)?.guarded(&LEASES, guards)?;
    /// assert!(batch.guards().is_some());
    /// # Ok(())
    /// # }
    /// # example(Vec::new()).unwrap();
    /// ```
    pub fn guarded(
        mut self,
        kind: &'static GuardKind,
        guards: impl IntoIterator<Item = Guard>,
    ) -> Result<Self, InvalidBatch> {
        let guards = guards.into_iter().collect();
        let guards = Guards::new(kind, guards, &self.writes)?;
        self.guards = Some(Box::new(guards));
        Ok(self)
    }

    /// The same batch under the guards of another one, such as the one that it is a part of.
    ///
    /// # Errors
    /// If a write has none of them.
    pub fn guarded_as(self, guards: Option<&Guards>) -> Result<Self, InvalidBatch> {
        match guards {
            Some(guards) => self.guarded(guards.kind(), guards.as_slice().iter().copied()),
            None => Ok(self),
        }
    }

    /// What has to hold for the writes, if anything has to.
    pub fn guards(&self) -> Option<&Guards> {
        self.guards.as_deref()
    }

    /// Whether any write carries companions.
    pub fn has_companions(&self) -> bool {
        self.has_companions
    }

    /// The writes, in the order of their ids.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Gives the writes back, in the order of their ids.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}
