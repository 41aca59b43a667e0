//! Time that stands still until a test moves it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use crate::barrier::{Barrier, BarrierError};
use crate::clock::{Clock, Moment};
use crate::time_source::{MovedByHand, TimeSource};

/// A clock that stands still until it is advanced, with a real database underneath.
///
/// An advance is a barrier through every mailbox of the runtimes on this clock: it returns when all messages
/// accepted before are handled, and every entity that is due at the new time is flushed and passivated. Time
/// never moves back.
///
/// Clones are the same clock.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use std::time::Duration;
/// use user_state_runtime::Runtime;
/// use user_state_runtime::testkit::ManualTime;
///
/// let time = ManualTime::new();
/// let runtime = Runtime::for_users(&store).clock(time.clone()).start()?;
/// runtime.user(&"mall-user".parse()?).state().await?;
///
/// time.advance(Duration::from_secs(30 * 60 - 1)).await?;
/// assert_eq!(runtime.stats().live, 1);
/// time.advance(Duration::from_secs(1)).await?;
/// assert_eq!(runtime.stats().live, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ManualTime(Arc<Shared>);

struct Shared {
    origin: DateTime<Utc>,
    now: Mutex<Moment>,
    barriers: Mutex<Vec<Barrier>>,
}

impl ManualTime {
    /// A clock that stands at 2000-01-01T00:00:00Z.
    pub fn new() -> Self {
        Self::starting_at(DateTime::UNIX_EPOCH + TimeDelta::days(10_957))
    }

    /// A clock that stands at this instant.
    pub fn starting_at(origin: DateTime<Utc>) -> Self {
        Self(Arc::new(Shared {
            origin,
            now: Mutex::new(Moment::ORIGIN),
            barriers: Mutex::default(),
        }))
    }

    /// The time since the clock's origin.
    pub fn now(&self) -> Moment {
        self.0.now()
    }

    /// The calendar time.
    pub fn utc_now(&self) -> DateTime<Utc> {
        self.0.utc_now()
    }

    /// Moves the clock forward and waits until every runtime on it has caught up.
    ///
    /// # Errors
    /// Where a runtime could not flush an entity that was due, or did not catch up within its
    /// `advance_timeout`. The clock has moved all the same.
    ///
    /// # Cancel safety
    /// The clock moves at the first poll; dropping the future stops the waiting only.
    pub async fn advance(&self, by: Duration) -> Result<(), BarrierError> {
        let now = self.move_by(|_| Some(by));
        self.catch_up(now).await
    }

    /// Moves the clock forward to this instant; one that is not ahead leaves it where it is, and nothing waits.
    ///
    /// # Errors
    /// As [`ManualTime::advance`].
    ///
    /// # Cancel safety
    /// As [`ManualTime::advance`].
    pub async fn advance_to(&self, instant: DateTime<Utc>) -> Result<(), BarrierError> {
        // How far that is has to be seen under the lock: somebody else may be moving the clock, too.
        let now = self.move_by(|now| {
            let ahead = (instant - self.0.utc(now)).to_std().ok()?;
            Some(ahead).filter(|ahead| !ahead.is_zero())
        });
        self.catch_up(now).await
    }

    /// The time after the move; `None` where there was none.
    fn move_by(&self, by: impl FnOnce(Moment) -> Option<Duration>) -> Option<Moment> {
        let mut now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = *now + by(*now)?;
        Some(*now)
    }

    async fn catch_up(&self, now: Option<Moment>) -> Result<(), BarrierError> {
        let Some(now) = now else { return Ok(()) };
        let barriers = self
            .0
            .barriers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        join_all(barriers.iter().map(|barrier| barrier.pass(now)))
            .await
            .into_iter()
            .collect()
    }
}

impl Shared {
    fn utc(&self, now: Moment) -> DateTime<Utc> {
        TimeDelta::from_std(now.since_origin())
            .ok()
            .and_then(|elapsed| self.origin.checked_add_signed(elapsed))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

impl Default for ManualTime {
    fn default() -> Self {
        Self::new()
    }
}

impl From<ManualTime> for TimeSource {
    fn from(time: ManualTime) -> Self {
        Self::moved_by_hand(time.0)
    }
}

impl fmt::Debug for ManualTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[async_trait]
impl Clock for Shared {
    fn now(&self) -> Moment {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn utc_now(&self) -> DateTime<Utc> {
        self.utc(self.now())
    }

    /// Never returns: an advance passes the barrier instead.
    async fn sleep_until(&self, _moment: Moment) {
        std::future::pending::<()>().await;
    }
}

impl MovedByHand for Shared {
    fn attach(&self, barrier: Barrier) {
        self.barriers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(barrier);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ManualTime({})", self.utc_now())
    }
}
