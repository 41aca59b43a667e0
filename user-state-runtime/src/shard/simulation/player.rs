//! Plays a schedule on a core, and checks what it does after every step.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::DateTime;
use user_state_store::PersistenceId;

use super::super::core::Core;
use super::super::{Input, Mail, Report, Step};
use super::books::{Books, UserCode};
use super::callers::{Asks, Callers, Changes, Open};
use super::database::{Conflict, Database, EntityId, States, Write, refused};
use super::ledger::{Command, Does, Form};
use super::schedule::{Event, Schedule, Setup, What};
use super::world::{Batch, SimulatedHands, Work, World};
use crate::clock::Moment;
use crate::effects::Counter;
use crate::error::RequestError;
use crate::persistence::{Key, Outcome, Resolution};
use crate::real_time::RealTime;
use crate::request::{Message, Request};

/// How many things may happen until everything is answered that was asked.
const SETTLE_MAX: usize = 20_000;

/// How much a core may do, at most, for each thing that it is given: a message may be delivered, its
/// entity loaded, written, resolved and answered, and all of that again after a conflict.
const EFFECTS_PER_INPUT_MAX: usize = 12;

pub(super) struct Player {
    setup: Setup,
    core: Core<World>,
    world: World,
    step: Step,
    last_accepted: BTreeMap<EntityId, Moment>,
    /// How much the core was given.
    inputs: usize,
}

/// Plays a schedule to its end. The first promise that is broken is the error.
pub(super) fn play(schedule: &Schedule, traces: bool) -> Result<(), String> {
    let mut player = Player::new(schedule.setup.clone(), traces);
    for event in &schedule.events {
        player.play(*event);
        player.kept()?;
    }
    player.settle()
}

impl Player {
    fn new(setup: Setup, traces: bool) -> Self {
        let world = World {
            limits: setup.limits,
            hands: SimulatedHands {
                retries: setup.retries,
                panics: Cell::new(false),
                code: UserCode::default(),
            },
            states: States {
                deletes: setup.deletes,
            },
            database: Database::default(),
            callers: Callers::default(),
            work: Vec::new(),
            handlers: Vec::new(),
            late: Vec::new(),
            busy: BTreeSet::new(),
            books: Books::default(),
            live: 0,
            now: RealTime::default(),
            clock: Moment::ORIGIN,
            barriers: BTreeMap::new(),
            passed: Vec::new(),
            effects: 0,
            traces,
            broken: None,
        };
        Self {
            core: Core::new(setup.limits, Moment::ORIGIN),
            setup,
            world,
            step: Step::Wait,
            last_accepted: BTreeMap::new(),
            inputs: 0,
        }
    }

    fn kept(&mut self) -> Result<(), String> {
        self.world.broken.take().map_or(Ok(()), Err)
    }

    fn play(&mut self, event: Event) {
        let mut dice = fastrand::Rng::with_seed(event.dice);
        if self.step == Step::Finished {
            return;
        }
        if self.step == Step::LetReturn && event.what != What::Mail {
            self.feed(Input::NobodyReturned);
        }
        match event.what {
            What::Mail => self.mail(&mut dice),
            What::FinishWork => {
                let faults = self.setup.faults;
                self.finish_work(&mut dice, faults);
            }
            What::FinishHandler => self.finish_handler(&mut dice),
            What::LateWrite => self.late_write(&mut dice),
            What::ForeignWrite => {
                let id = self.any_entity(&mut dice);
                self.world.database.change_by_another(&id);
                self.world.books.contended.insert(id);
            }
            What::Clock => self.let_time_pass(Duration::from_secs(dice.u64(1..1_200))),
            What::Barrier => self.barrier(Duration::from_secs(dice.u64(0..2_400))),
            What::RealTime => self.let_real_time_pass(Duration::from_millis(dice.u64(0..7_000))),
            What::Panic => self.world.hands.panics.set(true),
            What::ShutDown => {
                self.world.books.shuts_down = true;
                let until = self.world.now + Duration::from_secs(30);
                self.feed(Input::ShutDown { until });
            }
        }
    }

    fn any_entity(&self, dice: &mut fastrand::Rng) -> EntityId {
        format!("mall-{}", dice.usize(0..self.setup.entities))
    }

    /// Gives the core an input and checks what it made of it.
    fn feed(&mut self, input: Input<'_, World>) {
        self.inputs += 1 + match &input {
            Input::Mail(mail) => mail.len(),
            Input::Recovered(recovered) => recovered.len(),
            Input::Written(report) => report.outcomes.len(),
            Input::Resolved(resolved) => resolved.len(),
            _ => 0,
        };
        self.world.trace(|| input.to_string());
        self.step = self.core.step(input, self.world.now, &mut self.world);
        self.check_step();
        if self.step == Step::Wait && self.core.closes_mailbox() {
            self.feed(Input::MailboxEmpty);
        }
    }

    fn check_step(&mut self) {
        let world = &mut self.world;
        let kept = world.callers.check_refused(&world.database);
        world.check(kept);
        let open = world.callers.open.len();
        let open_kept = open <= self.setup.limits.shard_requests_max;
        world.demand(open_kept, "the limit on a shard's requests is kept");
        if self.setup.limits.live_entities_max >= self.setup.entities {
            // None waits for room, so what is open is the entities'.
            let limit = self.setup.limits.entity_requests_max;
            let ids = world.callers.open.values().map(|open| &open.id);
            let kept = ids.fold(BTreeMap::new(), |mut counts, id| {
                *counts.entry(id.clone()).or_insert(0) += 1;
                counts
            });
            let kept = kept.values().all(|count: &usize| *count <= limit);
            world.demand(kept, "the limit on an entity's requests is kept");
        }
        let bounded = world.effects <= EFFECTS_PER_INPUT_MAX * self.inputs;
        world.demand(bounded, "work is bounded by what arrives");
        self.check_barriers();
        self.check_lost();
        self.check_rest();
    }

    /// Nobody waits if nothing is outstanding, requests that wait for room keep their limit, and when
    /// the core waits its books are right.
    fn check_rest(&mut self) {
        let (core, world) = (&mut self.core, &mut self.world);
        let limit = self.setup.limits.admission_requests_max;
        let waits_for_room = |open: &&Open| {
            let id = PersistenceId::unique(&open.id).expect("a valid id");
            core.entities.key_of(&id).is_none()
        };
        let waiting = world.callers.open.values().filter(waits_for_room).count();
        world.demand(
            waiting <= limit,
            "the limit on requests that wait for room is kept",
        );
        if self.step != Step::Wait {
            return;
        }
        let kept = world.books.check(&world.hands.code);
        world.check(kept);
        if world.work.is_empty() && world.handlers.is_empty() && !core.has_more_due() {
            let nobody_waits = world.callers.open.is_empty() && world.barriers.is_empty();
            world.demand(nobody_waits, "nobody waits if nothing is outstanding");
        }
    }

    /// Behind a barrier, what was due has left.
    fn check_barriers(&mut self) {
        for (moment, passed) in std::mem::take(&mut self.world.passed) {
            if passed.is_err() {
                continue;
            }
            let due: Vec<_> = self
                .core
                .entities
                .keys()
                .filter_map(|key| self.core.entities.get(key))
                .map(|live| live.id.as_str())
                .filter(|id| {
                    let last = self.last_accepted.get(*id);
                    last.is_some_and(|last| self.setup.limits.is_due(*last, moment))
                })
                .map(str::to_owned)
                .collect();
            if !due.is_empty() {
                let moment = moment.since_origin();
                let broken = format!("the barrier of {moment:?} is passed, and {due:?} stay");
                self.world.check(Err(broken));
            }
        }
    }

    /// Callers of a write that stays unresolved are answered in time.
    fn check_lost(&mut self) {
        let world = &mut self.world;
        let handling: BTreeSet<u32> = world
            .handlers
            .iter()
            .map(|(_, running)| running.number())
            .collect();
        let timeout = self.setup.limits.resolve_timeout;
        let late: Vec<_> = world
            .callers
            .lost_since
            .iter()
            .filter(|(_, since)| **since + timeout < world.now)
            .filter(|(id, _)| world.callers.waits(id, &handling))
            .map(|(id, _)| id.clone())
            .collect();
        let in_time = late.is_empty();
        world.demand(
            in_time,
            "callers of an unresolved write are answered in time",
        );
    }

    fn mail(&mut self, dice: &mut fastrand::Rng) {
        let count = dice.usize(1..6).min(self.core.mail_room());
        if count == 0 {
            return;
        }
        let mut mail: Vec<_> = (0..count).map(|_| self.message(dice)).collect();
        self.feed(Input::Mail(&mut mail));
    }

    fn message(&mut self, dice: &mut fastrand::Rng) -> super::super::MailOf<World> {
        let id = self.any_entity(dice);
        let world = &mut self.world;
        let ticket = world.callers.next_ticket();
        let (request, asks) = request(ticket, dice);
        world.trace(|| format!("{ticket} to {id}: {asks:?}"));
        world.callers.ask(ticket, &id, asks, &mut world.database);
        if !request.is_passivation() {
            self.last_accepted.insert(id.clone(), world.clock);
        }
        Mail::Request(Message {
            persistence_id: PersistenceId::unique(&id).expect("a valid id"),
            accepted_at: world.clock,
            request,
            ticket,
        })
    }

    fn let_time_pass(&mut self, time: Duration) {
        self.world.clock = self.world.clock + time;
        let due = |core: &mut Core<World>, clock| {
            !core.has_more_due() && core.next_idle_time().is_some_and(|at| at <= clock)
        };
        if due(&mut self.core, self.world.clock) {
            self.feed(Input::ClockReached(self.world.clock));
            let asleep = self.step != Step::Wait || !due(&mut self.core, self.world.clock);
            self.world
                .demand(asleep, "no idle timer is set in the past");
        }
    }

    fn barrier(&mut self, time: Duration) {
        if self.core.mail_room() == 0 {
            return;
        }
        self.world.clock = self.world.clock + time;
        let (to, ticket) = (self.world.clock, self.world.callers.next_ticket());
        self.world.barriers.insert(ticket, to);
        self.feed(Input::Mail(&mut vec![Mail::Advance { to, ticket }]));
    }

    fn let_real_time_pass(&mut self, time: Duration) {
        self.world.now = self.world.now + time;
        let late = |core: &Core<World>, now| core.real_deadline().is_some_and(|at| at <= now);
        if late(&self.core, self.world.now) {
            self.feed(Input::RealTimeReached);
            let asleep = self.step != Step::Wait || !late(&self.core, self.world.now);
            self.world.demand(asleep, "no deadline is set in the past");
        }
        self.check_lost();
    }

    fn finish_handler(&mut self, dice: &mut fastrand::Rng) {
        if self.world.handlers.is_empty() {
            return;
        }
        let which = dice.usize(0..self.world.handlers.len());
        let (key, running) = self.world.handlers.swap_remove(which);
        self.feed(Input::Handled(key, running.finish()));
    }

    fn late_write(&mut self, dice: &mut fastrand::Rng) {
        if self.world.late.is_empty() {
            return;
        }
        let which = dice.usize(0..self.world.late.len());
        let write = self.world.late.swap_remove(which);
        let applied = self.world.database.apply(&write).map(drop);
        self.world.check(applied);
    }

    fn finish_work(&mut self, dice: &mut fastrand::Rng, faults: u8) {
        if self.world.work.is_empty() {
            return;
        }
        let which = dice.usize(0..self.world.work.len());
        match self.world.work.swap_remove(which) {
            Work::Recover(wanted) => self.recover(wanted, dice, faults),
            Work::Write(batch) => self.write(batch, dice, faults),
            Work::Resolve(lost) => self.resolve(lost, dice, faults),
        }
    }

    fn recover(&mut self, wanted: Vec<(Key, EntityId)>, dice: &mut fastrand::Rng, faults: u8) {
        let recovered = wanted
            .into_iter()
            .map(|(key, id)| {
                let recovery = match dice.u8(0..200) {
                    fault if fault >= faults => Ok(self.world.database.load(&id)),
                    fault if fault % 2 == 0 => Err(RequestError::Unavailable(refused())),
                    _ => Err(RequestError::Unreadable(refused())),
                };
                if recovery.is_err() {
                    self.world.books.failures += 1;
                }
                (key, recovery)
            })
            .collect();
        self.feed(Input::Recovered(recovered));
    }

    /// Writes settle all at once, one after the other, or after those that wait for somebody else.
    fn write(&mut self, mut batch: Batch, dice: &mut fastrand::Rng, faults: u8) {
        let settles = if faults == 0 || dice.u8(0..4) > 0 {
            batch.open.len()
        } else {
            dice.usize(0..=batch.open.len())
        };
        let open = batch.open.split_off(settles);
        let settled = std::mem::replace(&mut batch.open, open);
        let outcomes: Vec<_> = settled
            .into_iter()
            .map(|(key, write)| (key, self.outcome(write, dice, faults)))
            .collect();
        let rest_waits = outcomes.is_empty();
        let ends = batch.open.is_empty() || rest_waits;
        let rows_freed = if ends {
            std::mem::take(&mut batch.rows)
        } else {
            0
        };
        if !batch.open.is_empty() {
            self.world.work.push(Work::Write(batch));
        }
        self.feed(Input::Written(Report {
            outcomes,
            rows_freed,
        }));
    }

    fn outcome(
        &mut self,
        write: Write,
        dice: &mut fastrand::Rng,
        faults: u8,
    ) -> Outcome<super::database::Stamp, Write> {
        let world = &mut self.world;
        let fault = dice.u8(0..100);
        if fault < faults && fault % 3 == 0 {
            world.busy.remove(&write.id);
            world.books.failures += 1;
            return Outcome::NotApplied(RequestError::Refused(refused()));
        }
        if fault < faults {
            match dice.u8(0..4) {
                0 | 1 => {
                    let applied = world.database.apply(&write).map(drop);
                    world.check(applied);
                }
                2 => world.late.push(write.clone()),
                _ => {}
            }
            world.books.failures += 1;
            world.books.happened(Counter::Unknown);
            world.books.contended.insert(write.id.clone());
            world.books.lost.insert(write.id.clone());
            let now = world.now;
            world.callers.lost_since.insert(write.id.clone(), now);
            return Outcome::Unknown(write);
        }
        world.busy.remove(&write.id);
        match world.database.apply(&write) {
            Ok(Ok(stamp)) => {
                world.books.happened(Counter::Persisted);
                Outcome::Applied(stamp)
            }
            Ok(Err(Conflict)) => {
                world.books.happened(Counter::Conflicts);
                Outcome::Conflict
            }
            Err(broken) => {
                world.check(Err(broken));
                Outcome::Conflict
            }
        }
    }

    fn resolve(&mut self, lost: Vec<(Key, Write)>, dice: &mut fastrand::Rng, faults: u8) {
        let resolutions = lost
            .into_iter()
            .map(|(key, write)| {
                let stays_open = faults > 0 && dice.u8(0..3) == 0;
                (key, self.resolution(write, stays_open))
            })
            .collect();
        self.feed(Input::Resolved(resolutions));
    }

    fn resolution(
        &mut self,
        write: Write,
        stays_open: bool,
    ) -> Resolution<super::database::Stamp, Write> {
        if stays_open {
            return Resolution::Open(write);
        }
        let world = &mut self.world;
        // From now on its session applies nothing.
        world.late.retain(|late| late.id != write.id);
        world.busy.remove(&write.id);
        world.callers.lost_since.remove(&write.id);
        let resolution = world.database.resolve(&write);
        match &resolution {
            Resolution::Applied(_) => world.books.happened(Counter::Persisted),
            Resolution::NotApplied | Resolution::Unknown | Resolution::Open(_) => {}
        }
        resolution
    }

    /// Everything finishes without a fault, and everybody is answered; then everything passivates.
    fn settle(mut self) -> Result<(), String> {
        let mut dice = fastrand::Rng::with_seed(0);
        for _ in 0..SETTLE_MAX {
            if self.step == Step::LetReturn {
                self.feed(Input::NobodyReturned);
            } else if !self.world.handlers.is_empty() {
                self.finish_handler(&mut dice);
            } else if !self.world.work.is_empty() {
                self.finish_work(&mut dice, 0);
            } else if self.core.has_more_due() {
                self.let_real_time_pass(Duration::from_millis(1));
            } else {
                break;
            }
            self.kept()?;
            if self.step == Step::Finished {
                break;
            }
        }
        if let Some(open) = self.world.callers.open.values().next() {
            return Err(format!("{open:?} was accepted and is never answered"));
        }
        if self.step == Step::Finished {
            return Ok(());
        }
        self.barrier(self.setup.limits.idle_timeout);
        self.kept()?;
        if self.core.entities.len() > 0 || !self.world.barriers.is_empty() {
            return Err("idle entities leave when their time has come".to_owned());
        }
        self.feed(Input::MailboxEmpty);
        if self.step != Step::Finished {
            return Err("a shard without requests ends when its mailbox is closed".to_owned());
        }
        self.kept()
    }
}

fn request(ticket: u32, dice: &mut fastrand::Rng) -> (Request<super::ledger::Ledger>, Asks) {
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
