//! Deadlines of database calls, in real time.
//!
//! **Problem.** A test may pause tokio's clock. A paused clock jumps to the next timer as soon as every task waits, and a
//! call that waits for a server waits like any other: its deadline would pass within a millisecond.
//!
//! **How.** When a timer fires, the machine's clock decides whether the deadline has passed. If tokio's clock runs ahead,
//! the rest is waited in short naps on a thread: while one runs, tokio's clock stands still. The first timer is
//! short, and each one waits as long as all before it, so that a paused clock moves by little per call.
//!
//! **Not here.** Times that belong to a test: those of live feeds and of the runtime, which follow tokio's clock or their own.

#[cfg(feature = "postgres")]
use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// When the two clocks are compared first. Most calls end before.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// How long a nap lasts: short beside the deadline of any call, long beside the cost of a nap.
const NAP: Duration = Duration::from_millis(2);

/// The deadline passed before the call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// The reading of the machine's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "deadlines and ages of database connections are real: a server does not wait for a test's clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The output of a future that is ready within this time.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let began = now();
    let mut future = pin!(future);
    let mut runs_ahead = false;
    loop {
        let passed = began.elapsed();
        let left = limit.saturating_sub(passed);
        if left.is_zero() {
            return Err(Elapsed);
        }
        if runs_ahead {
            let nap = left.min(NAP);
            let nap = spawn_blocking(move || std::thread::sleep(nap));
            if let Either::Left((output, _)) = select(future.as_mut(), nap).await {
                return Ok(output);
            }
        } else {
            // Twice as long each time: a slow machine can hide from one look that the clock is paused.
            let look = left.min(passed.max(FIRST_LOOK));
            if let Ok(output) = timeout(look, future.as_mut()).await {
                return Ok(output);
            }
            runs_ahead = began.elapsed() < passed + look;
        }
    }
}

/// The output of a future that is ready before this reading of [`now`].
pub(crate) async fn until<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    within(deadline.saturating_duration_since(now()), future).await
}

/// Waits until then.
#[cfg(feature = "postgres")]
pub(crate) async fn sleep_until(then: Instant) {
    if let Ok(never) = until(then, std::future::pending::<Infallible>()).await {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_never_ends_is_given_up_after_its_deadline() {
        for limit in [Duration::from_millis(3), Duration::from_millis(40)] {
            let began = now();
            let given_up = within(limit, std::future::pending::<()>()).await;
            assert_eq!(given_up, Err(Elapsed));
            assert!(began.elapsed() >= limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_brings_no_deadline_forward_and_hardly_moves() {
        let began = now();
        let before = tokio::time::Instant::now();
        let limit = Duration::from_millis(200);
        let given_up = within(limit, std::future::pending::<()>()).await;
        assert_eq!(given_up, Err(Elapsed));
        assert!(began.elapsed() >= limit);
        assert!(before.elapsed() < limit, "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_real_time_ends_under_a_paused_clock() {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let server = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            answer.send("answer")
        });
        let answer = within(Duration::from_mins(1), answered).await;
        assert_eq!(answer, Ok(Ok("answer")));
        assert!(matches!(server.join(), Ok(Ok(()))));
    }
}
