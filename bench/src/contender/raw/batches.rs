//! `raw-batch`: the store's UPDATE of many rows in a loop, and nothing else. The ceiling of the schema.
//!
//! As many commands are on their way as there are callers, spread evenly over one connection per core, at most as many in a
//! batch as the store takes. Each is of another user. Revisions alone are compared, since nobody removes a row.

use chrono::{DateTime, Utc};

use super::BATCH_ROWS_MAX;
use super::{
    Arc, Case, Contender, Failure, Kept, Kind, Measured, Ordering, PgConnectOptions, PgConnection,
    Rng, Table, World, async_trait, cores, lanes,
};
use crate::contender::statements::UPDATE_MANY;
use crate::load::Reason;

/// Many rows per statement.
#[derive(Default)]
pub(crate) struct Batches(Kept);

struct Lane {
    connection: PgConnection,
    table: Arc<Table>,
    random: Rng,
    /// The lane's users; those of the next batch stand in front.
    users: Vec<usize>,
    rows: usize,
}

#[async_trait]
impl Contender for Batches {
    fn name(&self) -> &'static str {
        "raw-batch"
    }

    fn not_run(&self, case: &Case) -> Option<String> {
        match case.kind {
            Kind::Write => None,
            _ => Some("it only writes, as fast as it can".to_owned()),
        }
    }

    async fn measure(&mut self, case: &Case, world: &mut World) -> Result<Measured, Failure> {
        let count = cores().min(case.callers).min(case.users).max(1);
        let rows = (case.callers / count).clamp(1, BATCH_ROWS_MAX);
        let table = self
            .0
            .prepare(self.name(), case, world, as_the_store, count)
            .await?;
        let lane = |(number, connection)| {
            let users: Vec<usize> = (0..case.users).skip(number).step_by(count).collect();
            Lane {
                connection,
                table: Arc::clone(&table),
                random: Rng::new(),
                rows: rows.min(users.len()),
                users,
            }
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

/// The planner settings of the store's own writing sessions.
fn as_the_store(connect: PgConnectOptions) -> PgConnectOptions {
    connect.options([
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ])
}

impl lanes::Lane for Lane {
    async fn step(&mut self) -> Result<u64, Reason> {
        // The beginning of a shuffle: distinct users, all equally likely.
        for index in 0..self.rows {
            let other = self.random.usize(index..self.users.len());
            self.users.swap(index, other);
        }
        let Self {
            table, users, rows, ..
        } = self;
        let batch = users
            .get_mut(..*rows)
            .ok_or("there are not so many users")?;
        let mut batch = batch
            .iter()
            .map(|user| table.row(*user))
            .collect::<Result<Vec<_>, _>>()?;
        batch.sort_unstable_by_key(|(row, _)| row.persistence_id.as_str());
        let expected: Vec<i64> = batch
            .iter()
            .map(|(_, revision)| revision.load(Ordering::Relaxed))
            .collect();
        let new: Vec<i64> = expected.iter().map(|revision| revision + 1).collect();
        let ids: Vec<&str> = batch
            .iter()
            .map(|(row, _)| row.persistence_id.as_str())
            .collect();
        let serializers: Vec<i32> = batch
            .iter()
            .map(|(row, _)| row.payload.serializer_id.0)
            .collect();
        let manifests: Vec<&str> = batch
            .iter()
            .map(|(row, _)| row.payload.manifest.as_str())
            .collect();
        let payloads: Vec<&[u8]> = batch
            .iter()
            .map(|(row, _)| row.payload.bytes.as_slice())
            .collect();
        let tags: Vec<&str> = batch
            .iter()
            .map(|(row, _)| row.tags_literal.as_str())
            .collect();
        let updated = sqlx::query(UPDATE_MANY)
            .bind(&ids)
            .bind(&expected)
            .bind(vec![None::<DateTime<Utc>>; ids.len()])
            .bind(&new)
            .bind(&serializers)
            .bind(&manifests)
            .bind(&payloads)
            .bind(&tags)
            .bind(vec![false; ids.len()])
            .fetch_all(&mut self.connection)
            .await
            .map_err(|_| "the statement failed")?;
        if updated.len() != batch.len() {
            return Err("conflict");
        }
        for ((_, revision), new) in batch.iter().zip(new) {
            revision.store(new, Ordering::Relaxed);
        }
        u64::try_from(updated.len()).map_err(|_| "too many rows")
    }
}
