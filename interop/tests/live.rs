//! Both on one database: Pekko's actors, queries and store beside our store and runtime.
//!
//! How to add a scenario is told at the front of the crate.

mod contention;
mod creating;
mod cutting;
mod feeds;
mod history;
mod paging;
mod turns;

use user_state_interop::Case;

/// The scenarios by name.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("live::turns", turns::cases()),
        ("live::contention", contention::cases()),
        ("live::creating", creating::cases()),
        ("live::cutting", cutting::cases()),
        ("live::feeds", feeds::cases()),
        ("live::paging", paging::cases()),
    ]
}
