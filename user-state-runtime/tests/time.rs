//! Goal: an advance of the manual clock is a barrier: everything accepted before is handled, everything due is flushed and
//! has left, or the advance says that it could not be.
//! Method: loads, handlers and writes that are held at the moment of the advance.

mod support;

use std::time::Duration;

use chrono::TimeDelta;
use support::ledger::{Bank, LedgerCommand, Trap, add, id, ledgers, sum};
use support::{Database, TICK, TestResult, is_open, sent};
use user_state_runtime::testkit::{ManualTime, TestProbe, WriteFault};
use user_state_runtime::{BarrierError, FailureReason, LifecycleEvent, Settings};

const IDLE: Duration = Duration::from_mins(30);

fn quick() -> Settings {
    Settings::default()
        .shards(2)
        .resolve_interval(Duration::from_millis(5))
}

#[tokio::test]
async fn an_advance_waits_for_entities_that_recover_and_handlers_that_wait() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let (bank, time) = (Bank::with_rate(2), ManualTime::new());
    let runtime = ledgers(faulty.clone(), &bank)
        .clock(time.clone())
        .settings(quick())
        .start()?;
    let (recovering, handling) = (runtime.entity(id("a")), runtime.entity(id("b")));
    handling.state().await?;
    bank.shut();
    handling.tell(LedgerCommand::AddAtRate(4))?;
    let held = faulty.hold_loads();
    recovering.tell(add(3))?;
    faulty.loads_arrived(2).await;

    let mut advance = {
        let time = time.clone();
        sent(async move { time.advance(IDLE).await })
    };
    let mut probe = TestProbe::of(&runtime, id("b"));
    bank.open();
    let left = |event: &LifecycleEvent| matches!(event, LifecycleEvent::Passivated { .. });
    probe.expect_where(left).await?;
    assert!(is_open(&mut advance), "one still recovers");
    drop(held);
    advance.await?;
    let stats = runtime.stats();
    assert_eq!(stats.commands, 2);
    assert_eq!(
        (stats.live, stats.persisted),
        (0, 2),
        "due, flushed and gone"
    );
    assert_eq!(sum(&recovering).await?, (3, 1));
    assert_eq!(sum(&handling).await?, (8, 1));
    Ok(())
}

#[tokio::test]
async fn advances_at_once_all_wait() -> TestResult {
    let database = Database::create().await?;
    let bank = Bank::with_rate(1);
    let time = ManualTime::new();
    let runtime = ledgers(database.store().await?, &bank)
        .clock(time.clone())
        .settings(quick())
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.state().await?;
    bank.shut();
    ledger.tell(LedgerCommand::AddAtRate(1))?;
    let mut advances = [(); 3].map(|()| {
        let time = time.clone();
        sent(async move { time.advance(TICK).await })
    });
    // The shards have taken all three, or this other entity would not be served.
    for name in ["a", "b", "c", "d"] {
        runtime.entity(id(name)).state().await?;
    }
    assert!(advances.iter_mut().all(is_open));
    bank.open();
    for advance in advances {
        advance.await?;
    }
    assert_eq!(runtime.stats().commands, 1);
    Ok(())
}

#[tokio::test]
async fn an_advance_past_an_entity_that_cannot_be_flushed_is_an_error() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .clock(time.clone())
        .settings(quick())
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;

    faulty.fail_writes(WriteFault::FailBefore, 1);
    ledger.tell(add(1))?;
    assert_eq!(time.advance(IDLE).await, Err(BarrierError::FlushFailed));
    assert_eq!(time.advance(IDLE).await, Ok(()), "it was told, and is over");

    ledger.tell(LedgerCommand::Set(Trap::Refuses))?;
    assert_eq!(time.advance(IDLE).await, Err(BarrierError::FlushFailed));

    // A conflict, and then the reload fails.
    ledger.state().await?;
    faulty.fail_writes(WriteFault::Conflict, 1);
    faulty.fail_loads(user_state_runtime::testkit::LoadFault::Fail, 1);
    ledger.tell(add(1))?;
    assert_eq!(time.advance(IDLE).await, Err(BarrierError::FlushFailed));
    assert_eq!(time.advance(IDLE).await, Ok(()));
    assert_eq!(sum(&ledger).await?, (1, 1));
    Ok(())
}

#[tokio::test]
async fn an_advance_past_a_write_that_hangs_is_late_and_not_stuck() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let late = Duration::from_millis(50);
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .clock(time.clone())
        .settings(quick().advance_timeout(late))
        .start()?;
    let ledger = runtime.entity(id("l"));
    let held = faulty.hold_writes();
    ledger.tell(add(1))?;
    assert_eq!(time.advance(IDLE).await, Err(BarrierError::Late(late)));
    assert_eq!(runtime.stats().live, 1);
    let mut probe = TestProbe::of(&runtime, id("l"));
    drop(held);
    let left = |event: &LifecycleEvent| matches!(event, LifecycleEvent::Passivated { .. });
    probe.expect_where(left).await?;
    assert_eq!(time.advance(TICK).await, Ok(()));
    assert_eq!(sum(&ledger).await?, (1, 1));
    Ok(())
}

#[tokio::test]
async fn an_unresolved_write_neither_blocks_an_advance_nor_passes_for_flushed() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .clock(time.clone())
        .settings(quick().resolve_timeout(Duration::from_millis(20)))
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;
    let mut probe = TestProbe::of(&runtime, id("l"));
    faulty.fail_writes_of(ledger.persistence_id(), WriteFault::LoseRequest, 1);
    faulty.fail_writes_of(ledger.persistence_id(), WriteFault::FailBefore, u32::MAX);
    assert!(ledger.execute(add(10)).await.is_err());
    for _ in 0..3 {
        assert_eq!(time.advance(IDLE).await, Err(BarrierError::FlushFailed));
    }
    let unknown = |event: &LifecycleEvent| {
        matches!(
            event,
            LifecycleEvent::Failed {
                reason: FailureReason::Unknown,
                ..
            }
        )
    };
    probe.expect_where(unknown).await?;
    probe.expect_none()?;
    faulty.heal();
    let persisted = |event: &LifecycleEvent| matches!(event, LifecycleEvent::Persisted { .. });
    probe.expect_where(persisted).await?;
    assert_eq!(time.advance(IDLE).await, Ok(()));
    assert_eq!(runtime.stats().live, 0);
    assert_eq!(sum(&ledger).await?, (11, 2));
    Ok(())
}

#[tokio::test]
async fn several_runtimes_share_a_clock_and_one_that_has_ended_is_no_hindrance() -> TestResult {
    let database = Database::create().await?;
    let time = ManualTime::new();
    let mut runtimes = Vec::new();
    for number in 0..3 {
        let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
            .clock(time.clone())
            .start()?;
        for turn in 0..20 {
            runtime
                .entity(id(&format!("{number}/{turn}")))
                .tell(add(1))?;
        }
        runtimes.push(runtime);
    }
    time.advance(IDLE).await?;
    for runtime in &runtimes {
        let stats = runtime.stats();
        assert_eq!((stats.live, stats.passivated, stats.persisted), (0, 20, 20));
    }
    runtimes.swap_remove(0).shutdown().await?;
    drop(runtimes.swap_remove(0));
    runtimes[0].entity(id("last")).tell(add(1))?;
    time.advance(IDLE).await?;
    assert_eq!(runtimes[0].stats().live, 0);
    Ok(())
}

#[tokio::test]
async fn time_never_moves_back_and_meets_an_instant_exactly() -> TestResult {
    let time = ManualTime::new();
    let noon = time.utc_now() + TimeDelta::hours(12);
    time.advance_to(noon).await?;
    assert_eq!(time.utc_now(), noon);
    let before = time.now();
    time.advance_to(noon - TimeDelta::hours(1)).await?;
    assert_eq!((time.utc_now(), time.now()), (noon, before));

    let later = noon + TimeDelta::hours(1);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let time = time.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                Ok::<_, std::io::Error>(runtime.block_on(time.advance_to(later)))
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")???;
    }
    assert_eq!(time.utc_now(), later, "several who go there at once");
    Ok(())
}

#[tokio::test]
async fn thousands_of_due_entities_leave_in_one_advance() -> TestResult {
    let database = Database::create().await?;
    let time = ManualTime::new();
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
        .clock(time.clone())
        .settings(quick())
        .start()?;
    for number in 0..3_000 {
        runtime
            .entity(id(&number.to_string()))
            .tell(LedgerCommand::Add(vec![]))?;
    }
    time.advance(TICK).await?;
    assert_eq!(runtime.stats().live, 3_000);
    time.advance(IDLE).await?;
    assert_eq!(
        (runtime.stats().live, runtime.stats().passivated),
        (0, 3_000)
    );
    Ok(())
}

#[tokio::test]
async fn an_advance_waits_for_entities_that_get_their_room_behind_it() -> TestResult {
    let database = Database::create().await?;
    let (bank, time) = (Bank::with_rate(1), ManualTime::new());
    let runtime = ledgers(database.store().await?, &bank)
        .clock(time.clone())
        .settings(Settings::default().shards(1).live_entities_max(1))
        .start()?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        runtime.entity(id(name)).tell(add(1))?;
    }
    time.advance(IDLE).await?;
    let stats = runtime.stats();
    assert_eq!(
        (stats.live, stats.recovered, stats.passivated),
        (0, 4, 4),
        "whoever waited for room was due as well"
    );
    for name in names {
        assert_eq!(sum(&runtime.entity(id(name))).await?, (1, 1));
    }
    Ok(())
}
