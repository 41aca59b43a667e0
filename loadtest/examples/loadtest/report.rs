//! The figures, for people and for programs.

use std::time::Duration;

use serde::Serialize;

use crate::arguments::{Arguments, Workload};
use crate::exit::{Failure, with_causes};
use crate::tally::Totals;

/// What a run gave.
pub(crate) struct Measured {
    pub(crate) totals: Totals,
    /// The time in which the answers came.
    pub(crate) elapsed: Duration,
    pub(crate) rss_bytes: Option<u64>,
    /// How often a user came to life meanwhile.
    pub(crate) recovered: u64,
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    workload: Workload,
    per_second: u128,
    p50_us: u64,
    p99_us: u64,
    errors: u64,
    users: usize,
    callers: usize,
    rss_bytes: Option<u64>,
    live_entities_max: usize,
    recovered: u64,
}

impl Measured {
    /// How often requests failed, by reason.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.totals
            .errors
            .iter()
            .map(|(reason, count)| (*reason, *count))
    }

    fn per_second(&self) -> u128 {
        let answers = u128::from(self.totals.micros.len());
        (answers * Duration::from_secs(1).as_nanos())
            .checked_div(self.elapsed.as_nanos())
            .unwrap_or_default()
    }
}

impl Report {
    pub(crate) fn of(arguments: &Arguments, measured: &Measured) -> Self {
        Self {
            workload: arguments.workload,
            per_second: measured.per_second(),
            p50_us: measured.totals.micros.value_at_quantile(0.5),
            p99_us: measured.totals.micros.value_at_quantile(0.99),
            errors: measured.errors().map(|(_, count)| count).sum(),
            users: arguments.users(),
            callers: arguments.callers.get(),
            rss_bytes: measured.rss_bytes,
            live_entities_max: arguments.limit().live_entities_max(),
            recovered: measured.recovered,
        }
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::new(1, with_causes(&error)))
    }

    pub(crate) fn text(&self) -> String {
        let (half, most) = (self.p50_us, self.p99_us);
        let memory = self.rss_bytes.map_or_else(
            || "unknown".to_owned(),
            |bytes| format!("{} MiB", bytes / (1_024 * 1_024)),
        );
        let mut lines = vec![
            format!(
                "{}: {} users, {} callers",
                self.workload, self.users, self.callers
            ),
            format!("{:>12} per second", self.per_second),
            format!("{half:>12} us or less for half of them, {most} us or less for 99 of 100"),
            format!("{:>12} errors", self.errors),
            format!("{memory:>12} of memory, callers included"),
        ];
        if self.recovered > 0 && self.workload != Workload::Recover {
            let (recovered, limit) = (self.recovered, self.live_entities_max);
            lines.push(format!(
                "{recovered:>12} recoveries of users meanwhile, so this measures recovery, too: \
                 live_entities_max is {limit}"
            ));
        }
        lines.join("\n")
    }
}
