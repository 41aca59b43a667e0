//! Pekko's own serialization and ids, without plugin and database.

mod ids;

use user_state_interop::Case;

/// The files by name.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![("serialization::ids", ids::cases())]
}
