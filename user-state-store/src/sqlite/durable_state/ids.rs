//! Persistence ids by page.

use sqlx::{Row as _, TypeInfo as _, ValueRef as _};

use super::fetch::{bound, fetch};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::sqlite::connection::Lane;
use crate::sqlite::error::cause;

const SELECT_PERSISTENCE_IDS: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > ?1
ORDER BY persistence_id
LIMIT ?2";

/// The same behind the bytes of an id whose type is `?3`.
const SELECT_PERSISTENCE_IDS_BEHIND_BYTES: &str = "\
SELECT DISTINCT persistence_id
FROM durable_state
WHERE persistence_id > CASE ?3 WHEN 'TEXT' THEN CAST(?1 AS TEXT) ELSE ?1 END
ORDER BY persistence_id
LIMIT ?2";

/// A page of persistence ids, in byte order.
pub(in crate::sqlite) async fn persistence_ids(
    lane: &Lane,
    after: Option<&PersistenceId>,
    limit: usize,
) -> Result<Vec<PersistenceId>, StoreError> {
    // No id is empty, so every id is behind the empty text.
    let after = after.map_or("", PersistenceId::as_str);
    let mut query = sqlx::query(SELECT_PERSISTENCE_IDS)
        .bind(after)
        .bind(bound(limit));
    let mut left_out = 0_usize;
    loop {
        let rows = fetch(lane, query).await?;
        let ids: Vec<_> = rows
            .iter()
            .filter_map(|row| row.try_get::<&str, _>(0).ok().map(PersistenceId::stored))
            .collect();
        left_out += rows.len() - ids.len();
        // At least one id if there is any, so that the caller can go on behind it.
        let Some(last) = rows.last().filter(|_| ids.is_empty()) else {
            if left_out > 0 {
                tracing::warn!(
                    left_out,
                    "stored persistence ids are no text of Unicode and were left out of a page"
                );
            }
            return Ok(ids);
        };
        let broken = |error| StoreError::Misconfigured(cause(&error));
        let bytes: Vec<u8> = last.try_get_unchecked(0).map_err(broken)?;
        let value = last.try_get_raw(0).map_err(broken)?;
        query = sqlx::query(SELECT_PERSISTENCE_IDS_BEHIND_BYTES)
            .bind(bytes)
            .bind(bound(limit))
            .bind(value.type_info().name().to_owned());
    }
}
