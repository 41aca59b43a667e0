//! This runtime, with default settings.

use futures_util::StreamExt as _;
use user_state_domain::{UserCommand, UserState};
use user_state_runtime::{EntityRef, ExecuteError, RequestError, Runtime, Settings};
use user_state_store::{SliceRange, Store, TimestampOffset};

use crate::case::{Case, Kind};
use crate::contender::{System, live};
use crate::exit::{Failure, with_causes};
use crate::load::{Measured, Reason, Target, Written};
use crate::open;
use crate::peer::{Request, Task};
use crate::population::Tables;
use crate::sample;

mod memory;
mod passivation;

pub(crate) use memory::resident_bytes;

/// The system under test.
pub(crate) struct UserStates;

/// A runtime and handles to its users.
pub(crate) struct Live {
    store: Store,
    runtime: Runtime<UserState>,
    users: Box<[EntityRef<UserState>]>,
}

impl System for UserStates {
    type Target = Live;

    fn name(&self) -> &'static str {
        "user-state"
    }

    fn tables(&self) -> Option<Tables> {
        Some(Tables::DurableState)
    }

    fn keeps_users(&self) -> bool {
        true
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Write
            | Kind::Mix
            | Kind::Read
            | Kind::Recover
            | Kind::Passivate
            | Kind::Memory
            | Kind::Latency { .. }
            | Kind::ReadRate { .. }
            | Kind::StartUp
            | Kind::Feed
            | Kind::Sqlite(_) => None,
            Kind::Held { .. } => Some("this is about the store alone".to_owned()),
        }
    }

    async fn open(&self, url: &str, users: usize) -> Result<Live, Failure> {
        let store = open::open(url).await?;
        let runtime = Runtime::for_users(&store)
            .settings(room_for(users))
            .start()
            .map_err(|error| Failure::new(1, with_causes(&error)))?;
        let users = (0..users)
            .map(|number| runtime.entity(sample::persistence_id(number)))
            .collect();
        Ok(Live {
            store,
            runtime,
            users,
        })
    }

    async fn feed(&self, url: &str) -> Result<u64, Failure> {
        let store = open::open(url).await?;
        let start = TimestampOffset::default();
        let rows = {
            let feed = store.current_changes_by_slices("", SliceRange::ALL, start);
            let mut feed = std::pin::pin!(feed);
            let mut rows = 0;
            while let Some(change) = feed.next().await {
                change.map_err(|error| Failure::new(1, with_causes(&error)))?;
                rows += 1;
            }
            rows
        };
        store.close().await;
        Ok(rows)
    }

    async fn answer(&self, request: &Request) -> Result<Measured, Failure> {
        match request.work {
            Task::Memory => memory::measure(request.users).await,
            Task::Passivate => passivation::measure(request.users).await,
            Task::StartUp => live::start_up(self, request).await,
            _ => Err(Failure::usage("this is not done in a process of its own")),
        }
    }
}

impl Live {
    fn user(&self, number: usize) -> Result<&EntityRef<UserState>, Reason> {
        self.users.get(number).ok_or("there is no such user")
    }
}

impl Target for Live {
    async fn write(&self, user: usize, command: UserCommand) -> Result<(), Reason> {
        let answer = self.user(user)?.execute(command).await;
        answer.map(drop).map_err(|error| match error {
            ExecuteError::Rejected(_) => "rejected",
            ExecuteError::Overloaded(_) => "overloaded",
            ExecuteError::Failed(RequestError::Conflict) => "conflict",
            ExecuteError::Failed(RequestError::Unavailable(_)) => "unavailable",
            ExecuteError::Failed(RequestError::Unknown) => "outcome unknown",
            _ => "another error",
        })
    }

    async fn read(&self, user: usize) -> Result<(), Reason> {
        let answer = self.user(user)?.state().await;
        answer.map(drop).map_err(|error| match error {
            RequestError::Overloaded => "overloaded",
            RequestError::Unavailable(_) => "unavailable",
            _ => "another error",
        })
    }

    fn written(&self) -> Written {
        let stats = self.runtime.stats();
        Written {
            rows: stats.persisted,
            batches: stats.batches,
        }
    }

    async fn close(&self) {
        if let Err(error) = self.runtime.shutdown().await {
            eprintln!("{error}");
        }
        self.store.close().await;
    }
}

/// The default settings, with room for so many users where that is more.
fn room_for(users: usize) -> Settings {
    let default = Settings::default();
    // Shards share the limit evenly, and users are not spread quite evenly over shards.
    let live_entities_max = default.live_entities_max.max(users.saturating_mul(2));
    default.live_entities_max(live_entities_max)
}
