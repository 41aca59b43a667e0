//! Promises of loading.

use super::{Fixture, TestResult, sample};
use crate::error::StoreError;
use crate::parts::load_in_parts;
use crate::store::conformance::seeded::Seeded;
use crate::store::{BATCH_ROWS_MAX, LOAD_BYTES_MAX, StoredValue};

/// One answer per id, in the order asked, whether the id is absent or repeated.
pub async fn a_load_answers_each_id_in_the_order_asked(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("loaded", 5)?;
    let [first, absent, second, _, third] = ids.as_slice() else {
        return Err("five ids were asked for".into());
    };
    let writes = [first, second, third].map(sample::create).into();
    fixture.write(writes).await?;
    let asked = [third, absent, first, third, second, absent].map(Clone::clone);
    let answers = fixture.store.load(&asked).await?;
    assert_eq!(answers.len(), asked.len());
    for (id, answer) in asked.iter().zip(answers) {
        let found = answer?.map(|state| state.persistence_id);
        let expected = (id != absent).then(|| id.clone());
        assert_eq!(found, expected, "{id}");
    }
    Ok(())
}

/// Nothing asked, nothing answered.
pub async fn a_load_of_no_ids_has_no_answers(fixture: &Fixture) -> TestResult {
    assert!(fixture.store.load(&[]).await?.is_empty());
    Ok(())
}

/// The limit counts, and its bound is included.
pub async fn a_load_of_too_many_ids_is_refused(fixture: &Fixture) -> TestResult {
    let mut ids = sample::ids("many", BATCH_ROWS_MAX)?;
    let answers = fixture.store.load(&ids).await?;
    assert_eq!(answers, vec![Ok(None); BATCH_ROWS_MAX]);
    ids.push(sample::id("one more")?);
    let refused = fixture.store.load(&ids).await;
    assert!(
        matches!(
            refused,
            Err(StoreError::TooLarge {
                limit: BATCH_ROWS_MAX,
                ..
            })
        ),
        "{refused:?}"
    );
    Ok(())
}

/// A payload comes within its share of the answer, and alone whatever its size; what was withheld names its size.
pub async fn a_load_withholds_payloads_beyond_their_share(fixture: &Fixture) -> TestResult {
    let share = LOAD_BYTES_MAX / BATCH_ROWS_MAX;
    let large = fixture.payload_bytes_max.min(2 * share);
    let ids = sample::ids("sized", BATCH_ROWS_MAX)?;
    let mut random = Seeded::new(7);
    let mut written = Vec::new();
    let lengths = [large, share.min(large), 100, large, (share + 1).min(large)];
    for (id, length) in ids.iter().rev().zip(lengths) {
        let payload = fixture.payload(&mut random, length);
        written.push((id, payload.clone()));
        let write = sample::put_payload(id, 0, 1, payload);
        fixture.write(vec![write]).await?;
    }
    let answers = fixture.store.load(&ids).await?;
    for ((id, payload), answer) in written.iter().zip(answers.into_iter().rev()) {
        let state = answer?.ok_or("the row is there")?;
        let payload_bytes = payload.bytes.len();
        let expected = if payload_bytes > share {
            StoredValue::Withheld { payload_bytes }
        } else {
            StoredValue::State(payload.clone())
        };
        assert!(state.value == expected, "{id}, {payload_bytes} bytes");
        let alone = fixture.present(id).await?;
        assert!(alone.value == StoredValue::State(payload.clone()), "{id}");
    }
    let mut found = vec![0; ids.len()];
    load_in_parts(fixture.store(), &ids, |place, row| {
        let whole =
            !matches!(&row, Ok(Some(row)) if matches!(row.value, StoredValue::Withheld { .. }));
        if let Some(found) = found.get_mut(place) {
            *found += usize::from(row.is_ok() && whole);
        }
    })
    .await;
    assert_eq!(found, vec![1; ids.len()], "each id has one answer");
    Ok(())
}
