//! Loads: what callers do to a contender, and what is seen meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use user_state_domain::UserCommand;
use user_state_runtime::{Clock as _, SystemClock};

use crate::statistics;
use crate::tally::Totals;

pub(crate) mod callers;
pub(crate) mod fixed_rate;
pub(crate) mod lanes;
pub(crate) mod open_loop;
pub(crate) mod recovery;
mod zipf;

pub(crate) use zipf::Zipf;

/// Why a request failed, to count by.
pub(crate) type Reason = &'static str;

/// Something that callers ask for users, by number.
pub(crate) trait Target: Send + Sync + Sized + 'static {
    /// Executes a command; returns when it is durable.
    fn write(
        &self,
        user: usize,
        command: UserCommand,
    ) -> impl Future<Output = Result<(), Reason>> + Send;

    /// Reads a state.
    fn read(&self, user: usize) -> impl Future<Output = Result<(), Reason>> + Send;

    /// What it wrote so far; nothing where it does not count.
    fn written(&self) -> Written {
        Written::default()
    }

    /// Ends it in an orderly way.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// Rows, and the batches that they were written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Written {
    pub(crate) rows: u64,
    pub(crate) batches: u64,
}

impl Written {
    /// What was written since then.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(before.rows),
            batches: self.batches.saturating_sub(before.batches),
        }
    }

    /// The mean, rounded.
    pub(crate) fn rows_per_batch(self) -> usize {
        let batches = self.batches.max(1);
        usize::try_from((self.rows + batches / 2) / batches).unwrap_or(usize::MAX)
    }
}

/// How long a load takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// What comes first and does not count.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Timing {
    /// This time, after a tenth of it to warm up.
    pub(crate) fn of(measured: Duration) -> Self {
        Self {
            warm_up: measured / 10,
            measured,
        }
    }

    /// The time in which answers count, if the load begins now.
    fn window(self) -> Window {
        let start = Instant::now() + self.warm_up;
        Window {
            start,
            end: start + self.measured,
        }
    }
}

/// The time in which answers count.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn holds(self, at: Instant) -> bool {
        self.start <= at && at < self.end
    }
}

/// What a load showed. Also what a peer process answers, as a JSON object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Measured {
    /// Successful answers.
    pub(crate) per_second: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    /// Requests that failed; they are in no other figure.
    pub(crate) errors: u64,
    /// What only this kind of work shows, by name.
    pub(crate) extras: BTreeMap<String, f64>,
}

impl Measured {
    /// The figures of a load whose answers came in this time.
    fn of(totals: &Totals, elapsed: Duration) -> Self {
        let quantile = |quantile| {
            let micros = &totals.micros;
            (!micros.is_empty()).then(|| statistics::float(micros.value_at_quantile(quantile)))
        };
        Self {
            per_second: Some(statistics::float(totals.micros.len()) / elapsed.as_secs_f64()),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            errors: totals.errors.values().sum(),
            extras: BTreeMap::new(),
        }
    }

    /// The figures of a read of so many rows.
    pub(crate) fn of_rows(rows: u64, elapsed: Duration) -> Self {
        Self {
            per_second: Some(statistics::float(rows) / elapsed.as_secs_f64()),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &str, figure: f64) -> Self {
        self.extras.insert(name.to_owned(), figure);
        self
    }
}

/// The calendar time, for instants that are stored.
pub(crate) fn now() -> DateTime<Utc> {
    SystemClock::new().utc_now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;

    #[test]
    fn failed_requests_are_counted_and_are_in_no_rate_and_no_quantile() {
        let tally = Tally::new().unwrap();
        tally.answered(Duration::from_micros(100));
        tally.answered(Duration::from_micros(100));
        tally.failed("conflict");
        let measured = Measured::of(&tally.totals(), Duration::from_secs(2));
        assert_eq!(measured.per_second, Some(1.0));
        assert_eq!(
            (measured.p50_us, measured.p99_us, measured.p999_us),
            (Some(100.0), Some(100.0), Some(100.0))
        );
        assert_eq!(measured.errors, 1);
    }

    #[test]
    fn the_slowest_hundredth_and_thousandth_are_told_apart_from_the_rest() {
        let tally = Tally::new().unwrap();
        // Of 1,000 answers 11 are slow, and 2 of these are very slow.
        for (answers, micros) in [(989, 100), (9, 400), (2, 900)] {
            for _ in 0..answers {
                tally.answered(Duration::from_micros(micros));
            }
        }
        let measured = Measured::of(&tally.totals(), Duration::from_secs(1));
        assert_eq!(
            (measured.p50_us, measured.p99_us, measured.p999_us),
            (Some(100.0), Some(400.0), Some(900.0))
        );
    }

    #[test]
    fn without_an_answer_there_is_no_latency() {
        let measured = Measured::of(&Tally::new().unwrap().totals(), Duration::from_secs(1));
        assert_eq!(measured.per_second, Some(0.0));
        assert_eq!(measured.p50_us, None);
    }
}
