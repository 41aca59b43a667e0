//! Running a statement on a lane, within its deadline.

use std::time::Instant;

use sqlx::sqlite::SqliteRow;

use crate::deadline;
use crate::error::{Cause, StoreError};
use crate::sqlite::connection::Lane;
use crate::sqlite::error::before_commit;

/// A statement's failure.
pub(super) enum Failure {
    Deadline,
    Sqlite(sqlx::Error),
}

impl Failure {
    pub(super) fn before_commit(&self) -> StoreError {
        match self {
            Self::Deadline => StoreError::Unavailable(Cause::Deadline),
            Self::Sqlite(error) => before_commit(error),
        }
    }
}

pub(super) async fn run<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failure> {
    match deadline::until(deadline, call).await {
        Ok(result) => result.map_err(Failure::Sqlite),
        Err(_) => Err(Failure::Deadline),
    }
}

pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments<'q>>;

pub(super) async fn fetch(lane: &Lane, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
    let deadline = lane.deadline();
    let mut lease = lane.lease(deadline).await?;
    let rows = run(deadline, query.fetch_all(lease.connection()))
        .await
        .map_err(|error| error.before_commit())?;
    lease.finish()?;
    Ok(rows)
}

/// A count as a bound value; what is beyond `i64` is beyond every table.
pub(super) fn bound(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
