//! What a test of durable, live entities needs and production code does not.
//!
//! [`TestDatabase`] is an empty PostgreSQL database of a test's own, on any machine that has Rust;
//! [`PostgresServer`] is a whole server of its own, for tests that kill, freeze and restart it.

#[cfg(unix)]
mod postgres;

#[cfg(unix)]
pub use postgres::{Attempts, PostgresServer, ProvisionError, TestDatabase, Way};
