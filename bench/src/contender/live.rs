//! Systems that callers talk to: opened once, kept while the users stay the same.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use tokio::time::Instant;

use crate::case::{Case, Embedded, Kind};
use crate::contender::{Contender, World, database_of};
use crate::exit::Failure;
use crate::load::callers;
use crate::load::recovery::{self, Once};
use crate::load::{Measured, Target, Timing, Written, fixed_rate, now, open_loop};
use crate::peer::{Peer, Request, Task};
use crate::population::Tables;
use crate::sample;
use crate::statistics::float_of;

/// How many callers find out what a system can do at most, before it is asked for a part of that.
const CAPACITY_CALLERS: usize = 1_000;

/// How long a process of its own may take to answer: a million users come to life in it.
const PEER_TIMEOUT: Duration = Duration::from_mins(10);

/// A kind of system: what it is called, where its users are kept, how it is opened.
pub(crate) trait System: Send + Sync + Sized + 'static {
    type Target: Target;

    fn name(&self) -> &'static str;

    /// The tables it uses; `None` where it uses no database.
    fn tables(&self) -> Option<Tables>;

    /// Whether it keeps users in memory, so that they come to life before anything is measured.
    fn keeps_users(&self) -> bool;

    /// Why it does not do this work; `None` where it does.
    fn not_run(&self, case: &Case) -> Option<String>;

    /// Opens it on a database, with so many users, none of whom is in memory.
    fn open(
        &self,
        url: &str,
        users: usize,
    ) -> impl Future<Output = Result<Self::Target, Failure>> + Send;

    /// Reads every user's latest state in the order of its time; how many there were.
    fn feed(&self, _url: &str) -> impl Future<Output = Result<u64, Failure>> + Send {
        async { Err(Failure::usage("it has no feed")) }
    }

    /// Does what is done in a process of its own, which this is.
    fn answer(&self, request: &Request) -> impl Future<Output = Result<Measured, Failure>> + Send {
        async move {
            match request.work {
                Task::StartUp => start_up(self, request).await,
                _ => Err(Failure::usage("this is not done in a process of its own")),
            }
        }
    }
}

/// Opens a system and asks it for one thing. Whoever started this process takes the time.
pub(super) async fn start_up<S: System>(
    system: &S,
    request: &Request,
) -> Result<Measured, Failure> {
    let target = system.open(&request.url, request.population).await?;
    let command = sample::command(&mut Rng::new(), now());
    let answer = target.write(0, command).await;
    answer.map_err(|reason| Failure::new(1, format!("no answer: {reason}")))?;
    Ok(Measured::default())
}

/// A system with its callers.
pub(crate) struct Callers<S: System> {
    system: S,
    kept: Option<Kept<S::Target>>,
}

/// A system that is open, and where its users are.
struct Kept<T> {
    population: usize,
    url: String,
    target: Arc<T>,
}

impl<S: System> Callers<S> {
    pub(crate) fn new(system: S) -> Self {
        Self { system, kept: None }
    }

    /// The system with all its users in memory, where it keeps them there.
    async fn live(&mut self, case: &Case, url: &str) -> Result<Arc<S::Target>, Failure> {
        if let Some(kept) = &self.kept
            && kept.population == case.population
            && kept.url == url
        {
            return Ok(Arc::clone(&kept.target));
        }
        self.rest().await;
        let target = Arc::new(self.system.open(url, case.population).await?);
        if self.system.keeps_users() {
            recovery::bring_to_life(&target, 0..case.population).await?;
        }
        self.kept = Some(Kept {
            population: case.population,
            url: url.to_owned(),
            target: Arc::clone(&target),
        });
        Ok(target)
    }

    async fn url(&self, case: &Case, world: &mut World) -> Result<String, Failure> {
        match self.system.tables() {
            Some(tables) => {
                let tables = match case.kind {
                    Kind::Feed => Tables::DurableStateInTime,
                    _ => tables,
                };
                let wanted = database_of(self.system.name(), tables, case);
                world.databases.settled(&wanted).await
            }
            None => Ok(String::new()),
        }
    }

    async fn recover(&self, case: &Case, url: &str, timing: Timing) -> Result<Measured, Failure> {
        let target = Arc::new(self.system.open(url, case.population).await?);
        let mut users: Vec<usize> = (0..case.users).collect();
        // Neighbours in the table are not asked for together, as they would not be in use.
        fastrand::shuffle(&mut users);
        let cold = users.split_off(recovery::WARM_UP_USERS.min(users.len() / 10));
        recovery::bring_to_life(&target, users).await?;
        let measured = recovery::measure(
            &target,
            Once::Read,
            cold.into(),
            case.callers,
            timing.measured,
        );
        let measured = measured.await?;
        target.close().await;
        Ok(measured)
    }

    async fn sqlite(
        &mut self,
        case: &Case,
        embedded: Embedded,
        world: &mut World,
    ) -> Result<Measured, Failure> {
        let (name, timing) = (self.system.name(), world.timing);
        if embedded != Embedded::Write {
            // Two of them on one file would take turns at its rows.
            self.rest().await;
        }
        let path = match embedded {
            Embedded::Create => world.files.fresh(name, case.population).await?,
            Embedded::Write | Embedded::Recover => {
                world.files.settled(name, case.population).await?
            }
        };
        let url = format!("sqlite:{}", path.display());
        let (measured, written) = match embedded {
            Embedded::Recover => return self.recover(case, &url, timing).await,
            Embedded::Create => self.create(case, &url, timing).await?,
            Embedded::Write => {
                let target = self.live(case, &url).await?;
                let before = target.written();
                let requests = world.requests(case);
                let measured = callers::measure(&target, &requests, case.callers, timing).await?;
                (measured, target.written().since(before))
            }
        };
        let rows = written.rows_per_batch();
        world.rows_per_transaction.insert(case.work, rows);
        Ok(measured.with("rows_per_transaction", float_of(rows)))
    }

    /// Users who have no row, in memory already, get their first command.
    async fn create(
        &self,
        case: &Case,
        url: &str,
        timing: Timing,
    ) -> Result<(Measured, Written), Failure> {
        let newcomers = case.population..case.population + case.users;
        let target = Arc::new(self.system.open(url, newcomers.end).await?);
        let mut users: Vec<usize> = newcomers.collect();
        fastrand::shuffle(&mut users);
        if self.system.keeps_users() {
            recovery::bring_to_life(&target, users.iter().copied()).await?;
        }
        let measured = recovery::measure(
            &target,
            Once::Write,
            users.into(),
            case.callers,
            timing.measured,
        );
        let measured = measured.await?;
        let written = target.written();
        target.close().await;
        Ok((measured, written))
    }

    /// What it can do at most, and then how long answers take at a part of that.
    async fn latency(
        &mut self,
        case: &Case,
        url: &str,
        percent: u32,
        world: &mut World,
    ) -> Result<Measured, Failure> {
        let (requests, timing) = (world.requests(case), world.timing);
        let target = self.live(case, url).await?;
        let most = callers::measure(&target, &requests, CAPACITY_CALLERS, timing).await?;
        let most = most.per_second.unwrap_or_default();
        let rate = most * f64::from(percent) / 100.0;
        if rate <= 0.0 {
            return Err(Failure::new(1, "it answered nothing"));
        }
        // The dead rows of the one are not to slow down the other.
        self.url(case, world).await?;
        let measured = open_loop::measure(&target, &requests.users, rate, timing).await?;
        Ok(measured.with("capacity", most))
    }

    async fn in_a_process_of_its_own(
        &self,
        case: &Case,
        url: &str,
        timing: Timing,
    ) -> Result<Measured, Failure> {
        let request = Request::of(case, self.system.name(), url, timing);
        let started = Instant::now();
        let mut peer = Peer::of_this_program()?;
        let mut measured = peer.ask(&request, PEER_TIMEOUT).await?;
        if case.kind == Kind::StartUp {
            measured.p50_us = Some(started.elapsed().as_secs_f64() * 1e6);
        }
        Ok(measured)
    }
}

#[async_trait]
impl<S: System> Contender for Callers<S> {
    fn name(&self) -> &'static str {
        self.system.name()
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        self.system.not_run(case)
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let timing = world.timing;
        let url = match case.kind {
            Kind::Memory | Kind::Passivate | Kind::Sqlite(_) => String::new(),
            _ => self.url(case, world).await?,
        };
        match case.kind {
            Kind::Memory | Kind::Passivate | Kind::StartUp => {
                // The process writes too; whoever has its user in memory here would not know.
                self.rest().await;
                self.in_a_process_of_its_own(case, &url, timing).await
            }
            Kind::Recover => {
                // Two of them on one database would take turns at its rows.
                self.rest().await;
                self.recover(case, &url, timing).await
            }
            Kind::Feed => {
                let start = Instant::now();
                let rows = self.system.feed(&url).await?;
                Ok(Measured::of_rows(rows, start.elapsed()))
            }
            Kind::ReadRate { per_second } => {
                let target = self.live(case, &url).await?;
                let users = world.requests(case).users;
                fixed_rate::measure(&target, users, per_second, timing).await
            }
            Kind::Sqlite(embedded) => self.sqlite(case, embedded, world).await,
            Kind::Latency { percent } => self.latency(case, &url, percent, world).await,
            Kind::Write | Kind::Mix | Kind::Read | Kind::Held { .. } => {
                let target = self.live(case, &url).await?;
                callers::measure(&target, &world.requests(case), case.callers, timing).await
            }
        }
    }

    async fn rest(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.target.close().await;
        }
    }
}
