//! Table `durable_state` on SQLite: its reads, and the way in to its writes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Instant;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::deadline;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::sqlite::connection::Lane;
use crate::sqlite::error::{before_commit, cause};
use crate::store::{BATCH_ROWS_MAX, StoredState};

mod row;
mod write;

use row::read;
pub(super) use write::write;

/// `?1` is a JSON array of ids, `?2` the most payload bytes that are read.
const LOAD: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    CASE WHEN octet_length(state_payload) <= ?2 THEN state_payload END AS state_payload, tags
FROM durable_state
WHERE persistence_id IN (SELECT value FROM json_each(?1))
ORDER BY persistence_id, revision";

const CHANGES: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    CASE WHEN octet_length(state_payload) <= ?7 THEN state_payload END AS state_payload, tags
FROM durable_state
WHERE entity_type = ?1
  AND slice BETWEEN ?2 AND ?3
  AND db_timestamp >= ?4
  AND db_timestamp < ?5
-- The id makes the order of rows that share both the same for every page.
ORDER BY db_timestamp, revision, persistence_id
LIMIT ?6";

const PERSISTENCE_IDS: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > ?1
ORDER BY persistence_id
LIMIT ?2";

/// Loads the rows of these ids, one answer per id.
pub(super) async fn load(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
) -> Result<Vec<Result<Option<StoredState>, StoreError>>, StoreError> {
    if ids.len() > BATCH_ROWS_MAX {
        return Err(StoreError::TooLarge {
            what: "the number of ids in a load",
            actual: ids.len(),
            limit: BATCH_ROWS_MAX,
        });
    }
    let texts: Vec<&str> = ids.iter().map(PersistenceId::as_str).collect();
    let query = sqlx::query(LOAD)
        .bind(serde_json::Value::from(texts).to_string())
        .bind(bound(payload_bytes_max));
    let rows = fetch(lane, query).await?;
    let mut states: HashMap<PersistenceId, (Revision, Result<StoredState, StoreError>)> =
        HashMap::with_capacity(rows.len());
    for row in &rows {
        let (persistence_id, revision, state) = read(row, payload_bytes_max)?;
        match states.entry(persistence_id) {
            Entry::Vacant(entry) => {
                entry.insert((revision, state));
            }
            // A file that another program made may lack our unique index. Rows come in the order of their revisions.
            Entry::Occupied(mut entry) => {
                let persistence_id = entry.key().clone();
                let (lower, first) = entry.get_mut();
                *first = Err(StoreError::DuplicateRows {
                    persistence_id,
                    lower: *lower,
                    higher: revision,
                });
            }
        }
    }
    Ok(ids
        .iter()
        .map(|id| states.get(id).map(|(_, state)| state.clone()).transpose())
        .collect())
}

/// One page of a change feed; `now` is the upper bound where the query has none.
pub(super) async fn changes(
    lane: &Lane,
    query: &ChangesQuery,
    payload_bytes_max: usize,
    now: DateTime<Utc>,
) -> Result<ChangesPage, StoreError> {
    let until = query.until.unwrap_or(now);
    let select = sqlx::query(CHANGES)
        .bind(query.entity_type.as_ref())
        .bind(query.slices.min().get())
        .bind(query.slices.max().get())
        .bind(query.from.timestamp_micros())
        .bind(until.timestamp_micros())
        .bind(bound(query.limit.get()))
        .bind(bound(payload_bytes_max));
    let states = fetch(lane, select)
        .await?
        .iter()
        .map(|row| read(row, payload_bytes_max)?.2)
        .collect::<Result<_, _>>()?;
    Ok(ChangesPage { states, until })
}

/// A page of persistence ids, in byte order.
pub(super) async fn persistence_ids(
    lane: &Lane,
    after: Option<&PersistenceId>,
    limit: usize,
) -> Result<Vec<PersistenceId>, StoreError> {
    // No id is empty, so every id is behind the empty text.
    let query = sqlx::query(PERSISTENCE_IDS)
        .bind(after.map_or("", PersistenceId::as_str))
        .bind(bound(limit));
    fetch(lane, query)
        .await?
        .iter()
        .map(|row| {
            let id = row.try_get::<&str, _>(0);
            id.map(PersistenceId::stored)
                .map_err(|error| StoreError::Misconfigured(cause(&error)))
        })
        .collect()
}

/// A statement's failure.
enum Failure {
    Deadline,
    Sqlite(sqlx::Error),
}

impl Failure {
    fn before_commit(&self) -> StoreError {
        match self {
            Self::Deadline => StoreError::Unavailable(Cause::Deadline),
            Self::Sqlite(error) => before_commit(error),
        }
    }
}

async fn run<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failure> {
    match deadline::until(deadline, call).await {
        Ok(result) => result.map_err(Failure::Sqlite),
        Err(_) => Err(Failure::Deadline),
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments<'q>>;

async fn fetch(lane: &Lane, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
    let deadline = lane.deadline();
    let mut lease = lane.lease(deadline).await?;
    let rows = run(deadline, query.fetch_all(lease.connection()))
        .await
        .map_err(|error| error.before_commit())?;
    lease.finish()?;
    Ok(rows)
}

/// A count as a bound value; what is beyond `i64` is beyond every table.
fn bound(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
