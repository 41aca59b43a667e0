//! The tables: making them, and checking at start-up that they and their server are fit.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use crate::connect::{Access, ConnectOptions, PayloadColumn, StoreSettings};
use crate::deadline;
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::connection::{self, Opener, Route};
use crate::postgres::error::open_error;

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

pub(super) const TABLE: &str = "durable_state";

const KEY: &str = "persistence_id, revision";

const TEXT: &[&str] = &["character varying", "text"];

/// The columns that are read and written, and the types that serve, the usual one first.
const COLUMNS: [(&str, &[&str]); 8] = [
    ("slice", &["integer"]),
    ("entity_type", TEXT),
    ("persistence_id", TEXT),
    ("revision", &["bigint"]),
    ("db_timestamp", &["timestamp with time zone"]),
    ("state_ser_id", &["integer"]),
    ("state_ser_manifest", TEXT),
    ("tags", &["text[]"]),
];

/// The column whose type is a setting.
const PAYLOAD: &str = "state_payload";

/// The columns of the table that the search path finds.
pub(super) const SELECT_COLUMNS: &str = "\
SELECT attname::text, format_type(atttypid, NULL)
FROM pg_attribute
WHERE attrelid = to_regclass($1)
  AND attnum > 0
  AND NOT attisdropped";

/// The columns of each unique index of the table, partial and unfinished ones left out.
pub(super) const SELECT_UNIQUE_INDEXES: &str = "\
SELECT string_agg(a.attname::text, ', ' ORDER BY k.position)
FROM pg_index AS i
CROSS JOIN UNNEST(i.indkey) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = to_regclass($1)
  AND i.indisunique
  AND i.indisvalid
  AND i.indpred IS NULL
GROUP BY i.indexrelid";

/// Whether the user may do this with the table.
pub(super) const SELECT_PRIVILEGE: &str = "\
SELECT has_table_privilege(to_regclass($1), $2)";

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

/// What keeps two rows of one id apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsPerId {
    /// A unique index on `persistence_id` makes a second row impossible, whoever writes.
    OneByIndex,
    /// The writers see to it.
    OneByProtocol,
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
    let deadline = connection::answer_deadline(settings);
    check_columns(&mut connection, deadline, settings.payload_column).await?;
    let rows_per_id = check_indexes(&mut connection, deadline).await?;
    check_privileges(&mut connection, deadline, settings).await?;
    farewell(connection).await;
    Ok(Checked {
        rows_per_id,
        schema,
    })
}

async fn check_columns(
    connection: &mut PgConnection,
    deadline: Duration,
    payload_column: PayloadColumn,
) -> Result<(), OpenError> {
    let asking = sqlx::query_as::<_, (String, String)>(SELECT_COLUMNS).bind(TABLE);
    let found = within(deadline, asking.fetch_all(connection)).await?;
    if found.is_empty() {
        return Err(OpenError::TableMissing { table: TABLE });
    }
    let type_of = |column: &str| {
        found
            .iter()
            .find_map(|(name, found)| (name == column).then_some(&**found))
            .unwrap_or("nothing")
    };
    for (column, types) in COLUMNS {
        let found = type_of(column);
        if !types.contains(&found) {
            return Err(OpenError::ColumnMismatch {
                table: TABLE,
                column,
                expected: types.first().copied().unwrap_or_default(),
                found: found.into(),
            });
        }
    }
    let found = type_of(PAYLOAD);
    if found == payload_column.as_str() {
        return Ok(());
    }
    Err(OpenError::ColumnMismatch {
        table: TABLE,
        column: PAYLOAD,
        expected: payload_column.as_str(),
        found: found.into(),
    })
}

async fn check_indexes(
    connection: &mut PgConnection,
    deadline: Duration,
) -> Result<RowsPerId, OpenError> {
    let asking = sqlx::query_scalar::<_, String>(SELECT_UNIQUE_INDEXES).bind(TABLE);
    let found = within(deadline, asking.fetch_all(connection)).await?;
    if found.iter().any(|columns| columns == "persistence_id") {
        return Ok(RowsPerId::OneByIndex);
    }
    if found.iter().any(|columns| columns == KEY) {
        return Ok(RowsPerId::OneByProtocol);
    }
    Err(OpenError::KeyMissing {
        table: TABLE,
        columns: KEY,
    })
}

async fn check_privileges(
    connection: &mut PgConnection,
    deadline: Duration,
    settings: &StoreSettings,
) -> Result<(), OpenError> {
    // DELETE is needed by erasures alone, which few deployments use.
    let needed: &[&str] = match settings.access {
        Access::ReadWrite => &["SELECT", "INSERT", "UPDATE"],
        Access::ReadOnly => &["SELECT"],
    };
    for privilege in needed {
        let asking = sqlx::query_scalar::<_, bool>(SELECT_PRIVILEGE)
            .bind(TABLE)
            .bind(privilege);
        if !within(deadline, asking.fetch_one(&mut *connection)).await? {
            return Err(OpenError::MissingPrivilege {
                privilege,
                table: TABLE,
            });
        }
    }
    Ok(())
}

async fn within<T>(
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
