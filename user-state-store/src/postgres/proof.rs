//! What a connection is set to, and what it proves before it is used.
//!
//! **Problem.** Opening a store checks one connection. The next one may reach another server, have another role's
//! settings, or come through a pooler that drops what it was asked for. **How.** Every connection is set by statement
//! and then asked for what is in force: two statements, once per connection and again when there is a doubt.
//!
//! **Not here.** The columns, keys and privileges of the table: statements that miss those fail by themselves.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::connect::{Access, Durability, StoreSettings};
use crate::deadline::within;
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::postgres::error::{open_error, refused_setting};
use crate::postgres::setting::{self, Setting};
use crate::postgres::table::TABLE;

/// The oldest server: the first with `plan_cache_mode`. Older ones get no more security fixes either.
const SERVER_VERSION_MIN: (i32, &str) = (120_000, "12");

const SYNCHRONOUS_COMMIT: &str = "synchronous_commit";

/// Sets settings for the session, and gives each as the server shows it.
pub(super) const SET_SETTINGS: &str = "\
SELECT w.name, set_config(w.name, w.value, false)
FROM UNNEST($1::text[], $2::text[]) AS w (name, value)";

/// Lets commits wait for the disk where they would not. The other values do so too, as long as the server itself
/// survives, and are the operator's choice.
pub(super) const SET_SYNCHRONOUS_COMMIT: &str = "\
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off'";

/// What the server is and promises, and which table this session finds.
pub(super) const SELECT_PROOF: &str = "\
WITH RECURSIVE relation (oid) AS (
  SELECT to_regclass($1)::oid
  UNION
  -- Partitions, and tables that inherit.
  SELECT i.inhrelid
  FROM relation AS r
  JOIN pg_inherits AS i ON i.inhparent = r.oid
)
SELECT
  current_setting('server_version_num')::int AS version_number,
  current_setting('server_version') AS version,
  pg_is_in_recovery() AS in_recovery,
  current_setting('transaction_read_only') AS read_only,
  current_setting('fsync') AS fsync,
  current_setting('full_page_writes') AS full_page_writes,
  current_setting('synchronous_commit') AS synchronous_commit,
  (
    SELECT n.nspname::text
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass($1)
  ) AS schema,
  (
    SELECT c.relpersistence::text || c.relname::text
    FROM relation AS r
    JOIN pg_class AS c ON c.oid = r.oid
    WHERE c.relpersistence <> 'p'
      -- A partitioned table holds no rows itself.
      AND c.relkind <> 'p'
    ORDER BY c.relname
    LIMIT 1
  ) AS not_permanent,
  (
    SELECT w.name
    FROM UNNEST($2::text[], $3::text[]) AS w (name, value)
    WHERE current_setting(w.name, true) IS DISTINCT FROM w.value
    LIMIT 1
  ) AS not_in_force";

/// What connections of one kind are set to and have to prove.
#[derive(Clone)]
pub(super) struct Standard {
    settings: Vec<Setting>,
    commits: Commits,
    writable: bool,
    durable: bool,
    /// The schema in which opening found the table.
    schema: Option<Box<str>>,
    limit: Duration,
}

/// Whether a connection commits anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commits {
    /// It has to, durably: made so unless the user asked for something else.
    Durably { asked_otherwise: bool },
    /// What it commits need not be durable, or it commits nothing.
    Whatever,
}

impl Standard {
    /// For connections that read, set to what was asked for.
    pub(super) fn of_reads(asked: Vec<Setting>, settings: &StoreSettings) -> Self {
        let writable = settings.access == Access::ReadWrite;
        Self {
            settings: asked,
            commits: Commits::Whatever,
            writable,
            durable: writable && settings.durability == Durability::Required,
            schema: None,
            limit: settings.connect_timeout,
        }
    }

    /// For the store's own sessions.
    pub(super) fn of_sessions(asked: Vec<Setting>, settings: &StoreSettings) -> Self {
        let asked_otherwise = asked
            .iter()
            .any(|setting| setting.name.eq_ignore_ascii_case(SYNCHRONOUS_COMMIT));
        let mut standard = Self::of_reads(asked, settings);
        if standard.durable {
            standard.commits = Commits::Durably { asked_otherwise };
        }
        standard
    }

    /// The same with further settings, which win over those asked for.
    pub(super) fn with(mut self, settings: impl IntoIterator<Item = Setting>) -> Self {
        for setting in settings {
            setting::put(&mut self.settings, setting);
        }
        self
    }

    /// The same for a table that was found in this schema.
    pub(super) fn in_schema(mut self, schema: Box<str>) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Sets a connection and has it prove that it is fit. Gives the schema in which it finds the table.
    pub(super) async fn prove(&self, connection: &mut PgConnection) -> Result<Box<str>, OpenError> {
        within(self.limit, async {
            let shown = self.set(connection).await?;
            let (names, values): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
            let proof = sqlx::query(SELECT_PROOF)
                .bind(TABLE)
                .bind(names)
                .bind(values)
                .fetch_one(connection)
                .await
                .map_err(|error| open_error(&error))?;
            self.judge(&proof)
        })
        .await
        .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
    }

    /// Sets a connection. Gives names and values as the server shows them.
    pub(super) async fn set(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<(String, String)>, OpenError> {
        let shown = match set(connection, &self.settings).await {
            Ok(shown) => shown,
            Err(error) => return Err(self.refused(connection, &error).await),
        };
        if self.commits
            == (Commits::Durably {
                asked_otherwise: false,
            })
        {
            sqlx::query(SET_SYNCHRONOUS_COMMIT)
                .execute(connection)
                .await
                .map_err(|error| refused_setting(SYNCHRONOUS_COMMIT, &error))?;
        }
        Ok(shown)
    }

    /// Which of the settings was refused.
    async fn refused(&self, connection: &mut PgConnection, error: &sqlx::Error) -> OpenError {
        for setting in &self.settings {
            if let Err(error) = set(connection, std::slice::from_ref(setting)).await {
                return refused_setting(&setting.name, &error);
            }
        }
        open_error(error)
    }

    fn judge(&self, proof: &PgRow) -> Result<Box<str>, OpenError> {
        let text = |name: &str| proof.try_get::<Option<String>, _>(name).ok().flatten();
        let is = |name: &str, value: &str| text(name).as_deref() == Some(value);
        let (number_min, minimum) = SERVER_VERSION_MIN;
        let number = proof.try_get::<i32, _>("version_number");
        if number.unwrap_or_default() < number_min {
            return Err(OpenError::ServerTooOld {
                found: text("version").unwrap_or_default().into(),
                minimum,
            });
        }
        if self.writable && proof.try_get("in_recovery").unwrap_or(true) {
            return Err(OpenError::ReadOnly {
                why: "the server is in recovery, as a standby is",
            });
        }
        if self.writable && !is("read_only", "off") {
            return Err(OpenError::ReadOnly {
                why: "transactions are read-only by default",
            });
        }
        if let Some(setting) = text("not_in_force") {
            return Err(OpenError::SettingRefused {
                setting: setting.into(),
                cause: Cause::other("it was set, and is not in force"),
            });
        }
        let schema: Box<str> = text("schema")
            .ok_or(OpenError::TableMissing { table: TABLE })?
            .into();
        if self.durable {
            self.judge_durability(text)?;
        }
        match &self.schema {
            Some(expected) if *expected != schema => Err(OpenError::OtherTable {
                table: TABLE,
                expected: expected.clone(),
                found: schema,
            }),
            _ => Ok(schema),
        }
    }

    fn judge_durability(&self, text: impl Fn(&str) -> Option<String>) -> Result<(), OpenError> {
        let not_durable = |setting: String, value: &str| {
            Err(OpenError::NotDurable {
                setting: setting.into(),
                value: value.into(),
            })
        };
        let of_commits = (self.commits != Commits::Whatever).then_some(SYNCHRONOUS_COMMIT);
        for setting in ["fsync", "full_page_writes"].into_iter().chain(of_commits) {
            if text(setting).is_none_or(|value| value == "off") {
                return not_durable(setting.to_owned(), "off");
            }
        }
        let relation = text("not_permanent");
        match relation.as_deref().and_then(|it| it.split_at_checked(1)) {
            Some(("u", table)) => not_durable(format!("table {table}"), "unlogged"),
            Some((_, table)) => not_durable(format!("table {table}"), "temporary"),
            None => Ok(()),
        }
    }
}

/// Sets these, and gives names and values as the server shows them.
async fn set(
    connection: &mut PgConnection,
    settings: &[Setting],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    if settings.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = settings.iter().map(|it| &*it.name).collect();
    let values: Vec<&str> = settings.iter().map(|it| &*it.value).collect();
    sqlx::query_as(SET_SETTINGS)
        .bind(names)
        .bind(values)
        .fetch_all(connection)
        .await
}
