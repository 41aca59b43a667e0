//! The statements of the bare contenders.
//!
//! The two of many rows are the store's own, copied, since the store keeps them to itself; a test compares them with the
//! store's source. Those of one row are what Apache Pekko Persistence R2DBC 1.1 sends, `$1` for each `?`.

/// As `UPDATE_STATES` of the store.
pub(super) const UPDATE_MANY: &str = "\
UPDATE durable_state AS d
SET
  revision = w.revision,
  state_ser_id = w.state_ser_id,
  state_ser_manifest = w.state_ser_manifest,
  state_payload = w.state_payload,
  tags = CASE WHEN w.keeps_tags THEN d.tags ELSE w.tags::text[] END,
  -- Strictly increasing per id, also when the clock is set back.
  db_timestamp = GREATEST(transaction_timestamp(), d.db_timestamp + interval '1 microsecond')
FROM (
  -- Not UNNEST of them all in FROM: that keeps a copy of each array, element by element, before the first row.
  SELECT
    unnest($1::text[]) AS persistence_id,
    unnest($2::bigint[]) AS expected,
    unnest($3::timestamptz[]) AS expected_at,
    unnest($4::bigint[]) AS revision,
    unnest($5::int[]) AS state_ser_id,
    unnest($6::text[]) AS state_ser_manifest,
    unnest($7::bytea[]) AS state_payload,
    unnest($8::text[]) AS tags,
    unnest($9::boolean[]) AS keeps_tags,
    generate_series(1, cardinality($1::text[])::bigint) AS ordinal
) AS w
WHERE d.persistence_id = w.persistence_id
  -- Checked again on the newest version of the row after waiting for its lock.
  AND d.revision = w.expected
  -- A row that was removed and made again counts from 1 again; its time tells it apart.
  AND (w.expected_at IS NULL OR d.db_timestamp = w.expected_at)
RETURNING w.ordinal, d.db_timestamp";

/// As `SELECT_STATES` of the store.
pub(super) const SELECT_MANY: &str = "\
SELECT
  d.persistence_id,
  d.slice,
  d.entity_type,
  d.revision,
  d.db_timestamp,
  d.state_ser_id,
  d.state_ser_manifest,
  -- A payload beyond the limit does not leave the server.
  CASE WHEN octet_length(d.state_payload) <= $2 THEN d.state_payload END AS state_payload,
  d.tags
FROM UNNEST($1::text[]) AS w (persistence_id)
CROSS JOIN LATERAL (
  SELECT *
  FROM durable_state
  WHERE durable_state.persistence_id = w.persistence_id
  -- Keeps the planner at one index probe per id, also while it has no statistics.
  OFFSET 0
) AS d";

/// An update as Pekko sends it: the time is that of the previous row plus a microsecond, or the transaction's.
pub(super) const UPDATE_ONE: &str = "\
UPDATE durable_state
SET
  revision = $1,
  state_ser_id = $2,
  state_ser_manifest = $3,
  state_payload = $4,
  tags = $5,
  db_timestamp = GREATEST(
    transaction_timestamp(),
    (SELECT db_timestamp + '1 microsecond'::interval
     FROM durable_state
     WHERE persistence_id = $6 AND revision = $7)
  )
WHERE persistence_id = $6 AND revision = $7";

/// A load as Pekko sends it.
pub(super) const SELECT_ONE: &str = "\
SELECT revision, state_ser_id, state_ser_manifest, state_payload, db_timestamp, tags
FROM durable_state
WHERE persistence_id = $1";

/// As `UPDATE` of the store on SQLite.
pub(super) const SQLITE_UPDATE: &str = "\
UPDATE durable_state
SET revision = ?, state_ser_id = ?, state_ser_manifest = ?, state_payload = ?, tags = ?, db_timestamp = ?
WHERE persistence_id = ?
  AND revision = ?
  -- A row that was removed and made again counts from 1 again; its time tells it apart.
  AND db_timestamp = ?;";

/// As `CREATE` of the store on SQLite.
pub(super) const SQLITE_CREATE: &str = "\
INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
    state_ser_manifest, state_payload, tags)
SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM durable_state WHERE persistence_id = ?);";

/// All that the store reads of a row on SQLite.
pub(super) const SQLITE_SELECT: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    state_payload, tags
FROM durable_state
WHERE persistence_id = ?";

/// As `LOG_PAGES` of the store on SQLite.
pub(super) const SQLITE_LOG_PAGES: &str = "20000";

/// As `LOG_BYTES`.
pub(super) const SQLITE_LOG_BYTES: &str = "88000000";

/// As `CACHE_KIB`.
pub(super) const SQLITE_CACHE_KIB: &str = "-65536";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_of_many_rows_are_those_of_the_store() {
        let update = include_str!("../../../user-state-store/src/postgres/durable_state/update.rs");
        // Nothing stands there in the usual statement.
        let update = ["$before", "$behind"]
            .into_iter()
            .fold(update.to_owned(), |update, place| {
                let seam = format!("\",\n                {place},\n                \"");
                assert_eq!(update.matches(&seam).count(), 1, "{place}");
                update.replace(&seam, "")
            });
        let update = update.as_str();
        let select = include_str!("../../../user-state-store/src/postgres/durable_state/load.rs");
        // How the payload is written and read depends on the column's type and is put in by the store.
        let written = "w.state_payload";
        let read = "-- A payload beyond the limit does not leave the server.
  CASE WHEN octet_length(d.state_payload) <= $2 THEN d.state_payload END AS state_payload";
        for (source, statement, payload) in
            [(update, UPDATE_MANY, written), (select, SELECT_MANY, read)]
        {
            let parts: Vec<&str> = statement.split(payload).collect();
            assert_eq!(parts.len(), 2, "{statement}");
            for part in parts {
                assert!(
                    source.contains(part),
                    "the store has another statement now; copy it:\n{part}"
                );
            }
        }
    }
    #[test]
    fn the_statements_and_settings_of_files_are_those_of_the_store() {
        let apply = include_str!("../../../user-state-store/src/sqlite/durable_state/apply.rs");
        for statement in [SQLITE_UPDATE, SQLITE_CREATE] {
            assert!(
                apply.contains(statement),
                "the store has another statement now; copy it:\n{statement}"
            );
        }
        let connection = include_str!("../../../user-state-store/src/sqlite/connection.rs");
        for (name, value) in [
            ("LOG_PAGES", SQLITE_LOG_PAGES),
            ("LOG_BYTES", SQLITE_LOG_BYTES),
            ("CACHE_KIB", SQLITE_CACHE_KIB),
        ] {
            let constant = format!("const {name}: &str = \"{value}\";");
            assert!(connection.contains(&constant), "{name}");
        }
    }
}
