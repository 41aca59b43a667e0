//! Callers in a closed loop: each sends its next request when the last one is answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::Failure;
use crate::load::{self, Measured, Target, Timing, Window, Zipf};
use crate::sample;
use crate::tally::Tally;

/// How long a caller waits after an error, so that a broken contender is not hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(1);

/// How long is waited for every caller's first answer. One that never comes must not keep the others from counting.
const FIRST_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What callers ask for.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    /// How many of a hundred requests are reads.
    pub(crate) reads_percent: u8,
    pub(crate) users: Users,
}

/// Whom callers ask for.
#[derive(Debug, Clone)]
pub(crate) enum Users {
    /// Each of so many as often.
    Even(usize),
    /// Some more often than others.
    Skewed(Arc<Zipf>),
}

impl Users {
    pub(crate) fn choose(&self, random: &mut Rng) -> usize {
        match self {
            Self::Even(users) => random.usize(0..*users),
            Self::Skewed(zipf) => zipf.choose(random),
        }
    }
}

impl Requests {
    pub(crate) fn is_read(&self, random: &mut Rng) -> bool {
        random.u8(0..100) < self.reads_percent
    }
}

/// When answers begin to count, and until when: what callers of one load agree on.
///
/// Where callers queue in front of a few connections, all of their first requests are served before any second one. So
/// counting begins when every caller was answered once, and goes on for as long as that took where that is longer than
/// asked: a shorter look would see a part of such a wave, and call it a rate.
struct Pace {
    timing: Timing,
    began: Instant,
    unanswered: AtomicUsize,
    window: OnceLock<Window>,
}

impl Pace {
    fn new(callers: usize, timing: Timing) -> Self {
        Self {
            timing,
            began: Instant::now(),
            unanswered: AtomicUsize::new(callers),
            window: OnceLock::new(),
        }
    }

    fn window(&self) -> Option<Window> {
        self.window.get().copied()
    }

    /// A caller was answered for the first time.
    fn first_answer(&self, now: Instant) {
        if self.unanswered.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.open(now);
        }
    }

    /// Nothing counts yet.
    fn still_waiting(&self, now: Instant) {
        if now - self.began >= FIRST_ANSWERS_WITHIN {
            self.open(now);
        }
    }

    fn open(&self, now: Instant) {
        self.window.get_or_init(|| {
            let start = now.max(self.began + self.timing.warm_up);
            Window {
                start,
                end: start + self.timing.measured.max(now - self.began),
            }
        });
    }
}

/// What the callers of a load have in common. Each of thousands has little of its own, so that a load measures the
/// contender more than the memory of its callers.
struct Load<T> {
    target: Arc<T>,
    requests: Requests,
    pace: Pace,
    calendar: Calendar,
    tally: Arc<Tally>,
}

/// Tells the calendar time without another look at a clock.
struct Calendar {
    instant: Instant,
    time: DateTime<Utc>,
}

impl Calendar {
    fn at(instant: Instant) -> Self {
        Self {
            instant,
            time: load::now(),
        }
    }

    fn time(&self, at: Instant) -> DateTime<Utc> {
        self.time + (at - self.instant)
    }
}

/// Lets so many callers ask, for as long as the timing says at least.
pub(crate) async fn measure<T: Target>(
    target: &Arc<T>,
    requests: &Requests,
    callers: usize,
    timing: Timing,
) -> Result<Measured, Failure> {
    let load = Arc::new(Load {
        target: Arc::clone(target),
        requests: requests.clone(),
        pace: Pace::new(callers, timing),
        calendar: Calendar::at(Instant::now()),
        tally: Tally::new()?,
    });
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let load = Arc::clone(&load);
        // Not a function's future, which would hold its arguments twice.
        tasks.spawn(async move { load.call().await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::new(1, error.to_string()))?;
    }
    let window = load
        .pace
        .window()
        .ok_or_else(|| Failure::new(1, "there are no callers"))?;
    Ok(Measured::of(
        &load.tally.totals(),
        window.end - window.start,
    ))
}

impl<T: Target> Load<T> {
    /// One caller.
    async fn call(&self) {
        let mut random = Rng::new();
        let mut sent = Instant::now();
        let mut is_first = true;
        loop {
            let user = self.requests.users.choose(&mut random);
            let answer = if self.requests.is_read(&mut random) {
                self.target.read(user).await
            } else {
                let command = sample::command(&mut random, self.calendar.time(sent));
                self.target.write(user, command).await
            };
            let mut now = Instant::now();
            let counts = self.pace.window().is_some_and(|window| window.holds(now));
            match answer {
                Ok(()) if counts => self.tally.answered(now - sent),
                Ok(()) => {}
                Err(reason) => {
                    if counts {
                        self.tally.failed(reason);
                    }
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    now = Instant::now();
                }
            }
            if std::mem::take(&mut is_first) {
                self.pace.first_answer(now);
            }
            match self.pace.window() {
                Some(window) if now >= window.end => return,
                Some(_) => {}
                None => self.pace.still_waiting(now),
            }
            sent = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Idle;

    #[test]
    fn the_share_of_reads_is_the_one_asked_for() {
        let mut random = Rng::with_seed(1);
        let mut reads = |reads_percent| {
            let requests = Requests {
                reads_percent,
                users: Users::Even(1),
            };
            (0..10_000)
                .filter(|_| requests.is_read(&mut random))
                .count()
        };
        assert_eq!((reads(0), reads(100)), (0, 10_000));
        assert!((7_200..7_800).contains(&reads(75)));
    }

    #[tokio::test]
    async fn counting_begins_when_every_caller_was_answered_and_lasts_as_long_as_that_took() {
        let second = Duration::from_secs(1);
        let pace = Pace::new(2, Timing::of(second));
        pace.first_answer(pace.began + second);
        assert!(pace.window().is_none());
        pace.first_answer(pace.began + 4 * second);
        let window = pace.window().unwrap();
        assert_eq!(window.start - pace.began, 4 * second);
        assert_eq!(window.end - window.start, 4 * second);

        let quick = Pace::new(1, Timing::of(second));
        quick.first_answer(quick.began);
        let window = quick.window().unwrap();
        assert_eq!(
            (window.start - quick.began, window.end - window.start),
            (second / 10, second)
        );
    }

    #[tokio::test]
    async fn a_caller_that_is_never_answered_does_not_keep_the_others_from_counting() {
        let pace = Pace::new(2, Timing::of(Duration::from_secs(1)));
        pace.still_waiting(pace.began);
        assert!(pace.window().is_none());
        pace.still_waiting(pace.began + FIRST_ANSWERS_WITHIN);
        assert!(pace.window().is_some());
    }

    #[tokio::test]
    async fn callers_are_answered_and_measured() {
        let requests = Requests {
            reads_percent: 50,
            users: Users::Even(10),
        };
        let timing = Timing::of(Duration::from_millis(50));
        let measured = measure(&Arc::new(Idle), &requests, 4, timing)
            .await
            .unwrap();
        assert!(measured.per_second > Some(0.0));
        assert_eq!(measured.errors, 0);
    }
}
