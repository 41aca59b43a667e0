//! The ids and rows that make a load fail.
//!
//! **Problem.** A load is one statement, and one id that the server cannot take or one row that it cannot give fails it for
//! all. **How.** The load is cut in halves until the culprits are alone; each has an error of its own then. **Guarantees.** One
//! deadline over all parts. **Not here.** Failures of a session or a server: those concern everybody.

use std::time::Instant;

use sqlx::PgConnection;

use crate::connect::StoreSettings;
use crate::cuts::{Cuts, Part, Verdict};
use crate::deadline::until;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::load::load_part;
use crate::postgres::error::Failure;
use crate::postgres::pool::{Call, Pool};
use crate::store::LoadedRow;

/// Fails for an id that the server cannot take, and reads no table.
pub(in crate::postgres) const SELECT_TAKEN: &str = "SELECT octet_length($1::text)";

/// A load that failed, and what its parts are read with.
pub(super) struct Search<'call> {
    pub(super) pool: &'call Pool,
    pub(super) settings: &'call StoreSettings,
    pub(super) ids: &'call [PersistenceId],
    pub(super) share: usize,
    pub(super) deadline: Instant,
}

impl Search<'_> {
    /// What is found for each id after the load of all of them failed; an error if that concerns everybody.
    pub(super) async fn after(&self, failure: Failure) -> Result<Vec<LoadedRow>, StoreError> {
        if !failure.may_concern_a_row() {
            return Err(failure.into());
        }
        let mut found: Vec<LoadedRow> = self.ids.iter().map(|_| Ok(None)).collect();
        let mut cuts = Cuts::of((0..self.ids.len()).collect());
        let all = cuts.next().unwrap_or_default();
        self.refused(&mut cuts, all, &failure, &mut found).await;
        while let Some(part) = cuts.next() {
            let ids: Vec<PersistenceId> = part
                .iter()
                .filter_map(|index| self.ids.get(*index))
                .cloned()
                .collect();
            match self.load(&ids).await {
                Ok(rows) => {
                    cuts.answered(true);
                    for (index, row) in part.into_iter().zip(rows) {
                        note(&mut found, index, row);
                    }
                }
                Err(failure) if failure.may_concern_a_row() => {
                    self.refused(&mut cuts, part, &failure, &mut found).await;
                }
                Err(failure) => {
                    let error = StoreError::from(failure);
                    for index in part.into_iter().chain(cuts.take_rest()) {
                        note(&mut found, index, Err(error.clone()));
                    }
                }
            }
        }
        Ok(found)
    }

    /// A part failed. If it was one id alone, that is judged; ids that are not asked for any more fail alike.
    async fn refused(
        &self,
        cuts: &mut Cuts,
        part: Part,
        failure: &Failure,
        found: &mut [LoadedRow],
    ) {
        let Verdict::Fail(rows) = cuts.refused(part, failure.refusing_code()) else {
            return;
        };
        let mut rows = rows.into_iter();
        if let Some((index, id)) = rows.next().and_then(|at| Some((at, self.ids.get(at)?))) {
            note(found, index, Err(self.judge(id, failure).await));
        }
        for index in rows {
            note(found, index, Err(failure.clone().into()));
        }
    }

    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, Failure> {
        let loading = load_part(self.pool, self.settings, ids, self.share);
        match until(self.deadline, loading).await {
            Ok(Ok(found)) => Ok(found.unwrap_or_else(|error| vec![Err(error); ids.len()])),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Lost(Cause::Deadline)),
        }
    }

    /// What is wrong with an id whose load failed alone: the id itself, or its row.
    async fn judge(&self, id: &PersistenceId, failure: &Failure) -> StoreError {
        let reason = match (failure, failure.refusal()) {
            (Failure::Misconfigured(_), _) | (_, None) => return failure.clone().into(),
            (_, Some(reason)) => reason.clone(),
        };
        let taking = self.pool.read(self.settings, Taking { id });
        match until(self.deadline, taking).await {
            Ok(Ok(())) => StoreError::Unreadable {
                persistence_id: id.clone(),
                reason,
            },
            Ok(Err(failure)) if failure.may_concern_a_row() => StoreError::Refused(reason),
            Ok(Err(failure)) => failure.into(),
            Err(_) => StoreError::Unavailable(Cause::Deadline),
        }
    }
}

fn note(found: &mut [LoadedRow], index: usize, row: LoadedRow) {
    if let Some(place) = found.get_mut(index) {
        *place = row;
    }
}

/// Whether the server takes an id.
struct Taking<'call> {
    id: &'call PersistenceId,
}

impl Call for Taking<'_> {
    type Answer = ();

    async fn run(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(SELECT_TAKEN)
            .bind(self.id.as_str())
            .execute(connection)
            .await
            .map(drop)
    }
}
