//! Plays recorded shop behaviour into live user states: three hours pass in a moment.
//!
//! ```text
//! cargo run --example replay [-- FILE.csv|-] [--store URL] [--mall ID] [--idle-timeout 30m] [--zone UTC] [--json]
//! ```
//!
//! Without a file it plays a small sample of its own. Time is the event time: the clock stands at the time of the
//! record being played, so users passivate and recover as they would live. A second run continues from the stored states.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tokio::time::Instant;
use user_state_store::Store;

mod arguments;
#[path = "../shared/exit.rs"]
mod exit;
mod input;
mod numbered;
#[path = "../shared/open.rs"]
mod open;
mod player;
mod progress;
mod records;
mod summary;

use arguments::Arguments;
use exit::Failure;
use input::Input;
use player::Player;
use progress::Progress;
use summary::Summary;

#[tokio::main]
async fn main() -> ExitCode {
    match exit::arguments() {
        Ok(arguments) => exit::status(Box::pin(replay(&arguments)).await),
        Err(status) => status,
    }
}

async fn replay(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let input = Input::open(arguments.file.as_deref())?;
    let store = open::open(&arguments.store).await?;
    if !arguments.json {
        say(&format!(
            "Playing {} into {}",
            input.name(),
            summary::place(&arguments.store)
        ))?;
    }
    let summary = play(arguments, input, &store).await?;
    store.close().await;
    say(&if arguments.json {
        summary.json()?
    } else {
        summary.text(arguments)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn play(arguments: &Arguments, input: Input, store: &Store) -> Result<Summary, Failure> {
    let started = Instant::now();
    let progress = Progress::new(input.bytes(), std::io::stderr().is_terminal());
    let mut lines = input.read(arguments.mall.clone())?;
    let mut player = None;
    let (mut events, mut rejected) = (0, 0);
    while let Some(line) = lines.recv().await {
        match line? {
            Ok(record) => {
                events += 1;
                let player = match &mut player {
                    Some(player) => player,
                    none => none.insert(Player::start(arguments, store, Some(record.at))?),
                };
                player.play(record).await?;
            }
            Err(rejection) => {
                rejected += 1;
                progress.report(&rejection.to_string());
            }
        }
        progress.at(lines.bytes_read());
    }
    let mut player = match player {
        Some(player) => player,
        None => Player::start(arguments, store, None)?,
    };
    player.finish().await?;
    progress.end();
    Summary::of(&player, events, rejected, started.elapsed()).await
}

/// Writes to stdout. A reader that has gone away ends the program, as it would end any other.
fn say(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure::new(1, format!("cannot write to stdout: {error}")))
}
