//! The statements that read pages of a change feed.
//!
//! Both have the same first eleven parameters: `$1` entity type, `$2` slices, `$3` the first instant, `$4` the end asked for,
//! `$5` the end of the whole feed, `$6` and `$7` the row to go on behind, `$8` the most bytes of a payload, `$9` of rows, `$10`
//! of payload in the page, and `$11` how few rows are so few that the next instant is given. The end of the whole feed counts
//! instead of the server's clock, which may have been set back since the feed began.

use crate::postgres::durable_state::payload_column::{Statement, paging_keys, paging_payloads};

/// One page of the latest states, and behind it one row that says how far it reaches. `$12` is how many rows are too many.
pub(in crate::postgres) const SELECT_CHANGES: Statement = paging_payloads!(
    "\
WITH scanned AS MATERIALIZED (
  SELECT
    persistence_id,
    slice,
    entity_type,
    revision,
    db_timestamp,
    state_ser_id,
    state_ser_manifest,
    state_payload,
    tags
  FROM durable_state
  WHERE entity_type = $1
    AND slice = ANY ($2::int[])
    AND db_timestamp >= $3
    AND db_timestamp < LEAST($4::timestamptz, COALESCE($5::timestamptz, transaction_timestamp()))
    AND ($6::bigint IS NULL OR db_timestamp > $3 OR (revision, persistence_id) > ($6, $7))
  -- Not sorted: to know that there are too many costs no more than to read so many.
  LIMIT $12
),
found AS MATERIALIZED (
  SELECT count(*) AS rows FROM scanned
)
SELECT
  d.persistence_id,
  d.slice,
  d.entity_type,
  d.revision,
  d.db_timestamp,
  d.state_ser_id,
  d.state_ser_manifest,
  ",
    limit: "$8",
    ",
  d.tags,
  NULL::timestamptz AS until,
  NULL::timestamptz AS next,
  NULL::bigint AS rows
FROM (
  SELECT
    s.*,
    SUM(LEAST(",
    size: "s.state_payload",
    ", $8::bigint)::bigint) OVER (
      ORDER BY s.db_timestamp, s.revision, s.persistence_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) + LEAST(",
    size: "s.state_payload",
    ", $8::bigint) AS bytes
  FROM (
    SELECT *
    FROM scanned
    WHERE (SELECT rows FROM found) < $12::bigint
    ORDER BY db_timestamp, revision, persistence_id
    LIMIT $9
  ) AS s
) AS d
-- The first row has no sum.
WHERE COALESCE(d.bytes, 0) <= $10::bigint
UNION ALL
SELECT
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  COALESCE($5::timestamptz, transaction_timestamp()),
  CASE
    WHEN (SELECT rows FROM found) < $11::bigint THEN (
      SELECT min(e.db_timestamp)
      FROM unnest($2::int[]) AS w (slice)
      CROSS JOIN LATERAL (
        SELECT db_timestamp
        FROM durable_state
        WHERE slice = w.slice
          AND entity_type = $1
          AND db_timestamp >= LEAST($4::timestamptz, COALESCE($5::timestamptz, transaction_timestamp()))
          AND db_timestamp < COALESCE($5::timestamptz, transaction_timestamp())
        ORDER BY db_timestamp
        LIMIT 1
      ) AS e
    )
  END,
  (SELECT rows FROM found)"
);

/// The same where no number of rows is too many: within an instant of more rows than a page, and where a caller asks for it.
///
/// Only keys and sizes are sorted, and of those only one more than the page holds is kept. The rows are fetched last, one by
/// one in that order: `LIMIT` in the join leaves the planner no other way.
pub(in crate::postgres) const SELECT_CROWDED_CHANGES: Statement = paging_keys!(
    "\
WITH found AS MATERIALIZED (
  SELECT
    persistence_id,
    revision,
    db_timestamp,
    LEAST(",
    size: "state_payload",
    ", $8::bigint) AS bytes
  FROM durable_state
  WHERE entity_type = $1
    AND slice = ANY ($2::int[])
    AND db_timestamp >= $3
    AND db_timestamp < LEAST($4::timestamptz, COALESCE($5::timestamptz, transaction_timestamp()))
    AND ($6::bigint IS NULL OR db_timestamp > $3 OR (revision, persistence_id) > ($6, $7))
  ORDER BY db_timestamp, revision, persistence_id
  LIMIT LEAST($9::bigint, 9223372036854775806) + 1
)
SELECT
  d.persistence_id,
  d.slice,
  d.entity_type,
  d.revision,
  d.db_timestamp,
  d.state_ser_id,
  d.state_ser_manifest,
  ",
    limit: "$8",
    ",
  d.tags,
  NULL::timestamptz AS until,
  NULL::timestamptz AS next,
  NULL::bigint AS rows
FROM (
  SELECT
    persistence_id,
    revision,
    SUM(bytes) OVER (
      ORDER BY db_timestamp, revision, persistence_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS total,
    bytes
  FROM (
    SELECT * FROM found ORDER BY db_timestamp, revision, persistence_id LIMIT $9
  ) AS s
) AS p
CROSS JOIN LATERAL (
  SELECT *
  FROM durable_state AS r
  WHERE r.persistence_id = p.persistence_id AND r.revision = p.revision
  LIMIT 1
) AS d
-- The first row comes whatever its size is.
WHERE p.total <= $10::bigint OR p.total = p.bytes
UNION ALL
SELECT
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  COALESCE($5::timestamptz, transaction_timestamp()),
  CASE
    WHEN (SELECT count(*) FROM found) < $11::bigint THEN (
      SELECT min(e.db_timestamp)
      FROM unnest($2::int[]) AS w (slice)
      CROSS JOIN LATERAL (
        SELECT db_timestamp
        FROM durable_state
        WHERE slice = w.slice
          AND entity_type = $1
          AND db_timestamp >= LEAST($4::timestamptz, COALESCE($5::timestamptz, transaction_timestamp()))
          AND db_timestamp < COALESCE($5::timestamptz, transaction_timestamp())
        ORDER BY db_timestamp
        LIMIT 1
      ) AS e
    )
  END,
  (SELECT count(*) FROM found)"
);

/// The first row of a page without its payload: the one that the server cannot give.
pub(in crate::postgres) const SELECT_FIRST_CHANGE: &str = "\
SELECT persistence_id, slice, entity_type, revision, db_timestamp
FROM durable_state
WHERE entity_type = $1
  AND slice = ANY ($2::int[])
  AND db_timestamp >= $3
  AND db_timestamp < LEAST($4::timestamptz, COALESCE($5::timestamptz, transaction_timestamp()))
  AND ($6::bigint IS NULL OR db_timestamp > $3 OR (revision, persistence_id) > ($6, $7))
ORDER BY db_timestamp, revision, persistence_id
LIMIT 1";
