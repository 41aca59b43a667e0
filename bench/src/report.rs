//! What a run gave: for people a table and a chart, for programs JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case::Case;
use crate::load::Measured;
use crate::statistics;

pub(crate) mod chart;
pub(crate) mod table;

/// One contender's figures in one case, medians over the rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) work: &'static str,
    pub(crate) contender: &'static str,
    pub(crate) callers: usize,
    pub(crate) users: usize,
    pub(crate) per_second: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    /// How many rounds there were.
    pub(crate) rounds: usize,
    /// How far the best and the worst round are apart, as a part of the median.
    pub(crate) spread: Option<f64>,
    /// Requests that failed, in all rounds.
    pub(crate) errors: u64,
    /// The rate of each round, in order.
    pub(crate) samples: Vec<f64>,
    /// What only this work shows: bytes, seconds, rates.
    #[serde(flatten)]
    pub(crate) extras: BTreeMap<String, f64>,
    /// Why there are no figures.
    pub(crate) not_run: Option<String>,
}

impl Row {
    /// The figures of these rounds.
    pub(crate) fn of(case: &Case, contender: &'static str, rounds: &[Measured]) -> Self {
        let medians = |figure: fn(&Measured) -> Option<f64>| {
            let figures: Vec<f64> = rounds.iter().filter_map(figure).collect();
            statistics::median(&figures)
        };
        let samples: Vec<f64> = rounds.iter().filter_map(|round| round.per_second).collect();
        let names = rounds.iter().flat_map(|round| round.extras.keys());
        let extras = names
            .filter_map(|name| {
                let figures: Vec<f64> = rounds
                    .iter()
                    .filter_map(|round| round.extras.get(name).copied())
                    .collect();
                Some((name.clone(), statistics::median(&figures)?))
            })
            .collect();
        Self {
            work: case.work,
            contender,
            callers: case.callers,
            users: case.users,
            per_second: medians(|round| round.per_second),
            p50_us: medians(|round| round.p50_us),
            p99_us: medians(|round| round.p99_us),
            p999_us: medians(|round| round.p999_us),
            rounds: rounds.len(),
            spread: statistics::spread(&samples),
            errors: rounds.iter().map(|round| round.errors).sum(),
            samples,
            extras,
            not_run: None,
        }
    }

    /// No figures, for this reason.
    pub(crate) fn not_run(case: &Case, contender: &'static str, reason: String) -> Self {
        Self {
            not_run: Some(reason),
            ..Self::of(case, contender, &[])
        }
    }

    /// Whether both are of the same case.
    fn is_beside(&self, other: &Self) -> bool {
        (self.work, self.callers, self.users) == (other.work, other.callers, other.users)
    }

    /// The rate as a multiple of another contender's in the same case.
    fn ratio_to(&self, contender: &str, rows: &[Self]) -> Option<f64> {
        let other = rows
            .iter()
            .find(|row| row.contender == contender && row.is_beside(self))?;
        let other = other.per_second.filter(|rate| *rate > 0.0)?;
        Some(self.per_second? / other)
    }
}

/// The rows as a list of JSON objects, one a line.
pub(crate) fn json(rows: &[Row]) -> Result<String, serde_json::Error> {
    let lines = rows
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;

    /// A row with this rate.
    pub(crate) fn row(work: &'static str, contender: &'static str, per_second: f64) -> Row {
        let case = crate::case::all()
            .into_iter()
            .find(|case| case.work == work)
            .unwrap();
        let round = Measured {
            per_second: Some(per_second),
            p50_us: Some(1_500.0),
            p99_us: Some(20_000.0),
            p999_us: Some(30_000.0),
            ..Measured::default()
        };
        Row::of(&case, contender, &[round])
    }

    /// A row without figures.
    pub(crate) fn row_not_run(work: &'static str, contender: &'static str, reason: &str) -> Row {
        Row {
            per_second: None,
            not_run: Some(reason.to_owned()),
            ..row(work, contender, 1.0)
        }
    }

    #[test]
    fn every_object_has_the_promised_fields_whether_it_was_run_or_not() {
        let rows = [
            row("hot", "user-state", 1_000.0),
            row_not_run("hot", "pekko", "no \"plugin\""),
        ];
        let parsed: Value = serde_json::from_str(&json(&rows).unwrap()).unwrap();
        let objects = parsed.as_array().unwrap();
        assert_eq!(objects.len(), 2);
        for object in objects {
            for field in [
                "work",
                "contender",
                "callers",
                "users",
                "per_second",
                "p50_us",
                "p99_us",
                "p999_us",
                "rounds",
                "spread",
                "not_run",
            ] {
                assert!(object.get(field).is_some(), "{field} in {object}");
            }
        }
        assert_eq!(objects[0]["per_second"], 1_000.0);
        assert_eq!(objects[0]["not_run"], Value::Null);
        assert_eq!(objects[1]["per_second"], Value::Null);
        assert_eq!(objects[1]["not_run"], "no \"plugin\"");
    }

    #[test]
    fn a_row_tells_the_median_round_and_every_rate() {
        let case = crate::case::all().remove(0);
        let rounds = [30.0, 10.0, 20.0].map(|rate| {
            Measured {
                per_second: Some(rate),
                errors: 1,
                ..Measured::default()
            }
            .with("rate", rate * 2.0)
        });
        let row = Row::of(&case, "user-state", &rounds);
        assert_eq!(row.per_second, Some(20.0));
        assert_eq!(row.spread, Some(1.0));
        assert_eq!(row.samples, [30.0, 10.0, 20.0]);
        assert_eq!((row.rounds, row.errors), (3, 3));
        assert_eq!(row.extras.get("rate"), Some(&40.0));
    }

    #[test]
    fn a_ratio_is_between_contenders_of_one_case() {
        let rows = [
            row("hot", "raw-row", 10.0),
            row("read", "raw-row", 100.0),
            row("hot", "user-state", 1_000.0),
            row_not_run("hot", "pekko", "none"),
        ];
        assert_eq!(rows[2].ratio_to("raw-row", &rows), Some(100.0));
        assert_eq!(rows[2].ratio_to("raw-batch", &rows), None);
        assert_eq!(rows[3].ratio_to("raw-row", &rows), None);
    }
}
