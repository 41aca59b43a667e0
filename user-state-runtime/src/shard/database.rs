//! The database work of a shard: what its persistence gives back becomes an input of the core.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinError;
use user_state_store::PersistenceId;

use super::rim::Rim;
use super::{Input, Recovered, Report, Resolved};
use crate::live_aggregate::LiveAggregate;
use crate::persistence::{Key, Persistence, Storage};

/// A finished piece of database work.
pub(super) enum Done<A: LiveAggregate, P: Storage<A>> {
    Recovered(Recovered<Rim<A, P>>),
    Written(Report<Rim<A, P>>),
    Resolved(Resolved<Rim<A, P>>),
}

/// What a finished task is to the core.
pub(super) fn input<A: LiveAggregate, P: Storage<A>>(
    done: Result<Done<A, P>, JoinError>,
) -> Input<'static, Rim<A, P>> {
    match done {
        Ok(Done::Recovered(recovered)) => Input::Recovered(recovered),
        Ok(Done::Written(report)) => Input::Written(report),
        Ok(Done::Resolved(resolved)) => Input::Resolved(resolved),
        // The tokio runtime is going down, and this shard with it.
        Err(error) if error.is_cancelled() => Input::NobodyReturned,
        // A storage contains the panics of stores and mappings.
        Err(error) => unreachable!("database work always finishes: {error}"),
    }
}

pub(super) async fn recover<A: LiveAggregate, P: Storage<A>>(
    persistence: Arc<P>,
    wanted: Vec<(Key, PersistenceId)>,
) -> Done<A, P> {
    Done::Recovered(persistence.recover(wanted).await)
}

/// Writes a batch. What settles before the rest of it is reported to the shard at once.
pub(super) async fn write<A: LiveAggregate, P: Storage<A>>(
    persistence: Arc<P>,
    batch: Vec<(Key, <P as Persistence<A>>::Write)>,
    rows: usize,
    early: Arc<EarlyReports<A, P>>,
) -> Done<A, P> {
    // How many rows are freed when the batch's turn ends; it ends once.
    let rows = Mutex::new(rows);
    let freed = || std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
    let outcomes = persistence
        .write(batch, &|outcomes| {
            let rest_waits = outcomes.is_empty();
            early.push(Report {
                outcomes,
                rows_freed: if rest_waits { freed() } else { 0 },
            });
        })
        .await;
    Done::Written(Report {
        outcomes,
        rows_freed: freed(),
    })
}

/// Makes one attempt to find out what became of these writes, after a pause.
pub(super) async fn resolve<A: LiveAggregate, P: Storage<A>>(
    persistence: Arc<P>,
    lost: Vec<(Key, <P as Persistence<A>>::Lost)>,
    pause: Duration,
) -> Done<A, P> {
    tokio::time::sleep(pause).await;
    Done::Resolved(persistence.resolve(lost).await)
}

/// Reports of batches that are still in flight, for their shard.
///
/// Holds at most one outcome for each write in flight.
pub(super) struct EarlyReports<A: LiveAggregate, P: Storage<A>> {
    reports: Mutex<VecDeque<Report<Rim<A, P>>>>,
    arrived: Notify,
}

impl<A: LiveAggregate, P: Storage<A>> EarlyReports<A, P> {
    fn push(&self, report: Report<Rim<A, P>>) {
        self.reports().push_back(report);
        self.arrived.notify_one();
    }

    /// The next report; waits for one.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(super) async fn next(&self) -> Report<Rim<A, P>> {
        loop {
            // One that arrives behind the look below leaves a permit.
            let arrived = self.arrived.notified();
            if let Some(report) = self.reports().pop_front() {
                return report;
            }
            arrived.await;
        }
    }

    fn reports(&self) -> MutexGuard<'_, VecDeque<Report<Rim<A, P>>>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: LiveAggregate, P: Storage<A>> Default for EarlyReports<A, P> {
    fn default() -> Self {
        Self {
            reports: Mutex::default(),
            arrived: Notify::new(),
        }
    }
}
