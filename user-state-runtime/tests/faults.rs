//! Goal: whatever goes wrong at the store, a command has one of three outcomes - done, surely not applied, unknown -
//! and the answer is true; neighbours in a batch are unharmed.
//! Method: one fault after the other on one entity of a batch, then many of them by chance, and a check of everything
//! that callers were told against the rows.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by a panic, in what it calls as well"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::history::{Answers, Chance, History, disturb};
use support::ledger::{Bank, Ledger, LedgerCommand, Trap, add, id, ledgers, sum};
use support::{AnyError, Database, TICK, TestResult, execute, is_open, read};
use tokio::task::JoinSet;
use user_state_runtime::testkit::{FaultyStore, LoadFault, ManualTime, TestProbe, WriteFault};
use user_state_runtime::{
    ConflictPolicy, ExecuteError, FailureReason, LifecycleEvent, RequestError, Runtime,
    RuntimeBuilder, Settings,
};
use user_state_store::{StoreError, Writers};

/// How the caller of a command was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    NotApplied,
    Unknown,
}

fn one_shard() -> Settings {
    Settings::default()
        .shards(1)
        .resolve_interval(Duration::from_millis(5))
}

fn retrying(store: &Arc<FaultyStore>) -> RuntimeBuilder<Ledger> {
    ledgers(store.clone(), &Bank::with_rate(1))
        .conflict_policy(ConflictPolicy::retry_once())
        .settings(one_shard())
}

/// Three ledgers write together, the middle one meets the fault.
async fn outcome_in_a_batch(fault: WriteFault, writers: Writers) -> Result<Outcome, AnyError> {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = retrying(&faulty)
        .clock(time.clone())
        .writers(writers)
        .start()?;
    let [first, left, hit, right] = ["first", "a", "b", "c"].map(|name| runtime.entity(id(name)));
    for ledger in [&first, &left, &hit, &right] {
        ledger.execute(add(1)).await?;
    }
    let batches = runtime.stats().batches;

    let held = faulty.hold_writes();
    let ahead = execute(&first, add(10));
    faulty.batches_arrived(batches + 1).await;
    faulty.fail_writes_of(hit.persistence_id(), fault, 1);
    let [left_call, hit_call, right_call] =
        [&left, &hit, &right].map(|ledger| execute(ledger, add(10)));
    time.advance(TICK).await?;
    drop(held);
    ahead.await?;
    assert_eq!(left_call.await?.get(), 2, "a neighbour of {fault:?}");
    assert_eq!(right_call.await?.get(), 2, "a neighbour of {fault:?}");
    let outcome = match hit_call.await {
        Ok(revision) => {
            assert_eq!(revision.get(), 2);
            Outcome::Done
        }
        Err(ExecuteError::Failed(RequestError::Unknown)) => Outcome::Unknown,
        Err(error) => {
            assert!(error.is_definitely_not_applied());
            Outcome::NotApplied
        }
    };
    assert_eq!(faulty.unmet_faults(), 0, "{fault:?} was met");

    // The entity is open again, and says what the row says.
    let seen = sum(&hit).await?;
    let restarted = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    assert_eq!(sum(&restarted.entity(id("b"))).await?, seen, "{fault:?}");
    match outcome {
        // Of the faults here, those whose outcome stays unknown are applied.
        Outcome::Done | Outcome::Unknown => assert_eq!(seen, (11, 2), "{fault:?}"),
        Outcome::NotApplied => assert_eq!(seen, (1, 1), "{fault:?}"),
    }
    let expected = i64::try_from(seen.1)? + 1;
    assert_eq!(hit.execute(add(100)).await?.get(), expected, "{fault:?}");
    Ok(outcome)
}

#[tokio::test]
async fn each_fault_has_its_one_true_outcome_and_neighbours_are_unharmed() -> TestResult {
    for (fault, sole, shared) in [
        (
            WriteFault::FailBefore,
            Outcome::NotApplied,
            Outcome::NotApplied,
        ),
        (WriteFault::Conflict, Outcome::Done, Outcome::Done),
        (WriteFault::LoseRequest, Outcome::Done, Outcome::Done),
        // Where others write, a row that looks like ours may be theirs.
        (WriteFault::FailAfterCommit, Outcome::Done, Outcome::Unknown),
        (WriteFault::LoseAnswer, Outcome::Done, Outcome::Unknown),
    ] {
        assert_eq!(
            outcome_in_a_batch(fault, Writers::Sole).await?,
            sole,
            "{fault:?}"
        );
        assert_eq!(
            outcome_in_a_batch(fault, Writers::Shared).await?,
            shared,
            "{fault:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_whole_batch_that_fails_answers_everyone_in_it_and_behind_it() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = retrying(&faulty).clock(time.clone()).start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;
    let held = faulty.hold_writes();
    faulty.fail_writes(WriteFault::FailBefore, 1);
    let in_flight = execute(&ledger, add(10));
    faulty.batches_arrived(2).await;
    let gathered = execute(&ledger, add(20));
    time.advance(TICK).await?;
    drop(held);
    for call in [in_flight, gathered] {
        assert!(matches!(
            call.await,
            Err(ExecuteError::Failed(RequestError::Unavailable(
                StoreError::Unavailable(_)
            )))
        ));
    }
    assert_eq!(sum(&ledger).await?, (1, 1), "no dirty read");
    assert_eq!(ledger.execute(add(2)).await?.get(), 2);
    Ok(())
}

#[tokio::test]
async fn a_batch_that_answers_thousands_tells_each_entity_its_own_outcome() -> TestResult {
    const CALLERS: usize = 400;
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = retrying(&faulty).clock(time.clone()).start()?;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        runtime.entity(id(name)).execute(add(1)).await?;
    }
    let batches = runtime.stats().batches;
    let held = faulty.hold_writes();
    let ahead = execute(&runtime.entity(id("ahead")), add(1));
    faulty.batches_arrived(batches + 1).await;
    faulty.fail_writes_of(&id("b"), WriteFault::Conflict, 1);
    faulty.fail_writes_of(&id("e"), WriteFault::FailBefore, 1);
    // Each asks again at once, while others of the same batch still wait to be told.
    let mut calls = JoinSet::new();
    for name in names.repeat(CALLERS) {
        let ledger = runtime.entity(id(name));
        calls.spawn(async move {
            let first = ledger.execute(add(1)).await;
            (name, first.is_ok(), ledger.execute(add(1)).await)
        });
    }
    time.advance(TICK).await?;
    drop(held);
    ahead.await?;
    while let Some(call) = calls.join_next().await {
        let (name, first_is_done, second) = call?;
        assert_eq!(first_is_done, name != "e", "{name}");
        second.map_err(|error| format!("{name}: {error}"))?;
    }
    assert_eq!(faulty.unmet_faults(), 0);
    let restarted = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    for name in names {
        let done = if name == "e" { CALLERS } else { 2 * CALLERS };
        let expected = (i64::try_from(1 + done)?, u64::try_from(1 + done)?);
        for runtime in [&runtime, &restarted] {
            assert_eq!(sum(&runtime.entity(id(name))).await?, expected, "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn while_a_write_is_unresolved_nothing_of_its_entity_is_told() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = retrying(&faulty).start()?;
    let (ledger, other) = (runtime.entity(id("l")), runtime.entity(id("other")));
    ledger.execute(add(1)).await?;
    let mut probe = TestProbe::of(&runtime, id("l"));
    // The write never arrives, and its repetitions fail until the store heals.
    faulty.fail_writes_of(ledger.persistence_id(), WriteFault::LoseRequest, 1);
    faulty.fail_writes_of(ledger.persistence_id(), WriteFault::FailBefore, u32::MAX);
    let mut lost = execute(&ledger, add(10));
    let failed = probe.expect().await?;
    assert!(matches!(
        failed,
        LifecycleEvent::Failed {
            reason: FailureReason::Unknown,
            ..
        }
    ));
    let mut behind = execute(&ledger, add(100));
    let mut reading = read(&ledger);
    for amount in 1..=5 {
        other.execute(add(amount)).await?;
    }
    assert!(is_open(&mut lost) && is_open(&mut behind) && is_open(&mut reading));

    faulty.heal();
    assert_eq!(lost.await?.get(), 2, "the repetition has hit");
    assert_eq!(behind.await?.get(), 3);
    assert_eq!(reading.await?.state.balance, 111);
    assert_eq!(runtime.stats().unknown, 1);
    Ok(())
}

#[tokio::test]
async fn past_the_resolve_timeout_callers_are_told_and_the_entity_stays_closed_until_resolved()
-> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = retrying(&faulty)
        .settings(one_shard().resolve_timeout(Duration::from_millis(100)))
        .start()?;
    let (ledger, other) = (runtime.entity(id("l")), runtime.entity(id("other")));
    ledger.execute(add(1)).await?;
    let mut probe = TestProbe::of(&runtime, id("l"));
    faulty.fail_writes_of(ledger.persistence_id(), WriteFault::LoseRequest, 1);
    faulty.fail_writes_of(ledger.persistence_id(), WriteFault::FailBefore, u32::MAX);
    let lost = execute(&ledger, add(10));
    probe.expect().await?;
    let behind = execute(&ledger, add(100));
    let reading = read(&ledger);

    assert!(matches!(
        lost.await,
        Err(ExecuteError::Failed(RequestError::Unknown))
    ));
    let told = behind.await.unwrap_err();
    assert!(matches!(
        &told,
        ExecuteError::Failed(RequestError::Unavailable(StoreError::OutcomeUnknown(_)))
    ));
    assert!(told.is_definitely_not_applied());
    assert!(matches!(reading.await, Err(RequestError::Unavailable(_))));
    // Closed: whoever comes now is told at once, others are served.
    let closed = ledger.execute(add(1_000)).await;
    assert!(matches!(
        closed,
        Err(ExecuteError::Failed(RequestError::Unavailable(_)))
    ));
    assert!(matches!(
        ledger.passivate().await,
        Err(RequestError::Unavailable(_))
    ));
    other.execute(add(1)).await?;

    faulty.heal();
    let persisted = |event: &LifecycleEvent| matches!(event, LifecycleEvent::Persisted { .. });
    probe.expect_where(persisted).await?;
    assert_eq!(sum(&ledger).await?, (11, 2), "it was applied after all");
    assert_eq!(ledger.execute(add(1)).await?.get(), 3);
    Ok(())
}

#[tokio::test]
async fn a_tell_that_fails_is_an_event_and_a_count() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .settings(one_shard())
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;
    let mut probe = TestProbe::new(&runtime);
    let failed = async |probe: &mut TestProbe, expected: FailureReason| -> TestResult {
        let found = probe
            .expect_where(
                |event| matches!(event, LifecycleEvent::Failed { reason, .. } if *reason == expected),
            )
            .await;
        found
            .map(drop)
            .map_err(|error| format!("{expected:?}: {error}").into())
    };

    for (command, reason) in [
        (LedgerCommand::Take(1_000), FailureReason::Rejected),
        (LedgerCommand::PanicAtOnce, FailureReason::Panicked),
        (LedgerCommand::Set(Trap::Panics), FailureReason::Panicked),
        (LedgerCommand::Set(Trap::Refuses), FailureReason::Refused),
    ] {
        ledger.tell(command)?;
        failed(&mut probe, reason).await?;
    }
    for (fault, reason) in [
        (WriteFault::FailBefore, FailureReason::Unavailable),
        (WriteFault::Conflict, FailureReason::Conflict),
        (WriteFault::FailAfterCommit, FailureReason::Unknown),
    ] {
        faulty.fail_writes(fault, 1);
        ledger.tell(add(1))?;
        failed(&mut probe, reason).await?;
    }
    ledger.passivate().await?;
    for (fault, reason) in [
        (LoadFault::Fail, FailureReason::Unavailable),
        (LoadFault::Corrupt, FailureReason::Unreadable),
    ] {
        faulty.fail_loads(fault, 1);
        ledger.tell(add(1))?;
        failed(&mut probe, reason).await?;
    }
    let stats = runtime.stats();
    assert_eq!((stats.rejected, stats.unknown, stats.conflicts), (1, 1, 1));
    // Three panics and refusals, three writes, two loads.
    assert_eq!(stats.failed, 8);
    Ok(())
}

#[tokio::test]
async fn a_load_that_fails_fails_its_own_entity_only_and_the_next_message_recovers() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = retrying(&faulty).start()?;
    let [bad, good] = ["bad", "good"].map(|name| runtime.entity(id(name)));
    for ledger in [&bad, &good] {
        ledger.execute(add(7)).await?;
        ledger.passivate().await?;
    }
    for fault in [LoadFault::Fail, LoadFault::Corrupt] {
        let held = faulty.hold_loads();
        faulty.fail_loads_of(bad.persistence_id(), fault, 1);
        // Commands and reads of both, in one load or two.
        let calls =
            [&bad, &good].map(|ledger| (execute(ledger, LedgerCommand::Add(vec![])), read(ledger)));
        drop(held);
        let [(bad_call, bad_read), (good_call, good_read)] = calls;
        if fault == LoadFault::Fail {
            assert!(matches!(
                bad_call.await,
                Err(ExecuteError::Failed(RequestError::Unavailable(_)))
            ));
            assert!(matches!(bad_read.await, Err(RequestError::Unavailable(_))));
        } else {
            assert!(matches!(
                bad_call.await,
                Err(ExecuteError::Failed(RequestError::Unreadable(
                    StoreError::Corrupt { .. }
                )))
            ));
            assert!(matches!(bad_read.await, Err(RequestError::Unreadable(_))));
        }
        assert_eq!(good_call.await?.get(), 1);
        assert_eq!(good_read.await?.state.balance, 7);
        assert_eq!(runtime.stats().live, 1, "the failed one is not live");
        assert_eq!(sum(&bad).await?, (7, 1), "{fault:?} is over");
        for ledger in [&bad, &good] {
            ledger.passivate().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_confirming_read_that_fails_leaves_the_entity_as_it_is() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = retrying(&faulty).start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(7)).await?;
    faulty.fail_loads(LoadFault::Fail, 1);
    let confirmed = ledger.state_confirmed().await;
    assert!(matches!(confirmed, Err(RequestError::Unavailable(_))));
    assert_eq!(sum(&ledger).await?, (7, 1));
    assert_eq!(runtime.stats().recovered, 1);
    Ok(())
}

/// Callers of many ledgers, two for each, while faults come by chance.
async fn disturbed_run(seed: u64, writers: Writers) -> Result<Answers, AnyError> {
    const LEDGERS: usize = 12;
    const COMMANDS: i64 = 12;
    let database = Database::create().await?;
    let histories: Vec<History> = (0..LEDGERS).map(|_| History::default()).collect();
    // A lost creation whose repetition conflicts and finds no row is unknown even to a sole writer, so all rows are
    // there before anything goes wrong.
    let creator = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    for (number, history) in histories.iter().enumerate() {
        let ledger = creator.entity(id(&number.to_string()));
        history.add(&ledger, 0).await;
        assert_eq!(sum(&ledger).await?, (0, 1));
    }
    creator.shutdown().await?;

    let faulty = database.faulty().await?;
    let runtime: Runtime<Ledger> = retrying(&faulty)
        .settings(
            one_shard()
                .shards(2)
                .live_entities_max(LEDGERS - 4)
                .resolve_timeout(Duration::from_secs(20)),
        )
        .writers(writers)
        .start()?;
    let mut chaos = JoinSet::new();
    chaos.spawn(disturb(Arc::clone(&faulty), seed, 60));
    let mut callers = JoinSet::new();
    for caller in 0..2 * LEDGERS {
        let number = caller % LEDGERS;
        let ledger = runtime.entity(id(&number.to_string()));
        let history = histories[number].clone();
        let mut chance = Chance::seeded(seed.wrapping_add(1 + u64::try_from(caller)?));
        let base = i64::try_from(caller)? * 1_000;
        callers.spawn(async move {
            for command in 1..=COMMANDS {
                history.add(&ledger, base + command).await;
                match chance.below(6) {
                    0 | 1 => history.read(&ledger).await,
                    // A write that cannot be flushed keeps it in memory.
                    2 => drop(ledger.passivate().await),
                    _ => {}
                }
            }
        });
    }
    callers.join_all().await;
    drop(chaos);
    faulty.heal();
    runtime.shutdown().await?;

    let restarted = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let mut answers = Answers::default();
    for (number, history) in histories.iter().enumerate() {
        let last = restarted.entity(id(&number.to_string())).state().await?;
        answers = answers + history.check(&last);
        history.check_nothing_told_was_stale();
    }
    let commands = LEDGERS + 2 * LEDGERS * usize::try_from(COMMANDS)?;
    let answered = answers.acknowledged + answers.not_applied + answers.unknown;
    assert_eq!(answered, commands, "every caller was answered");
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn under_faults_by_chance_everything_that_was_told_is_true() -> TestResult {
    for seed in [0x5eed, 0xfee1_600d, 0xdead_beef] {
        let sole = disturbed_run(seed, Writers::Sole).await?;
        assert_eq!(sole.unknown, 0, "a sole writer finds out: {sole:?}");
        assert!(sole.acknowledged > 0 && sole.not_applied > 0, "{sole:?}");
        let shared = disturbed_run(seed, Writers::Shared).await?;
        assert!(shared.acknowledged > 0 && shared.unknown > 0, "{shared:?}");
    }
    Ok(())
}

/// Another application removes the row and makes it again, at the revision it had.
async fn make_again(database: &Database, id: &str) -> TestResult {
    let mut connection = database.connection().await?;
    for statement in [
        "CREATE TEMPORARY TABLE again AS SELECT * FROM durable_state WHERE persistence_id = $1",
        "DELETE FROM durable_state WHERE persistence_id = $1",
        "UPDATE again SET db_timestamp = clock_timestamp() WHERE persistence_id = $1",
        "INSERT INTO durable_state SELECT * FROM again WHERE persistence_id = $1",
    ] {
        let statement = statement.replace("$1", &format!("'{id}'"));
        sqlx::query(&statement).execute(&mut connection).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_made_again_after_a_lost_answer_was_resolved_is_a_conflict() -> TestResult {
    // Found out by the repetition that hits, and by the row that is read.
    for fault in [WriteFault::LoseRequest, WriteFault::FailAfterCommit] {
        for commands in [1, 2] {
            let database = Database::create().await?;
            let faulty = database.faulty().await?;
            let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
                .conflict_policy(ConflictPolicy::fail())
                .writers(Writers::Sole)
                .settings(one_shard())
                .start()?;
            let ledger = runtime.entity(id("l"));
            for _ in 1..commands {
                ledger.execute(add(1)).await?;
            }
            faulty.fail_writes(fault, 1);
            assert_eq!(ledger.execute(add(1)).await?.get(), commands);
            assert_eq!(faulty.unmet_faults(), 0);

            make_again(&database, id("l").as_str()).await?;
            let lost = ledger.execute(add(100)).await.unwrap_err();
            assert!(
                matches!(lost, ExecuteError::Failed(RequestError::Conflict)),
                "{fault:?}, {commands}: {lost:?}"
            );
            let stored = (commands, u64::try_from(commands)?);
            assert_eq!(sum(&ledger).await?, stored, "{fault:?}");
            assert_eq!(
                database.revisions(id("l").as_str()).await?,
                [commands],
                "{fault:?}"
            );
        }
    }
    Ok(())
}
