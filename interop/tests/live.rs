//! Both on one database: Pekko's actors, queries and store beside our store and runtime.
//!
//! How to add a scenario is told at the front of the crate.

mod load;
mod turns;

use user_state_interop::Case;

/// The scenarios by name.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("live::load", load::cases()),
        ("live::turns", turns::cases()),
    ]
}
