//! What a test of durable, live entities needs and production code does not.

mod faulty_store;
mod manual_time;
mod probe;

pub use faulty_store::{FaultyStore, HeldWrites, LoadFault, WriteFault};
pub use manual_time::ManualTime;
pub use probe::{EXPECT_WITHIN, ProbeError, TestProbe};
