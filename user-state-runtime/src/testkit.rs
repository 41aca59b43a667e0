//! What a test of durable, live entities needs and production code does not.
//!
//! - [`ManualTime`] stands still until it is advanced, so that half an hour of idleness takes milliseconds.
//! - [`TestProbe`] watches what happens to entities.
//! - [`FaultyStore`] fails on request, between a runtime and a real store.
//!
//! None of it needs a server or a further dependency. For tests on a real PostgreSQL, crate `throwaway-postgres` stands beside
//! this one.

mod faulty_store;
mod manual_time;
mod probe;

pub use faulty_store::{FaultyStore, HeldLoads, HeldWrites, LoadFault, WriteFault};
pub use manual_time::ManualTime;
pub use probe::{EXPECT_WITHIN, ProbeError, TestProbe};
