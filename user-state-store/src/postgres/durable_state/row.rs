//! Rows of `durable_state`, as the database has them: nothing in them is trusted.

use chrono::{DateTime, Utc};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Row as _, Type, ValueRef as _};

use crate::connect::StoreSettings;
use crate::error::{Cause, DecodeError, StoreError};
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::postgres::durable_state::payload_column;
use crate::revision::Revision;
use crate::slice::Slice;
use crate::store::{StoredState, StoredValue};
use crate::tags::Tags;

/// 2000-01-01, where PostgreSQL counts from, in microseconds since 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A `timestamptz` as the server sends it, every value of it.
///
/// The driver's own decoding of one that chrono cannot hold (`infinity`, the year 294276) panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Micros(i64);

impl Micros {
    /// Microseconds since 1970.
    pub(in crate::postgres) fn since_1970(self) -> i64 {
        self.0.saturating_add(POSTGRES_EPOCH_MICROS)
    }

    /// The instant, where chrono can hold it.
    pub(super) fn date_time(self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.0.checked_add(POSTGRES_EPOCH_MICROS)?)
    }
}

impl Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'row> Decode<'row, Postgres> for Micros {
    fn decode(value: PgValueRef<'row>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?))),
            PgValueFormat::Text => Err("a time came as text".into()),
        }
    }
}

impl Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<Postgres>>::encode_by_ref(&self.0, buffer)
    }
}

/// Whose row this is.
fn persistence_id(row: &PgRow) -> Result<PersistenceId, StoreError> {
    row.try_get("persistence_id")
        .map(PersistenceId::stored)
        .map_err(|_| StoreError::Unavailable(Cause::Protocol))
}

/// Whether an outer join found no row.
pub(super) fn is_absent(row: &PgRow) -> bool {
    row.try_get_raw("persistence_id")
        .is_ok_and(|value| value.is_null())
}

/// The row as a state, or what is wrong with it.
///
/// A NULL manifest is read as the empty one: a mapping that needs a class name then says what it misses.
pub(super) fn stored_state(
    row: &PgRow,
    settings: &StoreSettings,
) -> Result<StoredState, StoreError> {
    let persistence_id = persistence_id(row)?;
    let serializer_id = SerializerId(row.try_get("state_ser_id").unwrap_or_default());
    let manifest: Option<&str> = row.try_get("state_ser_manifest").unwrap_or_default();
    let manifest = Manifest::new(manifest.unwrap_or_default());
    let marker = payload_column::marker(settings.payload_column);
    match columns(row, settings.payload_bytes_max) {
        Ok(columns) => Ok(StoredState {
            persistence_id,
            slice: columns.slice,
            entity_type: columns.entity_type.into(),
            revision: columns.revision,
            db_timestamp: columns.db_timestamp,
            value: if serializer_id == SerializerId::NULL && columns.state_payload == marker {
                StoredValue::Deleted
            } else {
                StoredValue::State(Payload {
                    serializer_id,
                    manifest,
                    bytes: columns.state_payload,
                })
            },
            tags: columns.tags,
        }),
        Err(reason) => Err(StoreError::Corrupt {
            persistence_id,
            serializer_id,
            manifest,
            reason,
        }),
    }
}

/// What was found for one id.
pub(super) struct Found {
    /// The state, or why there is none to show.
    pub(super) state: Result<StoredState, StoreError>,
    lower: Revision,
    higher: Revision,
}

/// One row, and whose it is.
pub(super) fn found<'row>(
    row: &'row PgRow,
    settings: &StoreSettings,
) -> Result<(&'row str, Found), StoreError> {
    let id = row
        .try_get("persistence_id")
        .map_err(|_| StoreError::Unavailable(Cause::Protocol))?;
    let revision = Revision::new(row.try_get("revision").unwrap_or_default()).unwrap_or_default();
    let found = Found {
        state: stored_state(row, settings),
        lower: revision,
        higher: revision,
    };
    Ok((id, found))
}

impl Found {
    /// Adds a second row of the same id: there is no state to show then, only the error that names both.
    pub(super) fn beside(&mut self, id: &str, other: &Self) {
        self.lower = self.lower.min(other.lower);
        self.higher = self.higher.max(other.higher);
        self.state = Err(StoreError::DuplicateRows {
            persistence_id: PersistenceId::stored(id),
            lower: self.lower,
            higher: self.higher,
        });
    }
}

struct Columns<'row> {
    slice: Slice,
    entity_type: &'row str,
    revision: Revision,
    db_timestamp: DateTime<Utc>,
    state_payload: Vec<u8>,
    tags: Tags,
}

fn columns(row: &PgRow, payload_limit: usize) -> Result<Columns<'_>, DecodeError> {
    let slice: i32 = column(row, "slice", "column slice is no number")?;
    let revision: i64 = column(row, "revision", "column revision is no number")?;
    let db_timestamp: Micros = column(row, "db_timestamp", "column db_timestamp is no time")?;
    let state_payload: Option<Vec<u8>> =
        column(row, "state_payload", "column state_payload is not binary")?;
    let tags: Option<Vec<Option<String>>> = column(row, "tags", "column tags is no list of texts")?;
    Ok(Columns {
        slice: u16::try_from(slice)
            .ok()
            .and_then(Slice::new)
            .ok_or(malformed("column slice is out of range"))?,
        entity_type: column(row, "entity_type", "column entity_type is no text")?,
        revision: Revision::new(revision).ok_or(malformed("column revision is negative"))?,
        db_timestamp: db_timestamp
            .date_time()
            .ok_or(DecodeError::TimeOutOfRange {
                field: "db_timestamp",
            })?,
        state_payload: state_payload.ok_or(DecodeError::TooLarge {
            limit: payload_limit,
        })?,
        tags: Tags::new(tags.iter().flatten().flatten().map(String::as_str)),
    })
}

fn column<'row, T>(
    row: &'row PgRow,
    name: &'static str,
    problem: &'static str,
) -> Result<T, DecodeError>
where
    T: Decode<'row, Postgres> + Type<Postgres>,
{
    row.try_get(name).map_err(|_| malformed(problem))
}

fn malformed(problem: &'static str) -> DecodeError {
    DecodeError::Malformed { problem, offset: 0 }
}
