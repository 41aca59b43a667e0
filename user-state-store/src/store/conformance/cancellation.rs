//! Promises that hold when a caller goes away in the middle of a call.

use std::pin::pin;
use std::task::Poll;

use futures_util::future::poll_fn;

use super::{Fixture, TestResult, sample};
use crate::store::WriteOutcome;

/// At so many of its await points a call is dropped; a call that is over earlier was dropped at all of its points.
const AWAIT_POINTS_MAX: usize = 200;

/// How often a write is tried again while the dropped one may still be under way.
const ATTEMPTS: usize = 50;

/// A write is dropped at each of its await points. Each time the entities can be written again by whoever
/// reads them first, the batch was applied as a whole per row, and no transaction is left open.
pub async fn a_dropped_write_leaves_the_store_usable(fixture: &Fixture) -> TestResult {
    for await_points in 0..AWAIT_POINTS_MAX {
        let ids = sample::ids(&format!("dropped-{await_points}"), 3)?;
        let [stored, created, neighbour] = ids.as_slice() else {
            return Err("three ids were asked for".into());
        };
        fixture.apply(sample::create(stored)).await?;
        let writes = vec![sample::put(stored, 1, 2), sample::create(created)];
        let finished = drop_after(await_points, fixture.write(writes)).await;
        write_after(fixture, stored).await?;
        write_after(fixture, created).await?;
        fixture.apply(sample::create(neighbour)).await?;
        if finished {
            return Ok(());
        }
    }
    Err("the call was never over before it was dropped".into())
}

/// A load is dropped at each of its await points, and the next one is answered for its own ids.
pub async fn a_dropped_load_leaves_the_store_usable(fixture: &Fixture) -> TestResult {
    let ids = sample::ids("loaded", 2)?;
    let [first, second] = ids.as_slice() else {
        return Err("two ids were asked for".into());
    };
    fixture
        .write(ids.iter().map(sample::create).collect())
        .await?;
    for await_points in 0..AWAIT_POINTS_MAX {
        let finished = drop_after(await_points, fixture.present(first)).await;
        assert_eq!(&fixture.present(second).await?.persistence_id, second);
        if finished {
            return Ok(());
        }
    }
    Err("the call was never over before it was dropped".into())
}

/// Runs a call until it has waited so many times, then drops it; whether it was over before.
async fn drop_after(await_points: usize, call: impl Future) -> bool {
    let mut call = pin!(call);
    let mut waited = 0;
    poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending if waited == await_points => Poll::Ready(false),
        Poll::Pending => {
            waited += 1;
            Poll::Pending
        }
    })
    .await
}

/// Writes the next revision of an entity. What was dropped may win until then, never afterwards.
async fn write_after(fixture: &Fixture, id: &crate::PersistenceId) -> TestResult {
    for _ in 0..ATTEMPTS {
        let revision = fixture.row(id).await?.map_or(0, |row| row.revision.get());
        let write = sample::put(id, revision, revision + 1);
        match fixture.write(vec![write]).await?.as_slice() {
            [WriteOutcome::Applied(_)] => {
                let row = fixture.present(id).await?;
                assert_eq!(row.revision, sample::revision(revision + 1));
                return Ok(());
            }
            [WriteOutcome::Conflict] => {}
            other => return Err(format!("neither applied nor a conflict: {other:?}").into()),
        }
    }
    Err(format!("{id} could not be written any more").into())
}
