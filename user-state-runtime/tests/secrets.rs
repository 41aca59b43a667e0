//! Goal: no secret and no payload reaches a log, a panic message, a Debug or an error; ids only where somebody debugs.
//! Method: one run with faults, unreadable rows and conflicts, with marker values in the URL, the users' ids and their
//! products, everything that is traced captured down to TRACE, and every public value shown.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by a panic, in what it calls as well"
)]

mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::Executor;
use support::{AnyError, Database, TestResult, login, second};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use user_state_domain::{UserCommand, UserKey};
use user_state_runtime::testkit::{FaultyStore, LoadFault, TestProbe, WriteFault};
use user_state_runtime::{Runtime, Settings};

const PRODUCT: &str = "PRODUCT-kh7Qz";
const USER: &str = "USER-w3Rtv";

/// Everything that was traced, each line with its level.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<Vec<(Level, String)>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Traced {
    fn push(&self, metadata: &Metadata<'_>, line: &Line) {
        let line = format!("{} {}{}", metadata.target(), metadata.name(), line.0);
        self.0.lock().unwrap().push((*metadata.level(), line));
    }
}

impl Subscriber for Traced {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut line = Line(String::new());
        attributes.record(&mut line);
        self.push(attributes.metadata(), &line);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.0.lock().unwrap().push((Level::TRACE, line.0));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.push(event.metadata(), &line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn user(number: u32) -> Result<UserKey, AnyError> {
    Ok(format!("mall-{USER}{number}").parse()?)
}

fn view() -> UserCommand {
    UserCommand::ViewProduct {
        product_id: PRODUCT.into(),
        at: second(1),
    }
}

/// Whatever can be shown of a run with all kinds of trouble.
async fn shown_by_a_troubled_run(database: &Database) -> Result<Vec<String>, AnyError> {
    let mut shown = vec![format!("{:?}", database.options)];
    let faulty: Arc<FaultyStore> = database.faulty().await?;
    let builder = Runtime::for_users(faulty.clone()).settings(
        Settings::default()
            .shards(1)
            .entity_requests_max(1)
            .resolve_interval(Duration::from_millis(5))
            .resolve_timeout(Duration::from_millis(50)),
    );
    shown.push(format!("{builder:?}"));
    let runtime = builder.start()?;
    let mut probe = TestProbe::new(&runtime);
    let handle = runtime.user(&user(0)?);
    handle.execute(view()).await?;
    shown.push(format!("{runtime:?} {faulty:?} {:?}", runtime.stats()));

    for fault in [
        WriteFault::FailBefore,
        WriteFault::FailAfterCommit,
        WriteFault::LoseAnswer,
        WriteFault::Conflict,
        WriteFault::Conflict,
    ] {
        faulty.fail_writes(fault, 2);
        match handle.execute(view()).await {
            Ok(revision) => shown.push(format!("{revision:?}")),
            Err(error) => shown.push(format!("{error} {error:?}")),
        }
        faulty.heal();
    }
    // Unresolved for so long that its callers are told.
    faulty.fail_writes(WriteFault::LoseRequest, 1);
    faulty.fail_writes(WriteFault::FailBefore, u32::MAX);
    let lost = handle.execute(view()).await.unwrap_err();
    let behind = handle.state().await.unwrap_err();
    shown.push(format!("{lost} {lost:?} {behind} {behind:?}"));
    faulty.heal();

    let held = faulty.hold_writes();
    let busy = runtime.user(&user(1)?);
    let call = support::execute(&busy, view());
    let refused = busy.execute(view()).await.unwrap_err();
    shown.push(format!("{refused} {refused:?}"));
    drop(held);
    call.await?;
    busy.passivate().await?;
    faulty.fail_loads(LoadFault::Corrupt, 1);
    let unreadable = busy.execute(view()).await.unwrap_err();
    // The error names the row to its caller; the payload it does not show.
    assert!(format!("{unreadable:?}").contains(USER));
    shown.push(format!("{unreadable:?}").replace(USER, ""));
    database
        .connection()
        .await?
        .execute("ALTER TABLE durable_state ADD CONSTRAINT stop CHECK (revision < 3) NOT VALID")
        .await?;
    let stopped = runtime.user(&user(2)?);
    let answers = [
        stopped.execute(view()).await,
        stopped.execute(login(1)).await,
        stopped.execute(view()).await,
    ];
    assert!(
        answers[2].is_err(),
        "the database refuses the third revision"
    );
    shown.push(format!("{answers:?}"));

    runtime.shutdown().await.ok();
    let closed = busy.tell(view()).unwrap_err();
    shown.push(format!("{closed} {closed:?}"));
    // Events name their entity, and hold nothing of its state.
    while let Ok(event) = probe.expect().await {
        shown.push(format!("{event:?}").replace(USER, ""));
    }
    Ok(shown)
}

#[tokio::test]
async fn no_secret_and_no_payload_is_shown_anywhere_and_ids_only_when_debugging() -> TestResult {
    let traced = Traced::default();
    tracing::subscriber::set_global_default(traced.clone())?;
    let panics = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |panic| {
        hook.lock().unwrap().push(panic.to_string());
    }));
    let database = Database::create().await?;
    let shown = shown_by_a_troubled_run(&database).await;
    drop(std::panic::take_hook());
    let mut shown = shown?;

    let url = database.database.url();
    let password = url
        .split(['@', ':'])
        .nth(2)
        .ok_or("a password in the URL")?;
    assert!(password.len() >= 16, "too short to be looked for");
    shown.extend(panics.lock().unwrap().drain(..));
    let traced = std::mem::take(&mut *traced.0.lock().unwrap());
    for span in ["load", "write", "resolve"] {
        let name = format!("user_state_runtime::shard {span} ");
        let spans = traced.iter().filter(|(_, line)| line.starts_with(&name));
        assert!(spans.count() > 0, "no span of {span}");
    }
    assert!(!traced.is_empty(), "nothing was captured");
    for (level, line) in &traced {
        if *level < Level::DEBUG {
            assert!(!line.contains(USER), "an id at {level}: {line}");
        }
    }
    let debugged = traced.iter().filter(|(_, line)| line.contains(USER));
    assert!(debugged.count() > 0, "whoever debugs needs the id");
    shown.extend(traced.into_iter().map(|(_, line)| line));
    for text in shown {
        assert!(!text.contains(PRODUCT), "a payload: {text}");
        assert!(!text.contains(password), "the password: {text}");
    }
    Ok(())
}
