//! Goal: two runtimes on one database and one entity never corrupt it: every command is accounted for exactly once, and
//! nobody ever reads a state that was not durable.
//! Method: callers on both at once, on users and on a ledger whose sum shows every command that is missing or applied
//! twice; without faults and with them; the rows are counted with SQL.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::history::{Answers, History, disturb};
use support::ledger::{Bank, Ledger, id, ledgers};
use support::{AnyError, Database, TestResult, key, login};
use tokio::task::JoinSet;
use user_state_runtime::{ConflictPolicy, ExecuteError, RequestError, Runtime, Settings};
use user_state_store::Store;

const CALLERS: i64 = 4;
const COMMANDS: i64 = 20;

fn runtime(store: impl Into<Store>) -> Result<Runtime<Ledger>, AnyError> {
    let builder = ledgers(store, &Bank::with_rate(1))
        .conflict_policy(ConflictPolicy::retry_once())
        .settings(
            Settings::default()
                .shards(1)
                .resolve_interval(Duration::from_millis(5))
                .resolve_timeout(Duration::from_secs(20)),
        );
    Ok(builder.start()?)
}

/// Callers of one ledger on each of these runtimes, and what the row says in the end.
async fn contend(database: &Database, runtimes: &[Runtime<Ledger>]) -> Result<Answers, AnyError> {
    let history = History::default();
    let mut callers = JoinSet::new();
    for (number, runtime) in (0_i64..).zip(runtimes) {
        for caller in 0..CALLERS {
            let (ledger, history) = (runtime.entity(id("shared")), history.clone());
            callers.spawn(async move {
                for command in 1..=COMMANDS {
                    let amount = (number * CALLERS + caller) * 1_000 + command;
                    history.add(&ledger, amount).await;
                    history.read(&ledger).await;
                }
            });
        }
    }
    callers.join_all().await;
    assert_eq!(database.revisions("Ledger|shared").await?.len(), 1);
    let observer = runtime(database.store().await?)?;
    Ok(history.check(&observer.entity(id("shared")).state().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults_every_command_is_acknowledged_or_surely_not_applied() -> TestResult {
    let database = Database::create().await?;
    let runtimes = [
        runtime(database.store().await?)?,
        runtime(database.store().await?)?,
    ];
    let answers = contend(&database, &runtimes).await?;
    assert_eq!(answers.unknown, 0);
    let commands = usize::try_from(2 * CALLERS * COMMANDS)?;
    assert_eq!(answers.acknowledged + answers.not_applied, commands);
    let conflicts: u64 = runtimes
        .iter()
        .map(|runtime| runtime.stats().conflicts)
        .sum();
    assert!(conflicts > 0, "they never met");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_faults_at_most_the_unknown_commands_are_beyond_the_acknowledged_ones() -> TestResult {
    for seed in [7, 1_234_567] {
        let database = Database::create().await?;
        let stores = [database.faulty().await?, database.faulty().await?];
        let mut chaos = JoinSet::new();
        for (store, seed) in stores.iter().zip([seed, seed + 1]) {
            chaos.spawn(disturb(Arc::clone(store), seed, 40));
        }
        let runtimes = [runtime(stores[0].clone())?, runtime(stores[1].clone())?];
        let answers = contend(&database, &runtimes).await?;
        assert!(
            answers.acknowledged > 0 && answers.not_applied > 0,
            "{answers:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revision_of_a_user_that_two_runtimes_write_is_the_number_of_acknowledged_commands()
-> TestResult {
    let database = Database::create().await?;
    let mut callers = JoinSet::new();
    for _ in 0..2 {
        let runtime = Runtime::for_users(database.store().await?).start()?;
        for caller in 0..CALLERS {
            let user = runtime.user(&key("u"));
            callers.spawn(async move {
                let mut acknowledged = 0;
                for command in 0..COMMANDS {
                    match user.execute(login(caller * COMMANDS + command)).await {
                        Ok(_) => acknowledged += 1,
                        Err(error) => assert!(matches!(
                            error,
                            ExecuteError::Failed(RequestError::Conflict)
                        )),
                    }
                }
                acknowledged
            });
        }
    }
    let acknowledged: i64 = callers.join_all().await.into_iter().sum();
    assert_eq!(database.revisions("mall-u").await?, [acknowledged]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runtimes_that_create_the_same_users_at_once_leave_one_row_each() -> TestResult {
    const RUNTIMES: usize = 4;
    const USERS: usize = 40;
    let database = Database::create().await?;
    let mut callers = JoinSet::new();
    for _ in 0..RUNTIMES {
        let runtime = Runtime::for_users(database.store().await?).start()?;
        for user in 0..USERS {
            let handle = runtime.user(&key(&user.to_string()));
            callers.spawn(async move {
                match handle.execute(login(0)).await {
                    Ok(_) => (user, 1),
                    Err(ExecuteError::Failed(RequestError::Conflict)) => (user, 0),
                    Err(error) => panic!("{error:?}"),
                }
            });
        }
    }
    let mut acknowledged = vec![0; USERS];
    for (user, count) in callers.join_all().await {
        acknowledged[user] += count;
    }
    for (user, acknowledged) in acknowledged.into_iter().enumerate() {
        let rows = database.revisions(&format!("mall-{user}")).await?;
        assert_eq!(rows, [acknowledged], "user {user}");
    }
    Ok(())
}
