//! One live entity: plain data and a state machine without awaits, clock or I/O.
//!
//! **Problem.** Commands arrive while earlier ones are on their way to the database; nobody may learn of a state
//! that is not durable, and whatever becomes of a write, every caller gets a true answer.
//!
//! **How.** Requests wait in order (`waiting`) until the entity can handle them. What was handled on a state
//! that is not durable yet is gathered with its answer (`gathered`). A write takes the gathered answers along
//! (`flight`); they go out when it lands. When it does not, the requests behind the answers are handled again or
//! told, and the entity is loaded anew or leaves.
//!
//! **Guarantees.** At most one write in flight. A creating write holds the state after the first command; a deletion
//! is alone in its write. No answer leaves before the revision it was decided at is durable.

use std::collections::VecDeque;

use cqrs_es::Aggregate;
use tokio::time::Instant;
use user_state_store::{DeleteForm, Revision, StoreError};

use crate::clock::Moment;
use crate::driver::Driver;
use crate::error::Failure;
use crate::handler::{self, Handled, Running};
use crate::lifecycle::PassivationReason;
use crate::pending::{Pending, Settled, Undo};
use crate::request::{Answer, Request};
use crate::row::Row;
use crate::work::Loaded;

mod flight;
mod spare;

use flight::Flight;
pub(crate) use spare::SpareWork;

/// A live entity.
pub(crate) struct Entity<A: Aggregate> {
    state: A,
    /// The revision of `state`.
    revision: Revision,
    /// The row that is known to be stored.
    durable: Row,
    /// The latest clock reading of an accepted message.
    touched: Moment,
    phase: Phase,
    /// Present while there is anything to do; an idle entity pays for a pointer only.
    work: Option<Box<Work<A>>>,
}

/// What the entity waits for before it can handle requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its row is being loaded.
    Loading(Load),
    /// Nothing: it handles requests.
    Ready,
    /// A handler that was pending.
    Handling,
}

/// Why a row is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// The entity comes to life.
    Recovery,
    /// Its state turned out to be outdated.
    Reload,
    /// A caller wants the database looked at.
    Confirmation,
}

struct Work<A: Aggregate> {
    waiting: VecDeque<Pending<A>>,
    gathered: Vec<Settled<A>>,
    /// Where the answers of the last write were, empty: where those of the one after next will be.
    sent: Vec<Settled<A>>,
    /// The request whose handler runs.
    handling: Option<Pending<A>>,
    /// The gathered change is a deletion in this form.
    deletion: Option<DeleteForm>,
    flight: Option<Flight<A>>,
    /// The state is lost, and this is why; handled as soon as no handler runs on it.
    doom: Option<Doom>,
    /// The entity stands in the shard's list of dirty ones.
    queued: bool,
    /// A request to leave is among the waiting ones.
    leaving: bool,
}

/// Why the state in memory is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doom {
    /// Another writer was faster.
    Conflict,
    /// The write surely was not applied.
    NotApplied(Failure),
    /// It cannot be found out whether the write was applied.
    Lost,
    /// Callers were told long ago that the write is unresolved; now it is resolved.
    Abandoned,
}

/// What the shard has to do after the entity has moved.
pub(crate) enum Moved<A: Aggregate> {
    /// Nothing.
    Waits,
    /// Run this handler to its end.
    Handles(Running<A>),
    /// Load its row.
    Loads,
    /// Take it out of memory, its state durable, and give the others to its next incarnation.
    Leaves {
        reason: PassivationReason,
        request: Pending<A>,
        others: VecDeque<Pending<A>>,
    },
    /// Take it out of memory, its state lost, and give the others to its next incarnation.
    Drops(VecDeque<Pending<A>>),
}

impl<A: Aggregate> Entity<A> {
    /// How many requests it has not answered.
    pub(crate) fn open_requests(&self) -> usize {
        self.work.as_ref().map_or(0, |work| {
            let flying = work.flight.as_ref().map_or(0, Flight::len);
            work.waiting.len() + work.gathered.len() + usize::from(work.handling.is_some()) + flying
        })
    }
}

impl<A> Entity<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    /// An entity about to be loaded.
    pub(crate) fn new(touched: Moment) -> Self {
        Self {
            state: A::default(),
            revision: Revision::NONE,
            durable: Row::NONE,
            touched,
            phase: Phase::Loading(Load::Recovery),
            work: None,
        }
    }

    pub(crate) fn touched(&self) -> Moment {
        self.touched
    }

    pub(crate) fn touch(&mut self, at: Moment) {
        self.touched = self.touched.max(at);
    }

    pub(crate) fn durable(&self) -> Revision {
        self.durable.revision()
    }

    /// Nothing to do and nothing to lose: it may leave at once.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_none() && self.phase == Phase::Ready
    }

    /// A command or a read may be handled now, and none waits before it.
    fn is_open(&self) -> bool {
        self.phase == Phase::Ready
            && self.work.as_ref().is_none_or(|work| {
                work.waiting.is_empty()
                    && !work.is_blocked()
                    && !is_uncut_creation(self.durable(), self.revision, work)
            })
    }

    /// Handles a request: at once where nothing is ahead of it, otherwise behind the others.
    pub(crate) fn accept(&mut self, pending: Pending<A>, driver: &Driver<'_, A>) -> Moved<A> {
        if self.is_open() && !pending.request.stands_alone() {
            return self.handle(pending, driver).unwrap_or(Moved::Waits);
        }
        self.enqueue(pending, driver);
        self.pump(driver)
    }

    /// Puts a request behind the others.
    pub(crate) fn enqueue(&mut self, pending: Pending<A>, driver: &Driver<'_, A>) {
        if self.is_abandoned() {
            driver.fail(pending, Failure::behind_unresolved(driver.persistence_id));
            return;
        }
        let work = self.work_mut(driver);
        work.leaving |= matches!(pending.request, Request::Leave(_));
        work.waiting.push_back(pending);
    }

    /// Whether it leaves without being told to: a request to leave waits already, or it is dropped when its write
    /// is resolved.
    pub(crate) fn is_leaving(&self) -> bool {
        self.work
            .as_ref()
            .is_some_and(|work| work.leaving || work.is_abandoned())
    }

    /// Its write is unresolved and its callers were told.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.is_abandoned())
    }

    /// Handles waiting requests as far as possible.
    pub(crate) fn pump(&mut self, driver: &Driver<'_, A>) -> Moved<A> {
        while self.phase == Phase::Ready {
            let clean = self.is_clean();
            let Some(work) = self.work.as_deref_mut() else {
                break;
            };
            if work.is_blocked() || is_uncut_creation(self.durable.revision(), self.revision, work)
            {
                break;
            }
            let Some(next) = work.waiting.front() else {
                break;
            };
            if next.request.stands_alone() && !clean {
                break;
            }
            if matches!(next.request, Request::Confirm { .. }) {
                self.phase = Phase::Loading(Load::Confirmation);
                return Moved::Loads;
            }
            let Some(pending) = work.waiting.pop_front() else {
                break;
            };
            if let Some(moved) = self.handle(pending, driver) {
                return moved;
            }
        }
        self.rest(driver);
        Moved::Waits
    }

    fn handle(&mut self, mut pending: Pending<A>, driver: &Driver<'_, A>) -> Option<Moved<A>> {
        let retry = pending.may_retry();
        match &mut pending.request {
            Request::Execute { command: slot, .. } | Request::Tell { command: slot } => {
                let Some(command) = slot.take() else {
                    driver.fail(pending, Failure::Conflict);
                    return None;
                };
                if retry {
                    *slot = driver.copy_of(&command);
                }
                driver.counters.commands(1);
                match handler::start(&self.state, command, driver.services) {
                    Ok(handled) => self.settle_handled(pending, handled, driver),
                    Err(running) => {
                        self.phase = Phase::Handling;
                        self.work_mut(driver).handling = Some(pending);
                        return Some(Moved::Handles(running));
                    }
                }
            }
            Request::Read { .. } | Request::Confirm { .. } => self.read(pending, driver),
            Request::Delete { at, .. } => {
                let at = *at;
                self.delete(pending, at, driver);
            }
            Request::Passivate { .. } => {
                return Some(self.leave(PassivationReason::Requested, pending));
            }
            Request::Leave(reason) => {
                let reason = *reason;
                return Some(self.leave(reason, pending));
            }
        }
        None
    }

    /// A handler that was pending has come to its end.
    pub(crate) fn on_handled(&mut self, handled: Handled<A>, driver: &Driver<'_, A>) -> Moved<A> {
        self.phase = Phase::Ready;
        if let Some(pending) = self.work.as_mut().and_then(|work| work.handling.take()) {
            self.settle_handled(pending, handled, driver);
        }
        if let Some(doom) = self.work.as_mut().and_then(|work| work.doom.take()) {
            return self.undo(doom, driver);
        }
        self.pump(driver)
    }

    fn settle_handled(&mut self, pending: Pending<A>, handled: Handled<A>, driver: &Driver<'_, A>) {
        match handled {
            Handled::Changed(state) => {
                let Some(next) = self.revision.next() else {
                    driver.fail(pending, revisions_exhausted());
                    return;
                };
                self.state = state;
                self.revision = next;
                self.settle(pending, Answer::Done, driver);
            }
            Handled::Unchanged => self.settle(pending, Answer::Done, driver),
            Handled::Rejected(error) => self.settle(pending, Answer::Rejected(error), driver),
            Handled::Panicked => driver.fail(pending, Failure::Panicked),
        }
    }

    fn read(&mut self, pending: Pending<A>, driver: &Driver<'_, A>) {
        match driver.guard(|| self.state.clone()) {
            Some(state) if self.is_clean() => driver.answer_read(pending, self.revision, state),
            Some(state) => self.settle(pending, Answer::State(Box::new(state)), driver),
            None => driver.fail(pending, Failure::Panicked),
        }
    }

    fn delete(
        &mut self,
        pending: Pending<A>,
        at: chrono::DateTime<chrono::Utc>,
        driver: &Driver<'_, A>,
    ) {
        let form = driver.delete_form;
        if self.revision.is_none() && form != DeleteForm::Marker {
            self.settle(pending, Answer::Deleted, driver);
            return;
        }
        let deleted = match form {
            DeleteForm::Reset => driver.guard(|| driver.mapping.reset(at)),
            DeleteForm::Marker | DeleteForm::Erase => Some(A::default()),
        };
        let Some(deleted) = deleted else {
            driver.fail(pending, Failure::Panicked);
            return;
        };
        let next = match form {
            DeleteForm::Erase => Some(Revision::NONE),
            DeleteForm::Reset | DeleteForm::Marker => self.revision.next(),
        };
        let Some(next) = next else {
            driver.fail(pending, revisions_exhausted());
            return;
        };
        self.state = deleted;
        self.revision = next;
        self.work_mut(driver).deletion = Some(form);
        self.settle(pending, Answer::Deleted, driver);
    }

    fn leave(&mut self, reason: PassivationReason, request: Pending<A>) -> Moved<A> {
        let others = self
            .work
            .take()
            .map(|work| work.waiting)
            .unwrap_or_default();
        Moved::Leaves {
            reason,
            request,
            others,
        }
    }

    /// Answers at once where the state is durable, otherwise when it will be.
    fn settle(&mut self, pending: Pending<A>, answer: Answer<A>, driver: &Driver<'_, A>) {
        if self.is_clean() {
            driver.answer(pending, self.revision, answer);
            return;
        }
        let settled = pending.settle(self.revision, answer, driver.requests);
        let work = self.work_mut(driver);
        if work.is_abandoned() {
            driver.fail_settled(settled, Failure::behind_unresolved(driver.persistence_id));
        } else {
            work.gathered.push(settled);
        }
    }

    /// The state is the durable one, and nothing is on its way to change that.
    fn is_clean(&self) -> bool {
        self.revision == self.durable()
            && self
                .work
                .as_ref()
                .is_none_or(|work| work.flight.is_none() && work.deletion.is_none())
    }

    /// There is a change that is not on its way to the database.
    fn is_dirty(&self) -> bool {
        let Some(work) = &self.work else { return false };
        let written = work
            .flight
            .as_ref()
            .map_or(self.durable(), Flight::revision);
        work.doom.is_none() && (work.deletion.is_some() || self.revision != written)
    }

    /// Whether the entity belongs into the shard's list of dirty ones and is not there yet; marks it as listed.
    pub(crate) fn list_as_dirty(&mut self) -> bool {
        let due = self.is_dirty();
        let Some(work) = self.work.as_mut() else {
            return false;
        };
        if work.queued || work.flight.is_some() || !due {
            return false;
        }
        work.queued = true;
        true
    }

    fn work_mut(&mut self, driver: &Driver<'_, A>) -> &mut Work<A> {
        self.work.get_or_insert_with(|| driver.spare_work.take())
    }

    /// Lets go of the room for work when there is none.
    fn rest(&mut self, driver: &Driver<'_, A>) {
        if self.phase == Phase::Ready
            && let Some(work) = self.work.take_if(|work| work.is_empty())
        {
            driver.spare_work.give(work);
        }
    }

    /// The row was loaded, or could not be.
    pub(crate) fn on_loaded(&mut self, loaded: Loaded<A>, driver: &Driver<'_, A>) -> Moved<A> {
        let Phase::Loading(load) = self.phase else {
            return Moved::Waits;
        };
        if let Err(failure) = &loaded {
            driver.report(failure);
        }
        self.phase = Phase::Ready;
        match loaded {
            Ok((state, row)) => {
                if load == Load::Recovery {
                    driver.recovered(row.revision());
                }
                self.state = state;
                self.revision = row.revision();
                self.durable = row;
                if load == Load::Confirmation
                    && let Some(confirmed) = self.next_waiting()
                {
                    self.read(confirmed, driver);
                }
                self.pump(driver)
            }
            // A row known to be unreadable must not be written over from memory.
            Err(failure)
                if load == Load::Confirmation && !matches!(failure, Failure::Unreadable(_)) =>
            {
                if let Some(unconfirmed) = self.next_waiting() {
                    driver.fail(unconfirmed, failure);
                }
                self.pump(driver)
            }
            Err(failure) => {
                let work = self.work.take();
                let waiting = work.into_iter().flat_map(|work| work.waiting);
                let (leaves, others): (VecDeque<_>, VecDeque<_>) = waiting.partition(|pending| {
                    load == Load::Reload && matches!(pending.request, Request::Leave(_))
                });
                for pending in others {
                    driver.fail(pending, failure.clone());
                }
                Moved::Drops(leaves)
            }
        }
    }

    fn next_waiting(&mut self) -> Option<Pending<A>> {
        self.work.as_mut()?.waiting.pop_front()
    }

    /// Gives up the state in memory, as soon as no handler runs on it.
    fn doom(&mut self, doom: Doom, driver: &Driver<'_, A>) -> Moved<A> {
        if self.phase == Phase::Handling {
            if let Some(work) = self.work.as_mut() {
                work.doom = Some(doom);
            }
            return Moved::Waits;
        }
        self.undo(doom, driver)
    }

    /// Handles again what was handled on a lost state, or tells its callers.
    fn undo(&mut self, doom: Doom, driver: &Driver<'_, A>) -> Moved<A> {
        let Some(mut work) = self.work.take() else {
            return Moved::Drops(VecDeque::new());
        };
        let (undo, failure, reloads) = match doom {
            Doom::Conflict | Doom::Lost => (Undo::Everything, Failure::Conflict, true),
            Doom::NotApplied(failure) => (Undo::Changes, failure, false),
            Doom::Abandoned => (
                Undo::Changes,
                Failure::behind_unresolved(driver.persistence_id),
                false,
            ),
        };
        let mut again = VecDeque::with_capacity(work.gathered.len() + work.waiting.len());
        for settled in std::mem::take(&mut work.gathered) {
            match settled.undo(undo, driver.conflict_policy) {
                Ok(pending) => again.push_back(pending),
                Err(pending) => driver.fail(pending, failure.clone()),
            }
        }
        again.append(&mut work.waiting);
        if !reloads {
            return Moved::Drops(again);
        }
        work.waiting = again;
        work.deletion = None;
        work.queued = false;
        self.work = Some(work);
        // What is lost is no change: until the row is there, nothing of this state may be written.
        self.revision = self.durable();
        self.phase = Phase::Loading(Load::Reload);
        Moved::Loads
    }

    /// Tells every caller that it is too late: the runtime's time to shut down is over.
    pub(crate) fn give_up(&mut self, driver: &Driver<'_, A>) {
        let Some(work) = self.work.take() else { return };
        let work = *work;
        for settled in work.flight.into_iter().flat_map(Flight::into_settled) {
            let failure = if settled.is_change() {
                Failure::Unknown
            } else {
                unavailable()
            };
            driver.fail_settled(settled, failure);
        }
        for settled in work.gathered {
            driver.fail_settled(settled, unavailable());
        }
        if let Some(handling) = work.handling {
            driver.fail(handling, unavailable());
        }
        for pending in work.waiting {
            driver.fail(pending, Failure::Closed);
        }
    }
}

impl<A: Aggregate> Work<A> {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
            && self.gathered.is_empty()
            && self.handling.is_none()
            && self.flight.is_none()
            && self.deletion.is_none()
            && self.doom.is_none()
            && !self.queued
    }

    /// A deletion is under way, or the outcome of a write is unknown.
    fn is_blocked(&self) -> bool {
        self.deletion.is_some()
            || self.doom.is_some()
            || self.flight.as_ref().is_some_and(Flight::blocks)
    }

    fn is_abandoned(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_abandoned)
    }
}

impl<A: Aggregate> Default for Work<A> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            gathered: Vec::new(),
            sent: Vec::new(),
            handling: None,
            deletion: None,
            flight: None,
            doom: None,
            queued: false,
            leaving: false,
        }
    }
}

/// A creating write holds the state after the first command, so the second waits until that is cut.
fn is_uncut_creation<A: Aggregate>(durable: Revision, revision: Revision, work: &Work<A>) -> bool {
    durable.is_none() && !revision.is_none() && work.flight.is_none()
}

fn unavailable() -> Failure {
    Failure::Unavailable(StoreError::Closed)
}

/// A BIGINT's worth of commands to one user; refused rather than wrapped.
fn revisions_exhausted() -> Failure {
    Failure::Refused(StoreError::TooLarge {
        what: "the revision",
        actual: usize::MAX,
        limit: usize::MAX,
    })
}

/// When callers of an unresolved write are told, in real time.
pub(crate) type ResolveDeadline = Instant;
