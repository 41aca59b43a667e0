//! Making sure that what an ended session committed is as safe as an acknowledged write.
//!
//! **Problem.** With synchronous standbys a commit is durable here first, and is acknowledged when a standby has it. A session
//! that is ended while it waits for the standby has committed here all the same: its row is there for everybody to see,
//! and is lost if the standby takes over. **How.** A later commit of the store's own waits for the same standbys. When it is
//! acknowledged, they have everything before it.
//!
//! **Not here.** Databases without synchronous standbys: there nothing is left to wait for.

use sqlx::{Connection as _, PgConnection};

use crate::deadline::within;
use crate::error::Cause;
use crate::postgres::error::Failure;
use crate::postgres::fence::{END_WAIT_MAX, end};
use crate::postgres::identity::identity;
use crate::postgres::session::Sessions;
use crate::store::Fence;

/// Whether a commit of this session waits for standbys.
pub(super) const SELECT_WAITS: &str = "\
SELECT current_setting('synchronous_standby_names') <> ''
  AND current_setting('synchronous_commit') NOT IN ('off', 'local')";

/// The smallest transaction whose commit waits: it writes a message to the log and changes no table.
pub(super) const EMIT: &str = "SELECT pg_logical_emit_message(true, 'user-state', 'confirm')";

/// [`Fence::Closed`] once everything that was committed so far is as safe as an acknowledged write.
///
/// A commit that waits for a standby ends only with the standby, or by force. So it has a session of its own, which
/// `observer` ends when the time is over: it would wait there for ever, with one more at each attempt.
pub(super) async fn confirm(sessions: &Sessions, observer: &mut PgConnection) -> Fence {
    let confirming = confirm_in_time(sessions, observer);
    match within(END_WAIT_MAX * 2, confirming).await {
        Ok(Ok(fence)) => fence,
        Ok(Err(error)) => {
            let cause = Cause::from(Failure::of(&error));
            tracing::warn!(%cause, "it could not be found out what standbys have");
            Fence::Open
        }
        Err(_) => Fence::Open,
    }
}

async fn confirm_in_time(
    sessions: &Sessions,
    observer: &mut PgConnection,
) -> Result<Fence, sqlx::Error> {
    let waits: bool = sqlx::query_scalar(SELECT_WAITS)
        .fetch_one(&mut *observer)
        .await?;
    if !waits {
        return Ok(Fence::Closed);
    }
    let Ok(mut connection) = sessions.open_connection().await else {
        return Ok(Fence::Open);
    };
    let session = identity(&mut connection).await?;
    // Not before the answer's end: the commit comes behind the row.
    let emitting = sqlx::query(EMIT).execute(&mut connection);
    if let Ok(emitted) = within(END_WAIT_MAX, emitting).await {
        emitted?;
        drop(connection.close().await);
        return Ok(Fence::Closed);
    }
    tracing::debug!("no synchronous standby has confirmed a commit in time");
    end(observer, &session).await?;
    Ok(Fence::Open)
}
