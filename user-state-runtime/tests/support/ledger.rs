//! A second aggregate: its handler awaits a service, makes none, one or several events, refuses, and panics on demand; its
//! `apply` is not idempotent, so a command that is applied twice, or never, shows in the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::watch;
use user_state_runtime::{EntityRef, Runtime, RuntimeBuilder};
use user_state_store::{PersistenceId, SerdeMapping, Store};

use super::AnyError;

/// How many of the last amounts a ledger remembers.
const RECENT: usize = 1_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub balance: i64,
    pub entries: u64,
    /// The last amounts in their order.
    pub recent: Vec<i64>,
    #[serde(default)]
    pub trap: Trap,
}

/// What happens when the state is serialized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Trap {
    #[default]
    None,
    Refuses,
    Panics,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerCommand {
    /// One event for each amount.
    Add(Vec<i64>),
    /// One event; refused beyond the balance.
    Take(i64),
    /// One event with the amount times the bank's rate, which is awaited.
    AddAtRate(i64),
    /// Awaits the bank and refuses.
    RefuseAfterRate,
    PanicAtOnce,
    /// Awaits the bank and panics.
    PanicAfterRate,
    /// One event whose `apply` panics, behind one that is applied.
    PanicInApply,
    /// One event that makes a state which cannot be serialized.
    Set(Trap),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LedgerEvent {
    Added(i64),
    Exploded,
    #[serde(skip)]
    TrapSet(Trap),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused at a balance of {balance}")]
pub struct Refused {
    pub balance: i64,
}

/// A service: it tells a rate, when its gate is open.
#[derive(Debug)]
pub struct Bank {
    rate: i64,
    calls: AtomicU64,
    open: watch::Sender<bool>,
}

impl Bank {
    /// The gate is open.
    pub fn with_rate(rate: i64) -> Arc<Self> {
        Arc::new(Self {
            rate,
            calls: AtomicU64::new(0),
            open: watch::Sender::new(true),
        })
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    async fn rate(&self) -> i64 {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open)
            .await
            .expect("the bank keeps its gate");
        self.rate
    }
}

impl Aggregate for Ledger {
    const TYPE: &'static str = "Ledger";
    type Command = LedgerCommand;
    type Event = LedgerEvent;
    type Error = Refused;
    type Services = Arc<Bank>;

    async fn handle(
        &mut self,
        command: LedgerCommand,
        bank: &Arc<Bank>,
        sink: &EventSink<Self>,
    ) -> Result<(), Refused> {
        let refused = Refused {
            balance: self.balance,
        };
        match command {
            LedgerCommand::Add(amounts) => {
                for amount in amounts {
                    sink.write(LedgerEvent::Added(amount), self).await;
                }
            }
            LedgerCommand::Take(amount) if amount > self.balance => return Err(refused),
            LedgerCommand::Take(amount) => sink.write(LedgerEvent::Added(-amount), self).await,
            LedgerCommand::AddAtRate(amount) => {
                let amount = amount * bank.rate().await;
                sink.write(LedgerEvent::Added(amount), self).await;
            }
            LedgerCommand::RefuseAfterRate => {
                bank.rate().await;
                return Err(refused);
            }
            LedgerCommand::PanicAtOnce => panic!("a handler that panics at once"),
            LedgerCommand::PanicAfterRate => {
                sink.write(LedgerEvent::Added(1_000), self).await;
                bank.rate().await;
                panic!("a handler that panics after an await");
            }
            LedgerCommand::PanicInApply => {
                sink.write(LedgerEvent::Added(1_000), self).await;
                sink.write(LedgerEvent::Exploded, self).await;
            }
            LedgerCommand::Set(trap) => sink.write(LedgerEvent::TrapSet(trap), self).await,
        }
        Ok(())
    }

    fn apply(&mut self, event: LedgerEvent) {
        match event {
            LedgerEvent::Added(amount) => {
                self.balance += amount;
                self.entries += 1;
                self.recent.push(amount);
                let surplus = self.recent.len().saturating_sub(RECENT);
                self.recent.drain(..surplus);
            }
            LedgerEvent::Exploded => panic!("a reducer that panics"),
            LedgerEvent::TrapSet(trap) => self.trap = trap,
        }
    }
}

impl DomainEvent for LedgerEvent {
    fn event_type(&self) -> String {
        "LedgerEvent".to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_unit_variant("Trap", 0, "None"),
            Self::Refuses => Err(serde::ser::Error::custom("a state that is not serialized")),
            Self::Panics => panic!("a state that panics when it is serialized"),
        }
    }
}

/// A runtime of ledgers, about to be started.
pub fn ledgers(store: impl Into<Store>, bank: &Arc<Bank>) -> RuntimeBuilder<Ledger> {
    Runtime::builder(
        store,
        SerdeMapping::new("com.example.Ledger"),
        Arc::clone(bank),
    )
}

pub fn id(name: &str) -> PersistenceId {
    PersistenceId::of("Ledger", name).expect("a valid id")
}

/// Adds one amount.
pub fn add(amount: i64) -> LedgerCommand {
    LedgerCommand::Add(vec![amount])
}

/// The balance and how many entries made it.
pub async fn sum(ledger: &EntityRef<Ledger>) -> Result<(i64, u64), AnyError> {
    let read = ledger.state().await?;
    Ok((read.state.balance, read.state.entries))
}
