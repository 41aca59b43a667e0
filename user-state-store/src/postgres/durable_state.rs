//! Table `durable_state`: its reads and its writes.

mod array;
mod asked;
mod changes;
mod columns;
mod create;
mod ids;
mod load;
mod locked;
mod payload_column;
mod row;
mod update;
mod write;

pub(super) use changes::changes;
#[cfg(test)]
pub(super) use changes::{SELECT_CHANGES, SELECT_FIRST_CHANGE};
#[cfg(test)]
pub(super) use create::{INSERT_STATES, SELECT_OTHER_ROWS};
#[cfg(test)]
pub(super) use ids::SELECT_PERSISTENCE_IDS;
pub(super) use ids::persistence_ids;
#[cfg(test)]
pub(super) use load::SELECT_STATES;
pub(super) use load::load;
#[cfg(test)]
pub(super) use locked::SELECT_LOCKED;
pub(super) use row::Micros;
#[cfg(test)]
pub(super) use row::PLACES;
#[cfg(test)]
pub(super) use update::{DELETE_STATES, UPDATE_STATES};
pub(super) use write::write;
