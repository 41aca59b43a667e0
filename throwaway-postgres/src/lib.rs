//! A throw-away PostgreSQL, so that tests need Rust and nothing else.
//!
//! [`TestDatabase`] is an empty database of a test's own; [`PostgresServer`] is a whole server of its own, for
//! tests that kill, freeze and restart it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), throwaway_postgres::ProvisionError> {
//! let database = throwaway_postgres::TestDatabase::create().await?;
//! assert!(database.url().starts_with("postgres"));
//! # Ok(())
//! # }
//! ```
//!
//! # Where it comes from
//!
//! The first of these that the machine has (a [`Way`]):
//!
//! 1. the server that `DATABASE_URL` names;
//! 2. PostgreSQL's server programs, installed on this machine, version 14 or newer;
//! 3. a running Docker engine, with the `docker-compose.yml` of the project;
//! 4. PostgreSQL's server programs, fetched once from the Java registry into a cache.
//!
//! If there is none, the error says which were tried and what to do.
//!
//! # Guarantees
//!
//! - Nobody's data is touched. A database named by `DATABASE_URL` is only the place to create and drop
//!   `user_state_test_<uuid>` beside it; every other server is one of our own, on the loopback interface, with a
//!   random password.
//! - What is durable in production is durable here: `fsync`, `full_page_writes` and `synchronous_commit` stay on.
//! - A server ends with the process that started it, even one ended by `kill -9`, and takes its files with it.
//! - As root, who may not run PostgreSQL, the server runs as `postgres` or `nobody`.
//! - Databases compare text byte by byte (collation `C`) whichever way they came.
//!
//! # Environment
//!
//! | variable | meaning |
//! |---|---|
//! | `DATABASE_URL` | the server to create test databases on; its role needs `CREATEDB` |
//! | `USER_STATE_TEST_POSTGRES` | take this way and no other: `database-url`, `local`, `docker` or `fetch` |
//! | `USER_STATE_TEST_POSTGRES_BIN` | the directory of the installed server programs, instead of looking for them |
//! | `USER_STATE_TEST_CACHE` | where fetched server programs are kept, instead of the user's cache directory |
//! | `USER_STATE_TEST_ALLOW_REMOTE` | `1` allows a `DATABASE_URL` that is not on the loopback interface |
//! | `TMPDIR` | where servers keep their data while they run |

#![cfg(unix)]

mod account;
mod binaries;
mod blocking;
mod cache;
mod database;
mod docker;
mod error;
mod fetched;
mod named;
mod port;
mod postmaster;
mod run_directory;
mod server;
mod shared;
mod supervisor;
mod way;

pub use database::TestDatabase;
pub use error::{Attempts, ProvisionError};
pub use server::PostgresServer;
pub use way::Way;
