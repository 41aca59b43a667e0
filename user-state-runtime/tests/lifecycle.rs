//! Goal: what happens to entities can be seen - as a stream, as counts, as metrics - and seeing it never slows a shard.
//! Method: a subscriber that never reads, probes, and a recorder of metrics.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use support::ledger::{Bank, LedgerCommand, add, id, ledgers};
use support::{Database, TestResult};
use user_state_runtime::testkit::{ProbeError, TestProbe, WriteFault};
use user_state_runtime::{Lagged, LifecycleEvent, Settings};

#[tokio::test]
async fn a_subscriber_that_is_too_slow_is_told_how_much_it_lost_and_blocks_nobody() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
        .settings(Settings::default().lifecycle_events_max(4))
        .start()?;
    let mut slow = runtime.lifecycle();
    let mut slow_in_steps = runtime.lifecycle();
    let mut probe = TestProbe::new(&runtime);
    let ledger = runtime.entity(id("l"));
    for amount in 0..20 {
        ledger.execute(add(amount)).await?;
    }
    // One recovery and twenty writes, of which the last four are kept.
    assert_eq!(slow.recv().await, Some(Err(Lagged(17))));
    for revision in 17..=20 {
        let event = slow.recv().await.transpose()?;
        assert!(
            matches!(&event, Some(LifecycleEvent::Persisted { revision: seen, .. }) if seen.get() == revision),
            "{event:?}"
        );
    }
    assert_eq!(slow_in_steps.try_recv(), Some(Err(Lagged(17))));
    assert_eq!(probe.expect_none(), Err(ProbeError::Lagged(Lagged(17))));
    Ok(())
}

#[tokio::test]
async fn the_stream_has_what_was_lost_as_an_item_and_ends_with_the_runtime() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
        .settings(Settings::default().lifecycle_events_max(4))
        .start()?;
    let (slow, ended) = (runtime.lifecycle(), runtime.clone());
    let ledger = runtime.entity(id("l"));
    for amount in 0..20 {
        ledger.execute(add(amount)).await?;
    }
    runtime.shutdown().await?;
    let items: Vec<_> = slow.collect().await;
    assert_eq!(items[0], Err(Lagged(17)));
    assert_eq!(items.len(), 5, "{items:?}");
    assert!(items[1..].iter().all(Result::is_ok), "{items:?}");
    let mut late = ended.lifecycle();
    for _ in 0..2 {
        assert_eq!(late.next().await, None, "an ended stream stays at its end");
        assert_eq!(late.try_recv(), None);
    }
    Ok(())
}

#[tokio::test]
async fn the_stream_ends_when_the_last_handle_is_dropped() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let lifecycle = runtime.lifecycle();
    runtime.entity(id("l")).tell(add(1))?;
    drop(runtime);
    let events: Vec<LifecycleEvent> = lifecycle.try_collect().await?;
    assert!(events.len() >= 2, "recovered and persisted: {events:?}");
    Ok(())
}

#[tokio::test]
async fn dropping_a_wait_for_an_event_loses_none() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let mut lifecycle = runtime.lifecycle();
    for _ in 0..3 {
        let waiting = std::pin::pin!(lifecycle.recv());
        assert!(futures_util::poll!(waiting).is_pending());
    }
    runtime.entity(id("l")).state().await?;
    let event = lifecycle.recv().await.transpose()?;
    assert!(matches!(event, Some(LifecycleEvent::Recovered { .. })));
    assert_eq!(lifecycle.try_recv(), None);
    Ok(())
}

#[tokio::test]
async fn everything_that_has_happened_is_there_at_once_however_much_it_is() -> TestResult {
    const ENTITIES: usize = 300;
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    let mut lifecycle = runtime.lifecycle();
    let ledgers = (0..ENTITIES).map(|number| runtime.entity(id(&number.to_string())));
    let reads = ledgers.map(|ledger| async move { ledger.state().await.map(drop) });
    for read in join_all(reads).await {
        read?;
    }
    // More events than tokio lets a task take without a pause.
    let events = std::iter::from_fn(|| lifecycle.try_recv());
    assert_eq!(events.count(), ENTITIES);
    Ok(())
}

#[tokio::test]
async fn a_probe_that_lost_events_vouches_for_nothing() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
        .settings(Settings::default().lifecycle_events_max(2))
        .start()?;
    let lagging = || TestProbe::of(&runtime, id("another"));
    let (mut expects, mut searches, mut expects_none) = (lagging(), lagging(), lagging());
    for amount in 0..5 {
        runtime.entity(id("l")).execute(add(amount)).await?;
    }
    assert!(matches!(expects.expect().await, Err(ProbeError::Lagged(_))));
    let found = searches.expect_where(|_| true).await;
    assert!(matches!(found, Err(ProbeError::Lagged(_))));
    assert!(matches!(
        expects_none.expect_none(),
        Err(ProbeError::Lagged(_))
    ));

    let brief = std::time::Duration::from_millis(10);
    let mut idle = TestProbe::new(&runtime).within(brief);
    assert_eq!(idle.expect().await, Err(ProbeError::Nothing(brief)));
    runtime.entity(id("l")).execute(add(1)).await?;
    assert!(matches!(idle.expect_none(), Err(ProbeError::Unexpected(_))));
    runtime.shutdown().await?;
    assert_eq!(idle.expect().await, Err(ProbeError::Ended));
    Ok(())
}

/// What a recorder was told.
#[derive(Default)]
struct Counts {
    /// Counters by name and aggregate.
    counters: Mutex<BTreeMap<(String, String), Arc<AtomicU64>>>,
    /// Units and descriptions by name.
    descriptions: Mutex<BTreeMap<String, (Option<Unit>, String)>>,
}

impl Counts {
    fn read(&self) -> BTreeMap<(String, String), u64> {
        let counts = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |(name, count): (&(String, String), &Arc<AtomicU64>)| {
            (name.clone(), count.load(Ordering::SeqCst))
        };
        counts.iter().map(read).collect()
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        let mut descriptions = self
            .descriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        descriptions.insert(name.as_str().to_owned(), (unit, description.into_owned()));
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counts = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let counter = (key.name().to_owned(), labels.join(","));
        Counter::from_arc(Arc::clone(counts.entry(counter).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn stats_and_metrics_count_the_same() -> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let counts = Counts::default();
    let builder = ledgers(faulty.clone(), &Bank::with_rate(1))
        .conflict_policy(user_state_runtime::ConflictPolicy::retry_once())
        .settings(Settings::default().shards(1).entity_requests_max(1));
    let runtime = metrics::with_local_recorder(&counts, || builder.start())?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;
    assert!(ledger.execute(LedgerCommand::Take(5)).await.is_err());
    ledger.state().await?;
    faulty.fail_writes(WriteFault::Conflict, 1);
    ledger.execute(add(1)).await?;
    faulty.fail_writes(WriteFault::FailBefore, 1);
    assert!(ledger.execute(add(1)).await.is_err());
    faulty.fail_writes(WriteFault::LoseRequest, 1);
    ledger.execute(add(1)).await?;
    let held = faulty.hold_writes();
    let call = support::execute(&ledger, add(1));
    assert!(ledger.execute(add(1)).await.is_err(), "overloaded");
    drop(held);
    call.await?;
    ledger.passivate().await?;

    let stats = runtime.stats();
    let expected = [
        ("acknowledged", stats.acknowledged, 4),
        ("batches", stats.batches, 6),
        // One of them twice.
        ("commands", stats.commands, 7),
        ("conflicts", stats.conflicts, 1),
        ("failed", stats.failed, 1),
        ("overloaded", stats.overloaded, 1),
        ("passivated", stats.passivated, 1),
        ("persisted_rows", stats.persisted, 4),
        ("reads", stats.reads, 1),
        // At first, and after the write that failed.
        ("recovered", stats.recovered, 2),
        ("rejected", stats.rejected, 1),
        ("unknown", stats.unknown, 1),
    ];
    let counted = counts.read();
    assert_eq!(counted.len(), expected.len(), "{counted:?}");
    for (name, in_stats, count) in expected {
        assert_eq!(in_stats, count, "{name}");
        let metric = format!("user_state_{name}_total");
        let described = counts
            .descriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (unit, description) = described.get(&metric).ok_or("it is not described")?;
        assert_eq!(*unit, Some(Unit::Count), "{metric}");
        assert!(description.ends_with('.'), "{metric}: {description}");
        let key = (metric, "aggregate=Ledger".to_owned());
        assert_eq!(counted.get(&key), Some(&count), "{key:?}");
    }
    assert_eq!(stats.live, 0);
    Ok(())
}
