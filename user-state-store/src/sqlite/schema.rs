//! The tables of a SQLite file: made on first opening, checked on every one.

use std::path::Path;

use sqlx::{Connection, Executor, Row, SqliteConnection};

use super::Access;
use super::error::{Kind, OpenError, cause, kind, on_open};

/// The DDL; every statement of it does nothing where its object is there.
const MIGRATION: &str = include_str!("../../migrations/sqlite/0001_create_pekko_tables.sql");

/// The table this backend reads and writes.
const TABLE: &str = "durable_state";

const SELECT_TABLE: &str = "\
SELECT count(*)
FROM sqlite_master
WHERE type = 'table'
  AND name = ?1";

/// Changes no row, and fails where the database is read-only or a column is missing.
const PROBE_WRITE: &str = "\
UPDATE durable_state
SET slice = slice, entity_type = entity_type, persistence_id = persistence_id, revision = revision,
    db_timestamp = db_timestamp, state_ser_id = state_ser_id, state_ser_manifest = state_ser_manifest,
    state_payload = state_payload, tags = tags
WHERE FALSE";

const PROBE_READ: &str = "\
SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id, state_ser_manifest,
    state_payload, tags
FROM durable_state
WHERE FALSE";

/// Makes the tables where they are missing, unless the store is opened for reading only, and checks them.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    access: Access,
) -> Result<(), OpenError> {
    if access == Access::ReadWrite {
        let journal = sqlx::query("PRAGMA journal_mode")
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get::<String, _>(0))
            .map_err(|error| on_open(&error))?;
        if !journal.eq_ignore_ascii_case("wal") {
            return Err(OpenError::NoWriteAheadLog);
        }
    }
    if !has_table(connection).await? {
        match access {
            Access::ReadWrite => create(connection).await?,
            Access::ReadOnly => return Err(OpenError::MissingTable { table: TABLE }),
        }
    }
    let probe = match access {
        Access::ReadWrite => PROBE_WRITE,
        Access::ReadOnly => PROBE_READ,
    };
    sqlx::query(probe)
        .execute(&mut *connection)
        .await
        .map_err(|error| match kind(&error) {
            Kind::Schema => OpenError::ForeignTable {
                table: TABLE,
                cause: cause(&error),
            },
            _ => on_open(&error),
        })?;
    Ok(())
}

/// Names the reason that SQLite's "cannot open" leaves open.
pub(super) fn explain(error: OpenError, path: &Path, access: Access) -> OpenError {
    let OpenError::CannotOpen(cause) = error else {
        return error;
    };
    let directory = path.parent().is_some_and(Path::is_dir);
    match access {
        _ if !directory => OpenError::NoSuchDirectory,
        Access::ReadOnly if !path.exists() => OpenError::NoSuchFile,
        Access::ReadWrite if !path.is_dir() => OpenError::ReadOnly(cause),
        _ => OpenError::CannotOpen(cause),
    }
}

async fn has_table(connection: &mut SqliteConnection) -> Result<bool, OpenError> {
    sqlx::query(SELECT_TABLE)
        .bind(TABLE)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get::<i64, _>(0))
        .map(|count| count > 0)
        .map_err(|error| on_open(&error))
}

/// All tables in one transaction: another process that opens the file meanwhile sees none or all.
async fn create(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(|error| on_open(&error))?;
    // Not `raw_sql`: the future of its `execute` is `Send` for one lifetime only, which would make opening a store
    // a future that cannot be spawned.
    transaction
        .execute(MIGRATION)
        .await
        .map_err(|error| on_open(&error))?;
    transaction.commit().await.map_err(|error| on_open(&error))
}
