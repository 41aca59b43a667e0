//! Writes of rows that must not exist yet.
//!
//! **Problem.** The primary key is `(persistence_id, revision)`, so two creations at different revisions do not collide. An
//! insert guarded by `NOT EXISTS` is not enough: another writer's row can go from revision 1 to 2 between the
//! guard's snapshot and the insert, and then both rows stand.
//!
//! **How.** Every creating write is at revision 1. In one READ COMMITTED transaction: insert where no row is; then, with
//! a snapshot of its own, look for any other row of the inserted ids. Where there is one, roll back and start
//! again without those ids. While the inserted row is uncommitted, no other insert at revision 1 gets past
//! the primary key, so what the second look does not see cannot come before the commit.
//!
//! **Not here.** A writer that inserts a first row above revision 1 (Pekko 1.2.0's fallback does) escapes the second
//! look; a unique index on `persistence_id`, an operator's option, stops it.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use sqlx::{Executor as _, Row as _};

use crate::connect::PayloadColumn;
use crate::deadline::{now, until};
use crate::postgres::durable_state::carried::{self, Carried, Shape};
use crate::postgres::durable_state::columns::Columns;
use crate::postgres::durable_state::payload_column::{Statement, writing_payload};
use crate::postgres::durable_state::row::Micros;
use crate::postgres::durable_state::write::Answer;
use crate::postgres::error::Failure;
use crate::postgres::session::{Lease, Leaves};
use crate::store::Write;

pub(in crate::postgres) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The beginning of a creation that finds out whether somebody else is just making one of its rows. Such a row cannot be
/// looked for, only run into; this waits for hardly longer than it takes to see that.
pub(in crate::postgres) const BEGIN_IMPATIENT: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '1ms'";

pub(in crate::postgres) const COMMIT: &str = "COMMIT";

pub(in crate::postgres) const ROLLBACK: &str = "ROLLBACK";

/// Inserts where there is no row. A row that another transaction is about to commit is waited for.
pub(in crate::postgres) const INSERT_STATES: Statement = writing_payload!(
    "\
INSERT INTO durable_state (
  slice,
  entity_type,
  persistence_id,
  revision,
  db_timestamp,
  state_ser_id,
  state_ser_manifest,
  state_payload,
  tags
)
SELECT
  w.slice,
  w.entity_type,
  w.persistence_id,
  w.revision,
  transaction_timestamp(),
  w.state_ser_id,
  w.state_ser_manifest,
  ",
    ",
  w.tags::text[]
FROM UNNEST(
  $1::int[],
  $2::text[],
  $3::text[],
  $4::bigint[],
  $5::int[],
  $6::text[],
  $7::bytea[],
  $8::text[]
) WITH ORDINALITY AS w (
  slice,
  entity_type,
  persistence_id,
  revision,
  state_ser_id,
  state_ser_manifest,
  state_payload,
  tags,
  ordinal
)
WHERE NOT EXISTS (
  SELECT FROM durable_state AS d WHERE d.persistence_id = w.persistence_id
)
ORDER BY w.ordinal
-- No target: also for a unique index on persistence_id alone, where an operator made one.
ON CONFLICT DO NOTHING
RETURNING persistence_id, db_timestamp"
);

/// How the insert carries something. It cannot return the number of a write.
pub(super) const CREATE: Shape = Shape {
    key: "persistence_id",
    behind_conditions: "\nORDER BY w.ordinal",
    arguments: 8,
    answer: "SELECT persistence_id, db_timestamp, NULL::bigint FROM written",
    lost: "SELECT NULL, NULL, ordinal FROM lost",
};

/// Where the number of a lost guard stands, in the answer of an insert that carries something.
const LOST: usize = 2;

/// The ids that have a row beside the one at revision 1.
pub(in crate::postgres) const SELECT_OTHER_ROWS: &str = "\
SELECT DISTINCT d.persistence_id
FROM UNNEST($1::text[]) AS w (persistence_id)
JOIN durable_state AS d ON d.persistence_id = w.persistence_id
WHERE d.revision <> 1";

/// Why a creation ended without answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// No commit was sent, or the server refused it: surely nothing is applied.
    NotApplied(Failure),
    /// The commit was sent and not acknowledged.
    Unknown(Failure),
    /// Nothing is applied, since the guards at these places of the batch do not hold.
    Fenced(Vec<usize>),
}

/// How long a creation waits for a row that somebody else is just making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as the session's lock time-out allows.
    Usual,
    /// Hardly: a part of a batch that met such a row already.
    Little,
}

/// Creates the rows, each where no row of its id is, and answers for each.
pub(super) async fn create(
    lease: &mut Lease<'_>,
    writes: &[&Write],
    carried: Option<&Carried<'_>>,
    payload_column: PayloadColumn,
    patience: Patience,
) -> Result<Vec<Answer>, Halt> {
    let mut taken = HashSet::new();
    // One for all statements, since each of them alone may take nearly that long.
    let deadline = now() + lease.answer_deadline();
    loop {
        let candidates: Vec<&Write> = writes
            .iter()
            .filter(|write| !taken.contains(write.persistence_id.as_str()))
            .copied()
            .collect();
        if candidates.is_empty() {
            return Ok(vec![Answer::Conflict; writes.len()]);
        }
        let attempt = Attempt {
            writes: &candidates,
            carried,
            payload_column,
            patience,
            deadline,
        };
        match attempt.make(lease).await {
            Ok(Inserted { lost, .. }) if !lost.is_empty() => {
                if roll_back(lease, deadline).await.is_err() {
                    lease.discard();
                }
                return Err(Halt::Fenced(lost));
            }
            Ok(Inserted { times, others, .. }) if others.is_empty() => {
                commit(lease, deadline).await?;
                return Ok(writes
                    .iter()
                    .map(|write| {
                        times
                            .get(write.persistence_id.as_str())
                            .map_or(Answer::Conflict, |at| Answer::Applied(at.date_time()))
                    })
                    .collect());
            }
            Ok(Inserted { others, .. }) => {
                let rolled_back = roll_back(lease, deadline).await;
                rolled_back.map_err(|failure| Halt::NotApplied(failure.surely_not_applied()))?;
                // Each round leaves out at least one id, so there are at most as many as writes.
                taken.extend(others);
            }
            Err(failure) => {
                // An earlier error ends the transaction: a COMMIT would be answered as if it had worked.
                if roll_back(lease, deadline).await.is_err() {
                    lease.discard();
                }
                return Err(Halt::NotApplied(failure.surely_not_applied()));
            }
        }
    }
}

/// What a transaction did before its end.
#[derive(Default)]
struct Inserted {
    /// The ids inserted, with their times.
    times: HashMap<String, Micros>,
    /// Those of them that have another row.
    others: Vec<String>,
    /// The places of the guards that do not hold. With any, nothing was inserted.
    lost: Vec<usize>,
}

/// A transaction that creates rows.
struct Attempt<'part> {
    writes: &'part [&'part Write],
    carried: Option<&'part Carried<'part>>,
    payload_column: PayloadColumn,
    patience: Patience,
    deadline: Instant,
}

impl Attempt<'_> {
    /// All of it but its end.
    async fn make(&self, lease: &mut Lease<'_>) -> Result<Inserted, Failure> {
        let begin = match self.patience {
            Patience::Usual => BEGIN,
            Patience::Little => BEGIN_IMPATIENT,
        };
        let answer = until(self.deadline, lease.begin()?.execute(begin)).await;
        lease.end(answer, Leaves::InTransaction)?;

        let mut inserted = self.insert(lease).await?;
        if !inserted.lost.is_empty() {
            return Ok(inserted);
        }
        let ids: Vec<&str> = inserted.times.keys().map(String::as_str).collect();
        let looking = sqlx::query_scalar(SELECT_OTHER_ROWS)
            .bind(&ids)
            .fetch_all(lease.begin()?);
        let answer = until(self.deadline, looking).await;
        inserted.others = lease.end(answer, Leaves::InTransaction)?;
        Ok(inserted)
    }

    async fn insert(&self, lease: &mut Lease<'_>) -> Result<Inserted, Failure> {
        let columns = Columns::of(self.writes);
        let text = carried::text(self.carried, INSERT_STATES.of(self.payload_column), CREATE);
        let query = sqlx::query(&text)
            .bind(columns.slice().with_room(columns.bytes()))
            .bind(columns.entity_type())
            .bind(columns.persistence_id())
            .bind(columns.revision())
            .bind(columns.state_ser_id())
            .bind(columns.state_ser_manifest())
            .bind(columns.state_payload(self.payload_column))
            .bind(columns.tags());
        let inserting = carried::bind(self.carried, query).fetch_all(lease.begin()?);
        let answer = until(self.deadline, inserting).await;
        let rows = lease.end(answer, Leaves::InTransaction)?;
        let mut inserted = Inserted {
            times: HashMap::with_capacity(rows.len()),
            ..Inserted::default()
        };
        let mut lost = Vec::new();
        for row in &rows {
            if self.carried.is_some()
                && let Some(ordinal) = row.try_get(LOST).map_err(|error| Failure::of(&error))?
            {
                lost.push(ordinal);
                continue;
            }
            let decoded = row
                .try_get(0)
                .and_then(|id: String| Ok((id, row.try_get::<Micros, _>(1)?)));
            let (id, db_timestamp) = decoded.map_err(|error| Failure::of(&error))?;
            inserted.times.insert(id, db_timestamp);
        }
        if let Some(carried) = self.carried {
            inserted.lost = carried.places(&lost);
        }
        Ok(inserted)
    }
}

async fn commit(lease: &mut Lease<'_>, deadline: Instant) -> Result<(), Halt> {
    let committing = lease.begin().map_err(Halt::NotApplied)?.execute(COMMIT);
    let answer = until(deadline, committing).await;
    match lease.end(answer, Leaves::Clean) {
        Ok(_) => Ok(()),
        Err(failure @ Failure::Lost(_)) => Err(Halt::Unknown(failure)),
        // A deferred constraint, for example. The transaction is over, and the session is fit for the next one.
        Err(failure) => Err(Halt::NotApplied(failure)),
    }
}

async fn roll_back(lease: &mut Lease<'_>, deadline: Instant) -> Result<(), Failure> {
    let answer = until(deadline, lease.begin()?.execute(ROLLBACK)).await;
    lease.end(answer, Leaves::Clean).map(drop)
}
