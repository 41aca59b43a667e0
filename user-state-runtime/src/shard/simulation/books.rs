//! What a core counts and publishes, against what it was given.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

use super::database::EntityId;
use super::ledger::Number;
use crate::effects::Counter;
use crate::error::RequestError;

/// What happened to a core, as counted by the world around it, and what the core says about it.
#[derive(Debug, Default)]
pub(super) struct Books {
    counted: HashMap<Counter, u64>,
    happened: HashMap<Counter, u64>,
    /// Failures of entities that were published, and those that happened.
    pub(super) reported: u64,
    pub(super) failures: u64,
    /// Entities that another writer changed, or that lost the answer of a write.
    pub(super) contended: BTreeSet<EntityId>,
    /// Those of them that lost an answer.
    pub(super) lost: BTreeSet<EntityId>,
    pub(super) shuts_down: bool,
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
    pub(super) fn count(&mut self, counter: Counter, by: u64) {
        *self.counted.entry(counter).or_default() += by;
    }

    pub(super) fn happened(&mut self, what: Counter) {
        *self.happened.entry(what).or_default() += 1;
    }

    pub(super) fn counted(&self, counter: Counter) -> u64 {
        self.counted.get(&counter).copied().unwrap_or_default()
    }

    /// What is counted happened, and nothing happened without being counted.
    pub(super) fn check(&self, code: &UserCode) -> Result<(), String> {
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
    pub(super) fn check_error(
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

/// What the code of the user did.
#[derive(Debug, Default)]
pub(super) struct UserCode {
    pub(super) panicked: Cell<bool>,
    /// How many handlers were started.
    pub(super) starts: Cell<u64>,
    /// The commands whose handler was ever started.
    pub(super) handled: RefCell<BTreeSet<Number>>,
}
