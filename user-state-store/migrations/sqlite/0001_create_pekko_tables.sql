-- The tables of Apache Pekko Persistence R2DBC and Projection R2DBC in SQLite form: the same tables,
-- columns, keys and indexes as on PostgreSQL, with these differences.
--   timestamps      INTEGER, microseconds since 1970-01-01 UTC: times as text sort wrongly
--   arrays of text  a JSON array as text, NULL where PostgreSQL has NULL
--   durable_state   persistence_id is unique by itself: no writer can leave two rows for one id

CREATE TABLE IF NOT EXISTS event_journal (
    slice INTEGER NOT NULL,
    entity_type TEXT NOT NULL,
    persistence_id TEXT NOT NULL,
    seq_nr INTEGER NOT NULL,
    db_timestamp INTEGER NOT NULL,

    event_ser_id INTEGER NOT NULL,
    event_ser_manifest TEXT NOT NULL,
    event_payload BLOB NOT NULL,

    deleted INTEGER DEFAULT FALSE NOT NULL,
    writer TEXT NOT NULL,
    adapter_manifest TEXT,
    tags TEXT,

    meta_ser_id INTEGER,
    meta_ser_manifest TEXT,
    meta_payload BLOB,

    PRIMARY KEY (persistence_id, seq_nr)
);

CREATE INDEX IF NOT EXISTS event_journal_slice_idx
    ON event_journal (slice, entity_type, db_timestamp, seq_nr);

CREATE TABLE IF NOT EXISTS snapshot (
    slice INTEGER NOT NULL,
    entity_type TEXT NOT NULL,
    persistence_id TEXT NOT NULL,
    seq_nr INTEGER NOT NULL,
    write_timestamp INTEGER NOT NULL,
    ser_id INTEGER NOT NULL,
    ser_manifest TEXT NOT NULL,
    snapshot BLOB NOT NULL,
    meta_ser_id INTEGER,
    meta_ser_manifest TEXT,
    meta_payload BLOB,

    PRIMARY KEY (persistence_id)
);

CREATE TABLE IF NOT EXISTS durable_state (
    slice INTEGER NOT NULL,
    entity_type TEXT NOT NULL,
    persistence_id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    db_timestamp INTEGER NOT NULL,
    state_ser_id INTEGER NOT NULL,
    state_ser_manifest TEXT,
    state_payload BLOB NOT NULL,
    tags TEXT,

    PRIMARY KEY (persistence_id, revision)
);

CREATE INDEX IF NOT EXISTS durable_state_slice_idx
    ON durable_state (slice, entity_type, db_timestamp, revision);

CREATE TABLE IF NOT EXISTS projection_offset_store (
    projection_name TEXT NOT NULL,
    projection_key TEXT NOT NULL,
    current_offset TEXT NOT NULL,
    manifest TEXT NOT NULL,
    mergeable INTEGER NOT NULL,
    last_updated INTEGER NOT NULL,

    PRIMARY KEY (projection_name, projection_key)
);

CREATE TABLE IF NOT EXISTS projection_timestamp_offset_store (
    projection_name TEXT NOT NULL,
    projection_key TEXT NOT NULL,
    slice INTEGER NOT NULL,
    persistence_id TEXT NOT NULL,
    seq_nr INTEGER NOT NULL,
    -- the db_timestamp of the original event
    timestamp_offset INTEGER NOT NULL,
    -- when the offset was stored; the consumer lag is timestamp_consumed - timestamp_offset
    timestamp_consumed INTEGER NOT NULL,

    PRIMARY KEY (slice, projection_name, timestamp_offset, persistence_id, seq_nr)
);

CREATE TABLE IF NOT EXISTS projection_management (
    projection_name TEXT NOT NULL,
    projection_key TEXT NOT NULL,
    paused INTEGER NOT NULL,
    last_updated INTEGER NOT NULL,

    PRIMARY KEY (projection_name, projection_key)
);
