//! The writes of `durable_state`: one transaction per batch, one compare-and-set per entity.
//!
//! **How.** A transaction is begun `IMMEDIATE`: it holds the file's only write lock from its first
//! statement to its end. Inside, one compare-and-set per entity with its own result. A value that is refused ends its own
//! statement and no other.
//!
//! **What is known of a commit.** Before `COMMIT` is sent, every failure leaves nothing behind: the connection is closed,
//! and closing rolls back. A `COMMIT` answered "busy" has not committed either. Every other failure of `COMMIT` is
//! [`WriteOutcome::Unknown`], a full disk included: the commit record may have reached the log although the call that
//! was to secure it failed. This process then does not see the transaction, yet a recovery after a crash may. A later
//! write settles it: whoever holds the write lock comes after the end of every earlier transaction, also of
//! one whose caller is gone, and its own commit takes the place of the unfinished one in the log. So repeating
//! the same compare-and-set decides, and no session has to be fenced. A `COMMIT` into a file that was removed or replaced
//! meanwhile is unknown, too: see `sqlite/watch.rs`.

use chrono::DateTime;
use sqlx::{Row as _, SqliteConnection};

use super::{Failure, Query, run};
use crate::error::{Cause, StoreError};
use crate::payload::SerializerId;
use crate::sqlite::connection::Lane;
use crate::sqlite::error::{Kind, before_commit, cause, kind};
use crate::store::{Change, UnknownOutcome, Write, WriteBatch, WriteOutcome};
use crate::tags::Tags;

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
  -- A row that was removed and made again counts from 1 again; its time tells it apart.
  AND (?9 IS NULL OR db_timestamp = ?9)
RETURNING db_timestamp";

const MARK: &str = "\
UPDATE durable_state
SET revision = ?1, state_ser_id = 0, state_ser_manifest = '', state_payload = x'',
    db_timestamp = max(?2, db_timestamp + 1)
WHERE persistence_id = ?3
  AND revision = ?4
  AND (?5 IS NULL OR db_timestamp = ?5)
RETURNING db_timestamp";

const ERASE: &str = "\
DELETE FROM durable_state
WHERE persistence_id = ?1
  AND revision = ?2
  AND (?3 IS NULL OR db_timestamp = ?3)";

/// Writes a batch, one outcome per write; `now` is asked when the write lock is held.
pub(in crate::sqlite) async fn write(
    lane: &Lane,
    batch: &WriteBatch,
    payload_bytes_max: usize,
    now: impl Fn() -> i64,
) -> Vec<WriteOutcome> {
    let deadline = lane.deadline();
    let writes = batch.writes();
    if writes.is_empty() {
        return Vec::new();
    }
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
        Ok(_) => match lane.check_commit() {
            // A lease for writing reads nothing without locks, so there is nothing to check.
            Ok(()) => drop(lease.finish()),
            Err(cause) => withdraw(
                &mut outcomes,
                &WriteOutcome::Unknown(UnknownOutcome {
                    session: None,
                    cause,
                }),
            ),
        },
        Err(error) => withdraw(&mut outcomes, &of_commit(&error)),
    }
    outcomes
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
                .bind(expected_micros(write))
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
                .bind(write.expected.get())
                .bind(expected_micros(write));
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
            .bind(expected_micros(write))
    }
}

/// The expected `db_timestamp` as the column has it.
fn expected_micros(write: &Write) -> Option<i64> {
    write.expected_at.map(|at| at.timestamp_micros())
}

/// What is known after `COMMIT` failed; see the module's documentation.
fn of_commit(failure: &Failure) -> WriteOutcome {
    let cause = match failure {
        Failure::Deadline => Cause::Deadline,
        Failure::Sqlite(error) if kind(error) == Kind::Busy => {
            return WriteOutcome::NotApplied(before_commit(error));
        }
        Failure::Sqlite(error) => cause(error),
    };
    WriteOutcome::Unknown(UnknownOutcome {
        session: None,
        cause,
    })
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::error::Error;

    use super::*;
    use crate::connect::StoreSettings;
    use crate::persistence_id::PersistenceId;
    use crate::revision::Revision;
    use crate::sqlite::Store;

    #[tokio::test]
    async fn db_timestamps_increase_while_the_clock_stands_still_or_goes_back()
    -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("store.db");
        let store = Store::open(&path, &StoreSettings::default()).await?;
        let clock = Cell::new(1_000_000);
        let mut expected = Revision::NONE;
        let mut told = Vec::new();
        for now in [1_000_000, 1_000_000, 1_000_000, 500_000, 2_000_000] {
            clock.set(now);
            let change = Change::Mark;
            let write = Write {
                persistence_id: PersistenceId::unique("user")?,
                expected,
                expected_at: None,
                change,
            };
            expected = write.new_revision();
            let batch = WriteBatch::new(vec![write])?;
            let outcomes = super::write(&store.writer, &batch, 1, || clock.get()).await;
            let [WriteOutcome::Applied(Some(time))] = outcomes.as_slice() else {
                return Err(format!("not applied: {outcomes:?}").into());
            };
            told.push(time.timestamp_micros());
        }
        assert_eq!(
            told,
            [1_000_000, 1_000_001, 1_000_002, 1_000_003, 2_000_000]
        );
        Ok(())
    }
}
