//! The statements of `durable_state` on SQLite, and what their rows mean.
//!
//! **Writing.** One transaction per batch, begun `IMMEDIATE`: it holds the file's only write lock from its first
//! statement to its end. Inside, one compare-and-set per entity with its own result. A value that is refused ends its own
//! statement and no other.
//!
//! **What is known of a commit.** Before `COMMIT` is sent, every failure leaves nothing behind: the connection is closed,
//! and closing rolls back. A `COMMIT` answered "busy" has not committed either. Every other failure of `COMMIT` is
//! [`WriteOutcome::Unknown`], a full disk included: the commit record may have reached the log although the call that
//! was to secure it failed. This process then does not see the transaction, yet a recovery after a crash may. A later
//! write settles it: whoever holds the write lock comes after the end of every earlier transaction, also of
//! one whose caller is gone, and its own commit takes the place of the unfinished one in the log. So repeating
//! the same compare-and-set decides, and no session has to be fenced.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use tokio::time::{Instant, timeout_at};

use super::connection::Lane;
use super::error::{Kind, before_commit, cause, kind};
use crate::changes::{ChangesPage, ChangesQuery};
use crate::error::{Cause, DecodeError, StoreError};
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::Slice;
use crate::store::{
    BATCH_ROWS_MAX, Change, StoredState, StoredValue, UnknownOutcome, Write, WriteBatch,
    WriteOutcome,
};
use crate::tags::Tags;

/// `?1` is a JSON array of ids, `?2` the most payload bytes that are read.
const LOAD: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    CASE WHEN length(state_payload) <= ?2 THEN state_payload END AS state_payload, tags
FROM durable_state
WHERE persistence_id IN (SELECT value FROM json_each(?1))
ORDER BY persistence_id, revision";

const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

const CREATE: &str = "\
INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
    state_ser_manifest, state_payload, tags)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
-- Whatever its revision: the primary key alone would let a second row in.
WHERE NOT EXISTS (SELECT 1 FROM durable_state WHERE persistence_id = ?3)
RETURNING db_timestamp";

const UPDATE: &str = "\
UPDATE durable_state
SET revision = ?1, state_ser_id = ?2, state_ser_manifest = ?3, state_payload = ?4, tags = ?5,
    -- Strictly increasing per id, also where the clock stands still or goes back.
    db_timestamp = max(?6, db_timestamp + 1)
WHERE persistence_id = ?7
  AND revision = ?8
RETURNING db_timestamp";

const MARK: &str = "\
UPDATE durable_state
SET revision = ?1, state_ser_id = 0, state_ser_manifest = '', state_payload = x'',
    db_timestamp = max(?2, db_timestamp + 1)
WHERE persistence_id = ?3
  AND revision = ?4
RETURNING db_timestamp";

const ERASE: &str = "\
DELETE FROM durable_state
WHERE persistence_id = ?1
  AND revision = ?2";

const CHANGES: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    CASE WHEN length(state_payload) <= ?7 THEN state_payload END AS state_payload, tags
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
    let mut states: HashMap<PersistenceId, Result<StoredState, StoreError>> =
        HashMap::with_capacity(rows.len());
    for row in &rows {
        let (persistence_id, state) = read(row, payload_bytes_max)?;
        let state = match states.remove(&persistence_id) {
            Some(Ok(first)) => Err(StoreError::DuplicateRows {
                persistence_id: persistence_id.clone(),
                lower: first.revision,
                higher: state.map_or(first.revision, |state| state.revision),
            }),
            Some(Err(error)) => Err(error),
            None => state,
        };
        states.insert(persistence_id, state);
    }
    Ok(ids
        .iter()
        .map(|id| states.get(id).cloned().transpose())
        .collect())
}

/// Writes a batch, one outcome per write; `now` is asked when the write lock is held.
pub(super) async fn write(
    lane: &Lane,
    batch: &WriteBatch,
    payload_bytes_max: usize,
    now: impl Fn() -> i64,
) -> Vec<WriteOutcome> {
    let deadline = lane.deadline();
    let writes = batch.writes();
    let refuse_all = |error: StoreError| vec![WriteOutcome::NotApplied(error); writes.len()];
    let mut lease = match lane.lease(deadline).await {
        Ok(lease) => lease,
        Err(error) => return refuse_all(error),
    };
    if let Err(error) = run(deadline, sqlx::query(BEGIN).execute(lease.connection())).await {
        return refuse_all(error.before_commit());
    }
    let now = now();
    let mut outcomes = Vec::with_capacity(writes.len());
    for write in writes {
        let outcome = run(
            deadline,
            apply(lease.connection(), write, payload_bytes_max, now),
        )
        .await;
        match outcome {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                let error = error.before_commit();
                withdraw(&mut outcomes, &WriteOutcome::NotApplied(error.clone()));
                outcomes.resize(writes.len(), WriteOutcome::NotApplied(error));
                return outcomes;
            }
        }
    }
    let applied = outcomes.iter().any(is_applied);
    let end = if applied { COMMIT } else { ROLLBACK };
    match run(deadline, sqlx::query(end).execute(lease.connection())).await {
        // A lease for writing reads nothing without locks, so there is nothing to check.
        Ok(_) => drop(lease.finish()),
        Err(error) => withdraw(&mut outcomes, &error.of_commit()),
    }
    outcomes
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
        .map(|row| read(row, payload_bytes_max)?.1)
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

    /// See the module's documentation.
    fn of_commit(&self) -> WriteOutcome {
        let cause = match self {
            Self::Deadline => Cause::Deadline,
            Self::Sqlite(error) if kind(error) == Kind::Busy => {
                return WriteOutcome::NotApplied(before_commit(error));
            }
            Self::Sqlite(error) => cause(error),
        };
        WriteOutcome::Unknown(UnknownOutcome {
            session: None,
            cause,
        })
    }
}

async fn run<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failure> {
    match timeout_at(deadline, call).await {
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

/// One compare-and-set. An error ends the batch; a refusal of this value alone is an outcome.
async fn apply(
    connection: &mut SqliteConnection,
    write: &Write,
    payload_bytes_max: usize,
    now: i64,
) -> Result<WriteOutcome, sqlx::Error> {
    if write.payload_len() > payload_bytes_max {
        return Ok(WriteOutcome::NotApplied(StoreError::TooLarge {
            what: "the payload in bytes",
            actual: write.payload_len(),
            limit: payload_bytes_max,
        }));
    }
    let result = match &write.change {
        Change::Erase => {
            let erased = sqlx::query(ERASE)
                .bind(write.persistence_id.as_str())
                .bind(write.expected.get())
                .execute(connection)
                .await;
            erased.map(|erased| (erased.rows_affected() > 0).then_some(None))
        }
        Change::Put { .. } | Change::Mark => statement(write, now)
            .fetch_optional(connection)
            .await
            .and_then(|row| row.map(|row| row.try_get(0).map(Some)).transpose()),
    };
    match result {
        Ok(Some(micros)) => Ok(WriteOutcome::Applied(
            micros.and_then(DateTime::from_timestamp_micros),
        )),
        Ok(None) => Ok(WriteOutcome::Conflict),
        Err(error) if kind(&error) == Kind::Refused => {
            Ok(WriteOutcome::NotApplied(before_commit(&error)))
        }
        Err(error) => Err(error),
    }
}

fn statement(write: &Write, now: i64) -> Query<'_> {
    let id = write.persistence_id.as_str();
    let (serializer_id, manifest, bytes, tags): (_, _, &[u8], _) = match &write.change {
        Change::Put { payload, tags, .. } => (
            payload.serializer_id,
            payload.manifest.as_str(),
            &payload.bytes,
            tags_column(tags),
        ),
        Change::Mark | Change::Erase if !write.expected.is_none() => {
            return sqlx::query(MARK)
                .bind(write.new_revision().get())
                .bind(now)
                .bind(id)
                .bind(write.expected.get());
        }
        Change::Mark | Change::Erase => (SerializerId::NULL, "", &[], None),
    };
    if write.expected.is_none() {
        sqlx::query(CREATE)
            .bind(write.persistence_id.slice().get())
            .bind(write.persistence_id.entity_type())
            .bind(id)
            .bind(write.new_revision().get())
            .bind(now)
            .bind(serializer_id.0)
            .bind(manifest)
            .bind(bytes)
            .bind(tags)
    } else {
        sqlx::query(UPDATE)
            .bind(write.new_revision().get())
            .bind(serializer_id.0)
            .bind(manifest)
            .bind(bytes)
            .bind(tags)
            .bind(now)
            .bind(id)
            .bind(write.expected.get())
    }
}

/// What a row says, or why it cannot be read; an outer error where not even its id can.
fn read(
    row: &SqliteRow,
    payload_bytes_max: usize,
) -> Result<(PersistenceId, Result<StoredState, StoreError>), StoreError> {
    let persistence_id = row
        .try_get::<&str, _>("persistence_id")
        .map(PersistenceId::stored)
        .map_err(|error| StoreError::Misconfigured(cause(&error)))?;
    let serializer_id = SerializerId(row.try_get("state_ser_id").unwrap_or_default());
    let manifest: Option<&str> = row.try_get("state_ser_manifest").unwrap_or_default();
    let manifest = Manifest::new(manifest.unwrap_or_default());
    let state = read_columns(
        row,
        &persistence_id,
        serializer_id,
        &manifest,
        payload_bytes_max,
    )
    .map_err(|reason| StoreError::Corrupt {
        persistence_id: persistence_id.clone(),
        serializer_id,
        manifest,
        reason,
    });
    Ok((persistence_id, state))
}

fn read_columns(
    row: &SqliteRow,
    persistence_id: &PersistenceId,
    serializer_id: SerializerId,
    manifest: &Manifest,
    payload_bytes_max: usize,
) -> Result<StoredState, DecodeError> {
    let slice: i64 = column(row, "slice", "the column slice is no number")?;
    let slice = u16::try_from(slice).ok().and_then(Slice::new);
    let revision: i64 = column(row, "revision", "the column revision is no number")?;
    let micros: i64 = column(row, "db_timestamp", "the column db_timestamp is no number")?;
    let bytes: Option<Vec<u8>> = column(row, "state_payload", "the payload is no blob")?;
    let bytes = bytes.ok_or(DecodeError::TooLarge {
        limit: payload_bytes_max,
    })?;
    let value = if serializer_id == SerializerId::NULL && bytes.is_empty() {
        StoredValue::Deleted
    } else {
        StoredValue::State(Payload {
            serializer_id,
            manifest: manifest.clone(),
            bytes,
        })
    };
    Ok(StoredState {
        persistence_id: persistence_id.clone(),
        slice: slice.ok_or(malformed("the column slice is not from 0 to 1023"))?,
        entity_type: column(row, "entity_type", "the column entity_type is no text")?,
        revision: Revision::new(revision).ok_or(malformed("the revision is negative"))?,
        db_timestamp: DateTime::from_timestamp_micros(micros)
            .ok_or(malformed("the column db_timestamp is out of range"))?,
        value,
        tags: read_tags(row)?,
    })
}

fn column<'r, T>(row: &'r SqliteRow, name: &str, problem: &'static str) -> Result<T, DecodeError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(|_| malformed(problem))
}

fn read_tags(row: &SqliteRow) -> Result<Tags, DecodeError> {
    const PROBLEM: &str = "the column tags is no array of texts";
    let text: Option<&str> = column(row, "tags", PROBLEM)?;
    let Some(text) = text else {
        return Ok(Tags::NONE);
    };
    let tags: Vec<String> = serde_json::from_str(text).map_err(|_| malformed(PROBLEM))?;
    Ok(Tags::new(tags.iter().map(String::as_str)))
}

fn tags_column(tags: &Tags) -> Option<String> {
    (!tags.is_empty()).then(|| serde_json::Value::from(tags.iter().collect::<Vec<_>>()).to_string())
}

/// Nothing of the transaction stands, so what seemed applied becomes `outcome`; what conflicted did so anyway.
fn withdraw(outcomes: &mut [WriteOutcome], outcome: &WriteOutcome) {
    for applied in outcomes.iter_mut().filter(|outcome| is_applied(outcome)) {
        applied.clone_from(outcome);
    }
}

fn is_applied(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Applied(_))
}

fn malformed(problem: &'static str) -> DecodeError {
    DecodeError::Malformed { problem, offset: 0 }
}

/// A count as a bound value; what is beyond `i64` is beyond every table.
fn bound(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
