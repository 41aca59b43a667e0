//! An empty database with the tables of Pekko in it.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Connection, Executor as _, FromRow, PgConnection, Row as _};
use throwaway_postgres::TestDatabase;
use url::Url;
use user_state_store::{ConnectOptions, Store};

use crate::case::AnyError;

/// A row of `durable_state` as SQL shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Column `persistence_id`.
    pub persistence_id: String,
    /// Column `entity_type`.
    pub entity_type: String,
    /// Column `slice`.
    pub slice: i32,
    /// Column `revision`.
    pub revision: i64,
    /// Column `db_timestamp`.
    pub db_timestamp: DateTime<Utc>,
    /// Column `state_ser_id`.
    pub state_ser_id: i32,
    /// Column `state_ser_manifest`.
    pub state_ser_manifest: Option<String>,
    /// Column `state_payload`.
    pub state_payload: Vec<u8>,
    /// Column `tags`.
    pub tags: Option<Vec<String>>,
}

impl FromRow<'_, PgRow> for Row {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            persistence_id: row.try_get("persistence_id")?,
            entity_type: row.try_get("entity_type")?,
            slice: row.try_get("slice")?,
            revision: row.try_get("revision")?,
            db_timestamp: row.try_get("db_timestamp")?,
            state_ser_id: row.try_get("state_ser_id")?,
            state_ser_manifest: row.try_get("state_ser_manifest")?,
            state_payload: row.try_get("state_payload")?,
            tags: row.try_get("tags")?,
        })
    }
}

/// A PostgreSQL database of a case's own, with the tables in it. It goes with the value.
#[derive(Debug)]
pub struct Database {
    database: TestDatabase,
    options: ConnectOptions,
}

impl Database {
    /// A new one.
    ///
    /// # Errors
    /// Where no PostgreSQL can be had, or the tables cannot be made.
    ///
    /// # Cancel safety
    /// A dropped future can leave an empty database behind.
    pub async fn create() -> Result<Self, AnyError> {
        let database = TestDatabase::create().await?;
        let options: ConnectOptions = database.url().parse()?;
        user_state_store::migrate(&options).await?;
        Ok(Self { database, options })
    }

    /// Its address, password included.
    ///
    /// # Errors
    /// Where the test kit made an address that is none.
    pub fn url(&self) -> Result<Url, AnyError> {
        Ok(Url::parse(self.database.url())?)
    }

    /// A store of ours, as another process would have it.
    ///
    /// # Errors
    /// Where it cannot be opened.
    ///
    /// # Cancel safety
    /// A dropped future closes what was opened.
    pub async fn store(&self) -> Result<Store, AnyError> {
        Ok(user_state_store::connect(&self.options).await?)
    }

    /// A connection beside all stores.
    ///
    /// # Errors
    /// Where it cannot be opened.
    ///
    /// # Cancel safety
    /// A dropped future closes what was opened.
    pub async fn connection(&self) -> Result<PgConnection, AnyError> {
        Ok(PgConnection::connect(self.database.url()).await?)
    }

    /// All rows of an id, lowest revision first: two would be one too many.
    ///
    /// # Errors
    /// Where the database does not answer.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn rows(&self, persistence_id: &str) -> Result<Vec<Row>, AnyError> {
        let query = "\
            SELECT persistence_id, entity_type, slice, revision, db_timestamp,
                   state_ser_id, state_ser_manifest, state_payload, tags
            FROM durable_state
            WHERE persistence_id = $1
            ORDER BY revision";
        let mut connection = self.connection().await?;
        let rows = sqlx::query_as(query).bind(persistence_id);
        Ok(rows.fetch_all(&mut connection).await?)
    }

    /// Runs statements beside all stores.
    ///
    /// # Errors
    /// Where the database refuses.
    ///
    /// # Cancel safety
    /// A dropped future may have run them.
    pub async fn execute(&self, statements: &str) -> Result<(), AnyError> {
        let mut connection = self.connection().await?;
        connection.execute(statements).await?;
        Ok(())
    }
}
