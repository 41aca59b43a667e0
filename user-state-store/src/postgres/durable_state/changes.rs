//! Pages of a change feed.
//!
//! **Problem.** The index begins with the slice: rows of many slices have to be sorted by their time before the first is
//! known, and a payload may be large, or damaged so that the server fails the statement.
//!
//! **How.** At most as many rows are looked at as the query allows, unsorted; if there are more, nothing is answered.
//! Where no number is too many, inside one instant, only keys and sizes are sorted.
//! The sizes of payloads are summed up in their order before any payload is read, and the page ends where the sum is large
//! enough. Payloads are read last, row by row as rows are sent: if the server fails, it failed at the row behind those that came.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use crate::changes::{ChangesPage, ChangesQuery, PAGE_BYTES_MAX, UnreadableRow};
use crate::connect::StoreSettings;
use crate::error::{Cause, StoreError};
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::row::Reader;
use crate::postgres::error::Failure;
use crate::postgres::pool::{Call, Pool};
use crate::slice::Slice;
use crate::store::{StoredState, StoredValue};

mod select;

pub(in crate::postgres) use select::{SELECT_CHANGES, SELECT_CROWDED_CHANGES, SELECT_FIRST_CHANGE};

/// The first instant asked for; the server's times begin in 4713 BC, and a bind before that is refused.
const EARLIEST: DateTime<Utc> = DateTime::from_timestamp_nanos(i64::MIN);

/// One page of changes. See [`crate::StateFeeds::changes`].
pub(in crate::postgres) async fn changes(
    pool: &Pool,
    settings: &StoreSettings,
    query: &ChangesQuery,
) -> Result<ChangesPage, StoreError> {
    pool.read(settings, Page { query, settings }).await?
}

/// The rows of a page.
struct Page<'call> {
    query: &'call ChangesQuery,
    settings: &'call StoreSettings,
}

/// What came of a page so far.
#[derive(Default)]
struct Read {
    states: Vec<StoredState>,
    /// The bytes of their payloads.
    bytes: usize,
    /// Whether a row was left out, since the page was full without it.
    is_cut: bool,
    unreadable: Option<UnreadableRow>,
    until: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
    rows: usize,
}

impl Call for Page<'_> {
    type Answer = Result<ChangesPage, StoreError>;

    async fn run(&mut self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let mut read = Read::default();
        match self.read(connection, &mut read).await {
            Ok(noted) => Ok(noted.and_then(|()| read.page(self.query))),
            Err(error) => {
                let failure = Failure::of(&error);
                if !failure.may_concern_a_row() {
                    return Err(error);
                }
                self.name_culprit(connection, &mut read, failure).await?;
                if read.states.is_empty() && read.unreadable.is_none() {
                    return Err(error);
                }
                // There are more than were sent.
                read.rows = usize::MAX;
                Ok(read.page(self.query))
            }
        }
    }
}

impl Page<'_> {
    /// Reads all rows that come, and keeps those before the first that cannot be read.
    async fn read(
        &self,
        connection: &mut PgConnection,
        read: &mut Read,
    ) -> Result<Result<(), StoreError>, sqlx::Error> {
        let query = self.query;
        let slices: Vec<i32> = query.slices.as_range().map(i32::from).collect();
        let statement = match query.rows_max {
            Some(_) => SELECT_CHANGES,
            None => SELECT_CROWDED_CHANGES,
        };
        let mut page = sqlx::query(statement.of(self.settings.payload_column))
            .bind(&*query.entity_type)
            .bind(&slices)
            .bind(query.from.max(EARLIEST))
            .bind(query.to.map(|to| to.max(EARLIEST)))
            .bind(query.until.map(|until| until.max(EARLIEST)))
            .bind(query.after.as_ref().map(|after| after.revision))
            .bind(
                query
                    .after
                    .as_ref()
                    .map(|after| after.persistence_id.as_str()),
            )
            .bind(bound(self.settings.payload_bytes_max))
            .bind(bound(query.limit.get()))
            .bind(bound(PAGE_BYTES_MAX))
            .bind(bound(query.few()));
        if let Some(max) = query.rows_max {
            page = page.bind(bound(max.get()));
        }
        let mut rows = page.fetch(connection);
        let mut reader = None;
        let mut noted = Ok(());
        while let Some(row) = rows.try_next().await? {
            let reader = reader.get_or_insert_with(|| Reader::of(&row, self.settings));
            if noted.is_ok() {
                noted = read.note(&row, reader);
            }
        }
        Ok(noted)
    }

    /// Finds out which row is behind those that came, if the page needs more, and the end of the page.
    async fn name_culprit(
        &self,
        connection: &mut PgConnection,
        read: &mut Read,
        failure: Failure,
    ) -> Result<(), sqlx::Error> {
        let query = self.query;
        read.until = query.until;
        if read.until.is_none() {
            let now = sqlx::query_scalar("SELECT transaction_timestamp()");
            read.until = Some(now.fetch_one(&mut *connection).await?);
        }
        if read.is_cut || read.unreadable.is_some() {
            return Ok(());
        }
        let slices: Vec<i32> = query.slices.as_range().map(i32::from).collect();
        let (from, after) = query.behind(read.states.last());
        let found = sqlx::query(SELECT_FIRST_CHANGE)
            .bind(&*query.entity_type)
            .bind(&slices)
            .bind(from.max(EARLIEST))
            .bind(query.to.map(|to| to.max(EARLIEST)))
            .bind(read.until.map(|until| until.max(EARLIEST)))
            .bind(after.as_ref().map(|after| after.revision))
            .bind(after.as_ref().map(|after| after.persistence_id.as_str()))
            .fetch_optional(connection)
            .await;
        let row = match found {
            // Not even the key can be had. The rows before it are a page of their own.
            Err(error) if Failure::of(&error).may_concern_a_row() => None,
            found => found?,
        };
        read.unreadable = row.and_then(|row| {
            let reader = Reader::of(&row, self.settings);
            let id = text(reader.persistence_id(&row).ok()?).ok()?;
            Some(unreadable(&reader, &row, id, failure.into()))
        });
        Ok(())
    }
}

impl Read {
    fn note(&mut self, row: &PgRow, reader: &mut Reader<'_>) -> Result<(), StoreError> {
        if Reader::is_absent(row) {
            self.until = reader.until(row);
            self.next = reader.next(row);
            self.rows = reader.rows(row).unwrap_or_default();
            return Ok(());
        }
        if self.is_cut || self.unreadable.is_some() {
            return Ok(());
        }
        let id = match reader.persistence_id(row).and_then(text) {
            Ok(id) => id,
            // Nobody could go on behind it. The rows before it are a page of their own.
            Err(_) if !self.states.is_empty() => {
                self.is_cut = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match reader.stored_state(row, id.clone()) {
            Ok(state) => {
                let bytes = match &state.value {
                    StoredValue::State(payload) => payload.bytes.len(),
                    StoredValue::Deleted | StoredValue::Withheld { .. } => 0,
                };
                // What JSON comes to is known only here.
                if self.bytes.saturating_add(bytes) > PAGE_BYTES_MAX && !self.states.is_empty() {
                    self.is_cut = true;
                } else {
                    self.bytes = self.bytes.saturating_add(bytes);
                    self.states.push(state);
                }
            }
            Err(reason) => {
                self.unreadable = Some(unreadable(reader, row, id, reason));
            }
        }
        Ok(())
    }

    fn page(self, query: &ChangesQuery) -> Result<ChangesPage, StoreError> {
        let until = self.until.ok_or(StoreError::Unavailable(Cause::Protocol))?;
        Ok(query.page(self.states, self.unreadable, self.rows, self.next, until))
    }
}

/// The id of a row.
fn text(id: &[u8]) -> Result<PersistenceId, StoreError> {
    let id = std::str::from_utf8(id).map_err(|_| StoreError::Unavailable(Cause::Protocol))?;
    Ok(PersistenceId::stored(id))
}

fn unreadable(
    reader: &Reader<'_>,
    row: &PgRow,
    persistence_id: PersistenceId,
    reason: StoreError,
) -> UnreadableRow {
    let (slice, revision, at) = reader.place(row);
    UnreadableRow {
        slice: slice.unwrap_or_else(|| Slice::of(persistence_id.as_str())),
        revision: revision.unwrap_or_default(),
        db_timestamp: at.unwrap_or_default(),
        persistence_id,
        reason,
    }
}

/// A count as a bound value; what is beyond `i64` is beyond every table.
fn bound(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
