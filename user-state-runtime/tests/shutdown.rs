//! Goal: shutting down answers every caller in bounded time, keeps what was accepted, and refuses what comes later.
//! Method: shutdowns under load, with a store that hangs, and by dropping every handle; the rows tell what was kept.

mod support;

use std::time::Duration;

use support::ledger::{Bank, add, id, ledgers, sum};
use support::{Database, TestResult, execute, read};
use tokio::task::JoinSet;
use user_state_runtime::testkit::WriteFault;
use user_state_runtime::{
    ExecuteError, FailureReason, LifecycleEvent, RequestError, Settings, ShutdownTimedOut,
    TellError,
};

#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_caller_is_answered_and_what_was_acknowledged_is_durable() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let mut callers = JoinSet::new();
    for number in 0..32_i64 {
        let ledger = runtime.entity(id(&(number % 8).to_string()));
        callers.spawn(async move {
            let mut acknowledged = 0_i64;
            loop {
                match ledger.execute(add(1)).await {
                    Ok(_) => acknowledged += 1,
                    Err(ExecuteError::Closed(command)) => {
                        assert_eq!(command, add(1), "the command comes back");
                        return (number % 8, acknowledged);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    while runtime.stats().acknowledged < 500 {
        tokio::task::yield_now().await;
    }
    runtime.shutdown().await?;
    let mut sums = [0; 8];
    for (ledger, acknowledged) in callers.join_all().await {
        sums[usize::try_from(ledger)?] += acknowledged;
    }
    for (ledger, acknowledged) in sums.into_iter().enumerate() {
        let rows = database.revisions(&format!("Ledger|{ledger}")).await?;
        assert_eq!(rows, [acknowledged]);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_told_before_is_kept_and_everything_later_is_refused() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let ledger = runtime.entity(id("l"));
    let mut lifecycle = runtime.lifecycle();
    for _ in 0..1_000 {
        ledger.tell(add(1))?;
    }
    runtime.shutdown().await?;
    assert_eq!(database.revisions("Ledger|l").await?, [1_000]);

    assert!(matches!(ledger.tell(add(9)), Err(TellError::Closed(command)) if command == add(9)));
    let closed = ledger.execute(add(9)).await;
    assert!(matches!(closed, Err(ExecuteError::Closed(command)) if command == add(9)));
    assert!(matches!(ledger.state().await, Err(RequestError::Closed)));
    assert!(matches!(ledger.delete().await, Err(RequestError::Closed)));
    runtime.shutdown().await?;

    // The stream ends, although handles are left.
    let mut events = 0;
    while lifecycle.recv().await.transpose()?.is_some() {
        events += 1;
    }
    assert!(events >= 2, "recovered and persisted");
    assert_eq!(runtime.lifecycle().recv().await, None);
    Ok(())
}

#[tokio::test]
async fn with_a_store_that_hangs_it_ends_in_time_and_tells_everyone_the_truth() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .settings(
            Settings::default()
                .shards(1)
                .mailbox_messages_max(4)
                .shard_requests_max(4)
                .live_entities_max(1)
                .shutdown_timeout(Duration::from_millis(200)),
        )
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;
    let mut lifecycle = runtime.lifecycle();
    let held = faulty.hold_writes();
    let in_flight = execute(&ledger, add(10));
    faulty.batches_arrived(2).await;
    let gathered = execute(&ledger, add(100));
    let read_behind = read(&ledger);
    let for_room = execute(&runtime.entity(id("other")), add(1));
    tokio::task::yield_now().await;
    // The shard is full; these stay in the mailbox, and fill it.
    let in_mailbox = execute(&ledger, add(1_000));
    let read_in_mailbox = read(&ledger);
    ledger.tell(add(2_000))?;
    ledger.tell(add(3_000))?;
    assert!(matches!(ledger.tell(add(1)), Err(TellError::Overloaded(_))));

    assert_eq!(runtime.shutdown().await, Err(ShutdownTimedOut));
    assert!(matches!(
        in_flight.await,
        Err(ExecuteError::Failed(RequestError::Unknown))
    ));
    let behind = gathered.await.unwrap_err();
    assert!(
        matches!(behind, ExecuteError::Failed(RequestError::Closed)),
        "{behind:?}"
    );
    assert!(matches!(read_behind.await, Err(RequestError::Closed)));
    assert!(matches!(for_room.await, Err(ExecuteError::Closed(command)) if command == add(1)));
    let closed = in_mailbox.await.unwrap_err();
    assert!(
        matches!(&closed, ExecuteError::Closed(command) if *command == add(1_000)),
        "{closed:?}"
    );
    assert!(matches!(read_in_mailbox.await, Err(RequestError::Closed)));
    let mut told = 0;
    while let Some(event) = lifecycle.recv().await.transpose()? {
        let closed = matches!(
            event,
            LifecycleEvent::Failed {
                reason: FailureReason::Closed,
                ..
            }
        );
        told += usize::from(closed);
    }
    assert_eq!(told, 2, "a tell that was accepted does not vanish");
    drop(held);
    Ok(())
}

#[tokio::test]
async fn an_unresolved_write_is_waited_for_within_the_time() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .settings(Settings::default().resolve_interval(Duration::from_millis(5)))
        .start()?;
    let ledger = runtime.entity(id("l"));
    faulty.fail_writes(WriteFault::LoseRequest, 1);
    faulty.fail_writes(WriteFault::FailBefore, 3);
    let call = execute(&ledger, add(1));
    runtime.shutdown().await?;
    assert_eq!(call.await?.get(), 1);
    assert_eq!(database.revisions("Ledger|l").await?, [1]);
    Ok(())
}

#[tokio::test]
async fn dropping_every_handle_keeps_what_was_told() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let mut lifecycle = runtime.lifecycle();
    for number in 0..10 {
        let ledger = runtime.entity(id(&number.to_string()));
        for _ in 0..50 {
            ledger.tell(add(1))?;
        }
    }
    drop(runtime);
    while lifecycle.recv().await.transpose()?.is_some() {}
    let restarted = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    for number in 0..10 {
        let ledger = restarted.entity(id(&number.to_string()));
        assert_eq!(sum(&ledger).await?, (50, 50));
    }
    Ok(())
}
