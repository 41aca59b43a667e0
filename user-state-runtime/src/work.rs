//! The database work of a shard, in tasks of its own: nothing a caller does can drop it half-way.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use futures_util::FutureExt;
use tokio::sync::Notify;
use user_state_store::{
    Cause, DecodeError, DurableStateStore, PersistenceId, Resolution, Settled, StateMapping,
    StoreError, StoredState, StoredValue, UnknownOutcome, UnresolvedWrite, Write, WriteBatch,
    WriteOutcome, Writers,
};

use crate::error::Failure;
use crate::row::Row;
use crate::shard::EntityKey;

/// A finished piece of database work.
pub(crate) enum Done<A> {
    /// Rows were loaded and decoded, or not, each for itself.
    Loaded(Vec<(EntityKey, Loaded<A>)>),
    /// Writes of a batch have their outcomes.
    Written(Written),
    /// An attempt to resolve writes has come to its end.
    Resolved(Vec<(EntityKey, UnresolvedWrite, Resolution)>),
}

/// What has become of writes of a batch, of all of them in the common case.
pub(crate) struct Written {
    pub(crate) landings: Vec<(EntityKey, Landing)>,
    /// How many rows the batch had, in the report that ends its turn; 0 in every other.
    ///
    /// That is the first report after which what is left waits for somebody else, or nothing is left.
    pub(crate) rows_freed: usize,
}

/// What has become of a write.
pub(crate) enum Landing {
    /// It is durable, since this time where the row is there.
    Applied(Option<DateTime<Utc>>),
    /// Another writer was faster.
    Conflict,
    /// Surely not applied.
    NotApplied(StoreError),
    /// Its answer was lost.
    Lost(UnresolvedWrite),
}

/// Reports of batches that are still in flight, for their shard.
///
/// Holds at most one outcome for each write in flight.
#[derive(Default)]
pub(crate) struct EarlyReports {
    reports: Mutex<Vec<Written>>,
    arrived: Notify,
}

impl EarlyReports {
    fn push(&self, written: Written) {
        self.reports().push(written);
        self.arrived.notify_one();
    }

    /// The next reports; waits for some.
    ///
    /// May be dropped and called again.
    pub(crate) async fn next(&self) -> Vec<Written> {
        loop {
            // One that arrives behind the look below leaves a permit.
            let arrived = self.arrived.notified();
            let reports = std::mem::take(&mut *self.reports());
            if !reports.is_empty() {
                return reports;
            }
            arrived.await;
        }
    }

    fn reports(&self) -> MutexGuard<'_, Vec<Written>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state and its row, or why there is none.
pub(crate) type Loaded<A> = Result<(A, Row), Failure>;

/// Loads and decodes the rows of these ids.
pub(crate) async fn load<A: Aggregate + 'static>(
    store: Arc<dyn DurableStateStore>,
    mapping: Arc<dyn StateMapping<A>>,
    keys: Vec<EntityKey>,
    ids: Vec<PersistenceId>,
) -> Done<A> {
    let missing = || {
        let error = StoreError::Unavailable(Cause::Other("the store panicked"));
        Err(Failure::not_loaded(error))
    };
    let mut loaded: Vec<_> = keys.into_iter().map(|key| (key, missing())).collect();
    // Each row is decoded as it comes, so that no more than a part's payloads are held.
    let loading = user_state_store::load_in_parts(store.as_ref(), &ids, |place, row| {
        if let (Some((_, loaded)), Some(id)) = (loaded.get_mut(place), ids.get(place)) {
            *loaded = decode(mapping.as_ref(), id, row);
        }
    });
    // What did not come before a panic keeps the answer that it has.
    drop(AssertUnwindSafe(loading).catch_unwind().await);
    Done::Loaded(loaded)
}

fn decode<A: Aggregate + 'static>(
    mapping: &dyn StateMapping<A>,
    id: &PersistenceId,
    row: Result<Option<StoredState>, StoreError>,
) -> Loaded<A> {
    let decoded = match row {
        Err(error) => Err(error),
        Ok(None) => Ok((A::default(), Row::NONE)),
        Ok(Some(StoredState {
            value: StoredValue::Withheld { .. },
            ..
        })) => Err(StoreError::Unavailable(Cause::Protocol)),
        Ok(Some(StoredState {
            revision,
            db_timestamp,
            value: StoredValue::Deleted,
            ..
        })) => Ok((A::default(), Row::new(revision, Some(db_timestamp)))),
        Ok(Some(StoredState {
            revision,
            db_timestamp,
            value: StoredValue::State(payload),
            ..
        })) => {
            let decoding = AssertUnwindSafe(|| mapping.decode(id, &payload));
            std::panic::catch_unwind(decoding)
                .unwrap_or(Err(DecodeError::Panicked))
                .map(|state| (state, Row::new(revision, Some(db_timestamp))))
                .map_err(|reason| StoreError::Corrupt {
                    persistence_id: id.clone(),
                    serializer_id: payload.serializer_id,
                    manifest: payload.manifest.clone(),
                    reason,
                })
        }
    };
    decoded.map_err(Failure::not_loaded)
}

/// Writes a batch. What is settled before the rest of it is reported to the shard at once.
pub(crate) async fn write<A>(
    store: Arc<dyn DurableStateStore>,
    keys: Vec<EntityKey>,
    batch: WriteBatch,
    reports: Arc<EarlyReports>,
) -> Done<A> {
    // The key of each write that has no outcome yet, and how many rows are freed when its turn ends.
    let open = Mutex::new((
        keys.into_iter().map(Some).collect::<Vec<_>>(),
        batch.writes().len(),
    ));
    let landed = |settled: Vec<Settled>, ends_turn: bool| {
        let (keys, rows) = &mut *open.lock().unwrap_or_else(PoisonError::into_inner);
        let landings = settled
            .into_iter()
            .filter_map(|Settled { index, outcome }| {
                // Reported once, whatever the store does.
                let key = keys.get_mut(index)?.take()?;
                Some((key, landing(batch.writes().get(index)?, outcome)))
            });
        Written {
            landings: landings.collect(),
            rows_freed: if ends_turn { std::mem::take(rows) } else { 0 },
        }
    };
    let early = |settled: Vec<Settled>| {
        let rest_waits = settled.is_empty();
        reports.push(landed(settled, rest_waits));
    };
    let writing = AssertUnwindSafe(store.write_early(&batch, &early));
    let last = writing.catch_unwind().await.unwrap_or_default();
    let mut written = landed(last, true);
    let (keys, _) = open.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Without an outcome of its own a write may have been applied.
    for (key, write) in keys.into_iter().zip(batch.writes()) {
        if let Some(key) = key {
            let unknown = WriteOutcome::Unknown(UnknownOutcome {
                session: None,
                cause: Cause::Other("the store gave no outcome"),
            });
            written.landings.push((key, landing(write, unknown)));
        }
    }
    Done::Written(written)
}

fn landing(write: &Write, outcome: WriteOutcome) -> Landing {
    match outcome {
        WriteOutcome::Applied(db_timestamp) => Landing::Applied(db_timestamp),
        WriteOutcome::Conflict => Landing::Conflict,
        WriteOutcome::NotApplied(error) => Landing::NotApplied(error),
        WriteOutcome::Unknown(outcome) => {
            Landing::Lost(UnresolvedWrite::new(write.clone(), &outcome))
        }
    }
}

/// Makes one attempt to find out what became of these writes.
pub(crate) async fn resolve<A>(
    store: Arc<dyn DurableStateStore>,
    keys: Vec<EntityKey>,
    mut unresolved: Vec<UnresolvedWrite>,
    writers: Writers,
    delay: Duration,
) -> Done<A> {
    tokio::time::sleep(delay).await;
    let attempt = user_state_store::resolve(store.as_ref(), &mut unresolved, writers);
    let resolutions = AssertUnwindSafe(attempt)
        .catch_unwind()
        .await
        .unwrap_or_default();
    let missing =
        || Resolution::Unresolved(StoreError::Unavailable(Cause::Other("the store panicked")));
    let mut resolutions = resolutions.into_iter();
    Done::Resolved(
        keys.into_iter()
            .zip(unresolved)
            .map(|(key, write)| (key, write, resolutions.next().unwrap_or_else(missing)))
            .collect(),
    )
}
