//! Promises of creation: never a second row for an id, whoever writes at the same time.

use futures_util::future::{join, join_all};

use super::{Fixture, TestResult, sample};
use crate::revision::Revision;
use crate::store::{StoredValue, WriteOutcome};

/// Creations that run at the same time in one promise.
const CREATORS: i64 = 16;

/// The key of the table would let a creation in beside a row at another revision.
pub async fn a_creation_beside_a_row_at_any_revision_conflicts(fixture: &Fixture) -> TestResult {
    let id = sample::id("present")?;
    fixture.apply(sample::create(&id)).await?;
    for revision in [2, 7] {
        fixture.conflict(sample::create(&id)).await?;
        fixture.conflict(sample::mark(&id, 0)).await?;
        let stored = fixture.present(&id).await?.revision.get();
        fixture.apply(sample::put(&id, stored, revision)).await?;
    }
    fixture.conflict(sample::create(&id)).await?;
    assert_eq!(fixture.present(&id).await?.revision, sample::revision(7));
    Ok(())
}

/// One is applied, all others conflict, and the row is the winner's.
pub async fn of_many_concurrent_creators_exactly_one_wins(fixture: &Fixture) -> TestResult {
    for round in 0..10 {
        let id = sample::id(&format!("new-{round}"))?;
        let creators = (0..CREATORS).map(|creator| {
            let write = sample::put_payload(&id, 0, 1, sample::payload(creator));
            fixture.write(vec![write])
        });
        let mut winners = Vec::new();
        for (creator, outcomes) in (0..CREATORS).zip(join_all(creators).await) {
            match outcomes?.as_slice() {
                [WriteOutcome::Applied(Some(_))] => winners.push(creator),
                [WriteOutcome::Conflict] => {}
                other => return Err(format!("neither applied nor a conflict: {other:?}").into()),
            }
        }
        let [winner] = winners.as_slice() else {
            return Err(format!("the winners are {winners:?}").into());
        };
        let row = fixture.present(&id).await?;
        assert_eq!(row.value, StoredValue::State(sample::payload(*winner)));
    }
    Ok(())
}

/// While one writer goes from 1 to 3, another still tries to create: the moment in which a row changes its key must
/// not let the creation in. A load would tell two rows.
pub async fn a_creation_that_races_with_updates_leaves_one_row(fixture: &Fixture) -> TestResult {
    for round in 0..20 {
        let id = sample::id(&format!("raced-{round}"))?;
        fixture.apply(sample::create(&id)).await?;
        let updates = async {
            fixture.apply(sample::put(&id, 1, 2)).await?;
            fixture.apply(sample::put(&id, 2, 3)).await
        };
        let creations = join_all((0..4).map(|_| fixture.conflict(sample::create(&id))));
        let (advanced, created) = join(updates, creations).await;
        advanced?;
        created.into_iter().collect::<TestResult<Vec<()>>>()?;
        assert_eq!(Some(fixture.present(&id).await?.revision), Revision::new(3));
    }
    Ok(())
}

/// Two batches that share some of their ids: what one creates, the other is told as a conflict.
pub async fn overlapping_batches_of_creations_create_each_entity_once(
    fixture: &Fixture,
) -> TestResult {
    let ids = sample::ids("shared", 60)?;
    let lower = ids.iter().take(40).map(sample::create).collect();
    let upper = ids.iter().skip(20).map(sample::create).collect();
    let (lower, upper) = join(fixture.write(lower), fixture.write(upper)).await;
    let (lower, upper) = (lower?, upper?);
    let applied = lower.iter().chain(&upper).filter(|outcome| {
        assert!(
            matches!(
                outcome,
                WriteOutcome::Applied(Some(_)) | WriteOutcome::Conflict
            ),
            "{outcome:?}"
        );
        **outcome != WriteOutcome::Conflict
    });
    assert_eq!(applied.count(), ids.len());
    for row in fixture.store.load(&ids).await? {
        assert_eq!(row?.map(|state| state.revision), Some(Revision::FIRST));
    }
    Ok(())
}
