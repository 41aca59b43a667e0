//! A compare-and-set on one entity's row.

use chrono::{DateTime, Utc};

use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::store::{Companion, Companions, InvalidBatch};
use crate::tags::{TAGS_MAX, Tags};

/// A compare-and-set on one entity's row.
///
/// Made by [`Write::create`], [`Write::update`], [`Write::mark`] and [`Write::erase`]. A [`WriteBatch`](crate::WriteBatch)
/// checks that revisions and tags are within the rules.
///
/// ```
/// use user_state_store::{
///     Manifest, Payload, PersistenceId, Revision, SerializerId, Tags, Write,
/// };
///
/// let id = PersistenceId::unique("mall-user")?;
/// let payload = Payload {
///     serializer_id: SerializerId::JACKSON_JSON,
///     manifest: Manifest::new("com.example.State"),
///     bytes: b"{}".to_vec(),
/// };
/// let create = Write::create(id.clone(), payload.clone()).tags(Tags::one("user"));
/// assert_eq!((create.expected, create.new_revision()), (Revision::NONE, Revision::FIRST));
///
/// let update = Write::update(id.clone(), Revision::FIRST, payload);
/// assert_eq!(update.new_revision().get(), 2);
/// let erase = Write::erase(id, update.new_revision());
/// assert_eq!(erase.new_revision(), Revision::NONE);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write {
    /// The entity.
    pub persistence_id: PersistenceId,
    /// The revision that must be stored; [`Revision::NONE`] if there must be no row.
    pub expected: Revision,
    /// The `db_timestamp` that must be stored beside it, as a load or
    /// [`WriteOutcome::Applied`](crate::WriteOutcome::Applied) gave it. If another writer removed the row and made it
    /// again, the revision may be the expected one, but the time is not. `None` compares the revision only. Ignored if
    /// there must be no row.
    pub expected_at: Option<DateTime<Utc>>,
    /// What becomes of the row.
    pub change: Change,
    /// Rows of other tables that are stored if this is applied, and only then.
    pub companions: Companions,
}

/// What a write does to its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores a state.
    Put {
        /// The new revision: above the expected one, and 1 for a creating write.
        revision: Revision,
        /// The state.
        payload: Payload,
        /// Replace the stored tags.
        tags: Tags,
    },
    /// Stores Pekko 2.0's delete marker at the next revision; tags stay as they are.
    Mark,
    /// Removes the row. After it the entity counts from revision 0 again.
    Erase,
}

impl Write {
    /// This change of the row at the expected revision, whenever that was written.
    pub fn new(persistence_id: PersistenceId, expected: Revision, change: Change) -> Self {
        Self {
            persistence_id,
            expected,
            expected_at: None,
            change,
            companions: Companions::NONE,
        }
    }

    /// Creates the row at revision 1, without tags.
    pub fn create(persistence_id: PersistenceId, payload: Payload) -> Self {
        Self::update(persistence_id, Revision::NONE, payload)
    }

    /// Replaces the state of the row at the expected revision by one at the next revision, without tags. Creates the row if
    /// [`Revision::NONE`] is expected.
    pub fn update(persistence_id: PersistenceId, expected: Revision, payload: Payload) -> Self {
        let change = Change::Put {
            // Not above the highest revision that there is, which no batch takes.
            revision: expected.next().unwrap_or(expected),
            payload,
            tags: Tags::NONE,
        };
        Self::new(persistence_id, expected, change)
    }

    /// Replaces the row by a delete marker at the next revision: [`Change::Mark`].
    pub fn mark(persistence_id: PersistenceId, expected: Revision) -> Self {
        Self::new(persistence_id, expected, Change::Mark)
    }

    /// Removes the row: [`Change::Erase`].
    pub fn erase(persistence_id: PersistenceId, expected: Revision) -> Self {
        Self::new(persistence_id, expected, Change::Erase)
    }

    /// The time that must be stored beside the expected revision, see [`Write::expected_at`](#structfield.expected_at).
    #[must_use]
    pub fn expected_at(mut self, db_timestamp: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.expected_at = db_timestamp.into();
        self
    }

    /// The tags that replace the stored ones. No effect on a write that stores no state.
    #[must_use]
    pub fn tags(mut self, new: Tags) -> Self {
        if let Change::Put { tags, .. } = &mut self.change {
            *tags = new;
        }
        self
    }

    /// The revision of the new state, if it is not the next one: a write may stand for several commands. No effect on a
    /// write that stores no state.
    #[must_use]
    pub fn at_revision(mut self, new: Revision) -> Self {
        if let Change::Put { revision, .. } = &mut self.change {
            *revision = new;
        }
        self
    }

    /// Adds rows of other tables that are stored if this is applied, and only then.
    #[must_use]
    pub fn companions(mut self, more: impl IntoIterator<Item = Companion>) -> Self {
        self.companions.extend(more);
        self
    }

    /// The revision after this write; [`Revision::NONE`] after [`Change::Erase`].
    pub fn new_revision(&self) -> Revision {
        match &self.change {
            Change::Put { revision, .. } => *revision,
            Change::Mark => self.expected.next().unwrap_or(self.expected),
            Change::Erase => Revision::NONE,
        }
    }

    /// The payload this write stores, if it stores one.
    pub fn payload(&self) -> Option<&Payload> {
        match &self.change {
            Change::Put { payload, .. } => Some(payload),
            Change::Mark | Change::Erase => None,
        }
    }

    /// How many payload bytes this write carries.
    pub fn payload_len(&self) -> usize {
        self.payload().map_or(0, |payload| payload.bytes.len())
    }

    /// How many bytes this write adds to a batch: its payload, and about what its companions take.
    pub fn bytes(&self) -> usize {
        self.payload_len() + self.companions.bytes()
    }

    pub(super) fn validate(&self) -> Result<(), InvalidBatch> {
        match &self.change {
            Change::Put { revision, .. } if *revision <= self.expected => {
                Err(InvalidBatch::WrongRevision)
            }
            Change::Put { revision, .. }
                if self.expected.is_none() && *revision != Revision::FIRST =>
            {
                Err(InvalidBatch::WrongRevision)
            }
            Change::Put { tags, .. } if tags.len() > TAGS_MAX => Err(InvalidBatch::TooManyTags),
            Change::Mark if self.expected.next().is_none() => Err(InvalidBatch::WrongRevision),
            Change::Erase if self.expected.is_none() => Err(InvalidBatch::NothingToErase),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Manifest, SerializerId};
    use crate::store::WriteBatch;

    fn id() -> PersistenceId {
        PersistenceId::unique("mall-user").unwrap()
    }

    fn payload() -> Payload {
        Payload {
            serializer_id: SerializerId::JACKSON_JSON,
            manifest: Manifest::new("com.example.State"),
            bytes: b"{}".to_vec(),
        }
    }

    #[test]
    fn no_batch_takes_an_update_beyond_the_highest_revision() {
        let highest = Revision::new(i64::MAX).unwrap();
        let update = Write::update(id(), highest, payload());
        assert_eq!(
            WriteBatch::new(vec![update]),
            Err(InvalidBatch::WrongRevision)
        );
    }

    #[test]
    fn tags_and_a_later_revision_change_writes_of_states_only() {
        let third = Revision::FIRST.advance(2).unwrap();
        let update = Write::update(id(), Revision::FIRST, payload())
            .tags(Tags::one("tag"))
            .at_revision(third);
        let change = Change::Put {
            revision: third,
            payload: payload(),
            tags: Tags::one("tag"),
        };
        assert_eq!(update, Write::new(id(), Revision::FIRST, change));
        for write in [Write::mark(id(), third), Write::erase(id(), third)] {
            let changed = write.clone().tags(Tags::one("tag")).at_revision(third);
            assert_eq!(changed, write);
        }
    }
}
