//! Requests at a fixed rate, whether or not earlier ones were answered.
//!
//! **Problem.** A caller in a closed loop that waits for a slow answer sends nothing meanwhile, so a pause of the server
//! is one slow request instead of the thousands that would have met it ("coordinated omission"). **How.** The moments at
//! which requests are due are decided beforehand (a Poisson process, as independent users make), and each
//! latency counts from the moment its request was due, also where it was sent later.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use user_state_runtime::{Clock as _, SystemClock};

use crate::exit::Failure;
use crate::load::callers::Users;
use crate::load::{Measured, Target, Timing, Window};
use crate::sample;
use crate::tally::Tally;

/// The most requests on their way. Beyond it the generator waits; what is due meanwhile is late, and counts as that.
const ON_THEIR_WAY_MAX: usize = 100_000;

/// Where less than this is left until the next request, waiting is not worth a system call that may take as long.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// The moments at which requests are due.
struct Arrivals {
    rate: f64,
    next: Instant,
}

impl Arrivals {
    fn new(rate: f64, start: Instant) -> Self {
        Self { rate, next: start }
    }

    /// The next moment: the times between are distributed exponentially.
    fn next(&mut self, random: &mut Rng) -> Instant {
        let pause = -(1.0 - random.f64()).ln() / self.rate;
        self.next += Duration::try_from_secs_f64(pause).unwrap_or_default();
        self.next
    }
}

/// Sends commands at this rate, a second, for as long as the timing says.
///
/// A thread of its own sends, since the timer of the async runtime is not finer than a millisecond.
pub(crate) async fn measure<T: Target>(
    target: &Arc<T>,
    users: &Users,
    rate: f64,
    timing: Timing,
) -> Result<Measured, Failure> {
    let tally = Tally::new()?;
    let window = timing.window();
    let sending = {
        let (target, users, tally) = (Arc::clone(target), users.clone(), Arc::clone(&tally));
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            send(
                &target,
                &users,
                Arrivals::new(rate, Instant::now()),
                window,
                &tally,
                &runtime,
            )
        })
    };
    let mut tasks = sending
        .await
        .map_err(|error| Failure::new(1, error.to_string()))?;
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    Ok(Measured::of(&tally.totals(), timing.measured).with("rate", rate))
}

fn send<T: Target>(
    target: &Arc<T>,
    users: &Users,
    mut arrivals: Arrivals,
    window: Window,
    tally: &Arc<Tally>,
    runtime: &Handle,
) -> JoinSet<()> {
    let mut random = Rng::new();
    let clock = SystemClock::new();
    let mut tasks = JoinSet::new();
    loop {
        let due = arrivals.next(&mut random);
        if due >= window.end {
            return tasks;
        }
        loop {
            while tasks.try_join_next().is_some() {}
            let left = due.saturating_duration_since(Instant::now());
            if left >= SLEEP_MIN {
                thread::sleep(left);
            } else if tasks.len() < ON_THEIR_WAY_MAX {
                break;
            } else {
                thread::sleep(SLEEP_MIN);
            }
        }
        let (target, user) = (Arc::clone(target), users.choose(&mut random));
        let command = sample::command(&mut random, clock.utc_now());
        let tally = Arc::clone(tally);
        tasks.spawn_on(
            async move {
                let answer = target.write(user, command).await;
                match answer {
                    // What was due in the window counts, whenever it was answered.
                    Ok(()) if window.holds(due) => tally.answered(due.elapsed()),
                    Ok(()) => {}
                    Err(reason) => tally.failed(reason),
                }
            },
            runtime,
        );
    }
}

#[cfg(test)]
mod tests {
    use user_state_domain::UserCommand;

    use super::*;
    use crate::load::Reason;

    #[test]
    fn arrivals_come_at_the_rate_asked_for_and_not_evenly() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(1_000.0, start);
        let mut random = Rng::with_seed(1);
        let moments: Vec<_> = (0..10_000).map(|_| arrivals.next(&mut random)).collect();
        let all = (*moments.last().unwrap() - start).as_secs_f64();
        assert!(
            (9.5..10.5).contains(&all),
            "{all} s for 10,000 at 1,000 a second"
        );
        let pauses: Vec<_> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.iter().any(|pause| *pause > Duration::from_millis(3)));
        assert!(
            pauses
                .iter()
                .any(|pause| *pause < Duration::from_micros(200))
        );
    }

    /// Serves one request at a time, and is stuck at the first one.
    struct Stuck(tokio::sync::Mutex<bool>);

    impl Target for Stuck {
        async fn write(&self, _: usize, _: UserCommand) -> Result<(), Reason> {
            let mut was_stuck = self.0.lock().await;
            if !*was_stuck {
                *was_stuck = true;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(())
        }

        async fn read(&self, _: usize) -> Result<(), Reason> {
            Ok(())
        }

        async fn close(&self) {}
    }

    #[tokio::test]
    async fn a_pause_is_seen_by_all_requests_that_were_due_in_it() {
        let timing = Timing {
            warm_up: Duration::ZERO,
            measured: Duration::from_millis(250),
        };
        let target = Arc::new(Stuck(tokio::sync::Mutex::new(false)));
        let measured = measure(&target, &Users::Even(1), 1_000.0, timing)
            .await
            .unwrap();
        // In a closed loop one request of hundreds would have been slow, and the median some microseconds.
        assert!(measured.p50_us > Some(20_000.0), "{measured:?}");
    }
}
