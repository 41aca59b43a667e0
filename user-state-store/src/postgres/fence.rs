//! Making sure that a session which lost its client runs nothing any more.
//!
//! **Problem.** A server process whose client is gone may still wait for a lock and commit seconds later. To read the
//! row meanwhile proves nothing. **How.** End the process, but only while the server still lists that process id
//! with that start time (process ids are reused), and wait until it is gone from the list: a process leaves the
//! list after its transaction ended. The login role asks, whatever role is set for the sessions. A process that may not be
//! ended, or whose start is not known, is only waited for. What it committed may still lack the standbys that its client
//! waited for, see [`super::confirm`].

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::sleep;

use crate::deadline::within;
use crate::postgres::confirm::confirm;
use crate::postgres::durable_state::Micros;
use crate::postgres::identity::shown;
use crate::postgres::session::Sessions;
use crate::store::{Fence, WriterSession};

/// When the process with this id started; no row where there is none, NULL where that may not be seen.
pub(super) const SELECT_START: &str = "\
SELECT backend_start
FROM pg_stat_get_activity($1)
WHERE pid = $1";

/// Whether there is a process with this id; every role may ask that.
pub(super) const SELECT_LISTED: &str = "\
SELECT EXISTS (
  SELECT FROM pg_stat_get_backend_idset() AS backend (id)
  WHERE pg_stat_get_backend_pid(backend.id) = $1
)";

/// Ends the process with this id and this start time.
pub(super) const TERMINATE: &str = "\
SELECT pg_terminate_backend(pid)
FROM pg_stat_get_activity($1)
WHERE pid = $1
  AND backend_start = $2::timestamptz";

/// The role that logged in: it sees and may end its own processes, which the role that is set at login may not.
const SET_LOGIN_ROLE: &str = "SET ROLE NONE";

/// How long to wait for a process to end, or for a standby, beyond opening a connection. A process ends at its next
/// interrupt check, which takes milliseconds unless the machine stands still.
pub(super) const END_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often to look.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the session's process. See [`crate::Backend::fence`].
pub(super) async fn fence(sessions: &Sessions, session: &WriterSession) -> Fence {
    let Ok(mut connection) = sessions.open_connection().await else {
        return Fence::Open;
    };
    match within(END_WAIT_MAX, end(&mut connection, session)).await {
        Ok(Ok(fence)) => {
            let fence = match fence {
                Fence::Closed => confirm(sessions, &mut connection).await,
                Fence::Open => Fence::Open,
            };
            // The connection is of no more use; a farewell that fails changes nothing.
            drop(within(END_WAIT_MAX, connection.close()).await);
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
    shown(connection.execute(SET_LOGIN_ROLE).await)?;
    let Some(expected) = session.started_at_micros else {
        return wait(connection, session.process_id).await;
    };
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
        if started.since_1970() != expected {
            return Ok(Fence::Closed);
        }
        if !ended {
            // A process that may not be ended ends by itself, some time after its client is gone.
            shown(
                sqlx::query(TERMINATE)
                    .bind(session.process_id)
                    .bind(started)
                    .execute(&mut *connection)
                    .await,
            )?;
            ended = true;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Waits until no process has this id. To end the one that has it could end somebody else's work.
async fn wait(connection: &mut PgConnection, process_id: i32) -> Result<Fence, sqlx::Error> {
    loop {
        let listed: bool = sqlx::query_scalar(SELECT_LISTED)
            .bind(process_id)
            .fetch_one(&mut *connection)
            .await?;
        if !listed {
            return Ok(Fence::Closed);
        }
        sleep(LOOK_INTERVAL).await;
    }
}
