//! Each of many users is asked for once: cold users come to life, new ones get their first row.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::Failure;
use crate::load::{self, Measured, Target};
use crate::sample;
use crate::tally::Tally;

/// How many reads are on their way while users are brought to life untimed.
const READS_ON_THEIR_WAY_MAX: usize = 4_096;

/// What each user is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Once {
    /// The state.
    Read,
    /// A random command.
    Write,
}

/// How many users warm up connections and statements, untimed.
pub(crate) const WARM_UP_USERS: usize = 2_000;

/// Brings these users to life, untimed.
pub(crate) async fn bring_to_life<T: Target>(
    target: &Arc<T>,
    users: impl IntoIterator<Item = usize>,
) -> Result<(), Failure> {
    let mut reads = stream::iter(users)
        .map(|user| target.read(user))
        .buffer_unordered(READS_ON_THEIR_WAY_MAX);
    while let Some(read) = reads.next().await {
        read.map_err(|reason| Failure::new(1, format!("a user did not come to life: {reason}")))?;
    }
    Ok(())
}

/// Lets so many callers ask for each of these users once, or for as many as there is time for.
pub(crate) async fn measure<T: Target>(
    target: &Arc<T>,
    once: Once,
    users: Arc<[usize]>,
    callers: usize,
    at_most: Duration,
) -> Result<Measured, Failure> {
    let tally = Tally::new()?;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let end = start + at_most;
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (target, users, next) = (Arc::clone(target), Arc::clone(&users), Arc::clone(&next));
        let tally = Arc::clone(&tally);
        tasks.spawn(async move {
            let mut random = Rng::new();
            let mut sent = Instant::now();
            while sent < end
                && let Some(user) = users.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let answer = match once {
                    Once::Read => target.read(*user).await,
                    Once::Write => {
                        let command = sample::command(&mut random, load::now());
                        target.write(*user, command).await
                    }
                };
                let now = Instant::now();
                match answer {
                    Ok(()) => tally.answered(now - sent),
                    Err(reason) => tally.failed(reason),
                }
                sent = now;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    Ok(Measured::of(&tally.totals(), start.elapsed()))
}
