//! Callers of a simulation ask, and inputs are shown in its traces.

use std::time::Duration;

use chrono::DateTime;
use user_state_store::PersistenceId;

use super::super::{Input, Mail, MailOf};
use super::callers::{Asks, Changes};
use super::player::Player;
use super::world::World;
use crate::clock::Moment;
use crate::request::{Message, Request};
use crate::testing::ledger::{Command, Does, Form, Ledger};

impl Player {
    pub(in crate::shard) fn mail(&mut self, dice: &mut fastrand::Rng) {
        let count = dice.usize(1..6).min(self.core.mail_room());
        if count == 0 {
            return;
        }
        let mut mail: Vec<_> = (0..count).map(|_| self.message(dice)).collect();
        self.feed(Input::Mail(&mut mail));
    }

    pub(in crate::shard) fn message(&mut self, dice: &mut fastrand::Rng) -> MailOf<World> {
        let id = self.any_entity(dice);
        let world = &mut self.world;
        let ticket = world.callers.next_ticket();
        let (request, asks) = request(ticket, dice);
        world.trace(|| format!("{ticket} to {id}: {asks:?}"));
        world.callers.ask(ticket, &id, asks, &mut world.database);
        // Messages of several callers do not come in the order of their time.
        let accepted_at = match dice.u8(0..4) {
            0 => {
                let late = Duration::from_secs(dice.u64(0..60));
                Moment::ORIGIN + world.clock.since_origin().saturating_sub(late)
            }
            _ => world.clock,
        };
        if !request.is_passivation() {
            let last = self.last_accepted.entry(id.clone()).or_default();
            *last = (*last).max(accepted_at);
        }
        Mail::Request(Message {
            persistence_id: PersistenceId::unique(&id).expect("a valid id"),
            accepted_at,
            request,
            ticket,
        })
    }
}

fn request(ticket: u32, dice: &mut fastrand::Rng) -> (Request<Ledger>, Asks) {
    let waits = dice.u8(0..8) == 0;
    let command = |does| {
        let changes = match does {
            Does::Change | Does::Unstorable(_) => Changes::Yes,
            Does::Nothing | Does::Reject | Does::Panic => Changes::No,
        };
        let number = ticket;
        let command = Command {
            number,
            does,
            waits,
        };
        (
            Request::Execute(Some(command)),
            Asks::Command(number, changes),
        )
    };
    match dice.u8(0..100) {
        0..50 => command(Does::Change),
        50..54 => command(Does::Nothing),
        54..60 => command(Does::Reject),
        60..62 => command(Does::Panic),
        62 => command(Does::Unstorable(Form::Refused)),
        63 => command(Does::Unstorable(Form::Panics)),
        64..80 => (Request::Read, Asks::Read),
        80..86 => (Request::Confirm, Asks::Confirm),
        86..93 => (Request::Delete(DateTime::UNIX_EPOCH), Asks::Delete),
        _ => (Request::Passivate, Asks::Passivate),
    }
}

/// An input, as a trace shows it.
impl std::fmt::Display for Input<'_, World> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mail(mail) => write!(formatter, "{} messages", mail.len()),
            Self::MailboxEmpty => formatter.write_str("mailbox empty"),
            Self::NobodyReturned => formatter.write_str("nobody returned"),
            Self::ShutDown { until } => write!(formatter, "shut down until {until:?}"),
            Self::Recovered(recovered) => write!(formatter, "recovered {recovered:?}"),
            Self::Written(report) => write!(formatter, "written {:?}", report.outcomes),
            Self::Resolved(resolved) => write!(formatter, "resolved {resolved:?}"),
            Self::Handled(key, _) => write!(formatter, "handled {key:?}"),
            Self::ClockReached(moment) => write!(formatter, "clock at {moment:?}"),
            Self::RealTimeReached => formatter.write_str("real time"),
        }
    }
}
