//! Table `durable_state` on SQLite: its reads, and the way in to its writes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{TypeInfo as _, ValueRef as _};

use crate::cuts::{Cuts, Verdict};
use crate::deadline;
use crate::error::{Cause, DatabaseError, StoreError};
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::sqlite::connection::Lane;
use crate::sqlite::error::{before_commit, cause, is_damage};
use crate::store::{BATCH_ROWS_MAX, LOAD_BYTES_MAX, LoadedRow, StoredState};

mod apply;
mod carried;
mod changes;
mod row;
mod write;

pub(super) use changes::changes;
use row::read;
pub(super) use write::write;

/// `?1` is a JSON array of ids, `?2` the most payload bytes that are read; of a larger payload the number of its bytes is.
const LOAD: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    CASE WHEN octet_length(state_payload) <= ?2 THEN state_payload END AS state_payload, tags,
    CASE WHEN octet_length(state_payload) > ?2 THEN octet_length(state_payload) END AS payload_bytes
FROM durable_state
WHERE persistence_id IN (SELECT value FROM json_each(?1))
ORDER BY persistence_id, revision";

const PERSISTENCE_IDS: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > ?1
ORDER BY persistence_id
LIMIT ?2";

/// The same behind the bytes of an id whose type is `?3`.
const PERSISTENCE_IDS_BEHIND_BYTES: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > CASE ?3 WHEN 'TEXT' THEN CAST(?1 AS TEXT) ELSE ?1 END
ORDER BY persistence_id
LIMIT ?2";

/// Loads the rows of these ids, one answer per id.
pub(super) async fn load(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
) -> Result<Vec<LoadedRow>, StoreError> {
    if ids.len() > BATCH_ROWS_MAX {
        return Err(StoreError::TooLarge {
            what: "the number of ids in a load".into(),
            actual: ids.len(),
            limit: BATCH_ROWS_MAX,
        });
    }
    let share = match ids.len() {
        0 | 1 => payload_bytes_max,
        ids => payload_bytes_max.min(LOAD_BYTES_MAX / ids),
    };
    match load_part(lane, ids, payload_bytes_max, share).await {
        Err(error) if damage(&error).is_some() => {
            around_damage(lane, ids, payload_bytes_max, share, error).await
        }
        answer => answer,
    }
}

/// Loads the rows of these ids again after that failed as a part of the file is damaged: only those in that part fail.
async fn around_damage(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
    share: usize,
    error: StoreError,
) -> Result<Vec<LoadedRow>, StoreError> {
    let deadline = lane.deadline();
    let mut found: Vec<LoadedRow> = ids.iter().map(|_| Ok(None)).collect();
    let mut cuts = Cuts::of((0..ids.len()).collect());
    // The load of all of them failed already.
    let mut answer = Err(error);
    while let Some(part) = cuts.next() {
        if part.len() < ids.len() {
            let asked: Vec<_> = part.iter().filter_map(|index| ids.get(*index)).collect();
            let asked: Vec<PersistenceId> = asked.into_iter().cloned().collect();
            let loading = load_part(lane, &asked, payload_bytes_max, share);
            answer = deadline::until(deadline, loading)
                .await
                .unwrap_or(Err(StoreError::Unavailable(Cause::Deadline)));
        }
        let error = match std::mem::replace(&mut answer, Ok(Vec::new())) {
            Ok(rows) => {
                cuts.answered(true);
                for (index, row) in part.into_iter().zip(rows) {
                    note(&mut found, index, row);
                }
                continue;
            }
            Err(error) => error,
        };
        let failed = match damage(&error) {
            Some(reason) => match cuts.refused(part, Some(&reason.code)) {
                Verdict::Cut => continue,
                Verdict::Fail(rows) => rows,
            },
            None => part.into_iter().chain(cuts.take_rest()).collect(),
        };
        for (index, id) in failed.into_iter().filter_map(|at| Some((at, ids.get(at)?))) {
            note(&mut found, index, Err(unreadable(id, &error)));
        }
    }
    Ok(found)
}

fn note(found: &mut [LoadedRow], index: usize, row: LoadedRow) {
    if let Some(place) = found.get_mut(index) {
        *place = row;
    }
}

fn unreadable(id: &PersistenceId, error: &StoreError) -> StoreError {
    match damage(error) {
        Some(reason) => StoreError::Unreadable {
            persistence_id: id.clone(),
            reason,
        },
        None => error.clone(),
    }
}

/// What a damaged part of the file is reported as.
fn damage(error: &StoreError) -> Option<DatabaseError> {
    match error {
        StoreError::Misconfigured(Cause::Database(error)) if is_damage(error) => {
            Some(error.clone())
        }
        _ => None,
    }
}

async fn load_part(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
    share: usize,
) -> Result<Vec<LoadedRow>, StoreError> {
    let texts: Vec<&str> = ids.iter().map(PersistenceId::as_str).collect();
    let query = sqlx::query(LOAD)
        .bind(serde_json::Value::from(texts).to_string())
        .bind(bound(share));
    let rows = fetch(lane, query).await?;
    let mut states: HashMap<PersistenceId, (Revision, Result<StoredState, StoreError>)> =
        HashMap::with_capacity(rows.len());
    for row in rows {
        let (persistence_id, revision, state) = read(&row, payload_bytes_max)?;
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
    let distinct: HashSet<&PersistenceId> = ids.iter().collect();
    let repeats = distinct.len() < ids.len();
    Ok(ids
        .iter()
        .map(|id| {
            let state = if repeats {
                states.get(id).cloned()
            } else {
                states.remove(id)
            };
            state.map(|(_, state)| state).transpose()
        })
        .collect())
}

/// A page of persistence ids, in byte order.
pub(super) async fn persistence_ids(
    lane: &Lane,
    after: Option<&PersistenceId>,
    limit: usize,
) -> Result<Vec<PersistenceId>, StoreError> {
    // No id is empty, so every id is behind the empty text.
    let after = after.map_or("", PersistenceId::as_str);
    let mut query = sqlx::query(PERSISTENCE_IDS).bind(after).bind(bound(limit));
    let mut left_out = 0_usize;
    loop {
        let rows = fetch(lane, query).await?;
        let ids: Vec<_> = rows
            .iter()
            .filter_map(|row| row.try_get::<&str, _>(0).ok().map(PersistenceId::stored))
            .collect();
        left_out += rows.len() - ids.len();
        // At least one id if there is any, so that the caller can go on behind it.
        let Some(last) = rows.last().filter(|_| ids.is_empty()) else {
            if left_out > 0 {
                tracing::warn!(
                    left_out,
                    "stored persistence ids are no text of Unicode and were left out of a page"
                );
            }
            return Ok(ids);
        };
        let broken = |error| StoreError::Misconfigured(cause(&error));
        let bytes: Vec<u8> = last.try_get_unchecked(0).map_err(broken)?;
        let value = last.try_get_raw(0).map_err(broken)?;
        query = sqlx::query(PERSISTENCE_IDS_BEHIND_BYTES)
            .bind(bytes)
            .bind(bound(limit))
            .bind(value.type_info().name().to_owned());
    }
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
