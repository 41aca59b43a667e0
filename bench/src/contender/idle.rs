//! Nothing behind the callers: what the load generator itself can do, and so what no other figure can be above.

use user_state_domain::UserCommand;

use crate::case::{Case, Kind};
use crate::contender::System;
use crate::exit::Failure;
use crate::load::{Reason, Target};
use crate::population::Tables;

/// Answers at once.
pub(crate) struct Idling;

/// What answers: the caller only gives way to the others once.
#[derive(Debug)]
pub(crate) struct Idle;

impl System for Idling {
    type Target = Idle;

    fn name(&self) -> &'static str {
        "idle"
    }

    fn tables(&self) -> Option<Tables> {
        None
    }

    fn keeps_users(&self) -> bool {
        false
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Memory | Kind::Passivate | Kind::StartUp | Kind::Feed => {
                Some("no callers are part of this work".to_owned())
            }
            // At a part of the rate of callers that wait for nothing.
            Kind::Latency { .. } => Some("it has no capacity to speak of a part of".to_owned()),
            _ => None,
        }
    }

    async fn open(&self, _: &str, _: usize) -> Result<Idle, Failure> {
        Ok(Idle)
    }
}

impl Target for Idle {
    async fn write(&self, user: usize, command: UserCommand) -> Result<(), Reason> {
        std::hint::black_box((user, command));
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn read(&self, user: usize) -> Result<(), Reason> {
        std::hint::black_box(user);
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn close(&self) {}
}
