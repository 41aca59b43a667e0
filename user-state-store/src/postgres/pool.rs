//! The pool that serves reads, whoever owns it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::connect::StoreSettings;
use crate::error::Cause;
use crate::postgres::connection::answer_deadline;
use crate::postgres::error::Failure;

/// A pool, and how many reads of this store are under way.
pub(super) struct Pool {
    connections: PgPool,
    owner: Owner,
    permits: Semaphore,
    permits_max: u32,
    closed: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Store,
    Caller,
}

/// One call that changes nothing. It may run more than once, each time on another connection and from its beginning.
pub(super) trait Call: Send {
    /// What it reads.
    type Answer: Send;

    /// Reads it; result sets are read to their end, so that the connection is fit for the next call.
    fn run(
        &mut self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

/// A pooled connection with one call under way. Dropping it before the call's end closes the connection.
struct Reading<'pool> {
    connection: Option<PoolConnection<Postgres>>,
    _permit: SemaphorePermit<'pool>,
}

impl Pool {
    /// A pool that is closed with the store.
    pub(super) fn owned(pool: PgPool) -> Self {
        Self::new(pool, Owner::Store)
    }

    /// A pool that outlives the store.
    pub(super) fn shared(pool: PgPool) -> Self {
        Self::new(pool, Owner::Caller)
    }

    fn new(pool: PgPool, owner: Owner) -> Self {
        let permits_max = pool.options().get_max_connections().max(1);
        Self {
            connections: pool,
            owner,
            permits: Semaphore::new(usize::try_from(permits_max).unwrap_or(1)),
            permits_max,
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.connections
    }

    /// Runs a call within the deadline, and gives the connection back.
    pub(super) async fn read<C: Call>(
        &self,
        settings: &StoreSettings,
        mut call: C,
    ) -> Result<C::Answer, Failure> {
        self.reading(settings).await?.run(settings, &mut call).await
    }

    /// A connection for one call.
    async fn reading(&self, settings: &StoreSettings) -> Result<Reading<'_>, Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed);
        }
        let acquiring = async {
            let permit = self.permits.acquire().await.map_err(|_| Failure::Closed)?;
            let connection = self
                .connections
                .acquire()
                .await
                .map_err(|error| Failure::of(&error))?;
            Ok(Reading {
                connection: Some(connection),
                _permit: permit,
            })
        };
        // The pool's own limit counts from when the permit is there, and a caller's pool may have none.
        let within = settings.acquire_timeout.max(settings.connect_timeout);
        timeout(within, acquiring)
            .await
            .map_err(|_| Failure::Unavailable(Cause::PoolTimeout))?
    }

    /// Waits for the reads under way; closes the pool where it is the store's own.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if self.permits.acquire_many(self.permits_max).await.is_ok() {
            self.permits.close();
        }
        if self.owner == Owner::Store {
            self.connections.close().await;
        }
    }
}

impl Reading<'_> {
    /// Runs one call, and gives the connection back if the call completed.
    async fn run<C: Call>(
        mut self,
        settings: &StoreSettings,
        call: &mut C,
    ) -> Result<C::Answer, Failure> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::Unavailable(Cause::Protocol));
        };
        let answer = timeout(answer_deadline(settings), call.run(connection)).await;
        let failure = match answer {
            Ok(Ok(value)) => {
                drop(self.connection.take());
                return Ok(value);
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::Lost(Cause::Deadline),
        };
        if !matches!(failure, Failure::Lost(_)) {
            drop(self.connection.take());
        }
        Err(failure)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

/// Shows how many reads there may be, never how they connect.
impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pool")
            .field("owner", &self.owner)
            .field("permits_max", &self.permits_max)
            .field("permits_free", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}
