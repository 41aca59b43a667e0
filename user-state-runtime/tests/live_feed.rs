//! Goal: whoever follows the changes of a runtime's store sees each acknowledged command at once, also through a store
//! that wraps another one.
//! Method: a feed that looks by itself only once an hour, beside a runtime on a store that passes everything on.

mod support;

use std::time::Duration;

use futures_util::TryStreamExt as _;
use support::{Database, TestResult, key, login, second};
use user_state_runtime::Runtime;
use user_state_store::{
    DeleteForm, FeedSettings, PersistenceId, SliceRange, TimestampOffset, TypedValue,
    changes_by_slices,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_command_is_in_the_feed_at_once() -> TestResult {
    let database = Database::create().await?;
    let store = database.faulty().await?;
    let runtime = Runtime::for_users(store.clone()).start()?;
    let settings = FeedSettings::default().refresh_interval(Duration::from_hours(1));
    let start = TimestampOffset::default();
    let slices = SliceRange::ALL;
    let mut feed = changes_by_slices(store.clone(), "", slices, start, settings)?;
    for (revision, user) in [(1, "mall-a"), (1, "mall-b"), (2, "mall-a"), (3, "mall-a")] {
        let user = key(user);
        let acknowledged = runtime.user(&user).execute(login(revision)).await?;
        let change = feed.try_next();
        let change = tokio::time::timeout(Duration::from_mins(1), change).await??;
        let state = change.ok_or("a live feed does not end")?.state;
        assert_eq!(state.persistence_id, PersistenceId::from(&user));
        assert_eq!(
            (state.revision, acknowledged.get()),
            (acknowledged, revision)
        );
    }
    runtime.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_gives_a_feed_of_decoded_states_that_outlives_it() -> TestResult {
    let database = Database::create().await?;
    let runtime = Runtime::for_users(database.store().await?)
        .delete_form(DeleteForm::Marker)
        .start()?;
    let settings = FeedSettings::default().refresh_interval(Duration::from_hours(1));
    let start = TimestampOffset::default();
    let mut feed = runtime.changes("", SliceRange::ALL, start, settings)?;
    let user = runtime.user(&key("a"));
    user.execute(login(1)).await?;
    let change = tokio::time::timeout(Duration::from_mins(1), feed.try_next()).await??;
    let change = change.ok_or("a live feed does not end")?;
    let state = change.state().ok_or("it is not deleted")?;
    assert_eq!(state.last_login, Some(second(1)));
    assert_eq!(&change.persistence_id, user.persistence_id());

    user.delete().await?;
    runtime.shutdown().await?;
    let change = tokio::time::timeout(Duration::from_mins(1), feed.try_next()).await??;
    let change = change.ok_or("the feed outlives the runtime")?;
    assert_eq!(
        (change.value, change.revision.get()),
        (TypedValue::Deleted, 2)
    );
    Ok(())
}
