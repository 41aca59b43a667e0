//! Loading the rows of given ids.
//!
//! A payload that is larger than its share of the answer does not leave the server. A second statement asks for its length
//! then, so that the first one computes nothing for the rows that come.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::connect::StoreSettings;
use crate::deadline;
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::postgres::connection::answer_deadline;
use crate::postgres::durable_state::array::Array;
use crate::postgres::durable_state::asked::{Answers, Asked};
use crate::postgres::durable_state::culprits::Search;
use crate::postgres::durable_state::payload_column::{
    Statement, measuring_payload, reading_payload,
};
use crate::postgres::durable_state::row::Reader;
use crate::postgres::pool::{Call, Pool};
use crate::store::{BATCH_ROWS_MAX, LOAD_BYTES_MAX, LoadedRow, StoredValue};

/// The rows of some ids.
pub(in crate::postgres) const SELECT_STATES: Statement = reading_payload!(
    "\
SELECT
  d.persistence_id,
  d.slice,
  d.entity_type,
  d.revision,
  d.db_timestamp,
  d.state_ser_id,
  d.state_ser_manifest,
  ",
    limit: "$2",
    ",
  d.tags
FROM UNNEST($1::text[]) AS w (persistence_id)
CROSS JOIN LATERAL (
  SELECT *
  FROM durable_state
  WHERE durable_state.persistence_id = w.persistence_id
  -- Keeps the planner at one index probe per id, also while it has no statistics.
  OFFSET 0
) AS d"
);

/// How long the payloads of some ids are.
pub(in crate::postgres) const SELECT_LENGTHS: Statement = measuring_payload!(
    "SELECT d.persistence_id, ",
    "
FROM durable_state AS d
WHERE d.persistence_id = ANY ($1::text[])"
);

/// Loads the rows of these ids. See [`crate::DurableStateStore::load`].
pub(in crate::postgres) async fn load(
    pool: &Pool,
    settings: &StoreSettings,
    ids: &[PersistenceId],
) -> Result<Vec<LoadedRow>, StoreError> {
    if ids.len() > BATCH_ROWS_MAX {
        return Err(StoreError::TooLarge {
            what: "the number of ids".into(),
            actual: ids.len(),
            limit: BATCH_ROWS_MAX,
        });
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let deadline = deadline::now() + answer_deadline(settings);
    let share = share(ids.len(), settings);
    match load_part(pool, settings, ids, share).await {
        Ok(found) => found,
        Err(failure) => {
            let search = Search {
                pool,
                settings,
                ids,
                share,
                deadline,
            };
            search.after(failure).await
        }
    }
}

/// The largest payload that comes in an answer for so many ids.
fn share(ids: usize, settings: &StoreSettings) -> usize {
    match ids {
        0 | 1 => settings.payload_bytes_max,
        ids => settings.payload_bytes_max.min(LOAD_BYTES_MAX / ids),
    }
}

/// Loads the rows of these ids with one statement.
pub(super) async fn load_part(
    pool: &Pool,
    settings: &StoreSettings,
    ids: &[PersistenceId],
    share: usize,
) -> Result<Result<Vec<LoadedRow>, StoreError>, crate::postgres::error::Failure> {
    let asked = Asked::new(ids);
    let load = Load {
        asked: &asked,
        settings,
        share,
    };
    pool.read(settings, load).await
}

/// The rows of these ids.
struct Load<'call> {
    asked: &'call Asked<'call>,
    settings: &'call StoreSettings,
    share: usize,
}

impl Call for Load<'_> {
    type Answer = Result<Vec<LoadedRow>, StoreError>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let mut rows = sqlx::query(SELECT_STATES.of(self.settings.payload_column))
            .bind(Array::new(self.asked.distinct()))
            .bind(i64::try_from(self.share).unwrap_or(i64::MAX))
            .fetch(&mut *connection);
        let mut answers = Answers::to(self.asked);
        let mut reader = None;
        let mut noted = Ok(());
        while let Some(row) = rows.try_next().await? {
            if noted.is_ok() {
                let reader =
                    reader.get_or_insert_with(|| Reader::sharing(&row, self.settings, self.share));
                noted = note(&mut answers, &row, reader);
            }
        }
        drop(rows);
        let mut found = answers.into_found();
        if found.iter().any(is_withheld) {
            self.measure(&mut found, connection).await?;
        }
        Ok(noted.map(|()| found))
    }
}

impl Load<'_> {
    /// Puts the lengths of the payloads that did not come in their places.
    async fn measure(
        &self,
        found: &mut [LoadedRow],
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let withheld: Vec<&str> = found
            .iter()
            .filter(|found| is_withheld(found))
            .filter_map(|found| Some(found.as_ref().ok()?.as_ref()?.persistence_id.as_str()))
            .collect();
        let rows = sqlx::query(SELECT_LENGTHS.of(self.settings.payload_column))
            .bind(Array::new(withheld.iter().copied()))
            .fetch_all(connection)
            .await?;
        let mut lengths = HashMap::with_capacity(rows.len());
        for row in &rows {
            let length = row.try_get::<Option<i32>, _>(1)?.unwrap_or_default();
            lengths.insert(
                row.try_get::<&str, _>(0)?,
                usize::try_from(length).unwrap_or_default(),
            );
        }
        for state in found.iter_mut().flatten().flatten() {
            if let StoredValue::Withheld { payload_bytes } = &mut state.value
                && let Some(length) = lengths.get(state.persistence_id.as_str())
            {
                *payload_bytes = *length;
            }
        }
        Ok(())
    }
}

fn is_withheld(found: &LoadedRow) -> bool {
    matches!(found, Ok(Some(state)) if matches!(state.value, StoredValue::Withheld { .. }))
}

fn note(answers: &mut Answers<'_>, row: &PgRow, reader: &mut Reader<'_>) -> Result<(), StoreError> {
    let id = reader.persistence_id(row)?;
    let revision = reader.revision(row);
    answers.add(id, revision, |id| reader.stored_state(row, id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_room_for_the_share_of_every_id() {
        let mut settings = StoreSettings::default();
        assert_eq!(share(1, &settings), settings.payload_bytes_max);
        assert_eq!(share(8, &settings), 1024 * 1024);
        settings.payload_bytes_max = 64 * 1024 * 1024;
        assert_eq!(share(1, &settings), settings.payload_bytes_max);
        for ids in 2..=BATCH_ROWS_MAX {
            assert!(ids * share(ids, &settings) <= LOAD_BYTES_MAX, "{ids}");
        }
    }
}
