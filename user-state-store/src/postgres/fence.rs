//! Making sure that a session which lost its client runs nothing any more.
//!
//! **Problem.** A server process whose client is gone may still wait for a lock and commit seconds later. To read the
//! row meanwhile proves nothing. **How.** End the process, but only while the server still lists that process id
//! with that start time (process ids are reused), and wait until it is gone from the list: a process leaves the
//! list after its transaction ended. What it committed may still lack the standbys that its client waited for, see
//! [`super::confirm`].

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::{Instant, sleep, timeout_at};

use crate::postgres::confirm::confirm;
use crate::postgres::durable_state::Micros;
use crate::postgres::session::Sessions;
use crate::store::{Fence, WriterSession};

/// When the process with this id started; no row where there is none, NULL where that may not be seen.
pub(super) const SELECT_START: &str = "\
SELECT backend_start
FROM pg_stat_activity
WHERE pid = $1";

/// Ends the process with this id and this start time.
pub(super) const TERMINATE: &str = "\
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE pid = $1
  AND backend_start = $2::timestamptz";

/// How long to wait for a process to end, or for a standby, beyond opening a connection. A process ends at its next
/// interrupt check, which takes milliseconds unless the machine stands still.
pub(super) const END_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often to look.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the session's process. See [`crate::DurableStateStore::fence`].
pub(super) async fn fence(sessions: &Sessions, session: &WriterSession) -> Fence {
    let Ok(mut connection) = sessions.open_connection().await else {
        return Fence::Open;
    };
    let deadline = Instant::now() + END_WAIT_MAX;
    match timeout_at(deadline, end(&mut connection, session)).await {
        Ok(Ok(fence)) => {
            let fence = match fence {
                Fence::Closed => confirm(sessions, &mut connection).await,
                Fence::Open => Fence::Open,
            };
            // The connection is of no more use; a farewell that fails changes nothing.
            drop(timeout_at(Instant::now() + END_WAIT_MAX, connection.close()).await);
            fence
        }
        Ok(Err(error)) => {
            tracing::warn!(cause = %crate::error::Cause::from(crate::postgres::error::Failure::of(&error)), "a session could not be fenced");
            Fence::Open
        }
        Err(_) => Fence::Open,
    }
}

pub(super) async fn end(
    connection: &mut PgConnection,
    session: &WriterSession,
) -> Result<Fence, sqlx::Error> {
    let mut ended = false;
    loop {
        let listed = sqlx::query(SELECT_START)
            .bind(session.process_id)
            .fetch_optional(&mut *connection)
            .await?;
        let Some(listed) = listed else {
            return Ok(Fence::Closed);
        };
        // Another user's process: its start time is hidden, so it cannot be told apart.
        let Some(started) = listed.try_get::<Option<Micros>, _>(0)? else {
            return Ok(Fence::Open);
        };
        if started.since_1970() != session.started_at_micros {
            return Ok(Fence::Closed);
        }
        if !ended {
            sqlx::query(TERMINATE)
                .bind(session.process_id)
                .bind(started)
                .execute(&mut *connection)
                .await?;
            ended = true;
        }
        sleep(LOOK_INTERVAL).await;
    }
}
