//! Changes become durable: batches are cut, land, conflict, fail, or have to be resolved.

use cqrs_es::Aggregate;
use tokio::time::Instant;
use user_state_store::{Resolution, UnresolvedWrite, Write, WriteBatch, WriteOutcome};

use super::Effect;
use super::core::Core;
use super::entities::EntityKey;
use crate::entity::{Entity, Moved};

impl<A> Core<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    /// Sends what is dirty, in as many batches as may be on their way. Behind one that is, only a full one is sent.
    pub(super) fn cut_batches(&mut self) {
        while self.batches_in_flight < self.context.settings.batches_in_flight_max
            && (self.batches_in_flight == 0 || self.fills_a_batch())
        {
            let (keys, writes) = self.cut_batch();
            if writes.is_empty() {
                return;
            }
            let batch = WriteBatch::new(writes).unwrap_or_else(|broken| {
                unreachable!("a shard cuts one valid write per entity: {broken}")
            });
            self.counters.batches(1);
            self.batches_in_flight += 1;
            self.effects.push(Effect::Write { keys, batch });
        }
    }

    /// Whether what is dirty is enough for a full batch, going by the rows.
    fn fills_a_batch(&self) -> bool {
        self.dirty.len() >= self.context.settings.batch_rows_max
    }

    fn cut_batch(&mut self) -> (Vec<EntityKey>, Vec<Write>) {
        let rows_max = self.context.settings.batch_rows_max;
        let bytes_max = self.context.settings.batch_bytes_max;
        let rows = self.dirty.len().min(rows_max);
        let mut keys = Vec::with_capacity(rows);
        let mut writes = Vec::with_capacity(rows);
        let mut bytes = 0;
        while writes.len() < rows_max {
            let Some((key, write)) = self.held_over.take().or_else(|| self.cut_next()) else {
                break;
            };
            bytes += write.payload_len();
            if bytes > bytes_max && !writes.is_empty() {
                self.held_over = Some((key, write));
                break;
            }
            keys.push(key);
            writes.push(write);
        }
        (keys, writes)
    }

    /// Cuts the write of the next dirty entity that has one.
    fn cut_next(&mut self) -> Option<(EntityKey, Write)> {
        while let Some(key) = self.dirty.pop_front() {
            let mut cut = None;
            self.with_entity(key, |entity, driver| match entity.cut(driver) {
                Ok(write) => {
                    cut = write;
                    // What waited for a creation to be cut goes on.
                    entity.pump(driver)
                }
                Err(moved) => moved,
            });
            if let Some(write) = cut {
                return Some((key, write));
            }
        }
        None
    }

    pub(super) fn on_written(
        &mut self,
        outcomes: Vec<(EntityKey, Write, WriteOutcome)>,
        now: Instant,
    ) {
        self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
        let (mut keys, mut unknown) = (Vec::new(), Vec::new());
        for (key, write, outcome) in outcomes {
            match outcome {
                WriteOutcome::Applied(db_timestamp) => {
                    self.with_entity(key, |entity, driver| {
                        entity.on_applied(db_timestamp, driver)
                    });
                }
                WriteOutcome::Conflict => {
                    self.with_entity(key, Entity::on_conflict);
                }
                WriteOutcome::NotApplied(error) => {
                    self.fail_barrier_of(key);
                    self.with_entity(key, |entity, driver| entity.on_not_applied(error, driver));
                }
                WriteOutcome::Unknown(outcome) => {
                    let deadline = now + self.context.settings.resolve_timeout;
                    self.with_entity(key, |entity, driver| {
                        entity.on_unknown(deadline, driver);
                        Moved::Waits
                    });
                    self.unresolved.push(key);
                    keys.push(key);
                    unknown.push(UnresolvedWrite::new(write, &outcome));
                }
            }
        }
        if !unknown.is_empty() {
            self.effects.push(Effect::Resolve {
                keys,
                writes: unknown,
                again: false,
            });
        }
    }

    pub(super) fn on_resolved(
        &mut self,
        resolutions: Vec<(EntityKey, UnresolvedWrite, Resolution)>,
    ) {
        let (mut keys, mut unresolved) = (Vec::new(), Vec::new());
        for (key, write, resolution) in resolutions {
            match resolution {
                Resolution::Unresolved(_) => {
                    keys.push(key);
                    unresolved.push(write);
                    continue;
                }
                Resolution::Applied => {
                    self.with_entity(key, |entity, driver| entity.on_applied(None, driver));
                }
                Resolution::NotApplied => {
                    self.with_entity(key, Entity::on_conflict);
                }
                Resolution::Unknown => {
                    self.fail_barrier_of(key);
                    self.with_entity(key, Entity::on_lost);
                }
            }
            self.unresolved.retain(|other| *other != key);
        }
        if !unresolved.is_empty() {
            self.effects.push(Effect::Resolve {
                keys,
                writes: unresolved,
                again: true,
            });
        }
    }
}
