//! Goal: many users may be due at once, and nobody else waits for all of them to leave.
//! Method: a single thread, thousands of live users, a clock that jumps, and a task beside the runtime that looks each
//! time it has the thread.

mod support;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use support::TestResult;
use tokio::sync::watch;
use user_state_domain::UserKey;
use user_state_runtime::{Clock, Moment, Runtime, Settings, SystemClock};

/// A clock that stands still until it is set, and lets a runtime find out by itself.
#[derive(Debug, Clone)]
struct Jumping(watch::Sender<Moment>);

#[async_trait]
impl Clock for Jumping {
    fn now(&self) -> Moment {
        *self.0.borrow()
    }

    fn utc_now(&self) -> DateTime<Utc> {
        SystemClock::new().utc_now()
    }

    async fn sleep_until(&self, moment: Moment) {
        let mut changes = self.0.subscribe();
        drop(changes.wait_for(|now| *now >= moment).await);
    }
}

#[tokio::test]
async fn others_run_between_the_turns_in_which_many_users_leave() -> TestResult {
    const USERS: u64 = 8_192;
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("users.db").display());
    let store = user_state_store::connect(&url.parse()?).await?;
    let clock = Jumping(watch::Sender::new(Moment::ORIGIN));
    let runtime = Runtime::for_users(store)
        .clock(clock.clone())
        .settings(Settings::default().shards(1))
        .start()?;
    let keys = (0..USERS).map(|number| format!("mall-{number}").parse::<UserKey>());
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    try_join_all(keys.iter().map(|key| async {
        let user = runtime.user(key);
        user.state().await.map(drop)
    }))
    .await?;
    assert_eq!(runtime.stats().live, USERS);

    clock
        .0
        .send_replace(Moment::ORIGIN + Duration::from_mins(30));
    let mut seen = Vec::new();
    while seen.last() != Some(&0) {
        tokio::task::yield_now().await;
        let live = runtime.stats().live;
        if seen.last() != Some(&live) {
            seen.push(live);
        }
    }
    assert!(seen.len() > 4, "everybody left in one go: {seen:?}");
    runtime.shutdown().await?;
    Ok(())
}
