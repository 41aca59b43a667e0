//! Plays a schedule on a core, and checks what it does after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::core::Core;
use super::super::{Input, Mail, Step};
use super::books::Books;
use super::callers::Callers;
use super::schedule::{Event, Schedule, Setup, What};
use super::world::World;
use crate::clock::Moment;
use crate::real_time::RealTime;
use crate::testing::database::{Database, EntityId, States};
use crate::testing::hands::SimulatedHands;

/// How many things may happen until everything is answered that was asked.
const SETTLE_MAX: usize = 20_000;

pub(in crate::shard) struct Player {
    pub(in crate::shard) setup: Setup,
    pub(in crate::shard) core: Core<World>,
    pub(in crate::shard) world: World,
    pub(in crate::shard) step: Step,
    pub(in crate::shard) last_accepted: BTreeMap<EntityId, Moment>,
    /// How much the core was given.
    pub(in crate::shard) inputs: usize,
}

/// Plays a schedule to its end. The first promise that is broken is the error.
pub(in crate::shard) fn play(schedule: &Schedule, traces: bool) -> Result<(), String> {
    let mut player = Player::new(schedule.setup.clone(), traces);
    for event in &schedule.events {
        player.play(*event);
        player.kept()?;
    }
    player.settle()
}

impl Player {
    pub(in crate::shard) fn new(setup: Setup, traces: bool) -> Self {
        let world = World {
            limits: setup.limits,
            hands: SimulatedHands::new(setup.retries),
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

    pub(in crate::shard) fn any_entity(&self, dice: &mut fastrand::Rng) -> EntityId {
        format!("mall-{}", dice.usize(0..self.setup.entities))
    }

    /// Gives the core an input and checks what it made of it.
    pub(in crate::shard) fn feed(&mut self, input: Input<'_, World>) {
        self.inputs += 1 + match &input {
            Input::Mail(mail) => mail.len(),
            Input::Recovered(recovered) => recovered.len(),
            Input::Written(report) => report.outcomes.len(),
            Input::Resolved(resolved) => resolved.len(),
            _ => 0,
        };
        self.world.trace(|| input.to_string());
        let now = self.world.now;
        self.step = self.core.step(input, || now, &mut self.world);
        self.check_step();
        if self.step == Step::Wait && self.core.closes_mailbox() {
            self.feed(Input::MailboxEmpty);
        }
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

    pub(in crate::shard) fn barrier(&mut self, time: Duration) {
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
