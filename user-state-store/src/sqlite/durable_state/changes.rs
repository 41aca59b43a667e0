//! Pages of a change feed.
//!
//! **Problem.** The index begins with the slice: rows of many slices have to be sorted by their time before the first is
//! known. A value may be of another type than its column says, and the file may be damaged.
//!
//! **How.** As on PostgreSQL. At most as many rows are looked at as the query allows, and their keys alone are sorted. Where a
//! number is none, the number that SQLite makes of it decides where its row stands, so that one can go on behind it.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::fetch::{Failure, Query, bound, run};
use super::row::read;
use crate::changes::{ChangesPage, ChangesQuery, PAGE_BYTES_MAX, RowKey, UnreadableRow};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::slice::Slice;
use crate::sqlite::connection::Lane;
use crate::sqlite::error::{Kind, cause, kind};
use crate::store::StoredState;

/// One page, and behind it one row that says how far it reaches.
const CHANGES: &str = "\
WITH RECURSIVE slices (slice) AS (
    SELECT ?2 UNION ALL SELECT slice + 1 FROM slices WHERE slice < ?3
),
scanned AS MATERIALIZED (
    SELECT
        rowid AS place,
        CAST(db_timestamp AS INTEGER) AS at,
        CAST(revision AS INTEGER) AS number,
        persistence_id,
        min(octet_length(state_payload), ?9) AS bytes
    FROM durable_state
    WHERE entity_type = ?1
      AND slice IN (SELECT slice FROM slices)
      AND db_timestamp >= ?4
      AND db_timestamp < ?5
      AND (?7 IS NULL OR CAST(db_timestamp AS INTEGER) > ?4
           OR (CAST(revision AS INTEGER), persistence_id) > (?7, ?8))
    -- Not sorted: to know that there are too many costs no more than to read so many. -1 is no limit.
    LIMIT ?10
)
SELECT d.slice, d.entity_type, d.persistence_id, d.revision, d.db_timestamp, d.state_ser_id, d.state_ser_manifest,
    CASE WHEN octet_length(d.state_payload) <= ?9 THEN d.state_payload END AS state_payload, d.tags,
    p.at AS at, p.number AS number, NULL AS rows
FROM (
    SELECT *, sum(bytes) OVER (
        ORDER BY at, number, persistence_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS total
    FROM (
        SELECT * FROM scanned
        WHERE ?10 < 0 OR (SELECT count(*) FROM scanned) < ?10
        ORDER BY at, number, persistence_id
        LIMIT ?11
    )
) AS p
-- The order of the tables is the order of the loops.
CROSS JOIN durable_state AS d ON d.rowid = p.place
WHERE p.total <= ?12 OR p.total = p.bytes
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    CASE WHEN (SELECT count(*) FROM scanned) < ?13 THEN (
        SELECT CAST(min((
            SELECT db_timestamp
            FROM durable_state
            WHERE slice = s.slice AND entity_type = ?1 AND db_timestamp >= ?5 AND db_timestamp < ?6
            ORDER BY db_timestamp
            LIMIT 1
        )) AS INTEGER)
        FROM slices AS s
    ) END,
    NULL, (SELECT count(*) FROM scanned)";

/// The first row of a page without its payload: the one that the file cannot give.
const FIRST_CHANGE: &str = "\
WITH RECURSIVE slices (slice) AS (
    SELECT ?2 UNION ALL SELECT slice + 1 FROM slices WHERE slice < ?3
)
SELECT slice, persistence_id, CAST(db_timestamp AS INTEGER) AS at, CAST(revision AS INTEGER) AS number
FROM durable_state
WHERE entity_type = ?1
  AND slice IN (SELECT slice FROM slices)
  AND db_timestamp >= ?4
  AND db_timestamp < ?5
  AND (?7 IS NULL OR CAST(db_timestamp AS INTEGER) > ?4
       OR (CAST(revision AS INTEGER), persistence_id) > (?7, ?8))
ORDER BY CAST(db_timestamp AS INTEGER), CAST(revision AS INTEGER), persistence_id
LIMIT 1";

/// What came of a page so far.
#[derive(Default)]
struct Read {
    states: Vec<StoredState>,
    is_cut: bool,
    unreadable: Option<UnreadableRow>,
    rows: usize,
    next: Option<DateTime<Utc>>,
}

/// One page of a change feed; `now` is the upper bound if the query has none.
pub(in crate::sqlite) async fn changes(
    lane: &Lane,
    query: &ChangesQuery,
    payload_bytes_max: usize,
    now: DateTime<Utc>,
) -> Result<ChangesPage, StoreError> {
    let until = query.until.unwrap_or(now);
    let deadline = lane.deadline();
    let mut lease = lane.lease(deadline).await?;
    let mut page = Read::default();
    let reading = async {
        let mut rows = range(sqlx::query(CHANGES), query, until, query.behind(None))
            .bind(bound(payload_bytes_max))
            .bind(query.rows_max.map_or(-1, |max| bound(max.get())))
            .bind(bound(query.limit.get()))
            .bind(bound(PAGE_BYTES_MAX))
            .bind(bound(query.few()))
            .fetch(lease.connection());
        let mut noted = Ok(());
        while let Some(row) = rows.try_next().await? {
            if noted.is_ok() {
                noted = page.note(&row, payload_bytes_max);
            }
        }
        Ok(noted)
    };
    match run(deadline, reading).await {
        Ok(noted) => noted?,
        Err(failure) => {
            let error = failure.before_commit();
            if !failure.is_damage() {
                return Err(error);
            }
            // Rows come one by one, so the file is damaged at the one behind those that came.
            if !page.is_cut && page.unreadable.is_none() {
                let first = range(
                    sqlx::query(FIRST_CHANGE),
                    query,
                    until,
                    query.behind(page.states.last()),
                );
                let first = run(deadline, first.fetch_optional(lease.connection())).await;
                let first = first.ok().flatten();
                page.unreadable = first.and_then(|row| unreadable(&row, error.clone()).ok());
            }
            if page.states.is_empty() && page.unreadable.is_none() {
                return Err(error);
            }
            page.rows = usize::MAX;
        }
    }
    lease.finish()?;
    Ok(query.page(page.states, page.unreadable, page.rows, page.next, until))
}

/// Binds the stretch of a page, behind a row of it.
fn range<'q>(
    select: Query<'q>,
    query: &'q ChangesQuery,
    until: DateTime<Utc>,
    (from, after): (DateTime<Utc>, Option<RowKey>),
) -> Query<'q> {
    let to = query.to.map_or(until, |to| to.min(until));
    let revision = after.as_ref().map(|after| after.revision);
    let id = after.map(|after| after.persistence_id.as_str().to_owned());
    select
        .bind(query.entity_type.as_ref())
        .bind(query.slices.min().get())
        .bind(query.slices.max().get())
        .bind(from.timestamp_micros())
        .bind(to.timestamp_micros())
        .bind(until.timestamp_micros())
        .bind(revision)
        .bind(id)
}

impl Read {
    fn note(&mut self, row: &SqliteRow, payload_bytes_max: usize) -> Result<(), StoreError> {
        if let Some(rows) = row.try_get::<Option<i64>, _>("rows").unwrap_or_default() {
            let next: Option<i64> = row.try_get("at").unwrap_or_default();
            self.next = next.and_then(DateTime::from_timestamp_micros);
            if !self.is_cut {
                self.rows = usize::try_from(rows).unwrap_or_default();
            }
            return Ok(());
        }
        if self.is_cut || self.unreadable.is_some() {
            return Ok(());
        }
        match read(row, payload_bytes_max) {
            Ok((_, _, Ok(state))) => self.states.push(state),
            Ok((_, _, Err(reason))) => self.unreadable = Some(unreadable(row, reason)?),
            // Nobody could go on behind a row without an id. The rows before it are a page of their own.
            Err(_) if !self.states.is_empty() => {
                self.is_cut = true;
                self.rows = usize::MAX;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn unreadable(row: &SqliteRow, reason: StoreError) -> Result<UnreadableRow, StoreError> {
    let misconfigured = |error: sqlx::Error| StoreError::Misconfigured(cause(&error));
    let id = row.try_get::<&str, _>("persistence_id");
    let persistence_id = PersistenceId::stored(id.map_err(misconfigured)?);
    let slice: Option<i64> = row.try_get("slice").ok();
    let slice = slice.and_then(|slice| u16::try_from(slice).ok());
    let at = row.try_get("at").map_err(misconfigured)?;
    Ok(UnreadableRow {
        slice: slice
            .and_then(Slice::new)
            .unwrap_or_else(|| persistence_id.slice()),
        revision: row.try_get("number").map_err(misconfigured)?,
        db_timestamp: DateTime::from_timestamp_micros(at).unwrap_or_default(),
        persistence_id,
        reason,
    })
}

impl Failure {
    /// Whether a page of the file that holds the value is damaged.
    fn is_damage(&self) -> bool {
        matches!(self, Self::Sqlite(error) if kind(error) == Kind::NotADatabase)
    }
}
