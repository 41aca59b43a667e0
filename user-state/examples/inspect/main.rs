//! Shows the stored rows of persistence ids, and never writes.
//!
//! ```text
//! cargo run --example inspect -- --store URL [--zone UTC] [--json] ID...
//! ```
//!
//! Shows users' states as JSON or CBOR, compressed or not, states that are one primitive value, and marks of deletion,
//! whatever the type of the payload column.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | the rows are readable, or the marks of deletions |
//! | 1 | a row cannot be read, or there are two |
//! | 3 | there is no row of an id |
//! | 64 | wrong usage |
//! | 69 | the store cannot be reached |

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use user_state_store::{
    Access, BATCH_ROWS_MAX, ConnectOptions, DurableStateStore, LoadedRow, OpenError, PersistenceId,
    Store, StoreError, Tz, UserStateMapping, load_in_parts,
};

#[path = "../shared/exit.rs"]
mod exit;
mod primitive;
mod report;
mod stored_time;

use exit::Failure;
use report::Report;

/// The most payload bytes that are looked at, 64 MiB: the most that any store can be told to allow.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Shows the stored rows of persistence ids; never writes.
#[derive(Debug, Parser)]
#[command(name = "inspect")]
struct Arguments {
    /// Where the states are kept: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`
    #[arg(long, value_name = "URL")]
    store: String,
    /// The time zone that stored times are local to
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    zone: Tz,
    /// Print one JSON object for each id, on a line of its own, instead of text
    #[arg(long)]
    json: bool,
    /// The persistence ids, such as demo-1001
    #[arg(value_name = "ID", required = true, value_parser = PersistenceId::unique)]
    ids: Vec<PersistenceId>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match exit::arguments() {
        Ok(arguments) => exit::status(Box::pin(inspect(&arguments)).await),
        Err(status) => status,
    }
}

async fn inspect(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = open(&arguments.store).await?;
    let mapping = UserStateMapping::new().zone(arguments.zone);
    let mut reports = Vec::new();
    for ids in arguments.ids.chunks(BATCH_ROWS_MAX) {
        let rows = load(store.states().as_ref(), ids).await?;
        let rows = ids.iter().zip(rows);
        reports.extend(rows.map(|(id, row)| Report::of(id, row, &mapping)));
    }
    store.close().await;
    for report in &reports {
        let text = if arguments.json {
            report.json()?
        } else {
            report.text()
        };
        writeln!(std::io::stdout(), "{text}")
            .map_err(|error| Failure::new(1, format!("cannot write to stdout: {error}")))?;
    }
    Ok(ExitCode::from(report::status(&reports)))
}

/// Opens the store, whatever the type of its payload column.
async fn open(url: &str) -> Result<Store, Failure> {
    let mut options = ConnectOptions::parse(url)?;
    options.settings.access = Access::ReadOnly;
    options.settings.payload_bytes_max = PAYLOAD_BYTES_MAX;
    let opened = user_state_store::connect(&options).await;
    let other = match &opened {
        Err(OpenError::ColumnMismatch { column, found, .. }) if *column == "state_payload" => {
            found.parse().ok()
        }
        _ => None,
    };
    let Some(payload_column) = other else {
        return Ok(opened?);
    };
    options.settings.payload_column = payload_column;
    Ok(user_state_store::connect(&options).await?)
}

/// Each row, or what makes it unreadable. Anything else that goes wrong is a failure of the store.
async fn load(
    store: &dyn DurableStateStore,
    ids: &[PersistenceId],
) -> Result<Vec<LoadedRow>, Failure> {
    let mut rows: Vec<_> = ids.iter().map(|_| Ok(None)).collect();
    load_in_parts(store, ids, |place, row| {
        if let Some(slot) = rows.get_mut(place) {
            *slot = row;
        }
    })
    .await;
    let failed = rows.iter().find_map(|row| match row {
        Ok(_)
        | Err(
            StoreError::Corrupt { .. }
            | StoreError::Unreadable { .. }
            | StoreError::DuplicateRows { .. }
            | StoreError::Refused(_),
        ) => None,
        Err(error) => Some(Failure::unavailable(error)),
    });
    failed.map_or(Ok(rows), Err)
}
