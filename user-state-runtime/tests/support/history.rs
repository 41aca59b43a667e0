//! What callers of one ledger were told, and whether the ledger's final state can be the truth behind it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use user_state_runtime::testkit::{FaultyStore, WriteFault};
use user_state_runtime::{EntityRef, ExecuteError, RequestError, Versioned};
use user_state_store::Revision;

use super::ledger::{Ledger, add};

/// What the callers of one ledger were told. Clones are the same history.
///
/// Every command adds one amount that no other command adds, and every event is remembered in order, so the amount at
/// position `n` of the final state is that of the command at revision `n`.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    acknowledged: Vec<(Revision, i64)>,
    not_applied: Vec<i64>,
    unknown: Vec<i64>,
    reads: Vec<Versioned<Ledger>>,
    /// The highest revision told so far.
    highest: Revision,
    /// Answers that were behind what had been told before their call: the least that they had to be, and what they were.
    stale: Vec<(Revision, Revision)>,
}

impl Told {
    /// Remembers that a call was told this revision, which must not be below the least one.
    fn tell(&mut self, least: Revision, revision: Revision) {
        if revision < least {
            self.stale.push((least, revision));
        }
        self.highest = self.highest.max(revision);
    }
}

/// How many commands had which answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    pub acknowledged: usize,
    pub not_applied: usize,
    pub unknown: usize,
}

impl History {
    /// Adds an amount, and remembers the answer.
    pub async fn add(&self, ledger: &EntityRef<Ledger>, amount: i64) {
        let before = self.highest();
        let answer = ledger.execute(add(amount)).await;
        let mut told = self.0.lock().unwrap();
        match answer {
            Ok(revision) => {
                told.acknowledged.push((revision, amount));
                told.tell(before.next().unwrap(), revision);
            }
            Err(ExecuteError::Failed(RequestError::Unknown)) => told.unknown.push(amount),
            Err(error) => {
                assert!(error.is_definitely_not_applied(), "{error:?}");
                told.not_applied.push(amount);
            }
        }
    }

    /// Reads, and remembers what was seen; a read that fails has seen nothing.
    pub async fn read(&self, ledger: &EntityRef<Ledger>) {
        let before = self.highest();
        if let Ok(read) = ledger.state().await {
            let mut told = self.0.lock().unwrap();
            told.tell(before, read.revision);
            told.reads.push(read);
        }
    }

    /// The highest revision told so far, to know before a call what its answer must not be behind.
    fn highest(&self) -> Revision {
        self.0.lock().unwrap().highest
    }

    /// Checks that every answer knew of all that had been told before its call. Holds where one runtime owns the ledger.
    pub fn check_nothing_told_was_stale(&self) {
        let told = self.0.lock().unwrap();
        assert!(told.stale.is_empty(), "{:?}", told.stale);
    }

    /// Checks everything that was told against the final state.
    pub fn check(&self, last: &Versioned<Ledger>) -> Answers {
        let told = self.0.lock().unwrap();
        let applied = &last.state.recent;
        let count = usize::try_from(last.revision.get()).unwrap();
        assert_eq!(applied.len(), count, "each command is a revision");
        assert_eq!(last.state.balance, applied.iter().sum::<i64>());

        let distinct: HashSet<_> = applied.iter().collect();
        assert_eq!(distinct.len(), count, "a command was applied twice");
        for (revision, amount) in &told.acknowledged {
            let position = usize::try_from(revision.get()).unwrap() - 1;
            assert_eq!(
                applied.get(position),
                Some(amount),
                "an acknowledged command was lost, or its revision used again"
            );
        }
        for amount in &told.not_applied {
            assert!(
                !distinct.contains(amount),
                "{amount} was surely not applied, and is there"
            );
        }
        let unknown = told.unknown.iter();
        let landed = unknown.filter(|amount| distinct.contains(amount)).count();
        assert_eq!(count, told.acknowledged.len() + landed);
        for read in &told.reads {
            let seen = &read.state.recent;
            assert_eq!(i64::try_from(seen.len()).unwrap(), read.revision.get());
            assert!(applied.starts_with(seen), "a state that never was durable");
        }
        Answers {
            acknowledged: told.acknowledged.len(),
            not_applied: told.not_applied.len(),
            unknown: told.unknown.len(),
        }
    }
}

impl std::ops::Add for Answers {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            not_applied: self.not_applied + other.not_applied,
            unknown: self.unknown + other.unknown,
        }
    }
}

/// Pseudo-random numbers that a seed decides: Marsaglia's xorshift.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below this one.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Some write fault.
    pub fn write_fault(&mut self) -> WriteFault {
        const FAULTS: [WriteFault; 5] = [
            WriteFault::FailBefore,
            WriteFault::FailAfterCommit,
            WriteFault::LoseRequest,
            WriteFault::LoseAnswer,
            WriteFault::Conflict,
        ];
        FAULTS[usize::try_from(self.below(5)).unwrap()]
    }
}

/// Injects a random write fault before each of the following batches, but for every third one, until the store has
/// seen `batches` of them.
pub async fn disturb(store: Arc<FaultyStore>, seed: u64, batches: u64) {
    let mut chance = Chance::seeded(seed);
    for batch in 0..batches {
        store.batches_arrived(batch).await;
        if chance.below(3) > 0 {
            store.fail_writes(chance.write_fault(), 1);
        }
    }
    store.heal();
}
