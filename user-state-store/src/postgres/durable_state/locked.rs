//! Which rows somebody else holds, and whether somebody holds the whole table. Nothing here waits for a lock.

use sqlx::{Executor as _, Row as _};

use crate::deadline::within;
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::array::Array;
use crate::postgres::durable_state::row::Micros;
use crate::postgres::error::Failure;
use crate::postgres::session::{Lease, Leaves};
use crate::revision::Revision;
use crate::store::Write;

/// The rows that stand as their writes expect them, and which of those cannot be locked at once. The locks it takes end
/// with the statement.
pub(in crate::postgres) const SELECT_STANDING: &str = "\
SELECT
  w.ordinal,
  NOT EXISTS (
    SELECT 1
    FROM durable_state AS d
    WHERE d.persistence_id = w.persistence_id
      AND d.revision = w.expected
    FOR UPDATE SKIP LOCKED
  ) AS locked
FROM UNNEST(
  $1::text[],
  $2::bigint[],
  $3::timestamptz[]
) WITH ORDINALITY AS w (
  persistence_id,
  expected,
  expected_at,
  ordinal
)
WHERE EXISTS (
  SELECT 1
  FROM durable_state AS d
  WHERE d.persistence_id = w.persistence_id
    AND d.revision = w.expected
    AND (w.expected_at IS NULL OR d.db_timestamp = w.expected_at)
)";

/// Fails at once while somebody holds the table in a way that no row of it can be written.
pub(in crate::postgres) const LOCK_TABLE: &str = "\
BEGIN ISOLATION LEVEL READ COMMITTED;
LOCK TABLE durable_state IN ROW EXCLUSIVE MODE NOWAIT";

const ROLLBACK: &str = "ROLLBACK";

/// How a row stands to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// As the write expects it, and nobody holds it.
    Free,
    /// As the write expects it, and somebody holds it.
    Held,
    /// Gone, or another one.
    Other,
}

/// The row that an update or an erasure expects.
#[derive(Debug, Clone)]
pub(super) struct Sought {
    persistence_id: PersistenceId,
    expected: Revision,
    expected_at: Option<Micros>,
}

impl Sought {
    pub(super) fn by(write: &Write) -> Self {
        Self {
            persistence_id: write.persistence_id.clone(),
            expected: write.expected,
            expected_at: write.expected_at.map(Micros::from),
        }
    }
}

/// How these rows stand, in their order.
pub(super) async fn standing(
    lease: &mut Lease<'_>,
    sought: &[Sought],
) -> Result<Vec<Standing>, Failure> {
    let ids = Array::new(sought.iter().map(|row| row.persistence_id.as_str()));
    let expected = Array::new(sought.iter().map(|row| row.expected.get()));
    let expected_at = Array::new(sought.iter().map(|row| row.expected_at));
    let deadline = lease.answer_deadline();
    let looking = sqlx::query(SELECT_STANDING)
        .bind(ids)
        .bind(expected)
        .bind(expected_at)
        .fetch_all(lease.begin()?);
    let answer = within(deadline, looking).await;
    let rows = lease
        .end(answer, Leaves::Clean)
        .map_err(Failure::surely_not_applied)?;
    let mut standing = vec![Standing::Other; sought.len()];
    for row in rows {
        let decoded = row
            .try_get(0)
            .and_then(|ordinal: i64| Ok((ordinal, row.try_get(1)?)));
        let (ordinal, locked) = decoded.map_err(|error| Failure::of(&error))?;
        let slot = usize::try_from(ordinal)
            .ok()
            .and_then(|ordinal| standing.get_mut(ordinal.checked_sub(1)?));
        if let Some(slot) = slot {
            *slot = if locked {
                Standing::Held
            } else {
                Standing::Free
            };
        }
    }
    Ok(standing)
}

/// Whether nobody holds the table in a way that no row of it can be written.
pub(super) async fn table_is_free(lease: &mut Lease<'_>) -> Result<bool, Failure> {
    let deadline = lease.answer_deadline();
    let answer = within(deadline, lease.begin()?.execute(LOCK_TABLE)).await;
    let locked = lease.end(answer, Leaves::InTransaction);
    if !matches!(locked, Err(Failure::Lost(_))) {
        let answer = within(deadline, lease.begin()?.execute(ROLLBACK)).await;
        lease
            .end(answer, Leaves::Clean)
            .map_err(Failure::surely_not_applied)?;
    }
    match locked {
        Ok(_) => Ok(true),
        Err(Failure::Locked(_)) => Ok(false),
        Err(failure) => Err(failure.surely_not_applied()),
    }
}
