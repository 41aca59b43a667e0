//! Apache Pekko itself beside this project, case by case, for each set of released versions.
//!
//! Goal and method are told by the groups: `serialization` (no database) and `live` (both on one database).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

mod live;
mod serialization;

use std::process::ExitCode;

use serialization::random::{SEED, seed};

fn main() -> ExitCode {
    eprintln!(
        "random cases use seed {} (set {SEED} to use another)",
        seed()
    );
    let mut groups = serialization::groups();
    groups.extend(live::groups());
    user_state_interop::run(groups)
}
