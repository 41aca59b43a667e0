//! What was played, for people and for programs.

use std::cmp::Reverse;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use user_state_domain::{ProductId, UserState};
use user_state_runtime::Versioned;
use user_state_store::PersistenceId;

use crate::arguments::Arguments;
use crate::exit::{Failure, with_causes};
use crate::player::Player;

/// How many users' states are shown.
const USERS_SHOWN: usize = 5;

/// The outcome of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    events: u64,
    rejected: u64,
    commands: u64,
    users: usize,
    recovered: u64,
    passivated: u64,
    live: u64,
    elapsed_ms: u64,
    #[serde(skip)]
    most_active: Vec<(PersistenceId, Versioned<UserState>)>,
}

impl Summary {
    /// Takes the figures of a player that has finished, and ends it.
    pub(crate) async fn of(
        player: &Player,
        events: u64,
        rejected: u64,
        elapsed: Duration,
    ) -> Result<Self, Failure> {
        // Before any state is shown: to read one may bring its entity to life.
        let stats = player.stats();
        let most_active = most_active(player).await?;
        player.shutdown().await?;
        Ok(Self {
            events,
            rejected,
            commands: player.acknowledged(),
            users: player.users().len(),
            recovered: stats.recovered,
            passivated: stats.passivated,
            live: stats.live,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            most_active,
        })
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::new(1, with_causes(&error)))
    }

    /// The figures and some states, readable.
    pub(crate) fn text(&self, arguments: &Arguments) -> String {
        let idle = humantime::format_duration(arguments.idle_timeout);
        let elapsed = humantime::format_duration(Duration::from_millis(self.elapsed_ms));
        let mut lines = vec![
            String::new(),
            format!("{:>9}  good records", self.events),
            format!("{:>9}  broken records, skipped", self.rejected),
            format!("{:>9}  commands, each durable", self.commands),
            format!("{:>9}  users", self.users),
            format!("{:>9}  times a user came to life", self.recovered),
            format!(
                "{:>9}  times a user left memory after {idle}",
                self.passivated
            ),
            format!("{:>9}  users live at the end", self.live),
            String::new(),
            format!(
                "It took {elapsed}. The states are in {}",
                place(&arguments.store)
            ),
        ];
        if let Some((id, _)) = self.most_active.first() {
            lines.push("\nThe most active users:".to_owned());
            lines.extend(self.most_active.iter().map(|(id, read)| state(id, read)));
            lines.push(format!(
                "\nLook at any user's row:\n  {}",
                inspect(arguments, id)
            ));
        }
        lines.join("\n")
    }
}

/// The command that shows a row.
fn inspect(arguments: &Arguments, id: &PersistenceId) -> String {
    // Any other URL may hold a password.
    let store = match arguments.store.strip_prefix("sqlite:") {
        Some(_) => arguments.store.as_str(),
        None => "URL",
    };
    let zone = arguments.zone;
    format!("cargo run --example inspect -- --store {store} --zone {zone} {id}")
}

/// The users with the most commands, and what is known of them.
async fn most_active(
    player: &Player,
) -> Result<Vec<(PersistenceId, Versioned<UserState>)>, Failure> {
    let mut users: Vec<_> = player.users().iter().collect();
    users.sort_unstable_by_key(|(key, user)| (Reverse(user.commands), *key));
    let mut states = Vec::new();
    for (_, user) in users.into_iter().take(USERS_SHOWN) {
        let read = user.entity.state().await;
        let read = read.map_err(|error| Failure::new(1, with_causes(&error)))?;
        states.push((user.entity.persistence_id().clone(), read));
    }
    Ok(states)
}

fn state(id: &PersistenceId, read: &Versioned<UserState>) -> String {
    let state = &read.state;
    let products: Vec<_> = state
        .recent_products
        .iter()
        .map(ProductId::as_str)
        .collect();
    format!(
        "\n  {id}, revision {}\n    last login      {}\n    last cart use   {}\n    last event      {}\n    viewed          {}\n    marketing       {}",
        read.revision,
        time(state.last_login),
        time(state.last_cart_used),
        time(state.last_event_at),
        if products.is_empty() {
            "-".to_owned()
        } else {
            products.join(", ")
        },
        if state.marketing_opt_in { "yes" } else { "no" },
    )
}

fn time(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(
        || "-".to_owned(),
        |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

/// Where the store of this URL is, without its secrets.
pub(crate) fn place(url: &str) -> String {
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            std::path::absolute(path)
                .unwrap_or_else(|_| Path::new(path).to_owned())
                .display()
                .to_string()
        }
        None => "PostgreSQL".to_owned(),
    }
}
