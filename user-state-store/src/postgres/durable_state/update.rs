//! Writes of rows that exist: one statement, one round trip, committed by itself.

use chrono::{DateTime, Utc};
use futures_util::{TryStream, TryStreamExt as _};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::connect::PayloadColumn;
use crate::deadline::within;
use crate::error::Cause;
use crate::postgres::durable_state::carried::{self, Carried, Shape};
use crate::postgres::durable_state::columns::Columns;
use crate::postgres::durable_state::create::Halt;
use crate::postgres::durable_state::payload_column::{Statement, writing_payload};
use crate::postgres::durable_state::row::{Micros, is_readable};
use crate::postgres::durable_state::write::Answer;
use crate::postgres::error::Failure;
use crate::postgres::session::{Lease, Leaves};
use crate::store::Write;

/// The update from the columns, between what stands before and behind their SELECT.
macro_rules! update_states {
    ($before:literal, $behind:literal) => {
        writing_payload!(
            "\
UPDATE durable_state AS d
SET
  revision = w.revision,
  state_ser_id = w.state_ser_id,
  state_ser_manifest = w.state_ser_manifest,
  state_payload = ",
            concat!(
                ",
  tags = CASE WHEN w.keeps_tags THEN d.tags ELSE w.tags::text[] END,
  -- Strictly increasing per id, also when the clock is set back.
  db_timestamp = GREATEST(transaction_timestamp(), d.db_timestamp + interval '1 microsecond')
FROM (
  ",
                $before,
                "-- Not UNNEST of them all in FROM: that keeps a copy of each array, element by element, before the first row.
  SELECT
    unnest($1::text[]) AS persistence_id,
    unnest($2::bigint[]) AS expected,
    unnest($3::timestamptz[]) AS expected_at,
    unnest($4::bigint[]) AS revision,
    unnest($5::int[]) AS state_ser_id,
    unnest($6::text[]) AS state_ser_manifest,
    unnest($7::bytea[]) AS state_payload,
    unnest($8::text[]) AS tags,
    unnest($9::boolean[]) AS keeps_tags,
    generate_series(1, cardinality($1::text[])::bigint) AS ordinal
",
                $behind,
                ") AS w
WHERE d.persistence_id = w.persistence_id
  -- Checked again on the newest version of the row after waiting for its lock.
  AND d.revision = w.expected
  -- A row that was removed and made again counts from 1 again; its time tells it apart.
  AND (w.expected_at IS NULL OR d.db_timestamp = w.expected_at)
RETURNING w.ordinal, d.db_timestamp"
            )
        )
    };
}

/// Sets the rows whose revision, and time where it is known, are the expected ones. `slice` and `entity_type` stay, as in Pekko.
pub(in crate::postgres) const UPDATE_STATES: Statement = update_states!("", "");

/// The same, but for rows that somebody holds locked: those are left out and not waited for.
pub(in crate::postgres) const UPDATE_FREE_STATES: Statement = update_states!(
    "SELECT u.*
  FROM (
  ",
    "  ) AS u
  JOIN durable_state AS l
    ON l.persistence_id = u.persistence_id AND l.revision = u.expected
  FOR UPDATE OF l SKIP LOCKED
"
);

/// Where the columns stand that are returned.
const ORDINAL: usize = 0;
const DB_TIMESTAMP: usize = 1;

/// The removal by columns, between what stands before and behind their UNNEST.
macro_rules! delete_states {
    ($before:literal, $behind:literal) => {
        concat!(
            "\
DELETE FROM durable_state AS d
USING ",
            $before,
            "UNNEST(
  $1::text[],
  $2::bigint[],
  $3::timestamptz[]
) WITH ORDINALITY AS w (
  persistence_id,
  expected,
  expected_at,
  ordinal
)
",
            $behind,
            "WHERE d.persistence_id = w.persistence_id
  AND d.revision = w.expected
  AND (w.expected_at IS NULL OR d.db_timestamp = w.expected_at)
RETURNING w.ordinal"
        )
    };
}

/// Removes the rows whose revision, and time where it is known, are the expected ones.
pub(in crate::postgres) const DELETE_STATES: &str = delete_states!("", "");

/// The same, but for rows that somebody holds locked: those are left out and not waited for.
pub(in crate::postgres) const DELETE_FREE_STATES: &str = delete_states!(
    "(
  SELECT w.*
  FROM ",
    "  JOIN durable_state AS l
    ON l.persistence_id = w.persistence_id AND l.revision = w.expected
  FOR UPDATE OF l SKIP LOCKED
) AS w
"
);

/// How the updates carry something.
pub(super) const UPDATE: Shape = Shape {
    key: carried::ORDINAL,
    behind_conditions: "\nRETURNING ",
    arguments: 9,
    answer: "SELECT ordinal, db_timestamp FROM written",
    // No write has a number below 1.
    lost: "SELECT -ordinal, NULL FROM lost",
};

/// How the removals do.
pub(super) const ERASE: Shape = Shape {
    arguments: 3,
    answer: "SELECT ordinal FROM written",
    lost: "SELECT -ordinal FROM lost",
    ..UPDATE
};

/// What becomes of rows that somebody holds locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// They are waited for, as long as the session's lock time-out allows.
    All,
    /// They are left out, and answered as conflicts.
    Free,
}

/// Puts and marks.
pub(super) async fn update(
    lease: &mut Lease<'_>,
    writes: &[&Write],
    carried: Option<&Carried<'_>>,
    payload_column: PayloadColumn,
    rows: Rows,
) -> Result<Vec<Answer>, Halt> {
    let columns = Columns::of(writes);
    let deadline = lease.answer_deadline();
    let statement = match rows {
        Rows::All => UPDATE_STATES,
        Rows::Free => UPDATE_FREE_STATES,
    };
    let text = carried::text(carried, statement.of(payload_column), UPDATE);
    let query = sqlx::query(&text)
        .bind(columns.persistence_id().with_room(columns.bytes()))
        .bind(columns.expected())
        .bind(columns.expected_at())
        .bind(columns.revision())
        .bind(columns.state_ser_id())
        .bind(columns.state_ser_manifest())
        .bind(columns.state_payload(payload_column))
        .bind(columns.tags())
        .bind(columns.keeps_tags());
    let rows = carried::bind(carried, query).fetch(lease.begin().map_err(Halt::NotApplied)?);
    let answer = within(deadline, answers(writes.len(), rows, updated)).await;
    end(lease, answer, carried)
}

/// Erasures.
pub(super) async fn erase(
    lease: &mut Lease<'_>,
    writes: &[&Write],
    carried: Option<&Carried<'_>>,
    rows: Rows,
) -> Result<Vec<Answer>, Halt> {
    let columns = Columns::of(writes);
    let deadline = lease.answer_deadline();
    let statement = match rows {
        Rows::All => DELETE_STATES,
        Rows::Free => DELETE_FREE_STATES,
    };
    let text = carried::text(carried, statement, ERASE);
    let query = sqlx::query(&text)
        .bind(columns.persistence_id())
        .bind(columns.expected())
        .bind(columns.expected_at());
    let rows = carried::bind(carried, query).fetch(lease.begin().map_err(Halt::NotApplied)?);
    let answer = within(
        deadline,
        answers(writes.len(), rows, |_| Some(Answer::Applied(None))),
    )
    .await;
    end(lease, answer, carried)
}

/// What a statement that is committed by itself came to.
fn end<E>(
    lease: &mut Lease<'_>,
    answer: Result<Result<Result<Returned, Failure>, sqlx::Error>, E>,
    carried: Option<&Carried<'_>>,
) -> Result<Vec<Answer>, Halt> {
    let returned = match lease.end(answer, Leaves::Clean) {
        Ok(returned) => returned.inspect_err(|_| lease.discard()),
        Err(failure) => Err(failure),
    };
    match (returned, carried) {
        (Ok(Returned { answers, lost }), _) if lost.is_empty() => Ok(answers),
        (Ok(Returned { lost, .. }), Some(carried)) => Err(Halt::Fenced(carried.places(&lost))),
        (Ok(_), None) => Err(Halt::Unknown(Failure::Lost(Cause::Protocol))),
        (Err(failure @ Failure::Lost(_)), _) => Err(Halt::Unknown(failure)),
        (Err(failure), _) => Err(Halt::NotApplied(failure)),
    }
}

/// A row that was written, since its new time.
fn updated(row: &PgRow) -> Option<Answer> {
    let db_timestamp: Micros = row.try_get_unchecked(DB_TIMESTAMP).ok()?;
    // A time that chrono cannot hold is still a time: the row was written.
    let db_timestamp = db_timestamp.date_time().unwrap_or(DateTime::<Utc>::MAX_UTC);
    Some(Answer::Applied(Some(db_timestamp)))
}

/// What a statement returned.
struct Returned {
    answers: Vec<Answer>,
    /// The numbers of the guards that do not hold. With any, nothing was applied.
    lost: Vec<i64>,
}

/// One answer per write: those returned were applied, the others met another row. Rows are read to the end in any case.
async fn answers(
    count: usize,
    mut rows: impl TryStream<Ok = PgRow, Error = sqlx::Error> + Unpin,
    applied: impl Fn(&PgRow) -> Option<Answer>,
) -> Result<Result<Returned, Failure>, sqlx::Error> {
    let mut answers = vec![Answer::Conflict; count];
    let mut lost = Vec::new();
    let mut readable = None;
    let mut understood = Ok(());
    while let Some(row) = rows.try_next().await? {
        // All rows of a result have the same columns.
        let readable = *readable.get_or_insert_with(|| are_readable(&row));
        let ordinal = readable
            .then(|| row.try_get_unchecked::<i64, _>(ORDINAL).ok())
            .flatten();
        let answered = ordinal
            .and_then(|ordinal| usize::try_from(ordinal).ok()?.checked_sub(1))
            .and_then(|index| answers.get_mut(index));
        match (answered, applied(&row)) {
            (Some(answer), Some(applied)) => *answer = applied,
            _ => match ordinal {
                Some(ordinal @ ..0) => lost.push(-ordinal),
                _ => understood = Err(Failure::Lost(Cause::Protocol)),
            },
        }
    }
    Ok(understood.map(|()| Returned { answers, lost }))
}

/// Whether what is returned has the types that are read; nothing is returned of a row that is gone but its place.
fn are_readable(row: &PgRow) -> bool {
    is_readable::<i64>(row, ORDINAL) && (row.len() == 1 || is_readable::<Micros>(row, DB_TIMESTAMP))
}
