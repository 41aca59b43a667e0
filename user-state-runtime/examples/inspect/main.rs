//! Shows the stored row of a persistence id, and never writes.
//!
//! ```text
//! cargo run --example inspect -- --store URL [--zone UTC] [--json] ID
//! ```
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | the row is readable, or the mark of a deletion |
//! | 1 | the row cannot be read, or there are two |
//! | 3 | there is no row |
//! | 64 | wrong usage |
//! | 69 | the store cannot be reached |

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use user_state_store::{
    Access, ConnectOptions, PersistenceId, StoreError, StoredState, Tz, UserStateMapping,
};

#[path = "../shared/exit.rs"]
mod exit;
mod report;
mod stored_time;

use exit::{Failure, with_causes};
use report::Report;

/// The most payload bytes that are looked at, 64 MiB: the most that any store can be told to allow.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Shows the stored row of a persistence id; never writes.
#[derive(Debug, Parser)]
#[command(name = "inspect")]
struct Arguments {
    /// Where the states are kept: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`
    #[arg(long, value_name = "URL")]
    store: String,
    /// The time zone that stored times are local to
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    zone: Tz,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// The persistence id, such as demo-1001
    #[arg(value_name = "ID", value_parser = PersistenceId::unique)]
    id: PersistenceId,
}

#[tokio::main]
async fn main() -> ExitCode {
    match exit::arguments() {
        Ok(arguments) => exit::status(Box::pin(inspect(&arguments)).await),
        Err(status) => status,
    }
}

async fn inspect(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let row = load(arguments).await?;
    let mapping = UserStateMapping::new().zone(arguments.zone);
    let report = Report::of(&arguments.id, row, &mapping);
    let text = if arguments.json {
        report.json()?
    } else {
        report.text()
    };
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure::new(1, format!("cannot write to stdout: {error}")))?;
    Ok(ExitCode::from(report.status()))
}

/// The row, or what makes it unreadable. Anything else that goes wrong is a failure of the store.
async fn load(arguments: &Arguments) -> Result<Result<Option<StoredState>, StoreError>, Failure> {
    let mut options = ConnectOptions::parse(&arguments.store)?;
    options.settings.access = Access::ReadOnly;
    options.settings.payload_bytes_max = PAYLOAD_BYTES_MAX;
    let store = user_state_store::connect(&options).await?;
    let rows = store.load(std::slice::from_ref(&arguments.id)).await;
    store.close().await;
    let row = rows
        .map_err(|error| Failure::unavailable(&error))?
        .pop()
        .unwrap_or(Ok(None));
    match row {
        Err(error @ (StoreError::Corrupt { .. } | StoreError::DuplicateRows { .. })) => {
            Ok(Err(error))
        }
        row => row
            .map(Ok)
            .map_err(|error| Failure::new(exit::UNAVAILABLE, with_causes(&error))),
    }
}
