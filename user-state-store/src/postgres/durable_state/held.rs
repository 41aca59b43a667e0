//! Writes of rows that somebody else holds: apart from their batch, until they are written or the lock time-out is over.
//!
//! They hold no session while they wait. A row that is held is asked for on the desk, and written as soon as it is free. For
//! some nothing can be asked: a row that another transaction is just making, or a row of another table that a
//! constraint refers to. Those are tried, by one batch at a time, and each try waits as shortly as can be.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::cuts::Part;
use crate::deadline::{now, sleep_until};
use crate::error::{Cause, DatabaseError, StoreError};
use crate::postgres::durable_state::desk::{PAUSE, Question};
use crate::postgres::durable_state::group::{Group, Way};
use crate::postgres::durable_state::locked::Standing;
use crate::postgres::error::Failure;
use crate::store::{BATCH_ROWS_MAX, WriteOutcome};

/// How long one batch tries writes before the next one may.
const TRIAL: Duration = Duration::from_millis(50);

/// How many rows that each waited alone are tried in a trial, to find out whether what they wait for is over.
const SAMPLES: usize = 4;

/// How often a row that was found free is sent past what is held. Whoever holds rows can be faster a few times.
const PAST_HELD_MAX: u32 = 3;

/// The writes of a group that wait for somebody else, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// A lock on the whole table.
    pub(super) table: Part,
    /// A lock on their rows.
    pub(super) rows: Part,
    /// Some of them wait for what cannot be asked for, and it is not known which.
    pub(super) suspects: VecDeque<usize>,
    /// Each of them waited alone for what cannot be asked for.
    stuck: VecDeque<usize>,
    /// How many suspects are tried together.
    together: usize,
    /// Whether suspects came back since this was last asked.
    came_back: bool,
    /// How often each row was found free, and sent past what is held.
    tries: HashMap<usize, u32>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
            && self.rows.is_empty()
            && self.suspects.is_empty()
            && self.stuck.is_empty()
    }

    /// A part waited for what cannot be asked for.
    pub(super) fn ran_into(&mut self, part: Part) {
        self.came_back = true;
        match part.as_slice() {
            [alone] if self.together == 1 => self.stuck.push_back(*alone),
            _ => part
                .into_iter()
                .rev()
                .for_each(|index| self.suspects.push_front(index)),
        }
    }

    /// The next suspects to try together. Twice as many as the last time where those went through, half as many where they
    /// did not.
    fn next_suspects(&mut self) -> Part {
        let came_back = std::mem::take(&mut self.came_back);
        self.together = match self.together {
            0 => BATCH_ROWS_MAX,
            together if came_back => (together / 2).max(1),
            together => (together * 2).min(BATCH_ROWS_MAX),
        };
        let count = self.together.min(self.suspects.len());
        self.together = count;
        self.suspects.drain(..count).collect()
    }

    /// Notes that a row is sent past what is held. Whether it was so often enough, and in vain.
    fn is_left_out_again(&mut self, index: usize) -> bool {
        let tries = self.tries.entry(index).or_default();
        *tries += 1;
        *tries > PAST_HELD_MAX
    }

    fn take_all(&mut self) -> Part {
        let held = std::mem::take(self);
        let blind = held.suspects.into_iter().chain(held.stuck);
        held.table
            .into_iter()
            .chain(held.rows)
            .chain(blind)
            .collect()
    }
}

impl Group<'_> {
    /// Waits for what is held, and writes it.
    pub(super) async fn write_held(&mut self) {
        let until = self.patience();
        let mut tried_at: Option<Instant> = None;
        while !self.held.is_empty() {
            // Nothing of the store's is held while waiting.
            self.lease = None;
            self.report_early();
            // While the whole table is held, other batches cannot go through either.
            if self.held.table.is_empty() {
                self.pause();
                self.writing.reports.say_if_all_wait();
            }
            if until <= now() {
                let held = self.held.take_all();
                self.fail(
                    held,
                    &StoreError::Unavailable(Cause::Database(not_available())),
                );
                return;
            }
            if !self.held.table.is_empty() {
                self.wait_for_table(until).await;
                continue;
            }
            if !self.held.rows.is_empty() {
                self.ask_for_rows(until).await;
                self.lease = None;
            }
            if !self.held.suspects.is_empty() || !self.held.stuck.is_empty() {
                if self.held.suspects.is_empty()
                    && let Some(tried_at) = tried_at
                {
                    sleep_until(until.min(tried_at + PAUSE)).await;
                }
                self.try_suspects(until).await;
                tried_at = Some(now());
            }
        }
    }

    async fn wait_for_table(&mut self, until: Instant) {
        let (desk, sessions) = (self.writing.desk, self.writing.sessions);
        match desk.ask(sessions, Question::Table, until).await {
            Some(Ok(standing)) if standing.contains(&Standing::Free) => {
                let members = std::mem::take(&mut self.held.table);
                self.send(members, Way::Usual).await;
            }
            Some(Err(Failure::Closed)) => self.close(),
            _ => {}
        }
    }

    async fn ask_for_rows(&mut self, until: Instant) {
        let (desk, sessions) = (self.writing.desk, self.writing.sessions);
        let question = Question::Rows(self.sought(&self.held.rows));
        let standing = match desk.ask(sessions, question, until).await {
            Some(Ok(standing)) => standing,
            Some(Err(Failure::Closed)) => return self.close(),
            _ => return,
        };
        let rows = std::mem::take(&mut self.held.rows);
        let mut free = Vec::new();
        for (index, standing) in rows.into_iter().zip(standing) {
            match standing {
                Standing::Held => self.held.rows.push(index),
                Standing::Free => free.push(index),
                Standing::Other => {
                    self.settle([index], &WriteOutcome::Conflict);
                    if let Some(write) = self.writes.get(index) {
                        desk.forget(&write.persistence_id);
                    }
                }
            }
        }
        // What is free and left out again and again is not left out for a lock: a trigger or a policy hides it.
        let (hidden, free): (Part, Part) = free
            .into_iter()
            .partition(|index| self.held.is_left_out_again(*index));
        if !free.is_empty() {
            self.send(free, Way::PastHeld).await;
        }
        if !hidden.is_empty() {
            self.send(hidden, Way::Usual).await;
        }
    }

    /// Tries those for which nothing can be asked, as long as this batch may.
    async fn try_suspects(&mut self, until: Instant) {
        let Some(_trial) = self.writing.desk.trial(until).await else {
            return;
        };
        let over = until.min(now() + TRIAL);
        if self.held.suspects.is_empty() {
            self.try_samples().await;
        }
        while !self.held.suspects.is_empty() && now() < over {
            let part = self.held.next_suspects();
            let stuck = self.held.stuck.len();
            self.send(part, Way::Trial).await;
            for index in self.held.stuck.iter().skip(stuck) {
                self.remember(*index);
            }
        }
        self.lease = None;
    }

    /// Tries some of those that each waited alone. When one goes through, what the others wait for may be over, too.
    async fn try_samples(&mut self) {
        for _ in 0..SAMPLES.min(self.held.stuck.len()) {
            let Some(sample) = self.held.stuck.pop_front() else {
                return;
            };
            self.held.together = 1;
            self.held.came_back = false;
            self.send(vec![sample], Way::Trial).await;
            if !self.held.came_back {
                let stuck = std::mem::take(&mut self.held.stuck);
                self.held.suspects.extend(stuck);
                return;
            }
        }
    }

    /// The store was closed.
    fn close(&mut self) {
        let held = self.held.take_all();
        self.fail(held, &StoreError::Closed);
    }
}

/// What the server says of a lock that was not there in time.
fn not_available() -> DatabaseError {
    DatabaseError {
        code: "55P03".into(),
        severity: "ERROR".into(),
        constraint: None,
    }
}
