//! Where writes ask whether what they wait for is free: one question for all of them at a time.
//!
//! **Problem.** Writes of rows that somebody else holds locked have to be tried again until they go through, hundreds of
//! them perhaps, from many batches, and must cost those whose rows nobody holds next to nothing.
//!
//! **How.** Whoever waits puts a question on the desk. One of them at a time, whoever it is, asks the server for all, on
//! one session and at most ten times a second, and leaves the answers. A question changes nothing, so a caller that
//! goes away in the middle of one harms nobody: the next one asks again.
//!
//! The desk also remembers which rows were found held and not written since. Their next write begins here, so that the
//! batch it comes in does not have to find out again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::deadline::{self, now, sleep_until};
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::locked::{self, Sought, Standing};
use crate::postgres::error::Failure;
use crate::postgres::session::{Lease, Sessions};

/// What passes between two questions.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// How long a table that was found held is taken to be: until the next question, on a busy machine, too.
const TABLE_HELD_FOR: Duration = Duration::from_millis(500);

/// How long further held rows are expected after one was found.
const WARY_FOR: Duration = Duration::from_millis(500);

/// How long a row is remembered as held while nobody writes it: a few times the usual lock time-out, after which its
/// user has given up.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// How often rows are looked for that nobody has written for so long.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How many rows are remembered as held; a row beyond them is found out by its batch again.
const REMEMBERED_MAX: usize = 10_000;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::postgres) struct Desk {
    state: Mutex<State>,
    /// Whoever asks for all.
    turn: Semaphore,
    /// Whoever tries writes for which nothing can be asked.
    trial: Semaphore,
    /// Whether there is anything on the desk, to be read without the lock.
    in_use: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    tickets: u64,
    asked: HashMap<u64, Asked>,
    resumes: Option<Instant>,
    /// Until when the whole table is taken to be held. Each question that finds it held moves this on.
    table_held_until: Option<Instant>,
    /// The rows that are remembered as held, and since when nobody said so.
    held: HashMap<PersistenceId, Instant>,
    /// When the old ones of them were looked for.
    looked_at: Option<Instant>,
    /// Until when further held rows are expected.
    wary_until: Option<Instant>,
}

impl State {
    /// Forgets the rows that nobody has written for a while. Looks at all of them once in a second.
    fn forget_old(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now < at + LOOK_INTERVAL) {
            return;
        }
        self.looked_at = Some(now);
        self.held
            .retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED_FOR);
        self.wary_until.take_if(|until| *until <= now);
    }
}

#[derive(Debug)]
struct Asked {
    question: Question,
    answer: Option<Result<Vec<Standing>, Failure>>,
}

/// What somebody waits for.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// That the table can be written. Its answer is one standing.
    Table,
    /// That these rows can be.
    Rows(Vec<Sought>),
}

/// All questions together.
#[derive(Default)]
struct Questions {
    /// Whether somebody asks for the table.
    for_table: bool,
    /// Who asks, and for how many rows; `None` for the table.
    tickets: Vec<(u64, Option<usize>)>,
    /// The rows, in the order of the tickets.
    sought: Vec<Sought>,
}

/// A question on the desk; dropping it takes it away.
struct Ticket<'desk> {
    desk: &'desk Desk,
    number: u64,
}

impl Desk {
    pub(in crate::postgres) fn new() -> Self {
        Self {
            state: Mutex::default(),
            turn: Semaphore::new(1),
            trial: Semaphore::new(1),
            in_use: AtomicBool::new(false),
        }
    }

    /// Whether the whole table was found held just now.
    pub(super) fn table_is_held(&self) -> bool {
        if !self.in_use.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state();
        state.table_held_until.take_if(|until| *until <= now());
        state.table_held_until.is_some()
    }

    /// The table was found held.
    pub(super) fn hold_table(&self) {
        self.state().table_held_until = Some(now() + TABLE_HELD_FOR);
        self.in_use.store(true, Ordering::Release);
    }

    /// This row was found held.
    pub(super) fn remember(&self, id: &PersistenceId) {
        let mut state = self.state();
        let now = now();
        if state.held.len() >= REMEMBERED_MAX {
            state.forget_old(now);
        }
        if state.held.len() < REMEMBERED_MAX && state.held.insert(id.clone(), now).is_none() {
            state.wary_until = Some(now + WARY_FOR);
            self.in_use.store(true, Ordering::Release);
        }
    }

    /// Whether a held row was found just now that nobody knew of: there may be more of them, and each would keep a batch
    /// waiting once.
    pub(super) fn is_wary(&self) -> bool {
        if !self.in_use.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state();
        state.wary_until.take_if(|until| *until <= now());
        state.wary_until.is_some()
    }

    /// This row is held no more, or was written.
    pub(super) fn forget(&self, id: &PersistenceId) {
        if self.in_use.load(Ordering::Acquire) {
            let mut state = self.state();
            state.held.remove(id);
            self.note_use(&state);
        }
    }

    /// Which of these rows are remembered as held.
    pub(super) fn remembered<'ids>(
        &self,
        ids: impl Iterator<Item = &'ids PersistenceId>,
    ) -> Vec<bool> {
        if !self.in_use.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.state();
        let now = now();
        state.forget_old(now);
        let remembered = ids.map(|id| state.held.get_mut(id).map(|since| *since = now).is_some());
        let remembered = remembered.collect();
        self.note_use(&state);
        remembered
    }

    /// The answer to a question, the next time that one is asked; `None` where that is not before `until`.
    pub(super) async fn ask(
        &self,
        sessions: &Sessions,
        question: Question,
        until: Instant,
    ) -> Option<Result<Vec<Standing>, Failure>> {
        let ticket = self.register(question);
        loop {
            let turn = deadline::until(until, self.my_turn(&ticket)).await.ok()?;
            if let Some(answer) = ticket.answer() {
                return Some(answer);
            }
            let leased = deadline::until(until, sessions.lease()).await.ok()?;
            // From here on the session answers in time, or is closed.
            match leased {
                Ok(mut lease) => self.ask_for_all(&mut lease).await,
                Err(Failure::Closed) => return Some(Err(Failure::Closed)),
                Err(_) => {}
            }
            self.state().resumes = Some(now() + PAUSE);
            drop(turn);
        }
    }

    /// The right to try writes for which nothing can be asked; `None` where that is not before `until`.
    pub(super) async fn trial(&self, until: Instant) -> Option<SemaphorePermit<'_>> {
        deadline::until(until, self.trial.acquire())
            .await
            .ok()?
            .ok()
    }

    /// Waits until it is this one's turn to ask, and the time for it, or somebody else left the answer.
    async fn my_turn(&self, ticket: &Ticket<'_>) -> Option<SemaphorePermit<'_>> {
        let turn = self.turn.acquire().await.ok();
        let resumes = self.state().resumes;
        if let Some(resumes) = resumes
            && !ticket.is_answered()
        {
            sleep_until(resumes).await;
        }
        turn
    }

    /// Asks what is on the desk, and leaves the answers.
    async fn ask_for_all(&self, lease: &mut Lease<'_>) {
        let Questions {
            for_table,
            tickets,
            sought,
        } = self.questions();
        if for_table {
            let free = locked::table_is_free(lease).await;
            // Where this cannot be found out the writes themselves will.
            if matches!(free, Ok(false)) {
                self.hold_table();
                let held = |count| Ok(vec![Standing::Held; count]);
                return self.leave(&tickets, Standing::Held, held);
            }
            self.state().table_held_until = None;
        }
        let standing = match sought.as_slice() {
            [] => Ok(Vec::new()),
            sought => locked::standing(lease, sought).await,
        };
        let mut standing = standing.map(Vec::into_iter);
        self.leave(&tickets, Standing::Free, |count| match &mut standing {
            Ok(standing) => Ok(standing.by_ref().take(count).collect()),
            Err(failure) => Err(failure.clone()),
        });
    }

    /// What is asked and not answered yet.
    fn questions(&self) -> Questions {
        let state = self.state();
        let mut all = Questions::default();
        for (number, asked) in &state.asked {
            match &asked.question {
                _ if asked.answer.is_some() => {}
                Question::Table => {
                    all.for_table = true;
                    all.tickets.push((*number, None));
                }
                Question::Rows(rows) => {
                    all.tickets.push((*number, Some(rows.len())));
                    all.sought.extend_from_slice(rows);
                }
            }
        }
        all
    }

    /// Leaves an answer for each: how the table stands, and from `rows` how so many rows do.
    fn leave(
        &self,
        tickets: &[(u64, Option<usize>)],
        table: Standing,
        mut rows: impl FnMut(usize) -> Result<Vec<Standing>, Failure>,
    ) {
        let mut state = self.state();
        for (number, count) in tickets {
            let answer = match count {
                Some(count) => rows(*count),
                None => Ok(vec![table]),
            };
            if let Some(asked) = state.asked.get_mut(number) {
                asked.answer = Some(answer);
            }
        }
    }

    fn register(&self, question: Question) -> Ticket<'_> {
        let mut state = self.state();
        let number = state.tickets;
        state.tickets += 1;
        let answer = None;
        state.asked.insert(number, Asked { question, answer });
        self.in_use.store(true, Ordering::Release);
        drop(state);
        Ticket { desk: self, number }
    }

    fn note_use(&self, state: &State) {
        let in_use = state.table_held_until.is_some()
            || state.wary_until.is_some()
            || !state.asked.is_empty()
            || !state.held.is_empty();
        self.in_use.store(in_use, Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    fn is_answered(&self) -> bool {
        let state = self.desk.state();
        state
            .asked
            .get(&self.number)
            .is_some_and(|asked| asked.answer.is_some())
    }

    fn answer(&self) -> Option<Result<Vec<Standing>, Failure>> {
        let mut state = self.desk.state();
        state.asked.get_mut(&self.number)?.answer.take()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.desk.state();
        state.asked.remove(&self.number);
        self.desk.note_use(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> PersistenceId {
        PersistenceId::unique(&format!("mall-{number}")).unwrap()
    }

    /// As if all rows had been found held so long ago.
    fn age(desk: &Desk, by: Duration) {
        let mut state = desk.state();
        for since in state.held.values_mut() {
            *since -= by;
        }
        state.wary_until = None;
        state.looked_at = None;
    }

    #[test]
    fn rows_that_nobody_writes_any_more_are_forgotten_and_leave_the_desk_unused() {
        let desk = Desk::new();
        for number in 0..REMEMBERED_MAX {
            desk.remember(&id(number));
        }
        assert_eq!(desk.remembered([&id(1)].into_iter()), [true]);
        desk.remember(&id(REMEMBERED_MAX));
        assert_eq!(desk.remembered([&id(REMEMBERED_MAX)].into_iter()), [false]);
        age(&desk, REMEMBERED_FOR);
        assert_eq!(desk.remembered([&id(1)].into_iter()), [false]);
        assert!(!desk.in_use.load(Ordering::Acquire));
        desk.remember(&id(REMEMBERED_MAX));
        assert_eq!(desk.remembered([&id(REMEMBERED_MAX)].into_iter()), [true]);
    }

    #[test]
    fn further_held_rows_are_expected_for_a_while_after_the_only_one_was_written() {
        let desk = Desk::new();
        desk.remember(&id(1));
        desk.forget(&id(1));
        assert!(desk.is_wary());
    }
}
