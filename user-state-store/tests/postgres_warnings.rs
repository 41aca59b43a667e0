//! Goal: lost answers are warned of once for a batch, by their number, and without an id or a payload.
//! Method: a store behind a proxy that is cut while a batch waits, and a subscriber that gathers every event as text.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use sqlx::Executor as _;
use support::proxy::Proxy;
use support::{Database, Outcome, put, write};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use user_state_store::{ConnectOptions, PostgresStore, WriteOutcome};

/// The warnings of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().starts_with("user_state")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock().unwrap();
        event.record(&mut Text(&mut log));
        log.push('\n');
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn lost_answers_are_one_warning_for_a_batch_without_ids_and_payloads() -> Outcome {
    let log = Log::default();
    let _subscribed = tracing::subscriber::set_default(log.clone());
    let database = Database::migrated().await?;
    let proxy = Proxy::to(database.address()?).await?;
    let options = ConnectOptions::parse(&database.url_at(proxy.address()))?;
    let store = PostgresStore::open(&options).await?;
    let ids = ["secret-a", "secret-b", "secret-c"];
    write(&store, ids.map(|id| put(id, 0, 1, b"payload")).to_vec()).await;
    assert_eq!(*log.0.lock().unwrap(), "");

    database.stop_at("secret-b").await?;
    let mut blocker = database.connect().await?;
    blocker
        .execute("BEGIN; SELECT pg_advisory_xact_lock(1)")
        .await?;
    let mut observer = database.connect().await?;
    let cutting = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(&mut observer)
            .await?;
            if waiting > 0 {
                proxy.cut();
                return Ok::<(), sqlx::Error>(());
            }
        }
    };
    let writes = ids.map(|id| put(id, 1, 2, b"payload")).to_vec();
    let (outcomes, cut) = tokio::join!(write(&store, writes), cutting);
    cut?;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, WriteOutcome::Unknown(_)))
    );
    let warnings = log.0.lock().unwrap().clone();
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(warnings.contains("unknown=3"), "{warnings}");
    for secret in ["secret", "payload"] {
        assert!(!warnings.contains(secret), "{warnings}");
    }
    Ok(())
}
