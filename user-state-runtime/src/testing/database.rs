//! The database of tests without one: one row per entity, and everything that was ever durable.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use user_state_store::Revision;

use super::ledger::{DELETION, FOREIGN, Form, Ledger, Number};
use crate::error::RequestError;
use crate::persistence::{
    ChangeKind, Cut, Deletion, Intake, Known, Persistence, Resolution, Weight,
};

pub(crate) type EntityId = String;

/// What an entity knows of its row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    revision: Revision,
    /// When the row was written; no two writes share a time.
    time: u32,
}

impl Stamp {
    /// Of a row that is nobody else's.
    pub(crate) fn at(revision: u32) -> Self {
        Self {
            revision: (0..revision).fold(Revision::NONE, |revision, _| {
                revision.next().unwrap_or(revision)
            }),
            time: revision,
        }
    }
}

impl Known for Stamp {
    fn revision(self) -> Revision {
        self.revision
    }
}

/// A compare-and-set on a row.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) id: EntityId,
    pub(crate) expected: Stamp,
    pub(crate) to: Revision,
    pub(crate) made_by: Vec<Number>,
    /// How many commands it holds; none is a deletion.
    pub(crate) commands: usize,
}

/// How deletions are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletes {
    /// As a state at the next revision.
    Reset,
    /// By removing the row.
    Erase,
}

/// How entities are stored.
#[derive(Debug)]
pub(crate) struct States {
    pub(crate) deletes: Deletes,
}

impl Persistence<Ledger> for States {
    type Known = Stamp;
    type Gathered = Vec<<Ledger as Aggregate>::Event>;
    type Write = Write;
    type Lost = Write;

    fn gather(
        &self,
        into: &mut Self::Gathered,
        revision: Revision,
        events: Vec<<Ledger as Aggregate>::Event>,
    ) -> Result<Revision, RequestError> {
        into.extend(events);
        revision.next().ok_or(RequestError::RevisionsExhausted)
    }

    fn intake(&self, from: Revision, _gathered: &Self::Gathered) -> Intake {
        if from.is_none() {
            Intake::CutFirst
        } else {
            Intake::Open
        }
    }

    fn delete(
        &self,
        revision: Revision,
        _at: DateTime<Utc>,
    ) -> Result<Option<Deletion<Ledger>>, RequestError> {
        if revision.is_none() {
            return Ok(None);
        }
        let revision = match self.deletes {
            Deletes::Reset => revision.next().ok_or(RequestError::RevisionsExhausted)?,
            Deletes::Erase => Revision::NONE,
        };
        let state = Ledger {
            made_by: vec![DELETION; length(revision)],
            form: Form::Stored,
        };
        Ok(Some(Deletion { state, revision }))
    }

    fn cut(&self, cut: Cut<'_, Ledger, Self>) -> Result<Write, RequestError> {
        match cut.state.form {
            Form::Stored => {}
            Form::Refused => return Err(RequestError::Refused(refused())),
            Form::Panics => std::panic::resume_unwind(Box::new("the state cannot be encoded")),
        }
        Ok(Write {
            id: cut.id.as_str().to_owned(),
            expected: cut.known,
            to: cut.to,
            made_by: cut.state.made_by.clone(),
            commands: match cut.change {
                ChangeKind::Commands(events) => events.len(),
                ChangeKind::Deletion => 0,
            },
        })
    }

    fn weight(&self, write: &Write) -> Weight {
        Weight {
            rows: 1,
            bytes: write.made_by.len() + 1,
        }
    }
}

/// Rows, and every version that they ever had.
#[derive(Debug, Default)]
pub(crate) struct Database {
    rows: BTreeMap<EntityId, (Stamp, Vec<Number>)>,
    /// Everything that was durable, in order; the first version of each entity is that it is not there.
    log: BTreeMap<EntityId, Vec<Vec<Number>>>,
    /// The commands that were ever applied.
    pub(crate) applied: BTreeSet<Number>,
    time: u32,
}

impl Database {
    pub(crate) fn load(&self, id: &EntityId) -> (Ledger, Stamp) {
        let (stamp, made_by) = self.rows.get(id).cloned().unwrap_or_default();
        let form = Form::Stored;
        (Ledger { made_by, form }, stamp)
    }

    /// The versions of an entity.
    pub(crate) fn log(&mut self, id: &EntityId) -> &[Vec<Number>] {
        self.log
            .entry(id.clone())
            .or_insert_with(|| vec![Vec::new()])
    }

    /// Applies a write if the row is the expected one.
    pub(crate) fn apply(&mut self, write: &Write) -> Result<Result<Stamp, Conflict>, String> {
        let (stored, made_by) = self.rows.get(&write.id).cloned().unwrap_or_default();
        if stored != write.expected {
            return Ok(Err(Conflict));
        }
        if length(write.to) != write.made_by.len() {
            return Err(format!("the state is not that of its revision: {write:?}"));
        }
        if stored.revision.is_none() && write.made_by.len() > 1 {
            return Err(format!("a creation beyond revision 1: {write:?}"));
        }
        if write.commands > 0 {
            self.check_commands(&made_by, write)?;
        }
        self.time += 1;
        let stamp = self.store(&write.id, write.to, write.made_by.clone());
        Ok(Ok(stamp))
    }

    /// What commands make of a state follows it, in the order they were sent, each once.
    fn check_commands(&mut self, before: &[Number], write: &Write) -> Result<(), String> {
        let Some(new) = write.made_by.strip_prefix(before) else {
            return Err(format!("{before:?} does not lead to {write:?}"));
        };
        if new.len() != write.commands {
            return Err(format!(
                "the events are not those of the commands: {write:?}"
            ));
        }
        let earlier = before
            .iter()
            .rev()
            .copied()
            .find(|number| *number != FOREIGN);
        let mut last = earlier.unwrap_or(DELETION);
        for number in new {
            if *number <= last {
                return Err(format!("commands out of order: {write:?}"));
            }
            if !self.applied.insert(*number) {
                return Err(format!("command {number} is applied twice: {write:?}"));
            }
            last = *number;
        }
        Ok(())
    }

    /// Whether a lost write, which is not applied any more, was.
    pub(crate) fn resolve(&mut self, write: &Write) -> Resolution<Stamp, Write> {
        let (stored, made_by) = self.rows.get(&write.id).cloned().unwrap_or_default();
        if stored == write.expected {
            Resolution::NotApplied
        } else if made_by == write.made_by && stored.revision == write.to {
            Resolution::Applied(stored)
        } else {
            // Another writer came after it, or was faster.
            Resolution::Unknown
        }
    }

    /// Another writer changes the row.
    pub(crate) fn change_by_another(&mut self, id: &EntityId) {
        let (_, mut made_by) = self.rows.get(id).cloned().unwrap_or_default();
        made_by.push(FOREIGN);
        let revision = made_by.iter().fold(Revision::NONE, |revision, _| {
            revision.next().unwrap_or(revision)
        });
        self.time += 1;
        self.store(id, revision, made_by);
    }

    fn store(&mut self, id: &EntityId, revision: Revision, made_by: Vec<Number>) -> Stamp {
        self.log(id);
        if let Some(log) = self.log.get_mut(id) {
            log.push(made_by.clone());
        }
        if revision.is_none() {
            self.rows.remove(id);
            return Stamp::default();
        }
        let stamp = Stamp {
            revision,
            time: self.time,
        };
        self.rows.insert(id.clone(), (stamp, made_by));
        stamp
    }
}

/// The row was not the expected one.
#[derive(Debug)]
pub(crate) struct Conflict;

pub(crate) fn length(revision: Revision) -> usize {
    usize::try_from(revision.get()).expect("revisions of tests are small")
}

pub(crate) fn refused() -> user_state_store::StoreError {
    user_state_store::StoreError::TooLarge {
        what: "the state".into(),
        actual: 2,
        limit: 1,
    }
}
