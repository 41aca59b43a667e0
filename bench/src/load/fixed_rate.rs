//! Reads that begin at a fixed rate, whether or not earlier ones were answered.
//!
//! **Problem.** At 100,000 reads a second a generator that wakes up for each of them takes more of two cores than what
//! it measures, and one that waits for answers hides every pause. **How.** Read number n is due n / rate after the
//! start, and its latency counts from that moment, whatever happened since. A thread of its own wakes up every
//! [`TICK`], hands over whatever became due meanwhile, a task for at most [`TASK_READS_MAX`] reads, and waits for no
//! answer. So each latency contains the time from the due moment to that wake-up, for every contender alike;
//! `sent_late_p50_us` and `sent_late_p99_us` say how much that was.
//!
//! Every read that is due in the window is answered, failed or given up. Those that are given up count with the time
//! that they had waited by then, so that a contender that falls behind shows it in its latencies, too.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::Failure;
use crate::load::callers::Users;
use crate::load::{Measured, Reason, Target, Timing, Window};
use crate::statistics;
use crate::tally::Tally;

/// How long the sending thread sleeps between two looks at what is due. The kernel adds about 60 µs.
const TICK: Duration = Duration::from_micros(50);

/// The most reads that one task begins, so that what a late wake-up finds is shared by the threads of the runtime.
const TASK_READS_MAX: u64 = 64;

/// The most reads in flight. Beyond it nothing is sent; what is due meanwhile is late, and counts as that.
const IN_FLIGHT_MAX: u64 = 100_000;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The moments at which reads are due: evenly spaced, and decided before anything is sent.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    per_second: u64,
}

impl Schedule {
    /// When the read with this number is due.
    fn due(&self, number: u64) -> Instant {
        let seconds = Duration::from_secs(number / self.per_second);
        let nanos = number % self.per_second * NANOS_PER_SECOND / self.per_second;
        self.start + seconds + Duration::from_nanos(nanos)
    }

    /// How many reads are due before this moment.
    fn due_before(&self, moment: Instant) -> u64 {
        let elapsed = moment.saturating_duration_since(self.start);
        let nanos = u64::from(elapsed.subsec_nanos());
        elapsed.as_secs() * self.per_second + (nanos * self.per_second).div_ceil(NANOS_PER_SECOND)
    }
}

/// What the reads of a load have in common.
struct Load<T> {
    target: Arc<T>,
    users: Users,
    schedule: Schedule,
    window: Window,
    /// When the reads that have no answer yet are given up.
    give_up_at: Instant,
    in_flight: AtomicU64,
    /// How many answers came in the window, whenever their reads were due.
    answers: AtomicU64,
    given_up: AtomicU64,
    /// Latencies of the reads that were due in the window.
    tally: Arc<Tally>,
    /// How long after its due moment each of them was handed over.
    sent_late: Arc<Tally>,
}

/// Begins so many reads a second, for as long as the timing says, and waits as long again for answers at most.
pub(crate) async fn measure<T: Target>(
    target: &Arc<T>,
    users: Users,
    per_second: u32,
    timing: Timing,
) -> Result<Measured, Failure> {
    let start = Instant::now();
    let window = timing.window();
    let load = Arc::new(Load {
        target: Arc::clone(target),
        users,
        schedule: Schedule {
            start,
            per_second: u64::from(per_second.max(1)),
        },
        window,
        give_up_at: window.end + timing.measured,
        in_flight: AtomicU64::new(0),
        answers: AtomicU64::new(0),
        given_up: AtomicU64::new(0),
        tally: Tally::new()?,
        sent_late: Tally::new()?,
    });
    let sending = {
        let (load, runtime) = (Arc::clone(&load), Handle::current());
        tokio::task::spawn_blocking(move || load.send(&runtime))
    };
    let mut tasks = sending
        .await
        .map_err(|error| Failure::new(1, error.to_string()))?;
    let answers = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Failure::new(1, error.to_string()))?;
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout_at(load.give_up_at, answers).await {
        Ok(ended) => ended?,
        // Reads that end in this way give themselves up.
        Err(_) => tasks.shutdown().await,
    }
    Ok(load.measured(timing))
}

impl<T: Target> Load<T> {
    /// Hands over what is due until all of it is.
    fn send(self: &Arc<Self>, runtime: &Handle) -> JoinSet<()> {
        let mut random = Rng::new();
        let mut tasks = JoinSet::new();
        let all = self.schedule.due_before(self.window.end);
        let mut next = 0;
        while next < all {
            let now = Instant::now();
            if now >= self.give_up_at {
                (next..all).for_each(|number| self.give_up(number));
                break;
            }
            while tasks.try_join_next().is_some() {}
            let in_flight = self.in_flight.load(Ordering::Relaxed);
            let room = IN_FLIGHT_MAX.saturating_sub(in_flight);
            let due = self.schedule.due_before(now).min(all).min(next + room);
            while next < due {
                let end = due.min(next + TASK_READS_MAX);
                self.hand_over(next..end, now);
                tasks.spawn_on(self.reads(next..end, &mut random).collect::<()>(), runtime);
                next = end;
            }
            thread::sleep(TICK);
        }
        tasks
    }

    fn hand_over(&self, numbers: Range<u64>, now: Instant) {
        self.in_flight
            .fetch_add(numbers.end - numbers.start, Ordering::Relaxed);
        for due in numbers.map(|number| self.schedule.due(number)) {
            if self.window.holds(due) {
                self.sent_late.answered(now - due);
            }
        }
    }

    /// These reads, which begin together when they are first polled.
    fn reads(
        self: &Arc<Self>,
        numbers: Range<u64>,
        random: &mut Rng,
    ) -> FuturesUnordered<impl Future<Output = ()> + Send + use<T>> {
        let read = |number| {
            let user = self.users.choose(random);
            let load = Arc::clone(self);
            // Made here, so that a read that never begins is given up, too.
            let waiting = Waiting {
                load,
                number,
                ended: false,
            };
            async move {
                let answer = waiting.load.target.read(user).await;
                waiting.end(answer);
            }
        };
        numbers.map(read).collect()
    }

    fn give_up(&self, number: u64) {
        let due = self.schedule.due(number);
        if self.window.holds(due) {
            self.given_up.fetch_add(1, Ordering::Relaxed);
            self.tally.answered(self.give_up_at - due);
        }
    }

    fn measured(&self, timing: Timing) -> Measured {
        let answers = statistics::float(self.answers.load(Ordering::Relaxed));
        let given_up = statistics::float(self.given_up.load(Ordering::Relaxed));
        let sent_late = Measured::of(&self.sent_late.totals(), timing.measured);
        let rate = u32::try_from(self.schedule.per_second).unwrap_or(u32::MAX);
        let mut measured = Measured::of(&self.tally.totals(), timing.measured)
            .with("rate", f64::from(rate))
            .with("given_up", given_up)
            .with("sent_late_p50_us", sent_late.p50_us.unwrap_or_default())
            .with("sent_late_p99_us", sent_late.p99_us.unwrap_or_default());
        measured.per_second = Some(answers / timing.measured.as_secs_f64());
        measured
    }
}

/// A read in flight. It is given up if it goes without an answer.
struct Waiting<T: Target> {
    load: Arc<Load<T>>,
    number: u64,
    ended: bool,
}

impl<T: Target> Waiting<T> {
    fn end(mut self, answer: Result<(), Reason>) {
        self.ended = true;
        let load = &self.load;
        let (now, due) = (Instant::now(), load.schedule.due(self.number));
        if answer.is_ok() && load.window.holds(now) {
            load.answers.fetch_add(1, Ordering::Relaxed);
        }
        if load.window.holds(due) {
            match answer {
                Ok(()) => load.tally.answered(now - due),
                Err(reason) => load.tally.failed(reason),
            }
        }
    }
}

impl<T: Target> Drop for Waiting<T> {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.load.give_up(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use user_state_domain::UserCommand;

    use super::*;

    fn schedule(per_second: u64) -> Schedule {
        Schedule {
            start: Instant::now(),
            per_second,
        }
    }

    #[test]
    fn reads_are_due_evenly_at_the_rate_asked_for_and_do_not_drift() {
        for (per_second, number, nanos) in [
            (100_000, 0, 0),
            (100_000, 1, 10_000),
            (100_000, 360_000_000, 3_600_000_000_000),
            (3, 1, 333_333_333),
            (3, 3_000_000_001, 1_000_000_000_333_333_333),
        ] {
            let schedule = schedule(per_second);
            let due = schedule.due(number) - schedule.start;
            assert_eq!(due, Duration::from_nanos(nanos), "{number} at {per_second}");
        }
    }

    #[test]
    fn what_is_due_before_a_moment_is_what_has_an_earlier_moment() {
        for per_second in [1, 3, 999, 1_000, 100_000, 1_000_003] {
            let schedule = schedule(per_second);
            for number in [0, 1, 2, 10, 12_345, 999_999, 1_000_000, 99_999_999] {
                let due = schedule.due(number);
                assert_eq!(schedule.due_before(due), number, "at {per_second}");
                let next = due + Duration::from_nanos(1);
                assert_eq!(schedule.due_before(next), number + 1, "at {per_second}");
            }
        }
    }

    /// How a target answers the reads of a test.
    enum Answers {
        /// One at a time, the first of them late.
        StuckAtFirst(tokio::sync::Mutex<bool>),
        /// This many, and no more.
        AtMost(Semaphore),
        Errors,
    }

    impl Target for Answers {
        async fn write(&self, _: usize, _: UserCommand) -> Result<(), Reason> {
            Err("reads only")
        }

        async fn read(&self, _: usize) -> Result<(), Reason> {
            match self {
                Self::StuckAtFirst(was_stuck) => {
                    let mut was_stuck = was_stuck.lock().await;
                    if !std::mem::replace(&mut *was_stuck, true) {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Ok(())
                }
                Self::AtMost(answers) => {
                    answers.acquire().await.map_err(|_| "closed")?.forget();
                    Ok(())
                }
                Self::Errors => Err("overloaded"),
            }
        }

        async fn close(&self) {}
    }

    /// 1,000 reads a second for a quarter of one.
    async fn measured(answers: Answers) -> Measured {
        let timing = Timing {
            warm_up: Duration::ZERO,
            measured: Duration::from_millis(250),
        };
        measure(&Arc::new(answers), Users::Even(1), 1_000, timing)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_pause_is_seen_by_all_reads_that_were_due_in_it() {
        let measured = measured(Answers::StuckAtFirst(false.into())).await;
        // In a closed loop one read of hundreds would have been slow, and the median some microseconds.
        assert!(measured.p50_us > Some(20_000.0), "{measured:?}");
        assert!(measured.extras["given_up"] < 1.0, "{measured:?}");
    }

    #[tokio::test]
    async fn reads_without_an_answer_are_given_up_and_count_as_long_as_they_waited() {
        let measured = measured(Answers::AtMost(Semaphore::new(100))).await;
        assert!(measured.extras["given_up"] >= 149.0, "{measured:?}");
        // The last of them had waited as long as the window is.
        assert!(measured.p99_us >= Some(250_000.0), "{measured:?}");
        assert!(measured.per_second <= Some(400.0), "{measured:?}");
        assert!((measured.extras["rate"] - 1_000.0).abs() < 0.1);
    }

    #[tokio::test]
    async fn failed_reads_are_errors_and_are_in_no_other_figure() {
        let measured = measured(Answers::Errors).await;
        assert!(measured.errors >= 249, "{measured:?}");
        assert_eq!(measured.per_second, Some(0.0));
        assert_eq!(measured.p50_us, None);
        assert!(measured.extras["given_up"] < 1.0, "{measured:?}");
    }
}
