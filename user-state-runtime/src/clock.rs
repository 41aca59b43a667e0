//! Time as a parameter.
//!
//! **Problem.** Idle time-outs of half an hour have to be tested exactly, in milliseconds, with a real database
//! underneath. Tokio's paused time cannot do that: it races ahead while a socket is waited for.
//!
//! **How.** The runtime reads time through a [`Clock`] only. [`SystemClock`] reads the machine's clocks; the one behind the
//! test kit's `ManualTime` stands still until it is advanced.
//!
//! **Not here.** Deadlines of database calls: they are always real time.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// A reading of a clock: the time since that clock's origin, in whole nanoseconds.
///
/// Readings of one clock never go backwards. Those of different clocks have nothing to do with each other.
///
/// ```
/// use std::time::Duration;
/// use user_state_runtime::Moment;
///
/// let start = Moment::ORIGIN + Duration::from_secs(1);
/// assert!(start < start + Duration::from_nanos(1));
/// assert_eq!((start + Duration::MAX) + Duration::MAX, Moment::ORIGIN + Duration::MAX, "saturates");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The clock's origin.
    pub const ORIGIN: Self = Self(0);

    /// How long after the origin this is.
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// Saturates some 584 years after the origin.
impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Where a runtime reads time.
///
/// # Contract
/// `now` never goes backwards and is cheap: it is read for every message.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time that idle time-outs count by.
    fn now(&self) -> Moment;

    /// The calendar time, for instants that are stored.
    fn utc_now(&self) -> DateTime<Utc>;

    /// Returns when `now` has reached `moment`.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn sleep_until(&self, moment: Moment);
}

/// The machine's clocks: monotonic for idle time, calendar for stored instants.
///
/// ```
/// use user_state_runtime::{Clock, SystemClock};
///
/// let clock = SystemClock::new();
/// assert!(clock.now() <= clock.now());
/// ```
#[derive(Clone, Copy)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SystemClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SystemClock")
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment::ORIGIN + self.origin.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock everybody else reads"
    )]
    fn utc_now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    async fn sleep_until(&self, moment: Moment) {
        match self.origin.checked_add(moment.since_origin()) {
            Some(instant) => tokio::time::sleep_until(instant).await,
            None => std::future::pending().await,
        }
    }
}
