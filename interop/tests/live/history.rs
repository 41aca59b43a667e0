//! What was acknowledged to whom, and whether what is stored follows from it.
//!
//! Every command makes exactly one revision. So where the revisions acknowledged by both sides are each of 1, 2, 3 and
//! so on, once, no acknowledged command is lost and none is there twice; and where the states that anybody saw are
//! the commands applied in the order of their revisions, nobody overwrote anybody.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use cqrs_es::Aggregate as _;
use fastrand::Rng;
use user_state_domain::{ProductId, UserCommand, UserEvent, UserKey, UserState};
use user_state_interop::{AnyError, PeerError, PekkoActor, Seen, State};
use user_state_runtime::{EntityRef, ExecuteError, RequestError, Versioned};
use user_state_store::Revision;

use super::user::{RESTARTED, ask, second};

/// How often a command is given again before the case fails: a writer that always loses would be a defect.
const ATTEMPTS_MAX: u32 = 50;

/// The commands that were acknowledged for a user, and the states that were seen.
#[derive(Debug, Clone)]
pub(crate) struct History {
    key: UserKey,
    commands: BTreeMap<u64, UserCommand>,
    seen: Vec<(u64, State)>,
}

impl History {
    pub(crate) fn new(key: &UserKey) -> Self {
        Self {
            key: key.clone(),
            commands: BTreeMap::new(),
            seen: Vec::new(),
        }
    }

    /// An empty one of the same user, for somebody who writes at the same time.
    pub(crate) fn apart(&self) -> Self {
        Self::new(&self.key)
    }

    /// The highest revision acknowledged.
    pub(crate) fn last(&self) -> u64 {
        self.commands.keys().next_back().copied().unwrap_or(0)
    }

    /// A command was acknowledged at a revision.
    pub(crate) fn acknowledged(&mut self, revision: u64, command: UserCommand) {
        assert!(
            !self.commands.contains_key(&revision),
            "{}: revision {revision} was acknowledged twice, also for {command:?}",
            self.key
        );
        self.commands.insert(revision, command);
    }

    /// A Pekko actor or its store showed this.
    pub(crate) fn pekko_showed(&mut self, seen: Seen) {
        if let (1.., Some(state)) = (seen.revision, seen.state) {
            self.seen.push((seen.revision, state));
        }
    }

    /// Our runtime showed this.
    pub(crate) fn we_showed(&mut self, seen: &Versioned<UserState>) {
        let revision = number(seen.revision);
        if revision > 0 {
            self.seen
                .push((revision, State::of(&self.key, &seen.state)));
        }
    }

    /// What others of the same user recorded.
    pub(crate) fn merge(&mut self, other: Self) {
        for (revision, command) in other.commands {
            self.acknowledged(revision, command);
        }
        self.seen.extend(other.seen);
    }

    /// Checks that nothing was lost and nothing reused, and that every state seen is the one of its revision. The
    /// state at the end.
    pub(crate) fn check(&self) -> Result<State, AnyError> {
        let mut state = UserState::default();
        let mut states = BTreeMap::new();
        for (expected, (revision, command)) in (1..).zip(&self.commands) {
            assert_eq!(
                *revision, expected,
                "{}: no acknowledged command made revision {expected}",
                self.key
            );
            state.apply(UserEvent::try_from(command.clone())?);
            states.insert(*revision, State::of(&self.key, &state));
        }
        for (revision, seen) in &self.seen {
            assert_eq!(
                states.get(revision),
                Some(seen),
                "{}: another state was seen at revision {revision}",
                self.key
            );
        }
        Ok(State::of(&self.key, &state))
    }

    /// Has a Pekko actor do a command, again when it lost. How often it lost.
    pub(crate) async fn pekko_does(
        &mut self,
        actor: &PekkoActor,
        command: UserCommand,
    ) -> Result<u32, AnyError> {
        for lost in 0..ATTEMPTS_MAX {
            match ask(actor, &command).await {
                Ok(seen) => {
                    self.acknowledged(seen.revision, command);
                    self.pekko_showed(seen);
                    return Ok(lost);
                }
                Err(error) if was_started_anew(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(format!("{}: Pekko lost {ATTEMPTS_MAX} times", self.key).into())
    }

    /// Has our runtime do a command, again when it lost.
    pub(crate) async fn we_do(
        &mut self,
        user: &EntityRef<UserState>,
        command: UserCommand,
    ) -> Result<(), AnyError> {
        for _ in 0..ATTEMPTS_MAX {
            match user.execute(command.clone()).await {
                Ok(revision) => {
                    self.acknowledged(number(revision), command);
                    return Ok(());
                }
                Err(ExecuteError::Failed(RequestError::Conflict)) => {}
                Err(error) => return Err(error.to_string().into()),
            }
        }
        Err(format!("{}: we lost {ATTEMPTS_MAX} times", self.key).into())
    }
}

/// A revision as Pekko's side counts.
pub(crate) fn number(revision: Revision) -> u64 {
    u64::try_from(revision.get()).unwrap()
}

/// Whether the store refused the write and the actor read its row again: surely nothing was written.
pub(crate) fn was_started_anew(error: &PeerError) -> bool {
    error
        .refusal()
        .is_some_and(|refusal| refusal.class == RESTARTED)
}

/// A command that no other equals: its time is one of a million, and not always later than those before.
pub(crate) fn command(random: &mut Rng) -> UserCommand {
    let at = second(random.i64(0..1_000_000)) + TimeDelta::microseconds(random.i64(0..1_000_000));
    match random.u8(..5) {
        0 => UserCommand::Login { at },
        1 => UserCommand::UseCart { at },
        2 => UserCommand::SetMarketingOptIn {
            opt_in: random.bool(),
            at,
        },
        // Some of these products come again, and move to the front.
        _ => UserCommand::ViewProduct {
            product_id: ProductId::new(&format!("p-{}", random.u8(..6))),
            at,
        },
    }
}
