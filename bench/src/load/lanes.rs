//! Bare statements in a loop: each lane is a connection of its own, and nothing queues in front of it.
//!
//! This is how the ceilings are measured: no pool, no mailbox, no caller that waits for its turn.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::Failure;
use crate::load::{Measured, Reason, Timing};
use crate::statistics;
use crate::tally::Tally;

/// A connection and what it does again and again.
pub(crate) trait Lane: Send + 'static {
    /// One round trip; returns how many requests it served, 0 where there is nothing left to do.
    fn step(&mut self) -> impl Future<Output = Result<u64, Reason>> + Send;
}

/// Lets all lanes step until the time is over, or nothing is left to do. Gives the lanes back.
pub(crate) async fn measure<L: Lane>(
    lanes: Vec<L>,
    timing: Timing,
) -> Result<(Measured, Vec<L>), Failure> {
    let tally = Tally::new()?;
    let window = timing.window();
    let mut tasks = JoinSet::new();
    for mut lane in lanes {
        let tally = Arc::clone(&tally);
        tasks.spawn(async move {
            let mut served = 0;
            let mut sent = Instant::now();
            while sent < window.end {
                let answer = lane.step().await;
                let now = Instant::now();
                match answer {
                    Ok(0) => break,
                    Ok(requests) if window.holds(now) => {
                        served += requests;
                        tally.answered(now - sent);
                    }
                    Ok(_) => {}
                    Err(reason) => tally.failed(reason),
                }
                sent = now;
            }
            (lane, served, sent)
        });
    }
    let (mut lanes, mut served, mut ended) = (Vec::new(), 0, window.start);
    while let Some(task) = tasks.join_next().await {
        let (lane, requests, at) = task.map_err(|error| Failure::new(1, error.to_string()))?;
        lanes.push(lane);
        served += requests;
        ended = ended.max(at);
    }
    let elapsed = ended.min(window.end) - window.start;
    let mut measured = Measured::of(&tally.totals(), timing.measured);
    // A step may serve many requests.
    measured.per_second = Some(statistics::float(served) / elapsed.as_secs_f64().max(f64::EPSILON));
    Ok((measured, lanes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Few(u64);

    impl Lane for Few {
        async fn step(&mut self) -> Result<u64, Reason> {
            tokio::task::yield_now().await;
            if self.0 == 0 {
                return Ok(0);
            }
            self.0 -= 1;
            Ok(500)
        }
    }

    #[tokio::test]
    async fn lanes_end_early_where_nothing_is_left_and_count_requests_not_steps() {
        let timing = Timing {
            warm_up: Duration::ZERO,
            measured: Duration::from_hours(1),
        };
        let (measured, lanes) = measure(vec![Few(3), Few(2)], timing).await.unwrap();
        assert_eq!(lanes.len(), 2);
        assert!(
            measured.per_second > Some(2_500.0),
            "in far less than a second"
        );
    }
}
