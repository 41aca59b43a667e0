//! Goal: users whose rows somebody else holds locked cost the other users nothing, and are answered when they are free.
//! Method: one shard on a real server, an operator's transaction that holds some rows, and commands on others.

mod support;

use std::time::Duration;

use futures_util::future::try_join_all;
use sqlx::Executor as _;
use support::{AnyError, Database, TestResult, execute, is_open, key, login, second, view};
use tokio::time::{Instant, timeout};
use user_state_domain::UserState;
use user_state_runtime::{EntityRef, ExecuteError, Runtime, Settings};
use user_state_store::Revision;

/// Far beyond what a free user takes, far below the lock time-out of the store.
const PROMPT: Duration = Duration::from_secs(8);

/// Its lock time-out is 24 s.
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(1);

/// More than a shard sends at a time.
const HELD: usize = 12;

const FREE: usize = 20;

async fn start(database: &mut Database) -> Result<Runtime<UserState>, AnyError> {
    database.options.settings.statement_timeout = STATEMENT_TIMEOUT;
    let settings = Settings::default().shards(1);
    let store = database.store().await?;
    Ok(Runtime::for_users(store).settings(settings).start()?)
}

fn users(runtime: &Runtime<UserState>, prefix: &str, count: usize) -> Vec<EntityRef<UserState>> {
    let users = (0..count).map(|number| runtime.user(&key(&format!("{prefix}-{number:02}"))));
    users.collect()
}

/// A command for each, all at once.
async fn each(
    users: &[EntityRef<UserState>],
    at: i64,
) -> Result<Vec<Revision>, ExecuteError<UserState>> {
    try_join_all(users.iter().map(|user| user.execute(view("p", at)))).await
}

#[tokio::test]
async fn users_whose_rows_are_held_keep_no_other_user_waiting() -> TestResult {
    let mut database = Database::create().await?;
    let runtime = start(&mut database).await?;
    let (held, free) = (users(&runtime, "held", HELD), users(&runtime, "free", FREE));
    each(&held, 0).await?;
    each(&free, 0).await?;
    let mut operator = database.connection().await?;
    operator
        .execute(
            "BEGIN; SELECT FROM durable_state WHERE persistence_id LIKE 'mall-held-%' FOR UPDATE",
        )
        .await?;
    // Each comes in a batch beside free ones.
    let mut waiting = Vec::new();
    for (number, user) in held.iter().enumerate() {
        waiting.push(execute(user, login(1)));
        let began = Instant::now();
        timeout(PROMPT, each(&free, i64::try_from(number)?)).await??;
        assert!(began.elapsed() < PROMPT);
    }
    for call in &mut waiting {
        assert!(is_open(call), "nothing is answered before it is durable");
    }
    operator.execute("COMMIT").await?;
    for revision in timeout(PROMPT, try_join_all(waiting)).await?? {
        assert_eq!(revision.get(), 2);
    }
    runtime.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_batch_of_nothing_but_held_rows_leaves_its_turn_to_others() -> TestResult {
    let mut database = Database::create().await?;
    let runtime = start(&mut database).await?;
    let (held, free) = (users(&runtime, "held", 4), users(&runtime, "free", 1));
    each(&held, 0).await?;
    each(&free, 0).await?;
    let mut operator = database.connection().await?;
    operator
        .execute(
            "BEGIN; SELECT FROM durable_state WHERE persistence_id LIKE 'mall-held-%' FOR UPDATE",
        )
        .await?;
    let mut waiting = Vec::new();
    for user in &held {
        let sent = runtime.stats().batches;
        waiting.push(execute(user, login(1)));
        let sending = async {
            while runtime.stats().batches == sent {
                tokio::task::yield_now().await;
            }
        };
        timeout(PROMPT, sending).await?;
    }
    timeout(PROMPT, each(&free, 1)).await??;
    for call in &mut waiting {
        assert!(is_open(call), "nothing is answered before it is durable");
    }
    operator.execute("COMMIT").await?;
    for revision in timeout(PROMPT, try_join_all(waiting)).await?? {
        assert_eq!(revision.get(), 2);
    }
    runtime.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn users_that_somebody_else_is_just_making_keep_no_other_user_waiting() -> TestResult {
    let mut database = Database::create().await?;
    let runtime = start(&mut database).await?;
    let (held, free) = (users(&runtime, "held", HELD), users(&runtime, "free", FREE));
    let mut operator = database.connection().await?;
    operator
        .execute(
            "BEGIN;
             INSERT INTO durable_state
             SELECT 1, '', 'mall-held-' || to_char(i, 'FM00'), 1, now(), 31, 'm', '{}', NULL
             FROM generate_series(0, 11) AS i",
        )
        .await?;
    let mut waiting: Vec<_> = held.iter().map(|user| execute(user, login(1))).collect();
    for at in 0..5 {
        timeout(PROMPT, each(&free, at)).await??;
    }
    let new = runtime.user(&key("new"));
    timeout(PROMPT, new.execute(login(2))).await??;
    for call in &mut waiting {
        assert!(is_open(call));
    }
    operator.execute("ROLLBACK").await?;
    for revision in timeout(PROMPT, try_join_all(waiting)).await?? {
        assert_eq!(revision.get(), 1);
    }
    assert_eq!(held[0].state().await?.state.last_login, Some(second(1)));
    runtime.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn shutting_down_waits_for_held_rows() -> TestResult {
    let mut database = Database::create().await?;
    let runtime = start(&mut database).await?;
    let user = runtime.user(&key("held-00"));
    user.execute(login(0)).await?;
    let mut operator = database.connection().await?;
    operator
        .execute("BEGIN; SELECT FROM durable_state FOR UPDATE")
        .await?;
    let mut waiting = execute(&user, login(1));
    assert!(is_open(&mut waiting));
    let (ended, released, answer) = tokio::join!(
        runtime.shutdown(),
        async {
            tokio::task::yield_now().await;
            operator.execute("COMMIT").await
        },
        waiting
    );
    ended?;
    released?;
    assert_eq!(answer?.get(), 2);
    Ok(())
}
