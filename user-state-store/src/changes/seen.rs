//! The entities that a feed saw at one instant.
//!
//! **Problem.** Each change carries its offset, and the offset names everything seen at its instant. One statement can give
//! a hundred thousand rows one time: a map for each of their offsets would take the square of that.
//!
//! **How.** The offsets of one instant share one list that only grows, and each knows how much of it is its own. A map is
//! made when somebody asks for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::persistence_id::PersistenceId;
use crate::revision::Revision;

type Entry = (PersistenceId, Revision);

/// The entities seen at one instant, each with the revision seen; a part of a [`crate::TimestampOffset`].
///
/// Cloning is cheap, however many there are. The other methods cost as much as making a map.
///
/// ```
/// use user_state_store::{PersistenceId, Revision, Seen};
///
/// let id = PersistenceId::unique("mall-user")?;
/// let seen: Seen = [(id.clone(), Revision::FIRST)].into_iter().collect();
/// assert_eq!((seen.len(), seen.get(&id)), (1, Some(Revision::FIRST)));
/// for (id, revision) in seen.to_map() {
///     println!("{id} at revision {revision}");
/// }
/// # Ok::<(), user_state_store::InvalidPersistenceId>(())
/// ```
#[derive(Clone, Default)]
pub struct Seen {
    /// Most instants have one row, so the first entry stands alone.
    first: Option<Entry>,
    more: Option<Arc<Mutex<Vec<Entry>>>>,
    /// How many entries of `more` belong to this value.
    more_len: usize,
}

impl Seen {
    /// How many entities there are.
    pub fn len(&self) -> usize {
        if self.more_len == 0 {
            return usize::from(self.first.is_some());
        }
        self.to_map().len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The revision seen of an entity.
    pub fn get(&self, id: &PersistenceId) -> Option<Revision> {
        let first = self.first.as_ref().filter(|(first, _)| first == id);
        let more = self.more.as_ref().and_then(|more| {
            let more = lock(more);
            let mut own = more.iter().take(self.more_len);
            own.rfind(|(seen, _)| seen == id).map(|(_, seen)| *seen)
        });
        more.or(first.map(|(_, seen)| *seen))
    }

    /// All of them.
    pub fn to_map(&self) -> BTreeMap<PersistenceId, Revision> {
        let mut map: BTreeMap<_, _> = self.first.iter().cloned().collect();
        if let Some(more) = &self.more {
            // Of an entity that is there twice the later entry counts.
            map.extend(lock(more).iter().take(self.more_len).cloned());
        }
        map
    }

    /// Adds one, without a copy as long as this value is the longest of those that share its list.
    pub(crate) fn push(&mut self, id: PersistenceId, revision: Revision) {
        let entry = (id, revision);
        if self.first.is_none() {
            self.first = Some(entry);
            return;
        }
        let more = self.more.get_or_insert_default();
        let mut entries = lock(more);
        if entries.len() == self.more_len {
            entries.push(entry);
        } else {
            let mut own: Vec<Entry> = entries.iter().take(self.more_len).cloned().collect();
            own.push(entry);
            drop(entries);
            *more = Arc::new(Mutex::new(own));
        }
        self.more_len += 1;
    }
}

impl FromIterator<Entry> for Seen {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut seen = Self::default();
        for (id, revision) in entries {
            seen.push(id, revision);
        }
        seen
    }
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let shares = match (&self.more, &other.more) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        if shares && self.more_len == other.more_len {
            return self.first == other.first;
        }
        self.to_map() == other.to_map()
    }
}

impl Eq for Seen {}

impl fmt::Debug for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_map().fmt(formatter)
    }
}

/// A list of a thread that panicked is as good as any: a push leaves it whole.
fn lock(entries: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PersistenceId {
        PersistenceId::unique(name).unwrap()
    }

    fn seen(entries: &[(&str, i64)]) -> Seen {
        entries
            .iter()
            .map(|(name, number)| (id(name), Revision::new(*number).unwrap()))
            .collect()
    }

    #[test]
    fn values_that_share_a_list_keep_their_own_length_and_part_ways() {
        let mut longer = seen(&[("a", 1), ("b", 1)]);
        let shorter = longer.clone();
        let mut other = longer.clone();
        longer.push(id("c"), Revision::FIRST);
        other.push(id("d"), Revision::FIRST);
        assert_eq!(shorter, seen(&[("a", 1), ("b", 1)]));
        assert_eq!(longer, seen(&[("c", 1), ("b", 1), ("a", 1)]));
        assert_eq!(other, seen(&[("a", 1), ("b", 1), ("d", 1)]));
        assert_eq!(other.get(&id("c")), None);
    }

    #[test]
    fn of_an_entity_that_was_seen_twice_the_later_revision_counts() {
        let twice = seen(&[("a", 1), ("b", 1), ("a", 3), ("b", 2)]);
        assert_eq!(twice, seen(&[("a", 3), ("b", 2)]));
        assert_eq!((twice.len(), twice.get(&id("a"))), (2, Revision::new(3)));
        assert!(Seen::default().is_empty());
    }

    #[test]
    fn a_hundred_thousand_offsets_of_one_instant_share_their_list() {
        let mut longest = Seen::default();
        let mut all = Vec::new();
        for number in 0..100_000 {
            longest.push(id(&number.to_string()), Revision::FIRST);
            all.push(longest.clone());
        }
        let list = |seen: &Seen| seen.more.clone().unwrap();
        assert!(Arc::ptr_eq(&list(&all[1]), &list(&all[99_999])));
        assert_eq!(all[70].len(), 71);
        assert_eq!(all[99_999].len(), 100_000);
    }
}
