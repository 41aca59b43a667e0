//! Tables beside the states, which the promises of companions and guards are checked with.
//!
//! Companions and guards are described in the SQL of each backend, so these tables are made, and looked at, in the database
//! itself: the store knows nothing of them.

use std::fmt;

use super::TestResult;
use crate::store::{CompanionColumn, CompanionKind, CompanionSql, GuardKind};

/// The database behind a fixture's store.
#[derive(Clone)]
#[non_exhaustive]
pub enum Database {
    /// A PostgreSQL database, by its URL.
    #[cfg(feature = "postgres")]
    Postgres(String),
    /// A SQLite file.
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
}

/// A note beside an entity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    pub(super) persistence_id: String,
    pub(super) name: String,
    pub(super) slice: i64,
    pub(super) revision: i64,
    pub(super) number: Option<i64>,
    pub(super) bytes: Option<Vec<u8>>,
    /// In microseconds since 1970.
    pub(super) noted_at: Option<i64>,
}

/// Adds a note.
pub(super) static NOTE: CompanionKind = CompanionKind::new(
    &[
        CompanionColumn::text("name"),
        CompanionColumn::integer("number"),
        CompanionColumn::bytes("bytes"),
        CompanionColumn::time("noted_at"),
    ],
    CompanionSql::new(INSERT_NOTES),
    CompanionSql::new(INSERT_NOTES),
);

/// The same on both: the types are those of the relation.
const INSERT_NOTES: &str = "\
INSERT INTO notes (persistence_id, name, slice, revision, number, bytes, noted_at, written_at)
SELECT persistence_id, name, slice, revision, number, bytes, noted_at, written_at FROM companion";

/// Removes a note, which has to be there.
pub(super) static REMOVED: CompanionKind = CompanionKind::new(
    &[CompanionColumn::text("name")],
    CompanionSql::new(
        "DELETE FROM notes AS n USING companion AS c
         WHERE n.persistence_id = c.persistence_id AND n.name = c.name",
    )
    .requiring(
        "EXISTS (
           SELECT FROM notes AS n
           WHERE n.persistence_id = companion.persistence_id AND n.name = companion.name
           FOR UPDATE
         )",
    ),
    CompanionSql::new(
        "DELETE FROM notes WHERE (persistence_id, name) IN (SELECT persistence_id, name FROM companion)",
    )
    .requiring(
        "EXISTS (
           SELECT 1 FROM notes AS n
           WHERE n.persistence_id = companion.persistence_id AND n.name = companion.name
         )",
    ),
);

/// The right to a range of eight slices.
pub(super) static LEASES: GuardKind = GuardKind::new(
    "SELECT lost
     FROM (
       SELECT
         array_agg(ordinal ORDER BY ordinal) AS ordinals,
         array_agg(first_slice / 8 ORDER BY ordinal) AS ranges,
         array_agg(epoch ORDER BY ordinal) AS epochs
       FROM guard
     ) AS g, lost_leases(g.ordinals, g.ranges, g.epochs) AS lost",
    "SELECT ordinal FROM guard AS g
     WHERE NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.range_id = g.first_slice / 8 AND l.epoch = g.epoch)",
);

#[cfg(feature = "postgres")]
const POSTGRES_TABLES: &str = "\
CREATE TABLE notes (
  persistence_id varchar(255) NOT NULL,
  name varchar(20) NOT NULL CHECK (name <> 'refused'),
  slice int NOT NULL,
  revision bigint NOT NULL,
  number bigint,
  bytes bytea,
  noted_at timestamptz,
  written_at timestamptz NOT NULL,
  PRIMARY KEY (persistence_id, name)
);
CREATE TABLE leases (range_id int PRIMARY KEY, epoch bigint NOT NULL);
INSERT INTO leases SELECT n, 1 FROM generate_series(0, 127) AS n;
CREATE FUNCTION lost_leases(ordinals bigint[], ranges int[], epochs bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(7301, r) FROM (SELECT unnest(ranges) AS r ORDER BY 1) AS o;
  -- A statement of its own sees what was committed while it waited.
  RETURN QUERY
    SELECT g.ordinal
    FROM unnest(ordinals, ranges, epochs) AS g (ordinal, range_id, epoch)
    WHERE NOT EXISTS (SELECT FROM leases AS l WHERE l.range_id = g.range_id AND l.epoch = g.epoch);
END $$;";

#[cfg(feature = "sqlite")]
const SQLITE_TABLES: &str = "\
CREATE TABLE notes (
  persistence_id TEXT NOT NULL,
  name TEXT NOT NULL CHECK (name <> 'refused'),
  slice INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  number INTEGER,
  bytes BLOB,
  noted_at INTEGER,
  written_at INTEGER NOT NULL,
  PRIMARY KEY (persistence_id, name)
);
CREATE TABLE leases (range_id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
INSERT INTO leases
WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 127) SELECT n, 1 FROM n;";

#[cfg(feature = "postgres")]
const POSTGRES_NOTES: &str = "\
SELECT persistence_id, name, slice::bigint, revision, number, bytes,
  (extract(epoch FROM noted_at) * 1000000)::bigint
FROM notes
ORDER BY persistence_id, name";

#[cfg(feature = "sqlite")]
const SQLITE_NOTES: &str = "\
SELECT persistence_id, name, slice, revision, number, bytes, noted_at FROM notes ORDER BY persistence_id, name";

/// A note as a row.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
type Columns = (
    String,
    String,
    i64,
    i64,
    Option<i64>,
    Option<Vec<u8>>,
    Option<i64>,
);

/// Shows no URL.
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(
        clippy::unused_async,
        unreachable_code,
        unused_variables,
        reason = "without a backend there is no database"
    )
)]
impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match *self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "Postgres",
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "Sqlite",
        })
    }
}

#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(
        clippy::unused_async,
        unreachable_code,
        unused_variables,
        reason = "without a backend there is no database"
    )
)]
impl Database {
    /// Makes the tables.
    pub(super) async fn make_tables(&self) -> TestResult {
        match *self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => self.execute(POSTGRES_TABLES).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => self.execute(SQLITE_TABLES).await,
        }
    }

    /// Runs statements.
    pub(super) async fn execute(&self, sql: &str) -> TestResult {
        match *self {
            #[cfg(feature = "postgres")]
            Self::Postgres(ref url) => {
                use sqlx::{Connection as _, Executor as _};
                let mut connection = sqlx::PgConnection::connect(url).await?;
                connection.execute(sql).await?;
                Ok(connection.close().await?)
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(ref path) => {
                use sqlx::{Connection as _, Executor as _};
                let mut connection = sqlite(path).await?;
                connection.execute(sql).await?;
                Ok(connection.close().await?)
            }
        }
    }

    /// All notes, by their entity and their name.
    pub(super) async fn notes(&self) -> TestResult<Vec<Note>> {
        match *self {
            #[cfg(feature = "postgres")]
            Self::Postgres(ref url) => {
                use sqlx::Connection as _;
                let mut connection = sqlx::PgConnection::connect(url).await?;
                let rows = sqlx::query_as(POSTGRES_NOTES);
                let rows = rows.fetch_all(&mut connection).await?;
                connection.close().await?;
                Ok(sorted(rows))
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(ref path) => {
                use sqlx::Connection as _;
                let mut connection = sqlite(path).await?;
                let rows = sqlx::query_as(SQLITE_NOTES);
                let rows = rows.fetch_all(&mut connection).await?;
                connection.close().await?;
                Ok(sorted(rows))
            }
        }
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(path: &std::path::Path) -> Result<sqlx::SqliteConnection, sqlx::Error> {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    options.connect().await
}

/// Rows as notes, by their entity and their name.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn sorted(rows: Vec<Columns>) -> Vec<Note> {
    let notes = rows.into_iter().map(
        |(persistence_id, name, slice, revision, number, bytes, noted_at)| Note {
            persistence_id,
            name,
            slice,
            revision,
            number,
            bytes,
            noted_at,
        },
    );
    let mut notes: Vec<Note> = notes.collect();
    notes.sort();
    notes
}
