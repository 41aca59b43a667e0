//! Loading rows by id.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::culprits::{around_damage, damage};
use super::fetch::{bound, fetch};
use super::row::read;
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::sqlite::connection::Lane;
use crate::store::{BATCH_ROWS_MAX, LOAD_BYTES_MAX, LoadedRow, StoredState};

/// `?1` is a JSON array of ids, `?2` the most payload bytes that are read; of a larger payload the number of its bytes is.
const SELECT_STATES: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    CASE WHEN octet_length(state_payload) <= ?2 THEN state_payload END AS state_payload, tags,
    CASE WHEN octet_length(state_payload) > ?2 THEN octet_length(state_payload) END AS payload_bytes
FROM durable_state
WHERE persistence_id IN (SELECT value FROM json_each(?1))
ORDER BY persistence_id, revision";

/// Loads the rows of these ids, one answer per id.
pub(in crate::sqlite) async fn load(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
) -> Result<Vec<LoadedRow>, StoreError> {
    if ids.len() > BATCH_ROWS_MAX {
        return Err(StoreError::TooLarge {
            what: "the number of ids in a load".into(),
            actual: ids.len(),
            limit: BATCH_ROWS_MAX,
        });
    }
    let share = match ids.len() {
        0 | 1 => payload_bytes_max,
        ids => payload_bytes_max.min(LOAD_BYTES_MAX / ids),
    };
    match load_part(lane, ids, payload_bytes_max, share).await {
        Err(error) if damage(&error).is_some() => {
            around_damage(lane, ids, payload_bytes_max, share, error).await
        }
        answer => answer,
    }
}

pub(super) async fn load_part(
    lane: &Lane,
    ids: &[PersistenceId],
    payload_bytes_max: usize,
    share: usize,
) -> Result<Vec<LoadedRow>, StoreError> {
    let texts: Vec<&str> = ids.iter().map(PersistenceId::as_str).collect();
    let query = sqlx::query(SELECT_STATES)
        .bind(serde_json::Value::from(texts).to_string())
        .bind(bound(share));
    let rows = fetch(lane, query).await?;
    let mut states: HashMap<PersistenceId, (Revision, Result<StoredState, StoreError>)> =
        HashMap::with_capacity(rows.len());
    for row in rows {
        let (persistence_id, revision, state) = read(&row, payload_bytes_max)?;
        match states.entry(persistence_id) {
            Entry::Vacant(entry) => {
                entry.insert((revision, state));
            }
            // A file that another program made may lack our unique index. Rows come in the order of their revisions.
            Entry::Occupied(mut entry) => {
                let persistence_id = entry.key().clone();
                let (lower, first) = entry.get_mut();
                *first = Err(StoreError::DuplicateRows {
                    persistence_id,
                    lower: *lower,
                    higher: revision,
                });
            }
        }
    }
    let distinct: HashSet<&PersistenceId> = ids.iter().collect();
    let repeats = distinct.len() < ids.len();
    Ok(ids
        .iter()
        .map(|id| {
            let state = if repeats {
                states.get(id).cloned()
            } else {
                states.remove(id)
            };
            state.map(|(_, state)| state).transpose()
        })
        .collect())
}
