//! `actors`: what a Rust team would write today without this library. One kameo actor per user, which loads its row
//! when it starts, keeps the state, and sends one UPDATE per command through a pool of sqlx.
//!
//! kameo and ractor are both well kept; kameo's mailboxes are bounded and its messages are typed, so it is the one that a
//! careful team would take. Handles stand in an array by number, which is quicker than the map that a
//! program would need.

use std::sync::{Arc, OnceLock};

use cqrs_es::Aggregate as _;
use kameo::actor::{Actor, ActorRef, Spawn as _};
use kameo::error::SendError;
use kameo::message::{Context, Message};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row as _};
use user_state_domain::{UserCommand, UserEvent, UserState};
use user_state_store::{
    Manifest, Payload, PersistenceId, SerializerId, StateMapping as _, Tags, UserStateMapping,
};

use crate::case::{Case, Kind};
use crate::contender::statements::{SELECT_ONE, UPDATE_ONE};
use crate::contender::{System, live};
use crate::exit::Failure;
use crate::load::{Measured, Reason, Target, recovery};
use crate::peer::{Request, Task};
use crate::population::Tables;
use crate::sample;
use crate::statistics;

/// As many as `raw-row` has.
const CONNECTIONS: u32 = 16;

/// The system of a team without this library.
pub(crate) struct Actors;

/// What all actors share.
struct Shared {
    pool: PgPool,
    mapping: UserStateMapping,
    tags: Vec<String>,
    /// Where users come from.
    origin: Origin,
}

/// Where the state of a starting actor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Database,
    /// From nowhere, at once: where only memory is weighed.
    Sample,
}

/// Actors by the number of their user, started when they are asked for the first time.
pub(crate) struct Registry {
    shared: Arc<Shared>,
    actors: Box<[OnceLock<ActorRef<User>>]>,
}

struct User {
    shared: Arc<Shared>,
    persistence_id: PersistenceId,
    state: UserState,
    revision: i64,
}

/// Asks for the state.
struct Read;

impl Actor for User {
    type Args = (Arc<Shared>, PersistenceId);
    type Error = Reason;

    async fn on_start(
        (shared, persistence_id): Self::Args,
        _: ActorRef<Self>,
    ) -> Result<Self, Reason> {
        let (state, revision) = match shared.origin {
            Origin::Database => load(&shared, &persistence_id).await?,
            Origin::Sample => (sample::usual_state(crate::load::now()), 1),
        };
        Ok(Self {
            shared,
            persistence_id,
            state,
            revision,
        })
    }
}

impl Message<UserCommand> for User {
    type Reply = Result<i64, Reason>;

    async fn handle(
        &mut self,
        command: UserCommand,
        _: &mut Context<Self, Self::Reply>,
    ) -> Self::Reply {
        let event = UserEvent::try_from(command).map_err(|_| "rejected")?;
        let mut state = self.state.clone();
        state.apply(event);
        let Shared {
            pool,
            mapping,
            tags,
            ..
        } = &*self.shared;
        let payload = mapping
            .encode(&self.persistence_id, &state)
            .map_err(|_| "not encoded")?;
        let done = sqlx::query(UPDATE_ONE)
            .bind(self.revision + 1)
            .bind(payload.serializer_id.0)
            .bind(payload.manifest.as_str())
            .bind(&payload.bytes)
            .bind(tags)
            .bind(self.persistence_id.as_str())
            .bind(self.revision)
            .execute(pool)
            .await
            .map_err(|_| "the database failed")?;
        if done.rows_affected() != 1 {
            return Err("conflict");
        }
        self.state = state;
        self.revision += 1;
        Ok(self.revision)
    }
}

impl Message<Read> for User {
    type Reply = Result<UserState, Reason>;

    async fn handle(&mut self, _: Read, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        Ok(self.state.clone())
    }
}

/// The row of a user.
async fn load(shared: &Shared, persistence_id: &PersistenceId) -> Result<(UserState, i64), Reason> {
    let row = sqlx::query(SELECT_ONE)
        .bind(persistence_id.as_str())
        .fetch_optional(&shared.pool)
        .await
        .map_err(|_| "the database failed")?
        .ok_or("there is no row")?;
    let payload = || {
        Ok::<_, sqlx::Error>(Payload {
            serializer_id: SerializerId(row.try_get("state_ser_id")?),
            manifest: Manifest::new(row.try_get("state_ser_manifest")?),
            bytes: row.try_get("state_payload")?,
        })
    };
    let payload = payload().map_err(|_| "a column is missing")?;
    let state = shared
        .mapping
        .decode(persistence_id, &payload)
        .map_err(|_| "not decoded")?;
    let revision = row.try_get("revision").map_err(|_| "a column is missing")?;
    Ok((state, revision))
}

impl System for Actors {
    type Target = Registry;

    fn name(&self) -> &'static str {
        "actors"
    }

    fn tables(&self) -> Option<Tables> {
        Some(Tables::DurableState)
    }

    fn keeps_users(&self) -> bool {
        true
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Passivate => Some("its actors do not leave memory by themselves".to_owned()),
            Kind::Feed => Some("it has no feed".to_owned()),
            _ => None,
        }
    }

    async fn open(&self, url: &str, users: usize) -> Result<Registry, Failure> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .connect(url)
            .await
            .map_err(|error| Failure::unavailable(&error))?;
        Ok(Registry::new(pool, users, Origin::Database))
    }

    async fn answer(&self, request: &Request) -> Result<Measured, Failure> {
        let users = request.users;
        match request.work {
            Task::StartUp => live::start_up(self, request).await,
            Task::Memory => {
                let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1/nothing");
                let pool = pool.map_err(|error| Failure::unavailable(&error))?;
                let target = Arc::new(Registry::new(pool, users + 1, Origin::Sample));
                recovery::bring_to_life(&target, [users]).await?;
                let before = super::user_state::resident_bytes()?;
                recovery::bring_to_life(&target, 0..users).await?;
                let after = super::user_state::resident_bytes()?;
                let users = u64::try_from(users).unwrap_or(u64::MAX);
                let bytes = statistics::float(after.saturating_sub(before));
                Ok(Measured::default().with("bytes_per_user", bytes / statistics::float(users)))
            }
            _ => Err(Failure::usage("this is not done in a process of its own")),
        }
    }
}

impl Registry {
    fn new(pool: PgPool, users: usize, origin: Origin) -> Self {
        let mapping = UserStateMapping::new();
        let tags: Tags = mapping.tags();
        let shared = Arc::new(Shared {
            pool,
            tags: tags.iter().map(str::to_owned).collect(),
            mapping,
            origin,
        });
        Self {
            shared,
            actors: (0..users).map(|_| OnceLock::new()).collect(),
        }
    }

    fn actor(&self, user: usize) -> Result<&ActorRef<User>, Reason> {
        let cell = self.actors.get(user).ok_or("there is no such user")?;
        Ok(cell
            .get_or_init(|| User::spawn((Arc::clone(&self.shared), sample::persistence_id(user)))))
    }
}

impl Target for Registry {
    async fn write(&self, user: usize, command: UserCommand) -> Result<(), Reason> {
        let answer = self.actor(user)?.ask(command).await;
        answer.map(drop).map_err(|error| reason(&error))
    }

    async fn read(&self, user: usize) -> Result<(), Reason> {
        let answer = self.actor(user)?.ask(Read).await;
        answer.map(drop).map_err(|error| reason(&error))
    }

    async fn close(&self) {
        for actor in self.actors.iter().filter_map(OnceLock::get) {
            actor.kill();
        }
        self.shared.pool.close().await;
    }
}

fn reason<M>(error: &SendError<M, Reason>) -> Reason {
    match error {
        SendError::HandlerError(reason) => reason,
        SendError::MailboxFull(_) => "overloaded",
        SendError::Timeout(_) => "timed out",
        _ => "the actor is gone",
    }
}
