//! The aggregate of simulations: its state is the list of what made each of its revisions.

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

use crate::effects::Handled;

/// What made a revision: the number of a command, or one of the two below.
pub(crate) type Number = u32;

/// A deletion made this revision, or wiped what had made it.
pub(crate) const DELETION: Number = 0;

/// Another writer made this revision.
pub(crate) const FOREIGN: Number = Number::MAX;

/// One element for each revision, the first at index 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) made_by: Vec<Number>,
    pub(crate) form: Form,
}

/// Whether the state can be stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    #[default]
    Stored,
    Refused,
    Panics,
}

#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) number: Number,
    pub(crate) does: Does,
    /// The handler waits for something before it does that.
    pub(crate) waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    Change,
    Nothing,
    Reject,
    Panic,
    /// A change to a state that has no stored form.
    Unstorable(Form),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed(Number, Form);

/// A refusal, with the state that it was decided on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused at revision {}", .0.len())]
pub(crate) struct Refused(pub(crate) Vec<Number>);

impl Ledger {
    /// Runs a command to its end.
    pub(crate) fn decide(mut self, command: &Command) -> Handled<Self> {
        let form = match command.does {
            Does::Nothing => return Handled::Unchanged,
            Does::Reject => return Handled::Rejected(Refused(self.made_by)),
            Does::Panic => return Handled::Panicked,
            Does::Change => Form::Stored,
            Does::Unstorable(form) => form,
        };
        let event = Changed(command.number, form);
        self.apply(event.clone());
        Handled::Changed(self, vec![event])
    }
}

impl Aggregate for Ledger {
    const TYPE: &'static str = "ledger";
    type Command = Command;
    type Event = Changed;
    type Error = Refused;
    type Services = ();

    async fn handle(
        &mut self,
        command: Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Refused> {
        match self.clone().decide(&command) {
            Handled::Changed(_, events) => {
                for event in events {
                    sink.write(event, self).await;
                }
                Ok(())
            }
            Handled::Rejected(refused) => Err(refused),
            Handled::Unchanged | Handled::Panicked => Ok(()),
        }
    }

    fn apply(&mut self, Changed(number, form): Changed) {
        self.made_by.push(number);
        self.form = form;
    }
}

impl DomainEvent for Changed {
    fn event_type(&self) -> String {
        "changed".to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}
