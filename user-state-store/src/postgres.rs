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

use std::fmt;
use std::num::NonZeroUsize;

use async_trait::async_trait;
use sqlx::PgPool;

use crate::changes::{ChangesPage, ChangesQuery};
use crate::connect::{Access, AskedServer, ConnectOptions, PostgresTarget, StoreSettings, Target};
use crate::error::StoreError;
use crate::open_error::OpenError;
use crate::persistence_id::PersistenceId;
use crate::store::{
    Backend, DurableStateStore, Early, Fence, LoadedRow, Settled, StateFeeds, WriteBatch,
    WriteOutcome, WriteSignal, WriterSession,
};

mod certificates;
mod confirm;
mod connection;
mod doubt;
mod durable_state;
mod error;
mod fence;
mod identity;
mod outage;
mod pool;
mod proof;
mod schema;
mod session;
mod setting;
mod table;

pub(crate) use schema::migrate;

use connection::{Route, answer_deadline};
use durable_state::Desk;
use outage::{Outage, Tally};
use pool::Pool;
use schema::Checked;
use session::Sessions;

/// Durable states in PostgreSQL.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use user_state_store::{ConnectOptions, DurableStateStore, PersistenceId, PostgresStore};
///
/// let options = ConnectOptions::parse("postgres://user:password@localhost/users")?;
/// let store = PostgresStore::open(&options).await?;
/// let row = store.load_one(&PersistenceId::unique("mall-user")?).await?;
/// assert!(row.is_none());
/// # Ok(())
/// # }
/// ```
pub struct PostgresStore {
    reads: Pool,
    writes: Sessions,
    desk: Desk,
    settings: StoreSettings,
    signal: WriteSignal,
    outage: Outage,
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
        let route = Route::of(options)?;
        let settings = options.settings.clone();
        let checked = schema::check(&route.writing(&settings), &settings).await?;
        let reading = route.reading(&settings).in_schema(checked.schema.clone());
        let pool = connection::pool(options, &reading);
        let reads = Pool::owned(pool, reading, &settings);
        let store = Self::checked(reads, &route, checked, settings).await?;
        store.check_asked_server(options).await?;
        Ok(store)
    }

    /// Uses the caller's pool for reads, and its connect options for the store's own writing sessions.
    ///
    /// So one pool also serves, for example, views of postgres-es. The pool stays the caller's:
    /// [`close`](Backend::close) leaves it open. TLS is as the pool's options say; check it yourself.
    /// A connection of the pool that is dead, or not fit for the store, is taken out of the pool and closed.
    ///
    /// # Errors
    /// Each reason has its own [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn from_pool(pool: PgPool, settings: StoreSettings) -> Result<Self, OpenError> {
        settings.validate()?;
        let route = Route::of_pool(&pool)?;
        let checked = schema::check(&route.writing(&settings), &settings).await?;
        let reading = route.plain(&settings).in_schema(checked.schema.clone());
        let reads = Pool::shared(pool, reading, &settings);
        reads.prove_first(&settings).await?;
        Self::checked(reads, &route, checked, settings).await
    }

    async fn checked(
        reads: Pool,
        route: &Route,
        checked: Checked,
        settings: StoreSettings,
    ) -> Result<Self, OpenError> {
        tracing::debug!(rows_per_id = ?checked.rows_per_id, "the database is fit");
        let writing = route.writing(&settings).in_schema(checked.schema);
        let writes = Sessions::new(writing, reads.doubts(), &settings);
        writes.open_first().await?;
        Ok(Self {
            reads,
            writes,
            desk: Desk::new(),
            settings,
            signal: WriteSignal::default(),
            outage: Outage::default(),
        })
    }

    /// Refuses a server of another kind than `target_session_attrs` asks for. A store that writes has a primary already,
    /// and a store that reads cannot write anywhere.
    async fn check_asked_server(&self, options: &ConnectOptions) -> Result<(), OpenError> {
        let Target::Postgres(PostgresTarget { asked, .. }) = options.target() else {
            return Ok(());
        };
        let asked = match (self.settings.access, asked.server) {
            (Access::ReadWrite, AskedServer::ReadOnly | AskedServer::Standby) => {
                return Err(OpenError::InvalidOption {
                    option: "target_session_attrs",
                    problem: "a store that writes needs the primary; use read-write or any",
                });
            }
            (Access::ReadOnly, AskedServer::Primary) => "primary",
            (Access::ReadOnly, AskedServer::Standby) => "standby",
            _ => return Ok(()),
        };
        let in_recovery = sqlx::query_scalar(schema::SELECT_IN_RECOVERY).fetch_one(self.pool());
        let in_recovery = schema::within(answer_deadline(&self.settings), in_recovery).await?;
        let found = if in_recovery { "standby" } else { "primary" };
        if asked == found {
            Ok(())
        } else {
            Err(OpenError::OtherServer { asked, found })
        }
    }

    /// The pool that serves the reads; it may serve other readers too.
    pub fn pool(&self) -> &PgPool {
        self.reads.pool()
    }
}

#[async_trait]
impl DurableStateStore for PostgresStore {
    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, StoreError> {
        let rows = durable_state::load(&self.reads, &self.settings, ids).await;
        self.outage.after_read(ids.len(), rows)
    }

    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome> {
        Settled::all_of(self, batch).await
    }

    async fn write_early(&self, batch: &WriteBatch, early: &Early<'_>) -> Vec<Settled> {
        let tally = Tally::default();
        let note = |settled: &[Settled]| {
            self.signal.applied(batch, settled);
            tally.add(settled);
        };
        let reported = |settled: Vec<Settled>| {
            note(&settled);
            early(settled);
        };
        let (writes, desk, settings) = (&self.writes, &self.desk, &self.settings);
        let last = durable_state::write(writes, desk, settings, batch, &reported).await;
        note(&last);
        self.outage.after_write(tally);
        last
    }
}

#[async_trait]
impl StateFeeds for PostgresStore {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        let page = durable_state::changes(&self.reads, &self.settings, query).await;
        self.outage.after_read(1, page)
    }

    async fn persistence_ids(
        &self,
        after: Option<&PersistenceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<PersistenceId>, StoreError> {
        let ids = durable_state::persistence_ids(&self.reads, &self.settings, after, limit).await;
        self.outage.after_read(1, ids)
    }
}

#[async_trait]
impl Backend for PostgresStore {
    async fn fence(&self, session: &WriterSession) -> Fence {
        fence::fence(&self.writes, session).await
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

/// One line: neither the server nor the pools.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresStore")
            .field("access", &self.settings.access)
            .field("payload_column", &self.settings.payload_column)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    //! Each statement is one that the server accepts, and those of the hot path find rows by the primary key even
    //! where the planner knows nothing of the table. The tables are made as temporary ones: nobody gathers
    //! statistics for those in the background.

    use std::error::Error;

    use sqlx::{Column as _, Connection as _, Executor as _, PgConnection, Statement as _};
    use throwaway_postgres::TestDatabase;

    use super::*;
    use crate::connect::PayloadColumn;
    use crate::postgres::durable_state::{
        DELETE_FREE_STATES, DELETE_STATES, INSERT_STATES, PLACES, SELECT_BYTES_OF_IDS,
        SELECT_CHANGES, SELECT_CROWDED_CHANGES, SELECT_FIRST_CHANGE, SELECT_LENGTHS,
        SELECT_OTHER_ROWS, SELECT_PERSISTENCE_IDS, SELECT_STANDING, SELECT_STATES, SELECT_TAKEN,
        SELECT_TEXT, SELECT_UNFILLED, UPDATE_FREE_STATES, UPDATE_STATES,
    };

    const PAYLOAD_COLUMNS: [PayloadColumn; 3] = [
        PayloadColumn::Bytea,
        PayloadColumn::Json,
        PayloadColumn::Jsonb,
    ];

    /// A session as the store's own, with temporary tables.
    pub(super) async fn session(
        database: &TestDatabase,
        payload_column: PayloadColumn,
    ) -> Result<PgConnection, Box<dyn Error>> {
        let options = ConnectOptions::parse(database.url())?;
        let opener = Route::of(&options)?.writing(&options.settings);
        let mut session = opener.open_unproven().await?;
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
            SELECT_LENGTHS.of(column),
            SELECT_CHANGES.of(column),
            SELECT_CROWDED_CHANGES.of(column),
            SELECT_FIRST_CHANGE,
            SELECT_PERSISTENCE_IDS,
            SELECT_BYTES_OF_IDS,
            SELECT_TEXT,
            SELECT_TAKEN,
            UPDATE_STATES.of(column),
            DELETE_STATES,
            INSERT_STATES.of(column),
            UPDATE_FREE_STATES.of(column),
            DELETE_FREE_STATES,
            SELECT_OTHER_ROWS,
            SELECT_STANDING,
            fence::SELECT_START,
            fence::SELECT_LISTED,
            fence::TERMINATE,
            confirm::SELECT_WAITS,
            confirm::EMIT,
            identity::SELECT_SESSION,
            identity::SELECT_PROCESS_ID,
            session::SET_CLIENT_CHECK,
            proof::SET_SETTINGS,
            proof::SET_SYNCHRONOUS_COMMIT,
            proof::SELECT_PROOF,
            pool::MARKER,
            schema::SELECT_IN_RECOVERY,
            table::SELECT_TABLE,
            SELECT_UNFILLED,
            table::SELECT_COLUMNS,
            table::SELECT_UNIQUE_INDEXES,
            table::SELECT_PRIVILEGE,
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
                (SELECT_CROWDED_CHANGES.of(column), &PLACES[..]),
                (
                    UPDATE_STATES.of(column),
                    &[(0, "ordinal"), (1, "db_timestamp")],
                ),
                (
                    UPDATE_FREE_STATES.of(column),
                    &[(0, "ordinal"), (1, "db_timestamp")],
                ),
                (DELETE_STATES, &[(0, "ordinal")]),
                (DELETE_FREE_STATES, &[(0, "ordinal")]),
                (SELECT_STANDING, &[(0, "ordinal"), (1, "locked")]),
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
        let update_free = plan(&mut session, UPDATE_FREE_STATES.of(column), &columns).await?;
        let erase_free = plan(
            &mut session,
            DELETE_FREE_STATES,
            &format!("{ids}, NULL, NULL"),
        )
        .await?;
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
        let crowded = plan(
            &mut session,
            SELECT_CROWDED_CHANGES.of(column),
            "'', ARRAY[1], '2000-01-01', NULL, NULL, NULL, NULL, 100, 1000, 1000, 10",
        )
        .await?;
        for plan in [update, erase, update_free, erase_free, look, load, crowded] {
            assert!(plan.contains("durable_state_pkey"), "{plan}");
            assert!(plan.contains("Nested Loop"), "{plan}");
            assert!(!plan.contains("Seq Scan"), "{plan}");
        }
        session.close().await?;
        Ok(())
    }
}
