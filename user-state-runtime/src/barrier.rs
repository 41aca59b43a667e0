//! Letting a moved clock wait until a runtime has caught up with it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::clock::Moment;

type Pass = dyn Fn(Moment) -> BoxFuture<'static, Result<(), BarrierError>> + Send + Sync;

/// A runtime's side of a clock that is moved by hand.
///
/// Passing it goes through every mailbox: all messages accepted before are handled, every entity that is due
/// at the new time is flushed and passivated, and then it returns.
#[derive(Clone)]
pub(crate) struct Barrier(Arc<Pass>);

/// Why a runtime did not catch up with its clock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// An entity that was due could not be flushed; its callers were told.
    #[error("an entity that was due could not be flushed")]
    FlushFailed,
    /// Something is still not done after this much real time.
    #[error("the runtime did not catch up within {0:?}")]
    Late(std::time::Duration),
}

impl Barrier {
    pub(crate) fn new(
        pass: impl Fn(Moment) -> BoxFuture<'static, Result<(), BarrierError>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(pass))
    }

    /// Brings the runtime to this moment. A runtime that has ended is caught up with everything.
    ///
    /// # Errors
    /// When an entity that is due cannot be flushed, or real time runs out.
    ///
    /// # Cancel safety
    /// Dropping it stops the waiting; the runtime moves on to the moment all the same.
    #[cfg_attr(
        not(feature = "testkit"),
        expect(dead_code, reason = "only clocks that are moved by hand pass it")
    )]
    pub(crate) async fn pass(&self, moment: Moment) -> Result<(), BarrierError> {
        (self.0)(moment).await
    }
}
