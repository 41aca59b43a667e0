//! Outcomes that know which write they are of, so that they can be reported in any order.

use std::sync::{Mutex, PoisonError};

use crate::error::Cause;
use crate::store::{DurableStateStore, UnknownOutcome, WriteBatch, WriteOutcome};

/// What [`DurableStateStore::write_early`](crate::DurableStateStore::write_early) calls with outcomes that are known before
/// the others of their batch.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use user_state_store::{DurableStateStore, WriteBatch};
///
/// /// How many writes of a batch were reported before the others.
/// async fn early(store: &dyn DurableStateStore, batch: &WriteBatch) -> usize {
///     let early = AtomicUsize::new(0);
///     let count = |settled: Vec<_>| drop(early.fetch_add(settled.len(), Ordering::Relaxed));
///     store.write_early(batch, &count).await;
///     early.into_inner()
/// }
/// ```
pub type Early<'a> = dyn Fn(Vec<Settled>) + Send + Sync + 'a;

/// The outcome of one write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Where the write stands in [`WriteBatch::writes`](crate::WriteBatch::writes), counted from 0.
    pub index: usize,
    /// What became of it.
    pub outcome: WriteOutcome,
}

impl Settled {
    /// The outcomes of a whole batch, which are in its order.
    pub fn in_order(outcomes: Vec<WriteOutcome>) -> Vec<Self> {
        let settled = outcomes.into_iter().enumerate();
        settled
            .map(|(index, outcome)| Self { index, outcome })
            .collect()
    }

    /// Writes a batch by [`DurableStateStore::write_early`] and waits for all of it: what
    /// [`DurableStateStore::write`] is in a store that reports early.
    ///
    /// # Cancel safety
    /// As for [`DurableStateStore::write`].
    pub async fn all_of(store: &dyn DurableStateStore, batch: &WriteBatch) -> Vec<WriteOutcome> {
        let early = Mutex::new(Vec::new());
        let collecting = |settled| {
            early
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(settled);
        };
        let last = store.write_early(batch, &collecting).await;
        let early = early.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self::collect(batch.writes().len(), early.into_iter().chain(last))
    }

    /// The outcomes in the order of a batch of so many writes. A write without an outcome may have been applied.
    pub fn collect(writes: usize, settled: impl IntoIterator<Item = Self>) -> Vec<WriteOutcome> {
        let mut outcomes = Vec::new();
        outcomes.resize_with(writes, || None);
        for Self { index, outcome } in settled {
            if let Some(slot) = outcomes.get_mut(index) {
                *slot = Some(outcome);
            }
        }
        let missing = || {
            WriteOutcome::Unknown(UnknownOutcome {
                session: None,
                cause: Cause::Protocol,
            })
        };
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(missing))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back_in_the_order_of_the_batch_and_a_missing_one_is_unknown() {
        let mut settled = Settled::in_order(vec![
            WriteOutcome::Conflict,
            WriteOutcome::Applied(None),
            WriteOutcome::Conflict,
        ]);
        settled.swap(0, 1);
        settled.pop();
        let outcomes = Settled::collect(3, settled);
        assert_eq!(outcomes[0], WriteOutcome::Conflict);
        assert_eq!(outcomes[1], WriteOutcome::Applied(None));
        assert!(matches!(outcomes[2], WriteOutcome::Unknown(_)));
    }
}
