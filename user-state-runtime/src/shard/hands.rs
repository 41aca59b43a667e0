//! Access to the aggregate's own code, with its panics contained.
//!
//! **Problem.** A handler may await a service for long, may panic, and must not leave a half-changed
//! state.
//!
//! **How.** The handler runs on a clone of the state in a future that owns everything it needs. It is
//! polled once on the spot, which is all most handlers need; one that is still pending joins the
//! shard's running handlers. A panic in it, or in the `apply` it calls, is caught, and clone and events
//! are dropped.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use cqrs_es::event_sink::EventSink;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::effects::{Handled, Hands, Started};
use crate::live_aggregate::LiveAggregate;
use crate::policy::ConflictPolicy;

/// A handler that still waits for something.
pub(super) type Running<A> = BoxFuture<'static, Handled<A>>;

/// The hands of a running shard.
pub(crate) struct UserHands<A: LiveAggregate> {
    services: Arc<A::Services>,
    conflict_policy: ConflictPolicy<A>,
}

impl<A: LiveAggregate> UserHands<A> {
    pub(crate) fn new(services: Arc<A::Services>, conflict_policy: ConflictPolicy<A>) -> Self {
        Self {
            services,
            conflict_policy,
        }
    }
}

impl<A: LiveAggregate> Clone for UserHands<A> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.services), self.conflict_policy.clone())
    }
}

impl<A: LiveAggregate> Hands<A> for UserHands<A> {
    type Running = Running<A>;

    fn start(&self, state: &A, command: A::Command) -> Started<A, Running<A>> {
        let first_poll = AssertUnwindSafe(|| {
            let to_the_end = handle(state.clone(), command, Arc::clone(&self.services));
            // The sink's mutex is tokio's and uses up the cooperative budget of the shard's task:
            // without this, after some hundred trivial handlers in one poll the next ones would be
            // pending for no reason.
            let mut running = tokio::task::coop::unconstrained(to_the_end).boxed();
            match (&mut running).now_or_never() {
                Some(handled) => Started::Finished(handled),
                None => Started::Waits(running),
            }
        });
        match std::panic::catch_unwind(first_poll) {
            Ok(Started::Finished(handled)) => Started::Finished(handled),
            Ok(Started::Waits(running)) => {
                let guarded = AssertUnwindSafe(running).catch_unwind();
                let end = guarded.map(|end| end.unwrap_or(Handled::Panicked));
                Started::Waits(end.boxed())
            }
            Err(_panic) => Started::Finished(Handled::Panicked),
        }
    }

    fn retries(&self) -> bool {
        self.conflict_policy.retries()
    }

    fn copy_command(&self, command: &A::Command) -> Option<A::Command> {
        let copy = self.conflict_policy.copy()?;
        self.guard(|| copy(command))
    }

    fn guard<T>(&self, code: impl FnOnce() -> T) -> Option<T> {
        let result = std::panic::catch_unwind(AssertUnwindSafe(code)).ok();
        if result.is_none() {
            tracing::error!(aggregate = A::TYPE, "an aggregate panicked");
        }
        result
    }
}

async fn handle<A: LiveAggregate>(
    mut state: A,
    command: A::Command,
    services: Arc<A::Services>,
) -> Handled<A> {
    let sink = EventSink::default();
    if let Err(rejection) = state.handle(command, &services, &sink).await {
        return Handled::Rejected(rejection);
    }
    let events = sink.collect().await;
    if events.is_empty() {
        Handled::Unchanged
    } else {
        Handled::Changed(state, events)
    }
}
