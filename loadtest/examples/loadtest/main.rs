//! Drives a runtime with closed-loop callers and measures it.
//!
//! ```text
//! cargo run --release --example loadtest -- --workload write|read|hot|recover [--store URL] [--users N] [--live-entities-max N] [--callers N] [--seconds S] [--json]
//! ```
//!
//! | workload | what a caller does, again and again |
//! |---|---|
//! | `write` | executes a random command on a random user, live already, and waits until it is durable |
//! | `hot` | the same on few users (100 unless set) |
//! | `read` | reads the state of a random user, live already |
//! | `recover` | reads the state of a user that is not live; when all are, a fresh runtime takes over, untimed |
//!
//! Users stay in memory unless `--live-entities-max` is below their number; the limit is raised where more users are asked
//! for, which is said. The report says how often users were recovered while `write`, `hot` or `read` was measured.
//!
//! Missing users are created first, untimed. The first tenth of the time warms up and does not count. Without `--store`
//! a throw-away PostgreSQL with durable settings is used.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use user_state_domain::UserState;
use user_state_runtime::{EntityRef, Runtime};
use user_state_store::{PersistenceId, Store};

mod arguments;
mod callers;
#[path = "../../../user-state/examples/shared/exit.rs"]
mod exit;
mod limit;
mod memory;
#[path = "../../../user-state/examples/shared/open.rs"]
mod open;
mod population;
mod recovery;
mod report;
mod tally;
mod target;

use arguments::{Arguments, Workload};
use callers::Request;
use exit::{Failure, with_causes};
use report::Report;
use target::Target;

/// A runtime and handles to its users.
struct Population {
    runtime: Runtime<UserState>,
    users: Arc<[EntityRef<UserState>]>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match exit::arguments() {
        Ok(arguments) => exit::status(Box::pin(loadtest(&arguments)).await),
        Err(status) => status,
    }
}

async fn loadtest(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let limit = arguments.limit();
    if limit.is_raised() {
        eprintln!("{limit}");
    }
    let target = Target::open(arguments.store.as_deref()).await?;
    let store = target.store();
    let ids = population::create(&store, arguments.users()).await?;
    let measured = match arguments.workload {
        Workload::Recover => recovery::measure(&store, &ids, arguments).await?,
        Workload::Read => steady(&store, &ids, arguments, Request::Read).await?,
        Workload::Write | Workload::Hot => steady(&store, &ids, arguments, Request::Write).await?,
    };
    target.close().await;
    for (reason, count) in measured.errors() {
        eprintln!("{count} times: {reason}");
    }
    let report = Report::of(arguments, &measured);
    let text = if arguments.json {
        report.json()?
    } else {
        report.text()
    };
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure::new(1, format!("cannot write to stdout: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// Measures requests to users that are live already.
async fn steady(
    store: &Store,
    ids: &[PersistenceId],
    arguments: &Arguments,
    request: Request,
) -> Result<report::Measured, Failure> {
    let population = Population::start(store, ids, arguments)?;
    callers::bring_to_life(&population.users).await?;
    let before = population.runtime.stats().recovered;
    let mut measured = callers::measure(&population.users, request, arguments).await?;
    measured.recovered = population.runtime.stats().recovered - before;
    population.end().await?;
    Ok(measured)
}

impl Population {
    /// A runtime with default settings, but with room for its users, none of whom is live.
    fn start(store: &Store, ids: &[PersistenceId], arguments: &Arguments) -> Result<Self, Failure> {
        let runtime = Runtime::for_users(store)
            .settings(arguments.limit().settings())
            .start()
            .map_err(|error| Failure::new(1, with_causes(&error)))?;
        let users = ids.iter().map(|id| runtime.entity(id.clone())).collect();
        Ok(Self { runtime, users })
    }

    async fn end(self) -> Result<(), Failure> {
        let ended = self.runtime.shutdown().await;
        ended.map_err(|error| Failure::unavailable(&error))
    }
}
