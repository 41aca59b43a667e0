//! The tables of a SQLite file: made on first opening, checked on every one.

use sqlx::{Connection, Executor, SqliteConnection};

use super::error::{Kind, kind};
use crate::connect::Access;
use crate::open_error::OpenError;

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

/// Why a file is not used.
pub(super) enum Refusal {
    /// A statement failed.
    Failed(sqlx::Error),
    /// The file is not as it has to be.
    Unfit(OpenError),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

/// Makes the tables where they are missing, unless the store is opened for reading only, and checks them.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    access: Access,
) -> Result<(), Refusal> {
    if access == Access::ReadWrite {
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *connection)
            .await?;
        if !journal.eq_ignore_ascii_case("wal") {
            return Err(Refusal::Unfit(OpenError::NoWriteAheadLog));
        }
    }
    let tables: i64 = sqlx::query_scalar(SELECT_TABLE)
        .bind(TABLE)
        .fetch_one(&mut *connection)
        .await?;
    let probe = match access {
        Access::ReadWrite => PROBE_WRITE,
        Access::ReadOnly => PROBE_READ,
    };
    match access {
        _ if tables > 0 => {}
        Access::ReadWrite => create(connection).await?,
        Access::ReadOnly => {
            return Err(Refusal::Unfit(OpenError::TableMissing { table: TABLE }));
        }
    }
    match sqlx::query(probe).execute(connection).await {
        Ok(_) => Ok(()),
        Err(error) if kind(&error) == Kind::Schema => {
            Err(Refusal::Unfit(OpenError::ColumnMismatch {
                table: TABLE,
                column: "*",
                expected: "those of the Pekko schema",
                found: "others".into(),
            }))
        }
        Err(error) => Err(error.into()),
    }
}

/// All tables in one transaction: another process that opens the file meanwhile sees none or all.
async fn create(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Not `raw_sql`: the future of its `execute` is `Send` for one lifetime only, which would make opening a store
    // a future that cannot be spawned.
    transaction.execute(MIGRATION).await?;
    transaction.commit().await
}
