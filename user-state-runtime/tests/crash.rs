//! Goal: an acknowledged command survives kill -9, of the process and of the database server, and what was in flight then
//! resolves.
//! Method: a child process (this test binary, which runs itself again) reports each acknowledgement and is killed in
//! mid-load; a server of the test's own is killed in mid-load and started again. Then the rows are compared with what was
//! acknowledged: each product is named by the revision it was to have.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{AnyError, Database, TestResult, key, view};
use throwaway_postgres::PostgresServer;
use tokio::task::JoinSet;
use user_state_domain::{ProductId, UserState};
use user_state_runtime::{ExecuteError, RequestError, Runtime, Settings, Versioned};
use user_state_store::ConnectOptions;

/// Where the child finds its database.
const DATABASE_OF_CHILD: &str = "USER_STATE_TEST_CRASH_DATABASE";

const USERS: usize = 48;

/// The child is killed after this many acknowledgements, in the middle of those of other users.
const ACKNOWLEDGED_BEFORE_KILL: usize = 3_000;

/// A bound for what is a matter of seconds.
const PATIENCE: Duration = Duration::from_mins(1);

fn products(state: &UserState) -> Vec<&str> {
    state
        .recent_products
        .iter()
        .map(ProductId::as_str)
        .collect()
}

/// The products of a user who viewed one named by each revision.
fn products_at(revision: i64) -> Vec<String> {
    let revisions = (1..=revision).rev().take(3);
    revisions.map(|revision| revision.to_string()).collect()
}

/// Views one product after the other, without end, and reports each acknowledgement on stdout.
async fn be_the_child(url: &str) -> TestResult {
    let options: ConnectOptions = url.parse()?;
    let store = user_state_store::connect(&options).await?;
    let runtime = Runtime::for_users(store).start()?;
    let mut callers = JoinSet::new();
    for number in 0..USERS {
        let user = runtime.user(&key(&number.to_string()));
        callers.spawn(async move {
            for revision in 1_i64.. {
                let told = user.execute(view(&revision.to_string(), revision)).await?;
                // One write of a whole line: it is there entirely or not at all.
                let line = format!("acknowledged {number} {told}\n");
                std::io::stdout().lock().write_all(line.as_bytes())?;
            }
            Ok::<_, AnyError>(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_kill_of_the_process() -> TestResult {
    if let Ok(url) = std::env::var(DATABASE_OF_CHILD) {
        return be_the_child(&url).await;
    }
    let database = Database::create().await?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "what_was_acknowledged_survives_the_kill_of_the_process",
        ])
        .args(["--nocapture", "--test-threads", "1"])
        .env(DATABASE_OF_CHILD, database.database.url())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
    // Reading ends when the child does; it is killed while it writes.
    let mut acknowledged = vec![0_i64; USERS];
    let mut count = 0;
    for line in lines {
        let line = line?;
        // Before the first one stands what the test harness prints.
        let Some((_, told)) = line.split_once("acknowledged ") else {
            continue;
        };
        let (number, revision) = told.split_once(' ').ok_or("a user and a revision")?;
        let (number, revision): (usize, i64) = (number.parse()?, revision.parse()?);
        assert_eq!(revision, acknowledged[number] + 1, "in order, none twice");
        acknowledged[number] = revision;
        count += 1;
        if count == ACKNOWLEDGED_BEFORE_KILL {
            child.kill()?;
        }
    }
    assert!(!child.wait()?.success());
    assert!(
        count >= ACKNOWLEDGED_BEFORE_KILL,
        "the child ended by itself"
    );

    let runtime = Runtime::for_users(database.store().await?).start()?;
    let mut beyond = 0;
    for (number, acknowledged) in acknowledged.into_iter().enumerate() {
        let Versioned { state, revision } = runtime.user(&key(&number.to_string())).state().await?;
        let revision = revision.get();
        // One command of each user was in flight, and at most that one is beyond what was acknowledged.
        assert!(
            revision == acknowledged || revision == acknowledged + 1,
            "user {number}: {revision} stored, {acknowledged} acknowledged"
        );
        assert_eq!(products(&state), products_at(revision), "user {number}");
        beyond += revision - acknowledged;
    }
    println!("{count} acknowledged, {beyond} more were applied");
    Ok(())
}

/// What a caller was told of its own user.
#[derive(Debug, Default)]
struct Told {
    /// Acknowledged revisions and the number of the command that made each.
    acknowledged: Vec<(i64, i64)>,
    unknown: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_kill_of_the_server_and_the_runtime_goes_on()
-> TestResult {
    const COMMANDS_AFTERWARDS: u64 = 10;
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    let options: ConnectOptions = database.url().parse()?;
    user_state_store::migrate(&options).await?;
    let store = user_state_store::connect(&options).await?;
    let runtime = Runtime::for_users(store)
        .settings(Settings::default().resolve_timeout(PATIENCE))
        .start()?;
    // How many times the server was back, and how many commands each caller still owes.
    let returns = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for number in 0..USERS {
        let user = runtime.user(&key(&number.to_string()));
        let returns = Arc::clone(&returns);
        callers.spawn(async move {
            let mut told = Told::default();
            let mut afterwards = 0;
            for command in 1_i64.. {
                let was_back = returns.load(Ordering::SeqCst) == 2;
                match user.execute(view(&command.to_string(), command)).await {
                    Ok(revision) => {
                        told.acknowledged.push((revision.get(), command));
                        afterwards += u64::from(was_back);
                        if afterwards == COMMANDS_AFTERWARDS {
                            break;
                        }
                    }
                    Err(ExecuteError::Failed(RequestError::Unknown)) => told.unknown += 1,
                    Err(ExecuteError::Failed(RequestError::Unavailable(_))) => {
                        tokio::task::yield_now().await;
                    }
                    Err(error) => return Err(AnyError::from(format!("{error:?}"))),
                }
            }
            Ok((number, told))
        });
    }
    for _ in 0..2 {
        let before = runtime.stats().acknowledged;
        while runtime.stats().acknowledged < before + 500 {
            tokio::task::yield_now().await;
        }
        server.kill().await?;
        server.restart().await?;
        returns.fetch_add(1, Ordering::SeqCst);
    }
    let answered = tokio::time::timeout(PATIENCE, callers.join_all()).await;
    let all = answered.map_err(|_| "a caller was never answered")?;
    runtime.shutdown().await?;

    let restarted = Runtime::for_users(user_state_store::connect(&options).await?).start()?;
    for told in all {
        let (number, told) = told?;
        let Versioned { state, revision } =
            restarted.user(&key(&number.to_string())).state().await?;
        let revisions: Vec<i64> = told.acknowledged.iter().map(|(made, _)| *made).collect();
        assert!(
            revisions.is_sorted_by(|one, next| one < next),
            "none used again"
        );
        let count = i64::try_from(revisions.len())?;
        let (last, command) = *told.acknowledged.last().ok_or("nothing acknowledged")?;
        assert_eq!(revision.get(), last, "the last command was acknowledged");
        assert!(
            (count..=count + told.unknown).contains(&last),
            "user {number}: {last} stored, {count} acknowledged, {} unknown",
            told.unknown
        );
        assert_eq!(
            products(&state).first(),
            Some(&command.to_string().as_str())
        );
    }
    Ok(())
}
