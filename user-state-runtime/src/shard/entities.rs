//! A shard's live entities: found by id or by key, and in the order of their last message.
//!
//! Messages come almost in the order of their time, so the order is a list to whose end an entity moves,
//! and costs nothing to keep. Those that a late message put behind later ones are found through a heap.
//!
//! They stand side by side in one block of memory. Whoever has work for one keeps its key, so that an id is looked up
//! only when a message comes; with a million entities each look-up waits for memory several times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use slotmap::{Key as _, SlotMap};
use user_state_store::PersistenceId;

use crate::clock::Moment;
use crate::effects::Effects;
use crate::entity::Entity;
use crate::persistence::Key;

/// The live entities.
pub(super) struct Entities<E: Effects> {
    slots: SlotMap<Key, Live<E>>,
    by_id: HashTable<Place>,
    hashes: DefaultHashBuilder,
    /// The ends of the order; null if nobody is in it.
    oldest: Key,
    newest: Key,
    /// The latest message of all that were ever in the order.
    latest: Moment,
    /// Those with a message that is earlier than one ahead of them in the order, by its time. An entry
    /// whose entity has left, or has another message since, means nothing.
    stragglers: BinaryHeap<Reverse<(Moment, Key)>>,
}

/// An entity with its id, and its neighbours in the order.
pub(super) struct Live<E: Effects> {
    pub(super) id: PersistenceId,
    pub(super) entity: Entity<E>,
    /// The id's, as in the index.
    hash: u32,
    place: InOrder,
    straggles: bool,
    older: Key,
    newer: Key,
}

/// Whether an entity is in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InOrder {
    Yes,
    /// It was asked to leave, or does so when its write is resolved.
    SetAside,
}

/// An entry of the index. It has its hash with it, so that the index grows without a look at the entities.
#[derive(Clone, Copy)]
struct Place {
    hash: u32,
    key: Key,
}

impl Place {
    /// The hash as the index wants it, which goes by both its ends.
    fn spread(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }
}

impl<E: Effects> Entities<E> {
    pub(super) fn new() -> Self {
        Self {
            slots: SlotMap::new(),
            by_id: HashTable::new(),
            hashes: DefaultHashBuilder::default(),
            oldest: Key::null(),
            newest: Key::null(),
            latest: Moment::ORIGIN,
            stragglers: BinaryHeap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Where this entity is, if it is live.
    pub(super) fn key_of(&self, id: &PersistenceId) -> Option<Key> {
        let hash = self.hash_of(id);
        let is_here = |place: &Place| {
            place.hash == hash && self.get(place.key).is_some_and(|it| it.id == *id)
        };
        let place = self.by_id.find(Place::spread(hash), is_here)?;
        Some(place.key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Live<E>> {
        self.slots.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Live<E>> {
        self.slots.get_mut(key)
    }

    /// Brings an entity into the processor's cache, and what is needed of its neighbours to renew it.
    pub(super) fn prefetch(&self, key: Key) {
        let Some(live) = self.get(key) else { return };
        let newer = |key| self.get(key).map(|live: &Live<E>| live.newer);
        let older = |key| self.get(key).map(|live: &Live<E>| live.older);
        std::hint::black_box((
            newer(live.older),
            older(live.newer),
            live.entity.open_requests(),
        ));
    }

    /// Brings an entity's place in the index into the processor's cache.
    pub(super) fn prefetch_place(&self, key: Key) {
        let Some(live) = self.get(key) else { return };
        let place = self
            .by_id
            .find(Place::spread(live.hash), |place| place.key == key);
        std::hint::black_box(place.is_some());
    }

    /// Adds an entity, which nobody of its id may be before, as the newest.
    pub(super) fn insert(&mut self, id: PersistenceId, entity: Entity<E>) -> Key {
        let hash = self.hash_of(&id);
        let key = self.slots.insert(Live {
            id,
            entity,
            hash,
            place: InOrder::SetAside,
            straggles: false,
            older: Key::null(),
            newer: Key::null(),
        });
        self.by_id
            .insert_unique(Place::spread(hash), Place { hash, key }, |place| {
                Place::spread(place.hash)
            });
        self.append(key);
        self.note_straggler(key);
        key
    }

    /// Takes an entity out.
    pub(super) fn remove(&mut self, key: Key) -> Option<(PersistenceId, Entity<E>)> {
        self.unlink(key);
        let Live {
            id, entity, hash, ..
        } = self.slots.remove(key)?;
        let place = self
            .by_id
            .find_entry(Place::spread(hash), |place| place.key == key);
        if let Ok(place) = place {
            place.remove();
        }
        Some((id, entity))
    }

    /// An entity has a message: makes it the newest, unless it is set aside.
    pub(super) fn renew(&mut self, key: Key) {
        let Some(live) = self.slots.get(key) else {
            return;
        };
        if live.place == InOrder::Yes {
            if key != self.newest {
                self.unlink(key);
                self.append(key);
            }
            self.note_straggler(key);
        }
    }

    /// Takes an entity out of the order: it leaves without being found there.
    pub(super) fn set_aside(&mut self, key: Key) {
        self.unlink(key);
    }

    /// All in the order, the one whose last message is the longest ago first, but for stragglers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Entity<E>)> {
        let at = |key| self.get(key).map(|live| (key, live));
        std::iter::successors(at(self.oldest), move |(_, live)| at(live.newer))
            .map(|(key, live)| (key, &live.entity))
    }

    /// The first in the order.
    pub(super) fn oldest(&self) -> Option<(Key, &Entity<E>)> {
        self.iter().next()
    }

    /// All, in the order or not.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.slots.keys()
    }

    /// The straggler whose last message is the longest ago.
    pub(super) fn first_straggler(&mut self) -> Option<(Key, Moment)> {
        loop {
            let Reverse((at, key)) = *self.stragglers.peek()?;
            match self.slots.get_mut(key) {
                Some(live) if live.place == InOrder::Yes && live.entity.touched() == at => {
                    return Some((key, at));
                }
                Some(live) => {
                    live.straggles = false;
                    self.stragglers.pop();
                    // It may straggle since then, too.
                    self.note_straggler(key);
                }
                None => drop(self.stragglers.pop()),
            }
        }
    }

    fn note_straggler(&mut self, key: Key) {
        let live_entities = self.slots.len();
        let Some(live) = self.slots.get_mut(key) else {
            return;
        };
        let touched = live.entity.touched();
        if touched >= self.latest {
            self.latest = touched;
        } else if live.place == InOrder::Yes && !live.straggles {
            live.straggles = true;
            self.stragglers.push(Reverse((touched, key)));
            if self.stragglers.len() > 2 * live_entities {
                let slots = &self.slots;
                self.stragglers
                    .retain(|Reverse((_, key))| slots.contains_key(*key));
            }
        }
    }

    fn hash_of(&self, id: &PersistenceId) -> u32 {
        let [.., a, b, c, d] = self.hashes.hash_one(id).to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    fn unlink(&mut self, key: Key) {
        let Some(live) = self.slots.get_mut(key) else {
            return;
        };
        if std::mem::replace(&mut live.place, InOrder::SetAside) == InOrder::SetAside {
            return;
        }
        let (older, newer) = (live.older, live.newer);
        match self.slots.get_mut(older) {
            Some(live) => live.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer) {
            Some(live) => live.older = older,
            None => self.newest = older,
        }
    }

    fn append(&mut self, key: Key) {
        let older = std::mem::replace(&mut self.newest, key);
        match self.slots.get_mut(older) {
            Some(live) => live.newer = key,
            None => self.oldest = key,
        }
        if let Some(live) = self.slots.get_mut(key) {
            live.place = InOrder::Yes;
            live.older = older;
            live.newer = Key::null();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use user_state_domain::UserState;

    use super::*;
    use crate::clock::Moment;
    use crate::persistence::DurableState;
    use crate::shard::rim::Rim;

    type World = Rim<UserState, DurableState<UserState>>;

    fn id(number: usize) -> PersistenceId {
        PersistenceId::unique(&format!("mall-{number}")).unwrap()
    }

    fn entity() -> Entity<World> {
        Entity::new(UserState::default(), Moment::ORIGIN)
    }

    #[test]
    fn the_order_and_who_is_found_are_those_of_a_plain_queue_whatever_happens() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut entities = Entities::new();
        let mut queue: VecDeque<(usize, Key)> = VecDeque::new();
        let mut gone = Vec::new();
        for _ in 0..20_000 {
            let number = random.usize(0..200);
            let known = queue.iter().position(|(other, _)| *other == number);
            match (known.and_then(|at| queue.remove(at)), random.u8(0..3)) {
                (None, _) => queue.push_back((number, entities.insert(id(number), entity()))),
                (Some((_, key)), 0) => {
                    let (removed, _) = entities.remove(key).unwrap();
                    assert_eq!(removed, id(number));
                    gone.push((number, key));
                }
                (Some(renewed), _) => {
                    entities.renew(renewed.1);
                    queue.push_back(renewed);
                }
            }
            assert_eq!(entities.len(), queue.len());
            assert_eq!(
                entities.oldest().map(|(key, _)| key),
                queue.front().map(|(_, key)| *key)
            );
        }
        let order: Vec<_> = entities.iter().map(|(key, _)| key).collect();
        assert_eq!(order, queue.iter().map(|(_, key)| *key).collect::<Vec<_>>());
        for number in 0..200 {
            let expected = queue.iter().find(|(other, _)| *other == number);
            assert_eq!(entities.key_of(&id(number)), expected.map(|(_, key)| *key));
        }
        assert!(gone.len() > 1_000);
        for (_, key) in gone {
            assert!(
                entities.get(key).is_none(),
                "a key is never somebody else's"
            );
            assert!(entities.remove(key).is_none());
        }
        assert_eq!(entities.len(), queue.len());
    }

    #[test]
    fn ids_of_one_hash_are_told_apart() {
        // More ids than a 32-bit hash has room for without any being met twice, by the birthday problem.
        let mut entities = Entities::new();
        let keys: Vec<_> = (0..200_000)
            .map(|number| entities.insert(id(number), entity()))
            .collect();
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(entities.key_of(&id(number)), Some(*key));
        }
        assert_eq!(entities.key_of(&id(200_000)), None);
    }
}
