//! The ids and rows that make a load fail.
//!
//! **Problem.** A load is one statement, and one id that the server cannot take or one row that it cannot give fails it for
//! all. **How.** The load is cut in halves until the culprits are alone; each has an error of its own then. **Guarantees.** One
//! deadline over all parts. **Not here.** Failures of a session or a server: those concern everybody.

use std::time::Instant;

use sqlx::PgConnection;

use crate::connect::StoreSettings;
use crate::deadline::until;
use crate::error::{Cause, DatabaseError, StoreError};
use crate::halving::{Failed, Halving};
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::load::{Found, load_part};
use crate::postgres::error::Failure;
use crate::postgres::pool::{Call, Pool};

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
    pub(super) async fn after(&self, failure: Failure) -> Result<Vec<Found>, StoreError> {
        let Some(error) = of_one(&failure) else {
            return Err(failure.into());
        };
        if let [id] = self.ids {
            return Ok(vec![Err(self.judge(id, failure.clone(), error).await)]);
        }
        let mut found: Vec<Found> = self.ids.iter().map(|_| Ok(None)).collect();
        let mut halving = Halving::of(self.ids.len());
        // What the ids get that nobody asks for any more.
        let mut given_up: Option<StoreError> = None;
        while let Some(part) = halving.next() {
            let ids = self.ids.get(part.clone()).unwrap_or_default();
            let places = found.get_mut(part.clone()).unwrap_or_default();
            if let Some(error) = &given_up {
                places.fill_with(|| Err(error.clone()));
                continue;
            }
            match self.load(ids).await {
                Ok(rows) => {
                    halving.on_answered();
                    for (place, row) in places.iter_mut().zip(rows) {
                        *place = row;
                    }
                }
                Err(failure) => match of_one(&failure) {
                    None => {
                        let error = StoreError::from(failure);
                        places.fill_with(|| Err(error.clone()));
                        given_up = Some(error);
                    }
                    Some(error) => {
                        let alone = halving.on_failed(&part, &error.code) == Failed::Alone;
                        if let ([place], [id], true) = (places, ids, alone) {
                            if halving.is_hopeless() {
                                given_up = Some(failure.clone().into());
                            }
                            *place = Err(self.judge(id, failure, error).await);
                        }
                    }
                },
            }
        }
        Ok(found)
    }

    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<Found>, Failure> {
        let loading = load_part(self.pool, self.settings, ids, self.share);
        match until(self.deadline, loading).await {
            Ok(Ok(found)) => Ok(found.unwrap_or_else(|error| vec![Err(error); ids.len()])),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Lost(Cause::Deadline)),
        }
    }

    /// What is wrong with an id whose load failed alone: the id itself, or its row.
    async fn judge(
        &self,
        id: &PersistenceId,
        failure: Failure,
        error: DatabaseError,
    ) -> StoreError {
        if matches!(failure, Failure::Misconfigured(_)) {
            return failure.into();
        }
        let taking = self.pool.read(self.settings, Taking { id });
        match until(self.deadline, taking).await {
            Ok(Ok(())) => StoreError::Unreadable {
                persistence_id: id.clone(),
                reason: error,
            },
            Ok(Err(failure)) if of_one(&failure).is_some() => StoreError::Refused(error),
            Ok(Err(failure)) => failure.into(),
            Err(_) => StoreError::Unavailable(Cause::Deadline),
        }
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

/// What the server says, if that may concern a single row; nothing if it concerns the session, the server or the table.
pub(super) fn of_one(failure: &Failure) -> Option<DatabaseError> {
    match failure {
        Failure::Refused(error) => Some(error.clone()),
        Failure::Unavailable(Cause::Database(error))
        | Failure::Misconfigured(Cause::Database(error)) => {
            let class = error.code.get(..2).unwrap_or_default();
            let of_all = matches!(class, "08" | "28" | "3D" | "3F" | "40" | "53" | "57")
                || matches!(&*error.code, "0A000" | "25006" | "42P01" | "55P03");
            (!of_all).then(|| error.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_a_session_or_a_server_concerns_everybody() {
        let database = |code: &str| DatabaseError {
            code: code.into(),
            severity: "ERROR",
            constraint: None,
        };
        for code in [
            "08006", "25006", "40P01", "53300", "55P03", "57014", "0A000", "42P01",
        ] {
            for failure in [
                Failure::Unavailable(Cause::Database(database(code))),
                Failure::Misconfigured(Cause::Database(database(code))),
            ] {
                assert_eq!(of_one(&failure), None, "{code}");
            }
        }
        for code in ["XX001", "XX000", "58030", "42501", "22P05"] {
            let failure = Failure::Unavailable(Cause::Database(database(code)));
            assert_eq!(of_one(&failure), Some(database(code)));
            assert!(of_one(&Failure::Refused(database(code))).is_some());
        }
        for failure in [
            Failure::Unfit(Cause::Database(database("26000"))),
            Failure::Lost(Cause::Deadline),
            Failure::Unavailable(Cause::PoolTimeout),
            Failure::Closed,
        ] {
            assert_eq!(of_one(&failure), None, "{failure:?}");
        }
    }
}
