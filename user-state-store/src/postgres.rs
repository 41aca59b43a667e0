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
    DurableStateStore, Fence, StoredState, WriteBatch, WriteOutcome, WriterSession,
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
        durable_state::write(&self.writes, &self.settings, batch).await
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

    async fn close(&self) {
        self.writes.close().await;
        self.reads.close().await;
    }
}
