//! Whether the table takes the store's writes: tried once at opening, and taken back.
//!
//! **Problem.** A catalog cannot tell. A deferrable key, an added column without a default, a rule, a trigger that drops
//! rows: each leaves a table that looks fit and takes no write. **How.** The store's own statements insert, update and
//! remove one row in a transaction that is always rolled back. The id is one that Pekko and this library refuse, and names
//! this server process, so no entity and no other store that opens has it.
//!
//! **What counts.** An error about the form of the table or the rights on it, or a row that does not come back, refuses the
//! table. An error that may be about the values of this one row (a check, a foreign key, a policy, an exception of a trigger)
//! and a table that is locked just now leave a warning. **Not here.** What a trigger does outside the transaction cannot be
//! taken back.

use sqlx::postgres::PgDatabaseError;
use sqlx::{Executor as _, PgConnection};

use crate::connect::{PayloadColumn, StoreSettings};
use crate::deadline::within;
use crate::error::Cause;
use crate::open_error::OpenError;
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::postgres::connection::answer_deadline;
use crate::postgres::durable_state::columns::Columns;
use crate::postgres::durable_state::create::{INSERT_STATES, ROLLBACK};
use crate::postgres::durable_state::update::{DELETE_STATES, UPDATE_STATES};
use crate::postgres::error::open_error;
use crate::postgres::identity::SELECT_PROCESS_ID;
use crate::postgres::table::TABLE;
use crate::revision::Revision;
use crate::store::Write;
use crate::tags::Tags;

/// A table that somebody holds locked is not waited for: that says nothing of its form.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '500ms'";

/// Whether the table has a column that no row can fill: one of neither the store nor a default, nor a trigger. A NULL that
/// was refused elsewhere came from the values of the trial row, such as in a generated column.
pub(in crate::postgres) const SELECT_UNFILLED: &str = "\
SELECT EXISTS (
    SELECT
    FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass($1)
      AND a.attnum > 0
      AND NOT a.attisdropped
      AND a.attnotnull
      -- Generated columns and identities have one, too.
      AND NOT a.atthasdef
      AND a.attidentity = ''
      AND a.attname::text <> ALL ($2::text[])
  )
  AND NOT EXISTS (
    SELECT
    FROM pg_trigger AS t
    WHERE t.tgrelid = to_regclass($1)
      AND NOT t.tgisinternal
      -- For each row, before, on insert.
      AND t.tgtype & 7 = 7
  )";

/// The columns that the store fills.
const FILLED: [&str; 9] = [
    "slice",
    "entity_type",
    "persistence_id",
    "revision",
    "db_timestamp",
    "state_ser_id",
    "state_ser_manifest",
    "state_payload",
    "tags",
];

/// What the trial should know of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Known {
    /// Policies decide which rows this role writes.
    pub(in crate::postgres) row_security: bool,
    /// This role may remove rows. Only erasures need that.
    pub(in crate::postgres) may_delete: bool,
}

/// A NULL where the table takes none: `not_null_violation`.
const NOT_NULL: &str = "23502";

/// A statement of the trial that did not do its work.
struct Failed {
    operation: &'static str,
    reason: Reason,
}

enum Reason {
    /// The server said no, or said nothing.
    Sqlx(sqlx::Error),
    /// The statement succeeded, and the row did not come back.
    NoRow,
}

/// Refuses a table that does not take the store's writes.
pub(in crate::postgres) async fn try_writes(
    connection: &mut PgConnection,
    settings: &StoreSettings,
    known: Known,
) -> Result<(), OpenError> {
    let deadline = answer_deadline(settings);
    // Without tags first: that is what a mapping without tags writes.
    for tags in [Tags::NONE, Tags::one("user-state")] {
        let trial = attempt(connection, settings.payload_column, known, tags);
        let tried = within(deadline, trial)
            .await
            .map_err(|_| OpenError::Unreachable(Cause::Deadline))?;
        within(deadline, connection.execute(ROLLBACK))
            .await
            .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
            .map_err(|error| open_error(&error))?;
        let Err(failed) = tried else {
            return Ok(());
        };
        if failed.needs_tags() {
            tracing::warn!(
                "the column tags refuses NULL, so states without tags cannot be created"
            );
            continue;
        }
        if failed.refused_null() {
            let asking = sqlx::query_scalar(SELECT_UNFILLED)
                .bind(TABLE)
                .bind(FILLED.map(str::to_owned).to_vec())
                .fetch_one(&mut *connection);
            let is_unfilled: bool = within(deadline, asking)
                .await
                .map_err(|_| OpenError::Unreachable(Cause::Deadline))?
                .map_err(|error| open_error(&error))?;
            if !is_unfilled {
                failed.warn(NOT_NULL);
                return Ok(());
            }
        }
        return failed.judge(known);
    }
    Ok(())
}

/// The writes of one row: it is made, gets a second revision, and is removed.
async fn attempt(
    connection: &mut PgConnection,
    payload_column: PayloadColumn,
    known: Known,
    tags: Tags,
) -> Result<(), Failed> {
    let failed = |operation| move |error| Failed::new(operation, Reason::Sqlx(error));
    let process_id: i32 = sqlx::query_scalar(SELECT_PROCESS_ID)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("BEGIN"))?;
    // Two separators and nothing behind the last: an id that neither Pekko nor this library gives an entity.
    let id = PersistenceId::stored(&format!("user-state|opening {process_id}|"));
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("user-state"),
        bytes: b"{}".to_vec(),
    };
    connection.execute(BEGIN).await.map_err(failed("BEGIN"))?;

    let create = Write::create(id.clone(), payload.clone()).tags(tags.clone());
    let writes = [&create];
    let columns = Columns::of(&writes);
    let inserted = sqlx::query(INSERT_STATES.of(payload_column))
        .bind(columns.slice())
        .bind(columns.entity_type())
        .bind(columns.persistence_id())
        .bind(columns.revision())
        .bind(columns.state_ser_id())
        .bind(columns.state_ser_manifest())
        .bind(columns.state_payload(payload_column))
        .bind(columns.tags())
        .fetch_optional(&mut *connection)
        .await;
    came_back("INSERT", inserted)?;

    let update = Write::update(id.clone(), Revision::FIRST, payload).tags(tags);
    let second = update.new_revision();
    let writes = [&update];
    let columns = Columns::of(&writes);
    let updated = sqlx::query(UPDATE_STATES.of(payload_column))
        .bind(columns.persistence_id())
        .bind(columns.expected())
        .bind(columns.expected_at())
        .bind(columns.revision())
        .bind(columns.state_ser_id())
        .bind(columns.state_ser_manifest())
        .bind(columns.state_payload(payload_column))
        .bind(columns.tags())
        .bind(columns.keeps_tags())
        .fetch_optional(&mut *connection)
        .await;
    came_back("UPDATE", updated)?;

    if !known.may_delete {
        return Ok(());
    }
    let erase = Write::erase(id, second);
    let writes = [&erase];
    let columns = Columns::of(&writes);
    let erased = sqlx::query(DELETE_STATES)
        .bind(columns.persistence_id())
        .bind(columns.expected())
        .bind(columns.expected_at())
        .fetch_optional(&mut *connection)
        .await;
    came_back("DELETE", erased)
}

fn came_back<R>(
    operation: &'static str,
    answer: Result<Option<R>, sqlx::Error>,
) -> Result<(), Failed> {
    match answer {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failed::new(operation, Reason::NoRow)),
        Err(error) => Err(Failed::new(operation, Reason::Sqlx(error))),
    }
}

impl Failed {
    fn new(operation: &'static str, reason: Reason) -> Self {
        Self { operation, reason }
    }

    fn answer(&self) -> Option<&PgDatabaseError> {
        match &self.reason {
            Reason::Sqlx(error) => error.as_database_error()?.try_downcast_ref(),
            Reason::NoRow => None,
        }
    }

    fn refused_null(&self) -> bool {
        self.answer().is_some_and(|error| error.code() == NOT_NULL)
    }

    /// Whether a NULL in column `tags` was refused.
    fn needs_tags(&self) -> bool {
        self.refused_null()
            && self
                .answer()
                .is_some_and(|error| error.column() == Some("tags"))
    }

    fn warn(&self, code: &str) {
        tracing::warn!(
            operation = self.operation,
            code,
            "the table refused a trial row, perhaps for its values alone; it may refuse others"
        );
    }

    /// A refusal of the table, or a warning.
    fn judge(&self, known: Known) -> Result<(), OpenError> {
        let operation = self.operation;
        let code = self.answer().map(PgDatabaseError::code).unwrap_or_default();
        match self.verdict(code, known) {
            Verdict::OfThisRow => self.warn(code),
            Verdict::Busy => tracing::warn!(
                operation,
                code,
                "the table is locked, so whether it takes writes was not tried"
            ),
            // Only erasures remove rows, and most deployments have none.
            Verdict::Unfit(advice) if operation == "DELETE" => tracing::warn!(
                code,
                advice,
                "the table does not let rows be removed; erasing deletions will fail"
            ),
            Verdict::Unfit(advice) => {
                return Err(OpenError::Unwritable {
                    table: TABLE,
                    operation,
                    advice,
                    reason: self.cause()?,
                });
            }
        }
        Ok(())
    }

    fn verdict(&self, code: &str, known: Known) -> Verdict {
        match &self.reason {
            Reason::NoRow if known.row_security => Verdict::OfThisRow,
            Reason::NoRow => Verdict::Unfit(
                "drop the trigger, rule or additional unique index that keeps the row away",
            ),
            Reason::Sqlx(_) => Verdict::of(code, known.row_security),
        }
    }

    /// What the server answered; the error itself if that is not about the table.
    fn cause(&self) -> Result<Cause, OpenError> {
        match &self.reason {
            Reason::NoRow => Ok(Cause::other("the statement succeeded and wrote no row")),
            Reason::Sqlx(error) => match open_error(error) {
                OpenError::Database(cause) => Ok(cause),
                OpenError::AuthenticationFailed(error) => Ok(Cause::Database(error)),
                other => Err(other),
            },
        }
    }
}

/// What an answer says of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It takes no writes of the store, and what to do about it.
    Unfit(&'static str),
    /// It does not take this row; of others nothing is said.
    OfThisRow,
    /// Somebody else holds it.
    Busy,
}

impl Verdict {
    /// Sorts by SQLSTATE (PostgreSQL's documentation, "PostgreSQL Error Codes").
    fn of(code: &str, row_security: bool) -> Self {
        let (class, subclass) = code.split_at_checked(2).unwrap_or_default();
        match (class, subclass) {
            ("55", "P03") | ("57", "014") | ("40", _) => Self::Busy,
            ("23", "502") => Self::Unfit("give the added NOT NULL column a default, or drop it"),
            ("42", "501") if row_security => Self::OfThisRow,
            ("42", "501") => {
                Self::Unfit("grant this role what the table's columns, defaults and triggers need")
            }
            ("22" | "23" | "44" | "54" | "P0", _) => Self::OfThisRow,
            ("55", "000") => Self::Unfit("make its unique constraints not deferrable"),
            ("0A", "000") => Self::Unfit("drop its rules, or make them triggers"),
            ("42", "8C9") => Self::Unfit("make its generated columns ordinary ones"),
            _ => Self::Unfit("compare the table with the project's migration"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trials_id_is_one_that_no_entity_has() {
        let id = format!("user-state|opening {}|", i32::MAX);
        assert!(PersistenceId::unique(&id).is_err());
    }

    #[test]
    fn answers_about_values_never_refuse_a_table_and_answers_about_its_form_do() {
        for code in ["23503", "23514", "22001", "P0001", "44000"] {
            assert_eq!(Verdict::of(code, false), Verdict::OfThisRow, "{code}");
        }
        for code in [
            "23502", "42501", "55000", "0A000", "428C9", "42703", "XX002",
        ] {
            assert!(
                matches!(Verdict::of(code, false), Verdict::Unfit(_)),
                "{code}"
            );
        }
        assert_eq!(Verdict::of("42501", true), Verdict::OfThisRow);
        assert_eq!(Verdict::of("55P03", false), Verdict::Busy);
    }
}
