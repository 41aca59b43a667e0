//! What the callers of a run measured, gathered at little cost.
//!
//! A histogram for each of ten thousand callers would take more memory than what is measured, and one that each
//! request locks would slow the requests. So a caller keeps its latest figures and hands them over by the dozen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::exit::Failure;

/// How many figures a caller hands over at once.
const FIGURES_AT_ONCE: usize = 64;

/// The longest time that is told from a longer one, in microseconds: a minute.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

/// Three digits of a time are kept.
const DIGITS: u8 = 3;

/// The figures of all callers.
pub(crate) struct Tally(Mutex<Totals>);

/// Times and errors.
#[derive(Clone)]
pub(crate) struct Totals {
    pub(crate) micros: Histogram<u64>,
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

/// One caller's side of a tally.
pub(crate) struct Figures {
    tally: Arc<Tally>,
    micros: Vec<u32>,
}

impl Tally {
    pub(crate) fn new() -> Result<Arc<Self>, Failure> {
        let micros = Histogram::new_with_max(LATENCY_MAX_MICROS, DIGITS)
            .map_err(|error| Failure::new(1, error.to_string()))?;
        Ok(Arc::new(Self(Mutex::new(Totals {
            micros,
            errors: BTreeMap::new(),
        }))))
    }

    /// A caller's side.
    pub(crate) fn figures(self: &Arc<Self>) -> Figures {
        Figures {
            tally: Arc::clone(self),
            micros: Vec::with_capacity(FIGURES_AT_ONCE),
        }
    }

    /// What was handed over so far.
    pub(crate) fn totals(&self) -> Totals {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Figures {
    /// A request was answered after this time.
    pub(crate) fn answered(&mut self, after: Duration) {
        self.micros
            .push(u32::try_from(after.as_micros()).unwrap_or(u32::MAX));
        if self.micros.len() == FIGURES_AT_ONCE {
            self.hand_over();
        }
    }

    /// A request failed.
    pub(crate) fn failed(&self, reason: &'static str) {
        *self.tally.lock().errors.entry(reason).or_default() += 1;
    }

    fn hand_over(&mut self) {
        let mut totals = self.tally.lock();
        for micros in self.micros.drain(..) {
            totals.micros.saturating_record(micros.into());
        }
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        self.hand_over();
    }
}
