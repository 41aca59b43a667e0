//! Promises of companions: rows of other tables that share the outcome of their write.

use std::collections::BTreeSet;

use chrono::DateTime;

use super::tables::{NOTE, Note, REMOVED};
use super::{Fixture, TestResult, sample};
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::resolve::{Resolution, UnresolvedWrite, Writers};
use crate::store::{
    BATCH_ROWS_MAX, Companion, CompanionValue, UnknownOutcome, Write, WriteBatch, WriteOutcome,
};

/// A write with notes of these names.
pub(super) fn noting(write: Write, names: &[&str]) -> TestResult<Write> {
    with(write, names.iter().map(|name| note(name)))
}

/// A write that takes away the note of this name, which has to be there.
pub(super) fn removing(write: Write, name: &str) -> TestResult<Write> {
    with(write, [Ok(Companion::new(&REMOVED, [name.into()])?)])
}

fn note(name: &str) -> TestResult<Companion> {
    let null = || CompanionValue::Null;
    Ok(Companion::new(
        &NOTE,
        [name.into(), null(), null(), null()],
    )?)
}

fn with(
    write: Write,
    companions: impl IntoIterator<Item = TestResult<Companion>>,
) -> TestResult<Write> {
    let companions = companions.into_iter().collect::<TestResult<Vec<_>>>()?;
    Ok(write.companions(companions))
}

/// The notes that are stored, as `id/name@revision`.
pub(super) async fn noted(fixture: &Fixture) -> TestResult<BTreeSet<String>> {
    let notes = fixture.database()?.notes().await?;
    let short = |note: Note| format!("{}/{}@{}", note.persistence_id, note.name, note.revision);
    Ok(notes.into_iter().map(short).collect())
}

fn set<const N: usize>(notes: [&str; N]) -> BTreeSet<String> {
    notes.into_iter().map(str::to_owned).collect()
}

fn is_refused(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::NotApplied(StoreError::Refused(_)))
}

/// Every column of a companion is what was given, beside the id, slice and revision of its write.
pub async fn a_companion_reads_back_as_it_was_given(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let id = sample::id("Type|noted")?;
    let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).ok_or("a valid time")?;
    let full: [CompanionValue; 4] = [
        "\u{1f642} \"'{},\\".into(),
        i64::MIN.into(),
        [0, 1, 0xff].as_slice().into(),
        at.into(),
    ];
    let empty: [CompanionValue; 4] = [
        "".into(),
        CompanionValue::Null,
        Vec::new().into(),
        None::<i64>.into(),
    ];
    let companions = [full, empty].map(|values| Ok(Companion::new(&NOTE, values)?));
    fixture
        .apply(with(sample::create(&id), companions)?)
        .await?;
    let expected = |name: &str, number, bytes: &[u8], noted_at| Note {
        persistence_id: id.as_str().to_owned(),
        name: name.to_owned(),
        slice: id.slice().get().into(),
        revision: 1,
        number,
        bytes: Some(bytes.to_vec()),
        noted_at,
    };
    assert_eq!(
        fixture.database()?.notes().await?,
        [
            expected("", None, &[], None),
            expected(
                "\u{1f642} \"'{},\\",
                Some(i64::MIN),
                &[0, 1, 0xff],
                Some(at.timestamp_micros())
            ),
        ]
    );
    Ok(())
}

/// Creation, update, mark and erasure, each in a batch of its own and all in one.
pub async fn companions_are_stored_with_every_form_of_change(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("formed", 6)?;
    let [created, marked, put, late, erased, plain] = ids.as_slice() else {
        return Err("six ids were asked for".into());
    };
    for id in [put, late, erased, plain] {
        fixture
            .apply(noting(sample::create(id), &["made"])?)
            .await?;
    }
    let outcomes = fixture
        .write(vec![
            noting(sample::create(created), &["a", "b"])?,
            noting(sample::mark(marked, 0), &["a"])?,
            noting(sample::put(put, 1, 7), &["a", "b", "c"])?,
            noting(sample::mark(late, 1), &["a"])?,
            noting(sample::erase(erased, 1), &["a"])?,
            sample::put(plain, 1, 2),
        ])
        .await?;
    let applied = |outcome| matches!(outcome, &WriteOutcome::Applied(_));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    fixture
        .apply(noting(sample::put(put, 7, 8), &["d"])?)
        .await?;
    assert_eq!(
        noted(fixture).await?,
        set([
            "formed-0000/a@1",
            "formed-0000/b@1",
            "formed-0001/a@1",
            "formed-0002/made@1",
            "formed-0002/a@7",
            "formed-0002/b@7",
            "formed-0002/c@7",
            "formed-0002/d@8",
            "formed-0003/made@1",
            "formed-0003/a@2",
            "formed-0004/made@1",
            "formed-0004/a@0",
            "formed-0005/made@1",
        ])
    );
    Ok(())
}

/// What did not hit has no companions, whatever its neighbours have.
pub async fn a_conflict_stores_no_companion(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("stale", 6)?;
    for id in ids.iter().skip(1) {
        fixture.apply(sample::create(id)).await?;
    }
    let [created, beside, put, stale, erased, kept] = ids.as_slice() else {
        return Err("six ids were asked for".into());
    };
    let outcomes = fixture
        .write(vec![
            noting(sample::create(created), &["a"])?,
            noting(sample::create(beside), &["a"])?,
            noting(sample::put(put, 1, 2), &["a"])?,
            noting(sample::put(stale, 2, 3), &["a"])?,
            noting(sample::erase(erased, 1), &["a"])?,
            noting(sample::erase(kept, 2), &["a"])?,
        ])
        .await?;
    let conflicts: Vec<bool> = outcomes
        .iter()
        .map(|outcome| *outcome == WriteOutcome::Conflict)
        .collect();
    assert_eq!(conflicts, [false, true].repeat(3), "{outcomes:?}");
    assert_eq!(
        noted(fixture).await?,
        set(["stale-0000/a@1", "stale-0002/a@2", "stale-0004/a@0"])
    );
    Ok(())
}

/// Neither the state nor any companion of such a write is stored, and all of its neighbours' are.
pub async fn a_refused_companion_refuses_its_write_and_no_other(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("judged", 60)?;
    let culprits = [1, 17, 18, 58];
    let forms: [fn(&PersistenceId) -> Write; 3] = [
        sample::create,
        |id| sample::put(id, 1, 2),
        |id| sample::erase(id, 2),
    ];
    for (form, revision) in forms.into_iter().zip([1, 2, 0]) {
        let before = fixture.store.load(&ids).await?;
        let writes = ids.iter().enumerate().map(|(n, id)| {
            let names: &[&str] = match (n, culprits.contains(&n)) {
                (_, true) => &["good", "refused"],
                (n, _) if n % 2 == 0 => &["good"],
                _ => &[],
            };
            noting(form(id), names)
        });
        let writes = writes.collect::<TestResult<Vec<_>>>()?;
        let outcomes = fixture.write(writes).await?;
        for (n, outcome) in outcomes.iter().enumerate() {
            if culprits.contains(&n) {
                assert!(is_refused(outcome), "{n}: {outcome:?}");
            } else {
                assert!(
                    matches!(outcome, WriteOutcome::Applied(_)),
                    "{n}: {outcome:?}"
                );
            }
        }
        let after = fixture.store.load(&ids).await?;
        for culprit in culprits {
            assert_eq!(before.get(culprit), after.get(culprit), "{culprit}");
        }
        let expected = (ids.iter().enumerate())
            .filter(|(n, _)| n % 2 == 0 && !culprits.contains(n))
            .map(|(_, id)| format!("{id}/good@{revision}"));
        assert_eq!(noted(fixture).await?, expected.collect());
        fixture.database()?.execute("DELETE FROM notes").await?;
        // The culprits go on with the others.
        for (n, id) in ids.iter().enumerate() {
            if culprits.contains(&n) {
                fixture.apply(form(id)).await?;
            }
        }
    }
    Ok(())
}

/// A unique key of another table that is taken says nothing of the entity's row.
pub async fn a_companion_that_is_there_already_is_refused_and_no_conflict(
    fixture: &Fixture,
) -> TestResult {
    fixture.make_tables().await?;
    let id = sample::id("repeated")?;
    let neighbour = sample::id("repeating")?;
    for neighbour_at in [0, 1] {
        let names: &[&str] = if neighbour_at == 0 { &["once"] } else { &[] };
        let write = sample::put(&neighbour, neighbour_at, neighbour_at + 1);
        let own = match neighbour_at {
            0 => noting(sample::create(&id), &["once", "once"])?,
            _ => noting(sample::put(&id, 1, 2), &["once"])?,
        };
        let outcomes = fixture.write(vec![own, noting(write, names)?]).await?;
        assert!(
            matches!(outcomes.as_slice(), [own, WriteOutcome::Applied(_)] if is_refused(own)),
            "{outcomes:?}"
        );
        if neighbour_at == 0 {
            assert_eq!(fixture.row(&id).await?, None);
            fixture
                .apply(noting(sample::create(&id), &["once"])?)
                .await?;
        }
    }
    assert_eq!(
        noted(fixture).await?,
        set(["repeated/once@1", "repeating/once@1"])
    );
    Ok(())
}

/// A row that a companion takes away is a token: whoever comes second is a conflict, and nothing of it is stored.
pub async fn a_companion_may_require_what_it_removes(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("token", 40)?;
    let created = ids.iter().map(|id| noting(sample::create(id), &["token"]));
    let created = created.collect::<TestResult<Vec<_>>>()?;
    fixture.write(created).await?;
    fixture
        .database()?
        .execute("DELETE FROM notes WHERE persistence_id IN ('token-0003', 'token-0031')")
        .await?;
    let writes = ids.iter().enumerate().map(|(n, id)| {
        let write = match n % 3 {
            0 => sample::put(id, 1, 2),
            1 => sample::mark(id, 1),
            _ => sample::erase(id, 1),
        };
        noting(removing(write, "token")?, &["done"])
    });
    let writes = writes.collect::<TestResult<Vec<_>>>()?;
    let outcomes = fixture.write(writes).await?;
    for (n, outcome) in outcomes.iter().enumerate() {
        match n {
            3 | 31 => assert_eq!(*outcome, WriteOutcome::Conflict, "{n}"),
            _ => assert!(
                matches!(outcome, WriteOutcome::Applied(_)),
                "{n}: {outcome:?}"
            ),
        }
    }
    let notes = noted(fixture).await?;
    assert_eq!(notes.len(), 38);
    assert!(
        notes.iter().all(|note| note.contains("/done@")),
        "{notes:?}"
    );
    let first = ids.first().ok_or("forty ids were asked for")?;
    let again = removing(sample::put(first, 2, 3), "token")?;
    fixture.conflict(again).await?;
    // A write that misses its row removes no token.
    let fifth = ids.get(4).ok_or("forty ids were asked for")?;
    fixture
        .conflict(removing(sample::put(fifth, 5, 6), "done")?)
        .await?;
    assert!(noted(fixture).await?.contains("token-0004/done@2"));
    Ok(())
}

/// A full batch, with several companions of two kinds for each write.
pub async fn a_full_batch_carries_companions(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("full", BATCH_ROWS_MAX)?;
    let creations = ids
        .iter()
        .map(|id| noting(sample::create(id), &["a", "b", "c"]));
    let updates = ids
        .iter()
        .map(|id| noting(removing(sample::put(id, 1, 2), "b")?, &["d", "e"]));
    for writes in [
        creations.collect::<TestResult<Vec<_>>>()?,
        updates.collect::<TestResult<Vec<_>>>()?,
    ] {
        let outcomes = fixture.write(writes).await?;
        let applied = |outcome| matches!(outcome, &WriteOutcome::Applied(Some(_)));
        assert!(outcomes.iter().all(applied), "{outcomes:?}");
    }
    let expected = ids
        .iter()
        .flat_map(|id| ["a@1", "c@1", "d@2", "e@2"].map(|note| format!("{id}/{note}")));
    assert_eq!(noted(fixture).await?, expected.collect());
    Ok(())
}

/// The row tells for its companions: a repetition stores them with it, or finds that both are there.
pub async fn a_repetition_carries_the_companions_of_its_write(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let id = sample::id("lost")?;
    let lost = UnknownOutcome {
        session: None,
        cause: Cause::Deadline,
    };
    for write in [
        noting(sample::create(&id), &["a"])?,
        noting(sample::put(&id, 1, 2), &["b"])?,
    ] {
        for was_applied in [false, true] {
            let mut unresolved = UnresolvedWrite::new(write.clone(), &lost);
            let resolution = unresolved.attempt(fixture.store(), Writers::Sole).await;
            assert!(
                matches!(resolution, Resolution::Applied(Some(_))),
                "{was_applied}: {resolution:?}"
            );
        }
    }
    assert_eq!(noted(fixture).await?, set(["lost/a@1", "lost/b@2"]));
    Ok(())
}

/// A token that somebody else took never comes back: the lost write that needed it is known not to be applied.
pub async fn a_repetition_whose_token_is_gone_is_not_applied(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let id = sample::id("late")?;
    fixture.apply(sample::create(&id)).await?;
    let lost = UnknownOutcome {
        session: None,
        cause: Cause::Deadline,
    };
    let write = noting(removing(sample::put(&id, 1, 2), "token")?, &["done"])?;
    let mut unresolved = UnresolvedWrite::new(write, &lost);
    let resolution = unresolved.attempt(fixture.store(), Writers::Sole).await;
    assert_eq!(resolution, Resolution::NotApplied);
    assert_eq!(noted(fixture).await?, BTreeSet::new());
    Ok(())
}

/// Companions count for the size of a batch.
pub async fn companions_count_for_the_size_of_a_batch(fixture: &Fixture) -> TestResult {
    fixture.make_tables().await?;
    let ids = sample::ids("heavy", 2)?;
    let heavy = |id| {
        let bytes = vec![7_u8; 5 * 1024 * 1024];
        let null = || CompanionValue::Null;
        let values = ["heavy".into(), null(), bytes.into(), null()];
        with(sample::create(id), [Ok(Companion::new(&NOTE, values)?)])
    };
    let writes = ids.iter().map(heavy).collect::<TestResult<Vec<_>>>()?;
    assert!(WriteBatch::new(writes.clone()).is_err());
    for write in writes {
        fixture.apply(write).await?;
    }
    let notes = fixture.database()?.notes().await?;
    let bytes = notes.iter().filter_map(|note| note.bytes.as_ref());
    assert_eq!(bytes.map(Vec::len).sum::<usize>(), 10 * 1024 * 1024);
    Ok(())
}
