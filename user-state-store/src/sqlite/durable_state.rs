//! Table `durable_state`: its reads and its writes.

mod apply;
mod carried;
mod changes;
mod culprits;
mod fetch;
mod ids;
mod load;
mod row;
mod write;

pub(super) use changes::changes;
pub(super) use ids::persistence_ids;
pub(super) use load::load;
pub(super) use write::write;
