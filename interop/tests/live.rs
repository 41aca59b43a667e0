//! Both on one database: Pekko's actors, queries and store beside our store and runtime.
//!
//! How to add a scenario is told at the front of the crate.

mod contention;
mod creating;
mod cutting;
mod deleting;
mod feeds;
mod hazards;
mod history;
mod load;
mod paging;
mod turns;
mod user;
mod zones;

use user_state_interop::Case;

/// The scenarios by name.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("live::turns", turns::cases()),
        ("live::deleting", deleting::cases()),
        ("live::hazards", hazards::cases()),
        ("live::zones", zones::cases()),
        ("live::creating", creating::cases()),
        ("live::contention", contention::cases()),
        ("live::cutting", cutting::cases()),
        ("live::feeds", feeds::cases()),
        ("live::paging", paging::cases()),
        ("live::load", load::cases()),
    ]
}
