//! What tests of entities and of shards share: an aggregate, its code and its database, as models.

pub(crate) mod database;
pub(crate) mod hands;
pub(crate) mod ledger;
