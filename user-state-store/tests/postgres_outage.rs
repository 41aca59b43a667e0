//! Goal: an outage of the database is one warning and, when it is over, one line with what it cost.
//! Method: a server that is killed and started again, and a subscriber of this thread that gathers every line of the
//! library as text.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a wrong constant ends the test")]

mod support;

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Outcome, put, write};
use throwaway_postgres::PostgresServer;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use user_state_store::{
    Backend as _, ConnectOptions, DurableStateStore as _, PersistenceId, PostgresStore, StoreError,
    WriteOutcome,
};

/// The lines of the library at level info and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Text<'line>(&'line mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().contains("outage") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Text(&mut line));
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The number behind a field's name.
fn number(line: &str, field: &str) -> Option<u64> {
    let (_, value) = line.split_once(&format!("{field}="))?;
    value.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn an_outage_is_one_warning_and_one_line_when_it_is_over() -> Outcome {
    let log = Log::default();
    let _gathering = tracing::subscriber::set_default(log.clone());
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    let mut options: ConnectOptions = database.url().parse()?;
    options.settings.acquire_timeout = Duration::from_millis(500);
    options.settings.connect_timeout = Duration::from_secs(1);
    user_state_store::migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    let ids = ["M4RKER-1", "M4RKER-2"].map(|id| PersistenceId::unique(id).unwrap());
    let create = |revision| {
        ids.iter()
            .map(|id| put(id.as_str(), revision - 1, revision, b"P4YLOAD"))
            .collect()
    };
    write(&store, create(1)).await;
    store.load(&ids).await?;

    server.kill().await?;
    let (mut failed, mut unknown) = (0, 0);
    for _ in 0..10 {
        for outcome in write(&store, create(2)).await {
            match outcome {
                WriteOutcome::NotApplied(StoreError::Unavailable(_)) => failed += 1,
                WriteOutcome::Unknown(_) => unknown += 1,
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
    for _ in 0..2 {
        let loaded = store.load(&ids).await;
        assert!(
            matches!(loaded, Err(StoreError::Unavailable(_))),
            "{loaded:?}"
        );
        failed += 2;
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("WARN"), "{lines:?}");

    server.restart().await?;
    // A busy machine may take longer than the pool waits.
    while store.load(&ids).await.is_err() {
        failed += 2;
    }
    write(&store, create(2)).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("INFO"), "{lines:?}");
    assert!(lines[1].contains("outage="), "{lines:?}");
    assert_eq!(number(&lines[1], "failed_requests"), Some(failed));
    assert_eq!(number(&lines[1], "unknown_outcomes"), Some(unknown));
    for line in &lines {
        for hidden in ["M4RKER", "P4YLOAD", "127.0.0.1"] {
            assert!(!line.contains(hidden), "{line}");
        }
    }
    store.close().await;
    Ok(())
}
