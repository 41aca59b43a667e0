//! `raw-row`: one prepared statement per request over 16 connections, as Pekko issues it. What every other
//! figure is read beside.

use super::{
    Arc, Case, Contender, Failure, Kept, Kind, Measured, Ordering, PgConnection, Requests, Rng,
    Table, World, async_trait, lanes, own,
};
use crate::contender::statements::{SELECT_ONE, UPDATE_ONE};
use crate::load::Reason;

/// Its connections: what the figures of the design were measured with.
const CONNECTIONS: usize = 16;

/// One row per statement.
#[derive(Default)]
pub(crate) struct Rows(Kept);

struct Lane {
    connection: PgConnection,
    table: Arc<Table>,
    requests: Requests,
    random: Rng,
    number: usize,
    lanes: usize,
    users: usize,
}

#[async_trait]
impl Contender for Rows {
    fn name(&self) -> &'static str {
        "raw-row"
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Write | Kind::Mix | Kind::Read | Kind::Recover => None,
            Kind::Passivate | Kind::Memory => Some("it keeps no users in memory".to_owned()),
            Kind::Latency { .. } | Kind::ReadRate { .. } => {
                Some("it has no queue for requests that are due".to_owned())
            }
            Kind::Feed => Some("it reads one row at a time".to_owned()),
            Kind::StartUp => Some("it has nothing to start but a connection".to_owned()),
            Kind::Held { .. } => Some("this is about the store alone".to_owned()),
            Kind::Sqlite(_) => Some("it knows no files".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let count = CONNECTIONS.min(case.callers).min(case.users).max(1);
        let table = self
            .0
            .prepare(self.name(), case, world, |connect| connect, count)
            .await?;
        let mut requests = world.requests(case);
        if case.kind == Kind::Recover {
            // A row that is read is a user that came to life.
            requests.reads_percent = 100;
        }
        let lane = |(number, connection)| Lane {
            connection,
            table: Arc::clone(&table),
            requests: requests.clone(),
            random: Rng::new(),
            number,
            lanes: count,
            users: case.users,
        };
        let lanes = self
            .0
            .take(count)
            .into_iter()
            .enumerate()
            .map(lane)
            .collect();
        self.0
            .measure(lanes, world.timing, |lane: Lane| lane.connection)
            .await
    }

    async fn rest(&mut self) {
        self.0.rest();
    }
}

impl lanes::Lane for Lane {
    async fn step(&mut self) -> Result<u64, Reason> {
        let user = self.requests.users.choose(&mut self.random);
        let user = own(user, self.number, self.lanes, self.users);
        if self.requests.is_read(&mut self.random) {
            self.read(user).await?;
        } else {
            self.write(user).await?;
        }
        Ok(1)
    }
}

impl Lane {
    async fn read(&mut self, user: usize) -> Result<(), Reason> {
        let (row, _) = self.table.row(user)?;
        let found = sqlx::query(SELECT_ONE)
            .bind(row.persistence_id.as_str())
            .fetch_optional(&mut self.connection)
            .await
            .map_err(|_| "the statement failed")?;
        found.map(drop).ok_or("there is no row")
    }

    async fn write(&mut self, user: usize) -> Result<(), Reason> {
        let (row, revision) = self.table.row(user)?;
        let expected = revision.load(Ordering::Relaxed);
        let done = sqlx::query(UPDATE_ONE)
            .bind(expected + 1)
            .bind(row.payload.serializer_id.0)
            .bind(row.payload.manifest.as_str())
            .bind(&row.payload.bytes)
            .bind(&row.tags)
            .bind(row.persistence_id.as_str())
            .bind(expected)
            .execute(&mut self.connection)
            .await
            .map_err(|_| "the statement failed")?;
        if done.rows_affected() != 1 {
            return Err("conflict");
        }
        revision.store(expected + 1, Ordering::Relaxed);
        Ok(())
    }
}
