//! Where a runtime reads time, and how it is told that a clock was moved by hand.

use std::fmt;
use std::sync::Arc;

use crate::barrier::Barrier;
use crate::clock::{Clock, SystemClock};

/// Where a runtime reads time: any [`Clock`], or the test kit's `ManualTime`. Both become one by
/// [`into`](Into::into), so [`RuntimeBuilder::clock`](crate::RuntimeBuilder::clock) takes either.
///
/// ```
/// use user_state_runtime::{SystemClock, TimeSource};
///
/// let time: TimeSource = SystemClock::new().into();
/// assert!(format!("{time:?}").starts_with("TimeSource(SystemClock"));
/// ```
pub struct TimeSource {
    clock: Arc<dyn Clock>,
    moved_by: Option<Arc<dyn MovedByHand>>,
}

/// A clock that somebody moves, and that waits for the runtimes on it when it is moved.
pub(crate) trait MovedByHand: Send + Sync {
    /// Takes the barrier of a runtime that starts on this clock.
    fn attach(&self, barrier: Barrier);
}

impl TimeSource {
    /// A clock that is moved by hand.
    #[cfg(feature = "testkit")]
    pub(crate) fn moved_by_hand<C: Clock + MovedByHand>(clock: Arc<C>) -> Self {
        let moved_by: Arc<dyn MovedByHand> = Arc::<C>::clone(&clock);
        Self {
            clock,
            moved_by: Some(moved_by),
        }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// A runtime has started: what moves the clock waits for it from now on.
    pub(crate) fn attach(&self, barrier: impl FnOnce() -> Barrier) {
        if let Some(moved_by) = &self.moved_by {
            moved_by.attach(barrier());
        }
    }
}

impl<C: Clock> From<C> for TimeSource {
    fn from(clock: C) -> Self {
        Self {
            clock: Arc::new(clock),
            moved_by: None,
        }
    }
}

impl Default for TimeSource {
    fn default() -> Self {
        SystemClock::new().into()
    }
}

impl fmt::Debug for TimeSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "TimeSource({:?})", self.clock)
    }
}
