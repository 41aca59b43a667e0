//! `raw-select`: the store's SELECT of many rows in a loop. The ceiling of recovery.

use std::sync::Mutex;

use super::{
    Arc, BATCH_ROWS_MAX, Case, Contender, Failure, Kept, Kind, Measured, PgConnection, Table,
    Timing, World, async_trait, cores, lanes,
};
use crate::contender::statements::SELECT_MANY;
use crate::load::Reason;

/// How many loads the runtime has on their way by default: four for each shard, which has two cores.
const LOADS_PER_CORE: usize = 2;

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
            Kind::Recover => None,
            _ => Some("it only loads many rows at once".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
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
