//! Goal: the runtime keeps its promises for any aggregate: handlers that await, several events, refusals, panics, services.
//! Method: a ledger whose `apply` is not idempotent, a bank whose gate the test opens, held writes.

mod support;

use support::ledger::{Bank, LedgerCommand, Trap, add, id, ledgers, sum};
use support::{Database, TICK, TestResult, execute, is_open, read};
use user_state_runtime::testkit::{ManualTime, WriteFault};
use user_state_runtime::{ConflictPolicy, ExecuteError, RequestError, Settings};

#[tokio::test]
async fn a_command_with_several_events_is_one_revision_and_one_with_none_writes_nothing()
-> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let ledger = runtime.entity(id("l"));

    let none_yet = ledger.execute(LedgerCommand::Add(vec![])).await?;
    assert_eq!(none_yet.get(), 0);
    assert_eq!(database.revisions("Ledger|l").await?, [0; 0]);

    let several = ledger.execute(LedgerCommand::Add(vec![1, 2, 3])).await?;
    assert_eq!(several.get(), 1);
    let none = ledger.execute(LedgerCommand::Add(vec![])).await?;
    assert_eq!(none.get(), 1, "no event: the current revision");
    assert_eq!(runtime.stats().persisted, 1);

    let restarted = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    assert_eq!(sum(&restarted.entity(id("l"))).await?, (6, 3));
    Ok(())
}

#[tokio::test]
async fn no_answer_leaves_before_the_state_it_was_decided_on_is_durable() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .clock(time.clone())
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(5)).await?;

    let held = faulty.hold_writes();
    let mut command = execute(&ledger, add(5));
    faulty.batches_arrived(2).await;
    let mut refusal = execute(&ledger, LedgerCommand::Take(11));
    let mut nothing = execute(&ledger, LedgerCommand::Add(vec![]));
    let mut reading = read(&ledger);
    let mut second = execute(&ledger, add(90));
    let mut read_of_second = read(&ledger);
    // All of them are handled, none of them is answered.
    time.advance(TICK).await?;
    assert_eq!(runtime.stats().commands, 5);
    assert!(is_open(&mut command) && is_open(&mut refusal) && is_open(&mut nothing));
    assert!(is_open(&mut reading) && is_open(&mut second) && is_open(&mut read_of_second));

    drop(held);
    assert_eq!(command.await?.get(), 2);
    let refused = refusal.await.unwrap_err();
    assert!(matches!(&refused, ExecuteError::Rejected(error) if error.balance == 10));
    assert_eq!(nothing.await?.get(), 2);
    let read = reading.await?;
    assert_eq!((read.revision.get(), read.state.balance), (2, 10));
    assert_eq!(second.await?.get(), 3);
    let read = read_of_second.await?;
    assert_eq!((read.revision.get(), read.state.balance), (3, 100));
    Ok(())
}

#[tokio::test]
async fn what_a_refusal_or_a_read_saw_is_decided_again_when_its_write_fails() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .conflict_policy(ConflictPolicy::retry_once())
        .clock(time.clone())
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(5)).await?;

    let held = faulty.hold_writes();
    faulty.fail_writes(WriteFault::FailBefore, 1);
    let mut command = execute(&ledger, LedgerCommand::Take(5));
    faulty.batches_arrived(2).await;
    // Refused on the state that will be lost; possible on the one that is durable.
    let mut refusal = execute(&ledger, LedgerCommand::Take(4));
    let mut reading = read(&ledger);
    time.advance(TICK).await?;
    assert!(is_open(&mut command) && is_open(&mut refusal) && is_open(&mut reading));

    drop(held);
    assert!(matches!(
        command.await,
        Err(ExecuteError::Failed(RequestError::Unavailable(_)))
    ));
    assert_eq!(refusal.await?.get(), 2, "nothing of the lost state is seen");
    let read = reading.await?;
    assert_eq!((read.revision.get(), read.state.balance), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_handler_that_waits_makes_its_entity_busy_and_no_other() -> TestResult {
    let database = Database::create().await?;
    let bank = Bank::with_rate(10);
    let time = ManualTime::new();
    let runtime = ledgers(database.store().await?, &bank)
        .clock(time.clone())
        .settings(Settings::default().shards(1))
        .start()?;
    let (busy, other) = (runtime.entity(id("busy")), runtime.entity(id("other")));
    busy.state().await?;
    bank.shut();
    let mut waiting = execute(&busy, LedgerCommand::AddAtRate(3));
    let mut behind = execute(&busy, add(1));
    let mut reading = read(&busy);
    for amount in 1..=50 {
        other.execute(add(amount)).await?;
    }
    assert!(is_open(&mut waiting) && is_open(&mut behind) && is_open(&mut reading));
    assert_eq!(bank.calls(), 1);

    bank.open();
    assert_eq!(waiting.await?.get(), 1);
    assert_eq!(behind.await?.get(), 2);
    let read = reading.await?;
    assert_eq!((read.revision.get(), read.state.recent), (2, vec![30, 1]));
    assert_eq!(sum(&other).await?, (1_275, 50));
    Ok(())
}

#[tokio::test]
async fn a_panic_is_answered_and_harms_neither_its_entity_nor_others() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let (ledger, other) = (runtime.entity(id("l")), runtime.entity(id("other")));
    ledger.execute(add(7)).await?;
    other.execute(add(1)).await?;

    for panics in [
        LedgerCommand::PanicAtOnce,
        LedgerCommand::PanicAfterRate,
        LedgerCommand::PanicInApply,
        LedgerCommand::Set(Trap::Panics),
    ] {
        let failed = ledger.execute(panics.clone()).await.unwrap_err();
        assert!(
            matches!(failed, ExecuteError::Failed(RequestError::Panicked)),
            "{panics:?}: {failed:?}"
        );
        assert!(failed.is_definitely_not_applied());
        assert_eq!(sum(&ledger).await?, (7, 1), "{panics:?}");
        other.execute(add(1)).await?;
    }
    let refused = ledger.execute(LedgerCommand::Set(Trap::Refuses)).await;
    assert!(matches!(
        refused,
        Err(ExecuteError::Failed(RequestError::Refused(_)))
    ));
    assert_eq!(ledger.execute(add(1)).await?.get(), 2);
    assert_eq!(sum(&other).await?, (5, 5));
    assert_eq!(database.revisions("Ledger|l").await?, [2]);
    Ok(())
}

#[tokio::test]
async fn a_refusal_after_an_await_carries_the_state_it_was_decided_on() -> TestResult {
    let database = Database::create().await?;
    let bank = Bank::with_rate(1);
    let runtime = ledgers(database.store().await?, &bank).start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(7)).await?;
    bank.shut();
    let refusal = execute(&ledger, LedgerCommand::RefuseAfterRate);
    bank.open();
    let refused = refusal.await.unwrap_err();
    assert!(matches!(&refused, ExecuteError::Rejected(error) if error.balance == 7));
    assert_eq!(ledger.state().await?.revision.get(), 1);
    Ok(())
}
