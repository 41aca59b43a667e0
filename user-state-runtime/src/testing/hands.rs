//! The code of the user in tests without a runtime.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::ledger::{Command, Does, Ledger, Number};
use crate::effects::{Handled, Hands, Started};

/// A handler that waits for something.
#[derive(Debug)]
pub(crate) struct Running {
    state: Ledger,
    command: Command,
}

impl Running {
    pub(crate) fn finish(self) -> Handled<Ledger> {
        self.state.decide(&self.command)
    }

    pub(crate) fn number(&self) -> u32 {
        self.command.number
    }
}

/// Calls the code of the user, which panics when it is told to.
#[derive(Debug)]
pub(crate) struct SimulatedHands {
    pub(crate) retries: bool,
    /// The next copy of a state or a command, or the next initial state, panics.
    pub(crate) panics: Cell<bool>,
    pub(crate) code: UserCode,
}

impl SimulatedHands {
    pub(crate) fn new(retries: bool) -> Self {
        Self {
            retries,
            panics: Cell::new(false),
            code: UserCode::default(),
        }
    }

    fn panics(&self) -> bool {
        let panics = self.panics.take();
        if panics {
            self.code.panicked.set(true);
        }
        panics
    }
}

impl Hands<Ledger> for SimulatedHands {
    type Running = Running;

    fn start(&self, state: &Ledger, command: Command) -> Started<Ledger, Running> {
        let mut handled = self.code.handled.borrow_mut();
        let times = handled.entry(command.number).or_default();
        *times += 1;
        if *times > 2 {
            self.code.handled_thrice.set(true);
        }
        drop(handled);
        self.code.starts.set(self.code.starts.get() + 1);
        if command.does == Does::Panic {
            self.code.panicked.set(true);
        }
        let state = state.clone();
        if command.waits {
            Started::Waits(Running { state, command })
        } else {
            Started::Finished(state.decide(&command))
        }
    }

    fn retries(&self) -> bool {
        self.retries
    }

    fn copy_command(&self, command: &Command) -> Option<Command> {
        (self.retries && !self.panics()).then(|| command.clone())
    }

    fn guard<T>(&self, code: impl FnOnce() -> T) -> Option<T> {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)).ok();
        if done.is_none() {
            self.code.panicked.set(true);
        }
        done
    }

    fn copy_state(&self, state: &Ledger) -> Option<Ledger> {
        (!self.panics()).then(|| state.clone())
    }

    fn initial_state(&self) -> Option<Ledger> {
        (!self.panics()).then(Ledger::default)
    }
}

/// What the code of the user did.
#[derive(Debug, Default)]
pub(crate) struct UserCode {
    pub(crate) panicked: Cell<bool>,
    pub(crate) handled_thrice: Cell<bool>,
    /// How many handlers were started.
    pub(crate) starts: Cell<u64>,
    /// The commands whose handler was ever started, and how often.
    pub(crate) handled: RefCell<BTreeMap<Number, u32>>,
}
