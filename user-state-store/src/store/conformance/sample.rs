//! Ids, writes and questions that the promises are checked with.

use std::num::NonZeroUsize;

use crate::changes::ChangesQuery;
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::{InvalidPersistenceId, PersistenceId};
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::Write;
use crate::tags::Tags;

/// More rows than any promise writes, where paging is not the question.
pub(super) const LIMIT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

pub(super) fn id(text: &str) -> Result<PersistenceId, InvalidPersistenceId> {
    PersistenceId::unique(text)
}

pub(super) fn ids(prefix: &str, count: usize) -> Result<Vec<PersistenceId>, InvalidPersistenceId> {
    (0..count)
        .map(|n| id(&format!("{prefix}-{n:04}")))
        .collect()
}

/// A revision that is written as a number in a promise; negative ones are none.
pub(super) fn revision(number: i64) -> Revision {
    Revision::new(number).unwrap_or_default()
}

/// A payload that names its revision, so that rows of different revisions differ. Spaced as JSONB gives it back, so that
/// its bytes come back from every column.
pub(super) fn payload(number: i64) -> Payload {
    bytes(format!("{{\"revision\": {number}}}").into_bytes())
}

pub(super) fn bytes(bytes: Vec<u8>) -> Payload {
    Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("com.example.Sample"),
        bytes,
    }
}

pub(super) fn create(id: &PersistenceId) -> Write {
    put(id, 0, 1)
}

pub(super) fn put(id: &PersistenceId, expected: i64, new: i64) -> Write {
    put_payload(id, expected, new, payload(new))
}

pub(super) fn put_payload(id: &PersistenceId, expected: i64, new: i64, payload: Payload) -> Write {
    put_tagged(id, expected, new, payload, Tags::NONE)
}

pub(super) fn put_tagged(
    id: &PersistenceId,
    expected: i64,
    new: i64,
    payload: Payload,
    tags: Tags,
) -> Write {
    Write::update(id.clone(), revision(expected), payload)
        .at_revision(revision(new))
        .tags(tags)
}

pub(super) fn mark(id: &PersistenceId, expected: i64) -> Write {
    Write::mark(id.clone(), revision(expected))
}

pub(super) fn erase(id: &PersistenceId, expected: i64) -> Write {
    Write::erase(id.clone(), revision(expected))
}

/// All changes of an entity type until now.
pub(super) fn all_changes(entity_type: &str) -> ChangesQuery {
    ChangesQuery {
        limit: LIMIT,
        ..ChangesQuery::all(entity_type, SliceRange::ALL)
    }
}
