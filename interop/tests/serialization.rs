//! Pekko's own serialization and ids beside ours, without plugin and database.

mod documents;
mod ids;
mod java_time;
pub(crate) mod random;
mod states;
mod versions;

use user_state_interop::Case;

/// The files by name.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    let mut groups = vec![("serialization::ids", ids::cases())];
    groups.extend(states::groups());
    groups.push(("serialization::documents", documents::cases()));
    groups.push(("serialization::versions", versions::cases()));
    groups
}
