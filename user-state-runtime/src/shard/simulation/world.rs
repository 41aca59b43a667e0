//! The world around a simulated core: its store, its callers and its clocks.

use std::collections::{BTreeMap, BTreeSet};

use user_state_store::{PersistenceId, Revision};

use super::super::limits::Limits;
use super::books::Books;
use super::callers::{Callers, Open, Ticket};
use crate::barrier::BarrierError;
use crate::clock::Moment;
use crate::effects::{Attempt, Counter, Effects};
use crate::error::RequestError;
use crate::lifecycle::{LifecycleEvent, PassivationReason};
use crate::persistence::{Key, Persistence};
use crate::real_time::RealTime;
use crate::request::Answer;
use crate::testing::database::{Database, EntityId, States, Write, length};
use crate::testing::hands::{Running, SimulatedHands};
use crate::testing::ledger::{Command, Ledger};

/// Database work that has not finished.
#[derive(Debug)]
pub(in crate::shard) enum Work {
    Recover(Vec<(Key, EntityId)>),
    Write(Batch),
    Resolve(Vec<(Key, Write)>),
}

#[derive(Debug)]
pub(in crate::shard) struct Batch {
    /// The writes without an outcome.
    pub(in crate::shard) open: Vec<(Key, Write)>,
    /// The rows that are freed when its turn ends; 0 if it has ended.
    pub(in crate::shard) rows: usize,
}

/// What a simulated core calls, and what it must not do.
#[derive(Debug)]
pub(in crate::shard) struct World {
    pub(in crate::shard) limits: Limits,
    pub(in crate::shard) hands: SimulatedHands,
    pub(in crate::shard) states: States,
    pub(in crate::shard) database: Database,
    pub(in crate::shard) callers: Callers,
    pub(in crate::shard) work: Vec<Work>,
    pub(in crate::shard) handlers: Vec<(Key, Running)>,
    /// Writes whose answer was lost and that the database may still apply.
    pub(in crate::shard) late: Vec<Write>,
    /// Entities with a write without a known outcome.
    pub(in crate::shard) busy: BTreeSet<EntityId>,
    pub(in crate::shard) books: Books,
    pub(in crate::shard) live: usize,
    pub(in crate::shard) now: RealTime,
    pub(in crate::shard) clock: Moment,
    /// Until when barriers wait, and those that were passed in the last step.
    pub(in crate::shard) barriers: BTreeMap<Ticket, Moment>,
    pub(in crate::shard) passed: Vec<(Moment, Result<(), BarrierError>)>,
    /// How much the core did: effects and answers.
    pub(in crate::shard) effects: usize,
    /// Whether to show what happens.
    pub(in crate::shard) traces: bool,
    /// The first promise that was broken.
    pub(in crate::shard) broken: Option<String>,
}

impl World {
    pub(in crate::shard) fn check(&mut self, kept: Result<(), String>) {
        if let Err(broken) = kept {
            self.broken.get_or_insert(broken);
        }
    }

    pub(in crate::shard) fn demand(&mut self, kept: bool, promise: &str) {
        if !kept {
            self.check(Err(promise.to_owned()));
        }
    }

    /// Shows what happens, when a schedule that failed is looked into.
    pub(in crate::shard) fn trace(&self, happened: impl FnOnce() -> String) {
        if self.traces {
            println!("{}", happened());
        }
    }

    /// A command that was never handled comes back if its caller may send it again unchanged.
    fn check_command(
        &self,
        ticket: Ticket,
        command: Option<&Command>,
        error: &RequestError,
    ) -> Result<(), String> {
        let asked = self.callers.open.get(&ticket).and_then(Open::command);
        let sends_again = matches!(error, RequestError::Overloaded | RequestError::Closed);
        match asked {
            Some(number)
                if sends_again && !self.hands.code.handled.borrow().contains_key(&number) =>
            {
                let back = command.is_some_and(|command| command.number == number);
                back.then_some(())
                    .ok_or_else(|| format!("command {number} does not come back"))
            }
            _ => Ok(()),
        }
    }

    /// A bound is reached if a request is refused, and callers of an unresolved write are given their
    /// time.
    fn check_time(&self, id: &EntityId, error: &RequestError) -> Result<(), String> {
        let (open, limits) = (&self.callers.open, &self.limits);
        // The shard itself has at most two requests at an entity, each beside a request of a caller.
        let of_entity = open.values().filter(|open| open.id == *id).count() + 2;
        let full = of_entity > limits.entity_requests_max
            || 2 * open.len() > limits.admission_requests_max;
        let lost_since = self.callers.lost_since.get(id);
        let time_is_over = self.books.shuts_down
            || lost_since.is_none_or(|since| *since + limits.resolve_timeout <= self.now);
        let is_due = match error {
            RequestError::Overloaded => full,
            RequestError::Unknown => time_is_over,
            error if error.is_behind_unresolved() => time_is_over,
            _ => true,
        };
        is_due
            .then_some(())
            .ok_or_else(|| format!("{id} gives the error {error:?} too early"))
    }

    fn check_durable(&mut self, id: &PersistenceId, revision: Revision) {
        let log = self.database.log(&id.as_str().to_owned());
        let durable = log.iter().any(|version| version.len() == length(revision));
        self.demand(durable, "an event shows a revision that is durable");
    }

    fn check_passivation(&mut self, id: &str, reason: PassivationReason) {
        let idle = !self.busy.contains(id);
        self.demand(idle, "an entity with a write in flight stays");
        let is_true = match reason {
            PassivationReason::Idle => self.clock >= Moment::ORIGIN + self.limits.idle_timeout,
            PassivationReason::Limit => self.live + 1 == self.limits.live_entities_max,
            PassivationReason::Requested => self.callers.wants_to_leave(id),
        };
        self.demand(is_true, "an entity leaves for the reason that is published");
    }

    fn count_work(&self, is: impl Fn(&Work) -> bool) -> usize {
        self.work.iter().filter(|work| is(work)).count()
    }
}

impl Effects for World {
    type Aggregate = Ledger;
    type Persistence = States;
    type Hands = SimulatedHands;
    type Ticket = Ticket;
    type BarrierTicket = Ticket;

    fn persistence(&self) -> &States {
        &self.states
    }

    fn hands(&self) -> &SimulatedHands {
        &self.hands
    }

    fn answer(
        &mut self,
        ticket: Ticket,
        id: &PersistenceId,
        revision: Revision,
        answer: Answer<Ledger, Ledger>,
    ) {
        self.effects += 1;
        match &answer {
            Answer::Done => self.books.happened(Counter::Acknowledged),
            Answer::Rejected(_) => self.books.happened(Counter::Rejected),
            Answer::State(_) => self.books.happened(Counter::Reads),
            Answer::Deleted | Answer::Passivated => {}
        }
        let id = id.as_str().to_owned();
        self.trace(|| format!("  answer {ticket} of {id} at {revision}"));
        let kept = self
            .callers
            .on_answer(ticket, &id, revision, &answer, &mut self.database);
        self.check(kept);
    }

    fn repeat_answer(&mut self, ticket: &Ticket) {
        let kept = self.callers.on_error(*ticket, &RequestError::Closed);
        self.check(kept);
    }

    fn fail(
        &mut self,
        ticket: Ticket,
        id: &PersistenceId,
        command: Option<Command>,
        error: RequestError,
    ) {
        self.effects += 1;
        self.trace(|| format!("  fail {ticket}: {error}"));
        self.books.happened(match error {
            RequestError::Overloaded => Counter::Overloaded,
            _ => Counter::Failed,
        });
        let id = id.as_str().to_owned();
        let kept = self.books.check_error(&id, &error, &self.hands.code);
        self.check(kept);
        let kept = self.check_time(&id, &error);
        self.check(kept);
        let kept = self.check_command(ticket, command.as_ref(), &error);
        self.check(kept);
        let kept = self.callers.on_error(ticket, &error);
        self.check(kept);
    }

    fn pass(&mut self, barrier: Ticket, passed: Result<(), BarrierError>) {
        match self.barriers.remove(&barrier) {
            Some(moment) => self.passed.push((moment, passed)),
            None => self.demand(false, "a barrier is passed once"),
        }
    }

    fn recover(&mut self, wanted: Vec<(Key, PersistenceId)>) {
        self.effects += wanted.len();
        self.trace(|| format!("  recover {wanted:?}"));
        let rows_kept = wanted.len() <= self.limits.batch_rows_max;
        self.demand(rows_kept, "a load keeps the limit on rows");
        let id = |(key, id): (Key, PersistenceId)| (key, id.as_str().to_owned());
        self.work
            .push(Work::Recover(wanted.into_iter().map(id).collect()));
        let loads = self.count_work(|work| matches!(work, Work::Recover(_)));
        let loads_kept = loads <= self.limits.loads_in_flight_max;
        self.demand(loads_kept, "the limit on loads in flight is kept");
    }

    fn write(&mut self, batch: Vec<(Key, Write)>, rows: usize) {
        self.books.happened(Counter::Batches);
        self.effects += batch.len();
        self.trace(|| format!("  write {batch:?}"));
        let rows_kept = rows == batch.len() && rows <= self.limits.batch_rows_max;
        self.demand(rows_kept, "a batch keeps the limit on rows");
        let bytes: usize = batch
            .iter()
            .map(|(_, write)| self.states.weight(write).bytes)
            .sum();
        let bytes_kept = bytes <= self.limits.batch_bytes_max || rows == 1;
        self.demand(bytes_kept, "a batch keeps the limit on bytes");
        for (_, write) in &batch {
            let alone = self.busy.insert(write.id.clone());
            self.demand(alone, "one write of an entity is in flight");
        }
        self.work.push(Work::Write(Batch { open: batch, rows }));
        let batches = self.count_work(|work| matches!(work, Work::Write(batch) if batch.rows > 0));
        let batches_kept = batches <= self.limits.batches_in_flight_max;
        self.demand(batches_kept, "the limit on batches in flight is kept");
    }

    fn resolve(&mut self, lost: Vec<(Key, Write)>, _attempt: Attempt) {
        self.effects += lost.len();
        self.trace(|| format!("  resolve {lost:?}"));
        self.work.push(Work::Resolve(lost));
    }

    fn run(&mut self, key: Key, running: Running) {
        self.effects += 1;
        self.trace(|| format!("  run {running:?}"));
        self.handlers.push((key, running));
    }

    fn count(&mut self, counter: Counter, by: u64) {
        self.books.count(counter, by);
        match counter {
            Counter::Entered => self.live += 1,
            Counter::Left => self.live -= 1,
            _ => {}
        }
        let live_kept = self.live <= self.limits.live_entities_max;
        self.demand(live_kept, "the limit on live entities is kept");
    }

    fn publish(&mut self, happened: impl FnOnce() -> LifecycleEvent) {
        match happened() {
            LifecycleEvent::Recovered {
                persistence_id,
                revision,
            } => {
                self.books.happened(Counter::Recovered);
                self.check_durable(&persistence_id, revision);
            }
            LifecycleEvent::Persisted {
                persistence_id,
                revision,
            } => {
                self.check_durable(&persistence_id, revision);
            }
            LifecycleEvent::Passivated {
                persistence_id,
                revision,
                reason,
            } => {
                self.books.happened(Counter::Passivated);
                self.check_durable(&persistence_id, revision);
                self.check_passivation(persistence_id.as_str(), reason);
            }
            LifecycleEvent::Failed { .. } => self.books.reported += 1,
        }
    }
}
