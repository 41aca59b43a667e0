//! The tables: making them, and checking at start-up that they and their server are fit.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use crate::connect::{ConnectOptions, PayloadColumn, StoreSettings};
use crate::deadline;
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::connection::{Opener, Route};
use crate::postgres::error::open_error;
use crate::postgres::table::{self, RowsPerId};

/// Pekko's tables and indexes, as its own script makes them.
const CREATE_PEKKO_TABLES: &str =
    include_str!("../../migrations/postgres/0001_create_pekko_tables.sql");

/// The same with payloads in JSON columns.
const CREATE_PEKKO_TABLES_JSON: &str =
    include_str!("../../migrations/postgres/0001_create_pekko_tables_json.sql");

/// The same with payloads in JSONB columns.
const CREATE_PEKKO_TABLES_JSONB: &str =
    include_str!("../../migrations/postgres/0001_create_pekko_tables_jsonb.sql");

/// Keeps two migrations apart: `IF NOT EXISTS` alone lets both try. The number is this project's own.
const LOCK_MIGRATIONS: &str = "SELECT pg_advisory_xact_lock(7310582694471163214);";

/// How long a migration may take. It makes empty tables, or none; what takes long is a lock.
const MIGRATION_MAX: Duration = Duration::from_mins(1);

/// Whether the server is a standby.
pub(super) const SELECT_IN_RECOVERY: &str = "SELECT pg_is_in_recovery()";

/// Creates the tables and indexes that are not there. See [`crate::migrate`].
pub(crate) async fn migrate(options: &ConnectOptions) -> Result<(), OpenError> {
    options.validate()?;
    let opener = Route::of(options)?.plain(&options.settings);
    let mut connection = opener.open_unproven().await?;
    // Statements sent together are one transaction: all of them, or none. The server's notices that a
    // table exists already are no news.
    let tables = create_pekko_tables(options.settings.payload_column);
    let script = format!("{LOCK_MIGRATIONS}\nSET LOCAL client_min_messages = warning;\n{tables}");
    let running = sqlx::raw_sql(&script);
    deadline::within(MIGRATION_MAX, async {
        sqlx::Executor::execute(&mut connection, running).await
    })
    .await
    .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
    .map_err(|error| match open_error(&error) {
        OpenError::AuthenticationFailed(_) => OpenError::MissingPrivilege {
            privilege: "CREATE",
            table: "the schema",
        },
        other => other,
    })?;
    farewell(connection).await;
    Ok(())
}

/// The script for tables with payloads of this type.
pub(super) const fn create_pekko_tables(payload_column: PayloadColumn) -> &'static str {
    match payload_column {
        PayloadColumn::Bytea => CREATE_PEKKO_TABLES,
        PayloadColumn::Json => CREATE_PEKKO_TABLES_JSON,
        PayloadColumn::Jsonb => CREATE_PEKKO_TABLES_JSONB,
    }
}

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) rows_per_id: RowsPerId,
    /// The schema of the table.
    pub(super) schema: Box<str>,
}

/// Refuses a server or a table that would not keep the store's promises.
pub(super) async fn check(opener: &Opener, settings: &StoreSettings) -> Result<Checked, OpenError> {
    let (mut connection, schema) = opener.open_first().await?;
    let rows_per_id = table::check(&mut connection, settings).await?;
    farewell(connection).await;
    Ok(Checked {
        rows_per_id,
        schema,
    })
}

pub(super) async fn within<T>(
    deadline: Duration,
    asking: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, OpenError> {
    deadline::within(deadline, asking)
        .await
        .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
        .map_err(|error| open_error(&error))
}

/// Ends a connection that has served; one that does not take its leave is closed all the same.
async fn farewell(connection: PgConnection) {
    drop(deadline::within(Duration::from_secs(1), connection.close()).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_differ_in_the_types_of_three_columns_and_nothing_else() {
        for (column, name) in [
            (PayloadColumn::Json, "JSON"),
            (PayloadColumn::Jsonb, "JSONB"),
        ] {
            let expected = ["event_payload", "snapshot", "state_payload"]
                .into_iter()
                .fold(CREATE_PEKKO_TABLES.to_owned(), |script, payload| {
                    let bytea = format!(" {payload} BYTEA NOT NULL,");
                    assert_eq!(script.matches(&bytea).count(), 1, "{payload}");
                    script.replace(&bytea, &format!(" {payload} {name} NOT NULL,"))
                });
            assert!(create_pekko_tables(column) == expected, "{name}");
        }
        assert_eq!(
            create_pekko_tables(PayloadColumn::Bytea),
            CREATE_PEKKO_TABLES
        );
    }
}
