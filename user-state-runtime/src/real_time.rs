//! Real time as plain data, for decisions that read no clock.

use std::time::Duration;

/// An instant of real time, counted from the start of a shard.
///
/// Idle time is counted by the runtime's [`Clock`](crate::Clock), which tests move by hand. Deadlines
/// of database work are real time, whatever that clock says; the two types keep them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct RealTime(Duration);

impl RealTime {
    pub(crate) const fn since_start(self) -> Duration {
        self.0
    }

    pub(crate) const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }
}

impl std::ops::Add<Duration> for RealTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}
