//! Live entities on a durable state store.

mod barrier;
mod builder;
mod clock;
mod context;
mod driver;
mod entity;
mod entity_ref;
mod error;
mod handler;
mod lifecycle;
mod pending;
mod policy;
mod request;
mod runtime;
mod settings;
mod shard;
mod stats;
#[cfg(feature = "testkit")]
pub mod testkit;
mod users;
mod work;

pub use barrier::{Barrier, BarrierError};
pub use builder::RuntimeBuilder;
pub use clock::{Clock, Moment, SystemClock};
pub use entity_ref::EntityRef;
pub use error::{ExecuteError, RequestError, StartError, TellError};
pub use lifecycle::{FailureReason, Lagged, Lifecycle, LifecycleEvent, PassivationReason};
pub use policy::ConflictPolicy;
pub use request::Versioned;
pub use runtime::{Runtime, ShutdownTimedOut};
pub use settings::Settings;
pub use stats::Stats;

/// The tutorial: every program in the project's README is a doc test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
