//! Goal: a Pekko application and this library share their rows, as three releases of Pekko write them: what they stored is
//! loaded, read, continued, shown, written and deleted by us as by them.
//!
//! Method: the rows of the fixtures, which Pekko itself wrote, are inserted as they stand into a throw-away PostgreSQL
//! and met by the store, the runtime and `inspect`; the states they stand for are written by us and compared with them
//! column by column. Every line of every file belongs to one category (`fixture.rs`), and each category to the tests
//! that go through it. Times are compared as instants in the zone of the line.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, in what it calls as well"
)]

#[path = "../examples/child.rs"]
#[expect(dead_code, reason = "the tests of the examples use the rest")]
mod child;
mod continued;
mod deleted;
mod doubled;
mod fixture;
mod loaded;
mod migrated;
mod primitive;
mod shown;
mod state;
mod table;
mod written;

use std::error::Error;

/// What a test returns.
type TestResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
