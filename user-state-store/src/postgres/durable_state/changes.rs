//! Pages of a change feed.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::connect::StoreSettings;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::payload_column::{Statement, reading_payload};
use crate::postgres::durable_state::row::Reader;
use crate::postgres::pool::{Call, Pool};

/// One page of the latest states, with the upper bound of their times in every row.
pub(in crate::postgres) const SELECT_CHANGES: Statement = reading_payload!(
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

/// The first instant asked for; the server's times begin in 4713 BC, and a bind before that is refused.
const EARLIEST: DateTime<Utc> = DateTime::from_timestamp_nanos(i64::MIN);

/// One page of changes. See [`crate::DurableStateStore::changes`].
///
/// A row that cannot be read fails the page: to leave it out would lose the change.
pub(in crate::postgres) async fn changes(
    pool: &Pool,
    settings: &StoreSettings,
    query: &ChangesQuery,
) -> Result<ChangesPage, StoreError> {
    let rows = pool.read(settings, Page { query, settings }).await?;
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

/// The rows of a page.
struct Page<'call> {
    query: &'call ChangesQuery,
    settings: &'call StoreSettings,
}

impl Call for Page<'_> {
    type Answer = Vec<PgRow>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        let query = self.query;
        let slices: Vec<i32> = query.slices.as_range().map(i32::from).collect();
        let limit = self.settings.payload_bytes_max;
        sqlx::query(SELECT_CHANGES.of(self.settings.payload_column))
            .bind(&*query.entity_type)
            .bind(&slices)
            .bind(query.from.max(EARLIEST))
            .bind(query.until.map(|until| until.max(EARLIEST)))
            .bind(i64::try_from(query.limit.get()).unwrap_or(i64::MAX))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await
    }
}
