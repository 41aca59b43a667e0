//! What a live feed has told of late.

use chrono::{DateTime, Utc};
use hashlink::LinkedHashMap;

use crate::persistence_id::PersistenceId;
use crate::revision::Revision;

/// The latest told revision of each of the entities told last, at most a fixed number of them.
#[derive(Debug)]
pub(super) struct Memory {
    told: LinkedHashMap<PersistenceId, (DateTime<Utc>, Revision)>,
    entities_max: usize,
}

impl Memory {
    pub(super) fn new(entities_max: usize) -> Self {
        Self {
            told: LinkedHashMap::new(),
            entities_max,
        }
    }

    /// Whether exactly this row was told. An entity that was erased and made again has another time.
    pub(super) fn knows(&self, id: &PersistenceId, at: DateTime<Utc>, revision: Revision) -> bool {
        self.told.get(id) == Some(&(at, revision))
    }

    /// Notes a row; forgets the entity told longest ago where there are too many.
    pub(super) fn note(&mut self, id: PersistenceId, at: DateTime<Utc>, revision: Revision) {
        self.told.insert(id, (at, revision));
        if self.told.len() > self.entities_max {
            self.told.pop_front();
        }
    }

    /// Forgets rows of before an instant, which are not read any more. Those behind a younger one stay a while.
    pub(super) fn forget_before(&mut self, instant: DateTime<Utc>) {
        while self.told.front().is_some_and(|(_, (at, _))| *at < instant) {
            self.told.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }
}
