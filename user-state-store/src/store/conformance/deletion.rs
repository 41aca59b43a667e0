//! Promises of the three forms of deletion.

use super::{Fixture, TestResult, sample};
use crate::revision::Revision;
use crate::store::{StoredValue, WriteOutcome};
use crate::tags::Tags;

/// The mark is the next revision, and the tags stay, as Pekko 2.0 leaves them.
pub async fn a_mark_follows_the_state_and_keeps_its_tags(fixture: &Fixture) -> TestResult {
    let id = sample::id("marked")?;
    let tags = Tags::new(["a", "b"]);
    let write = sample::put_tagged(&id, 0, 1, sample::payload(1), tags.clone());
    fixture.apply(write).await?;
    let before = fixture.present(&id).await?;
    fixture.apply(sample::mark(&id, 1)).await?;
    let row = fixture.present(&id).await?;
    assert_eq!(row.value, StoredValue::Deleted);
    assert_eq!(row.revision, sample::revision(2));
    assert_eq!(row.tags, tags);
    assert_eq!(
        (row.slice, &row.entity_type),
        (before.slice, &before.entity_type)
    );
    assert!(row.db_timestamp > before.db_timestamp);
    Ok(())
}

/// A mark may be the first row of an entity.
pub async fn a_mark_of_an_absent_entity_is_its_first_revision(fixture: &Fixture) -> TestResult {
    let id = sample::id("Type|never written")?;
    fixture.apply(sample::mark(&id, 0)).await?;
    let row = fixture.present(&id).await?;
    assert_eq!(row.value, StoredValue::Deleted);
    assert_eq!(row.revision, Revision::FIRST);
    assert_eq!(row.tags, Tags::NONE);
    assert_eq!((row.slice, row.entity_type.as_ref()), (id.slice(), "Type"));
    Ok(())
}

/// Revisions go on behind a mark, a second mark included.
pub async fn an_entity_goes_on_counting_after_a_mark(fixture: &Fixture) -> TestResult {
    let id = sample::id("revived")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.apply(sample::mark(&id, 1)).await?;
    fixture.apply(sample::mark(&id, 2)).await?;
    fixture.apply(sample::put(&id, 3, 4)).await?;
    let row = fixture.present(&id).await?;
    assert_eq!(row.revision, sample::revision(4));
    assert_eq!(row.value, StoredValue::State(sample::payload(4)));
    Ok(())
}

/// A mark is a row: revisions are never reused.
pub async fn a_marked_entity_cannot_be_created_again(fixture: &Fixture) -> TestResult {
    let id = sample::id("marked")?;
    fixture.apply(sample::mark(&id, 0)).await?;
    fixture.conflict(sample::create(&id)).await?;
    fixture.apply(sample::mark(&id, 1)).await?;
    fixture.conflict(sample::create(&id)).await
}

/// After an erasure there is no row, and the entity begins anew.
pub async fn an_erased_entity_counts_from_one_again(fixture: &Fixture) -> TestResult {
    let id = sample::id("erased")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.apply(sample::put(&id, 1, 5)).await?;
    let outcomes = fixture.write(vec![sample::erase(&id, 5)]).await?;
    assert_eq!(outcomes, [WriteOutcome::Applied(None)]);
    assert_eq!(fixture.row(&id).await?, None);
    fixture.conflict(sample::put(&id, 5, 6)).await?;
    fixture.conflict(sample::erase(&id, 5)).await?;
    fixture.apply(sample::create(&id)).await?;
    assert_eq!(fixture.present(&id).await?.revision, Revision::FIRST);
    Ok(())
}

/// A deletion decided on an old state deletes nothing.
pub async fn a_stale_mark_or_erasure_conflicts(fixture: &Fixture) -> TestResult {
    let id = sample::id("fresh")?;
    fixture.apply(sample::create(&id)).await?;
    fixture.apply(sample::put(&id, 1, 2)).await?;
    let before = fixture.present(&id).await?;
    for expected in [1, 3] {
        fixture.conflict(sample::mark(&id, expected)).await?;
        fixture.conflict(sample::erase(&id, expected)).await?;
    }
    assert_eq!(fixture.present(&id).await?, before);
    let absent = sample::id("absent")?;
    fixture.conflict(sample::mark(&absent, 1)).await?;
    fixture.conflict(sample::erase(&absent, 1)).await
}

/// After a row was removed and made again, its revisions are used again and its time is not: a change decided on the old
/// row changes nothing, and one decided on the new row is applied.
pub async fn a_row_made_again_at_the_same_revision_conflicts_with_whoever_knew_the_old_one(
    fixture: &Fixture,
) -> TestResult {
    let ids = sample::ids("again", 3)?;
    let [put, marked, erased] = ids.as_slice() else {
        return Err("three ids were asked for".into());
    };
    for (id, change) in [
        (put, sample::put(put, 2, 3)),
        (marked, sample::mark(marked, 2)),
        (erased, sample::erase(erased, 2)),
    ] {
        fixture.apply(sample::create(id)).await?;
        let old = fixture.apply_at(sample::put(id, 1, 2)).await?;
        fixture.apply(sample::erase(id, 2)).await?;
        fixture.apply(sample::create(id)).await?;
        let theirs = sample::bytes(b"\"theirs\"".to_vec());
        let put_again = sample::put_payload(id, 1, 2, theirs);
        let new = fixture.apply_at(put_again).await?;
        let row = fixture.present(id).await?;

        fixture.conflict(change.clone().expected_at(old)).await?;
        assert_eq!(fixture.present(id).await?, row);
        fixture.apply(change.expected_at(new)).await?;
    }
    Ok(())
}

/// Creations, updates, marks and erasures of different entities go together, and each has its own outcome.
pub async fn all_forms_of_change_share_a_batch(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("mixed", 7)?;
    let [updated, marked, erased, created, born_marked, stale, absent] = ids.as_slice() else {
        return Err("seven ids were asked for".into());
    };
    let stored = [updated, marked, erased, stale].map(sample::create).into();
    fixture.write(stored).await?;
    let outcomes = fixture
        .write(vec![
            sample::put(updated, 1, 2),
            sample::mark(marked, 1),
            sample::erase(erased, 1),
            sample::create(created),
            sample::mark(born_marked, 0),
            sample::erase(stale, 2),
            sample::mark(absent, 1),
        ])
        .await?;
    let times: Vec<Option<bool>> = outcomes
        .iter()
        .map(|outcome| match outcome {
            WriteOutcome::Applied(time) => Some(time.is_some()),
            _ => None,
        })
        .collect();
    let (with_time, without_time) = (Some(true), Some(false));
    assert_eq!(
        times,
        [
            with_time,
            with_time,
            without_time,
            with_time,
            with_time,
            None,
            None
        ],
        "{outcomes:?}"
    );
    let revisions: Vec<i64> = fixture
        .store
        .load(&ids)
        .await?
        .into_iter()
        .map(|row| Ok(row?.map_or(0, |state| state.revision.get())))
        .collect::<TestResult<_>>()?;
    assert_eq!(revisions, [2, 2, 0, 1, 1, 1, 0]);
    Ok(())
}

/// To the store, the empty state of a reset is a state like any other.
pub async fn a_reset_is_an_ordinary_state_at_the_next_revision(fixture: &Fixture) -> TestResult {
    let id = sample::id("reset")?;
    fixture.apply(sample::create(&id)).await?;
    let empty = sample::bytes(b"{}".to_vec());
    fixture
        .apply(sample::put_payload(&id, 1, 2, empty.clone()))
        .await?;
    assert_eq!(fixture.present(&id).await?.value, StoredValue::State(empty));
    fixture.conflict(sample::create(&id)).await?;
    fixture.apply(sample::put(&id, 2, 3)).await
}
