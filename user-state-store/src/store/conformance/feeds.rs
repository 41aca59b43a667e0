//! Promises of the change feed and of the pages of persistence ids.

use std::num::NonZeroUsize;

use super::{Fixture, TestResult, sample};
use crate::changes::{ChangesPage, ChangesQuery, PageEnd, RowKey};
use crate::persistence_id::PersistenceId;
use crate::slice::SliceRange;
use crate::store::{StoredState, StoredValue};

/// A page that is smaller than what there is.
const SMALL: NonZeroUsize = NonZeroUsize::MIN.saturating_add(6);

/// Oldest first, by the time of each entity's latest write.
pub async fn changes_come_in_the_order_they_were_written(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("ordered", 6)?;
    for id in ids.iter().rev() {
        fixture.apply(sample::create(id)).await?;
    }
    let touched = ids.get(3).ok_or("six ids were asked for")?;
    fixture.apply(sample::put(touched, 1, 2)).await?;
    let page = all(fixture, "").await?;
    let mut expected: Vec<_> = ids.iter().rev().filter(|id| *id != touched).collect();
    expected.push(touched);
    assert_eq!(found(&page.states), expected);
    assert!(
        page.states
            .is_sorted_by_key(|state| (state.db_timestamp, state.revision))
    );
    assert!(
        page.states
            .iter()
            .all(|state| state.db_timestamp < page.until)
    );
    Ok(())
}

/// An entity is in the feed once, as it is now.
pub async fn changes_hold_only_the_latest_revision_of_each_entity(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("latest", 3)?;
    for revision in 1..=5 {
        let writes = ids.iter().map(|id| sample::put(id, revision - 1, revision));
        fixture.write(writes.collect()).await?;
    }
    let states = all(fixture, "").await?.states;
    let rows: Vec<StoredState> = fixture
        .store
        .load(&ids)
        .await?
        .into_iter()
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    // They were written in one batch and share their time, so their order among each other is open.
    assert_eq!(states.len(), rows.len());
    assert!(rows.iter().all(|row| states.contains(row)));
    Ok(())
}

/// A feed is of one entity type, plain ids being one, and of a range of slices.
pub async fn changes_are_those_of_the_entity_type_and_slices_asked_for(
    fixture: &Fixture,
) -> TestResult {
    let mut ids = sample::ids("plain", 40)?;
    ids.extend(sample::ids("User|a", 40)?);
    ids.extend(sample::ids("User2|a", 5)?);
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    for entity_type in ["", "User", "User2", "us%", "Use"] {
        let mut reached = 0;
        for slices in SliceRange::split(4).ok_or("1024 is a multiple of 4")? {
            let query = ChangesQuery {
                slices,
                ..sample::all_changes(entity_type)
            };
            let states = fixture.store.changes(&query).await?.states;
            reached += states.len();
            let belongs =
                |id: &PersistenceId| id.entity_type() == entity_type && slices.contains(id.slice());
            assert!(states.iter().all(|state| belongs(&state.persistence_id)));
        }
        let expected = ids.iter().filter(|id| id.entity_type() == entity_type);
        assert_eq!(reached, expected.count(), "{entity_type:?}");
    }
    Ok(())
}

/// `from` is included, `until` is not, and an `until` given is the one that is answered.
pub async fn a_page_of_changes_begins_at_from_and_ends_before_until(
    fixture: &Fixture,
) -> TestResult {
    let ids = sample::ids("bounded", 5)?;
    for id in &ids {
        fixture.apply(sample::create(id)).await?;
    }
    let states = all(fixture, "").await?.states;
    let [_, first, _, last, _] = states.as_slice() else {
        return Err(format!("five changes were expected, not {}", states.len()).into());
    };
    let query = ChangesQuery {
        from: first.db_timestamp,
        until: Some(last.db_timestamp),
        ..sample::all_changes("")
    };
    let page = fixture.store.changes(&query).await?;
    assert_eq!(Some(page.until), query.until);
    assert_eq!(page.states.as_slice(), states.get(1..3).unwrap_or_default());
    Ok(())
}

/// Pages of a few rows, each begun just behind the last row of the one before, give what one large page gives.
pub async fn following_the_pages_of_changes_reaches_every_row(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("paged", 25)?;
    for id in &ids {
        fixture.apply(sample::create(id)).await?;
    }
    let whole = all(fixture, "").await?;
    let mut states: Vec<StoredState> = Vec::new();
    let mut query = ChangesQuery {
        until: Some(whole.until),
        limit: SMALL,
        ..sample::all_changes("")
    };
    loop {
        let page = fixture.store.changes(&query).await?;
        assert!(page.states.len() <= SMALL.get());
        let Some(last) = page.states.last() else {
            break;
        };
        // Each of these rows has a time of its own, since each was written by itself.
        query.from = last.db_timestamp + chrono::TimeDelta::microseconds(1);
        states.extend(page.states);
    }
    assert_eq!(states, whole.states);
    Ok(())
}

/// Rows of one batch share their time; pages that go on behind their last row reach each of them once, in order.
pub async fn pages_go_on_inside_an_instant(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("alike", 40)?;
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let mut reached = Vec::new();
    let mut query = ChangesQuery {
        limit: SMALL,
        ..sample::all_changes("")
    };
    loop {
        let page = fixture.store.changes(&query).await?;
        assert!(page.states.len() <= SMALL.get());
        let last = page.states.last().map(RowKey::of);
        reached.extend(page.states.into_iter().map(|state| state.persistence_id));
        match page.end {
            PageEnd::Behind(from, after) => {
                assert_eq!(Some(&after), last.as_ref());
                (query.from, query.after) = (from, Some(after));
            }
            end => {
                assert_eq!(end, PageEnd::Complete);
                break;
            }
        }
        query.until = Some(page.until);
    }
    assert_eq!(reached, ids);
    Ok(())
}

/// A page that may look at few rows or at a short stretch says how far it got, and nothing is left out.
pub async fn a_bounded_page_says_how_far_it_reaches(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("stretched", 20)?;
    for id in &ids {
        fixture.apply(sample::create(id)).await?;
    }
    let states = all(fixture, "").await?.states;
    let at = |index: usize| states.get(index).map(|state| state.db_timestamp);
    let (first, fifth) = at(0).zip(at(4)).ok_or("twenty changes were expected")?;
    let mut query = ChangesQuery {
        rows_max: Some(SMALL),
        ..sample::all_changes("")
    };
    let page = fixture.store.changes(&query).await?;
    assert_eq!((page.states.len(), page.end), (0, PageEnd::Crowded));
    query.to = Some(first - chrono::TimeDelta::hours(1));
    let page = fixture.store.changes(&query).await?;
    assert_eq!((page.states.len(), page.end), (0, PageEnd::Before(first)));
    query.to = Some(fifth);
    let page = fixture.store.changes(&query).await?;
    assert_eq!(page.states.as_slice(), states.get(..4).unwrap_or_default());
    assert_eq!(page.end, PageEnd::Before(fifth));
    query.to = None;
    query.from = fifth;
    query.rows_max = None;
    let page = fixture.store.changes(&query).await?;
    assert_eq!(page.states.as_slice(), states.get(4..).unwrap_or_default());
    assert_eq!(page.end, PageEnd::Complete);
    Ok(())
}

/// A feed tells a deletion where there is a row to tell it.
pub async fn marks_are_changes_and_erased_rows_are_none(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("deleted", 2)?;
    let [marked, erased] = ids.as_slice() else {
        return Err("two ids were asked for".into());
    };
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let writes = vec![sample::mark(marked, 1), sample::erase(erased, 1)];
    fixture.write(writes).await?;
    let states = all(fixture, "").await?.states;
    assert_eq!(found(&states), [marked]);
    assert!(
        states
            .iter()
            .all(|state| state.value == StoredValue::Deleted)
    );
    Ok(())
}

/// Whatever the collation: strictly behind the last one, none twice, all of them.
pub async fn following_the_pages_of_ids_reaches_each_id_once(fixture: &Fixture) -> TestResult {
    let mut ids = sample::ids("paged", 20)?;
    ids.extend(sample::ids("Type|paged", 20)?);
    for text in [
        "Paged-1",
        "\u{c0ac}",
        "\u{e9}",
        "\u{1f642}",
        "it's",
        "_",
        "%",
        "\"",
    ] {
        ids.push(sample::id(text)?);
    }
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let mut reached: Vec<PersistenceId> = Vec::new();
    loop {
        let page = fixture.store.persistence_ids(reached.last(), SMALL).await?;
        assert!(page.len() <= SMALL.get());
        if page.is_empty() {
            break;
        }
        reached.extend(page);
        assert!(reached.len() <= ids.len(), "an id came twice: {reached:?}");
    }
    let whole = fixture.store.persistence_ids(None, sample::LIMIT).await?;
    assert_eq!(reached, whole);
    reached.sort_unstable();
    ids.sort_unstable();
    assert_eq!(reached, ids);
    Ok(())
}

/// An id is listed as long as it has a row.
pub async fn marked_entities_keep_their_id_and_erased_ones_do_not(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("listed", 3)?;
    let [kept, marked, erased] = ids.as_slice() else {
        return Err("three ids were asked for".into());
    };
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let writes = vec![sample::mark(marked, 1), sample::erase(erased, 1)];
    fixture.write(writes).await?;
    let listed = fixture.store.persistence_ids(None, sample::LIMIT).await?;
    assert_eq!(listed, [kept.clone(), marked.clone()]);
    Ok(())
}

async fn all(fixture: &Fixture, entity_type: &str) -> TestResult<ChangesPage> {
    Ok(fixture
        .store
        .changes(&sample::all_changes(entity_type))
        .await?)
}

fn found(states: &[StoredState]) -> Vec<&PersistenceId> {
    states.iter().map(|state| &state.persistence_id).collect()
}
