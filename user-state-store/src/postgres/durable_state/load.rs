//! Loading the rows of given ids.

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use crate::connect::StoreSettings;
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::array::Array;
use crate::postgres::durable_state::asked::{Answers, Asked};
use crate::postgres::durable_state::payload_column::{Statement, reading_payload};
use crate::postgres::durable_state::row::Reader;
use crate::postgres::pool::{Call, Pool};
use crate::store::{BATCH_ROWS_MAX, StoredState};

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

/// Loads the rows of these ids. See [`crate::DurableStateStore::load`].
pub(in crate::postgres) async fn load(
    pool: &Pool,
    settings: &StoreSettings,
    ids: &[PersistenceId],
) -> Result<Vec<Result<Option<StoredState>, StoreError>>, StoreError> {
    if ids.len() > BATCH_ROWS_MAX {
        return Err(StoreError::TooLarge {
            what: "the number of ids",
            actual: ids.len(),
            limit: BATCH_ROWS_MAX,
        });
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let asked = Asked::new(ids);
    let load = Load {
        asked: &asked,
        settings,
    };
    pool.read(settings, load).await?
}

/// The rows of these ids.
struct Load<'call> {
    asked: &'call Asked<'call>,
    settings: &'call StoreSettings,
}

impl Call for Load<'_> {
    type Answer = Result<Vec<Result<Option<StoredState>, StoreError>>, StoreError>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let limit = self.settings.payload_bytes_max;
        let mut rows = sqlx::query(SELECT_STATES.of(self.settings.payload_column))
            .bind(Array::new(self.asked.distinct()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch(connection);
        let mut answers = Answers::to(self.asked);
        let mut reader = None;
        let mut noted = Ok(());
        while let Some(row) = rows.try_next().await? {
            if noted.is_ok() {
                let reader = reader.get_or_insert_with(|| Reader::of(&row, self.settings));
                noted = note(&mut answers, &row, reader);
            }
        }
        Ok(noted.map(|()| answers.into_found()))
    }
}

fn note(answers: &mut Answers<'_>, row: &PgRow, reader: &mut Reader<'_>) -> Result<(), StoreError> {
    let id = reader.persistence_id(row)?;
    let revision = reader.revision(row);
    answers.add(id, revision, |id| reader.stored_state(row, id));
    Ok(())
}
