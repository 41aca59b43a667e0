//! What all parts of a database share, whatever they store.

use std::fmt;

use async_trait::async_trait;

use crate::error::Cause;
use crate::store::WriteSignal;

/// A database that somebody writes to and closes: what durable states and their feeds have in common.
///
/// # Contract
/// An implementation keeps its promises when any of its futures is dropped at any await point: a connection with an
/// unfinished call is closed, never reused.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Makes sure that a database session which lost its client runs nothing any more.
    ///
    /// # Contract
    /// [`Fence::Closed`] only if the session is surely gone, and what it applied is as safe as an acknowledged write, on
    /// standbys too; then whatever it was to apply is applied already or never will be.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn fence(&self, session: &WriterSession) -> Fence;

    /// What tells live feeds of this store's writes.
    ///
    /// # Contract
    /// Always the same signal. [`WriteSignal::applied`] is called for all outcomes, before or after they are reported, and [`WriteSignal::close`] when the store is closed. A wrapper gives the signal of the store that it
    /// wraps, so that [`crate::changes_by_slices`] of the wrapper is as fast.
    fn write_signal(&self) -> &WriteSignal;

    /// Closes all connections, waiting for calls in flight; later calls get [`StoreError::Closed`](crate::StoreError::Closed).
    async fn close(&self);
}

/// What is known of a write whose answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownOutcome {
    /// The database session that may still be running it; `None` where the backend has no sessions that
    /// outlive their client (SQLite).
    pub session: Option<WriterSession>,
    /// How the answer was lost.
    pub cause: Cause,
}

/// A database session that sent writes: enough to find and end it, and never another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriterSession {
    /// The process id of the session's server process.
    pub process_id: i32,
    /// When that process started, in microseconds since 1970 by the server's clock: process ids are reused. `None` if the
    /// server does not show it to this role; then the session is gone only when no process has the id.
    pub started_at_micros: Option<i64>,
}

/// Whether an old session is out of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// The session is gone: nothing of it can still be applied, and what was applied is as safe as an acknowledged write.
    Closed,
    /// It may still be running, or a standby may not have yet what it applied.
    Open,
}
