//! Rows of other tables that commit with a write, or not at all.
//!
//! **Problem.** What belongs to a write but has no place in its row (the id of the command that made it, a reminder, how far
//! a queue was read) must not be stored without the write, and must not be missing after it.
//!
//! **How.** A [`Write`](crate::Write) carries [`Companion`]s. A [`CompanionKind`] describes what becomes of those of one
//! kind: its columns, and the statement that a backend runs with the companions of those writes that were applied. The
//! write path knows no table of a companion.
//!
//! **Guarantees.** The companions of a write are stored if the write is applied, in the same transaction, and only then. A
//! companion that the database refuses refuses its own write and no other.
//!
//! **Not here.** Reading companions, and making their tables.

use std::fmt;
use std::slice;

use chrono::{DateTime, Utc};

/// What is counted for a companion beside its values, in bytes: its number, its id, its revision.
const ROW_BYTES: usize = 64;

/// What becomes of the companions of one kind; one `static` for each kind.
///
/// The statements read a relation `companion`, which holds the companions of those writes of the batch that were applied:
///
/// | column | PostgreSQL | SQLite | what it is |
/// |---|---|---|---|
/// | `persistence_id` | `text` | `TEXT` | the entity that is written |
/// | `slice` | `int` | `INTEGER` | its slice |
/// | `revision` | `bigint` | `INTEGER` | its revision after the write; 0 after [`Change::Erase`](crate::Change::Erase) |
/// | `written_at` | `timestamptz` | `INTEGER` | when the write is made, by the database's clock; in microseconds since 1970 on SQLite |
/// | those of the kind | see [`CompanionColumn`] | | what the companion holds |
///
/// On PostgreSQL one statement serves a whole batch and sees the tables as they were before the batch. So no two companions
/// of a batch may change one row.
///
/// ```
/// use user_state_store::{Companion, CompanionColumn, CompanionKind, CompanionSql};
///
/// static COMMAND_ID: CompanionKind = CompanionKind::new(
///     &[CompanionColumn::text("command_id")],
///     CompanionSql::new(
///         "INSERT INTO commands (persistence_id, command_id, revision, created_at)
///          SELECT persistence_id, command_id, revision, written_at FROM companion",
///     ),
///     CompanionSql::new(
///         "INSERT INTO commands (persistence_id, command_id, revision, created_at)
///          SELECT persistence_id, command_id, revision, written_at FROM companion",
///     ),
/// );
///
/// let id = Companion::new(&COMMAND_ID, ["0e3a7c1e".into()])?;
/// assert!(Companion::new(&COMMAND_ID, [7.into()]).is_err(), "the column holds text");
/// # Ok::<(), user_state_store::InvalidCompanion>(())
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct CompanionKind {
    columns: &'static [CompanionColumn],
    postgres: CompanionSql,
    sqlite: CompanionSql,
}

/// What a backend runs for companions. See [`CompanionKind`].
///
/// ```
/// use user_state_store::CompanionSql;
///
/// // A reminder is used up by the command that it asked for, once.
/// const USE_UP: CompanionSql = CompanionSql::new(
///     "DELETE FROM reminders AS r USING companion AS c
///      WHERE r.persistence_id = c.persistence_id AND r.name = c.name",
/// )
/// .requiring(
///     "EXISTS (
///        SELECT FROM reminders AS r
///        WHERE r.persistence_id = companion.persistence_id AND r.name = companion.name
///        FOR UPDATE
///      )",
/// );
/// assert!(USE_UP.requires().is_some());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompanionSql {
    run: &'static str,
    requires: Option<&'static str>,
}

/// A column of a kind of companions.
///
/// ```
/// use user_state_store::{CompanionColumn, CompanionType};
///
/// assert_eq!(CompanionColumn::time("due_at").holds(), CompanionType::Time);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompanionColumn {
    name: &'static str,
    holds: CompanionType,
}

/// What a column of companions holds. Every column takes [`CompanionValue::Null`], too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompanionType {
    /// `bigint` on PostgreSQL, `INTEGER` on SQLite.
    Integer,
    /// `text`, `TEXT`. A statement may cast it to whatever has a text form.
    Text,
    /// `bytea`, `BLOB`.
    Bytes,
    /// `timestamptz`; an `INTEGER` of microseconds since 1970 on SQLite.
    Time,
}

/// A value of a companion.
///
/// ```
/// use user_state_store::CompanionValue;
///
/// assert_eq!(CompanionValue::from(None::<i64>), CompanionValue::Null);
/// assert_eq!(format!("{:?}", CompanionValue::from("secret")), "Text(6 bytes)");
/// ```
///
/// Its `Debug` form shows how long a text or bytes are, never what they say.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompanionValue {
    /// None.
    Null,
    /// A number.
    Integer(i64),
    /// A text.
    Text(Box<str>),
    /// Bytes.
    Bytes(Box<[u8]>),
    /// An instant, stored in whole microseconds.
    Time(DateTime<Utc>),
}

/// A row of another table that commits with a write. See [`CompanionKind`].
///
/// ```
/// use user_state_store::{
///     Companion, CompanionColumn, CompanionKind, CompanionSql, PersistenceId,
///     Revision, SqliteStore, Store, StoreSettings, Write, WriteBatch, WriteOutcome,
/// };
///
/// const INSERT: CompanionSql = CompanionSql::new(
///     "INSERT INTO commands (persistence_id, command_id, revision)
///      SELECT persistence_id, command_id, revision FROM companion",
/// );
/// static COMMAND_ID: CompanionKind =
///     CompanionKind::new(&[CompanionColumn::text("command_id")], INSERT, INSERT);
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use sqlx::{ConnectOptions as _, Executor as _};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = Store::from(SqliteStore::open(&path, &StoreSettings::default()).await?);
/// # let file = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
/// # let mut connection = file.connect().await?;
/// # connection.execute("CREATE TABLE commands (persistence_id TEXT, command_id TEXT PRIMARY KEY, revision INTEGER)").await?;
/// let write = |user: &str| -> Result<Write, Box<dyn std::error::Error>> {
///     let command_id = Companion::new(&COMMAND_ID, ["0e3a7c1e".into()])?;
///     let create = Write::mark(PersistenceId::unique(user)?, Revision::NONE);
///     Ok(create.companions([command_id]))
/// };
/// let outcomes = store.states().write(&WriteBatch::new(vec![write("mall-a")?])?).await;
/// assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
///
/// // The table has this id, so it refuses the companion, and with it the write.
/// let outcomes = store.states().write(&WriteBatch::new(vec![write("mall-b")?])?).await;
/// assert!(matches!(outcomes[..], [WriteOutcome::NotApplied(_)]));
/// assert_eq!(store.states().load_one(&PersistenceId::unique("mall-b")?).await?, None);
/// # store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companion {
    kind: &'static CompanionKind,
    values: Box<[CompanionValue]>,
}

/// The companions of a write. Without any it is no larger than a pointer, and costs nothing.
///
/// ```
/// use user_state_store::Companions;
///
/// assert!(Companions::NONE.is_empty());
/// assert_eq!(size_of::<Companions>(), size_of::<usize>());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companions(Option<Box<Rows>>);

/// Behind one pointer, since nearly no write has any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    companions: Vec<Companion>,
}

/// Why values make no companion of their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCompanion {
    /// Not one value for each column.
    #[error("a companion of this kind has {columns} values, this one has {values}")]
    WrongNumber {
        /// How many columns the kind has.
        columns: usize,
        /// How many values there are.
        values: usize,
    },
    /// A value that its column does not hold.
    #[error("column {column} holds something else")]
    WrongType {
        /// The name of the column.
        column: &'static str,
    },
}

impl CompanionKind {
    /// A kind with these columns, and what each backend runs for it.
    pub const fn new(
        columns: &'static [CompanionColumn],
        postgres: CompanionSql,
        sqlite: CompanionSql,
    ) -> Self {
        Self {
            columns,
            postgres,
            sqlite,
        }
    }

    /// Its own columns, in the order of a companion's values.
    pub const fn columns(&self) -> &'static [CompanionColumn] {
        self.columns
    }

    /// What PostgreSQL runs.
    pub const fn postgres(&self) -> CompanionSql {
        self.postgres
    }

    /// What SQLite runs.
    pub const fn sqlite(&self) -> CompanionSql {
        self.sqlite
    }
}

impl CompanionSql {
    /// An `INSERT`, `UPDATE` or `DELETE` with the rows of `companion`. It returns nothing, and has no `WITH`, no parameters and
    /// no semicolon. A row that it leaves out without an error (`ON CONFLICT DO NOTHING`) refuses no write.
    pub const fn new(run: &'static str) -> Self {
        Self {
            run,
            requires: None,
        }
    }

    /// The same, for companions whose write is applied only if this condition holds for each of them. Otherwise the write is a
    /// [conflict](crate::WriteOutcome::Conflict): what it was decided on is not there any more.
    ///
    /// What is required has to be gone for good when it is gone: a lost write that conflicted over it is not tried again.
    ///
    /// The condition is an expression over one row of `companion`, such as `EXISTS (SELECT ...)`. On PostgreSQL its subquery
    /// has to lock the rows that it finds (`FOR UPDATE`), or another transaction can remove them meanwhile.
    #[must_use]
    pub const fn requiring(self, condition: &'static str) -> Self {
        Self {
            run: self.run,
            requires: Some(condition),
        }
    }

    /// The statement that is run.
    pub const fn run(self) -> &'static str {
        self.run
    }

    /// The condition that has to hold for each companion, if there is one.
    pub const fn requires(self) -> Option<&'static str> {
        self.requires
    }
}

impl CompanionColumn {
    /// A column of whole numbers.
    pub const fn integer(name: &'static str) -> Self {
        Self::new(name, CompanionType::Integer)
    }

    /// A column of texts.
    pub const fn text(name: &'static str) -> Self {
        Self::new(name, CompanionType::Text)
    }

    /// A column of bytes.
    pub const fn bytes(name: &'static str) -> Self {
        Self::new(name, CompanionType::Bytes)
    }

    /// A column of instants.
    pub const fn time(name: &'static str) -> Self {
        Self::new(name, CompanionType::Time)
    }

    const fn new(name: &'static str, holds: CompanionType) -> Self {
        Self { name, holds }
    }

    /// Its name in the relation `companion`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// What it holds.
    pub const fn holds(self) -> CompanionType {
        self.holds
    }

    fn takes(self, value: &CompanionValue) -> bool {
        match value {
            CompanionValue::Null => true,
            CompanionValue::Integer(_) => self.holds == CompanionType::Integer,
            CompanionValue::Text(_) => self.holds == CompanionType::Text,
            CompanionValue::Bytes(_) => self.holds == CompanionType::Bytes,
            CompanionValue::Time(_) => self.holds == CompanionType::Time,
        }
    }
}

impl Companion {
    /// A companion of this kind, with one value for each of its columns.
    ///
    /// # Errors
    /// If the values are not those of the columns.
    pub fn new(
        kind: &'static CompanionKind,
        values: impl IntoIterator<Item = CompanionValue>,
    ) -> Result<Self, InvalidCompanion> {
        let values: Box<[CompanionValue]> = values.into_iter().collect();
        if values.len() != kind.columns.len() {
            return Err(InvalidCompanion::WrongNumber {
                columns: kind.columns.len(),
                values: values.len(),
            });
        }
        let wrong = (kind.columns.iter().zip(&values)).find(|(column, value)| !column.takes(value));
        match wrong {
            Some((column, _)) => Err(InvalidCompanion::WrongType {
                column: column.name,
            }),
            None => Ok(Self { kind, values }),
        }
    }

    /// What becomes of it.
    pub fn kind(&self) -> &'static CompanionKind {
        self.kind
    }

    /// Its values, in the order of the kind's columns.
    pub fn values(&self) -> &[CompanionValue] {
        &self.values
    }

    /// About how many bytes it takes in a batch.
    pub fn bytes(&self) -> usize {
        let values = self.values.iter().map(|value| match value {
            CompanionValue::Text(text) => text.len(),
            CompanionValue::Bytes(bytes) => bytes.len(),
            CompanionValue::Null | CompanionValue::Integer(_) | CompanionValue::Time(_) => 8,
        });
        ROW_BYTES + values.sum::<usize>()
    }
}

impl Companions {
    /// None.
    pub const NONE: Self = Self(None);

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Adds one.
    pub fn push(&mut self, companion: Companion) {
        self.extend([companion]);
    }

    /// The companions, in the order in which they were added.
    pub fn iter(&self) -> slice::Iter<'_, Companion> {
        self.as_slice().iter()
    }

    /// About how many bytes they take in a batch.
    pub fn bytes(&self) -> usize {
        self.iter().map(Companion::bytes).sum()
    }

    /// Whether any of them [requires](CompanionSql::requiring) something.
    pub(crate) fn have_requirements(&self) -> bool {
        let sql = |kind: &CompanionKind| [kind.postgres, kind.sqlite];
        let mut sql = self.iter().flat_map(|companion| sql(companion.kind));
        sql.any(|sql| sql.requires.is_some())
    }

    fn as_slice(&self) -> &[Companion] {
        self.0.as_ref().map_or(&[], |rows| &rows.companions)
    }
}

impl Extend<Companion> for Companions {
    fn extend<I: IntoIterator<Item = Companion>>(&mut self, companions: I) {
        let mut companions = companions.into_iter().peekable();
        if companions.peek().is_some() {
            let rows = self.0.get_or_insert_with(|| {
                Box::new(Rows {
                    companions: Vec::new(),
                })
            });
            rows.companions.extend(companions);
        }
    }
}

impl FromIterator<Companion> for Companions {
    fn from_iter<I: IntoIterator<Item = Companion>>(companions: I) -> Self {
        let mut all = Self::NONE;
        all.extend(companions);
        all
    }
}

impl<'companions> IntoIterator for &'companions Companions {
    type Item = &'companions Companion;
    type IntoIter = slice::Iter<'companions, Companion>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for CompanionValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("Null"),
            Self::Integer(number) => write!(formatter, "Integer({number})"),
            Self::Text(text) => write!(formatter, "Text({} bytes)", text.len()),
            Self::Bytes(bytes) => write!(formatter, "Bytes({} bytes)", bytes.len()),
            Self::Time(time) => write!(formatter, "Time({time})"),
        }
    }
}

impl From<i64> for CompanionValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<&str> for CompanionValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for CompanionValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&[u8]> for CompanionValue {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for CompanionValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<DateTime<Utc>> for CompanionValue {
    fn from(time: DateTime<Utc>) -> Self {
        Self::Time(time)
    }
}

impl<T: Into<Self>> From<Option<T>> for CompanionValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static KIND: CompanionKind = CompanionKind::new(
        &[
            CompanionColumn::integer("number"),
            CompanionColumn::text("text"),
            CompanionColumn::bytes("bytes"),
            CompanionColumn::time("time"),
        ],
        CompanionSql::new(""),
        CompanionSql::new(""),
    );

    fn values() -> [CompanionValue; 4] {
        [
            1.into(),
            "a secret".into(),
            b"a secret".as_slice().into(),
            DateTime::UNIX_EPOCH.into(),
        ]
    }

    #[test]
    fn each_column_takes_its_own_type_and_null() {
        assert!(Companion::new(&KIND, values()).is_ok());
        assert!(Companion::new(&KIND, [const { CompanionValue::Null }; 4]).is_ok());
        for (place, column) in KIND.columns().iter().enumerate() {
            let mut wrong = values();
            wrong[place] = if place == 0 { "x".into() } else { 1.into() };
            let column = column.name();
            assert_eq!(
                Companion::new(&KIND, wrong),
                Err(InvalidCompanion::WrongType { column })
            );
        }
        assert_eq!(
            Companion::new(&KIND, [1.into()]),
            Err(InvalidCompanion::WrongNumber {
                columns: 4,
                values: 1
            })
        );
    }

    #[test]
    fn debug_shows_no_text_and_no_bytes() {
        let companion = Companion::new(&KIND, values()).unwrap();
        assert!(!format!("{companion:?}").contains("secret"));
    }

    #[test]
    fn companions_keep_their_order_and_none_of_them_is_none() {
        let of = |number: i64| {
            let mut values = values();
            values[0] = number.into();
            Companion::new(&KIND, values).unwrap()
        };
        let mut companions: Companions = [of(3), of(1)].into_iter().collect();
        companions.push(of(2));
        let numbers = companions.iter().map(|it| it.values()[0].clone());
        assert_eq!(numbers.collect::<Vec<_>>(), [3.into(), 1.into(), 2.into()]);
        assert_eq!(Companions::from_iter([]), Companions::NONE);
    }
}
