//! An entity's write on its way to the database: cut, landed, or lost.

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use user_state_store::{Change, DeleteForm, Revision, StoreError, Write};

use super::{Doom, Entity, Moved, ResolveDeadline};
use crate::driver::Driver;
use crate::error::Failure;
use crate::lifecycle::LifecycleEvent;
use crate::pending::Settled;
use crate::row::Row;

/// How many answers ahead of the one that is sent memory is touched: enough to hide how long that takes.
const ANSWERS_AHEAD: usize = 4;

/// A write on its way, with the answers that depend on it.
pub(super) struct Flight<A: Aggregate> {
    revision: Revision,
    settled: Vec<Settled<A>>,
    /// A deletion: nothing is handled behind it before its outcome is known.
    deletes: bool,
    resolution: Resolution,
}

/// How far an unknown outcome is from being known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    /// The answer has not come yet.
    NotNeeded,
    /// The answer was lost; callers wait until the deadline.
    Until(ResolveDeadline),
    /// The deadline has passed and callers were told.
    Abandoned,
}

impl<A: Aggregate> Flight<A> {
    pub(super) fn len(&self) -> usize {
        self.settled.len()
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn blocks(&self) -> bool {
        self.deletes || self.resolution != Resolution::NotNeeded
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.resolution == Resolution::Abandoned
    }

    pub(super) fn into_settled(self) -> Vec<Settled<A>> {
        self.settled
    }
}

impl<A> Entity<A>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    /// Cuts the gathered changes into a write, which is then in flight. `Ok(None)` where there is nothing to write;
    /// an error says what to do with an entity whose state has no stored form.
    pub(crate) fn cut(&mut self, driver: &Driver<'_, A>) -> Result<Option<Write>, Moved<A>> {
        let dirty = self.is_dirty();
        let Some(work) = self.work.as_deref_mut() else {
            return Ok(None);
        };
        work.queued = false;
        if !dirty || work.flight.is_some() {
            return Ok(None);
        }
        let change = match work.deletion {
            Some(DeleteForm::Marker) => Ok(Change::Mark),
            Some(DeleteForm::Erase) => Ok(Change::Erase),
            Some(DeleteForm::Reset) | None => {
                let encoded =
                    driver.guard(|| driver.mapping.encode(driver.persistence_id, &self.state));
                match encoded {
                    Some(Ok(payload)) => Ok(Change::Put {
                        revision: self.revision,
                        payload,
                        tags: driver.tags.clone(),
                    }),
                    Some(Err(reason)) => Err(Failure::Refused(StoreError::Unencodable {
                        persistence_id: driver.persistence_id.clone(),
                        reason,
                    })),
                    None => Err(Failure::Panicked),
                }
            }
        };
        match change {
            Ok(change) => {
                let deletes = work.deletion.take().is_some();
                work.flight = Some(Flight {
                    revision: self.revision,
                    settled: std::mem::replace(&mut work.gathered, std::mem::take(&mut work.sent)),
                    deletes,
                    resolution: Resolution::NotNeeded,
                });
                let id = driver.persistence_id.clone();
                let write = Write::new(id, self.durable.revision(), change);
                Ok(Some(write.expected_at(self.durable.db_timestamp())))
            }
            Err(failure) => Err(self.doom(Doom::NotApplied(failure), driver)),
        }
    }

    /// The write in flight was applied; the row's new time, if it has one.
    pub(crate) fn on_applied(
        &mut self,
        db_timestamp: Option<DateTime<Utc>>,
        driver: &Driver<'_, A>,
    ) -> Moved<A> {
        let Some(flight) = self.work.as_mut().and_then(|work| work.flight.take()) else {
            return Moved::Waits;
        };
        self.durable = Row::new(flight.revision, db_timestamp);
        driver.counters.persisted(1);
        driver.lifecycle.publish(|| LifecycleEvent::Persisted {
            persistence_id: driver.persistence_id.clone(),
            revision: flight.revision,
        });
        let abandoned = flight.is_abandoned();
        let mut settled = flight.settled;
        let mut answers = settled.drain(..);
        while let Some(next) = answers.next() {
            if let Some(later) = answers.as_slice().get(ANSWERS_AHEAD) {
                later.touch();
            }
            driver.send(next);
        }
        drop(answers);
        if let Some(work) = &mut self.work {
            work.sent = settled;
        }
        if abandoned {
            return self.doom(Doom::Abandoned, driver);
        }
        self.send_durable(driver);
        self.pump(driver)
    }

    /// Sends the gathered answers that were decided at the revision that is durable now.
    fn send_durable(&mut self, driver: &Driver<'_, A>) {
        let durable = self.durable();
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        if work.deletion.is_some() {
            return;
        }
        let ready = work
            .gathered
            .iter()
            .take_while(|settled| settled.revision == durable)
            .count();
        for settled in work.gathered.drain(..ready) {
            driver.send(settled);
        }
    }

    /// Another writer was faster than the write in flight.
    pub(crate) fn on_conflict(&mut self, driver: &Driver<'_, A>) -> Moved<A> {
        driver.counters.conflicts(1);
        self.bring_back(Doom::Conflict, driver)
    }

    /// The write in flight surely was not applied.
    pub(crate) fn on_not_applied(&mut self, error: StoreError, driver: &Driver<'_, A>) -> Moved<A> {
        let failure = Failure::not_applied(error);
        driver.report(&failure);
        self.bring_back(Doom::NotApplied(failure), driver)
    }

    /// The answer of the write in flight was lost: it has to be resolved. Callers wait until `deadline`.
    pub(crate) fn on_unknown(&mut self, deadline: ResolveDeadline, driver: &Driver<'_, A>) {
        driver.counters.unknown(1);
        driver.report(&Failure::Unknown);
        if let Some(flight) = self.work.as_mut().and_then(|work| work.flight.as_mut()) {
            flight.resolution = Resolution::Until(deadline);
        }
    }

    /// It cannot be found out whether the write in flight was applied.
    pub(crate) fn on_lost(&mut self, driver: &Driver<'_, A>) -> Moved<A> {
        let Some(work) = self.work.as_deref_mut() else {
            return Moved::Waits;
        };
        if let Some(flight) = &mut work.flight {
            let (changes, others) = std::mem::take(&mut flight.settled)
                .into_iter()
                .partition(Settled::is_change);
            flight.settled = others;
            for settled in Vec::from_iter::<Vec<Settled<A>>>(changes) {
                driver.fail_settled(settled, Failure::Unknown);
            }
        }
        self.bring_back(Doom::Lost, driver)
    }

    /// When the callers of an unresolved write have to be told, if they have not been yet.
    pub(crate) fn resolve_deadline(&self) -> Option<ResolveDeadline> {
        match self.work.as_ref()?.flight.as_ref()?.resolution {
            Resolution::Until(deadline) => Some(deadline),
            Resolution::NotNeeded | Resolution::Abandoned => None,
        }
    }

    /// Tells the callers of an unresolved write that their time is over. The entity stays closed until the
    /// write is resolved.
    pub(crate) fn abandon(&mut self, driver: &Driver<'_, A>) {
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        let Some(flight) = &mut work.flight else {
            return;
        };
        flight.resolution = Resolution::Abandoned;
        for settled in std::mem::take(&mut flight.settled) {
            let failure = if settled.is_change() {
                Failure::Unknown
            } else {
                Failure::behind_unresolved(driver.persistence_id)
            };
            driver.fail_settled(settled, failure);
        }
        for settled in std::mem::take(&mut work.gathered) {
            driver.fail_settled(settled, Failure::behind_unresolved(driver.persistence_id));
        }
        work.leaving = false;
        for pending in std::mem::take(&mut work.waiting) {
            driver.fail(pending, Failure::behind_unresolved(driver.persistence_id));
        }
    }

    /// The write in flight is over: its requests stand before the gathered ones again, and the state is given up.
    fn bring_back(&mut self, doom: Doom, driver: &Driver<'_, A>) -> Moved<A> {
        let Some(work) = self.work.as_deref_mut() else {
            return Moved::Waits;
        };
        let Some(flight) = work.flight.take() else {
            return Moved::Waits;
        };
        let abandoned = flight.is_abandoned();
        let mut settled = flight.settled;
        settled.append(&mut work.gathered);
        work.gathered = settled;
        self.doom(if abandoned { Doom::Abandoned } else { doom }, driver)
    }
}
