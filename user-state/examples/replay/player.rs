//! Plays records into a runtime, in event time.
//!
//! **Problem.** Users' commands run concurrently, each user's in order, and what comes to life or leaves memory must
//! not depend on scheduling, although a command may be refused as overload and has to be sent again.
//!
//! **How.** A command is sent at once and its answer awaited later. Before time moves on, and before a user with
//! a command on its way gets another, the player passes a barrier ([`Player::settle`]): behind it every command was taken by
//! its entity or refused, and what was refused is sent again. So no command is accepted at a later time, or behind a
//! later command of its user, than it should be. A barrier costs no database write.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::task::coop::unconstrained;
use user_state_domain::{UserCommand, UserKey, UserState};
use user_state_runtime::testkit::ManualTime;
use user_state_runtime::{EntityRef, ExecuteError, Runtime, Settings, Stats};
use user_state_store::{PersistenceId, Revision, Store, UserStateMapping};

use crate::arguments::Arguments;
use crate::exit::{self, Failure, with_causes};
use crate::records::Record;

/// The most commands on their way: a few batches, well below the runtime's bounds.
const COMMANDS_ON_THEIR_WAY_MAX: usize = 4_096;

/// How long to wait before what was refused is sent again, in real time.
const RETRY_DELAY: Duration = Duration::from_millis(1);

type Entity = EntityRef<UserState>;
type Outcome = (Entity, Result<Revision, ExecuteError<UserState>>);

/// Plays records, one after the other.
pub(crate) struct Player {
    runtime: Runtime<UserState>,
    clock: ManualTime,
    users: HashMap<UserKey, User>,
    acknowledged: u64,
    on_their_way: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// Whose commands may not have reached their entity yet.
    unsettled: HashSet<PersistenceId>,
    refused: Vec<(Entity, UserCommand)>,
}

/// What is known of a user.
pub(crate) struct User {
    pub(crate) entity: Entity,
    pub(crate) commands: u64,
    sessions: HashSet<Box<str>>,
}

impl Player {
    /// Starts a runtime whose clock stands at this instant.
    pub(crate) fn start(
        arguments: &Arguments,
        store: &Store,
        at: Option<DateTime<Utc>>,
    ) -> Result<Self, Failure> {
        let clock = at.map_or_else(ManualTime::new, ManualTime::starting_at);
        let mapping = UserStateMapping::new().zone(arguments.zone);
        let runtime = Runtime::for_users_as(store, mapping)
            .clock(clock.clone())
            .settings(Settings::default().idle_timeout(arguments.idle_timeout))
            .start()
            .map_err(|error| Failure::new(1, with_causes(&error)))?;
        Ok(Self {
            runtime,
            clock,
            users: HashMap::new(),
            acknowledged: 0,
            on_their_way: FuturesUnordered::new(),
            unsettled: HashSet::new(),
            refused: Vec::new(),
        })
    }

    /// Plays a record at its time, or at the clock's where that is later already.
    pub(crate) async fn play(&mut self, record: Record) -> Result<(), Failure> {
        if record.at > self.clock.utc_now() {
            self.settle().await?;
            let passed = self.clock.advance_to(record.at).await;
            self.after_barrier(passed).await?;
        }
        let user = self
            .users
            .entry(record.key)
            .or_insert_with_key(|key| User::new(self.runtime.user(key)));
        let login = user
            .sessions
            .insert(record.session)
            .then_some(UserCommand::Login { at: record.at });
        user.commands += if login.is_some() { 2 } else { 1 };
        let entity = user.entity.clone();
        for command in login.into_iter().chain([record.command]) {
            if self.unsettled.contains(entity.persistence_id()) {
                self.settle().await?;
            }
            self.unsettled.insert(entity.persistence_id().clone());
            self.send(entity.clone(), command).await?;
        }
        Ok(())
    }

    /// Returns when every command is acknowledged.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        self.settle().await?;
        while let Some(outcome) = self.on_their_way.next().await {
            self.on_outcome(outcome)?;
        }
        Ok(())
    }

    /// What the runtime has done and holds.
    pub(crate) fn stats(&self) -> Stats {
        self.runtime.stats()
    }

    /// How many commands were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The users of the records.
    pub(crate) fn users(&self) -> &HashMap<UserKey, User> {
        &self.users
    }

    /// Ends the runtime.
    pub(crate) async fn shutdown(&self) -> Result<(), Failure> {
        let ended = self.runtime.shutdown().await;
        ended.map_err(|error| Failure::unavailable(&error))
    }

    /// Returns when every command sent so far was taken by its entity.
    async fn settle(&mut self) -> Result<(), Failure> {
        loop {
            let passed = self.clock.advance(Duration::ZERO).await;
            self.after_barrier(passed).await?;
            if self.refused.is_empty() {
                self.unsettled.clear();
                return Ok(());
            }
            tokio::time::sleep(RETRY_DELAY).await;
            for (entity, command) in std::mem::take(&mut self.refused) {
                self.send(entity, command).await?;
            }
        }
    }

    /// Takes the answers that are here. What a command says is wrong is more telling than what the barrier says.
    async fn after_barrier<E: std::error::Error>(
        &mut self,
        passed: Result<(), E>,
    ) -> Result<(), Failure> {
        // All answers that are here have to be seen, however many there are.
        let answered = unconstrained(poll_fn(|context| {
            let mut answered = Vec::new();
            while let Poll::Ready(Some(outcome)) = self.on_their_way.poll_next_unpin(context) {
                answered.push(outcome);
            }
            Poll::Ready(answered)
        }));
        for outcome in answered.await {
            self.on_outcome(outcome)?;
        }
        passed.map_err(|error| Failure::unavailable(&error))
    }

    /// Sends a command. It is in the mailbox, or refused, when this returns.
    async fn send(&mut self, entity: Entity, command: UserCommand) -> Result<(), Failure> {
        while self.on_their_way.len() >= COMMANDS_ON_THEIR_WAY_MAX {
            if let Some(outcome) = self.on_their_way.next().await {
                self.on_outcome(outcome)?;
            }
        }
        let mut execution: BoxFuture<'static, Outcome> = Box::pin(async move {
            let outcome = entity.execute(command).await;
            (entity, outcome)
        });
        // The first poll is what puts the command into the mailbox.
        match poll_fn(|context| Poll::Ready(execution.as_mut().poll(context))).await {
            Poll::Ready(outcome) => self.on_outcome(outcome),
            Poll::Pending => {
                self.on_their_way.push(execution);
                Ok(())
            }
        }
    }

    fn on_outcome(&mut self, (entity, outcome): Outcome) -> Result<(), Failure> {
        match outcome {
            Ok(_) => self.acknowledged += 1,
            Err(ExecuteError::Overloaded(command)) => self.refused.push((entity, command)),
            Err(error) => {
                return Err(Failure::new(
                    exit::UNAVAILABLE,
                    format!("{}: {}", entity.persistence_id(), with_causes(&error)),
                ));
            }
        }
        Ok(())
    }
}

impl User {
    fn new(entity: Entity) -> Self {
        Self {
            entity,
            commands: 0,
            sessions: HashSet::new(),
        }
    }
}
