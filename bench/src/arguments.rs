//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use user_state_interop::Profile;

use crate::load::Timing;

/// How long a measurement takes unless set.
const SECONDS: f64 = 3.0;

/// How long one of a quick run takes unless set.
const QUICK_SECONDS: f64 = 0.8;

/// How often everything is measured unless set.
const ROUNDS: usize = 5;

/// How often in a quick run, unless set.
const QUICK_ROUNDS: usize = 2;

/// Measures user-state and its peers on the same work in the same run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Arguments {
    /// The works that matter most, within five minutes; without `pekko` unless it is named
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these works, with commas between; `write` means all that begin with `write-`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) work: Vec<String>,
    /// Only these contenders, with commas between; `postgres-es` means all that begin with `postgres-es-`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) contenders: Vec<String>,
    /// Writes the figures to this file, as a list of JSON objects
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draws a chart into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// How long each measurement takes [default: 3, with --quick: 0.8]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// How often everything is measured [default: 5, with --quick: 2]
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroUsize>,
    /// At most this many users in any work
    #[arg(long, value_name = "N")]
    users: Option<NonZeroUsize>,
    /// A program that measures Pekko, and its arguments, instead of the one that is built here; the README of the
    /// benchmark says how it is spoken to
    #[arg(long, value_name = "COMMAND")]
    pub(crate) pekko: Option<String>,
    /// Which versions of Pekko are measured: pekko-1.1 or pekko-newest
    #[arg(
        long,
        value_name = "NAME",
        default_value_t = Profile::PekkoNewest,
        value_parser = profile,
        conflicts_with = "pekko"
    )]
    pub(crate) pekko_profile: Profile,
    /// Answers requests on standard input instead, as the benchmark asks of itself in a process of its own
    #[arg(long, hide = true)]
    pub(crate) peer: bool,
}

impl Arguments {
    pub(crate) fn timing(&self) -> Timing {
        let default = if self.quick { QUICK_SECONDS } else { SECONDS };
        Timing::of(Duration::from_secs_f64(self.seconds.unwrap_or(default)))
    }

    pub(crate) fn rounds(&self) -> usize {
        let default = if self.quick { QUICK_ROUNDS } else { ROUNDS };
        self.rounds.map_or(default, NonZeroUsize::get)
    }

    pub(crate) fn users_max(&self) -> usize {
        self.users.map_or(usize::MAX, NonZeroUsize::get)
    }
}

/// A set of versions by its name.
fn profile(text: &str) -> Result<Profile, String> {
    let names = Profile::ALL.map(Profile::name);
    Profile::ALL
        .into_iter()
        .find(|profile| profile.name() == text)
        .ok_or_else(|| format!("there are {}", names.join(", ")))
}

/// A time that can be waited for.
fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.01..=3_600.0).contains(seconds))
        .ok_or_else(|| "it must be between 0.01 and 3600".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_quick_run_is_shorter_and_what_is_set_counts() {
        let plain = Arguments::parse_from(["bench"]);
        let quick = Arguments::parse_from(["bench", "--quick"]);
        assert!(quick.timing().measured < plain.timing().measured);
        assert!(quick.rounds() < plain.rounds());
        let set = [
            "bench",
            "--quick",
            "--seconds",
            "0.5",
            "--rounds",
            "2",
            "--users",
            "7",
        ];
        let set = Arguments::parse_from(set);
        assert_eq!(set.timing().measured, Duration::from_millis(500));
        assert_eq!((set.rounds(), set.users_max()), (2, 7));
    }

    #[test]
    fn names_are_parted_by_commas() {
        let arguments = Arguments::parse_from(["bench", "--work", "hot,read"]);
        assert_eq!(arguments.work, ["hot", "read"]);
    }

    #[test]
    fn the_newest_pekko_is_measured_unless_another_is_named_and_only_those_there_are() {
        let profile = |arguments: &[&str]| {
            let arguments = ["bench"].iter().chain(arguments);
            Arguments::try_parse_from(arguments).map(|arguments| arguments.pekko_profile)
        };
        assert_eq!(profile(&[]).unwrap(), Profile::PekkoNewest);
        let named = ["--pekko-profile", "pekko-1.1"];
        assert_eq!(profile(&named).unwrap(), Profile::Pekko11);
        let unknown = profile(&["--pekko-profile", "pekko-3"]).unwrap_err();
        assert!(unknown.to_string().contains("pekko-1.1, pekko-newest"));
    }

    #[test]
    fn no_time_and_endless_time_are_refused() {
        for text in ["0", "-1", "nan", "inf", "much"] {
            assert!(
                Arguments::try_parse_from(["bench", "--seconds", text]).is_err(),
                "{text}"
            );
        }
    }
}
