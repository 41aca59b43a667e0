//! The command line.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::limit::Limit;

/// How many users there are unless set.
const USERS: usize = 10_000;

/// How many of them the `hot` workload has unless set.
const HOT_USERS: usize = 100;

/// Drives a runtime with closed-loop callers and measures it.
#[derive(Debug, Parser)]
#[command(name = "loadtest")]
pub(crate) struct Arguments {
    /// What the callers do
    #[arg(long)]
    pub(crate) workload: Workload,
    /// Where the states are kept: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`. Without it: a throw-away
    /// PostgreSQL
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// How many users; those missing are created first [default: 10000, hot: 100]
    #[arg(long, value_name = "N")]
    users: Option<NonZeroUsize>,
    /// How many users are in memory at most. With fewer than there are, workloads on live users measure recovery, too,
    /// and the report says so [default: that of the runtime, raised where more users are asked for]
    #[arg(long, value_name = "N")]
    live_entities_max: Option<NonZeroUsize>,
    /// How many callers, each with one request at a time
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) callers: NonZeroUsize,
    /// How long to measure
    #[arg(long, value_name = "S", default_value = "5")]
    seconds: NonZeroU32,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// A random command on a random user, until it is durable
    Write,
    /// The state of a random live user
    Read,
    /// Like write, on few users
    Hot,
    /// The state of a user that is not live
    Recover,
}

impl Arguments {
    pub(crate) fn users(&self) -> usize {
        let default = match self.workload {
            Workload::Hot => HOT_USERS,
            _ => USERS,
        };
        self.users.map_or(default, NonZeroUsize::get)
    }

    pub(crate) fn limit(&self) -> Limit {
        Limit::of(self.live_entities_max, self.users())
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.get().into())
    }

    /// How long to run before anything counts.
    pub(crate) fn warm_up(&self) -> Duration {
        self.duration() / 10
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Hot => "hot",
            Self::Recover => "recover",
        })
    }
}
