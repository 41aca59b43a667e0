//! Promises of loading.

use super::{Fixture, TestResult, sample};
use crate::error::StoreError;
use crate::store::BATCH_ROWS_MAX;

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
