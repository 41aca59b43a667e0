//! Watching the lifecycle stream in tests.

use std::time::Duration;

use user_state_store::PersistenceId;

use crate::lifecycle::{Lagged, Lifecycle, LifecycleEvent};
use crate::runtime::Runtime;

/// How long a probe waits for an event, in real time. Generous: it only ends a test that fails.
pub const EXPECT_WITHIN: Duration = Duration::from_secs(10);

/// Expects lifecycle events, of all entities or of one.
///
/// Every expectation fails on lost events: a probe that lagged has seen nothing that it could vouch for.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use user_state_runtime::testkit::TestProbe;
/// use user_state_runtime::{LifecycleEvent, Runtime};
///
/// let runtime = Runtime::for_users(&store).start()?;
/// let user = runtime.user(&"mall-user".parse()?);
/// let mut probe = TestProbe::of(&runtime, user.persistence_id().clone());
/// user.state().await?;
/// user.passivate().await?;
/// assert!(matches!(probe.expect().await?, LifecycleEvent::Recovered { .. }));
/// assert!(matches!(probe.expect().await?, LifecycleEvent::Passivated { .. }));
/// probe.expect_none()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestProbe {
    lifecycle: Lifecycle,
    only: Option<PersistenceId>,
    within: Duration,
}

/// An expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Nothing happened in time.
    #[error("no event within {0:?}")]
    Nothing(Duration),
    /// Something else happened.
    #[error("unexpected event: {0:?}")]
    Unexpected(LifecycleEvent),
    /// Events were lost.
    #[error(transparent)]
    Lagged(#[from] Lagged),
    /// The runtime has ended.
    #[error("the runtime has ended")]
    Ended,
}

impl TestProbe {
    /// Watches all entities of a runtime from now on.
    pub fn new<A>(runtime: &Runtime<A>) -> Self
    where
        A: cqrs_es::Aggregate + Clone + 'static,
        A::Command: Send + 'static,
        A::Error: Send + Sync + 'static,
    {
        Self {
            lifecycle: runtime.lifecycle(),
            only: None,
            within: EXPECT_WITHIN,
        }
    }

    /// Watches one entity from now on.
    pub fn of<A>(runtime: &Runtime<A>, persistence_id: PersistenceId) -> Self
    where
        A: cqrs_es::Aggregate + Clone + 'static,
        A::Command: Send + 'static,
        A::Error: Send + Sync + 'static,
    {
        Self {
            only: Some(persistence_id),
            ..Self::new(runtime)
        }
    }

    /// The same probe with another real time to wait for each event.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// The next event, waited for.
    ///
    /// # Errors
    /// Where none comes in time, or events were lost.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event of the watched entity.
    pub async fn expect(&mut self) -> Result<LifecycleEvent, ProbeError> {
        let within = self.within;
        tokio::time::timeout(within, self.next())
            .await
            .map_err(|_| ProbeError::Nothing(within))?
    }

    /// The next event that meets the condition; others are passed over.
    ///
    /// # Errors
    /// Where none comes in time, or events were lost.
    ///
    /// # Cancel safety
    /// Dropping the future loses the events passed over.
    pub async fn expect_where(
        &mut self,
        condition: impl Fn(&LifecycleEvent) -> bool,
    ) -> Result<LifecycleEvent, ProbeError> {
        let within = self.within;
        let search = async {
            loop {
                let event = self.next().await?;
                if condition(&event) {
                    return Ok(event);
                }
            }
        };
        tokio::time::timeout(within, search)
            .await
            .map_err(|_| ProbeError::Nothing(within))?
    }

    /// Nothing has happened up to now. Meant behind a barrier, such as an advance of a manual clock.
    ///
    /// # Errors
    /// Where something has, or events were lost.
    pub fn expect_none(&mut self) -> Result<(), ProbeError> {
        while let Some(event) = self.lifecycle.try_recv() {
            let event = event?;
            if self.watches(&event) {
                return Err(ProbeError::Unexpected(event));
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<LifecycleEvent, ProbeError> {
        loop {
            let event = self.lifecycle.recv().await.ok_or(ProbeError::Ended)??;
            if self.watches(&event) {
                return Ok(event);
            }
        }
    }

    fn watches(&self, event: &LifecycleEvent) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only == event.persistence_id())
    }
}
