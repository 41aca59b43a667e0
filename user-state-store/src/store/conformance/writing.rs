//! Promises of writing: a compare-and-set per entity, an outcome per write.

use chrono::TimeDelta;

use super::seeded::Seeded;
use super::{Fixture, TestResult, sample};
use crate::error::StoreError;
use crate::revision::Revision;
use crate::store::{BATCH_ROWS_MAX, StoredValue, WriteBatch, WriteOutcome};
use crate::tags::Tags;

/// Every column of a row is what was written, and its time is the one that the outcome told.
pub async fn a_row_reads_back_as_it_was_written(fixture: &Fixture) -> TestResult {
    let id = sample::id("mall-user")?;
    let tags = Tags::one("user-state");
    let write = sample::put_tagged(&id, 0, 1, sample::payload(1), tags.clone());
    let outcomes = fixture.write(vec![write]).await?;
    let row = fixture.present(&id).await?;
    assert_eq!(outcomes, [WriteOutcome::Applied(Some(row.db_timestamp))]);
    assert_eq!(row.persistence_id, id);
    assert_eq!(row.revision, Revision::FIRST);
    assert_eq!(row.value, StoredValue::State(sample::payload(1)));
    assert_eq!(row.tags, tags);
    Ok(())
}

/// At a lower or a higher revision than the stored one nothing changes.
pub async fn an_update_applies_only_at_the_expected_revision(fixture: &Fixture) -> TestResult {
    let id = sample::id("guarded")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.apply(sample::put(&id, 1, 2)).await?;
    let before = fixture.present(&id).await?;
    fixture.conflict(sample::put(&id, 1, 2)).await?;
    fixture.conflict(sample::put(&id, 3, 4)).await?;
    assert_eq!(fixture.present(&id).await?, before);
    fixture.apply(sample::put(&id, 2, 3)).await
}

/// An update creates nothing.
pub async fn an_update_of_an_absent_entity_conflicts(fixture: &Fixture) -> TestResult {
    let id = sample::id("absent")?;
    fixture.conflict(sample::put(&id, 1, 2)).await?;
    assert_eq!(fixture.row(&id).await?, None);
    Ok(())
}

/// Conflicting updates and creations lie between good ones; each write has its own outcome, in the order of the batch.
pub async fn one_conflict_harms_no_neighbour(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("neighbour", 40)?;
    let stored = ids.iter().step_by(2).map(sample::create).collect();
    fixture.write(stored).await?;
    // Of four in a row: an update that hits, a creation that hits, a creation too many, an update of nothing.
    let (writes, expected): (Vec<_>, Vec<_>) = ids
        .iter()
        .enumerate()
        .map(|(n, id)| match n % 4 {
            0 => (sample::put(id, 1, 2), true),
            1 => (sample::create(id), true),
            2 => (sample::create(id), false),
            _ => (sample::put(id, 1, 2), false),
        })
        .unzip();
    let outcomes = fixture.write(writes).await?;
    let applied: Vec<bool> = outcomes
        .iter()
        .map(|outcome| matches!(outcome, WriteOutcome::Applied(Some(_))))
        .collect();
    assert_eq!(applied, expected, "{outcomes:?}");
    let conflicts = outcomes
        .iter()
        .filter(|outcome| **outcome == WriteOutcome::Conflict);
    assert_eq!(conflicts.count(), 20);
    let rows = fixture.store.load(&ids).await?;
    for (n, row) in rows.into_iter().enumerate() {
        let expected = [2, 1, 1, 0].get(n % 4).copied().unwrap_or_default();
        let found = row?.map_or(Revision::NONE, |state| state.revision);
        assert_eq!(found, sample::revision(expected), "row {n}");
    }
    Ok(())
}

/// A full batch is created, then updated.
pub async fn a_batch_of_the_largest_number_of_rows_is_written(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("full", BATCH_ROWS_MAX)?;
    for revision in [1, 2] {
        let writes = ids.iter().map(|id| sample::put(id, revision - 1, revision));
        let outcomes = fixture.write(writes.collect()).await?;
        assert_eq!(outcomes.len(), BATCH_ROWS_MAX);
        let applied = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, WriteOutcome::Applied(Some(_))));
        assert_eq!(applied.count(), BATCH_ROWS_MAX);
    }
    for row in fixture.store.load(&ids).await? {
        assert_eq!(row?.map(|state| state.revision), Revision::new(2));
    }
    Ok(())
}

/// Whoever does not want outcomes early gets each of them in its place.
pub async fn a_caller_that_waits_for_all_gets_the_outcomes_in_the_order_of_the_batch(
    fixture: &Fixture,
) -> TestResult {
    let ids = sample::ids("ordered", 9)?;
    let stored = ids.iter().step_by(3).map(sample::create).collect();
    fixture.write(stored).await?;
    let writes = ids.iter().enumerate().map(|(n, id)| match n % 3 {
        1 => sample::create(id),
        _ => sample::put(id, 1, 2),
    });
    let batch = WriteBatch::new(writes.collect())?;
    let outcomes = fixture.store.write(&batch).await;
    let applied: Vec<bool> = outcomes
        .iter()
        .map(|outcome| matches!(outcome, WriteOutcome::Applied(Some(_))))
        .collect();
    let expected = [true, true, false].repeat(3);
    assert_eq!(applied, expected, "{outcomes:?}");
    Ok(())
}

/// Nothing to write, no outcome.
pub async fn a_batch_without_writes_has_no_outcomes(fixture: &Fixture) -> TestResult {
    assert!(fixture.write(Vec::new()).await?.is_empty());
    Ok(())
}

/// Several commands written together advance the revision by their number.
pub async fn a_revision_may_advance_by_more_than_one(fixture: &Fixture) -> TestResult {
    let id = sample::id("conflated")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.apply(sample::put(&id, 1, 43)).await?;
    fixture.conflict(sample::put(&id, 42, 44)).await?;
    fixture.apply(sample::put(&id, 43, 44)).await?;
    assert_eq!(
        Some(fixture.present(&id).await?.revision),
        Revision::new(44)
    );
    Ok(())
}

/// The column holds every revision there is.
pub async fn the_highest_revision_is_stored(fixture: &Fixture) -> TestResult {
    let id = sample::id("old")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.apply(sample::put(&id, 1, i64::MAX)).await?;
    assert_eq!(fixture.present(&id).await?.revision.get(), i64::MAX);
    Ok(())
}

/// However fast the writes follow each other.
pub async fn db_timestamps_strictly_increase_per_entity(fixture: &Fixture) -> TestResult {
    let id = sample::id("timed")?;
    fixture.apply(sample::create(&id)).await?;
    let mut before = fixture.present(&id).await?.db_timestamp;
    for revision in 2..40 {
        let write = if revision % 7 == 0 {
            sample::mark(&id, revision - 1)
        } else {
            sample::put(&id, revision - 1, revision)
        };
        let outcomes = fixture.write(vec![write]).await?;
        let [WriteOutcome::Applied(Some(now))] = outcomes.as_slice() else {
            return Err(format!("not applied: {outcomes:?}").into());
        };
        assert!(*now > before, "{now} is not behind {before}");
        assert_eq!(fixture.present(&id).await?.db_timestamp, *now);
        before = *now;
    }
    Ok(())
}

/// One byte too many is told with both numbers, and its neighbour is written.
pub async fn a_payload_at_the_limit_is_written_and_one_byte_more_is_refused(
    fixture: &Fixture,
) -> TestResult {
    let limit = fixture.payload_bytes_max;
    let ids = sample::ids("large", 3)?;
    let [largest, larger, neighbour] = ids.as_slice() else {
        return Err("three ids were asked for".into());
    };
    let mut random = Seeded::new(1);
    let payload = fixture.payload(&mut random, limit);
    fixture
        .apply(sample::put_payload(largest, 0, 1, payload.clone()))
        .await?;
    let row = fixture.present(largest).await?;
    assert!(
        row.value == StoredValue::State(payload),
        "the payload differs"
    );

    let too_large = fixture.payload(&mut random, limit + 1);
    let writes = vec![
        sample::put_payload(larger, 0, 1, too_large),
        sample::create(neighbour),
    ];
    let outcomes = fixture.write(writes).await?;
    assert!(
        matches!(
            outcomes.as_slice(),
            [
                WriteOutcome::NotApplied(StoreError::TooLarge { actual, limit: told, .. }),
                WriteOutcome::Applied(Some(_)),
            ] if *actual == limit + 1 && *told == limit
        ),
        "{outcomes:?}"
    );
    assert_eq!(fixture.row(larger).await?, None);
    Ok(())
}

/// Each outcome tells the time that a load tells, to the microsecond, and so each write may expect it; a microsecond beside it
/// is a conflict.
pub async fn the_time_of_the_known_row_is_told_exactly_by_loads_and_writes(
    fixture: &Fixture,
) -> TestResult {
    let id = sample::id("known")?;
    let mut at = fixture.apply_at(sample::create(&id)).await?;
    for revision in 1..5 {
        assert_eq!(fixture.present(&id).await?.db_timestamp, at);
        for beside in [-1, 1] {
            let other = at + TimeDelta::microseconds(beside);
            let write = sample::put(&id, revision, revision + 1).expected_at(other);
            fixture.conflict(write).await?;
        }
        let write = match revision {
            3 => sample::mark(&id, revision),
            _ => sample::put(&id, revision, revision + 1),
        };
        at = fixture.apply_at(write.expected_at(at)).await?;
    }
    fixture.apply(sample::erase(&id, 5).expected_at(at)).await?;
    assert_eq!(fixture.row(&id).await?, None);
    Ok(())
}
