//! `postgres-es-*`: cqrs-es with postgres-es 0.5 as its documentation sets it up, the same aggregate, its own
//! tables, its own pool of ten connections.
//!
//! Three ways, all shown: events only, events and a snapshot now and then, and the state beside its events. Nothing is kept
//! in memory: every command loads, applies, and commits in a transaction. Two commands for one user at the same time are an
//! error for one of them, which counts as an error here, as it would for its caller.

use cqrs_es::persist::PersistedEventStore;
use cqrs_es::{AggregateError, EventStore as _};
use postgres_es::{PostgresCqrs, PostgresEventRepository};
use sqlx::PgPool;
use user_state_domain::{UserCommand, UserError, UserState};

use crate::case::{Case, Kind};
use crate::contender::System;
use crate::exit::Failure;
use crate::load::{Reason, Target};
use crate::population::Tables;
use crate::sample;

/// A snapshot after so many events.
const SNAPSHOT_EVENTS: usize = 10;

/// Each user has six events to begin with, so more than this many users take longer to prepare than all measurements.
const USERS_MAX: usize = 100_000;

/// One of the three ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PostgresEs {
    Events,
    Snapshots,
    Aggregate,
}

/// Its framework, and its store to read from.
pub(crate) struct Framework {
    commands: PostgresCqrs<UserState>,
    store: PersistedEventStore<PostgresEventRepository, UserState>,
    pool: PgPool,
    ids: Box<[String]>,
}

impl PostgresEs {
    pub(crate) const EVENTS: Self = Self::Events;
    pub(crate) const SNAPSHOTS: Self = Self::Snapshots;
    pub(crate) const AGGREGATE: Self = Self::Aggregate;

    fn commands(self, pool: PgPool) -> PostgresCqrs<UserState> {
        match self {
            Self::Events => postgres_es::postgres_cqrs(pool, vec![], ()),
            Self::Snapshots => {
                postgres_es::postgres_snapshot_cqrs(pool, vec![], SNAPSHOT_EVENTS, ())
            }
            Self::Aggregate => postgres_es::postgres_aggregate_cqrs(pool, vec![], ()),
        }
    }

    fn store(self, pool: PgPool) -> PersistedEventStore<PostgresEventRepository, UserState> {
        let repository = PostgresEventRepository::new(pool);
        match self {
            Self::Events => PersistedEventStore::new_event_store(repository),
            Self::Snapshots => PersistedEventStore::new_snapshot_store(repository, SNAPSHOT_EVENTS),
            Self::Aggregate => PersistedEventStore::new_aggregate_store(repository),
        }
    }
}

impl System for PostgresEs {
    type Target = Framework;

    fn name(&self) -> &'static str {
        match self {
            Self::Events => "postgres-es-events",
            Self::Snapshots => "postgres-es-snapshots",
            Self::Aggregate => "postgres-es-aggregate",
        }
    }

    fn tables(&self) -> Option<Tables> {
        Some(Tables::EventsAndSnapshots)
    }

    fn keeps_users(&self) -> bool {
        false
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Passivate | Kind::Memory => Some("it keeps no users in memory".to_owned()),
            Kind::ReadRate { .. } => Some("it reads the database for each answer".to_owned()),
            Kind::Feed => Some("it has no feed of states".to_owned()),
            _ if case.population > USERS_MAX => {
                Some("the events of so many users take too long to prepare".to_owned())
            }
            _ => None,
        }
    }

    async fn open(&self, url: &str, users: usize) -> Result<Framework, Failure> {
        let pool = postgres_es::default_postgress_pool(url).await;
        Ok(Framework {
            commands: self.commands(pool.clone()),
            store: self.store(pool.clone()),
            pool,
            ids: (0..users)
                .map(|number| sample::persistence_id(number).as_str().to_owned())
                .collect(),
        })
    }
}

impl Framework {
    fn id(&self, user: usize) -> Result<&str, Reason> {
        self.ids
            .get(user)
            .map(String::as_str)
            .ok_or("there is no such user")
    }
}

impl Target for Framework {
    async fn write(&self, user: usize, command: UserCommand) -> Result<(), Reason> {
        let answer = self.commands.execute(self.id(user)?, command).await;
        answer.map_err(|error| reason(&error))
    }

    async fn read(&self, user: usize) -> Result<(), Reason> {
        let answer = self.store.load_aggregate(self.id(user)?).await;
        answer.map(drop).map_err(|error| reason(&error))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

fn reason(error: &AggregateError<UserError>) -> Reason {
    match error {
        AggregateError::UserError(_) => "rejected",
        AggregateError::AggregateConflict => "conflict",
        AggregateError::DatabaseConnectionError(_) => "unavailable",
        AggregateError::DeserializationError(_) => "not decoded",
        AggregateError::UnexpectedError(_) => "another error",
    }
}
