//! Live, durable entities on Apache Pekko's PostgreSQL tables: one dependency for all of it.
//!
//! Each user of a shop is one **entity** with one writer: in memory while it is active, durable in
//! PostgreSQL or SQLite. After 30 minutes without a message it passivates; the next message recovers it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let url = format!("sqlite:{}", directory.path().join("state.db").display());
//! use user_state::{Runtime, UserCommand, UserKey, connect};
//!
//! // `sqlite:PATH`, or `postgres://user:password@host/database`.
//! let store = connect(&url.parse()?).await?;
//! let runtime = Runtime::for_users(&store).start()?;
//!
//! let key: UserKey = "mall-user".parse()?;
//! let user = runtime.user(&key);
//! let at = "2026-01-01T09:00:00Z".parse()?;
//! user.execute(UserCommand::Login { at }).await?;
//! assert_eq!(user.state().await?.state.last_login, Some(at));
//!
//! runtime.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Crates
//! Whatever is not named at the root stands in the module of its crate: `domain` is pure logic, [`store`] keeps
//! states, [`runtime`] keeps entities alive. Libraries that need one of them depend on that crate alone.
//!
//! # Guarantees
//! Those of [`runtime`] and [`store`].
//!
//! # Features
//! - `postgres` (with TLS) and `sqlite`, both by default: the stores.
//! - `users`, by default: the domain of users, its stored form, and `Runtime::for_users`. Without it this is a library for
//!   aggregates of your own.
//! - `testkit`: manual time, probes and a fault-injecting store.

#[cfg(feature = "users")]
pub use user_state_domain as domain;
#[cfg(feature = "users")]
pub use user_state_domain::{
    MallId, ProductId, UserCommand, UserEvent, UserId, UserKey, UserState,
};
pub use user_state_runtime as runtime;
pub use user_state_runtime::{
    EntityRef, ExecuteError, RequestError, Runtime, RuntimeBuilder, Settings, Versioned,
};
pub use user_state_store as store;
#[cfg(feature = "users")]
pub use user_state_store::UserStateMapping;
pub use user_state_store::{ConnectOptions, OpenError, Store, StoreError, connect, migrate};
