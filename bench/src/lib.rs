//! user-state measured against its peers: every contender does the same work, on the same server, in the same run.
//!
//! **Problem.** Machines differ by a factor of two from hour to hour, so a figure says little by itself. **How.** A
//! throw-away PostgreSQL with durable settings serves all contenders; they take turns, in several rounds; every figure is read
//! beside `raw-row`, one prepared UPDATE per command. The README beside this crate says what each contender and work is
//! and why it is fair.
//!
//! ```text
//! cargo run --release --manifest-path bench/Cargo.toml -- --quick
//! ```
//!
//! What is public is for the program of this package and for its micro-benchmarks: [`main`], [`sample`] and
//! [`InstantStore`].

use std::process::ExitCode;

mod arguments;
mod case;
mod contender;
mod database;
#[path = "../../user-state/examples/shared/exit.rs"]
mod exit;
mod files;
mod instant_store;
mod load;
#[path = "../../loadtest/examples/loadtest/memory.rs"]
mod memory;
#[path = "../../user-state/examples/shared/open.rs"]
mod open;
mod peer;
mod population;
mod report;
mod run;
pub mod sample;
mod statistics;
#[path = "../../loadtest/examples/loadtest/tally.rs"]
mod tally;

pub use instant_store::InstantStore;

/// The program: reads the command line, measures, reports. Returns the exit status.
///
/// # Cancel safety
/// Dropping the future ends the throw-away server.
pub async fn main() -> ExitCode {
    match exit::arguments::<arguments::Arguments>() {
        Ok(arguments) => exit::status(Box::pin(run::run(&arguments)).await),
        Err(status) => status,
    }
}
