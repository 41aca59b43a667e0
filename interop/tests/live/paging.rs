//! Goal: the pages of persistence ids are the same for both, whoever wrote the rows.
//!
//! Method: more than two pages of random ids of all planes of Unicode, plain and with an entity type, are written by both
//! sides, some of them as marks of deletion; then both page through them, in pages of several sizes and from ids that
//! are there and that are not.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use fastrand::Rng;
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use user_state_domain::UserState;
use user_state_interop::{AnyError, Case, Live, LocalTime, State, TestResult};
use user_state_store::{
    DurableStateStore, PersistenceId, Revision, StateMapping, UserStateMapping, Write, WriteBatch,
    WriteOutcome,
};

use super::user::second;
use crate::serialization::random::{seed, text};

/// More than two pages of Pekko's, and of ours: 1,000 ids each.
const IDS: usize = 2_300;

/// How many of them Pekko writes.
const BY_PEKKO: usize = 100;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::live(
        "the_ids_that_both_wrote_come_in_the_same_order_in_pages_of_any_size",
        same_pages,
    )]
}

async fn same_pages(live: Live) -> TestResult {
    let mut random = Rng::with_seed(seed());
    let pekko = live.pekko().await?;
    let store = live.store().await?;
    let mut ids = BTreeSet::new();
    while ids.len() < IDS {
        ids.insert(id(&mut random)?);
    }
    let mut ids: Vec<PersistenceId> = ids.into_iter().collect();
    random.shuffle(&mut ids);
    let (by_pekko, by_us) = ids.split_at(BY_PEKKO);
    let state = State {
        last_event_time: Some(LocalTime(second(1).naive_utc())),
        ..State::of(&"mall-user".parse()?, &UserState::default())
    };
    let upserts = by_pekko
        .iter()
        .map(|id| pekko.upsert(id.as_str(), 1, &state, "user-state"));
    try_join_all(upserts).await?;
    for batch in by_us.chunks(500) {
        create(store.states().as_ref(), batch).await?;
    }

    let all = pekko.all_persistence_ids().await?;
    let told: BTreeSet<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(told, ids.iter().map(PersistenceId::as_str).collect());
    assert_eq!(all.len(), IDS, "nobody is told twice");
    let ours: Vec<PersistenceId> = store.current_persistence_ids().try_collect().await?;
    assert!(ours.iter().map(PersistenceId::as_str).eq(&all));

    let absent = [id(&mut random)?, id(&mut random)?, id(&mut random)?];
    let present = [&ids[0], &ids[IDS / 2], &ids[IDS - 1]];
    let mut starts: Vec<Option<&PersistenceId>> = vec![None];
    starts.extend(absent.iter().map(Some));
    starts.extend(present.map(Some));
    for after in starts {
        for limit in [1_u16, 7, 999, 1_000, 1_001, 5_000] {
            let page = pekko
                .persistence_ids(after.map(PersistenceId::as_str), limit.into())
                .await?;
            let size = NonZeroUsize::new(limit.into()).ok_or("an empty page")?;
            let ours = store.states().persistence_ids(after, size).await?;
            assert!(
                ours.iter().map(PersistenceId::as_str).eq(&page),
                "{limit} behind {after:?}"
            );
        }
    }
    Ok(())
}

/// A plain id, or one with an entity type.
fn id(random: &mut Rng) -> Result<PersistenceId, AnyError> {
    let entity_id = name(random, 12);
    Ok(if random.bool() {
        PersistenceId::unique(&entity_id)?
    } else {
        PersistenceId::of(&name(random, 5), &entity_id)?
    })
}

/// What an id may be made of: more than space.
fn name(random: &mut Rng, length_max: usize) -> String {
    loop {
        let length = random.usize(1..=length_max);
        let name = text(random, length, |character| {
            character != '|' && !character.is_control()
        });
        if !name.trim().is_empty() {
            break name;
        }
    }
}

/// Creates rows, every tenth as a mark of deletion: such an id is listed too.
async fn create(store: &dyn DurableStateStore, ids: &[PersistenceId]) -> TestResult {
    let mapping = UserStateMapping::default();
    let writes = ids.iter().enumerate().map(|(index, id)| {
        if index.is_multiple_of(10) {
            return Ok(Write::mark(id.clone(), Revision::NONE));
        }
        let user = PersistenceId::unique("mall-user")?;
        let payload = mapping.encode(&user, &UserState::emptied(second(1)))?;
        Ok::<_, AnyError>(Write::create(id.clone(), payload).tags(mapping.tags()))
    });
    let batch = WriteBatch::new(writes.collect::<Result<_, _>>()?)?;
    let outcomes = store.write(&batch).await;
    let applied = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Applied(_));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    Ok(())
}
