//! The database work of a shard, in tasks of its own: nothing a caller does can drop it half-way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use cqrs_es::Aggregate;
use futures_util::FutureExt;
use user_state_store::{
    Cause, DecodeError, DurableStateStore, PersistenceId, Resolution, StateMapping, StoreError,
    StoredState, StoredValue, UnknownOutcome, UnresolvedWrite, WriteBatch, WriteOutcome, Writers,
};

use crate::error::Failure;
use crate::row::Row;
use crate::shard::EntityKey;

/// A finished piece of database work.
pub(crate) enum Done<A> {
    /// Rows were loaded and decoded, or not, each for itself.
    Loaded(Vec<(EntityKey, Loaded<A>)>),
    /// A batch was written, or not, each write for itself.
    Written(Vec<(EntityKey, user_state_store::Write, WriteOutcome)>),
    /// An attempt to resolve writes has come to its end.
    Resolved(Vec<(EntityKey, UnresolvedWrite, Resolution)>),
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

/// Writes a batch.
pub(crate) async fn write<A>(
    store: Arc<dyn DurableStateStore>,
    keys: Vec<EntityKey>,
    batch: WriteBatch,
) -> Done<A> {
    let written = AssertUnwindSafe(store.write(&batch)).catch_unwind().await;
    let outcomes = written.unwrap_or_default();
    let writes = keys.into_iter().zip(batch.into_writes());
    // Without an outcome of its own a write may have been applied.
    let missing = || {
        WriteOutcome::Unknown(UnknownOutcome {
            session: None,
            cause: Cause::Other("the store gave no outcome"),
        })
    };
    let mut outcomes = outcomes.into_iter();
    Done::Written(
        writes
            .map(|(key, write)| (key, write, outcomes.next().unwrap_or_else(missing)))
            .collect(),
    )
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
