//! Table `durable_state`: its reads, and the way in to its writes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use sqlx::Row as _;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::connect::StoreSettings;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::postgres::pool::Pool;
use crate::store::{BATCH_ROWS_MAX, StoredState};

mod columns;
mod create;
mod locked;
mod payload_column;
mod row;
mod update;
mod write;

#[cfg(test)]
pub(super) use create::{INSERT_STATES, SELECT_OTHER_ROWS};
#[cfg(test)]
pub(super) use locked::SELECT_LOCKED;
use payload_column::{Statement, reading_payload};
use row::Found;
pub(super) use row::Micros;
#[cfg(test)]
pub(super) use update::{DELETE_STATES, UPDATE_STATES};
pub(super) use write::write;

/// The rows of some ids.
pub(super) const SELECT_STATES: Statement = reading_payload!(
    "\
SELECT
  d.persistence_id,
  d.slice,
  d.entity_type,
  d.revision,
  d.db_timestamp,
  d.state_ser_id,
  d.state_ser_manifest,
  ",
    limit: "$2",
    ",
  d.tags
FROM UNNEST($1::text[]) AS w (persistence_id)
CROSS JOIN LATERAL (
  SELECT *
  FROM durable_state
  WHERE durable_state.persistence_id = w.persistence_id
  -- Keeps the planner at one index probe per id, also while it has no statistics.
  OFFSET 0
) AS d"
);

/// One page of the latest states, with the upper bound of their times in every row.
pub(super) const SELECT_CHANGES: Statement = reading_payload!(
    "\
SELECT
  d.persistence_id,
  d.slice,
  d.entity_type,
  d.revision,
  d.db_timestamp,
  d.state_ser_id,
  d.state_ser_manifest,
  ",
    limit: "$6",
    ",
  d.tags,
  u.until
FROM (SELECT COALESCE($4::timestamptz, transaction_timestamp()) AS until) AS u
-- The bound is needed also where no row is: one row of NULLs comes then.
LEFT JOIN LATERAL (
  SELECT *
  FROM durable_state
  WHERE entity_type = $1
    AND slice = ANY ($2::int[])
    AND db_timestamp >= $3
    AND db_timestamp < u.until
  ORDER BY db_timestamp, revision
  LIMIT $5
) AS d ON TRUE
ORDER BY d.db_timestamp, d.revision"
);

/// The ids behind one, in the order of the primary key.
pub(super) const SELECT_PERSISTENCE_IDS: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > $1
ORDER BY persistence_id
LIMIT $2";

/// The first instant asked for; the server's times begin in 4713 BC, and a bind before that is refused.
const EARLIEST: DateTime<Utc> = DateTime::from_timestamp_nanos(i64::MIN);

/// Loads the rows of these ids. See [`crate::DurableStateStore::load`].
pub(super) async fn load(
    pool: &Pool,
    settings: &StoreSettings,
    ids: &[PersistenceId],
) -> Result<Vec<Result<Option<StoredState>, StoreError>>, StoreError> {
    if ids.len() > BATCH_ROWS_MAX {
        return Err(StoreError::TooLarge {
            what: "the number of ids",
            actual: ids.len(),
            limit: BATCH_ROWS_MAX,
        });
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut distinct: Vec<&str> = ids.iter().map(PersistenceId::as_str).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let limit = settings.payload_bytes_max;
    let reading = pool.reading(settings).await?;
    let rows = reading
        .run(settings, async |connection| {
            sqlx::query(SELECT_STATES.of(settings.payload_column))
                .bind(&distinct)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await
        })
        .await?;
    let mut found: HashMap<&str, Found> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let (id, one) = row::found(row, settings)?;
        match found.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(one);
            }
            Entry::Occupied(mut entry) => entry.get_mut().beside(id, &one),
        }
    }
    Ok(ids
        .iter()
        .map(|id| {
            found
                .get(id.as_str())
                .map(|one| one.state.clone())
                .transpose()
        })
        .collect())
}

/// One page of changes. See [`crate::DurableStateStore::changes`].
///
/// A row that cannot be read fails the page: to leave it out would lose the change.
pub(super) async fn changes(
    pool: &Pool,
    settings: &StoreSettings,
    query: &ChangesQuery,
) -> Result<ChangesPage, StoreError> {
    let slices: Vec<i32> = query.slices.as_range().map(i32::from).collect();
    let limit = settings.payload_bytes_max;
    let reading = pool.reading(settings).await?;
    let rows = reading
        .run(settings, async |connection| {
            sqlx::query(SELECT_CHANGES.of(settings.payload_column))
                .bind(&*query.entity_type)
                .bind(&slices)
                .bind(query.from.max(EARLIEST))
                .bind(query.until.map(|until| until.max(EARLIEST)))
                .bind(i64::try_from(query.limit.get()).unwrap_or(i64::MAX))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await
        })
        .await?;
    let until = rows
        .first()
        .and_then(|row| row.try_get::<Micros, _>("until").ok())
        .and_then(Micros::date_time)
        .or(query.until)
        .ok_or(StoreError::Unavailable(Cause::Protocol))?;
    let states = rows
        .iter()
        .filter(|row| !row::is_absent(row))
        .map(|row| row::stored_state(row, settings))
        .collect::<Result<_, _>>()?;
    Ok(ChangesPage { states, until })
}

/// One page of ids. See [`crate::DurableStateStore::persistence_ids`].
pub(super) async fn persistence_ids(
    pool: &Pool,
    settings: &StoreSettings,
    after: Option<&PersistenceId>,
    limit: NonZeroUsize,
) -> Result<Vec<PersistenceId>, StoreError> {
    let reading = pool.reading(settings).await?;
    let ids: Vec<String> = reading
        .run(settings, async |connection| {
            sqlx::query_scalar(SELECT_PERSISTENCE_IDS)
                .bind(after.map_or("", PersistenceId::as_str))
                .bind(i64::try_from(limit.get()).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await
        })
        .await?;
    Ok(ids.iter().map(|id| PersistenceId::stored(id)).collect())
}
