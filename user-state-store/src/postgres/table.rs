//! What table `durable_state` has to be.
//!
//! **How.** The catalog says whether it is a table with the columns, the key and the rights that the store needs, and
//! whether policies hide rows of it. Whether it takes writes is tried, see `durable_state/probe.rs`. Types are compared by
//! OID: their names follow settings of the server.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use crate::connect::{Access, PayloadColumn, RowSecurity, StoreSettings};
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::connection::answer_deadline;
use crate::postgres::durable_state::{Known, try_writes};
use crate::postgres::schema::within;

pub(super) const TABLE: &str = "durable_state";

const KEY: &str = "persistence_id, revision";

/// A type by its name and its OID, which is the same on every server (`pg_type.dat`).
type Named = (&'static str, i64);

const BIGINT: &[Named] = &[("bigint", 20)];
const INTEGER: &[Named] = &[("integer", 23)];
const TEXT: &[Named] = &[("character varying", 1043), ("text", 25)];
const TEXTS: &[Named] = &[("text[]", 1009)];
const TIME: &[Named] = &[("timestamp with time zone", 1184)];

/// The columns that are read and written, and the types that serve, the usual one first.
const COLUMNS: [(&str, &[Named]); 8] = [
    ("slice", INTEGER),
    ("entity_type", TEXT),
    ("persistence_id", TEXT),
    ("revision", BIGINT),
    ("db_timestamp", TIME),
    ("state_ser_id", INTEGER),
    ("state_ser_manifest", TEXT),
    ("tags", TEXTS),
];

/// The column whose type is a setting.
const PAYLOAD: &str = "state_payload";

/// The columns that a change of a row sets.
const CHANGED: [&str; 6] = [
    "revision",
    "db_timestamp",
    "state_ser_id",
    "state_ser_manifest",
    PAYLOAD,
    "tags",
];

/// The relation that the search path finds, and what applies to this role there.
pub(super) const SELECT_TABLE: &str = "\
SELECT
  relkind::text AS kind,
  row_security_active(oid) AS row_security,
  has_table_privilege(oid, 'DELETE') AS may_delete,
  current_setting('server_encoding') AS encoding
FROM pg_class
WHERE oid = to_regclass($1)";

/// Its columns, with the OIDs of their types; of a domain the type that is behind it.
pub(super) const SELECT_COLUMNS: &str = "\
WITH RECURSIVE columns AS (
  SELECT attname::text AS name, atttypid AS declared, atttypid AS type
  FROM pg_attribute
  WHERE attrelid = to_regclass($1)
    AND attnum > 0
    AND NOT attisdropped
  UNION ALL
  SELECT name, declared, typbasetype
  FROM columns
  JOIN pg_type ON oid = type AND typtype = 'd'
)
SELECT
  name,
  type::bigint,
  -- With quote_all_identifiers = on the name is quoted.
  translate(format_type(declared, NULL), '\"', '')
FROM columns
WHERE NOT EXISTS (
  SELECT FROM pg_type WHERE oid = type AND typtype = 'd'
)";

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
  -- Those behind INCLUDE are no part of the key.
  AND k.position <= i.indnkeyatts
GROUP BY i.indexrelid";

/// Whether the role may do this with these columns; a right on the table counts for each of them.
pub(super) const SELECT_PRIVILEGE: &str = "\
SELECT coalesce(bool_and(has_column_privilege(attrelid, attnum, $2)), FALSE)
FROM pg_attribute
WHERE attrelid = to_regclass($1)
  AND attname::text = ANY($3)";

/// What the check found besides what it demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsPerId {
    /// A unique index on `persistence_id` makes a second row impossible, whoever writes.
    OneByIndex,
    /// The writers see to it.
    OneByProtocol,
}

/// Refuses a table that would not keep the store's promises.
pub(super) async fn check(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<RowsPerId, OpenError> {
    let deadline = answer_deadline(settings);
    let (known, encoding) = find(connection, deadline).await?;
    check_columns(connection, deadline, settings.payload_column).await?;
    let rows_per_id = check_indexes(connection, deadline).await?;
    check_privileges(connection, deadline, settings).await?;
    if known.row_security && settings.row_security == RowSecurity::Refuse {
        return Err(OpenError::RowSecurity { table: TABLE });
    }
    if settings.access == Access::ReadWrite {
        try_writes(connection, settings, known).await?;
    }
    if encoding != "UTF8" {
        tracing::warn!(
            encoding,
            "the database is not in UTF-8: ids and texts that it cannot represent are refused"
        );
    }
    Ok(rows_per_id)
}

/// The table, and the encoding of its database.
async fn find(
    connection: &mut PgConnection,
    deadline: Duration,
) -> Result<(Known, String), OpenError> {
    let asking = sqlx::query(SELECT_TABLE).bind(TABLE);
    let found = within(deadline, asking.fetch_optional(connection)).await?;
    let Some(found) = found else {
        return Err(OpenError::TableMissing { table: TABLE });
    };
    let protocol = |_| OpenError::Unreachable(Cause::Protocol);
    let kind: String = found.try_get("kind").map_err(protocol)?;
    let found_kind = match kind.as_str() {
        "r" | "p" => None,
        "v" | "m" => Some("a view"),
        "f" => Some("a foreign table"),
        _ => Some("another relation"),
    };
    if let Some(found) = found_kind {
        return Err(OpenError::NotATable {
            table: TABLE,
            found,
        });
    }
    let known = Known {
        row_security: found.try_get("row_security").map_err(protocol)?,
        may_delete: found.try_get("may_delete").map_err(protocol)?,
    };
    Ok((known, found.try_get("encoding").map_err(protocol)?))
}

async fn check_columns(
    connection: &mut PgConnection,
    deadline: Duration,
    payload_column: PayloadColumn,
) -> Result<(), OpenError> {
    let asking = sqlx::query_as::<_, (String, i64, String)>(SELECT_COLUMNS).bind(TABLE);
    let found = within(deadline, asking.fetch_all(connection)).await?;
    let payload: &[Named] = match payload_column {
        PayloadColumn::Bytea => &[("bytea", 17)],
        PayloadColumn::Json => &[("json", 114)],
        PayloadColumn::Jsonb => &[("jsonb", 3802)],
    };
    for (column, types) in COLUMNS.into_iter().chain([(PAYLOAD, payload)]) {
        let of_column = found.iter().find(|(name, ..)| name == column);
        if of_column.is_some_and(|(_, found, _)| types.iter().any(|(_, oid)| oid == found)) {
            continue;
        }
        return Err(OpenError::ColumnMismatch {
            table: TABLE,
            column,
            expected: types.first().map_or("", |(name, _)| name),
            found: of_column.map_or("nothing", |(.., found)| found).into(),
        });
    }
    Ok(())
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

/// DELETE is needed by erasures alone, which few deployments use.
async fn check_privileges(
    connection: &mut PgConnection,
    deadline: Duration,
    settings: &StoreSettings,
) -> Result<(), OpenError> {
    let all = COLUMNS.map(|(column, _)| column);
    let all = [&all[..], &[PAYLOAD]].concat();
    let needed: [(&str, &[&str]); 3] = [("SELECT", &all), ("INSERT", &all), ("UPDATE", &CHANGED)];
    let count = match settings.access {
        Access::ReadWrite => needed.len(),
        Access::ReadOnly => 1,
    };
    for (privilege, columns) in needed.into_iter().take(count) {
        let asking = sqlx::query_scalar::<_, bool>(SELECT_PRIVILEGE)
            .bind(TABLE)
            .bind(privilege)
            .bind(columns);
        if !within(deadline, asking.fetch_one(&mut *connection)).await? {
            return Err(OpenError::MissingPrivilege {
                privilege,
                table: TABLE,
            });
        }
    }
    Ok(())
}
