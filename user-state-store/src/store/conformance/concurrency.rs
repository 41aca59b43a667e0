//! Promises that hold while many write at once.

use futures_util::future::{join, join_all};

use super::seeded::Seeded;
use super::{Fixture, TestResult, sample};
use crate::persistence_id::PersistenceId;
use crate::store::{StoredValue, WriteOutcome};

/// How many writers run at once.
const WRITERS: u64 = 6;

/// How many batches each writer sends.
const ROUNDS: usize = 15;

/// Each writer loads some entities, advances each by one, and counts what was applied. The revisions at the end are the
/// sum of all counts: no update was lost, none was applied twice.
pub async fn concurrent_writers_lose_no_update(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("contended", 8)?;
    let writers = (0..WRITERS).map(|seed| advance(fixture, &ids, seed));
    let mut applied = 0;
    for count in join_all(writers).await {
        applied += count?;
    }
    let mut stored = 0;
    for id in &ids {
        stored += fixture.row(id).await?.map_or(0, |row| row.revision.get());
    }
    assert_eq!(stored, applied);
    assert!(applied > 0, "nobody ever won");
    Ok(())
}

/// Batches over the same rows, in whatever order the callers named them: each write is applied or conflicts, and
/// none ends in a deadlock or waits for ever.
pub async fn batches_over_the_same_entities_all_get_an_answer(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("crossed", 50)?;
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let ascending = ids.iter().map(|id| sample::put(id, 1, 2)).collect();
    let descending = ids.iter().rev().map(|id| sample::put(id, 1, 3)).collect();
    let (first, second) = join(fixture.write(ascending), fixture.write(descending)).await;
    for (first, second) in first?.iter().zip(&second?) {
        let winners = [first, second]
            .into_iter()
            .filter(|outcome| matches!(outcome, WriteOutcome::Applied(_)));
        assert_eq!(winners.count(), 1, "{first:?}, {second:?}");
        assert!([first, second].contains(&&WriteOutcome::Conflict));
    }
    Ok(())
}

/// A row read in the middle of writes is one of the rows that were written: revision and payload belong together.
pub async fn readers_see_whole_rows_while_others_write(fixture: &Fixture) -> TestResult {
    let id = sample::id("watched")?;
    fixture.apply(sample::create(&id)).await?;
    let writer = async {
        for revision in 2..60 {
            fixture
                .apply(sample::put(&id, revision - 1, revision))
                .await?;
        }
        TestResult::Ok(())
    };
    let reader = async {
        let mut before = 0;
        while before < 59 {
            let row = fixture.present(&id).await?;
            let revision = row.revision.get();
            assert!(revision >= before, "{revision} was read after {before}");
            assert_eq!(row.value, StoredValue::State(sample::payload(revision)));
            before = revision;
        }
        TestResult::Ok(())
    };
    let (written, read) = join(writer, reader).await;
    written.and(read)
}

/// Some rounds of load, decide, write; how many writes were applied.
async fn advance(fixture: &Fixture, ids: &[PersistenceId], seed: u64) -> TestResult<i64> {
    let mut random = Seeded::new(seed);
    let mut applied = 0;
    for _ in 0..ROUNDS {
        let chosen: Vec<_> = ids
            .iter()
            .filter(|_| random.below(3) == 0)
            .cloned()
            .collect();
        let rows = fixture.store.load(&chosen).await?;
        let mut writes = Vec::with_capacity(chosen.len());
        for (id, row) in chosen.iter().zip(rows) {
            let revision = row?.map_or(0, |row| row.revision.get());
            writes.push(sample::put(id, revision, revision + 1));
        }
        for outcome in fixture.write(writes).await? {
            match outcome {
                WriteOutcome::Applied(_) => applied += 1,
                WriteOutcome::Conflict => {}
                other => return Err(format!("neither applied nor a conflict: {other:?}").into()),
            }
        }
    }
    Ok(applied)
}
