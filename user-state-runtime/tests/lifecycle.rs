//! Goal: what happens to entities can be seen - as a stream, as counts, as metrics - and seeing it never slows a shard.
//! Method: a subscriber that never reads, probes, and a recorder of metrics.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use support::ledger::{Bank, LedgerCommand, add, id, ledgers};
use support::{Database, TestResult};
use user_state_runtime::testkit::{ProbeError, TestProbe, WriteFault};
use user_state_runtime::{Lagged, LifecycleEvent, Settings};

#[tokio::test]
async fn a_subscriber_that_is_too_slow_is_told_how_much_it_lost_and_blocks_nobody() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
        .settings(Settings {
            lifecycle_events_max: 4,
            ..Settings::default()
        })
        .start()?;
    let mut slow = runtime.lifecycle();
    let mut slow_in_steps = runtime.lifecycle();
    let mut probe = TestProbe::new(&runtime);
    let ledger = runtime.entity(id("l"));
    for amount in 0..20 {
        ledger.execute(add(amount)).await?;
    }
    // One recovery and twenty writes, of which the last four are kept.
    assert_eq!(slow.next().await, Err(Lagged(17)));
    for revision in 17..=20 {
        let event = slow.next().await?;
        assert!(
            matches!(&event, Some(LifecycleEvent::Persisted { revision: seen, .. }) if seen.get() == revision),
            "{event:?}"
        );
    }
    assert_eq!(slow_in_steps.try_next(), Err(Lagged(17)));
    assert_eq!(probe.expect_none(), Err(ProbeError::Lagged(Lagged(17))));
    Ok(())
}

#[tokio::test]
async fn a_probe_that_lost_events_vouches_for_nothing() -> TestResult {
    let database = Database::create().await?;
    let runtime = ledgers(database.store().await?, &Bank::with_rate(1))
        .settings(Settings {
            lifecycle_events_max: 2,
            ..Settings::default()
        })
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

/// Counters by name.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counts {
    fn read(&self) -> BTreeMap<String, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |(name, count): (&String, &Arc<AtomicU64>)| {
            (name.clone(), count.load(Ordering::SeqCst))
        };
        counts.iter().map(read).collect()
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Counter::from_arc(Arc::clone(counts.entry(key.name().to_owned()).or_default()))
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
        .settings(Settings {
            shards: 1,
            entity_requests_max: 1,
            ..Settings::default()
        });
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
        assert_eq!(counted.get(&metric), Some(&count), "{metric}");
    }
    assert_eq!(stats.live, 0);
    Ok(())
}
