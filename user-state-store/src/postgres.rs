//! The store on PostgreSQL, in the tables of Apache Pekko Persistence R2DBC.
//!
//! **Problem.** A client that loses its connection does not know whether its write was applied, and the server may
//! still be applying it. A driver's pool can hand out a connection whose last call was dropped in the middle.
//!
//! **How.** Reads share a pool. Writes go through a few sessions of the store's own, each of which knows its server
//! process, so that a lost answer names the session to fence. A session goes back only from a call that
//! completed.
//!
//! **Guarantees.** Those of [`crate::DurableStateStore`]. One statement and one round trip for a batch of updates.
//!
//! **Not here.** Connection poolers that share a server process between clients within a session (they would make
//! fencing end somebody else's work); a second server that took over while the first still runs.

use std::num::NonZeroUsize;

use async_trait::async_trait;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::connect::{ConnectOptions, StoreSettings};
use crate::error::StoreError;
use crate::open_error::OpenError;
use crate::persistence_id::PersistenceId;
use crate::store::{
    DurableStateStore, Fence, StoredState, WriteBatch, WriteOutcome, WriteSignal, WriterSession,
};

mod connection;
mod durable_state;
mod error;
mod fence;
mod pool;
mod schema;
mod session;

pub(crate) use schema::migrate;

use pool::Pool;
use session::Sessions;

/// Durable states in PostgreSQL.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use user_state_store::{ConnectOptions, DurableStateStore, PersistenceId, PostgresStore};
///
/// let options = ConnectOptions::parse("postgres://user:password@localhost/users")?;
/// let store = PostgresStore::open(&options).await?;
/// let rows = store.load(&[PersistenceId::unique("mall-user")?]).await?;
/// assert_eq!(rows.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PostgresStore {
    reads: Pool,
    writes: Sessions,
    settings: StoreSettings,
    signal: WriteSignal,
}

impl PostgresStore {
    /// Connects, and checks that the database is fit.
    ///
    /// # Errors
    /// Each reason has its own [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn open(options: &ConnectOptions) -> Result<Self, OpenError> {
        options.validate()?;
        let connect = connection::connect_options(options)?;
        let pool = connection::pool(options, connect.clone());
        let store = Self::checked(Pool::owned(pool), connect, options.settings.clone()).await?;
        Ok(store)
    }

    /// Uses the caller's pool for reads, and its connect options for the store's own writing sessions.
    ///
    /// So one pool also serves, for example, views of postgres-es. The pool stays the caller's:
    /// [`close`](DurableStateStore::close) leaves it open. TLS is as the pool's options say; check it yourself.
    ///
    /// # Errors
    /// Each reason has its own [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn from_pool(pool: PgPool, settings: StoreSettings) -> Result<Self, OpenError> {
        settings.validate()?;
        let connect = pool.connect_options().as_ref().clone();
        Self::checked(Pool::shared(pool), connect, settings).await
    }

    async fn checked(
        reads: Pool,
        connect: PgConnectOptions,
        settings: StoreSettings,
    ) -> Result<Self, OpenError> {
        let rows_per_id = schema::check(&connect, &settings).await?;
        tracing::debug!(?rows_per_id, "the database is fit");
        let writes = Sessions::new(connection::session_options(connect, &settings), &settings);
        writes.open_first().await?;
        Ok(Self {
            reads,
            writes,
            settings,
            signal: WriteSignal::default(),
        })
    }

    /// The pool that serves the reads; it may serve other readers too.
    pub fn pool(&self) -> &PgPool {
        self.reads.pool()
    }
}

#[async_trait]
impl DurableStateStore for PostgresStore {
    async fn load(
        &self,
        ids: &[PersistenceId],
    ) -> Result<Vec<Result<Option<StoredState>, StoreError>>, StoreError> {
        durable_state::load(&self.reads, &self.settings, ids).await
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        let outcomes = durable_state::write(&self.writes, &self.settings, batch).await;
        self.signal.applied(batch, &outcomes);
        outcomes
    }

    async fn fence(&self, session: &WriterSession) -> Fence {
        fence::fence(&self.writes, session).await
    }

    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        durable_state::changes(&self.reads, &self.settings, query).await
    }

    async fn persistence_ids(
        &self,
        after: Option<&PersistenceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError> {
        durable_state::persistence_ids(&self.reads, &self.settings, after, limit).await
    }

    fn write_signal(&self) -> &WriteSignal {
        &self.signal
    }

    async fn close(&self) {
        self.signal.close();
        self.writes.close().await;
        self.reads.close().await;
    }
}

#[cfg(test)]
mod tests {
    //! Each statement is one that the server accepts, and those of the hot path find rows by the primary key even
    //! where the planner knows nothing of the table. The tables are made as temporary ones: nobody gathers
    //! statistics for those in the background.

    use std::error::Error;

    use sqlx::{Column as _, Connection as _, Executor as _, PgConnection, Statement as _};
    use user_state_runtime::testkit::TestDatabase;

    use super::*;
    use crate::connect::PayloadColumn;
    use crate::postgres::durable_state::{
        DELETE_STATES, INSERT_STATES, PLACES, SELECT_CHANGES, SELECT_FIRST_CHANGE, SELECT_LOCKED,
        SELECT_OTHER_ROWS, SELECT_PERSISTENCE_IDS, SELECT_STATES, UPDATE_STATES,
    };

    const PAYLOAD_COLUMNS: [PayloadColumn; 3] = [
        PayloadColumn::Bytea,
        PayloadColumn::Json,
        PayloadColumn::Jsonb,
    ];

    /// A session as the store's own, with temporary tables.
    async fn session(
        database: &TestDatabase,
        payload_column: PayloadColumn,
    ) -> Result<PgConnection, Box<dyn Error>> {
        let options = ConnectOptions::parse(database.url())?;
        let connect = connection::connect_options(&options)?;
        let connect = connection::session_options(connect, &options.settings);
        let mut session = PgConnection::connect_with(&connect).await?;
        session.execute("SET search_path = pg_temp").await?;
        let tables = schema::create_pekko_tables(payload_column);
        session.execute(tables).await?;
        Ok(session)
    }

    async fn plan(
        session: &mut PgConnection,
        statement: &str,
        arguments: &str,
    ) -> Result<String, Box<dyn Error>> {
        session
            .execute(&*format!("PREPARE planned AS {statement}"))
            .await?;
        let explain = format!("EXPLAIN EXECUTE planned ({arguments})");
        let lines: Vec<String> = sqlx::query_scalar(&explain)
            .fetch_all(&mut *session)
            .await?;
        session.execute("DEALLOCATE planned").await?;
        Ok(lines.join("\n"))
    }

    #[tokio::test]
    async fn the_server_accepts_every_statement() -> Result<(), Box<dyn Error>> {
        let database = TestDatabase::create().await?;
        for column in PAYLOAD_COLUMNS {
            prepare_all(session(&database, column).await?, column).await?;
        }
        Ok(())
    }

    async fn prepare_all(
        mut session: PgConnection,
        column: PayloadColumn,
    ) -> Result<(), Box<dyn Error>> {
        for statement in [
            SELECT_STATES.of(column),
            SELECT_CHANGES.of(column),
            SELECT_FIRST_CHANGE,
            SELECT_PERSISTENCE_IDS,
            UPDATE_STATES.of(column),
            DELETE_STATES,
            INSERT_STATES.of(column),
            SELECT_OTHER_ROWS,
            SELECT_LOCKED,
            fence::SELECT_START,
            fence::TERMINATE,
            session::SELECT_SESSION,
            session::SET_CLIENT_CHECK,
            schema::SELECT_SERVER,
            schema::SELECT_COLUMNS,
            schema::SELECT_UNIQUE_INDEXES,
            schema::SELECT_PRIVILEGE,
        ] {
            session
                .prepare(statement)
                .await
                .map_err(|error| format!("{error} in {statement}"))?;
        }
        session.close().await?;
        Ok(())
    }

    #[tokio::test]
    async fn columns_stand_where_they_are_read() -> Result<(), Box<dyn Error>> {
        let database = TestDatabase::create().await?;
        let states = &PLACES[..9];
        for column in PAYLOAD_COLUMNS {
            let mut session = session(&database, column).await?;
            for (statement, places) in [
                (SELECT_STATES.of(column), states),
                (SELECT_CHANGES.of(column), &PLACES[..]),
                (
                    UPDATE_STATES.of(column),
                    &[(0, "ordinal"), (1, "db_timestamp")],
                ),
                (DELETE_STATES, &[(0, "ordinal")]),
                (
                    INSERT_STATES.of(column),
                    &[(0, "persistence_id"), (1, "db_timestamp")],
                ),
            ] {
                let prepared = session.prepare(statement).await?;
                let columns = prepared.columns().iter();
                let columns: Vec<_> = columns.map(|it| (it.ordinal(), it.name())).collect();
                assert_eq!(columns, places, "{statement}");
            }
            session.close().await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn writes_and_loads_find_rows_by_the_primary_key_without_statistics()
    -> Result<(), Box<dyn Error>> {
        let database = TestDatabase::create().await?;
        for column in PAYLOAD_COLUMNS {
            plan_all(session(&database, column).await?, column).await?;
        }
        Ok(())
    }

    async fn plan_all(
        mut session: PgConnection,
        column: PayloadColumn,
    ) -> Result<(), Box<dyn Error>> {
        session
            .execute(
                "INSERT INTO durable_state
                 SELECT 1, '', 'id-' || i, 1, now(), 31, 'm', '1', NULL
                 FROM generate_series(1, 20000) AS i",
            )
            .await?;
        let ids: Vec<String> = (1..=1000).map(|index| format!("'id-{index}'")).collect();
        let ids = format!("ARRAY[{}]", ids.join(","));
        let array = |kind: &str| format!("NULL::{kind}[]");
        let columns: Vec<String> = [
            "bigint",
            "timestamptz",
            "bigint",
            "int",
            "text",
            "bytea",
            "text",
            "boolean",
        ]
        .into_iter()
        .map(array)
        .collect();
        let columns = format!("{ids}, {}", columns.join(", "));
        let update = plan(&mut session, UPDATE_STATES.of(column), &columns).await?;
        let erase = plan(&mut session, DELETE_STATES, &format!("{ids}, NULL, NULL")).await?;
        let look = plan(&mut session, SELECT_OTHER_ROWS, &ids).await?;
        // A caller's pool has none of the store's settings.
        session
            .execute("RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin; RESET plan_cache_mode")
            .await?;
        let load = plan(
            &mut session,
            SELECT_STATES.of(column),
            &format!("{ids}, 100"),
        )
        .await?;
        for plan in [update, erase, look, load] {
            assert!(plan.contains("durable_state_pkey"), "{plan}");
            assert!(plan.contains("Nested Loop"), "{plan}");
            assert!(!plan.contains("Seq Scan"), "{plan}");
        }
        session.close().await?;
        Ok(())
    }
}
