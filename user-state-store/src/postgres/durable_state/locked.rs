//! Which rows of a batch somebody else holds locked.

use std::collections::HashSet;

use tokio::time::timeout;

use crate::postgres::error::Failure;
use crate::postgres::session::{Lease, Leaves};
use crate::store::Write;

/// The places in the batch whose rows exist and cannot be locked at once. The locks it takes end with the statement.
pub(in crate::postgres) const SELECT_LOCKED: &str = "\
SELECT w.ordinal
FROM UNNEST($1::text[]) WITH ORDINALITY AS w (persistence_id, ordinal)
WHERE EXISTS (
    SELECT 1
    FROM durable_state AS d
    WHERE d.persistence_id = w.persistence_id
  )
  AND NOT EXISTS (
    SELECT 1
    FROM durable_state AS d
    WHERE d.persistence_id = w.persistence_id
    FOR UPDATE SKIP LOCKED
  )";

/// Indices into `writes`.
pub(super) async fn locked(
    lease: &mut Lease<'_>,
    writes: &[&Write],
) -> Result<HashSet<usize>, Failure> {
    let ids: Vec<&str> = writes
        .iter()
        .map(|write| write.persistence_id.as_str())
        .collect();
    let deadline = lease.answer_deadline();
    let sending = sqlx::query_scalar::<_, i64>(SELECT_LOCKED)
        .bind(&ids)
        .fetch_all(lease.begin()?);
    let answer = timeout(deadline, sending).await;
    let ordinals = lease
        .end(answer, Leaves::Clean)
        .map_err(Failure::surely_not_applied)?;
    Ok(ordinals
        .into_iter()
        .filter_map(|ordinal| usize::try_from(ordinal).ok()?.checked_sub(1))
        .collect())
}
