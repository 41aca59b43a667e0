//! Entities leave memory: the idle ones, and the least recent ones if there is no room.
//!
//! Entities are ordered by their last message, so the oldest is at the front: expiry costs nothing per
//! message and needs no timer per entity.

use std::time::Duration;

use user_state_store::{PersistenceId, Revision};

use super::core::Core;
use crate::clock::Moment;
use crate::effects::{Counter, Effects, Hands};
use crate::entity::Entity;
use crate::lifecycle::{LifecycleEvent, PassivationReason};
use crate::persistence::Key;
use crate::real_time::RealTime;

/// The most entities that leave in one turn: some tenths of a millisecond, so that no other user waits
/// for millions of idle ones.
const LEAVES_PER_TURN_MAX: usize = 1_024;

/// How long no entity leaves after such a turn: the least that tokio's timer knows.
///
/// A thread that never sleeps while millions leave has used up its share of the processor when somebody
/// asks, and the operating system lets others go first for milliseconds. Some 400,000 users per second
/// leave a shard all the same, which is more than can come to life.
const LEAVES_PAUSE: Duration = Duration::from_millis(1);

impl<E: Effects> Core<E> {
    /// Lets a turn's worth of entities leave, if the pause after the last such turn is over.
    pub(super) fn expire_in_turns(&mut self, now: impl Fn() -> RealTime, out: &mut E) {
        if !self.has_more_due() && self.expire(out) {
            self.leaves_resume = Some(now() + LEAVES_PAUSE);
        }
    }

    /// Lets entities leave that were idle for the time-out; one that is busy or dirty leaves when it is
    /// flushed. True if more may be due.
    pub(super) fn expire(&mut self, out: &mut E) -> bool {
        let budget = LEAVES_PER_TURN_MAX.min(self.entities.len());
        let leaving = self.idle_and_due(budget);
        for key in &leaving {
            self.passivate(*key, PassivationReason::Idle, out);
        }
        for _ in leaving.len()..budget {
            let Some(key) = self.next_due() else {
                return false;
            };
            self.expire_one(key, out);
        }
        self.next_due().is_some()
    }

    /// An entity that is due and was not asked to leave yet.
    fn next_due(&mut self) -> Option<Key> {
        let first = self.entities.oldest();
        let due = first.filter(|(_, entity)| self.is_due(entity));
        if let Some((key, _)) = due {
            return Some(key);
        }
        let (key, touched) = self.entities.first_straggler()?;
        self.limits.is_due(touched, self.now).then_some(key)
    }

    fn expire_one(&mut self, key: Key, out: &mut E) {
        let Some(live) = self.entities.get(key) else {
            return;
        };
        if live.entity.is_idle() {
            self.passivate(key, PassivationReason::Idle, out);
            return;
        }
        let leaving = live.entity.is_leaving();
        self.entities.set_aside(key);
        if !leaving {
            self.leaves_opened = true;
            let leave = self.open_leave(PassivationReason::Idle);
            self.with_entity(key, out, |entity, around| entity.accept(leave, around));
        }
    }

    /// Those at the front that are idle and due, up to the first that is not. Their places are looked
    /// up before any of them leaves, so that the cache misses overlap.
    fn idle_and_due(&self, most: usize) -> Vec<Key> {
        let front = self.entities.iter().take(most);
        let leaving: Vec<_> = front
            .take_while(|(_, entity)| entity.is_idle() && self.is_due(entity))
            .map(|(key, _)| key)
            .collect();
        for key in &leaving {
            self.entities.prefetch_place(*key);
        }
        leaving
    }

    /// Whether an entity was idle for the time-out, by the latest clock reading.
    pub(super) fn is_due(&self, entity: &Entity<E>) -> bool {
        self.limits.is_due(entity.touched(), self.now)
    }

    /// Whether idle entities are left that leave after a pause.
    pub(super) fn has_more_due(&self) -> bool {
        self.leaves_resume.is_some()
    }

    /// When the next entity is due; `None` without any. Those that were asked to leave already do so
    /// without it.
    pub(super) fn next_idle_time(&mut self) -> Option<Moment> {
        let straggler = self.entities.first_straggler().map(|(_, touched)| touched);
        let oldest = self.entities.oldest().map(|(_, entity)| entity.touched());
        let first = oldest.into_iter().chain(straggler).min()?;
        Some(first + self.limits.idle_timeout)
    }

    /// Takes an entity with nothing to lose out of memory.
    pub(super) fn passivate(
        &mut self,
        key: Key,
        reason: PassivationReason,
        out: &mut E,
    ) -> Option<(PersistenceId, Revision)> {
        let (id, entity) = self.entities.remove(key)?;
        let revision = entity.durable();
        out.hands().discard(entity);
        out.count(Counter::Passivated, 1);
        out.count(Counter::Left, 1);
        out.publish(|| LifecycleEvent::Passivated {
            persistence_id: id.clone(),
            revision,
            reason,
        });
        Some((id, revision))
    }

    /// Whether another entity may come to life; the least recent idle one leaves for it if necessary.
    pub(super) fn make_room(&mut self, out: &mut E) -> bool {
        if self.entities.len() < self.limits.live_entities_max {
            return true;
        }
        // The oldest entities are normally idle, except those with a write in flight or unresolved, and
        // some with requests of their own.
        let candidates_max = 2 * self.limits.batch_rows_max * self.limits.batches_in_flight_max;
        let candidates = self.entities.iter().take(candidates_max);
        let mut idle = candidates.filter(|(_, entity)| entity.is_idle());
        let Some((key, _)) = idle.next() else {
            return false;
        };
        drop(idle);
        self.passivate(key, PassivationReason::Limit, out).is_some()
    }
}
