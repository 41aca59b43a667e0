//! The users under load, created where they are missing.

use futures_util::{StreamExt, TryStreamExt, stream};
use user_state_domain::{MallId, ProductId, UserId, UserKey, UserState};
use user_state_runtime::{Clock, SystemClock};
use user_state_store::{
    BATCH_ROWS_MAX, Cause, DurableStateStore, PersistenceId, StateMapping, Store, StoreError,
    UserStateMapping, Write, WriteBatch, WriteOutcome,
};

use crate::exit::{self, Failure, with_causes};

const MALL: &str = "load";

/// How many batches are on their way at once: as many as a store has connections for writing.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// The persistence ids of this many users, each of whom has a row when this returns.
///
/// Writes the rows straight into the store: a new user's row per command would take many times as long.
pub(crate) async fn create(store: &Store, users: usize) -> Result<Vec<PersistenceId>, Failure> {
    let ids = (1..=users).map(id).collect::<Result<Vec<_>, _>>()?;
    let (mapping, state) = (UserStateMapping::new(), usual_state());
    stream::iter(ids.chunks(BATCH_ROWS_MAX))
        .map(|ids| create_missing(store.states().as_ref(), ids, &mapping, &state))
        .buffer_unordered(BATCHES_IN_FLIGHT_MAX)
        .try_collect::<()>()
        .await?;
    Ok(ids)
}

async fn create_missing(
    store: &dyn DurableStateStore,
    ids: &[PersistenceId],
    mapping: &UserStateMapping,
    state: &UserState,
) -> Result<(), Failure> {
    let rows = store
        .load(ids)
        .await
        .map_err(|error| Failure::unavailable(&error))?;
    let mut writes = Vec::new();
    for (id, row) in ids.iter().zip(rows) {
        if row.map_err(|error| Failure::unavailable(&error))?.is_none() {
            writes.push(creation(id, mapping, state)?);
        }
    }
    let batch = WriteBatch::new(writes).map_err(|error| Failure::new(1, with_causes(&error)))?;
    if batch.writes().is_empty() {
        return Ok(());
    }
    for outcome in store.write(&batch).await {
        match outcome {
            // A conflict: somebody else created the user meanwhile.
            WriteOutcome::Applied(_) | WriteOutcome::Conflict => {}
            WriteOutcome::NotApplied(error) => return Err(Failure::unavailable(&error)),
            WriteOutcome::Fenced => {
                let error = StoreError::Unavailable(Cause::Fenced);
                return Err(Failure::unavailable(&error));
            }
            WriteOutcome::Unknown(unknown) => {
                let cause = with_causes(&unknown.cause);
                let message = format!("whether users were created is unknown: {cause}");
                return Err(Failure::new(exit::UNAVAILABLE, message));
            }
        }
    }
    Ok(())
}

fn creation(
    id: &PersistenceId,
    mapping: &UserStateMapping,
    state: &UserState,
) -> Result<Write, Failure> {
    let payload = mapping
        .encode(id, state)
        .map_err(|error| Failure::new(1, with_causes(&error)))?;
    Ok(Write::create(id.clone(), payload).tags(mapping.tags()))
}

fn id(number: usize) -> Result<PersistenceId, Failure> {
    let key = MallId::new(MALL)
        .and_then(|mall| UserKey::new(mall, UserId::new(&format!("user-{number}"))?));
    let key = key.map_err(|error| Failure::new(1, with_causes(&error)))?;
    Ok(PersistenceId::from(&key))
}

/// A user about whom everything is known: rows are as large as they get in use.
fn usual_state() -> UserState {
    let now = Some(SystemClock::new().utc_now());
    let products = ["product-1", "product-2", "product-3"];
    UserState {
        last_login: now,
        last_cart_used: now,
        recent_products: products.map(ProductId::new).to_vec().into(),
        marketing_opt_in: true,
        last_event_at: now,
    }
}
