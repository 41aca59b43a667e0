//! `store`: the store's `write_early` by the batch, while somebody else holds the rows of other users locked.
//!
//! A measurement has two halves, one right after the other on one database: the same rows are held in both, and written in
//! the second one only. So what the others lose is a ratio of figures that share the machine's mood.
//!
//! Each lane keeps a batch of users whom nobody holds on its way, and sends the next one when all of these are
//! answered. A user who is held goes along whenever no write of this user is on its way, as a runtime would send it; such
//! a write is waited for by nobody.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use fastrand::Rng;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use user_state_store::{
    DurableStateStore, Revision, Settled, Tags, Write, WriteBatch, WriteOutcome,
};

use crate::case::{Case, HELD_CONTENDER, Kind};
use crate::contender::raw::Table;
use crate::contender::{Contender, World, database_of};
use crate::exit::Failure;
use crate::load::{Measured, Reason, Timing, lanes};
use crate::open;
use crate::population::Tables;

/// As many batches take turns as a shard sends at a time.
const LANES: usize = 2;

/// The store, and what it wrote so far.
#[derive(Default)]
pub(crate) struct Store {
    table: Option<Arc<Table>>,
}

/// Users who are held and of whom no write is on its way.
type Idle = Arc<Mutex<Vec<usize>>>;

struct Lane {
    store: Arc<dyn DurableStateStore>,
    table: Arc<Table>,
    idle: Idle,
    random: Rng,
    /// The lane's users; those of the next batch stand in front.
    users: Vec<usize>,
    rows: usize,
    writing: JoinSet<()>,
}

#[async_trait]
impl Contender for Store {
    fn name(&self) -> &'static str {
        HELD_CONTENDER
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Held { .. } => None,
            _ => Some("it is measured beside held rows only".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let Kind::Held { rows } = case.kind else {
            return Err(Failure::usage("no rows are held in this work"));
        };
        let wanted = database_of(self.name(), Tables::DurableState, case);
        let url = world.databases.settled(&wanted).await?;
        let table = match &self.table {
            Some(table) => Arc::clone(table),
            None => Table::new(case.population)?,
        };
        self.table = Some(Arc::clone(&table));
        let store = open::open(&url).await?;
        // An open transaction keeps the dead rows of everybody else. So it is open in both halves, each begins with none,
        // and in the first one nobody writes what it holds.
        let holder = hold(&url, &table, rows).await?;
        let free = measure(case, rows, &table, store.states(), Vec::new(), world.timing).await?;
        release(holder).await?;
        world.databases.settled(&wanted).await?;
        let holder = hold(&url, &table, rows).await?;
        let held = (0..rows).collect();
        let beside = measure(case, rows, &table, store.states(), held, world.timing).await?;
        release(holder).await?;
        store.close().await;
        let (Some(without), Some(with)) = (free.per_second, beside.per_second) else {
            return Ok(beside);
        };
        Ok(beside
            .with("without_per_second", without)
            .with("ratio", with / without.max(f64::EPSILON)))
    }

    async fn rest(&mut self) {
        self.table = None;
    }
}

/// One half of a measurement. The users in front are never among those whom nobody holds.
async fn measure(
    case: &Case,
    in_front: usize,
    table: &Arc<Table>,
    store: &Arc<dyn DurableStateStore>,
    held: Vec<usize>,
    timing: Timing,
) -> Result<Measured, Failure> {
    let idle = Idle::new(Mutex::new(held));
    let lanes = (0..LANES).map(|lane| {
        let users: Vec<usize> = (in_front..case.users).skip(lane).step_by(LANES).collect();
        Lane {
            store: Arc::clone(store),
            table: Arc::clone(table),
            idle: Arc::clone(&idle),
            random: Rng::new(),
            rows: (case.callers / LANES).min(users.len()),
            users,
            writing: JoinSet::new(),
        }
    });
    let (measured, lanes) = lanes::measure(lanes.collect(), timing).await?;
    for mut lane in lanes {
        while lane.writing.join_next().await.is_some() {}
    }
    Ok(measured)
}

/// Holds the rows of the first users, as a session does that an operator forgot.
async fn hold(url: &str, table: &Table, rows: usize) -> Result<PgConnection, Failure> {
    let mut ids = Vec::with_capacity(rows);
    for user in 0..rows {
        let (row, _) = table.row(user).map_err(|reason| Failure::new(1, reason))?;
        ids.push(row.persistence_id.as_str());
    }
    let holding = async {
        let mut holder = PgConnection::connect(url).await?;
        holder.execute("BEGIN").await?;
        sqlx::query("SELECT FROM durable_state WHERE persistence_id = ANY($1) FOR UPDATE")
            .bind(&ids)
            .execute(&mut holder)
            .await?;
        Ok(holder)
    };
    holding.await.map_err(|error| failed(&error))
}

async fn release(mut holder: PgConnection) -> Result<(), Failure> {
    let released = async {
        holder.execute("ROLLBACK").await?;
        holder.close().await
    };
    released.await.map_err(|error| failed(&error))
}

impl lanes::Lane for Lane {
    async fn step(&mut self) -> Result<u64, Reason> {
        while self.writing.try_join_next().is_some() {}
        // The beginning of a shuffle: distinct users, all equally likely.
        for index in 0..self.rows {
            let other = self.random.usize(index..self.users.len());
            self.users.swap(index, other);
        }
        let free = self.users.get(..self.rows).unwrap_or_default();
        let held = lock(&self.idle).pop();
        let mut users: Vec<usize> = free.iter().copied().chain(held).collect();
        users.sort_unstable_by_key(|user| {
            self.table
                .row(*user)
                .ok()
                .map(|(row, _)| &row.persistence_id)
        });
        let writes = users.iter().map(|user| self.write(*user));
        let writes = writes.collect::<Result<Vec<_>, _>>()?;
        let batch = WriteBatch::new(writes).map_err(|_| "no batch")?;
        let (sender, mut settled) = mpsc::channel(users.len());
        let (store, table, idle) = (
            Arc::clone(&self.store),
            Arc::clone(&self.table),
            Arc::clone(&self.idle),
        );
        self.writing.spawn(async move {
            let report = |outcomes: Vec<Settled>| {
                for Settled { index, outcome } in outcomes {
                    let Some(user) = users.get(index).copied() else {
                        continue;
                    };
                    let applied = matches!(outcome, WriteOutcome::Applied(_));
                    if applied && let Ok((_, revision)) = table.row(user) {
                        revision.fetch_add(1, Ordering::Relaxed);
                    }
                    if held == Some(user) {
                        lock(&idle).push(user);
                    } else {
                        // Refused only after the lane has failed.
                        sender.try_send(applied).ok();
                    }
                }
            };
            let last = store.write_early(&batch, &report).await;
            report(last);
        });
        for _ in 0..self.rows {
            match settled.recv().await {
                Some(true) => {}
                Some(false) => return Err("not applied"),
                None => return Err("no outcome"),
            }
        }
        u64::try_from(self.rows).map_err(|_| "too many rows")
    }
}

impl Lane {
    fn write(&self, user: usize) -> Result<Write, Reason> {
        let (row, revision) = self.table.row(user)?;
        let expected = Revision::new(revision.load(Ordering::Relaxed)).ok_or("negative")?;
        let id = row.persistence_id.clone();
        Ok(Write::update(id, expected, row.payload.clone())
            .tags(Tags::new(row.tags.iter().map(String::as_str))))
    }
}

fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<usize>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: &sqlx::Error) -> Failure {
    Failure::unavailable(error)
}
