//! What a live feed reads next, and what it makes of each page. No clock, no I/O.
//!
//! **Problem.** Rows become visible in another order than that of their times, and nobody says when.
//!
//! **How.** Three kinds of reads take turns.
//! - *Forward*: from the feed's offset to somewhat behind the database's time, in order. This alone moves the offset.
//! - *Own writes*: exactly the times and slices that the store says it wrote, at once and ahead of their turn. Between two
//!   such reads the feed rests as long as the last one took, so that it never fills the database with reads.
//! - *Back*: from the settled line to the offset, now and then, for transactions that committed late.
//!
//! The settled line is the instant before which every row was told: a row can be missed only by a transaction that was
//! open when its time was read, and such a one took its time at most a window before that. A row that was told is
//! left out by what the feed remembers.
//!
//! An offset is handed out only where a feed that resumes from it looks back to the settled line or beyond: two windows,
//! since the line is up to a window and a half behind while the feed looks back every half of one.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::memory::Memory;
use crate::changes::settings::{FeedSettings, InvalidFeedSettings};
use crate::changes::{ChangesPage, ChangesQuery, StateChange, TimestampOffset};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::{Span, StoredState};

/// The step between two instants of the database.
const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// A live feed between two reads.
#[derive(Debug)]
pub(super) struct Core {
    entity_type: Box<str>,
    slices: SliceRange,
    limit: NonZeroUsize,
    behind: TimeDelta,
    window: TimeDelta,
    settings: FeedSettings,
    forward: Forward,
    /// Times of own writes that nobody has looked at.
    written: Option<Span>,
    own: Option<Walk>,
    own_rests_until: Option<Instant>,
    back: Option<Back>,
    /// Every row before this instant was read, or never will be visible.
    settled: DateTime<Utc>,
    /// The same for rows that were told.
    told_until: DateTime<Utc>,
    /// While looking forward settles what it reads: rows before this instant are settled when they are told.
    settles_before: Option<DateTime<Utc>>,
    /// The database's time when the feed last looked back.
    looked_back_at: Option<DateTime<Utc>>,
    memory: Memory,
    ready: VecDeque<Ready>,
    last: Kind,
    /// When the last page was asked for.
    asked_at: Option<Instant>,
    retry: Retry,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Read this page and give the answer to [`Core::on_answer`].
    Read(ChangesQuery),
    /// Wait until then, or until something was written.
    Wait(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Forward,
    Own,
    Back,
}

#[derive(Debug)]
struct Forward {
    /// Behind what was read.
    read: TimestampOffset,
    /// Behind what was told.
    told: TimestampOffset,
    /// `None` for at once.
    due: Option<Instant>,
    /// Whether everything that was there when the feed began was read.
    has_caught_up: bool,
    /// The own writes named before the read that is under way.
    written_before: Option<Span>,
}

/// A read of a stretch of time, page by page.
#[derive(Debug)]
struct Walk {
    read: TimestampOffset,
    until: DateTime<Utc>,
    slices: SliceRange,
}

#[derive(Debug)]
struct Back {
    walk: Walk,
    /// The database's time when it began.
    begun_at: DateTime<Utc>,
}

/// What comes out next.
#[derive(Debug)]
enum Ready {
    /// A change in its turn: the offset goes on behind it.
    InTurn(StoredState),
    /// One that was told out of turn: only the offset goes on.
    Told(PersistenceId, DateTime<Utc>, Revision),
    /// A change out of turn: the offset stays.
    OutOfTurn(StoredState),
    /// Nothing: every row before this instant was told.
    Settled(DateTime<Utc>),
}

#[derive(Debug, Default)]
struct Retry {
    /// Errors in a row.
    errors: u32,
    at: Option<Instant>,
}

impl Core {
    pub(super) fn new(
        entity_type: &str,
        slices: SliceRange,
        offset: TimestampOffset,
        settings: FeedSettings,
    ) -> Result<Self, InvalidFeedSettings> {
        settings.validate()?;
        // A year is far from what a TimeDelta holds.
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or_default();
        let window = delta(settings.backtracking_window);
        let mut memory = Memory::new(settings.remembered_max);
        for (id, revision) in offset.seen.iter() {
            memory.note(id.clone(), offset.timestamp, *revision);
        }
        // Whoever stored the offset may have missed what was open then. Nothing is before the beginning.
        let settled = if offset.timestamp == DateTime::UNIX_EPOCH {
            offset.timestamp
        } else {
            before(offset.timestamp, window * 2)
        };
        Ok(Self {
            entity_type: entity_type.into(),
            slices,
            limit: settings.buffer_size,
            behind: delta(settings.behind_current_time),
            window,
            forward: Forward {
                read: offset.clone(),
                told: offset,
                due: None,
                has_caught_up: false,
                written_before: None,
            },
            written: None,
            own: None,
            own_rests_until: None,
            back: None,
            settled,
            told_until: settled,
            settles_before: None,
            looked_back_at: None,
            memory,
            ready: VecDeque::new(),
            last: Kind::Back,
            asked_at: None,
            retry: Retry::default(),
            settings,
        })
    }

    /// The next change that was read and not told yet.
    pub(super) fn next_change(&mut self) -> Option<StateChange> {
        while let Some(ready) = self.ready.pop_front() {
            match ready {
                Ready::Told(id, at, revision) => self.go_on(&id, at, revision),
                Ready::InTurn(state) => {
                    self.go_on(&state.persistence_id, state.db_timestamp, state.revision);
                    return Some(self.tell(state));
                }
                Ready::OutOfTurn(state) => return Some(self.tell(state)),
                Ready::Settled(until) => self.told_until = self.told_until.max(until),
            }
        }
        None
    }

    /// Moves the offset behind a row.
    fn go_on(&mut self, id: &PersistenceId, at: DateTime<Utc>, revision: Revision) {
        self.forward.told.see(id, at, revision);
        if let Some(before) = self.settles_before {
            self.told_until = self.told_until.max(at.min(before));
        }
    }

    fn tell(&self, state: StoredState) -> StateChange {
        let told = &self.forward.told;
        let farthest = after(self.told_until, self.window * 2);
        let is_safe = told.timestamp <= farthest || self.window.is_zero();
        StateChange {
            state,
            offset: if is_safe {
                told.clone()
            } else {
                TimestampOffset::at(farthest)
            },
        }
    }

    /// The store has written at these times.
    pub(super) fn on_written(&mut self, span: Span) {
        self.written = joined(self.written, Some(span));
    }

    /// What to do now. The kinds of reads take turns, so that none starves another.
    pub(super) fn next_step(&mut self, now: Instant) -> Step {
        if let Some(at) = self.retry.at.filter(|at| *at > now) {
            return Step::Wait(at);
        }
        let turns = match self.last {
            Kind::Forward => [Kind::Own, Kind::Back, Kind::Forward],
            Kind::Own => [Kind::Back, Kind::Forward, Kind::Own],
            Kind::Back => [Kind::Forward, Kind::Own, Kind::Back],
        };
        for kind in turns {
            if let Some(query) = self.query(kind, now) {
                self.last = kind;
                self.asked_at = Some(now);
                return Step::Read(query);
            }
        }
        let due = self.forward.due.unwrap_or(now);
        let has_own = self.own.is_some() || self.written.is_some();
        let rested = self
            .own_rests_until
            .filter(|_| has_own && self.forward.has_caught_up);
        Step::Wait(rested.map_or(due, |rested| rested.min(due)))
    }

    /// Takes the answer to the query that [`Core::next_step`] gave last.
    ///
    /// # Errors
    /// That of the answer; [`StoreError::TooLarge`] where a page is full of one instant. The feed goes on after it:
    /// it will ask the same again, later each time.
    pub(super) fn on_answer(
        &mut self,
        answer: Result<ChangesPage, StoreError>,
        now: Instant,
    ) -> Result<(), StoreError> {
        let taken = answer.and_then(|page| match self.last {
            Kind::Forward => self.on_forward(page, now),
            Kind::Own => {
                let took = self.asked_at.map(|asked_at| now - asked_at);
                self.own_rests_until = took.map(|took| now + took);
                self.on_own(page)
            }
            Kind::Back => self.on_back(page),
        });
        let before = self.forward.written_before.take();
        self.written = joined(self.written, before);
        match taken {
            Ok(()) => {
                self.retry = Retry::default();
                Ok(())
            }
            Err(error) => {
                self.retry.after_error(&self.settings, now);
                Err(error)
            }
        }
    }

    fn query(&mut self, kind: Kind, now: Instant) -> Option<ChangesQuery> {
        let (from, until, slices) = match kind {
            Kind::Forward => {
                let forward = &mut self.forward;
                if forward.due.is_some_and(|due| due > now) {
                    return None;
                }
                // What is written from now on may be invisible to this read.
                forward.written_before = self.written.take();
                (forward.read.timestamp, None, self.slices)
            }
            Kind::Own => {
                if self.own_rests_until.is_some_and(|until| until > now) {
                    return None;
                }
                // Until it has caught up, looking forward gets there by itself, and in order.
                if self.own.is_none() && self.forward.has_caught_up {
                    self.own = self.written.take().map(|span| Walk {
                        read: TimestampOffset::at(span.first),
                        until: after(span.last, MICROSECOND),
                        slices: span.slices,
                    });
                }
                let walk = self.own.as_ref()?;
                (walk.read.timestamp, Some(walk.until), walk.slices)
            }
            Kind::Back => {
                let walk = &self.back.as_ref()?.walk;
                (walk.read.timestamp, Some(walk.until), walk.slices)
            }
        };
        Some(ChangesQuery {
            entity_type: self.entity_type.clone(),
            slices,
            from,
            until,
            limit: self.limit,
        })
    }

    fn on_forward(&mut self, page: ChangesPage, now: Instant) -> Result<(), StoreError> {
        let from = self.forward.read.timestamp;
        let database_now = page.until;
        let bound = before(database_now, self.behind);
        let rows = page.states.len();
        let is_full = rows >= self.limit.get();
        let in_one_instant = page.states.iter().all(|state| state.db_timestamp == from);
        let (mut taken, mut reached_bound, mut withheld) = (0, false, false);
        for state in page.states {
            let (id, at) = (&state.persistence_id, state.db_timestamp);
            if at >= bound {
                reached_bound = true;
                withheld |= !self.memory.knows(&state);
            } else if self.forward.read.see(id, at, state.revision) {
                taken += 1;
                self.ready.push_back(if self.memory.knows(&state) {
                    Ready::Told(state.persistence_id, at, state.revision)
                } else {
                    self.memory.note(id.clone(), at, state.revision);
                    Ready::InTurn(state)
                });
            }
        }
        if is_full && taken == 0 && in_one_instant {
            return Err(one_instant(rows));
        }
        let read = self.forward.read.timestamp;
        let caught_up = !is_full || reached_bound;
        self.forward.has_caught_up |= caught_up;
        self.forward.due = caught_up.then(|| {
            let refresh = self.settings.refresh_interval;
            now + if withheld {
                refresh.min(self.settings.behind_current_time)
            } else if taken > self.limit.get() / 10 {
                refresh / 2
            } else {
                refresh
            }
        });
        let covered = if caught_up { bound } else { read };
        // Rows of own writes that were visible to this read need not be looked for.
        if let Some(span) = self.forward.written_before.as_mut()
            && span.first >= from
        {
            span.first = span.first.max(covered);
            if span.first > span.last {
                self.forward.written_before = None;
            }
        }
        self.settles_before = None;
        if self.settled >= from {
            // Nothing was open behind the offset, so this look forward is a look back as well.
            self.settles_before = Some(before(database_now, self.window));
            self.settle(covered, database_now);
        }
        self.look_back_where_due(database_now);
        Ok(())
    }

    fn on_own(&mut self, page: ChangesPage) -> Result<(), StoreError> {
        let Some(mut walk) = self.own.take() else {
            return Ok(());
        };
        // A walk that cannot go on is dropped: looking forward will say the same again.
        if walk.take(page, self.limit, &mut self.memory, &mut self.ready)? {
            self.own = Some(walk);
        }
        Ok(())
    }

    fn on_back(&mut self, page: ChangesPage) -> Result<(), StoreError> {
        let Some(back) = self.back.as_mut() else {
            return Ok(());
        };
        let walk = &mut back.walk;
        if !walk.take(page, self.limit, &mut self.memory, &mut self.ready)? {
            let (until, begun_at) = (walk.until, back.begun_at);
            self.back = None;
            self.settle(until, begun_at);
        }
        Ok(())
    }

    /// Every row before `covered` that was visible at `looked_at`, by the database's time, was told.
    fn settle(&mut self, covered: DateTime<Utc>, looked_at: DateTime<Utc>) {
        let open = before(looked_at, self.window);
        self.settled = self.settled.max(covered.min(open));
        self.ready.push_back(Ready::Settled(self.settled));
        self.looked_back_at = Some(looked_at);
        self.memory.forget_before(self.settled);
    }

    fn look_back_where_due(&mut self, database_now: DateTime<Utc>) {
        let offset = self.forward.read.timestamp;
        // Both ways, since the database's clock may be set back.
        let is_due = self
            .looked_back_at
            .is_none_or(|at| (database_now - at).abs() >= self.window / 2);
        if self.window > TimeDelta::zero() && self.back.is_none() && is_due && self.settled < offset
        {
            self.back = Some(Back {
                walk: Walk {
                    read: TimestampOffset::at(self.settled),
                    until: offset,
                    slices: self.slices,
                },
                begun_at: database_now,
            });
        }
    }
}

impl Walk {
    /// Takes out of a page what was not told yet; whether there may be more.
    fn take(
        &mut self,
        page: ChangesPage,
        limit: NonZeroUsize,
        memory: &mut Memory,
        ready: &mut VecDeque<Ready>,
    ) -> Result<bool, StoreError> {
        let rows = page.states.len();
        let mut is_new = false;
        for state in page.states {
            let (id, at) = (&state.persistence_id, state.db_timestamp);
            if self.read.see(id, at, state.revision) {
                is_new = true;
                if !memory.knows(&state) {
                    memory.note(id.clone(), at, state.revision);
                    ready.push_back(Ready::OutOfTurn(state));
                }
            }
        }
        let is_full = rows >= limit.get();
        if is_full && !is_new {
            return Err(one_instant(rows));
        }
        Ok(is_full)
    }
}

impl Retry {
    fn after_error(&mut self, settings: &FeedSettings, now: Instant) {
        let factor = 2_u32.saturating_pow(self.errors);
        self.errors = self.errors.saturating_add(1);
        let delay: Duration = settings.min_backoff.saturating_mul(factor);
        self.at = Some(now + delay.min(settings.max_backoff));
    }
}

fn joined(left: Option<Span>, right: Option<Span>) -> Option<Span> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.joined(right)),
        (one, other) => one.or(other),
    }
}

fn before(instant: DateTime<Utc>, delta: TimeDelta) -> DateTime<Utc> {
    let earlier = instant.checked_sub_signed(delta);
    earlier.unwrap_or(DateTime::<Utc>::MIN_UTC)
}

fn after(instant: DateTime<Utc>, delta: TimeDelta) -> DateTime<Utc> {
    let later = instant.checked_add_signed(delta);
    later.unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// The error of a page that holds nothing but rows of one instant, all of them known.
fn one_instant(rows: usize) -> StoreError {
    StoreError::TooLarge {
        what: "the number of states written at one instant",
        actual: rows,
        limit: rows.saturating_sub(1),
    }
}

#[cfg(test)]
mod tests;
