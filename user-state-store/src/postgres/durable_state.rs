//! Table `durable_state`: its reads and its writes.

mod array;
mod asked;
mod carried;
mod changes;
mod columns;
mod create;
mod culprits;
mod desk;
mod group;
mod held;
mod ids;
mod load;
mod locked;
mod payload_column;
mod probe;
mod row;
mod update;
mod write;

pub(super) use changes::changes;
#[cfg(test)]
pub(super) use changes::{SELECT_CHANGES, SELECT_CROWDED_CHANGES, SELECT_FIRST_CHANGE};
#[cfg(test)]
pub(super) use create::{INSERT_STATES, SELECT_OTHER_ROWS};
#[cfg(test)]
pub(super) use culprits::SELECT_TAKEN;
pub(super) use desk::Desk;
pub(super) use ids::persistence_ids;
#[cfg(test)]
pub(super) use ids::{SELECT_BYTES_OF_IDS, SELECT_PERSISTENCE_IDS, SELECT_TEXT};
pub(super) use load::load;
#[cfg(test)]
pub(super) use load::{SELECT_LENGTHS, SELECT_STATES};
#[cfg(test)]
pub(super) use locked::SELECT_STANDING;
#[cfg(test)]
pub(super) use probe::SELECT_UNFILLED;
pub(super) use probe::{Known, try_writes};
pub(super) use row::Micros;
#[cfg(test)]
pub(super) use row::PLACES;
#[cfg(test)]
pub(super) use update::{DELETE_FREE_STATES, DELETE_STATES, UPDATE_FREE_STATES, UPDATE_STATES};
pub(super) use write::write;
