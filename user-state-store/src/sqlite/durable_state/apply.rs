//! The compare-and-sets of a transaction, many in one trip to the driver's thread.
//!
//! **Problem.** A statement takes SQLite less time than its way to the thread of its connection and
//! back. **How.** One text holds the same statement several times, and its arguments follow each other in
//! order. Each statement keeps its own result. An error ends the text at its statement: those before it are
//! done, and those behind it are sent again.

use std::sync::LazyLock;

use chrono::DateTime;
use futures_util::TryStreamExt as _;
use sqlx::{Either, Executor as _, Row as _, SqliteConnection};

use super::fetch::Query;
use crate::error::StoreError;
use crate::payload::SerializerId;
use crate::sqlite::error::{Kind, before_commit, is_of_trigger, kind};
use crate::store::{Change, Write, WriteOutcome};
use crate::tags::Tags;

/// Inserts where there is no row of the id, whatever its revision: the primary key alone would let a second row in.
const CREATE: &str = "\
INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
    state_ser_manifest, state_payload, tags)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM durable_state WHERE persistence_id = ?);";

/// Of a row whose time is known, and so the new one, too. A statement that returns it takes a third longer.
const UPDATE: &str = "\
UPDATE durable_state
SET revision = ?, state_ser_id = ?, state_ser_manifest = ?, state_payload = ?, tags = ?, db_timestamp = ?
WHERE persistence_id = ?
  AND revision = ?
  -- A row that was removed and made again counts from 1 again; its time tells it apart.
  AND db_timestamp = ?;";

const UPDATE_OF_ANY_TIME: &str = "\
UPDATE durable_state
SET revision = ?, state_ser_id = ?, state_ser_manifest = ?, state_payload = ?, tags = ?,
    -- Strictly increasing per id, also when the clock stands still or goes back.
    db_timestamp = max(?, db_timestamp + 1)
WHERE persistence_id = ?
  AND revision = ?
RETURNING db_timestamp;";

const MARK: &str = "\
UPDATE durable_state
SET revision = ?, state_ser_id = 0, state_ser_manifest = '', state_payload = x'',
    db_timestamp = max(?, db_timestamp + 1)
WHERE persistence_id = ?
  AND revision = ?
  AND db_timestamp = coalesce(?, db_timestamp)
RETURNING db_timestamp;";

const ERASE: &str = "\
DELETE FROM durable_state
WHERE persistence_id = ?
  AND revision = ?
  AND db_timestamp = coalesce(?, db_timestamp)
RETURNING NULL;";

/// How many statements a text holds, so that few texts serve every number of writes. More than 64 at a time were
/// slower: their results take as long as their statements, and neither waits for the other then.
pub(super) const STATEMENTS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

/// The statement that a write needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    Update,
    UpdateOfAnyTime,
    Create,
    Mark,
    Erase,
}

const ALL: [Statement; 5] = [
    Statement::Update,
    Statement::UpdateOfAnyTime,
    Statement::Create,
    Statement::Mark,
    Statement::Erase,
];

/// The texts of each kind, in the order of [`STATEMENTS`].
static TEXTS: LazyLock<[[String; STATEMENTS.len()]; ALL.len()]> =
    LazyLock::new(|| ALL.map(|statement| STATEMENTS.map(|count| statement.sql().repeat(count))));

impl Statement {
    fn of(write: &Write) -> Self {
        match &write.change {
            Change::Erase => Self::Erase,
            _ if write.expected.is_none() => Self::Create,
            Change::Mark => Self::Mark,
            Change::Put { .. } if write.expected_at.is_some() => Self::Update,
            Change::Put { .. } => Self::UpdateOfAnyTime,
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::Update => UPDATE,
            Self::UpdateOfAnyTime => UPDATE_OF_ANY_TIME,
            Self::Create => CREATE,
            Self::Mark => MARK,
            Self::Erase => ERASE,
        }
    }

    /// The time that it gives its row, in microseconds; `None` if it returns that itself.
    fn time(self, write: &Write, now: i64) -> Option<i64> {
        match self {
            // Strictly increasing per id, also when the clock stands still or goes back.
            Self::Update => write
                .expected_at
                .map(|at| now.max(at.timestamp_micros().saturating_add(1))),
            Self::Create => Some(now),
            Self::UpdateOfAnyTime | Self::Mark | Self::Erase => None,
        }
    }

    /// The longest text for at most so many writes, and how many it serves.
    fn text(self, writes: usize) -> Option<(&'static str, usize)> {
        let texts = ALL.iter().zip(TEXTS.iter());
        let (_, texts) = texts
            .into_iter()
            .find(|(statement, _)| **statement == self)?;
        let mut sizes = STATEMENTS.into_iter().zip(texts);
        let (count, text) = sizes.find(|(count, _)| *count <= writes)?;
        Some((text, count))
    }
}

/// What the transaction is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction {
    /// It can be committed.
    Whole,
    /// A trigger refused a write, which has its outcome, and what else became of the transaction is not known. All other
    /// outcomes are void: roll back and begin again without that write.
    Spoiled,
}

/// Applies the writes that have no outcome yet, each with an outcome of its own.
///
/// # Errors
/// Whatever ends the transaction. Outcomes noted before it are void.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    writes: &[Write],
    outcomes: &mut [Option<WriteOutcome>],
    now: i64,
) -> Result<Transaction, sqlx::Error> {
    for statement in ALL {
        let open: Vec<usize> = (writes.iter().zip(&*outcomes).enumerate())
            .filter(|(_, (write, outcome))| outcome.is_none() && Statement::of(write) == statement)
            .map(|(place, _)| place)
            .collect();
        let mut rest = open.as_slice();
        while let Some((text, count)) = statement.text(rest.len()) {
            let together = rest.get(..count).unwrap_or_default();
            let mut query = sqlx::query(text);
            let mut times = Vec::with_capacity(count);
            for write in together.iter().filter_map(|&place| writes.get(place)) {
                query = bind(query, statement, write, now);
                times.push(statement.time(write, now));
            }
            let places: Vec<_> = together.iter().copied().zip(times).collect();
            let (answered, transaction) = answers(connection, query, &places, outcomes).await?;
            if transaction == Transaction::Spoiled {
                return Ok(transaction);
            }
            rest = rest.get(answered..).unwrap_or_default();
        }
    }
    Ok(Transaction::Whole)
}

/// Notes the outcomes of the statements of one text, and how many have one. A refused statement is the last.
///
/// Each statement has the place of its write, and the time of its row unless it returns that.
async fn answers(
    connection: &mut SqliteConnection,
    query: Query<'_>,
    places: &[(usize, Option<i64>)],
    outcomes: &mut [Option<WriteOutcome>],
) -> Result<(usize, Transaction), sqlx::Error> {
    let mut answers = connection.fetch_many(query);
    let mut places = places.iter().zip(1..);
    let mut answered = 0;
    let mut returned = None;
    let mut transaction = Transaction::Whole;
    loop {
        let ended = match answers.try_next().await {
            // The only row of its statement: it hit.
            Ok(Some(Either::Right(row))) => {
                returned = Some(applied(row.try_get(0)?));
                continue;
            }
            Ok(Some(Either::Left(result))) => Ok(result.rows_affected()),
            Ok(None) => return Ok((answered, transaction)),
            // This value is refused, and the transaction goes on, unless a trigger did something to it.
            Err(error) if kind(&error) == Kind::Refused => {
                if is_of_trigger(&error) {
                    transaction = Transaction::Spoiled;
                }
                Err(WriteOutcome::NotApplied(before_commit(&error)))
            }
            Err(error) => return Err(error),
        };
        let Some((&(place, time), number)) = places.next() else {
            return Ok((answered, transaction));
        };
        let refused = ended.is_err();
        let outcome = match (ended, time) {
            (Err(refused), _) => refused,
            (Ok(0), Some(_)) => WriteOutcome::Conflict,
            (Ok(_), Some(micros)) => applied(Some(micros)),
            (Ok(_), None) => returned.take().unwrap_or(WriteOutcome::Conflict),
        };
        if let Some(slot) = outcomes.get_mut(place) {
            *slot = Some(outcome);
        }
        answered = number;
        if refused {
            return Ok((answered, transaction));
        }
    }
}

fn applied(micros: Option<i64>) -> WriteOutcome {
    WriteOutcome::Applied(micros.and_then(DateTime::from_timestamp_micros))
}

fn bind<'write>(
    query: Query<'write>,
    statement: Statement,
    write: &'write Write,
    now: i64,
) -> Query<'write> {
    let id = write.persistence_id.as_str();
    let new = write.new_revision().get();
    let expected = write.expected.get();
    let expected_at = write.expected_at.map(|at| at.timestamp_micros());
    let (serializer_id, manifest, bytes, tags): (_, _, &[u8], _) = match &write.change {
        Change::Put { payload, tags, .. } => (
            payload.serializer_id,
            payload.manifest.as_str(),
            &payload.bytes,
            tags_column(tags),
        ),
        Change::Mark | Change::Erase => (SerializerId::NULL, "", &[], None),
    };
    match statement {
        Statement::Update => query
            .bind(new)
            .bind(serializer_id.0)
            .bind(manifest)
            .bind(bytes)
            .bind(tags)
            .bind(statement.time(write, now))
            .bind(id)
            .bind(expected)
            .bind(expected_at),
        Statement::UpdateOfAnyTime => query
            .bind(new)
            .bind(serializer_id.0)
            .bind(manifest)
            .bind(bytes)
            .bind(tags)
            .bind(now)
            .bind(id)
            .bind(expected),
        Statement::Create => query
            .bind(write.persistence_id.slice().get())
            .bind(write.persistence_id.entity_type())
            .bind(id)
            .bind(new)
            .bind(now)
            .bind(serializer_id.0)
            .bind(manifest)
            .bind(bytes)
            .bind(tags)
            .bind(id),
        Statement::Mark => query
            .bind(new)
            .bind(now)
            .bind(id)
            .bind(expected)
            .bind(expected_at),
        Statement::Erase => query.bind(id).bind(expected).bind(expected_at),
    }
}

fn tags_column(tags: &Tags) -> Option<String> {
    (!tags.is_empty()).then(|| serde_json::Value::from(tags.iter().collect::<Vec<_>>()).to_string())
}

/// Why a write is not even sent.
pub(super) fn refusal(write: &Write, payload_bytes_max: usize) -> Option<WriteOutcome> {
    (write.payload_len() > payload_bytes_max).then(|| {
        WriteOutcome::NotApplied(StoreError::TooLarge {
            what: "the payload in bytes".into(),
            actual: write.payload_len(),
            limit: payload_bytes_max,
        })
    })
}
