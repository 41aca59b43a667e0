//! Goal: the examples do what their users and scripts rely on: exit statuses, the keys and counts of their JSON, and
//! that one run continues where another has ended.
//!
//! Method: the compiled examples run as child processes on files and databases of the test's own. What `replay` must
//! count is worked out by hand for small inputs, and by a simple second implementation for the sample.

mod child;
mod compose;
mod inspect;
#[path = "../../../loadtest/examples/loadtest/limit.rs"]
mod limit;
mod loadtest;
mod replay;
mod usage;

/// What the tests here give back.
type TestResult = Result<(), Box<dyn std::error::Error>>;
