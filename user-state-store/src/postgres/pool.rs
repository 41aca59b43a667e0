//! The pool that serves reads, whoever owns it.
//!
//! **Problem.** A pooled connection may be dead, or lead to a server that takes no writes any more, and so may all the
//! others. **How.** A connection is proven when this store meets it first, and again when there is a doubt. A call
//! whose connection is dead or unfit is made once more on a new connection, opened outside the pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::Semaphore;

use crate::connect::StoreSettings;
use crate::deadline::{now, within};
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::connection::{Opener, answer_deadline, not_connected};
use crate::postgres::doubt::{Doubts, Mark};
use crate::postgres::error::{Failure, open_error};

mod known;

use known::{Aged, Known, Verdict};

#[cfg(test)]
pub(super) use known::MARKER;

/// How often a call is made: once more after its connection was dead or unfit. What fails on a new one fails for
/// another reason.
const TRIES_MAX: u32 = 2;

/// A pool, and how many reads of this store are under way.
pub(super) struct Pool {
    connections: PgPool,
    owner: Owner,
    opener: Opener,
    known: Known,
    doubts: Arc<Doubts>,
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
struct Reading {
    connection: Option<PoolConnection<Postgres>>,
    mark: Mark,
}

impl Pool {
    /// A pool that is closed with the store.
    pub(super) fn owned(pool: PgPool, opener: Opener, settings: &StoreSettings) -> Self {
        Self::new(pool, Owner::Store, opener, settings)
    }

    /// A pool that outlives the store.
    pub(super) fn shared(pool: PgPool, opener: Opener, settings: &StoreSettings) -> Self {
        Self::new(pool, Owner::Caller, opener, settings)
    }

    fn new(connections: PgPool, owner: Owner, opener: Opener, settings: &StoreSettings) -> Self {
        let permits_max = connections.options().get_max_connections().max(1);
        let permits = usize::try_from(permits_max).unwrap_or(1);
        Self {
            known: Known::new(permits, settings.session_age_max, owner.into()),
            connections,
            owner,
            opener,
            doubts: Arc::default(),
            permits: Semaphore::new(permits),
            permits_max,
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.connections
    }

    /// What the connections of this store learn about each other.
    pub(super) fn doubts(&self) -> Arc<Doubts> {
        Arc::clone(&self.doubts)
    }

    /// Has a connection of a caller's pool proven, to find out early if they cannot be used. A pool whose connections
    /// are all in use says nothing about them.
    pub(super) async fn prove_first(&self, settings: &StoreSettings) -> Result<(), OpenError> {
        within(acquire_limit(settings), Box::pin(self.first_proof()))
            .await
            .unwrap_or(Ok(()))
    }

    /// Idle connections that are not fit are closed, until one is, or a new one is not.
    async fn first_proof(&self) -> Result<(), OpenError> {
        let mut answer = Ok(());
        for _ in 0..=self.permits_max {
            let mut connection = match self.connections.acquire().await {
                Ok(connection) => connection,
                Err(sqlx::Error::PoolTimedOut) => return Ok(()),
                Err(error) => return Err(open_error(&error)),
            };
            let is_new = connection.cached_statements_size() == 0;
            answer = self
                .opener
                .standard()
                .prove(&mut connection)
                .await
                .map(drop);
            if answer.is_ok() {
                return answer;
            }
            drop(connection.detach());
            if is_new {
                break;
            }
        }
        answer
    }

    /// Runs a call within one deadline over all tries, and gives the connection back.
    pub(super) async fn read<C: Call>(
        &self,
        settings: &StoreSettings,
        mut call: C,
    ) -> Result<C::Answer, Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed);
        }
        let began = now();
        let acquiring = acquire_limit(settings);
        let _permit = within(acquiring, self.permits.acquire())
            .await
            .map_err(|_| Failure::Unavailable(Cause::PoolTimeout))?
            .map_err(|_| Failure::Closed)?;
        let mut tries = 0;
        let left = acquiring.saturating_sub(began.elapsed());
        if let Some(pooled) = self.pooled(left).await? {
            tries += 1;
            match self.run_pooled(settings, pooled, &mut call).await {
                Err(failure) if is_of_connection(&failure) => {}
                answer => return answer,
            }
        }
        // The call needs a connection that is new: the next pooled one may be like the last.
        let limit = (acquiring + answer_deadline(settings)).saturating_sub(began.elapsed());
        within(limit, Box::pin(self.run_anew(settings, tries, &mut call)))
            .await
            .map_err(|_| Failure::Unavailable(Cause::Deadline))?
    }

    /// A connection of the pool that is fit. `None`: the one it gave was not, and is closed, or it could open none.
    async fn pooled(&self, limit: Duration) -> Result<Option<Reading>, Failure> {
        let (began, mark) = (now(), self.doubts.mark());
        let acquiring = async {
            let connection = match self.connections.acquire().await {
                Ok(connection) => connection,
                Err(error @ (sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed)) => {
                    return Err(Failure::of(&error));
                }
                Err(_) => return Ok(None),
            };
            let mut reading = Reading {
                connection: Some(connection),
                mark,
            };
            // The rest is for a new connection.
            let proving = limit.saturating_sub(began.elapsed()) / 2;
            Ok(self
                .make_fit(&mut reading, proving)
                .await
                .then_some(reading))
        };
        within(limit, acquiring)
            .await
            .map_err(|_| Failure::Unavailable(Cause::PoolTimeout))?
    }

    /// Whether a connection can serve; has it proven where that is not known.
    async fn make_fit(&self, reading: &mut Reading, limit: Duration) -> bool {
        let Some(connection) = reading.connection.as_deref_mut() else {
            return false;
        };
        match self.known.judge(connection, &self.doubts).await {
            Verdict::Fit(mark) => {
                reading.mark = mark;
                true
            }
            Verdict::Unfit => false,
            Verdict::Unproven => {
                let proving = Box::pin(self.opener.standard().prove(connection));
                match within(limit, proving).await {
                    Ok(Ok(_)) => self.known.note(connection, reading.mark).await.is_ok(),
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a pooled connection is not fit and is closed");
                        false
                    }
                    // Something on the way forgot it, and perhaps others that were idle for as long.
                    Err(_) => {
                        self.doubts.lost(reading.mark);
                        false
                    }
                }
            }
        }
    }

    /// Runs a call on a pooled connection.
    async fn run_pooled<C: Call>(
        &self,
        settings: &StoreSettings,
        mut reading: Reading,
        call: &mut C,
    ) -> Result<C::Answer, Failure> {
        let Some(connection) = reading.connection.as_deref_mut() else {
            return Err(Failure::Unavailable(Cause::Protocol));
        };
        let answer = self.run(settings, connection, reading.mark, call).await;
        // Dropped without that, it is closed.
        if !matches!(answer, Err(Failure::Lost(_) | Failure::Unfit(_))) {
            drop(reading.connection.take());
        }
        answer
    }

    /// Runs a call on new connections, until it was tried often enough.
    async fn run_anew<C: Call>(
        &self,
        settings: &StoreSettings,
        mut tries: u32,
        call: &mut C,
    ) -> Result<C::Answer, Failure> {
        loop {
            let mark = self.doubts.mark();
            let mut connection = self.opener.open().await.map_err(not_connected)?;
            tries += 1;
            match self.run(settings, &mut connection, mark, call).await {
                Err(failure) if is_of_connection(&failure) && tries < TRIES_MAX => {}
                answer => return answer,
            }
        }
    }

    async fn run<C: Call>(
        &self,
        settings: &StoreSettings,
        connection: &mut PgConnection,
        mark: Mark,
        call: &mut C,
    ) -> Result<C::Answer, Failure> {
        let failure = match within(answer_deadline(settings), call.run(connection)).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::Lost(Cause::Deadline),
        };
        if matches!(failure, Failure::Lost(_)) {
            self.doubts.lost(mark);
        }
        Err(failure)
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

/// How long a read waits for a connection. The pool's own limit counts from when the permit is there, and a caller's
/// pool may have none.
fn acquire_limit(settings: &StoreSettings) -> Duration {
    settings.acquire_timeout.max(settings.connect_timeout)
}

/// Whether the connection failed and not the call. A server that does not answer in time would not answer on another
/// connection either.
fn is_of_connection(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(cause) => *cause != Cause::Deadline,
        failure => matches!(failure, Failure::Unfit(_)),
    }
}

impl From<Owner> for Aged {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Store => Self::Closed,
            Owner::Caller => Self::ProvenAgain,
        }
    }
}

impl Drop for Reading {
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
