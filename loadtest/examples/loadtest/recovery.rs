//! Bringing cold users to life, in rounds: a fresh runtime, on which no user is live, for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use user_state_store::{PersistenceId, Store};

use crate::Population;
use crate::arguments::Arguments;
use crate::callers::{self, User};
use crate::exit::Failure;
use crate::memory;
use crate::report::Measured;
use crate::tally::Tally;

/// The users of a round, each of whom is read by one caller.
struct Round {
    users: Arc<[User]>,
    next: AtomicUsize,
    end: Instant,
}

/// Lets callers read users that are not live, for as long as the arguments say.
pub(crate) async fn measure(
    store: &Store,
    ids: &[PersistenceId],
    arguments: &Arguments,
) -> Result<Measured, Failure> {
    // Neighbours in the table are not asked for together, as they would not be in use.
    let mut ids = ids.to_vec();
    fastrand::shuffle(&mut ids);
    rounds(store, &ids, arguments, arguments.warm_up()).await?;
    rounds(store, &ids, arguments, arguments.duration()).await
}

/// Rounds until their times add up to this duration.
async fn rounds(
    store: &Store,
    ids: &[PersistenceId],
    arguments: &Arguments,
    duration: Duration,
) -> Result<Measured, Failure> {
    let tally = Tally::new()?;
    let mut elapsed = Duration::ZERO;
    let mut rss_bytes = None;
    let mut recovered = 0;
    while elapsed < duration {
        let population = Population::start(store, ids, arguments)?;
        elapsed += round(
            &population.users,
            &tally,
            arguments,
            duration.saturating_sub(elapsed),
        )
        .await?;
        rss_bytes = memory::resident_bytes();
        recovered += population.runtime.stats().recovered;
        population.end().await?;
    }
    Ok(Measured {
        totals: tally.totals(),
        elapsed,
        rss_bytes,
        recovered,
    })
}

/// Reads every user once, or as many as there is time for. Returns the time it took.
async fn round(
    users: &Arc<[User]>,
    tally: &Arc<Tally>,
    arguments: &Arguments,
    at_most: Duration,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    let round = Arc::new(Round {
        users: Arc::clone(users),
        next: AtomicUsize::new(0),
        end: start + at_most,
    });
    let mut callers = JoinSet::new();
    for _ in 0..arguments.callers.get() {
        callers.spawn(call(Arc::clone(&round), Arc::clone(tally)));
    }
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    Ok(start.elapsed())
}

async fn call(round: Arc<Round>, tally: Arc<Tally>) {
    let mut sent = Instant::now();
    while sent < round.end {
        let Some(user) = round.users.get(round.next.fetch_add(1, Ordering::Relaxed)) else {
            return;
        };
        let answer = user.state().await;
        let now = Instant::now();
        match answer {
            Ok(_) => tally.answered(now - sent),
            Err(error) => tally.failed(callers::reason(&error)),
        }
        sent = now;
    }
}
