//! A database with the table of a Pekko application, looked at and filled without the store.

use sqlx::{Connection as _, Executor as _, PgConnection};
use throwaway_postgres::TestDatabase;
use tokio::sync::Mutex;
use user_state_store::{
    Change, ConnectOptions, PayloadColumn, PersistenceId, Revision, Store, Write, WriteBatch,
    WriteOutcome,
};

use crate::TestResult;
use crate::fixture::{Row, RowColumns};

/// A table, and a store on it. A database costs much more than a row, so a test refills its table.
pub(crate) struct Table {
    database: TestDatabase,
    column: PayloadColumn,
    connection: Mutex<PgConnection>,
    pub(crate) store: Store,
}

impl Table {
    /// A table with payloads of this type.
    pub(crate) async fn new(column: PayloadColumn) -> TestResult<Self> {
        let database = TestDatabase::create().await?;
        let mut options: ConnectOptions = database.url().parse()?;
        options.settings.payload_column = column;
        user_state_store::migrate(&options).await?;
        let store = user_state_store::connect(&options).await?;
        let connection = Mutex::new(PgConnection::connect(database.url()).await?);
        Ok(Self {
            database,
            column,
            connection,
            store,
        })
    }

    /// A table that already holds these rows.
    pub(crate) async fn with<'row>(
        column: PayloadColumn,
        rows: impl IntoIterator<Item = &'row Row>,
    ) -> TestResult<Self> {
        let table = Self::new(column).await?;
        table.insert(rows).await?;
        Ok(table)
    }

    /// The URL of the database.
    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    /// Holds these rows as they stand, and no others.
    pub(crate) async fn refill<'row>(
        &self,
        rows: impl IntoIterator<Item = &'row Row>,
    ) -> TestResult {
        let mut connection = self.connection.lock().await;
        connection.execute("DELETE FROM durable_state").await?;
        drop(connection);
        self.insert(rows).await
    }

    /// Inserts rows as they stand.
    pub(crate) async fn insert<'row>(
        &self,
        rows: impl IntoIterator<Item = &'row Row>,
    ) -> TestResult {
        let payload = match self.column {
            PayloadColumn::Bytea => "$8",
            _ => "convert_from($8, 'UTF8')::jsonb",
        };
        let insert =
            format!("INSERT INTO durable_state VALUES ($1, $2, $3, $4, $5, $6, $7, {payload}, $9)");
        let mut connection = self.connection.lock().await;
        for row in rows {
            sqlx::query(&insert)
                .bind(row.slice)
                .bind(&row.entity_type)
                .bind(&row.persistence_id)
                .bind(row.revision)
                .bind(row.db_timestamp)
                .bind(row.state_ser_id)
                .bind(&row.state_ser_manifest)
                .bind(row.payload())
                .bind(&row.tags)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// All rows, by id and revision.
    pub(crate) async fn rows(&self) -> TestResult<Vec<Row>> {
        let payload = match self.column {
            PayloadColumn::Bytea => "state_payload",
            _ => "convert_to(state_payload::text, 'UTF8')",
        };
        let select = format!(
            "SELECT slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
                    state_ser_manifest, tags, {payload}
             FROM durable_state
             ORDER BY persistence_id, revision"
        );
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(&select).fetch_all(&mut *connection).await?;
        drop(connection);
        rows.iter()
            .map(|row| {
                use sqlx::{FromRow as _, Row as _};
                // The payload is the ninth column, behind those of the tuple.
                let columns = RowColumns::from_row(row)?;
                Ok(Row::new(columns, row.try_get(8)?, self.column))
            })
            .collect()
    }

    /// The rows of one id.
    pub(crate) async fn rows_of(&self, id: &str) -> TestResult<Vec<Row>> {
        let mut rows = self.rows().await?;
        rows.retain(|row| row.persistence_id == id);
        Ok(rows)
    }

    /// Writes one write.
    pub(crate) async fn write(&self, write: Write) -> TestResult<WriteOutcome> {
        let outcomes = self
            .store
            .states()
            .write(&WriteBatch::new(vec![write])?)
            .await;
        Ok(outcomes.into_iter().next().ok_or("no outcome")?)
    }
}

/// A write of this id at this revision.
pub(crate) fn write_of(id: &str, expected: i64, change: Change) -> Write {
    Write::new(
        PersistenceId::unique(id).unwrap(),
        revision(expected),
        change,
    )
}

/// A revision.
pub(crate) fn revision(number: i64) -> Revision {
    Revision::new(number).unwrap()
}
