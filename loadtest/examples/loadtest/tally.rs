//! What the callers of a run measured, gathered at little cost.
//!
//! A histogram for each of ten thousand callers would take more memory than what is measured, and one for all would have
//! processors wait for each other. So each thread has one of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use thread_local::ThreadLocal;

use crate::exit::Failure;

/// The longest time that is told from a longer one, in microseconds: a minute.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// Three digits of a time are kept.
const DIGITS: u8 = 3;

/// The figures of all callers.
pub(crate) struct Tally {
    nothing: Totals,
    of_threads: ThreadLocal<Mutex<Totals>>,
}

/// Times and errors.
#[derive(Clone)]
pub(crate) struct Totals {
    pub(crate) micros: Histogram<u64>,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn new() -> Result<Arc<Self>, Failure> {
        let micros = Histogram::new_with_max(LATENCY_MAX_MICROS, DIGITS)
            .map_err(|error| Failure::new(1, error.to_string()))?;
        let nothing = Totals {
            micros,
            errors: BTreeMap::new(),
        };
        Ok(Arc::new(Self {
            nothing,
            of_threads: ThreadLocal::new(),
        }))
    }

    /// A request was answered after this time.
    pub(crate) fn answered(&self, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.of_this_thread().micros.saturating_record(micros);
    }

    /// A request failed.
    pub(crate) fn failed(&self, reason: &'static str) {
        *self.of_this_thread().errors.entry(reason).or_default() += 1;
    }

    /// What was told so far.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.nothing.clone();
        for of_thread in &self.of_threads {
            let of_thread = lock(of_thread);
            // They are of one kind, so no time of one is out of the other's range.
            totals.micros += &of_thread.micros;
            for (reason, count) in &of_thread.errors {
                *totals.errors.entry(reason).or_default() += count;
            }
        }
        totals
    }

    fn of_this_thread(&self) -> MutexGuard<'_, Totals> {
        lock(self.of_threads.get_or(|| Mutex::new(self.nothing.clone())))
    }
}

fn lock(totals: &Mutex<Totals>) -> MutexGuard<'_, Totals> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}
