//! The companions of one kind in a statement.
//!
//! Sessions that write do not join by hashing, see `connection.rs`. So membership is asked for as `(... IN (...)) IS TRUE`, which
//! the planner keeps as a hashed subplan: 500 companions are looked up in 500 writes once each, not one by one.

use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::array::Array;
use crate::postgres::durable_state::carried::{ORDINAL, Parameters, Statement};
use crate::postgres::durable_state::row::Micros;
use crate::store::{
    Companion, CompanionColumn, CompanionKind, CompanionType, CompanionValue, Write,
};

/// The types and names of what is sent of each companion's write.
const OF_WRITE: [(&str, &str); 4] = [
    ("bigint", "write_ordinal"),
    ("text", "persistence_id"),
    ("int", "slice"),
    ("bigint", "revision"),
];

/// What the statement of a kind sees beside its own columns.
const COLUMNS: [&str; 4] = ["persistence_id", "slice", "revision", "written_at"];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OfKind<'batch> {
    kind: &'static CompanionKind,
    rows: Vec<Row<'batch>>,
}

#[derive(Debug, Clone, Copy)]
struct Row<'batch> {
    /// The number of the write in its statement, counted from 1.
    ordinal: i64,
    write: &'batch Write,
    companion: &'batch Companion,
}

impl<'batch> OfKind<'batch> {
    /// The companions of all kinds, in an order that does not depend on the writes: so few statements are prepared.
    pub(super) fn all_of(writes: &[&'batch Write]) -> Vec<Self> {
        let mut kinds: Vec<Self> = Vec::new();
        for (write, ordinal) in writes.iter().zip(1..) {
            for companion in &write.companions {
                let row = Row {
                    ordinal,
                    write,
                    companion,
                };
                let kind = companion.kind();
                match kinds.iter_mut().find(|it| std::ptr::eq(it.kind, kind)) {
                    Some(of_kind) => of_kind.rows.push(row),
                    None => kinds.push(Self {
                        kind,
                        rows: vec![row],
                    }),
                }
            }
        }
        kinds.sort_by_key(|of_kind| of_kind.kind.postgres().run());
        kinds
    }

    /// All companions, those of writes that will not hit included.
    pub(super) fn sent(&self, number: usize, parameters: &mut Parameters) -> String {
        let own = self.kind.columns().iter();
        let columns = OF_WRITE
            .into_iter()
            .chain(own.map(|column| (type_of(*column), column.name())))
            .map(|(of, name)| format!("unnest(${}::{of}[]) AS {name}", parameters.next()))
            .collect::<Vec<_>>()
            .join(",\n    ");
        format!(
            "sent_{number} AS (
  SELECT
    {columns},
    transaction_timestamp() AS written_at
)"
        )
    }

    /// That no companion of a write misses what it requires.
    pub(super) fn condition(&self, number: usize, key: &str) -> Option<String> {
        let condition = self.kind.postgres().requires()?;
        let sent = sent_key(key);
        Some(format!(
            "
  AND (w.{key} IN (
    SELECT companion.{sent}
    FROM sent_{number} AS companion
    WHERE ({condition}) IS NOT TRUE
  )) IS NOT TRUE"
        ))
    }

    /// The kind's own statement.
    pub(super) fn run(&self, number: usize, key: &str) -> String {
        let own = self.kind.columns().iter().map(|column| column.name());
        let columns = COLUMNS
            .into_iter()
            .chain(own)
            .collect::<Vec<_>>()
            .join(", ");
        let sent = sent_key(key);
        format!(
            "run_{number} AS (
  WITH companion AS (
    SELECT {columns}
    FROM sent_{number}
    WHERE ({sent} IN (SELECT {key} FROM written)) IS TRUE
  )
  {}
)",
            self.kind.postgres().run()
        )
    }

    /// In the order of the parameters of [`OfKind::sent`].
    pub(super) fn bind<'query>(&'query self, query: Statement<'query>) -> Statement<'query> {
        let rows = || self.rows.iter();
        let bytes = rows().map(|row| row.companion.bytes()).sum();
        let ids = rows().map(|row| &row.write.persistence_id);
        let query = query
            .bind(Array::new(rows().map(|row| row.ordinal)).with_room(bytes))
            .bind(Array::new(ids.clone().map(PersistenceId::as_str)))
            .bind(Array::new(ids.map(|id| i32::from(id.slice().get()))))
            .bind(Array::new(rows().map(|row| row.write.new_revision().get())));
        let columns = self.kind.columns().iter().enumerate();
        columns.fold(query, |query, (place, column)| {
            self.bind_column(place, *column, query)
        })
    }

    fn bind_column<'query>(
        &'query self,
        place: usize,
        column: CompanionColumn,
        query: Statement<'query>,
    ) -> Statement<'query> {
        let rows = self.rows.iter();
        let values = rows.map(move |row| row.companion.values().get(place));
        match column.holds() {
            CompanionType::Integer => query.bind(Array::new(values.map(|value| match value {
                Some(CompanionValue::Integer(number)) => Some(*number),
                _ => None,
            }))),
            CompanionType::Text => query.bind(Array::new(values.map(|value| match value {
                Some(CompanionValue::Text(text)) => Some(&**text),
                _ => None,
            }))),
            CompanionType::Bytes => query.bind(Array::new(values.map(|value| match value {
                Some(CompanionValue::Bytes(bytes)) => Some(&**bytes),
                _ => None,
            }))),
            CompanionType::Time => query.bind(Array::new(values.map(|value| match value {
                Some(CompanionValue::Time(time)) => Some(Micros::from(*time)),
                _ => None,
            }))),
        }
    }
}

fn type_of(column: CompanionColumn) -> &'static str {
    match column.holds() {
        CompanionType::Integer => "bigint",
        CompanionType::Text => "text",
        CompanionType::Bytes => "bytea",
        CompanionType::Time => "timestamptz",
    }
}

/// The column of the sent companions that names their write as the statement does.
fn sent_key(key: &str) -> &str {
    match key {
        ORDINAL => "write_ordinal",
        key => key,
    }
}
