//! Table `durable_state`: its reads, and the way in to its writes.

use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::connect::StoreSettings;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::postgres::pool::Pool;
use crate::store::{BATCH_ROWS_MAX, StoredState};

mod array;
mod asked;
mod columns;
mod create;
mod locked;
mod payload_column;
mod row;
mod update;
mod write;

use array::Array;
use asked::{Answers, Asked};
#[cfg(test)]
pub(super) use create::{INSERT_STATES, SELECT_OTHER_ROWS};
#[cfg(test)]
pub(super) use locked::SELECT_LOCKED;
use payload_column::{Statement, reading_payload};
pub(super) use row::Micros;
#[cfg(test)]
pub(super) use row::PLACES;
use row::Reader;
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
    let asked = Asked::new(ids);
    let limit = settings.payload_bytes_max;
    let reading = pool.reading(settings).await?;
    reading
        .run(settings, async |connection| {
            let mut rows = sqlx::query(SELECT_STATES.of(settings.payload_column))
                .bind(Array::new(asked.distinct()))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch(connection);
            let mut answers = Answers::to(&asked);
            let mut reader = None;
            let mut noted = Ok(());
            // Read to the end in any case, so that the connection is fit for the next load.
            while let Some(row) = rows.try_next().await? {
                if noted.is_ok() {
                    let reader = reader.get_or_insert_with(|| Reader::of(&row, settings));
                    noted = note(&mut answers, &row, reader);
                }
            }
            Ok(noted.map(|()| answers.into_found()))
        })
        .await?
}

fn note(answers: &mut Answers<'_>, row: &PgRow, reader: &mut Reader<'_>) -> Result<(), StoreError> {
    let id = reader.persistence_id(row)?;
    let revision = reader.revision(row);
    answers.add(id, revision, |id| reader.stored_state(row, id));
    Ok(())
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
    let mut reader = rows.first().map(|row| Reader::of(row, settings));
    let until = rows
        .first()
        .zip(reader.as_ref())
        .and_then(|(row, reader)| reader.until(row))
        .or(query.until)
        .ok_or(StoreError::Unavailable(Cause::Protocol))?;
    let mut states = Vec::with_capacity(rows.len());
    for row in rows.iter().filter(|row| !Reader::is_absent(row)) {
        let reader = reader.get_or_insert_with(|| Reader::of(row, settings));
        let id = std::str::from_utf8(reader.persistence_id(row)?)
            .map_err(|_| StoreError::Unavailable(Cause::Protocol))?;
        states.push(reader.stored_state(row, PersistenceId::stored(id))?);
    }
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
