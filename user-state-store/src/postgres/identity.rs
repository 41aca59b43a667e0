//! Which server process a session is.
//!
//! **Problem.** A process id names a process only together with its start, and the server shows the start to those alone
//! who have the rights of the process's login role. A role that is set at login (`ALTER ROLE app SET role = 'owner'`)
//! often does not have them. **How.** Where the start is hidden it is asked for once more as the login role, inside a
//! transaction, whose end brings the role back. **Not here.** What to do where it stays hidden: see `fence.rs`.

use sqlx::{Executor as _, PgConnection, Row as _};

use crate::postgres::durable_state::Micros;
use crate::store::WriterSession;

/// Which server process this is. Not from the view `pg_stat_activity`, which some servers withhold.
pub(super) const SELECT_SESSION: &str = "\
SELECT pid, backend_start
FROM pg_stat_get_activity(pg_backend_pid())";

/// The same where not even the function may be used.
pub(super) const SELECT_PROCESS_ID: &str = "SELECT pg_backend_pid()";

/// Asks as the login role; the end of the transaction brings back the role that was set.
const BEGIN_AS_LOGIN_ROLE: &str = "BEGIN READ ONLY; SET LOCAL ROLE NONE";

const END: &str = "ROLLBACK";

/// The server process of this session, as far as it can be seen.
pub(super) async fn identity(connection: &mut PgConnection) -> Result<WriterSession, sqlx::Error> {
    let seen = shown(select(connection).await)?;
    if let Some(session) = seen.filter(|session| session.started_at_micros.is_some()) {
        return Ok(session);
    }
    let begun = shown(connection.execute(BEGIN_AS_LOGIN_ROLE).await)?;
    let asked = match begun {
        Some(_) => shown(select(connection).await)?,
        None => None,
    };
    connection.execute(END).await?;
    if let Some(session) = asked {
        return Ok(session);
    }
    Ok(WriterSession {
        process_id: sqlx::query_scalar(SELECT_PROCESS_ID)
            .fetch_one(connection)
            .await?,
        started_at_micros: None,
    })
}

async fn select(connection: &mut PgConnection) -> Result<WriterSession, sqlx::Error> {
    let session = sqlx::query(SELECT_SESSION)
        .fetch_one(&mut *connection)
        .await?;
    let started = session.try_get::<Option<Micros>, _>(1)?;
    Ok(WriterSession {
        process_id: session.try_get(0)?,
        started_at_micros: started.map(Micros::since_1970),
    })
}

/// Nothing where the server refuses to answer; what breaks the connection is an error.
pub(super) fn shown<T>(answer: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(sqlx::Error::Database(_) | sqlx::Error::RowNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
