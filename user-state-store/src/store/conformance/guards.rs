//! Promises of guards: nothing is applied under one that does not hold, and everything else is.

use std::collections::BTreeSet;

use super::companions::{noted, noting};
use super::tables::LEASES;
use super::{Fixture, TestResult, sample};
use crate::error::Cause;
use crate::persistence_id::PersistenceId;
use crate::resolve::{Resolution, UnresolvedWrite, Writers};
use crate::slice::SliceRange;
use crate::store::{
    BATCH_ROWS_MAX, Guard, InvalidBatch, UnknownOutcome, Write, WriteBatch, WriteOutcome,
};

/// How many ranges of eight slices there are.
const RANGES: u16 = 128;

/// Guards of all ranges with this epoch.
pub(super) fn guards(epoch: i64) -> TestResult<Vec<Guard>> {
    let ranges = SliceRange::split(RANGES).ok_or("it divides the number of slices")?;
    let guards = ranges.into_iter().map(|slices| Guard { slices, epoch });
    Ok(guards.collect())
}

fn range(id: &PersistenceId) -> u16 {
    id.slice().get() / 8
}

/// Somebody else takes these ranges.
pub(super) async fn take(fixture: &Fixture, ranges: &BTreeSet<u16>) -> TestResult {
    for range in ranges {
        let sql = format!("UPDATE leases SET epoch = epoch + 1 WHERE range_id = {range}");
        fixture.database()?.execute(&sql).await?;
    }
    Ok(())
}

async fn write(fixture: &Fixture, writes: Vec<Write>) -> TestResult<Vec<WriteOutcome>> {
    let batch = WriteBatch::new(writes)?.guarded(&LEASES, guards(1)?)?;
    fixture.write_batch(&batch).await
}

/// Guards that hold change nothing.
pub async fn a_batch_whose_guards_hold_is_written(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("held", 30)?;
    for revision in [1, 2] {
        let writes = ids.iter().map(|id| sample::put(id, revision - 1, revision));
        let outcomes = write(fixture, writes.collect()).await?;
        let applied = |outcome| matches!(outcome, &WriteOutcome::Applied(Some(_)));
        assert!(outcomes.iter().all(applied), "{outcomes:?}");
    }
    let stale = ids.iter().map(|id| sample::put(id, 1, 2)).collect();
    let outcomes = write(fixture, stale).await?;
    let conflicts = |outcome: &WriteOutcome| *outcome == WriteOutcome::Conflict;
    assert!(outcomes.iter().all(conflicts), "{outcomes:?}");
    Ok(())
}

/// Of the writes of a batch those of lost ranges are fenced, with their companions, in every form of change.
pub async fn writes_of_lost_ranges_are_fenced_and_the_others_are_written(
    fixture: &Fixture,
) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("parted", 120)?;
    let lost: BTreeSet<u16> = ids.iter().take(5).map(range).collect();
    let stored = ids.iter().enumerate().filter(|(n, _)| n % 4 > 0);
    let stored = stored.map(|(_, id)| sample::create(id)).collect();
    fixture.write(stored).await?;
    take(fixture, &lost).await?;
    let before = fixture.store.load(&ids).await?;
    let writes = ids.iter().enumerate().map(|(n, id)| {
        let write = match n % 4 {
            0 => sample::create(id),
            1 => sample::put(id, 1, 2),
            2 => sample::mark(id, 1),
            _ => sample::erase(id, 1),
        };
        noting(write, &["a"])
    });
    let writes = writes.collect::<TestResult<Vec<_>>>()?;
    let outcomes = write(fixture, writes).await?;
    let mut fenced = 0;
    for (n, (id, outcome)) in ids.iter().zip(&outcomes).enumerate() {
        if lost.contains(&range(id)) {
            assert_eq!(*outcome, WriteOutcome::Fenced, "{n}");
            fenced += 1;
        } else {
            assert!(
                matches!(outcome, WriteOutcome::Applied(_)),
                "{n}: {outcome:?}"
            );
        }
    }
    assert!((5..60).contains(&fenced), "{fenced}");
    let after = fixture.store.load(&ids).await?;
    for ((id, before), after) in ids.iter().zip(before).zip(after) {
        assert_eq!(before == after, lost.contains(&range(id)), "{id}");
    }
    assert_eq!(noted(fixture).await?.len(), ids.len() - fenced);
    Ok(())
}

/// Nothing is written without any right.
pub async fn a_batch_whose_guards_are_all_lost_is_fenced(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("lost", 20)?;
    take(fixture, &ids.iter().map(range).collect()).await?;
    let creations = ids.iter().map(sample::create).collect();
    let outcomes = write(fixture, creations).await?;
    assert_eq!(outcomes, vec![WriteOutcome::Fenced; 20]);
    for row in fixture.store.load(&ids).await? {
        assert_eq!(row?, None);
    }
    // Whoever has the ranges now writes them.
    let creations = ids.iter().map(sample::create).collect();
    let batch = WriteBatch::new(creations)?.guarded(&LEASES, guards(2)?)?;
    let outcomes = fixture.write_batch(&batch).await?;
    let applied = |outcome| matches!(outcome, &WriteOutcome::Applied(Some(_)));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    Ok(())
}

/// A full batch over all ranges, of which every seventh is lost, and some of whose rows conflict.
pub async fn a_full_batch_over_all_ranges_loses_some(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("wide", BATCH_ROWS_MAX)?;
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let lost: BTreeSet<u16> = (0..RANGES).filter(|range| range % 7 == 3).collect();
    take(fixture, &lost).await?;
    let writes = ids.iter().enumerate().map(|(n, id)| match n % 10 {
        0 => sample::put(id, 5, 6),
        _ => sample::put(id, 1, 2),
    });
    let outcomes = write(fixture, writes.collect()).await?;
    for (n, (id, outcome)) in ids.iter().zip(&outcomes).enumerate() {
        match outcome {
            WriteOutcome::Fenced => assert!(lost.contains(&range(id)), "{n}"),
            WriteOutcome::Conflict => assert!(!lost.contains(&range(id)) && n % 10 == 0, "{n}"),
            WriteOutcome::Applied(Some(_)) => {
                assert!(!lost.contains(&range(id)) && n % 10 > 0, "{n}");
            }
            other => return Err(format!("{n}: {other:?}").into()),
        }
    }
    Ok(())
}

/// A repetition that is fenced proves nothing: the row tells whether the lost write was applied.
pub async fn a_fenced_repetition_leaves_the_answer_to_the_row(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("repeated", 2)?;
    let [applied, lost] = ids.as_slice() else {
        return Err("two ids were asked for".into());
    };
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let writes: Vec<Write> = ids.iter().map(|id| sample::put(id, 1, 2)).collect();
    let batch = WriteBatch::new(writes)?.guarded(&LEASES, guards(1)?)?;
    fixture.apply(sample::put(applied, 1, 2)).await?;
    take(fixture, &ids.iter().map(range).collect()).await?;
    let unknown = UnknownOutcome {
        session: None,
        cause: Cause::Deadline,
    };
    let unresolved = batch
        .writes()
        .iter()
        .map(|write| UnresolvedWrite::new(write.clone(), &unknown).guarded_as(batch.guards()));
    let mut unresolved: Vec<UnresolvedWrite> = unresolved.collect();
    let resolutions = crate::resolve(fixture.store(), &mut unresolved, Writers::Sole).await;
    assert!(
        matches!(
            resolutions.as_slice(),
            [Resolution::Applied(Some(_)), Resolution::NotApplied]
        ),
        "{resolutions:?}"
    );
    assert_eq!(fixture.present(lost).await?.revision, sample::revision(1));
    Ok(())
}

/// A batch says at once that its guards are not those of its writes.
pub async fn a_batch_has_one_guard_for_each_write(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("guarded", 3)?;
    let creations = || WriteBatch::new(ids.iter().map(sample::create).collect());
    let of_others = guards(1)?.into_iter();
    let first = ids.first().ok_or("three ids were asked for")?;
    let of_others = of_others.filter(|guard| !guard.slices.contains(first.slice()));
    assert_eq!(
        creations()?.guarded(&LEASES, of_others).err(),
        Some(InvalidBatch::Unguarded)
    );
    let twice = guards(1)?.into_iter().chain(guards(2)?);
    assert_eq!(
        creations()?.guarded(&LEASES, twice).err(),
        Some(InvalidBatch::OverlappingGuards)
    );
    // Equal ones count once.
    let again = guards(1)?.into_iter().chain(guards(1)?);
    let batch = creations()?.guarded(&LEASES, again)?;
    let outcomes = fixture.write_batch(&batch).await?;
    let applied = |outcome| matches!(outcome, &WriteOutcome::Applied(Some(_)));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    Ok(())
}
