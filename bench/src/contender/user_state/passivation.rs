//! A million idle users leave memory at once, while a few others go on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use user_state_domain::UserState;
use user_state_runtime::{Clock, Moment, Runtime, Settings, SystemClock};

use crate::contender::user_state::memory::{bring_to_life, runtime_of};
use crate::exit::Failure;
use crate::load::Measured;
use crate::sample;
use crate::statistics;

/// How many users go on.
const OTHERS: usize = 8;

/// How long each of them waits between two requests.
const PAUSE: Duration = Duration::from_millis(1);

/// How long they are watched with nothing else going on, for comparison.
const QUIET: Duration = Duration::from_secs(1);

/// How long a million users may take to leave.
const DEADLINE: Duration = Duration::from_mins(2);

/// The system's clock, and a leap that can be added to it. Everything behind it is as in use: shards sleep, wake up
/// and passivate by themselves.
#[derive(Debug, Clone)]
struct LeapingClock {
    clock: SystemClock,
    leap: Arc<watch::Sender<Duration>>,
}

impl LeapingClock {
    fn new() -> Self {
        Self {
            clock: SystemClock::new(),
            leap: Arc::new(watch::Sender::new(Duration::ZERO)),
        }
    }

    fn leap(&self, by: Duration) {
        self.leap.send_modify(|leap| *leap += by);
    }
}

#[async_trait]
impl Clock for LeapingClock {
    fn now(&self) -> Moment {
        self.clock.now() + *self.leap.borrow()
    }

    fn utc_now(&self) -> DateTime<Utc> {
        self.clock.utc_now()
    }

    async fn sleep_until(&self, moment: Moment) {
        let mut leaps = self.leap.subscribe();
        loop {
            let leap = *leaps.borrow_and_update();
            let left = moment.since_origin().saturating_sub(leap);
            tokio::select! {
                () = self.clock.sleep_until(Moment::ORIGIN + left) => return,
                // The sender is this clock's own.
                _ = leaps.changed() => {}
            }
        }
    }
}

/// The longest and the usual time of an answer.
struct Seen {
    micros: Vec<f64>,
}

impl Seen {
    fn most(&self) -> f64 {
        self.micros
            .iter()
            .copied()
            .max_by(f64::total_cmp)
            .unwrap_or_default()
    }
}

pub(super) async fn measure(users: usize) -> Result<Measured, Failure> {
    let clock = LeapingClock::new();
    let runtime = runtime_of(users + OTHERS, clock.clone())?;
    bring_to_life(&runtime, 0..users).await?;
    // Not due yet, and not due together with the others who are touched now.
    let half = Settings::default().idle_timeout / 2 + Duration::from_mins(1);
    clock.leap(half);
    bring_to_life(&runtime, users..users + OTHERS).await?;

    let others: Vec<usize> = (users..users + OTHERS).collect();
    let quiet_until = Instant::now() + QUIET;
    let quiet = watch(&runtime, &others, move |_| Instant::now() >= quiet_until).await?;

    let started = Instant::now();
    let used_before = processor_seconds()?;
    clock.leap(half);
    let all = u64::try_from(users).unwrap_or(u64::MAX);
    let seen = watch(&runtime, &others, move |runtime| {
        runtime.stats().passivated >= all || started.elapsed() > DEADLINE
    })
    .await?;
    let used = processor_seconds()? - used_before;
    let elapsed = started.elapsed().as_secs_f64();
    let passivated = runtime.stats().passivated;
    if passivated != all {
        return Err(Failure::new(
            1,
            format!("{passivated} of {all} users left memory"),
        ));
    }
    let quantile = |part: usize| {
        let mut sorted = seen.micros.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() * part / 100).copied()
    };
    let measured = Measured {
        per_second: Some(statistics::float(all) / elapsed),
        p50_us: quantile(50),
        p99_us: quantile(99),
        ..Measured::default()
    };
    Ok(measured
        .with("cpu_seconds", used)
        .with("pause_max_us", seen.most())
        .with("quiet_pause_max_us", quiet.most()))
}

/// Lets the others go on until something is so, each with one request at a time.
async fn watch(
    runtime: &Runtime<UserState>,
    others: &[usize],
    until: impl Fn(&Runtime<UserState>) -> bool + Clone + Send + 'static,
) -> Result<Seen, Failure> {
    let mut tasks = JoinSet::new();
    for number in others {
        let user = runtime.entity(sample::persistence_id(*number));
        let (runtime, until) = (runtime.clone(), until.clone());
        tasks.spawn(async move {
            let mut micros = Vec::new();
            // Asked once at least, however soon it is so.
            loop {
                let sent = Instant::now();
                user.state().await?;
                micros.push(sent.elapsed().as_secs_f64() * 1e6);
                if until(&runtime) {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(micros)
        });
    }
    let mut seen = Seen { micros: Vec::new() };
    while let Some(ended) = tasks.join_next().await {
        let ended: Result<Vec<f64>, user_state_runtime::RequestError> =
            ended.map_err(|error| Failure::new(1, error.to_string()))?;
        seen.micros
            .extend(ended.map_err(|error| Failure::unavailable(&error))?);
    }
    Ok(seen)
}

/// The processor time of this process, user and system, in hundredths.
///
/// From `/proc/self/stat`: fields 14 and 15, in ticks, which are hundredths of a second on every Linux that Rust
/// runs on (`USER_HZ`). Source: proc(5).
fn processor_seconds() -> Result<f64, Failure> {
    const TICKS_PER_SECOND: f64 = 100.0;

    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| ticks(&stat))
        .map(|ticks| statistics::float(ticks) / TICKS_PER_SECOND)
        .ok_or_else(|| {
            Failure::unavailable(&std::io::Error::other(
                "this system does not tell how much processor time a process used",
            ))
        })
}

/// User and system ticks. The name in field 2 is in parentheses and may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 90 0 0 0 12 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[tokio::test]
    async fn a_thousand_idle_users_leave_and_the_others_are_answered() -> Result<(), Failure> {
        let measured = measure(1_000).await?;
        assert!(measured.per_second > Some(0.0));
        assert!(measured.extras["pause_max_us"] > 0.0);
        Ok(())
    }
}
