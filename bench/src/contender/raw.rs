//! Bare statements on the tables of the store: the ceilings, and the base line.
//!
//! Payloads are made beforehand and nothing is decoded. A lane has users of its own, so that nobody waits for a
//! row that somebody else has locked, and so that the revision to expect is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use fastrand::Rng;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use user_state_store::BATCH_ROWS_MAX;

use crate::case::{Case, Kind};
use crate::contender::{Contender, World, database_of};
use crate::exit::Failure;
use crate::load::callers::Requests;
use crate::load::lanes;
use crate::load::{Measured, Timing};
use crate::population::{FIRST_REVISION, Row, Tables};

mod batches;
mod rows;
mod selects;

pub(crate) use batches::Batches;
pub(crate) use rows::Rows;
pub(crate) use selects::Selects;

/// The rows that lanes share, and their revisions.
pub(super) struct Table {
    rows: Box<[Row]>,
    revisions: Box<[AtomicI64]>,
}

impl Table {
    pub(super) fn new(users: usize) -> Result<Arc<Self>, Failure> {
        let rows = (0..users).map(Row::new).collect::<Result<_, _>>()?;
        let revisions = (0..users).map(|_| AtomicI64::new(FIRST_REVISION)).collect();
        Ok(Arc::new(Self { rows, revisions }))
    }

    pub(super) fn row(&self, user: usize) -> Result<(&Row, &AtomicI64), &'static str> {
        let row = self.rows.get(user).zip(self.revisions.get(user));
        row.ok_or("there is no such user")
    }
}

/// What a bare contender keeps: its table, and its connections, opened as they are needed.
#[derive(Default)]
struct Kept {
    table: Option<(usize, Arc<Table>)>,
    connections: Vec<PgConnection>,
}

impl Kept {
    async fn prepare(
        &mut self,
        name: &'static str,
        case: &Case,
        world: &mut World,
        options: impl Fn(PgConnectOptions) -> PgConnectOptions,
        connections: usize,
    ) -> Result<Arc<Table>, Failure> {
        let wanted = database_of(name, Tables::DurableState, case);
        let url = world.databases.settled(&wanted).await?;
        let table = match self.table.take() {
            Some((users, table)) if users == case.population => table,
            _ => {
                self.connections.clear();
                Table::new(case.population)?
            }
        };
        self.table = Some((case.population, Arc::clone(&table)));
        let connect: PgConnectOptions = url.parse().map_err(|error| failed(&error))?;
        let connect = options(connect.disable_statement_logging());
        while self.connections.len() < connections {
            let connection = connect.connect().await.map_err(|error| failed(&error))?;
            self.connections.push(connection);
        }
        Ok(table)
    }

    /// So many of the connections, for the time of a measurement.
    fn take(&mut self, connections: usize) -> Vec<PgConnection> {
        self.connections.drain(..connections).collect()
    }

    /// Lets lanes step, and takes their connections back.
    async fn measure<L: lanes::Lane>(
        &mut self,
        lanes: Vec<L>,
        timing: Timing,
        connection: impl Fn(L) -> PgConnection,
    ) -> Result<Measured, Failure> {
        let (measured, lanes) = lanes::measure(lanes, timing).await?;
        self.connections.extend(lanes.into_iter().map(connection));
        Ok(measured)
    }

    fn rest(&mut self) {
        self.table = None;
        self.connections.clear();
    }
}

/// How many cores there are; what else scales with them here does so in the runtime too.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn failed(error: &sqlx::Error) -> Failure {
    Failure::unavailable(error)
}

/// A user near the one chosen that is this lane's own.
fn own(user: usize, lane: usize, lanes: usize, users: usize) -> usize {
    let own = user - user % lanes + lane;
    if own < users { own } else { lane }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_belongs_to_one_lane_and_lanes_ask_for_nobody_else() {
        for (lanes, users) in [(1, 5), (2, 100), (16, 100), (16, 16)] {
            for user in 0..users {
                for lane in 0..lanes {
                    let own = own(user, lane, lanes, users);
                    assert!(own < users);
                    assert_eq!(own % lanes, lane);
                }
            }
        }
    }
}
