//! `raw-sqlite`: bare transactions on a file, by a program that calls SQLite itself. The ceiling of the embedded default.
//!
//! Statements, settings, rows and order are the store's. A transaction has as many statements as those of `user-state` had
//! on average, each prepared once and executed for a row. There is no other thread to hand anything to, no queue and no
//! encoding. Each read asks for one row, which was faster than the store's statement for many ids.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fastrand::Rng;
use rusqlite::{Connection, params};
use user_state_store::BATCH_ROWS_MAX;

use crate::case::{Case, Embedded, Kind, SQLITE_CONTENDERS};
use crate::contender::statements::{
    SQLITE_CACHE_KIB, SQLITE_CREATE, SQLITE_LOG_BYTES, SQLITE_LOG_PAGES, SQLITE_SELECT,
    SQLITE_UPDATE,
};
use crate::contender::{Contender, World};
use crate::exit::{Failure, with_causes};
use crate::load::{Measured, Reason, Timing, lanes, now};
use crate::population::{FIRST_REVISION, Row, beginning};
use crate::statistics::float_of;

/// How many rows are read between two looks at the clock.
const ROWS_PER_LOOK: usize = BATCH_ROWS_MAX;

/// One connection that writes, or one per core that reads.
#[derive(Default)]
pub(crate) struct Transactions {
    kept: Option<Kept>,
}

/// The users of a file, and how far each was written.
struct Kept {
    population: usize,
    users: Vec<User>,
}

struct User {
    row: Row,
    revision: i64,
    written_at: i64,
}

#[async_trait]
impl Contender for Transactions {
    fn name(&self) -> &'static str {
        let [_, name] = SQLITE_CONTENDERS;
        name
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Sqlite(_) => None,
            _ => Some("it knows files of SQLite only".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let Kind::Sqlite(embedded) = case.kind else {
            return Err(Failure::usage("this is no work on a file"));
        };
        let name = self.name();
        let path = match embedded {
            Embedded::Create => {
                self.kept = None;
                world.files.fresh(name, case.population).await?
            }
            Embedded::Write | Embedded::Recover => {
                world.files.settled(name, case.population).await?
            }
        };
        // As many as there are callers wait for the other half of them, if nothing is known yet.
        let rows = world.rows_per_transaction.get(case.work).copied();
        let rows = rows
            .unwrap_or(case.callers / 2)
            .clamp(1, BATCH_ROWS_MAX.min(case.users));
        match embedded {
            Embedded::Write => self.write(case, &path, rows, world.timing).await,
            Embedded::Create => create(case, &path, rows, world.timing).await,
            Embedded::Recover => recover(case, &path, world.timing).await,
        }
    }

    async fn rest(&mut self) {
        self.kept = None;
    }
}

impl Transactions {
    async fn write(
        &mut self,
        case: &Case,
        path: &Path,
        rows: usize,
        timing: Timing,
    ) -> Result<Measured, Failure> {
        let users = match self.kept.take() {
            Some(kept) if kept.population == case.population => kept.users,
            _ => users(0..case.population, Row::new)?,
        };
        let lane = Updates {
            file: writer(path)?,
            random: Rng::new(),
            users,
            rows,
        };
        let (measured, lanes) = lanes::measure(vec![lane], timing).await?;
        let users = lanes.into_iter().flat_map(|lane| lane.users).collect();
        self.kept = Some(Kept {
            population: case.population,
            users,
        });
        Ok(measured.with("rows_per_transaction", float_of(rows)))
    }
}

async fn create(
    case: &Case,
    path: &Path,
    rows: usize,
    timing: Timing,
) -> Result<Measured, Failure> {
    let mut newcomers = users(case.population..case.population + case.users, Row::first)?;
    fastrand::shuffle(&mut newcomers);
    let lane = Inserts {
        file: writer(path)?,
        left: newcomers,
        rows,
    };
    let (measured, _) = lanes::measure(vec![lane], without_warm_up(timing)).await?;
    Ok(measured.with("rows_per_transaction", float_of(rows)))
}

async fn recover(case: &Case, path: &Path, timing: Timing) -> Result<Measured, Failure> {
    let mut users: Vec<usize> = (0..case.users).collect();
    fastrand::shuffle(&mut users);
    let left = Arc::new(Mutex::new(users));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut lanes = Vec::new();
    for _ in 0..cores {
        let file = Connection::open(path).map_err(|error| failed(&error))?;
        // Prepares the statement.
        read(&file, &[0]).map_err(|reason| Failure::new(1, reason))?;
        lanes.push(Selects {
            file,
            left: Arc::clone(&left),
        });
    }
    let (measured, _) = lanes::measure(lanes, without_warm_up(timing)).await?;
    Ok(measured)
}

fn users(
    numbers: std::ops::Range<usize>,
    row: fn(usize) -> Result<Row, Failure>,
) -> Result<Vec<User>, Failure> {
    let user = |number| {
        Ok(User {
            row: row(number)?,
            revision: FIRST_REVISION,
            written_at: beginning().timestamp_micros(),
        })
    };
    numbers.map(user).collect()
}

/// A connection that writes as the store's does.
fn writer(path: &Path) -> Result<Connection, Failure> {
    let open = || -> rusqlite::Result<Connection> {
        let file = Connection::open(path)?;
        file.pragma_update(None, "synchronous", "FULL")?;
        file.pragma_update_and_check(None, "wal_autocheckpoint", SQLITE_LOG_PAGES, |_| Ok(()))?;
        file.pragma_update_and_check(None, "journal_size_limit", SQLITE_LOG_BYTES, |_| Ok(()))?;
        file.pragma_update(None, "cache_size", SQLITE_CACHE_KIB)?;
        Ok(file)
    };
    let file = open().map_err(|error| failed(&error))?;
    let journal = file.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
    match journal.map_err(|error| failed(&error))?.as_str() {
        "wal" => Ok(file),
        other => Err(Failure::new(
            1,
            format!("the file has journal_mode {other}"),
        )),
    }
}

/// Random rows, each to its next revision. It blocks its thread, of which a runtime has one per core: nobody else is there.
struct Updates {
    file: Connection,
    random: Rng,
    /// Those of the next transaction stand in front.
    users: Vec<User>,
    rows: usize,
}

impl lanes::Lane for Updates {
    async fn step(&mut self) -> Result<u64, Reason> {
        // The beginning of a shuffle: distinct users, all equally likely.
        for index in 0..self.rows {
            let other = self.random.usize(index..self.users.len());
            self.users.swap(index, other);
        }
        let Self {
            file, users, rows, ..
        } = self;
        let batch = users
            .get_mut(..*rows)
            .ok_or("there are not so many users")?;
        batch
            .sort_unstable_by(|left, right| left.row.persistence_id.cmp(&right.row.persistence_id));
        let at = now().timestamp_micros();
        let rows = batch.len();
        transaction(file, SQLITE_UPDATE, rows, |update| {
            let mut hits = 0;
            for user in &mut *batch {
                let User {
                    row,
                    revision,
                    written_at,
                } = user;
                let new_time = at.max(*written_at + 1);
                hits += update.execute(params![
                    *revision + 1,
                    row.payload.serializer_id.0,
                    row.payload.manifest.as_str(),
                    row.payload.bytes,
                    row.tags_json,
                    new_time,
                    row.persistence_id.as_str(),
                    *revision,
                    *written_at,
                ])?;
                *revision += 1;
                *written_at = new_time;
            }
            Ok(hits)
        })
    }
}

/// The first row of each of these users.
struct Inserts {
    file: Connection,
    left: Vec<User>,
    rows: usize,
}

impl lanes::Lane for Inserts {
    async fn step(&mut self) -> Result<u64, Reason> {
        let at = self.left.len().saturating_sub(self.rows);
        let mut batch = self.left.split_off(at);
        if batch.is_empty() {
            return Ok(0);
        }
        batch
            .sort_unstable_by(|left, right| left.row.persistence_id.cmp(&right.row.persistence_id));
        let at = now().timestamp_micros();
        transaction(&self.file, SQLITE_CREATE, batch.len(), |create| {
            let mut hits = 0;
            for User { row, .. } in &batch {
                hits += create.execute(params![
                    row.persistence_id.slice().get(),
                    row.persistence_id.entity_type(),
                    row.persistence_id.as_str(),
                    1,
                    at,
                    row.payload.serializer_id.0,
                    row.payload.manifest.as_str(),
                    row.payload.bytes,
                    row.tags_json,
                    row.persistence_id.as_str(),
                ])?;
            }
            Ok(hits)
        })
    }
}

/// One transaction of as many executions of a statement, each of which hits one row.
fn transaction(
    file: &Connection,
    sql: &str,
    rows: usize,
    execute: impl FnOnce(&mut rusqlite::Statement<'_>) -> rusqlite::Result<usize>,
) -> Result<u64, Reason> {
    let transact = || {
        file.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let hits = execute(&mut *file.prepare_cached(sql)?)?;
        file.prepare_cached("COMMIT")?.execute([])?;
        Ok(hits)
    };
    let hits = transact().map_err(|_: rusqlite::Error| "the transaction failed")?;
    if hits != rows {
        return Err("conflict");
    }
    u64::try_from(hits).map_err(|_| "too many rows")
}

/// The rows of users whom no lane has read yet.
struct Selects {
    file: Connection,
    left: Arc<Mutex<Vec<usize>>>,
}

impl lanes::Lane for Selects {
    async fn step(&mut self) -> Result<u64, Reason> {
        let users = {
            let mut left = self.left.lock().map_err(|_| "a lane panicked")?;
            let at = left.len().saturating_sub(ROWS_PER_LOOK);
            left.split_off(at)
        };
        read(&self.file, &users)
    }
}

/// Reads a row for each of these users; how many there were.
fn read(file: &Connection, users: &[usize]) -> Result<u64, Reason> {
    let read = || -> rusqlite::Result<u64> {
        let mut select = file.prepare_cached(SQLITE_SELECT)?;
        let mut rows = 0;
        for user in users {
            let id = crate::sample::persistence_id(*user);
            rows += select.query_row(params![id.as_str()], |row| {
                for column in 0..row.as_ref().column_count() {
                    std::hint::black_box(row.get_ref(column)?);
                }
                Ok(1)
            })?;
        }
        Ok(rows)
    };
    read().map_err(|_| "a row is missing")
}

/// Everything is done once, so that all of it counts.
fn without_warm_up(timing: Timing) -> Timing {
    Timing {
        warm_up: std::time::Duration::ZERO,
        ..timing
    }
}

fn failed(error: &rusqlite::Error) -> Failure {
    Failure::new(1, with_causes(error))
}
