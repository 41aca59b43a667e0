//! What a test of durable, live entities needs and production code does not.

mod manual_time;
mod probe;

pub use manual_time::ManualTime;
pub use probe::{EXPECT_WITHIN, ProbeError, TestProbe};
