//! What a transaction carries beside its writes: companions, and guards.
//!
//! **How.** Guards are compared first, when the file's write lock is held, so that nobody changes them before the commit. Then
//! come the conditions of companions, the writes, and the companions of those that hit. A companion that is refused takes its
//! write with it: the transaction is begun again without that write. Many statements share one text, as in `apply.rs`.

use futures_util::TryStreamExt as _;
use sqlx::{Either, Executor as _, Row as _, SqliteConnection};

use super::apply::{STATEMENTS, Transaction, apply};
use super::fetch::Query;
use crate::sqlite::error::{Kind, before_commit, is_of_trigger, kind};
use crate::store::{
    Companion, CompanionKind, CompanionValue, Guards, Write, WriteBatch, WriteOutcome,
};

/// The guards that do not hold, between what stands before and behind the query of their kind.
const LOST: [&str; 2] = [
    "\
WITH guard (ordinal, first_slice, last_slice, epoch) AS (
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)
)
SELECT * FROM (",
    ")",
];

/// Fails inside a transaction, and changes nothing there.
const PROBE: &str = "BEGIN";

/// Why a text without a result ends the transaction: to send it again would never end.
const UNANSWERED: &str = "a statement had no result";

/// The companions of one kind in a batch.
struct OfKind<'batch> {
    kind: &'static CompanionKind,
    rows: Vec<Row<'batch>>,
}

#[derive(Clone, Copy)]
struct Row<'batch> {
    /// The place of the write in its batch.
    place: usize,
    write: &'batch Write,
    companion: &'batch Companion,
}

/// How a statement of a text ended.
enum Ended {
    /// It ran. What its only row holds, if there is one.
    Done(Option<bool>),
    /// It did not, and no later one of its text did.
    Failed(sqlx::Error),
}

/// Applies the writes that have no outcome yet, with all that they carry.
///
/// # Errors
/// Whatever ends the transaction. Outcomes noted before it are void.
pub(super) async fn apply_all(
    connection: &mut SqliteConnection,
    batch: &WriteBatch,
    outcomes: &mut [Option<WriteOutcome>],
    now: i64,
) -> Result<Transaction, sqlx::Error> {
    if let Some(guards) = batch.guards() {
        fence(connection, guards, outcomes).await?;
    }
    if !batch.has_companions() {
        return apply(connection, batch.writes(), outcomes, now).await;
    }
    let kinds = by_kind(batch.writes());
    for of_kind in &kinds {
        require(connection, of_kind, outcomes, now).await?;
    }
    if apply(connection, batch.writes(), outcomes, now).await? == Transaction::Spoiled {
        return Ok(Transaction::Spoiled);
    }
    let mut transaction = Transaction::Whole;
    for of_kind in &kinds {
        match run(connection, of_kind, outcomes, now).await? {
            Companions::Stored => {}
            Companions::Refused => transaction = Transaction::Spoiled,
            Companions::Ended => return Ok(Transaction::Spoiled),
        }
    }
    Ok(transaction)
}

/// Finds the writes whose guards do not hold.
async fn fence(
    connection: &mut SqliteConnection,
    guards: &Guards,
    outcomes: &mut [Option<WriteOutcome>],
) -> Result<(), sqlx::Error> {
    let rows = guards.as_slice().iter().zip(1_i64..);
    let rows = rows.map(|(guard, ordinal)| {
        let (first, last) = (guard.slices.min().get(), guard.slices.max().get());
        [ordinal, first.into(), last.into(), guard.epoch]
    });
    let rows: serde_json::Value = rows
        .map(|row| row.into_iter().collect())
        .collect::<Vec<serde_json::Value>>()
        .into();
    let text = LOST.join(guards.kind().sqlite());
    let lost = sqlx::query_scalar::<_, i64>(&text)
        .bind(rows.to_string())
        .fetch_all(connection)
        .await?;
    for (index, outcome) in outcomes.iter_mut().enumerate() {
        let place = guards
            .place_of_write(index)
            .and_then(|place| i64::try_from(place).ok());
        if outcome.is_none() && place.is_some_and(|place| lost.contains(&(place + 1))) {
            *outcome = Some(WriteOutcome::Fenced);
        }
    }
    Ok(())
}

/// Finds the writes that a companion lacks something for.
async fn require(
    connection: &mut SqliteConnection,
    of_kind: &OfKind<'_>,
    outcomes: &mut [Option<WriteOutcome>],
    now: i64,
) -> Result<(), sqlx::Error> {
    let Some(condition) = of_kind.kind.sqlite().requires() else {
        return Ok(());
    };
    let text = format!(
        "{}SELECT ({condition}) IS TRUE FROM companion;\n",
        head(of_kind.kind)
    );
    let open = |outcome: &Option<WriteOutcome>| outcome.is_none();
    let mut rows = of_kind.rows_where(outcomes, open);
    while !rows.is_empty() {
        let ended = run_text(connection, &text, &rows, now).await?;
        for (row, ended) in rows.iter().zip(&ended) {
            let outcome = match ended {
                Ended::Done(Some(true)) => continue,
                Ended::Done(_) => WriteOutcome::Conflict,
                Ended::Failed(error) => WriteOutcome::NotApplied(before_commit(error)),
            };
            note(outcomes, row.place, outcome);
        }
        rows.drain(..ended.len());
    }
    Ok(())
}

/// What became of the companions of one kind.
enum Companions {
    Stored,
    /// Some were refused, and their writes have that outcome.
    Refused,
    /// One was refused, and what else became of the transaction is not known.
    Ended,
}

/// Runs the statement of a kind for the companions of those writes that hit.
async fn run(
    connection: &mut SqliteConnection,
    of_kind: &OfKind<'_>,
    outcomes: &mut [Option<WriteOutcome>],
    now: i64,
) -> Result<Companions, sqlx::Error> {
    let text = format!("{}{};\n", head(of_kind.kind), of_kind.kind.sqlite().run());
    let applied =
        |outcome: &Option<WriteOutcome>| matches!(outcome, Some(WriteOutcome::Applied(_)));
    let mut rows = of_kind.rows_where(outcomes, applied);
    let mut companions = Companions::Stored;
    while !rows.is_empty() {
        let ended = run_text(connection, &text, &rows, now).await?;
        for (row, ended) in rows.iter().zip(&ended) {
            if let Ended::Failed(error) = ended {
                note(
                    outcomes,
                    row.place,
                    WriteOutcome::NotApplied(before_commit(error)),
                );
                if is_of_trigger(error) || !is_in_transaction(connection).await {
                    return Ok(Companions::Ended);
                }
                companions = Companions::Refused;
            }
        }
        rows.drain(..ended.len());
    }
    Ok(companions)
}

/// Whether the transaction goes on. A constraint may be declared to end it.
async fn is_in_transaction(connection: &mut SqliteConnection) -> bool {
    sqlx::query(PROBE).execute(connection).await.is_err()
}

/// Runs one statement for each of the first rows, as many as share a text. A failed one is the last.
async fn run_text(
    connection: &mut SqliteConnection,
    one: &str,
    rows: &[Row<'_>],
    now: i64,
) -> Result<Vec<Ended>, sqlx::Error> {
    let count = STATEMENTS.into_iter().find(|count| *count <= rows.len());
    let rows = rows.get(..count.unwrap_or_default()).unwrap_or_default();
    let text = one.repeat(rows.len());
    let mut query = sqlx::query(&text);
    for row in rows {
        query = bind(query, row, now);
    }
    let mut answers = connection.fetch_many(query);
    let mut ended = Vec::with_capacity(rows.len());
    let mut holds = None;
    loop {
        match answers.try_next().await {
            Ok(Some(Either::Right(row))) => holds = row.try_get(0).ok(),
            Ok(Some(Either::Left(_))) => ended.push(Ended::Done(holds.take())),
            Ok(None) if ended.is_empty() => return Err(sqlx::Error::Protocol(UNANSWERED.into())),
            Ok(None) => return Ok(ended),
            Err(error) if matches!(kind(&error), Kind::Refused | Kind::Schema) => {
                ended.push(Ended::Failed(error));
                return Ok(ended);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What stands before the statement of a kind.
fn head(kind: &CompanionKind) -> String {
    let columns = kind
        .columns()
        .iter()
        .map(|column| format!(", {}", column.name()));
    let parameters = ", ?".repeat(kind.columns().len());
    format!(
        "WITH companion (persistence_id, slice, revision, written_at{}) AS (VALUES (?, ?, ?, ?{parameters}))\n",
        columns.collect::<String>()
    )
}

fn bind<'batch>(query: Query<'batch>, row: &Row<'batch>, now: i64) -> Query<'batch> {
    let id = &row.write.persistence_id;
    let query = query
        .bind(id.as_str())
        .bind(id.slice().get())
        .bind(row.write.new_revision().get())
        .bind(now);
    let values = row.companion.values().iter();
    values.fold(query, |query, value| match value {
        CompanionValue::Null => query.bind(None::<i64>),
        CompanionValue::Integer(number) => query.bind(*number),
        CompanionValue::Text(text) => query.bind(&**text),
        CompanionValue::Bytes(bytes) => query.bind(&**bytes),
        CompanionValue::Time(time) => query.bind(time.timestamp_micros()),
    })
}

impl<'batch> OfKind<'batch> {
    /// The companions of those writes whose outcome is such.
    fn rows_where(
        &self,
        outcomes: &[Option<WriteOutcome>],
        is_such: impl Fn(&Option<WriteOutcome>) -> bool,
    ) -> Vec<Row<'batch>> {
        let rows = self.rows.iter();
        let rows = rows.filter(|row| outcomes.get(row.place).is_some_and(&is_such));
        rows.copied().collect()
    }
}

fn by_kind(writes: &[Write]) -> Vec<OfKind<'_>> {
    let mut kinds: Vec<OfKind<'_>> = Vec::new();
    for (place, write) in writes.iter().enumerate() {
        for companion in &write.companions {
            let row = Row {
                place,
                write,
                companion,
            };
            let kind = companion.kind();
            match kinds.iter_mut().find(|it| std::ptr::eq(it.kind, kind)) {
                Some(of_kind) => of_kind.rows.push(row),
                None => kinds.push(OfKind {
                    kind,
                    rows: vec![row],
                }),
            }
        }
    }
    kinds
}

fn note(outcomes: &mut [Option<WriteOutcome>], place: usize, outcome: WriteOutcome) {
    if let Some(slot) = outcomes.get_mut(place) {
        *slot = Some(outcome);
    }
}
