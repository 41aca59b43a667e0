//! What a core counts and publishes, against what it was given.

use std::collections::{BTreeSet, HashMap};

use crate::effects::Counter;
use crate::error::RequestError;
use crate::testing::database::EntityId;
use crate::testing::hands::UserCode;

/// What happened to a core, as counted by the world around it, and what the core says about it.
#[derive(Debug, Default)]
pub(in crate::shard) struct Books {
    counted: HashMap<Counter, u64>,
    happened: HashMap<Counter, u64>,
    /// Failures of entities that were published, and those that happened.
    pub(in crate::shard) reported: u64,
    pub(in crate::shard) failures: u64,
    /// Entities that another writer changed, or that lost the answer of a write.
    pub(in crate::shard) contended: BTreeSet<EntityId>,
    /// Those of them that lost an answer.
    pub(in crate::shard) lost: BTreeSet<EntityId>,
    pub(in crate::shard) shuts_down: bool,
}

/// Counters that move once for each thing that happens.
const EXACT: [Counter; 9] = [
    Counter::Recovered,
    Counter::Passivated,
    Counter::Acknowledged,
    Counter::Rejected,
    Counter::Reads,
    Counter::Persisted,
    Counter::Batches,
    Counter::Conflicts,
    Counter::Unknown,
];

impl Books {
    pub(in crate::shard) fn count(&mut self, counter: Counter, by: u64) {
        *self.counted.entry(counter).or_default() += by;
    }

    pub(in crate::shard) fn happened(&mut self, what: Counter) {
        *self.happened.entry(what).or_default() += 1;
    }

    pub(in crate::shard) fn counted(&self, counter: Counter) -> u64 {
        self.counted.get(&counter).copied().unwrap_or_default()
    }

    /// What is counted happened, and nothing happened without being counted.
    pub(in crate::shard) fn check(&self, code: &UserCode) -> Result<(), String> {
        let of = |counter| self.happened.get(&counter).copied().unwrap_or_default();
        for counter in EXACT {
            let (counted, happened) = (self.counted(counter), of(counter));
            if counted != happened {
                return Err(format!(
                    "{counter:?} is {counted}, and it happened {happened} times"
                ));
            }
        }
        if self.counted(Counter::Commands) != code.starts.get() {
            return Err("each command that is handled is counted".to_owned());
        }
        if code.handled_thrice.get() {
            return Err("a command is handled again once".to_owned());
        }
        // The requests of the shard itself may fail, too.
        for counter in [Counter::Failed, Counter::Overloaded] {
            if self.counted(counter) < of(counter) {
                return Err(format!("{counter:?} is not counted each time"));
            }
        }
        if self.counted(Counter::Recovered) > self.counted(Counter::Entered) {
            return Err("an entity comes to life once".to_owned());
        }
        if self.reported != self.failures {
            return Err(format!(
                "{} failures are published, and {} happened",
                self.reported, self.failures
            ));
        }
        Ok(())
    }

    /// An error is true of what happened to the entity.
    pub(in crate::shard) fn check_error(
        &self,
        id: &EntityId,
        error: &RequestError,
        code: &UserCode,
    ) -> Result<(), String> {
        let is_true = match error {
            RequestError::Conflict => self.contended.contains(id),
            RequestError::Unknown => self.lost.contains(id) || self.shuts_down,
            RequestError::Closed => self.shuts_down,
            RequestError::Panicked => code.panicked.get(),
            error if error.is_behind_unresolved() => self.lost.contains(id),
            _ => true,
        };
        if is_true {
            Ok(())
        } else {
            Err(format!("{id} gives the error {error:?}, which is not true"))
        }
    }
}
