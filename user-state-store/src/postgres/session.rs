//! The store's own sessions, which write.
//!
//! **Problem.** A future can be dropped at any await point, and then its connection is in an unknown state: an
//! answer is on its way, a transaction may be open. **How.** A lease notes when a call begins and when it ended;
//! only a lease between calls and outside a transaction gives its session back. Every other one closes it.
//!
//! A session that turns out unfit is closed, and with it, before their next call, all that were opened before: the
//! call is made again on a new one. None lives longer than its maximum age.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::connect::{Access, StoreSettings};
use crate::deadline::{now, within};
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::connection::{
    CLIENT_CHECK_INTERVAL, IDLE_UNTRIED_MAX, Opener, answer_deadline, lifetime, not_connected,
};
use crate::postgres::doubt::{Doubts, Mark};
use crate::postgres::error::{Failure, is_read_only, open_error};
use crate::postgres::identity::identity;
use crate::store::WriterSession;

/// Lets the server notice that the client of a running statement is gone. Only from PostgreSQL 14 on there is such a
/// setting, and a name unknown to the server would be refused at connecting.
pub(super) const SET_CLIENT_CHECK: &str = "\
SELECT set_config(name, $1, false)
FROM pg_settings
WHERE name = 'client_connection_check_interval'";

/// A bounded set of sessions, opened when needed.
pub(super) struct Sessions {
    opener: Opener,
    doubts: Arc<Doubts>,
    permits: Semaphore,
    permits_max: u32,
    idle: Mutex<Vec<Session>>,
    closed: AtomicBool,
    access: Access,
    connect_timeout: Duration,
    acquire_timeout: Duration,
    answer_deadline: Duration,
    age_max: Duration,
}

struct Session {
    connection: PgConnection,
    identity: WriterSession,
    mark: Mark,
    opened_at: Instant,
    lifetime: Duration,
    used_at: Instant,
}

/// A session on loan. Dropping it gives the session back where its last call completed, and closes it
/// otherwise.
pub(super) struct Lease<'sessions> {
    sessions: &'sessions Sessions,
    session: Option<Session>,
    state: LeaseState,
    _permit: SemaphorePermit<'sessions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaseState {
    /// No call, no transaction: fit for anybody.
    Clean,
    /// Between the statements of a transaction.
    InTransaction,
    /// A call was begun and has not ended.
    Calling,
}

/// What a call leaves the session in when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    /// Outside any transaction.
    Clean,
    /// In the transaction that it began or is part of.
    InTransaction,
}

impl Sessions {
    pub(super) fn new(opener: Opener, doubts: Arc<Doubts>, settings: &StoreSettings) -> Self {
        let permits = usize::try_from(settings.writer_connections).unwrap_or(1);
        Self {
            opener,
            doubts,
            permits: Semaphore::new(permits),
            permits_max: settings.writer_connections,
            idle: Mutex::new(Vec::with_capacity(permits)),
            closed: AtomicBool::new(false),
            access: settings.access,
            connect_timeout: settings.connect_timeout,
            acquire_timeout: settings.acquire_timeout,
            answer_deadline: answer_deadline(settings),
            age_max: settings.session_age_max,
        }
    }

    /// Opens the first session, to find out early where that cannot be done.
    pub(super) async fn open_first(&self) -> Result<(), OpenError> {
        let session = self.open().await?;
        if session.identity.started_at_micros.is_none() {
            tracing::warn!(
                "the server does not show when its processes started: the session of a lost write cannot be ended, \
                 only waited for"
            );
        }
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(session);
        }
        Ok(())
    }

    /// A session; waits for a free one, and opens one where none is idle. Nothing was sent where it fails.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed);
        }
        let permit = within(self.acquire_timeout, self.permits.acquire())
            .await
            .map_err(|_| Failure::Unavailable(Cause::PoolTimeout))?
            .map_err(|_| Failure::Closed)?;
        let session = match self.idle_session().await {
            Some(session) => session,
            None => self.open().await.map_err(not_connected)?,
        };
        Ok(Lease {
            sessions: self,
            session: Some(session),
            state: LeaseState::Clean,
            _permit: permit,
        })
    }

    /// An idle session that is fit; those that are not are closed.
    async fn idle_session(&self) -> Option<Session> {
        while let Some(mut session) = self.take_idle() {
            if session.opened_at.elapsed() >= session.lifetime
                || self.doubts.closes_session(session.mark)
            {
                continue;
            }
            if session.used_at.elapsed() < IDLE_UNTRIED_MAX
                && !self.doubts.asks_for_proof(session.mark)
            {
                return Some(session);
            }
            let mark = self.doubts.mark();
            match self.opener.standard().prove(&mut session.connection).await {
                Ok(_) => {
                    session.mark = mark;
                    return Some(session);
                }
                // What hangs once hangs again: one deadline is enough.
                Err(OpenError::Unreachable(Cause::Deadline)) => self.close_idle(),
                Err(_) => {}
            }
        }
        None
    }

    fn close_idle(&self) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.clear();
        }
    }

    fn take_idle(&self) -> Option<Session> {
        self.idle.lock().ok()?.pop()
    }

    /// A connection outside the set, with the same settings and the same proof.
    pub(super) async fn open_connection(&self) -> Result<PgConnection, OpenError> {
        self.opener.open().await
    }

    async fn open(&self) -> Result<Session, OpenError> {
        let mark = self.doubts.mark();
        let mut connection = self.open_connection().await.inspect_err(|error| {
            // The connections of reads may lead to the same server.
            if matches!(error, OpenError::ReadOnly { .. }) {
                self.doubts.demoted(mark);
            }
        })?;
        let preparing = async {
            let identity = identity(&mut connection).await?;
            // Some platforms have the setting and refuse every value; the other defences remain there.
            match sqlx::query(SET_CLIENT_CHECK)
                .bind(CLIENT_CHECK_INTERVAL)
                .execute(&mut connection)
                .await
            {
                Ok(_) | Err(sqlx::Error::Database(_)) => Ok(identity),
                Err(error) => Err(error),
            }
        };
        let identity = within(self.connect_timeout, preparing)
            .await
            .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
            .map_err(|error| open_error(&error))?;
        let opened_at = now();
        Ok(Session {
            connection,
            identity,
            mark,
            opened_at,
            lifetime: lifetime(self.age_max),
            used_at: opened_at,
        })
    }

    /// Waits for the calls under way and closes every session. Later calls get [`Failure::Closed`].
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // An error says that the semaphore is closed: somebody else closed the set.
        if self.permits.acquire_many(self.permits_max).await.is_ok() {
            self.permits.close();
        }
        while let Some(session) = self.take_idle() {
            let closing = within(self.answer_deadline, session.connection.close());
            if !matches!(closing.await, Ok(Ok(()))) {
                tracing::debug!("a session did not end with a farewell");
            }
        }
    }
}

impl Lease<'_> {
    /// Which server process works for this lease.
    pub(super) fn identity(&self) -> Option<WriterSession> {
        self.session.as_ref().map(|session| session.identity)
    }

    /// The time after which an answer is given up.
    pub(super) fn answer_deadline(&self) -> Duration {
        self.sessions.answer_deadline
    }

    /// Whether another call can be made, outside any transaction.
    pub(super) fn is_usable(&self) -> bool {
        self.session.is_some() && self.state == LeaseState::Clean
    }

    /// Closes the session, whatever state it is in.
    pub(super) fn discard(&mut self) {
        self.session = None;
    }

    /// The connection for one call, which has to be reported to [`Lease::end`]. Fails on a lost session.
    pub(super) fn begin(&mut self) -> Result<&mut PgConnection, Failure> {
        let session = self
            .session
            .as_mut()
            .ok_or(Failure::Unavailable(Cause::Protocol))?;
        self.state = LeaseState::Calling;
        Ok(&mut session.connection)
    }

    /// Notes how a call ended. A session that was lost or is unfit is closed at once.
    pub(super) fn end<T, E>(
        &mut self,
        answer: Result<Result<T, sqlx::Error>, E>,
        leaves: Leaves,
    ) -> Result<T, Failure> {
        let failure = match answer {
            Ok(Ok(value)) => {
                self.state = leaves.into();
                return Ok(value);
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::Lost(Cause::Deadline),
        };
        match failure {
            // No session of a store that may not write is fitter than this one.
            Failure::Unfit(cause) if self.sessions.access == Access::ReadOnly => {
                self.discard();
                return Err(Failure::Misconfigured(cause));
            }
            Failure::Unfit(ref cause) => {
                self.doubt(|doubts, mark| {
                    doubts.unfit(mark);
                    if is_read_only(cause) {
                        doubts.demoted(mark);
                    }
                });
                self.discard();
            }
            Failure::Lost(_) => {
                self.doubt(Doubts::lost);
                self.discard();
            }
            // The server answered with an error: the call is over. A transaction it was in is still open.
            _ => self.state = leaves.into(),
        }
        Err(failure)
    }

    fn doubt(&self, raise: impl FnOnce(&Doubts, Mark)) {
        if let Some(session) = &self.session {
            raise(&self.sessions.doubts, session.mark);
        }
    }
}

impl From<Leaves> for LeaseState {
    fn from(leaves: Leaves) -> Self {
        match leaves {
            Leaves::Clean => Self::Clean,
            Leaves::InTransaction => Self::InTransaction,
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.state != LeaseState::Clean || self.sessions.closed.load(Ordering::Acquire) {
            return;
        }
        if let (Some(mut session), Ok(mut idle)) = (self.session.take(), self.sessions.idle.lock())
        {
            session.used_at = now();
            idle.push(session);
        }
    }
}

/// Shows how many sessions there are, never how they connect.
impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sessions")
            .field("permits_max", &self.permits_max)
            .field("permits_free", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}
