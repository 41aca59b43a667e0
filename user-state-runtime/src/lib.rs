//! Live entities on a durable state store: one writer each, in memory while they are used, durable always.
//!
//! Behaviour events arrive at unpredictable moments for any of millions of users. Each user is one **entity**: its
//! commands are handled one after the other on a state in memory, and become durable in batches. An entity without
//! a message for half an hour passivates; the next message recovers it from the database.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let url = format!("sqlite:{}", directory.path().join("state.db").display());
//! use user_state_domain::{UserCommand, UserKey};
//! use user_state_runtime::Runtime;
//!
//! // `sqlite:PATH`, or `postgres://user:password@host/database`.
//! let store = user_state_store::connect(&url.parse()?).await?;
//! let runtime = Runtime::for_users(&store).start()?;
//!
//! let key: UserKey = "mall-user".parse()?;
//! let user = runtime.user(&key);
//! let at = "2026-01-01T09:00:00Z".parse()?;
//! let revision = user.execute(UserCommand::Login { at }).await?;
//! assert_eq!(revision.get(), 1, "durable when `execute` returns");
//! assert_eq!(user.state().await?.state.last_login, Some(at));
//!
//! runtime.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! - An acknowledged command survives a kill of this process and of the database server.
//! - No answer, reads and refusals included, is based on a state that is not durable.
//! - Three outcomes only: done, surely not applied, unknown. Unknown is never told as failed.
//! - While one runtime owns an entity, its commands and reads are linearizable. Two runtimes, or a Pekko application and
//!   this one, on one entity never corrupt it: the loser reloads.
//! - One bad entity harms nobody else: an unreadable row, a panicking handler, a value the database refuses.
//! - Every queue is bounded. Beyond a bound the caller is told at once, and the command comes back.
//!
//! # Any aggregate
//! The runtime is generic over cqrs-es's [`Aggregate`](cqrs_es::Aggregate), async handlers and services included;
//! `UserState` is its flagship. [`Runtime::builder`] takes a store, a
//! [`StateMapping`](user_state_store::StateMapping) and the services. State changes only in `apply`: an aggregate
//! that changes itself in `handle` without an event loses that change.
//!
//! # Features
//! - `postgres`, `sqlite` (both by default): the stores.
//! - `users` (by default): `Runtime::for_users`, on the domain of `user-state-domain`.
//! - `testkit`: manual time, probes and a fault-injecting store, see `testkit`.

mod barrier;
mod builder;
mod clock;
mod context;
mod effects;
mod entity;
mod entity_ref;
mod error;
mod fault;
mod lifecycle;
mod live_aggregate;
mod persistence;
mod placement;
mod policy;
mod real_time;
mod reply;
mod request;
mod running;
mod runtime;
mod settings;
mod shard;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time_source;
#[cfg(feature = "users")]
mod users;

pub use barrier::BarrierError;
pub use builder::RuntimeBuilder;
pub use clock::{Clock, Moment, SystemClock};
pub use entity_ref::EntityRef;
pub use error::{ExecuteError, RequestError, StartError, TellError};
pub use lifecycle::{FailureReason, Lagged, Lifecycle, LifecycleEvent, PassivationReason};
pub use live_aggregate::LiveAggregate;
pub use policy::ConflictPolicy;
pub use request::Versioned;
pub use runtime::{Runtime, ShutdownTimedOut};
pub use settings::Settings;
pub use stats::Stats;
pub use time_source::TimeSource;

/// The tutorial: every program in the project's README is a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
