//! Entities leave memory: the idle ones, and the least recent ones where there is no room.
//!
//! Entities stand in the order of their last message, so the oldest is at the front: expiry costs nothing per
//! touch and needs no timer per entity.

use std::time::Duration;

use cqrs_es::Aggregate;
use tokio::time::Instant;
use user_state_store::{PersistenceId, Revision};

use super::core::Core;
use super::entities::EntityKey;
use crate::clock::Moment;
use crate::entity::Entity;
use crate::lifecycle::{LifecycleEvent, PassivationReason};

/// The most entities that leave in one turn: some tenths of a millisecond, so that no other user waits for
/// millions of idle ones.
const LEAVES_PER_TURN_MAX: usize = 1_024;

/// How long nobody leaves after such a turn: the least that tokio's timer knows.
///
/// A thread that never sleeps while millions leave has used up its share of the processor when somebody asks, and the
/// operating system lets others go first for milliseconds. Some 400,000 users per second leave a shard all the same, which is
/// more than can come to life.
const LEAVES_PAUSE: Duration = Duration::from_millis(1);

impl<A> Core<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    /// Lets a turn's worth of entities leave, where the pause after the last such turn is over.
    pub(super) fn expire_in_turns(&mut self, now: impl FnOnce() -> Instant) {
        if !self.has_more_due() && self.expire() {
            self.leaves_resume = Some(now() + LEAVES_PAUSE);
        }
    }

    /// Lets entities leave that were idle for the time-out; one that is busy or dirty leaves when it is flushed.
    /// True where more may be due.
    pub(super) fn expire(&mut self) -> bool {
        let budget = LEAVES_PER_TURN_MAX.min(self.entities.len());
        let leaving = self.idle_and_due(budget);
        for key in &leaving {
            self.passivate(*key, PassivationReason::Idle);
        }
        for _ in leaving.len()..budget {
            let Some((key, entity)) = self.entities.oldest() else {
                return false;
            };
            if !self.is_due(entity) {
                return false;
            }
            if entity.is_idle() {
                self.passivate(key, PassivationReason::Idle);
                continue;
            }
            let leaving = entity.is_leaving();
            self.entities.renew(key);
            if !leaving {
                self.leaves_opened = true;
                let leave = self.open_leave(PassivationReason::Idle);
                self.with_entity(key, |entity, driver| {
                    entity.enqueue(leave, driver);
                    entity.pump(driver)
                });
            }
        }
        self.front_is_due_and_stays()
    }

    /// Those at the front who are idle and due, up to the first who is not. Where each stands is looked up before any of
    /// them leaves, so that the processor waits for memory once for several.
    fn idle_and_due(&self, most: usize) -> Vec<EntityKey> {
        let front = self.entities.iter().take(most);
        let leaving: Vec<_> = front
            .take_while(|(_, entity)| entity.is_idle() && self.is_due(entity))
            .map(|(key, _)| key)
            .collect();
        for key in &leaving {
            self.entities.touch_place(*key);
        }
        leaving
    }

    /// Whether an entity at the front is due and nobody has told it yet.
    fn front_is_due_and_stays(&self) -> bool {
        self.entities
            .oldest()
            .is_some_and(|(_, entity)| self.is_due(entity) && !entity.is_leaving())
    }

    /// Whether an entity was idle for the time-out, by the latest clock reading.
    pub(super) fn is_due(&self, entity: &Entity<A>) -> bool {
        self.context.settings.is_due(entity.touched(), self.now)
    }

    /// Whether idle entities are left to let go after a pause.
    pub(super) fn has_more_due(&self) -> bool {
        self.leaves_resume.is_some()
    }

    /// When the next entity is due; `None` without any. Those told to leave already are waited for otherwise.
    pub(super) fn next_idle_time(&self) -> Option<Moment> {
        let (_, entity) = self
            .entities
            .iter()
            .find(|(_, entity)| !entity.is_leaving())?;
        Some(entity.touched() + self.context.settings.idle_timeout)
    }

    pub(super) fn on_idle_time(&mut self) {
        self.now = self.now.max(self.context.clock.now());
    }

    /// Takes an entity with nothing to lose out of memory.
    pub(super) fn passivate(
        &mut self,
        key: EntityKey,
        reason: PassivationReason,
    ) -> Option<(PersistenceId, Revision)> {
        let (id, entity) = self.entities.remove(key)?;
        let revision = entity.durable();
        self.counters.passivated(1);
        self.counters.entity_left();
        self.context
            .lifecycle
            .publish(|| LifecycleEvent::Passivated {
                persistence_id: id.clone(),
                revision,
                reason,
            });
        Some((id, revision))
    }

    /// Whether another entity may come to life; the least recent idle one leaves for it where that is needed.
    pub(super) fn make_room(&mut self) -> bool {
        let settings = &self.context.settings;
        if self.entities.len() < settings.live_entities_max / settings.shards {
            return true;
        }
        // The least recent are idle but for those whose write is on its way or stuck, and some with requests of their own.
        let candidates_max = 2 * settings.batch_rows_max * settings.batches_in_flight_max;
        let candidates = self.entities.iter().take(candidates_max);
        let mut idle = candidates.filter(|(_, entity)| entity.is_idle());
        let Some((key, _)) = idle.next() else {
            return false;
        };
        drop(idle);
        self.passivate(key, PassivationReason::Limit).is_some()
    }
}
