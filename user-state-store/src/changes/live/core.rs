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
//! Each read goes through its stretch of time page by page, as `changes/scan.rs` says.
//!
//! An offset is handed out only where a feed that resumes from it looks back to the settled line or beyond: two windows,
//! since the line is up to a window and a half behind while the feed looks back every half of one.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::memory::Memory;
use crate::changes::scan::{Progress, Scan};
use crate::changes::settings::FeedSettings;
use crate::changes::{
    ChangesPage, ChangesQuery, PageEnd, RowKey, StateChange, TimestampOffset, UnreadableChange,
    UnreadableRow,
};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::settings::InvalidSetting;
use crate::slice::SliceRange;
use crate::store::{Span, StoredState};

/// The step between two instants of the database.
const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// How many rows of an instant may be cleared away instead of given back.
const INSTANT_ROWS_KEPT: usize = 1_000;

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
    /// Where the feed began.
    begun: TimestampOffset,
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
    read: Instants,
    /// What is read next.
    scan: Scan,
    /// The instant that the scan began inside of, if it did not begin with all of its rows.
    begun_inside: Option<DateTime<Utc>>,
    /// Behind what was told.
    told: TimestampOffset,
    /// `None` for at once.
    due: Option<Instant>,
    /// Whether everything that was there when the feed began was read.
    has_caught_up: bool,
    /// The own writes named before the read that is under way.
    written_before: Option<Span>,
}

/// The last instant of which a row was read, and what was read of it.
#[derive(Debug)]
struct Instants {
    at: DateTime<Utc>,
    seen: HashMap<PersistenceId, Revision>,
    last: Option<RowKey>,
}

/// A read of a stretch of time, page by page.
#[derive(Debug)]
struct Walk {
    scan: Scan,
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
    /// A row that cannot be read.
    Unreadable(Box<UnreadableRow>),
    /// Nothing: every row before this instant was told.
    Settled(DateTime<Utc>),
}

/// What an answer does to a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    GoesOn,
    /// It met a row that it cannot read, and will try again.
    IsStuck,
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
    ) -> Result<Self, InvalidSetting> {
        settings.validate()?;
        let limit = NonZeroUsize::new(settings.buffer_size).unwrap_or(NonZeroUsize::MIN);
        // A year is far from what a TimeDelta holds.
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or_default();
        let window = delta(settings.backtracking_window);
        let mut memory = Memory::new(settings.remembered_max);
        let seen = offset.seen.to_map();
        for (id, revision) in &seen {
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
            limit,
            behind: delta(settings.behind_current_time),
            window,
            forward: Forward {
                read: Instants {
                    at: offset.timestamp,
                    seen: seen.into_iter().collect(),
                    last: None,
                },
                scan: Scan::new(offset.timestamp, limit),
                begun_inside: None,
                told: offset.clone(),
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
            begun: offset,
            ready: VecDeque::new(),
            last: Kind::Back,
            asked_at: None,
            retry: Retry::default(),
            settings,
        })
    }

    /// The next change that was read and not told yet, or the row that cannot be read.
    pub(super) fn next_change(&mut self) -> Option<Result<StateChange, StoreError>> {
        while let Some(ready) = self.ready.pop_front() {
            match ready {
                Ready::Told(id, at, revision) => self.go_on(id, at, revision),
                Ready::InTurn(state) => {
                    let id = state.persistence_id.clone();
                    self.go_on(id, state.db_timestamp, state.revision);
                    return Some(Ok(self.tell(state)));
                }
                Ready::OutOfTurn(state) => return Some(Ok(self.tell(state))),
                Ready::Unreadable(row) => return Some(Err(self.unreadable(*row))),
                Ready::Settled(until) => self.told_until = self.told_until.max(until),
            }
        }
        None
    }

    /// Moves the offset behind a row.
    fn go_on(&mut self, id: PersistenceId, at: DateTime<Utc>, revision: Revision) {
        self.forward.told.go_on(id, at, revision);
        if let Some(before) = self.settles_before {
            self.told_until = self.told_until.max(at.min(before));
        }
    }

    fn tell(&self, state: StoredState) -> StateChange {
        StateChange {
            state,
            offset: self.offset(),
        }
    }

    /// The offset behind what was told, or as near to it as is safe.
    fn offset(&self) -> TimestampOffset {
        let told = &self.forward.told;
        let farthest = after(self.told_until, self.window * 2);
        let is_safe = told.timestamp <= farthest || self.window.is_zero();
        if is_safe {
            told.clone()
        } else {
            TimestampOffset::at(farthest)
        }
    }

    fn unreadable(&self, row: UnreadableRow) -> StoreError {
        let told = &self.forward.told;
        let behind = if row.db_timestamp < told.timestamp {
            self.offset()
        } else {
            let mut behind = told.clone();
            behind.go_on(row.persistence_id.clone(), row.db_timestamp, row.seen_as());
            behind
        };
        StoreError::UnreadableChange(Box::new(UnreadableChange { row, behind }))
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
    /// That of the answer. The feed goes on after it: it will ask the same again, later each time.
    pub(super) fn on_answer(
        &mut self,
        answer: Result<ChangesPage, StoreError>,
        now: Instant,
    ) -> Result<(), StoreError> {
        let taken = answer.map(|page| match self.last {
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
        let (goes_on, result) = match taken {
            Ok(Reading::GoesOn) => (true, Ok(())),
            Ok(Reading::IsStuck) => (false, Ok(())),
            Err(error) => (false, Err(error)),
        };
        if goes_on {
            self.retry = Retry::default();
        } else {
            self.retry.after_error(&self.settings, now);
        }
        result
    }

    fn query(&mut self, kind: Kind, now: Instant) -> Option<ChangesQuery> {
        let (scan, until, slices) = match kind {
            Kind::Forward => {
                let forward = &mut self.forward;
                if forward.due.is_some_and(|due| due > now) {
                    return None;
                }
                // What is written from now on may be invisible to this read.
                forward.written_before = self.written.take();
                (&forward.scan, None, self.slices)
            }
            Kind::Own => {
                if self.own_rests_until.is_some_and(|until| until > now) {
                    return None;
                }
                // Until it has caught up, looking forward gets there by itself, and in order.
                if self.own.is_none() && self.forward.has_caught_up {
                    self.own = self.written.take().map(|span| Walk {
                        scan: Scan::new(span.first, self.limit),
                        until: after(span.last, MICROSECOND),
                        slices: span.slices,
                    });
                }
                let walk = self.own.as_ref()?;
                (&walk.scan, Some(walk.until), walk.slices)
            }
            Kind::Back => {
                let walk = &self.back.as_ref()?.walk;
                (&walk.scan, Some(walk.until), walk.slices)
            }
        };
        Some(scan.query(&self.entity_type, slices, until))
    }

    fn on_forward(&mut self, page: ChangesPage, now: Instant) -> Reading {
        let (from, is_whole) = (self.forward.scan.from(), self.forward.scan.begins_whole());
        let settles = self.settled > from
            || (self.settled == from && self.forward.begun_inside != Some(from));
        let database_now = page.until;
        let bound = before(database_now, self.behind);
        let progress = self.forward.scan.on_page(&page);
        let (mut taken, mut reached_bound, mut withheld) = (0, false, false);
        for state in page.states {
            let (id, at, revision) = (&state.persistence_id, state.db_timestamp, state.revision);
            if at >= bound {
                reached_bound = true;
                withheld |= !self.memory.knows(id, at, revision);
            } else if self.forward.read.see(id, at, revision) {
                taken += 1;
                self.ready
                    .push_back(if self.memory.knows(id, at, revision) {
                        Ready::Told(state.persistence_id, at, revision)
                    } else {
                        self.memory.note(id.clone(), at, revision);
                        Ready::InTurn(state)
                    });
            }
        }
        let mut reading = Reading::GoesOn;
        if let PageEnd::Unreadable(row) = page.end {
            if row.db_timestamp >= bound {
                reached_bound = true;
                withheld = true;
            } else if self.passes_over(&row) {
                self.forward.scan.go_behind(row.db_timestamp, row.key());
            } else {
                self.ready.push_back(Ready::Unreadable(row));
                reading = Reading::IsStuck;
            }
        }
        // What lies between the bound and the end of the page may become visible yet.
        let caught_up = progress == Progress::Done
            || reached_bound
            || (reading == Reading::GoesOn && self.forward.scan.from() >= bound);
        self.forward.has_caught_up |= caught_up;
        self.forward.due = caught_up.then(|| now + self.rest(taken, withheld));
        let covered = if caught_up {
            self.forward.begin_again(self.limit);
            bound
        } else {
            self.forward.scan.from()
        };
        // The next look forward comes at once, and goes on inside this instant.
        let visible = if caught_up {
            covered
        } else {
            after(covered, MICROSECOND)
        };
        self.forward.forget_written((from, is_whole), visible);
        self.settles_before = None;
        if settles {
            // Nothing was open behind the offset, so this look forward is a look back as well.
            self.settles_before = Some(before(database_now, self.window));
            self.settle(covered, database_now);
        }
        self.look_back_where_due(database_now);
        reading
    }

    /// How long to wait before looking forward again.
    fn rest(&self, taken: usize, withheld: bool) -> Duration {
        let refresh = self.settings.refresh_interval;
        if withheld {
            refresh.min(self.settings.behind_current_time)
        } else if taken > self.limit.get() / 10 {
            refresh / 2
        } else {
            refresh
        }
    }

    fn on_own(&mut self, page: ChangesPage) -> Reading {
        let Some(mut walk) = self.own.take() else {
            return Reading::GoesOn;
        };
        let (progress, reading) = self.walk_on(&mut walk, page);
        if progress == Progress::More {
            self.own = Some(walk);
        }
        reading
    }

    fn on_back(&mut self, page: ChangesPage) -> Reading {
        let Some(mut back) = self.back.take() else {
            return Reading::GoesOn;
        };
        let (progress, reading) = self.walk_on(&mut back.walk, page);
        match progress {
            Progress::More => self.back = Some(back),
            Progress::Done => self.settle(back.walk.until, back.begun_at),
        }
        reading
    }

    /// Takes out of a page of a walk what was not told yet.
    fn walk_on(&mut self, walk: &mut Walk, page: ChangesPage) -> (Progress, Reading) {
        let progress = walk.scan.on_page(&page);
        for state in page.states {
            let (id, at, revision) = (&state.persistence_id, state.db_timestamp, state.revision);
            if !self.memory.knows(id, at, revision) {
                self.memory.note(id.clone(), at, revision);
                self.ready.push_back(Ready::OutOfTurn(state));
            }
        }
        let PageEnd::Unreadable(row) = page.end else {
            return (progress, Reading::GoesOn);
        };
        if self.passes_over(&row) {
            walk.scan.go_behind(row.db_timestamp, row.key());
            return (progress, Reading::GoesOn);
        }
        self.ready.push_back(Ready::Unreadable(row));
        (progress, Reading::IsStuck)
    }

    /// Whether the feed goes on behind a row that it cannot read: the offset that it began at is behind that row. What the
    /// offset does not name is reported once.
    fn passes_over(&mut self, row: &UnreadableRow) -> bool {
        let (id, at, revision) = (&row.persistence_id, row.db_timestamp, row.seen_as());
        let begun = &self.begun;
        let is_named =
            at == begun.timestamp && begun.seen.get(id).is_some_and(|seen| seen >= revision);
        if is_named {
            return true;
        }
        let is_before = at < begun.timestamp;
        if is_before && !self.memory.knows(id, at, revision) {
            self.memory.note(id.clone(), at, revision);
            self.ready
                .push_back(Ready::Unreadable(Box::new(row.clone())));
        }
        is_before
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
        let offset = self.forward.read.at;
        // Both ways, since the database's clock may be set back.
        let is_due = self
            .looked_back_at
            .is_none_or(|at| (database_now - at).abs() >= self.window / 2);
        // Where looking forward begins inside an instant, nobody else looks at the whole of it.
        let until = if self.forward.reads_whole_instants(self.limit) {
            offset
        } else {
            after(offset, MICROSECOND)
        };
        if self.window > TimeDelta::zero() && self.back.is_none() && is_due && self.settled < until
        {
            self.back = Some(Back {
                walk: Walk {
                    scan: Scan::new(self.settled, self.limit),
                    until,
                    slices: self.slices,
                },
                begun_at: database_now,
            });
        }
    }
}

impl Forward {
    /// Whether each look begins with all rows of the last instant: late ones among them come in their turn then. An instant
    /// of many rows is not read again for each look.
    fn reads_whole_instants(&self, limit: NonZeroUsize) -> bool {
        self.read.seen.len() <= limit.get() / 2
    }

    /// Rows of own writes that were visible to a read need not be looked for: a read from an instant, of all its rows or
    /// not, to another one.
    fn forget_written(&mut self, (from, is_whole): (DateTime<Utc>, bool), to: DateTime<Utc>) {
        if let Some(span) = self.written_before.as_mut()
            && (span.first > from || (span.first == from && is_whole))
        {
            span.first = span.first.max(to);
            if span.first > span.last {
                self.written_before = None;
            }
        }
    }

    /// The next look begins at the last row that was read.
    fn begin_again(&mut self, limit: NonZeroUsize) {
        let at = self.read.at;
        let inside = (!self.reads_whole_instants(limit))
            .then(|| self.read.last.clone())
            .flatten();
        self.begun_inside = inside.is_some().then_some(at);
        self.scan = match inside {
            Some(last) => Scan::behind(at, last, limit),
            None => Scan::new(at, limit),
        };
    }
}

impl Instants {
    /// Goes on to a row, unless it was seen; whether it was not.
    fn see(&mut self, id: &PersistenceId, at: DateTime<Utc>, revision: Revision) -> bool {
        match at.cmp(&self.at) {
            Ordering::Less => return false,
            Ordering::Equal => {
                if self.seen.get(id).is_some_and(|seen| *seen >= revision) {
                    return false;
                }
            }
            Ordering::Greater => {
                self.at = at;
                // To clear a map takes as long as it is large, and the next instants have few rows.
                if self.seen.len() > INSTANT_ROWS_KEPT {
                    self.seen = HashMap::new();
                } else {
                    self.seen.clear();
                }
            }
        }
        self.seen.insert(id.clone(), revision);
        self.last = Some(RowKey {
            revision: revision.get(),
            persistence_id: id.clone(),
        });
        true
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

#[cfg(test)]
mod tests;
