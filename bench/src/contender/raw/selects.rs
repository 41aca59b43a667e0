//! `raw-select`: the store's SELECT of many rows in a loop, the ceiling of recovery; one SELECT of all rows, the ceiling of
//! a feed.

use std::sync::Mutex;

use futures_util::TryStreamExt as _;
use sqlx::ConnectOptions as _;
use tokio::time::Instant;

use super::{
    Arc, BATCH_ROWS_MAX, Case, Contender, Failure, Kept, Kind, Measured, PgConnectOptions,
    PgConnection, Table, Tables, Timing, World, async_trait, cores, database_of, failed, lanes,
};
use crate::contender::statements::SELECT_MANY;
use crate::load::Reason;

/// How many loads the runtime has on their way by default: four for each shard, which has two cores.
const LOADS_PER_CORE: usize = 2;

/// Everything that a feed reads of a row.
const SELECT_ALL: &str = "\
SELECT
  persistence_id,
  slice,
  entity_type,
  revision,
  db_timestamp,
  state_ser_id,
  state_ser_manifest,
  CASE WHEN octet_length(state_payload) <= $1 THEN state_payload END AS state_payload,
  tags
FROM durable_state";

/// A payload limit as the store's, which is part of its statement.
const PAYLOAD_BYTES_MAX: i64 = 1_024 * 1_024;

/// Many rows per statement.
#[derive(Default)]
pub(crate) struct Selects(Kept);

struct Lane {
    connection: PgConnection,
    table: Arc<Table>,
    /// The users that no lane has read yet.
    left: Arc<Mutex<Vec<usize>>>,
    rows: usize,
}

#[async_trait]
impl Contender for Selects {
    fn name(&self) -> &'static str {
        "raw-select"
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Recover | Kind::Feed => None,
            _ => Some("it only reads many rows at once".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        if case.kind == Kind::Feed {
            return self.feed(case, world).await;
        }
        let count = (cores() * LOADS_PER_CORE).min(case.callers).max(1);
        let rows = (case.callers / count).clamp(1, BATCH_ROWS_MAX);
        let table = self
            .0
            .prepare(self.name(), case, world, |connect| connect, count)
            .await?;
        let mut users: Vec<usize> = (0..case.users).collect();
        fastrand::shuffle(&mut users);
        let left = Arc::new(Mutex::new(users));
        let lane = |connection| Lane {
            connection,
            table: Arc::clone(&table),
            left: Arc::clone(&left),
            rows,
        };
        let mut lanes: Vec<Lane> = self.0.take(count).into_iter().map(lane).collect();
        for lane in &mut lanes {
            // Prepares the statement.
            let prepared = lane.read(&[0]).await;
            prepared.map_err(|reason| Failure::new(1, reason))?;
        }
        let timing = Timing {
            warm_up: std::time::Duration::ZERO,
            ..world.timing
        };
        self.0
            .measure(lanes, timing, |lane: Lane| lane.connection)
            .await
    }

    async fn rest(&mut self) {
        self.0.rest();
    }
}

impl Selects {
    /// All rows in the order that the server likes best.
    async fn feed(&self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let wanted = database_of(self.name(), Tables::DurableStateInTime, case);
        let url = world.databases.settled(&wanted).await?;
        let connect: PgConnectOptions = url.parse().map_err(|error| failed(&error))?;
        let connecting = connect.disable_statement_logging().connect().await;
        let mut connection = connecting.map_err(|error| failed(&error))?;
        let start = Instant::now();
        let mut rows = sqlx::query(SELECT_ALL)
            .bind(PAYLOAD_BYTES_MAX)
            .fetch(&mut connection);
        let mut count = 0;
        while rows
            .try_next()
            .await
            .map_err(|error| failed(&error))?
            .is_some()
        {
            count += 1;
        }
        Ok(Measured::of_rows(count, start.elapsed()))
    }
}

impl lanes::Lane for Lane {
    async fn step(&mut self) -> Result<u64, Reason> {
        let users = {
            let mut left = self.left.lock().map_err(|_| "a lane panicked")?;
            let at = left.len().saturating_sub(self.rows);
            left.split_off(at)
        };
        if users.is_empty() {
            return Ok(0);
        }
        self.read(&users).await
    }
}

impl Lane {
    async fn read(&mut self, users: &[usize]) -> Result<u64, Reason> {
        let mut ids = users
            .iter()
            .map(|user| Ok(self.table.row(*user)?.0.persistence_id.as_str()))
            .collect::<Result<Vec<_>, Reason>>()?;
        ids.sort_unstable();
        let rows = sqlx::query(SELECT_MANY)
            .bind(&ids)
            .bind(PAYLOAD_BYTES_MAX)
            .fetch_all(&mut self.connection)
            .await
            .map_err(|_| "the statement failed")?;
        if rows.len() != ids.len() {
            return Err("a row is missing");
        }
        u64::try_from(rows.len()).map_err(|_| "too many rows")
    }
}
