//! Goal: callers beyond every limit are told at once and get their command back, and nothing that was accepted is lost.
//! Method: small limits and a store that holds its writes or loads; then it lets go, and everything accepted is counted.

mod support;

use std::sync::Arc;

use support::ledger::{Bank, Ledger, add, id, ledgers, sum};
use support::{AnyError, Database, TICK, TestResult, execute, is_open, read};
use user_state_runtime::testkit::{FaultyStore, ManualTime, TestProbe};
use user_state_runtime::{
    ExecuteError, FailureReason, LifecycleEvent, PassivationReason, RequestError, Runtime,
    Settings, TellError,
};

struct Small {
    database: Database,
    faulty: Arc<FaultyStore>,
    time: ManualTime,
    runtime: Runtime<Ledger>,
}

/// A runtime of one shard with these limits.
async fn small(settings: Settings) -> Result<Small, AnyError> {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .clock(time.clone())
        .settings(settings.shards(1))
        .start()?;
    Ok(Small {
        database,
        faulty,
        time,
        runtime,
    })
}

#[tokio::test]
async fn a_full_mailbox_refuses_at_once_and_what_was_accepted_is_kept() -> TestResult {
    let small = small(
        Settings::default()
            .mailbox_messages_max(8)
            .shard_requests_max(5),
    )
    .await?;
    let held = small.faulty.hold_writes();
    let ledger = small.runtime.entity(id("l"));
    let mut accepted = 0;
    let refused = loop {
        match ledger.tell(add(1)) {
            Ok(()) => accepted += 1,
            Err(refused) => break refused,
        }
        // The shard takes what it may.
        tokio::task::yield_now().await;
    };
    // The mailbox and what the shard holds behind it: no more, whatever the size of a turn.
    assert_eq!(accepted, 8 + 5);
    assert!(matches!(refused, TellError::Overloaded(_)));
    assert_eq!(refused.into_command(), add(1));
    let refused = ledger.execute(add(7)).await.unwrap_err();
    assert!(matches!(refused, ExecuteError::Overloaded(command) if command == add(7)));
    assert!(matches!(
        ledger.state().await,
        Err(RequestError::Overloaded)
    ));
    assert!(matches!(
        ledger.delete().await,
        Err(RequestError::Overloaded)
    ));
    assert_eq!(small.runtime.stats().overloaded, 4);

    drop(held);
    small.time.advance(TICK).await?;
    assert_eq!(sum(&ledger).await?, (accepted, 13));
    assert_eq!(small.database.revisions("Ledger|l").await?, [accepted]);
    Ok(())
}

#[tokio::test]
async fn an_entity_with_too_many_requests_refuses_and_others_are_served() -> TestResult {
    let small = small(Settings::default().entity_requests_max(3)).await?;
    let (hot, other) = (
        small.runtime.entity(id("hot")),
        small.runtime.entity(id("o")),
    );
    other.execute(add(1)).await?;
    let mut probe = TestProbe::of(&small.runtime, id("hot"));
    let batches = small.runtime.stats().batches;
    let held = small.faulty.hold_writes();
    let calls = [1, 2, 3].map(|amount| execute(&hot, add(amount)));
    small.faulty.batches_arrived(batches + 1).await;
    let refused = hot.execute(add(4)).await.unwrap_err();
    assert!(matches!(refused, ExecuteError::Overloaded(command) if command == add(4)));
    assert!(matches!(hot.state().await, Err(RequestError::Overloaded)));
    hot.tell(add(5))?;
    let told = |event: &LifecycleEvent| {
        matches!(
            event,
            LifecycleEvent::Failed {
                reason: FailureReason::Overloaded,
                ..
            }
        )
    };
    probe.expect_where(told).await?;
    assert_eq!(sum(&other).await?, (1, 1), "another one of the same shard");

    drop(held);
    for (revision, call) in (1..).zip(calls) {
        assert_eq!(call.await?.get(), revision);
    }
    assert_eq!(sum(&hot).await?, (6, 3));
    Ok(())
}

#[tokio::test]
async fn beyond_the_live_limit_new_entities_wait_in_a_bounded_queue_in_their_order() -> TestResult {
    let small = small(
        Settings::default()
            .live_entities_max(1)
            .admission_requests_max(5),
    )
    .await?;
    let [busy, one, two, late] =
        ["busy", "one", "two", "late"].map(|name| small.runtime.entity(id(name)));
    let held = small.faulty.hold_writes();
    let mut working = execute(&busy, add(1));
    small.faulty.batches_arrived(1).await;

    one.tell(add(1))?;
    two.tell(add(10))?;
    one.tell(add(2))?;
    let mut passivated = {
        let one = one.clone();
        support::sent(async move { one.passivate().await })
    };
    let mut last = execute(&two, add(20));
    tokio::task::yield_now().await;
    let refused = late.execute(add(7)).await.unwrap_err();
    assert!(matches!(refused, ExecuteError::Overloaded(command) if command == add(7)));
    assert!(is_open(&mut working) && is_open(&mut passivated) && is_open(&mut last));
    assert_eq!(small.runtime.stats().live, 1);

    drop(held);
    working.await?;
    passivated.await?;
    assert_eq!(last.await?.get(), 2);
    assert_eq!(one.state().await?.state.recent, [1, 2]);
    assert_eq!(two.state().await?.state.recent, [10, 20]);
    assert_eq!(late.execute(add(7)).await?.get(), 1);
    assert_eq!(small.runtime.stats().live, 1);
    Ok(())
}

#[tokio::test]
async fn nothing_overtakes_the_requests_of_an_entity_that_waits_for_room() -> TestResult {
    let small = small(Settings::default().live_entities_max(2)).await?;
    let [first, second, entity, other] =
        ["first", "second", "e", "o"].map(|name| small.runtime.entity(id(name)));
    let held = small.faulty.hold_writes();
    // Two busy ones, then more requests than there is room for: those of the entity stand apart in the queue.
    let working = [execute(&first, add(1)), execute(&second, add(1))];
    small.faulty.batches_arrived(1).await;
    for turn in 1..=10 {
        entity.tell(add(turn))?;
        other.tell(add(turn))?;
    }
    tokio::task::yield_now().await;
    drop(held);
    for turn in 11..=200 {
        entity.tell(add(turn))?;
        other.tell(add(turn))?;
        if turn % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for call in working {
        call.await?;
    }
    let expected: Vec<i64> = (1..=200).collect();
    assert_eq!(entity.state().await?.state.recent, expected);
    assert_eq!(other.state().await?.state.recent, expected);
    Ok(())
}

#[tokio::test]
async fn at_the_live_limit_the_least_recent_leaves_and_never_a_busy_or_dirty_one() -> TestResult {
    let small = small(Settings::default().live_entities_max(3)).await?;
    let [one, two, three, four, five] =
        ["one", "two", "three", "four", "five"].map(|name| small.runtime.entity(id(name)));
    for ledger in [&one, &two, &three] {
        ledger.execute(add(1)).await?;
    }
    one.state().await?;
    let mut probe = TestProbe::new(&small.runtime);
    let left = async |probe: &mut TestProbe| {
        let event = probe
            .expect_where(|event| matches!(event, LifecycleEvent::Passivated { .. }))
            .await?;
        Ok::<_, AnyError>(event)
    };
    four.state().await?;
    let limit = |name| LifecycleEvent::Passivated {
        persistence_id: id(name),
        revision: user_state_store::Revision::FIRST,
        reason: PassivationReason::Limit,
    };
    assert_eq!(left(&mut probe).await?, limit("two"), "one was read since");

    // Three is the least recent now, but dirty: one goes.
    let held = small.faulty.hold_writes();
    let batches = small.runtime.stats().batches;
    let dirty = execute(&three, add(1));
    small.faulty.batches_arrived(batches + 1).await;
    one.state().await?;
    four.state().await?;
    five.state().await?;
    assert_eq!(left(&mut probe).await?, limit("one"));
    assert_eq!(small.runtime.stats().live, 3);
    drop(held);
    assert_eq!(dirty.await?.get(), 2);
    Ok(())
}

#[tokio::test]
async fn reads_beyond_the_limits_are_refused_and_those_accepted_are_answered() -> TestResult {
    let small = small(Settings::default().entity_requests_max(4)).await?;
    let ledger = small.runtime.entity(id("l"));
    let held = small.faulty.hold_loads();
    let calls = [(); 4].map(|()| read(&ledger));
    assert!(matches!(
        ledger.state().await,
        Err(RequestError::Overloaded)
    ));
    drop(held);
    for call in calls {
        assert_eq!(call.await?.revision.get(), 0);
    }
    Ok(())
}
