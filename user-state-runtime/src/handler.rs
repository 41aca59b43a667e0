//! Driving an aggregate: one command, one handler, its state out of harm's way.
//!
//! **Problem.** A handler may await a service for long, may panic, and must not leave a half-changed state.
//!
//! **How.** The handler runs on a clone of the state in a future that owns everything it needs. It is polled once
//! on the spot, which is all most handlers need; one that is still pending joins the shard's running handlers.
//! A panic in it, or in the `apply` it calls, is caught, and clone and events are dropped.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// What became of a command.
pub(crate) enum Handled<A: Aggregate> {
    /// It made events, which are in this state.
    Changed(A),
    /// It made none.
    Unchanged,
    /// The domain refused it.
    Rejected(A::Error),
    /// The handler or `apply` panicked.
    Panicked,
}

/// A handler that still waits for something.
pub(crate) type Running<A> = BoxFuture<'static, Handled<A>>;

/// Runs a command on a copy of the state: to its end, where it does not have to wait.
pub(crate) fn start<A>(
    state: &A,
    command: A::Command,
    services: &Arc<A::Services>,
) -> Result<Handled<A>, Running<A>>
where
    A: Aggregate + Clone + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let first_poll = AssertUnwindSafe(|| {
        let to_the_end = handle(state.clone(), command, Arc::clone(services));
        // The sink's mutex is tokio's and uses up the cooperative budget of the shard's task: without this,
        // after some hundred trivial handlers in one poll the next ones would be pending for no reason.
        let mut running = tokio::task::coop::unconstrained(to_the_end).boxed();
        (&mut running).now_or_never().ok_or(running)
    });
    match std::panic::catch_unwind(first_poll) {
        Ok(Ok(handled)) => Ok(handled),
        Ok(Err(running)) => {
            let guarded = AssertUnwindSafe(running).catch_unwind();
            Err(guarded.map(|end| end.unwrap_or(Handled::Panicked)).boxed())
        }
        Err(_panic) => Ok(Handled::Panicked),
    }
}

async fn handle<A>(mut state: A, command: A::Command, services: Arc<A::Services>) -> Handled<A>
where
    A: Aggregate,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    let sink = EventSink::default();
    match state.handle(command, &services, &sink).await {
        Err(rejection) => Handled::Rejected(rejection),
        Ok(()) if sink.collect().await.is_empty() => Handled::Unchanged,
        Ok(()) => Handled::Changed(state),
    }
}
