//! Live entities on a durable state store.

#[cfg(feature = "testkit")]
pub mod testkit;
