//! One entity without a shard, and what its tests need of the world around it.

use user_state_store::{PersistenceId, Revision};

use super::{Desk, Effects, Entity, LifecycleEvent, Moment, Next, OpenRequest, Slip, Surroundings};
use crate::barrier::BarrierError;
use crate::effects::{Attempt, Counter};
use crate::error::RequestError;
use crate::persistence::Key;
use crate::request::{Answer, Request};
use crate::testing::database::{Deletes, Stamp, States, Write};
use crate::testing::hands::{Running, SimulatedHands};
use crate::testing::ledger::{Command, Does, Form, Ledger};

/// What callers got, each answer with the number of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::entity) enum Got {
    Done(u64),
    Rejected,
    State(u64),
    Deleted(u64),
    Passivated,
    Failed(RequestError),
}

/// Takes down what an entity does.
pub(in crate::entity) struct Recorder {
    states: States,
    hands: SimulatedHands,
    pub(in crate::entity) got: Vec<(u32, Got)>,
    pub(in crate::entity) counted: Vec<Counter>,
    pub(in crate::entity) published: Vec<LifecycleEvent>,
}

impl Effects for Recorder {
    type Aggregate = Ledger;
    type Persistence = States;
    type Hands = SimulatedHands;
    type Ticket = u32;
    type BarrierTicket = u32;

    fn persistence(&self) -> &States {
        &self.states
    }

    fn hands(&self) -> &SimulatedHands {
        &self.hands
    }

    fn answer(
        &mut self,
        ticket: u32,
        _id: &PersistenceId,
        revision: Revision,
        answer: Answer<Ledger, Ledger>,
    ) {
        let at = u64::try_from(revision.get()).unwrap();
        let got = match answer {
            Answer::Done => Got::Done(at),
            Answer::Rejected(_) => Got::Rejected,
            Answer::State(_) => Got::State(at),
            Answer::Deleted => Got::Deleted(at),
            Answer::Passivated => Got::Passivated,
        };
        self.got.push((ticket, got));
    }

    fn fail(
        &mut self,
        ticket: u32,
        _id: &PersistenceId,
        _command: Option<Command>,
        error: RequestError,
    ) {
        self.got.push((ticket, Got::Failed(error)));
    }

    fn pass(&mut self, _barrier: u32, _passed: Result<(), BarrierError>) {}
    fn recover(&mut self, _wanted: Vec<(Key, PersistenceId)>) {}
    fn write(&mut self, _batch: Vec<(Key, Write)>, _rows: usize) {}
    fn resolve(&mut self, _lost: Vec<(Key, Write)>, _attempt: Attempt) {}
    fn run(&mut self, _key: Key, _running: Running) {}

    fn count(&mut self, counter: Counter, _by: u64) {
        self.counted.push(counter);
    }

    fn publish(&mut self, happened: impl FnOnce() -> LifecycleEvent) {
        self.published.push(happened());
    }
}

/// An entity and what is around it.
pub(in crate::entity) struct Scene {
    pub(in crate::entity) entity: Entity<Recorder>,
    pub(in crate::entity) out: Recorder,
    pub(in crate::entity) desk: Desk<Recorder>,
    id: PersistenceId,
    tickets: u32,
}

impl Scene {
    /// An entity that was loaded: something is stored at revision 1.
    pub(in crate::entity) fn live(retries: bool) -> Self {
        let mut scene = Self::loading(retries);
        scene.recover(1);
        scene
    }

    /// An entity that is being loaded.
    pub(in crate::entity) fn loading(retries: bool) -> Self {
        Self {
            entity: Entity::new(Ledger::default(), Moment::ORIGIN),
            out: Recorder {
                states: States {
                    deletes: Deletes::Reset,
                },
                hands: SimulatedHands::new(retries),
                got: Vec::new(),
                counted: Vec::new(),
                published: Vec::new(),
            },
            desk: Desk::default(),
            id: PersistenceId::unique("mall-user").unwrap(),
            tickets: 0,
        }
    }

    pub(in crate::entity) fn call<R>(
        &mut self,
        call: impl FnOnce(&mut Entity<Recorder>, &mut Surroundings<'_, Recorder>) -> R,
    ) -> R {
        let (id, out, desk) = (&self.id, &mut self.out, &mut self.desk);
        call(&mut self.entity, &mut Surroundings { id, out, desk })
    }

    pub(in crate::entity) fn recover(&mut self, revision: u32) -> Next<Recorder> {
        let state = Ledger {
            made_by: vec![0; usize::try_from(revision).unwrap()],
            form: Form::Stored,
        };
        self.call(|entity, around| entity.on_recovered(Ok((state, stamp(revision))), around))
    }

    pub(in crate::entity) fn open(&mut self, request: Request<Ledger>) -> OpenRequest<Recorder> {
        self.tickets += 1;
        let counts = &mut self.desk.counts;
        OpenRequest::open(request, Some(self.tickets), Moment::ORIGIN, counts)
    }

    pub(in crate::entity) fn ask(&mut self, request: Request<Ledger>) -> Next<Recorder> {
        let request = self.open(request);
        self.call(|entity, around| entity.accept(request, around))
    }

    pub(in crate::entity) fn cut(&mut self) -> Option<Write> {
        match self.call(Entity::cut) {
            Slip::Write(write) => Some(write),
            Slip::Nothing | Slip::Unencodable(_) => None,
        }
    }

    pub(in crate::entity) fn land(&mut self, revision: u32) -> Next<Recorder> {
        self.call(|entity, around| entity.on_applied(stamp(revision), around))
    }

    pub(in crate::entity) fn got(&mut self) -> Vec<(u32, Got)> {
        std::mem::take(&mut self.out.got)
    }
}

pub(in crate::entity) fn stamp(revision: u32) -> Stamp {
    Stamp::at(revision)
}

pub(in crate::entity) fn command(does: Does) -> Request<Ledger> {
    Request::Execute(Some(Command {
        number: 1,
        does,
        waits: false,
    }))
}

pub(in crate::entity) fn change() -> Request<Ledger> {
    command(Does::Change)
}
