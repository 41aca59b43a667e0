//! The writes of `durable_state`: one transaction per batch, one compare-and-set per entity.
//!
//! **How.** A transaction is begun `IMMEDIATE`: it holds the file's only write lock from its first
//! statement to its end. Inside, one compare-and-set per entity with its own result. A value that is refused ends its own
//! statement and no other. What writes carry shares their transaction, see `carried.rs`.
//!
//! **What is known of a commit.** Before `COMMIT` is sent, every failure leaves nothing behind: the connection is closed,
//! and closing rolls back. A `COMMIT` answered "busy" has not committed either. Every other failure of `COMMIT` is
//! [`WriteOutcome::Unknown`], a full disk included: the commit record may have reached the log although the call that
//! was to secure it failed. This process then does not see the transaction, yet a recovery after a crash may. A later
//! write settles it: whoever holds the write lock comes after the end of every earlier transaction, also of
//! one whose caller is gone, and its own commit takes the place of the unfinished one in the log. So repeating
//! the same compare-and-set decides, and no session has to be fenced. A `COMMIT` into a file that was removed or replaced
//! meanwhile is unknown, too: see `sqlite/watch.rs`.

use super::apply::{Transaction, refusal};
use super::carried::apply_all;
use super::fetch::{Failure, run};
use crate::error::{Cause, StoreError};
use crate::sqlite::connection::Lane;
use crate::sqlite::error::{Kind, before_commit, cause, kind};
use crate::store::{UnknownOutcome, WriteBatch, WriteOutcome};

const BEGIN: &str = "BEGIN IMMEDIATE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

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
    let mut answered: Vec<Option<WriteOutcome>> = writes
        .iter()
        .map(|write| refusal(write, payload_bytes_max))
        .collect();
    let applied = loop {
        if let Err(error) = run(deadline, sqlx::query(BEGIN).execute(lease.connection())).await {
            break Err(error);
        }
        let applying = apply_all(lease.connection(), batch, &mut answered, now());
        match run(deadline, applying).await {
            Ok(Transaction::Whole) => break Ok(()),
            Ok(Transaction::Spoiled) => {}
            Err(error) => break Err(error),
        }
        // It has no transaction any more if the trigger ended that.
        let rolling_back = sqlx::query(ROLLBACK).execute(lease.connection());
        if let Err(error @ Failure::Deadline) = run(deadline, rolling_back).await {
            break Err(error);
        }
        // Each time one more write is refused, so this ends.
        for outcome in &mut answered {
            outcome.take_if(|outcome| !matches!(outcome, WriteOutcome::NotApplied(_)));
        }
    };
    let error = match &applied {
        Ok(()) => StoreError::Unavailable(Cause::Protocol),
        Err(error) => error.before_commit(),
    };
    let mut outcomes: Vec<WriteOutcome> = answered
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| WriteOutcome::NotApplied(error.clone())))
        .collect();
    if applied.is_err() {
        withdraw(&mut outcomes, &WriteOutcome::NotApplied(error));
        return outcomes;
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
    use crate::payload::{Manifest, Payload, SerializerId};
    use crate::persistence_id::PersistenceId;
    use crate::revision::Revision;
    use crate::sqlite::Store;
    use crate::store::{DurableStateStore as _, Write};

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
            let write = Write::mark(PersistenceId::unique("user")?, expected);
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
    #[tokio::test]
    async fn the_time_that_is_told_is_the_stored_one_and_later_than_the_one_before_known_or_not()
    -> Result<(), Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("store.db");
        let store = Store::open(&path, &StoreSettings::default()).await?;
        let id = PersistenceId::unique("user")?;
        let mut expected = Revision::NONE;
        let mut expected_at = None;
        let mut told = Vec::new();
        for (now, knows) in [
            (5, false),
            (5, true),
            (3, true),
            (3, false),
            (3, true),
            (9, true),
        ] {
            let payload = Payload {
                serializer_id: SerializerId::JACKSON_JSON,
                manifest: Manifest::new("State"),
                bytes: b"{}".to_vec(),
            };
            let write = Write::update(id.clone(), expected, payload)
                .expected_at(expected_at.filter(|_| knows));
            expected = write.new_revision();
            let batch = WriteBatch::new(vec![write])?;
            let outcomes = super::write(&store.writer, &batch, 2, || now).await;
            let [WriteOutcome::Applied(Some(time))] = outcomes.as_slice() else {
                return Err(format!("not applied: {outcomes:?}").into());
            };
            let stored = store.load(std::slice::from_ref(&id)).await?.remove(0)?;
            assert_eq!(stored.ok_or("no row")?.db_timestamp, *time);
            expected_at = Some(*time);
            told.push(time.timestamp_micros());
        }
        assert_eq!(told, [5, 6, 7, 8, 9, 10]);
        Ok(())
    }
}
