//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use user_state_domain::MallId;
use user_state_store::Tz;

/// Plays recorded shop behaviour into live, durable user states.
#[derive(Debug, Parser)]
#[command(name = "replay")]
pub(crate) struct Arguments {
    /// The records, as CSV with a header; `-` reads stdin. Without it: a small sample
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where the states are kept: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`
    #[arg(long, value_name = "URL", default_value = "sqlite:user-state.db")]
    pub(crate) store: String,
    /// The mall that the users belong to
    #[arg(long, value_name = "ID", default_value = "demo", value_parser = MallId::new)]
    pub(crate) mall: MallId,
    /// How long a user may be idle before the entity leaves memory
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = idle_timeout)]
    pub(crate) idle_timeout: Duration,
    /// The time zone that stored times are local to
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub(crate) zone: Tz,
    /// Print one JSON object instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

fn idle_timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("it must be longer than nothing".to_owned());
    }
    Ok(duration)
}
