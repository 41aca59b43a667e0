//! Callers in a closed loop: each sends its next request when the last one is answered.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fastrand::Rng;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use user_state_domain::{ProductId, UserCommand, UserState};
use user_state_runtime::{Clock, EntityRef, ExecuteError, RequestError, SystemClock};

use crate::arguments::Arguments;
use crate::exit::Failure;
use crate::memory;
use crate::report::Measured;
use crate::tally::Tally;

/// How many products there are to view.
const PRODUCTS: usize = 1_000;

/// How many reads are on their way while users are brought to life.
const READS_ON_THEIR_WAY_MAX: usize = 4_096;

/// How long a caller waits after an error, so that a broken store is not hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(1);

static PRODUCT_IDS: LazyLock<Vec<ProductId>> = LazyLock::new(|| {
    let names = (0..PRODUCTS).map(|number| format!("product-{number}"));
    names.map(ProductId::from).collect()
});

pub(crate) type User = EntityRef<UserState>;

/// What callers ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// A random command.
    Write,
    /// The state.
    Read,
}

/// The time in which answers count.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

/// Brings users to life.
pub(crate) async fn bring_to_life(users: &[User]) -> Result<(), Failure> {
    stream::iter(users)
        .map(User::state)
        .buffer_unordered(READS_ON_THEIR_WAY_MAX)
        .try_for_each(async |_| Ok(()))
        .await
        .map_err(|error| Failure::unavailable(&error))
}

/// Lets callers ask random users, for as long as the arguments say.
pub(crate) async fn measure(
    users: &Arc<[User]>,
    request: Request,
    arguments: &Arguments,
) -> Result<Measured, Failure> {
    let tally = Tally::new()?;
    let start = Instant::now() + arguments.warm_up();
    let window = Window {
        start,
        end: start + arguments.duration(),
    };
    let mut callers = JoinSet::new();
    for _ in 0..arguments.callers.get() {
        callers.spawn(call(Arc::clone(users), request, window, Arc::clone(&tally)));
    }
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    Ok(Measured {
        totals: tally.totals(),
        elapsed: arguments.duration(),
        rss_bytes: memory::resident_bytes(),
        recovered: 0,
    })
}

async fn call(users: Arc<[User]>, request: Request, window: Window, tally: Arc<Tally>) {
    let mut random = Rng::new();
    let clock = SystemClock::new();
    let mut sent = Instant::now();
    while sent < window.end {
        let Some(user) = random.choice(users.iter()) else {
            return;
        };
        let answer = match request {
            Request::Write => {
                let answer = user.execute(command(&mut random, &clock)).await;
                answer.map(drop).map_err(|error| reason_of_command(&error))
            }
            Request::Read => {
                let answer = user.state().await;
                answer.map(drop).map_err(|error| reason(&error))
            }
        };
        let mut now = Instant::now();
        match answer {
            Ok(()) if window.start <= now && now < window.end => tally.answered(now - sent),
            Ok(()) => {}
            Err(reason) => {
                tally.failed(reason);
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                now = Instant::now();
            }
        }
        sent = now;
    }
}

/// Mostly views, as in a shop.
fn command(random: &mut Rng, clock: &SystemClock) -> UserCommand {
    let at = clock.utc_now();
    match random.u8(0..10) {
        0 => UserCommand::Login { at },
        1 => UserCommand::UseCart { at },
        2 => UserCommand::SetMarketingOptIn {
            opt_in: random.bool(),
            at,
        },
        _ => match random.choice(PRODUCT_IDS.iter()) {
            Some(product_id) => UserCommand::ViewProduct {
                product_id: product_id.clone(),
                at,
            },
            None => UserCommand::Login { at },
        },
    }
}

fn reason_of_command(error: &ExecuteError<UserState>) -> &'static str {
    match error {
        ExecuteError::Rejected(_) => "rejected",
        ExecuteError::Overloaded(_) => "overloaded",
        ExecuteError::Closed(_) => "closed",
        ExecuteError::Failed(error) => reason(error),
        _ => "another error",
    }
}

/// The kind of an error, to count by.
pub(crate) fn reason(error: &RequestError) -> &'static str {
    match error {
        RequestError::Overloaded => "overloaded",
        RequestError::Closed => "closed",
        RequestError::Conflict => "conflict",
        RequestError::Unavailable(_) => "unavailable",
        RequestError::Unreadable(_) => "unreadable",
        RequestError::Refused(_) => "refused by the database",
        RequestError::RevisionsExhausted => "no revision left",
        RequestError::Panicked => "panicked",
        RequestError::Unknown => "outcome unknown",
        _ => "another error",
    }
}
