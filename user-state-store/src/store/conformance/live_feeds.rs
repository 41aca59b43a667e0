//! Promises of the live change feed.
//!
//! The feeds look by themselves once an hour, so what comes earlier comes because it was written.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{Either, join, join_all, select};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::timeout;

use super::seeded::Seeded;
use super::{Fixture, TestResult, sample};
use crate::changes::{FeedSettings, StateChange, TimestampOffset, changes_by_slices};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::{StoredValue, WriteOutcome};

/// Far beyond what a slow machine needs, far below the interval of the feeds.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many writers run at once beside a feed, and how many batches each of them sends.
const WRITERS: u64 = 4;
const ROUNDS: usize = 40;

/// What was there comes first; then each write, as it is in the database, when it was acknowledged.
pub async fn a_live_feed_tells_what_is_there_and_then_each_write_at_once(
    fixture: &Fixture,
) -> TestResult {
    let ids = sample::ids("live", 4)?;
    for id in &ids {
        fixture.apply(sample::create(id)).await?;
    }
    let mut feed = start(fixture, SliceRange::ALL, TimestampOffset::default())?;
    let mut offset = TimestampOffset::default();
    for id in &ids {
        let change = next(&mut feed).await?;
        assert_eq!(change.state, fixture.present(id).await?);
        offset = change.offset;
    }
    for revision in 2..6 {
        for id in ids.iter().rev() {
            fixture
                .apply(sample::put(id, revision - 1, revision))
                .await?;
            let change = next(&mut feed).await?;
            assert_eq!(change.state, fixture.present(id).await?);
            assert!(change.offset.timestamp >= offset.timestamp);
            offset = change.offset;
        }
    }
    Ok(())
}

/// A feed that is cut after any change and resumed from its offset misses nothing, whatever happened in between.
pub async fn a_live_feed_goes_on_from_the_offset_of_any_change(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("resumed", 5)?;
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    let mut offset = TimestampOffset::default();
    let mut known = BTreeMap::new();
    for revision in 1..6 {
        let mut feed = start(fixture, SliceRange::ALL, offset.clone())?;
        // The last one is cut before it has told everything.
        while known.len() < ids.len() || known.values().any(|known| *known < revision) {
            let change = next(&mut feed).await?;
            offset = change.offset.clone();
            note(&mut known, change);
        }
        drop(feed);
        let writes = ids
            .iter()
            .map(|id| sample::put(id, revision, revision + 1))
            .collect();
        fixture.write(writes).await?;
        let mut feed = start(fixture, SliceRange::ALL, offset.clone())?;
        let change = next(&mut feed).await?;
        offset = change.offset.clone();
        note(&mut known, change);
    }
    Ok(())
}

/// Feeds of disjoint slices share the entities among them, before and after they began.
pub async fn live_feeds_of_disjoint_slices_share_the_entities(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("shared", 30)?;
    let mut feeds = Vec::new();
    for slices in SliceRange::split(2).ok_or("1024 is a multiple of 2")? {
        let belong: Vec<_> = ids
            .iter()
            .filter(|id| slices.contains(id.slice()))
            .collect();
        feeds.push((start(fixture, slices, TimestampOffset::default())?, belong));
    }
    for revision in 1..4 {
        let writes = ids
            .iter()
            .map(|id| sample::put(id, revision - 1, revision))
            .collect();
        fixture.write(writes).await?;
        for (feed, belong) in &mut feeds {
            let mut told = Vec::new();
            for _ in 0..belong.len() {
                let state = next(feed).await?.state;
                assert_eq!(state.revision, sample::revision(revision));
                told.push(state.persistence_id);
            }
            told.sort_unstable();
            assert!(told.iter().eq(belong.iter().copied()), "{told:?}");
        }
    }
    Ok(())
}

/// A mark is told. An erased row is not, and one made again in its place is.
pub async fn marks_and_rows_made_again_are_told_live(fixture: &Fixture) -> TestResult {
    let id = sample::id("made-again")?;
    let mut feed = start(fixture, SliceRange::ALL, TimestampOffset::default())?;
    fixture.apply(sample::create(&id)).await?;
    assert_eq!(next(&mut feed).await?.state.revision, Revision::FIRST);
    fixture.apply(sample::mark(&id, 1)).await?;
    let marked = next(&mut feed).await?.state;
    assert_eq!(marked.revision, sample::revision(2));
    assert_eq!(marked.value, StoredValue::Deleted);
    fixture.apply(sample::erase(&id, 2)).await?;
    fixture.apply(sample::create(&id)).await?;
    let state = next(&mut feed).await?.state;
    assert_eq!(state, fixture.present(&id).await?);
    assert_eq!(state.revision, Revision::FIRST);
    Ok(())
}

/// The future of `next()` may be dropped at any time: the change comes with a later one.
pub async fn a_live_feed_loses_nothing_where_waiting_is_given_up(fixture: &Fixture) -> TestResult {
    let id = sample::id("given-up")?;
    let mut feed = start(fixture, SliceRange::ALL, TimestampOffset::default())?;
    for revision in 1..20 {
        fixture
            .apply(sample::put(&id, revision - 1, revision))
            .await?;
        let change = timeout(PATIENCE, async {
            loop {
                if let Some(item) = feed.next().now_or_never() {
                    break item;
                }
                tokio::task::yield_now().await;
            }
        });
        let change = change.await?.ok_or("a live feed does not end")??;
        assert_eq!(change.state.revision, sample::revision(revision));
    }
    Ok(())
}

/// Closing the store ends its feeds at once, waiting ones too, with the error that says so.
pub async fn a_live_feed_ends_when_its_store_is_closed(fixture: &Fixture) -> TestResult {
    let id = sample::id("closing")?;
    fixture.apply(sample::create(&id)).await?;
    let mut feed = start(fixture, SliceRange::ALL, TimestampOffset::default())?;
    next(&mut feed).await?;
    let (item, ()) = join(timeout(PATIENCE, feed.next()), fixture.store.close()).await;
    assert_eq!(item?, Some(Err(StoreError::Closed)));
    assert_eq!(feed.next().await, None);
    let mut late = start(fixture, SliceRange::ALL, TimestampOffset::default())?;
    assert_eq!(late.next().await, Some(Err(StoreError::Closed)));
    assert_eq!(late.next().await, None);
    Ok(())
}

/// While many write, revisions of an entity never go backwards, and the last of each is told.
pub async fn a_live_feed_beside_many_writers_tells_every_final_revision(
    fixture: &Fixture,
) -> TestResult {
    let mut feed = start(fixture, SliceRange::ALL, TimestampOffset::default())?;
    let writers = async {
        let writers = (0..WRITERS).map(|seed| advance(fixture, seed));
        let mut last = BTreeMap::new();
        for written in join_all(writers).await {
            last.extend(written?);
        }
        TestResult::Ok(last)
    };
    let mut known = BTreeMap::new();
    let mut writers = std::pin::pin!(writers.fuse());
    let last = loop {
        let reading = std::pin::pin!(next(&mut feed));
        match select(reading, writers.as_mut()).await {
            Either::Left((change, _)) => note(&mut known, change?),
            Either::Right((last, _)) => break last?,
        }
    };
    while known != last {
        note(&mut known, next(&mut feed).await?);
    }
    assert!(last.values().any(|revision| *revision > 10), "{last:?}");
    Ok(())
}

/// Some rounds of batches over entities of this writer's own; their last revisions.
async fn advance(fixture: &Fixture, seed: u64) -> TestResult<BTreeMap<PersistenceId, i64>> {
    let mut random = Seeded::new(seed);
    let ids = sample::ids(&format!("written-by-{seed}"), 25)?;
    let mut last = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut writes = Vec::new();
        for id in &ids {
            if random.below(3) == 0 {
                let revision = last.entry(id.clone()).or_insert(0);
                *revision += 1;
                writes.push(sample::put(id, *revision - 1, *revision));
            }
        }
        for outcome in fixture.write(writes).await? {
            assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
        }
    }
    Ok(last)
}

/// Notes what a change tells, and that it tells nothing older than what was known.
fn note(known: &mut BTreeMap<PersistenceId, i64>, change: StateChange) {
    let id = change.state.persistence_id;
    let revision = change.state.revision.get();
    let before = known.get(&id).copied().unwrap_or(0);
    assert!(before <= revision, "{id}: {revision} after {before}");
    known.insert(id, revision);
}

fn start(
    fixture: &Fixture,
    slices: SliceRange,
    offset: TimestampOffset,
) -> TestResult<impl Stream<Item = Result<StateChange, StoreError>> + Unpin + use<>> {
    let settings = FeedSettings::default().refresh_interval(Duration::from_hours(1));
    Ok(changes_by_slices(
        fixture.store.clone(),
        "",
        slices,
        offset,
        settings,
    )?)
}

async fn next(
    feed: &mut (impl Stream<Item = Result<StateChange, StoreError>> + Unpin),
) -> TestResult<StateChange> {
    let item = timeout(PATIENCE, feed.next()).await?;
    Ok(item.ok_or("a live feed does not end")??)
}
