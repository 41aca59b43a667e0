//! What callers may see: the reference model of the simulation.

use std::collections::{BTreeMap, BTreeSet};

use user_state_store::Revision;

use crate::error::RequestError;
use crate::real_time::RealTime;
use crate::request::Answer;
use crate::testing::database::{Database, EntityId, length};
use crate::testing::ledger::{DELETION, Ledger, Number};

/// Where the answer of a request goes.
pub(in crate::shard) type Ticket = u32;

/// A moment in an entity's life: one of its durable versions, and how many revisions of it. A write may
/// make several revisions durable at once.
type Position = (usize, usize);

/// A request that was not answered.
#[derive(Debug, Clone)]
pub(in crate::shard) struct Open {
    pub(in crate::shard) id: EntityId,
    asks: Asks,
    /// No answer may be older than this.
    floor: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum Asks {
    Command(Number, Changes),
    Read,
    Confirm,
    Delete,
    Passivate,
}

/// Whether a command changes the state, if it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum Changes {
    Yes,
    No,
}

impl Open {
    /// The command, if it is one.
    pub(in crate::shard) fn command(&self) -> Option<Number> {
        match self.asks {
            Asks::Command(number, _) => Some(number),
            _ => None,
        }
    }
}

/// All callers of a shard.
#[derive(Debug, Default)]
pub(in crate::shard) struct Callers {
    tickets: Ticket,
    pub(in crate::shard) open: BTreeMap<Ticket, Open>,
    /// Commands whose callers were told that they were not applied.
    refused: Vec<Number>,
    /// The latest version of each entity that an answer has shown.
    shown: BTreeMap<EntityId, Position>,
    /// The latest request of each entity that was answered.
    answered: BTreeMap<EntityId, Ticket>,
    /// Since when the outcome of an entity's write is unknown.
    pub(in crate::shard) lost_since: BTreeMap<EntityId, RealTime>,
}

impl Callers {
    pub(in crate::shard) fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    pub(in crate::shard) fn ask(
        &mut self,
        ticket: Ticket,
        id: &EntityId,
        asks: Asks,
        db: &mut Database,
    ) {
        let floor = match asks {
            Asks::Confirm => {
                let log = db.log(id);
                (log.len() - 1, log.last().map_or(0, Vec::len))
            }
            _ => self.shown.get(id).copied().unwrap_or_default(),
        };
        let id = id.clone();
        self.open.insert(ticket, Open { id, asks, floor });
    }

    /// Whether somebody waits for this entity, other than for one of these handlers.
    pub(in crate::shard) fn waits(&self, id: &EntityId, handling: &BTreeSet<Number>) -> bool {
        self.open
            .values()
            .filter(|open| open.id == *id)
            .any(|open| match open.asks {
                Asks::Command(number, _) => !handling.contains(&number),
                _ => true,
            })
    }

    /// Whether somebody asked this entity to leave.
    pub(in crate::shard) fn wants_to_leave(&self, id: &str) -> bool {
        let mut open = self.open.values();
        open.any(|open| open.id == id && open.asks == Asks::Passivate)
    }

    fn close(&mut self, ticket: Ticket) -> Result<Open, String> {
        let open = self.open.remove(&ticket);
        open.ok_or_else(|| format!("request {ticket} is answered twice"))
    }

    /// An answer is true of a version that was durable, and not older than what was shown before.
    pub(in crate::shard) fn on_answer(
        &mut self,
        ticket: Ticket,
        id: &EntityId,
        revision: Revision,
        answer: &Answer<Ledger, Ledger>,
        db: &mut Database,
    ) -> Result<(), String> {
        let open = self.close(ticket)?;
        if open.id != *id {
            return Err(format!(
                "request {ticket} to {} is answered by {id}",
                open.id
            ));
        }
        if matches!((answer, open.asks), (Answer::Passivated, Asks::Passivate)) {
            let overtaken = self
                .open
                .range(..ticket)
                .find(|(_, other)| other.id == *id && other.asks != Asks::Passivate);
            if let Some(overtaken) = overtaken {
                return Err(format!("{ticket} makes {id} leave before {overtaken:?}"));
            }
            return Ok(());
        }
        let last = self.answered.insert(id.clone(), ticket);
        if last.is_some_and(|last| last > ticket) {
            return Err(format!("request {ticket} is answered behind {last:?}"));
        }
        let log = db.log(id);
        let at = length(revision);
        // What the first `at` revisions of a version say.
        let holds = |made_by: &[Number]| match (answer, open.asks) {
            (Answer::Done, Asks::Command(number, Changes::Yes)) => made_by.last() == Some(&number),
            (Answer::Done, Asks::Command(_, Changes::No)) => true,
            (Answer::Rejected(refused), Asks::Command(..)) => made_by == refused.0,
            (Answer::State(state), Asks::Read | Asks::Confirm) => made_by == state.made_by,
            (Answer::Deleted, Asks::Delete) => made_by.iter().all(|number| *number == DELETION),
            _ => false,
        };
        let seen = log.iter().enumerate().find(|(index, version)| {
            let before = index.checked_sub(1).and_then(|before| log.get(before));
            let is_new = version.len() == at
                || before.is_none_or(|before| !version.starts_with(before) || before.len() < at);
            (*index, at) >= open.floor && is_new && version.get(..at).is_some_and(holds)
        });
        let Some((seen, _)) = seen else {
            return Err(format!(
                "{open:?} is answered at {revision}, but no durable version says so: {log:?}"
            ));
        };
        let shown = self.shown.entry(id.clone()).or_default();
        *shown = (*shown).max((seen, at));
        Ok(())
    }

    /// A command whose caller is told so is not applied, then and later.
    pub(in crate::shard) fn on_error(
        &mut self,
        ticket: Ticket,
        error: &RequestError,
    ) -> Result<(), String> {
        let open = self.close(ticket)?;
        let looks = matches!(open.asks, Asks::Read | Asks::Confirm | Asks::Passivate);
        if looks && !error.is_definitely_not_applied() {
            return Err(format!("{open:?} only looks, and its outcome is unknown"));
        }
        if let Asks::Command(number, _) = open.asks
            && error.is_definitely_not_applied()
        {
            self.refused.push(number);
        }
        Ok(())
    }

    /// What was refused was not applied.
    pub(in crate::shard) fn check_refused(&self, db: &Database) -> Result<(), String> {
        match self
            .refused
            .iter()
            .find(|number| db.applied.contains(number))
        {
            Some(number) => Err(format!("command {number} was refused and is applied")),
            None => Ok(()),
        }
    }
}
