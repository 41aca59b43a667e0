//! Change feeds by slice: the latest state of each entity, in the order of `db_timestamp`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};

use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::StoredState;

/// A position in a change feed: a `db_timestamp`, and what was already seen at exactly that instant.
///
/// The same as Pekko's `TimestampOffset`, without its `readTimestamp`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimestampOffset {
    /// Changes before this instant were seen; 1970-01-01 at the start of a feed.
    pub timestamp: DateTime<Utc>,
    /// The entities seen at exactly this instant, with the revision seen.
    pub seen: BTreeMap<PersistenceId, Revision>,
}

/// A question for one page of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesQuery {
    /// The entity type; empty for plain ids.
    pub entity_type: Box<str>,
    /// The slices.
    pub slices: SliceRange,
    /// Only rows written at or after this instant.
    pub from: DateTime<Utc>,
    /// Only rows written before this instant; `None` for the transaction time of the query itself.
    pub until: Option<DateTime<Utc>>,
    /// The most rows in the page.
    pub limit: NonZeroUsize,
}

/// The answer to a [`ChangesQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesPage {
    /// The rows, by `db_timestamp`, then revision.
    pub states: Vec<StoredState>,
    /// The upper bound that was used: give it as `until` to ask for the next page of the same query.
    pub until: DateTime<Utc>,
}
