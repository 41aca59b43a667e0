//! Apache Pekko and this project side by side: the same bytes, the same rows.
//!
//! The tests of this crate start Apache Pekko itself (a small Kotlin application, `pekko/`, in a Java virtual machine)
//! and ask it line by line what it makes of what we write, and the other way round. Everything is done for each
//! [`Profile`]: a set of released Pekko versions.
//!
//! ```text
//! cargo test --manifest-path interop/Cargo.toml                        everything
//! cargo test --manifest-path interop/Cargo.toml -- serialization       no database
//! cargo test --manifest-path interop/Cargo.toml -- pekko-1.1::live     one set of versions
//! ```
//!
//! Needs Maven 3.8 and a JDK of 17 or later; PostgreSQL comes with the tests. Maven takes Pekko from its repositories
//! and builds the application when its sources have changed.
//!
//! # Live cases without the plugin
//! The live cases need `pekko-persistence-r2dbc`. Where Maven finds it in neither its remote nor its local repository,
//! each of them is reported as ignored, with the reason at the end of the output; with `REQUIRE_LIVE=1` in the
//! environment they fail instead.
//!
//! # Adding a live scenario
//! 1. Write `tests/live/<scenario>.rs` with its goal and method, a function per case, and
//!    `pub(crate) fn cases() -> Vec<Case>` that names them:
//!
//!    ```
//!    use user_state_domain::UserKey;
//!    use user_state_interop::{Case, Live, State, TestResult};
//!
//!    pub fn cases() -> Vec<Case> {
//!        vec![Case::live("a_user_that_pekko_wrote_is_there", is_there)]
//!    }
//!
//!    async fn is_there(live: Live) -> TestResult {
//!        let key: UserKey = "mall-user".parse()?;
//!        let pekko = live.pekko().await?;
//!        let actor = pekko.start("mall-user").await?;
//!        let written = actor.login("2026-03-04T05:06:07Z".parse()?).await?;
//!        let read = live.runtime().await?.user(&key).state().await?;
//!        assert_eq!(written.state, Some(State::of(&key, &read.state)));
//!        Ok(())
//!    }
//!    ```
//! 2. Add the module and its `cases()` to `tests/live.rs`.
//!
//! Every case runs once per profile, at the same time as others, on an empty database of its own with the tables in it
//! ([`Live`]). It is a failure if it returns an error or panics. What differs between plugin versions is asked of
//! [`Live::profile`]. Pekko's side is a [`PekkoNode`] (an actor system; open several for several processes) with
//! [`PekkoActor`]s, direct calls of the plugin's store, and [`PekkoFeed`]s. What Pekko gives no signal of, the database
//! does: [`Deletions`], [`HeldInserts`]. What Pekko prints goes to a file that errors name.
//!
//! # Pekko under load
//! The benchmark (`bench/`) measures Pekko by the same application, which [`load_command`] builds and names.

mod case;
mod database;
mod load;
mod local_time;
mod maven;
mod node;
mod peer;
mod profile;
mod serialization;
mod state;
mod suite;
mod triggers;

pub use case::{AnyError, Case, Live, Serialization, TestResult};
pub use database::{Database, Row};
pub use load::{LoadError, load_command};
pub use local_time::{Instant, LocalTime};
pub use maven::{BuildError, Built, NotResolved};
pub use node::{
    EmptyState, NodeOptions, OnWriteFailure, PekkoActor, PekkoChange, PekkoFeed, PekkoNode,
    PekkoOffset, Seen, StartOptions,
};
pub use peer::{Peer, PeerError, PeerOptions, Refusal, StateClass};
pub use profile::Profile;
pub use serialization::{Form, IdJudgement, SerializationPeer, WirePayload, accepted, refused};
pub use state::State;
pub use suite::run;
pub use triggers::{Deletions, HeldInserts};
