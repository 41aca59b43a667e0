//! What a test of durable, live entities needs and production code does not.
//!
//! - [`ManualTime`] stands still until it is advanced, so that half an hour of idleness takes milliseconds.
//! - [`TestProbe`] watches what happens to entities.
//! - [`FaultyStore`] fails on request, between a runtime and a real store.
//! - [`TestDatabase`] is an empty PostgreSQL database of a test's own, on any machine that has Rust;
//!   [`PostgresServer`] is a whole server of its own, for tests that kill, freeze and restart it.

mod faulty_store;
mod manual_time;
#[cfg(unix)]
mod postgres;
mod probe;

pub use faulty_store::{FaultyStore, HeldLoads, HeldWrites, LoadFault, WriteFault};
pub use manual_time::ManualTime;
#[cfg(unix)]
pub use postgres::{Attempts, PostgresServer, ProvisionError, TestDatabase, Way};
pub use probe::{EXPECT_WITHIN, ProbeError, TestProbe};
