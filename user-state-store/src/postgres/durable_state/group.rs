//! Writes of one kind, sent in parts until each has its outcome.
//!
//! **Problem.** A statement succeeds or fails as a whole. **How.** A part that is refused is cut, see `cuts.rs`; one that
//! meets a row which somebody else holds is sent again without that row, which is written apart, see `held.rs`; one that
//! lost against a concurrent transaction is sent again as it is; one whose answer was lost is unknown, all of it.
//!
//! No part is sent later than the lock time-out after the first one, and a call is given up after the statement time-out
//! and a second: so the last outcome comes within the sum of these.

use crate::cuts::{Cuts, Part, Verdict};
use crate::deadline::now;
use crate::error::{Cause, StoreError};
use crate::postgres::connection::lock_timeout;
use crate::postgres::durable_state::carried::Carried;
use crate::postgres::durable_state::create::{self, Halt, Patience};
use crate::postgres::durable_state::held::Held;
use crate::postgres::durable_state::locked::{self, Sought, Standing};
use crate::postgres::durable_state::update::{self, Rows};
use crate::postgres::durable_state::write::{Answer, Kind, Writing};
use crate::postgres::error::{Failure, Taken};
use crate::postgres::session::Lease;
use crate::store::{Settled, UnknownOutcome, Write, WriteOutcome};
use std::time::Instant;

/// How often a part of a batch is sent again after a deadlock. One side of a deadlock always goes through, so
/// more than a few in a row mean something else.
const CONTENDED_MAX: u32 = 5;

/// How often in succession a part waited for a lock, and then none of its rows was found held.
const LOOKED_IN_VAIN_MAX: u32 = 2;

/// Why a part was not sent: others of its batch took all the time there is.
const UNSENT: Cause = Cause::other("the rest of its batch took too long, so it was not sent");

/// How a part meets rows that somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It waits for them, as long as the session's lock time-out allows.
    Usual,
    /// It leaves them out, and looks for them at once: more of them are expected than usual.
    Wary,
    /// It leaves them out; those are held still.
    PastHeld,
    /// It waits for them as shortly as can be.
    Trial,
}

/// Writes of one kind in flight.
pub(super) struct Group<'batch> {
    pub(super) writing: Writing<'batch>,
    pub(super) kind: Kind,
    /// Those of the whole batch.
    pub(super) writes: &'batch [Write],
    pub(super) lease: Option<Lease<'batch>>,
    first_sent: Option<Instant>,
    pub(super) settled: Vec<Settled>,
    pub(super) held: Held,
    is_at_work: bool,
    looked_in_vain: u32,
}

/// What became of a part.
enum Sent {
    /// Each of its writes has an outcome. Whether any was applied.
    Settled { applied: bool },
    /// The server refused it, and a single row may be the reason.
    Refused(Failure),
    /// The guards at these places of the batch do not hold, and nothing was applied.
    Fenced(Vec<usize>),
    /// It waited for a lock in vain.
    Locked,
    /// It was not sent, since somebody holds the whole table.
    TableHeld,
    /// There is no session to send anything with.
    NoSession(Failure),
}

impl<'batch> Group<'batch> {
    /// A group that reports these outcomes together with its own.
    pub(super) fn new(writing: Writing<'batch>, kind: Kind, settled: Vec<Settled>) -> Self {
        Self {
            writing,
            kind,
            writes: writing.batch.writes(),
            lease: None,
            first_sent: None,
            settled,
            held: Held::default(),
            is_at_work: true,
            looked_in_vain: 0,
        }
    }

    /// Writes these of the batch, and gives the outcomes that were not reported early.
    pub(super) async fn run(mut self, members: Part) -> Vec<Settled> {
        let members = self.set_known_apart(members);
        if !members.is_empty() {
            let way = match self.kind {
                Kind::Update | Kind::Erase if self.writing.desk.is_wary() => Way::Wary,
                _ => Way::Usual,
            };
            self.send(members, way).await;
        }
        if !self.held.is_empty() {
            Box::pin(self.write_held()).await;
        }
        self.pause();
        self.settled
    }

    /// Until when parts are sent, and held rows are tried.
    pub(super) fn patience(&mut self) -> Instant {
        let first_sent = *self.first_sent.get_or_insert_with(now);
        first_sent + lock_timeout(self.writing.settings)
    }

    /// Reports what is settled, since the rest takes longer.
    pub(super) fn report_early(&mut self) {
        let settled = std::mem::take(&mut self.settled);
        self.writing.reports.settled(settled);
    }

    /// What is open of this group waits for somebody else, or there is nothing.
    pub(super) fn pause(&mut self) {
        if std::mem::take(&mut self.is_at_work) {
            self.writing.reports.pause();
        }
    }

    /// Sends these writes, cut in parts where it must be. Those that are held are set apart.
    pub(super) async fn send(&mut self, members: Part, way: Way) {
        let mut cuts = Cuts::of(members);
        while let Some(part) = cuts.next() {
            match self.send_part(&part, way).await {
                Sent::Settled { applied } => {
                    cuts.answered(applied);
                    if way == Way::Wary {
                        self.look_for_held(&mut cuts).await;
                    }
                }
                Sent::Refused(failure) => {
                    if let Verdict::Fail(rows) = cuts.refused(part, failure.code()) {
                        self.fail(rows, &failure.into());
                    }
                }
                Sent::Fenced(lost) => self.fence(part, &lost, &mut cuts),
                Sent::Locked if matches!(way, Way::Usual | Way::Wary) => {
                    self.set_apart(part, &mut cuts).await;
                }
                Sent::Locked => self.held.ran_into(part),
                Sent::TableHeld => {
                    self.held.table.extend(part);
                    self.held.table.extend(cuts.take_rest());
                }
                Sent::NoSession(failure) => {
                    let error = failure.into();
                    self.fail(part, &error);
                    // What cannot get a session now will not get one at once either.
                    self.fail(cuts.take_rest(), &error);
                }
            }
            if !cuts.is_empty() {
                if self.patience() <= now() {
                    let error = StoreError::Unavailable(UNSENT);
                    self.fail(cuts.take_rest(), &error);
                    return;
                }
                self.report_early();
            }
        }
    }

    /// Sends a part until it is known what follows.
    async fn send_part(&mut self, part: &[usize], way: Way) -> Sent {
        let writes: Vec<&Write> = part
            .iter()
            .filter_map(|index| self.writes.get(*index))
            .collect();
        let carried = Carried::of(self.writing.batch, part, &writes);
        let has_companions = carried.as_ref().is_some_and(Carried::has_companions);
        let (mut contended, mut was_unfit) = (0, false);
        loop {
            let leased = match self.lease.take() {
                Some(lease) => Ok(lease),
                None => self.writing.sessions.lease().await,
            };
            let mut lease = match leased {
                Ok(lease) => lease,
                Err(failure) => return Sent::NoSession(failure),
            };
            // Found out by others, perhaps, while this waited for a session.
            if matches!(way, Way::Usual | Way::Wary) && self.writing.desk.table_is_held() {
                self.lease = Some(lease);
                return Sent::TableHeld;
            }
            self.first_sent.get_or_insert_with(now);
            let session = lease.identity();
            let answer = self.call(&mut lease, &writes, carried.as_ref(), way).await;
            self.lease = lease.is_usable().then_some(lease);
            let failure = match answer {
                Ok(answers) => return self.answer(part, answers, way),
                Err(Halt::Unknown(failure)) => {
                    let cause = failure.into();
                    let unknown = WriteOutcome::Unknown(UnknownOutcome { session, cause });
                    self.writing.count_unknown(part.len());
                    self.settle(part.iter().copied(), &unknown);
                    return Sent::Settled { applied: false };
                }
                Err(Halt::Fenced(lost)) => return Sent::Fenced(lost),
                Err(Halt::NotApplied(failure)) => failure,
            };
            match failure {
                Failure::Contended(_) if contended < CONTENDED_MAX && now() < self.patience() => {
                    contended += 1;
                }
                // This session cannot do it; another one may.
                Failure::Unfit(_) if !was_unfit => {
                    was_unfit = true;
                    if let Some(mut lease) = self.lease.take() {
                        lease.discard();
                    }
                }
                Failure::Locked(_) => return Sent::Locked,
                // By another table than that of the states: the companion of a single write is refused.
                Failure::Taken(Taken {
                    elsewhere: true,
                    error,
                }) if has_companions && part.len() == 1 => {
                    return Sent::Refused(Failure::Refused(error));
                }
                Failure::Taken(_) if part.len() == 1 => {
                    self.settle(part.iter().copied(), &WriteOutcome::Conflict);
                    return Sent::Settled { applied: false };
                }
                failure if failure.may_concern_a_row() => return Sent::Refused(failure),
                // No session can, perhaps for a table of companions that is not there.
                failure @ Failure::Unfit(_) if has_companions => return Sent::Refused(failure),
                failure => {
                    self.fail(part.to_vec(), &failure.into());
                    return Sent::Settled { applied: false };
                }
            }
        }
    }

    async fn call(
        &self,
        lease: &mut Lease<'_>,
        writes: &[&Write],
        carried: Option<&Carried<'_>>,
        way: Way,
    ) -> Result<Vec<Answer>, Halt> {
        let payload_column = self.writing.settings.payload_column;
        let rows = match way {
            Way::PastHeld | Way::Wary => Rows::Free,
            Way::Usual | Way::Trial => Rows::All,
        };
        match self.kind {
            Kind::Update => update::update(lease, writes, carried, payload_column, rows).await,
            Kind::Erase => update::erase(lease, writes, carried, rows).await,
            Kind::Create => {
                let patience = match way {
                    Way::Usual | Way::Wary | Way::PastHeld => Patience::Usual,
                    Way::Trial => Patience::Little,
                };
                create::create(lease, writes, carried, payload_column, patience).await
            }
        }
    }

    /// Guards of a part do not hold: its other writes are sent again.
    fn fence(&mut self, part: Part, lost: &[usize], cuts: &mut Cuts) {
        let is_lost = |index: &usize| {
            let guards = self.writing.batch.guards();
            let place = guards.and_then(|guards| guards.place_of_write(*index));
            place.is_some_and(|place| lost.contains(&place))
        };
        let (fenced, rest): (Part, Part) = part.into_iter().partition(is_lost);
        if fenced.is_empty() {
            return self.fail(rest, &StoreError::Unavailable(Cause::Protocol));
        }
        self.forget(&fenced);
        self.settle(fenced, &WriteOutcome::Fenced);
        cuts.again(rest);
    }

    fn answer(&mut self, part: &[usize], answers: Vec<Answer>, way: Way) -> Sent {
        let mut applied = false;
        self.settled.reserve(part.len());
        for (index, answer) in part.iter().copied().zip(answers) {
            let outcome = match answer {
                Answer::Applied(db_timestamp) => {
                    applied = true;
                    WriteOutcome::Applied(db_timestamp)
                }
                // Left out, whatever for.
                Answer::Conflict if matches!(way, Way::PastHeld | Way::Wary) => {
                    self.held.rows.push(index);
                    continue;
                }
                Answer::Conflict => WriteOutcome::Conflict,
            };
            self.settled.push(Settled { index, outcome });
        }
        if matches!(way, Way::PastHeld | Way::Trial) {
            self.forget(part);
        }
        Sent::Settled { applied }
    }

    /// What was remembered as held and is written now.
    fn forget(&self, part: &[usize]) {
        for index in part {
            if let Some(write) = self.writes.get(*index)
                && !self.held.rows.contains(index)
            {
                self.writing.desk.forget(&write.persistence_id);
            }
        }
    }

    /// Sets those of a batch apart that are known to be held, and gives the others.
    fn set_known_apart(&mut self, members: Part) -> Part {
        let desk = self.writing.desk;
        if desk.table_is_held() {
            self.held.table = members;
            return Vec::new();
        }
        let ids = members.iter().filter_map(|index| self.writes.get(*index));
        let remembered = desk.remembered(ids.map(|write| &write.persistence_id));
        if !remembered.contains(&true) {
            return members;
        }
        let mut free = Vec::with_capacity(members.len());
        for (index, is_held) in members.into_iter().zip(remembered) {
            match self.kind {
                _ if !is_held => free.push(index),
                Kind::Create => self.held.suspects.push_back(index),
                Kind::Update | Kind::Erase => self.held.rows.push(index),
            }
        }
        free
    }

    /// A part waited for a lock in vain: sets apart what is held, and has the rest sent again.
    async fn set_apart(&mut self, part: Part, cuts: &mut Cuts) {
        let Some(mut lease) = self.lease.take() else {
            return self.held.ran_into(part);
        };
        if let Ok(false) = locked::table_is_free(&mut lease).await {
            self.writing.desk.hold_table();
            self.held.table.extend(part);
            return self.held.table.extend(cuts.take_rest());
        }
        // A row that is just being made cannot be looked for: it is not there yet.
        if self.kind == Kind::Create || !lease.is_usable() {
            return self.held.ran_into(part);
        }
        let standing = locked::standing(&mut lease, &self.sought(&part)).await;
        self.lease = lease.is_usable().then_some(lease);
        let standing = standing.unwrap_or_default();
        if !standing.contains(&Standing::Held) {
            self.looked_in_vain += 1;
            if self.looked_in_vain > LOOKED_IN_VAIN_MAX {
                // It waits for something else, such as a row that a constraint refers to.
                return self.held.ran_into(part);
            }
            return cuts.again(part);
        }
        self.looked_in_vain = 0;
        let mut rest = Vec::with_capacity(part.len());
        for (index, standing) in part.into_iter().zip(standing) {
            if standing == Standing::Held {
                self.hold(index);
            } else {
                rest.push(index);
            }
        }
        cuts.again(rest);
    }

    /// Finds out why rows were left out. One that is free by now is sent again; where nothing can be found out all of them
    /// are taken to be held.
    async fn look_for_held(&mut self, cuts: &mut Cuts) {
        if self.held.rows.is_empty() {
            return;
        }
        let Some(mut lease) = self.lease.take() else {
            return;
        };
        let rows = std::mem::take(&mut self.held.rows);
        let standing = locked::standing(&mut lease, &self.sought(&rows)).await;
        self.lease = lease.is_usable().then_some(lease);
        let Ok(standing) = standing else {
            self.held.rows = rows;
            return;
        };
        // Those that were free the last time may be left out again and again.
        let again = cuts.is_empty() && self.looked_in_vain < LOOKED_IN_VAIN_MAX;
        self.looked_in_vain += 1;
        let mut free = Vec::new();
        for (index, standing) in rows.into_iter().zip(standing) {
            match standing {
                Standing::Held => self.hold(index),
                Standing::Free if again => free.push(index),
                Standing::Free => self.held.rows.push(index),
                Standing::Other => self.settle([index], &WriteOutcome::Conflict),
            }
        }
        cuts.again(free);
    }

    /// Somebody holds the row of this write.
    fn hold(&mut self, index: usize) {
        self.held.rows.push(index);
        self.remember(index);
    }

    pub(super) fn remember(&self, index: usize) {
        if let Some(write) = self.writes.get(index) {
            self.writing.desk.remember(&write.persistence_id);
        }
    }

    pub(super) fn sought(&self, part: &[usize]) -> Vec<Sought> {
        part.iter()
            .filter_map(|index| self.writes.get(*index))
            .map(Sought::by)
            .collect()
    }

    pub(super) fn fail(&mut self, part: Part, error: &StoreError) {
        self.settle(part, &WriteOutcome::NotApplied(error.clone()));
    }

    pub(super) fn settle(&mut self, part: impl IntoIterator<Item = usize>, outcome: &WriteOutcome) {
        self.settled.extend(part.into_iter().map(|index| Settled {
            index,
            outcome: outcome.clone(),
        }));
    }
}
