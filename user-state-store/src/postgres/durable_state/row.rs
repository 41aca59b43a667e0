//! Rows of `durable_state`, as the database has them: nothing in them is trusted.

use chrono::{DateTime, Utc};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef,
};
use sqlx::{Column as _, Decode, Encode, Postgres, Row as _, Type, ValueRef as _};

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

impl From<DateTime<Utc>> for Micros {
    /// Whole microseconds, rounded down. No instant of chrono's is beyond those of an `i64`.
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_micros().saturating_sub(POSTGRES_EPOCH_MICROS))
    }
}

impl PgHasArrayType for Micros {
    fn array_type_info() -> PgTypeInfo {
        <DateTime<Utc> as PgHasArrayType>::array_type_info()
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

/// Where the columns of a state stand in the statements that read one: rows are read by place, not by name.
const PERSISTENCE_ID: usize = 0;
const SLICE: usize = 1;
const ENTITY_TYPE: usize = 2;
const REVISION: usize = 3;
const DB_TIMESTAMP: usize = 4;
const STATE_SER_ID: usize = 5;
const STATE_SER_MANIFEST: usize = 6;
const STATE_PAYLOAD: usize = 7;
const TAGS: usize = 8;

/// Behind them, in the last row of a page of changes only.
const UNTIL: usize = 9;
const NEXT: usize = 10;
const ROWS: usize = 11;

/// The places, and what has to stand there.
#[cfg(test)]
pub(in crate::postgres) const PLACES: [(usize, &str); 12] = [
    (PERSISTENCE_ID, "persistence_id"),
    (SLICE, "slice"),
    (ENTITY_TYPE, "entity_type"),
    (REVISION, "revision"),
    (DB_TIMESTAMP, "db_timestamp"),
    (STATE_SER_ID, "state_ser_id"),
    (STATE_SER_MANIFEST, "state_ser_manifest"),
    (STATE_PAYLOAD, "state_payload"),
    (TAGS, "tags"),
    (UNTIL, "until"),
    (NEXT, "next"),
    (ROWS, "rows"),
];

/// Reads the rows of one result.
///
/// They have the same columns, so that types are compared once. Most have the manifest and the tags of the row before,
/// and share them then.
pub(super) struct Reader<'settings> {
    settings: &'settings StoreSettings,
    /// The most bytes of a payload that come.
    share: usize,
    /// Whether the column at each place has the type that is read there.
    readable: [bool; 12],
    manifest: Option<Manifest>,
    /// The last tags, and their form in the row.
    tags: Option<(Box<[u8]>, Tags)>,
}

impl<'settings> Reader<'settings> {
    /// A reader of the result that this row is from.
    pub(super) fn of(row: &PgRow, settings: &'settings StoreSettings) -> Self {
        Self::sharing(row, settings, settings.payload_bytes_max)
    }

    /// The same for a result in which larger payloads than this are NULL although they are not beyond the limit.
    pub(super) fn sharing(row: &PgRow, settings: &'settings StoreSettings, share: usize) -> Self {
        Self {
            settings,
            share,
            readable: [
                is_readable::<&str>(row, PERSISTENCE_ID),
                is_readable::<i32>(row, SLICE),
                is_readable::<&str>(row, ENTITY_TYPE),
                is_readable::<i64>(row, REVISION),
                is_readable::<Micros>(row, DB_TIMESTAMP),
                is_readable::<i32>(row, STATE_SER_ID),
                is_readable::<&str>(row, STATE_SER_MANIFEST),
                is_readable::<&[u8]>(row, STATE_PAYLOAD),
                is_readable::<Vec<Option<String>>>(row, TAGS),
                is_readable::<Micros>(row, UNTIL),
                is_readable::<Micros>(row, NEXT),
                is_readable::<i64>(row, ROWS),
            ],
            manifest: None,
            tags: None,
        }
    }

    /// Whose row this is, as bytes that may be no text.
    pub(super) fn persistence_id<'row>(&self, row: &'row PgRow) -> Result<&'row [u8], StoreError> {
        self.bytes(row, PERSISTENCE_ID)
            .ok_or(StoreError::Unavailable(Cause::Protocol))
    }

    /// Whether an outer join found no row.
    pub(super) fn is_absent(row: &PgRow) -> bool {
        row.try_get_raw(PERSISTENCE_ID)
            .is_ok_and(|value| value.is_null())
    }

    /// The revision; that of no row where it cannot be read.
    pub(super) fn revision(&self, row: &PgRow) -> Revision {
        self.cell(row, REVISION)
            .and_then(Revision::new)
            .unwrap_or_default()
    }

    /// The upper bound of a page's times.
    pub(super) fn until(&self, row: &PgRow) -> Option<DateTime<Utc>> {
        self.cell(row, UNTIL).and_then(Micros::date_time)
    }

    /// When the first row behind a page was written, if the server looked for it.
    pub(super) fn next(&self, row: &PgRow) -> Option<DateTime<Utc>> {
        self.cell(row, NEXT).and_then(Micros::date_time)
    }

    /// How many rows were looked at for a page.
    pub(super) fn rows(&self, row: &PgRow) -> Option<usize> {
        let rows: Option<i64> = self.cell(row, ROWS);
        rows.and_then(|rows| usize::try_from(rows).ok())
    }

    /// The row's slice, revision and time, as far as they can be read.
    pub(super) fn place(&self, row: &PgRow) -> (Option<Slice>, Option<i64>, Option<DateTime<Utc>>) {
        let slice: Option<i32> = self.cell(row, SLICE);
        let slice = slice.and_then(|slice| u16::try_from(slice).ok());
        let at: Option<Micros> = self.cell(row, DB_TIMESTAMP);
        (
            slice.and_then(Slice::new),
            self.cell(row, REVISION),
            at.and_then(Micros::date_time),
        )
    }

    /// The row as a state, or what is wrong with it.
    ///
    /// A NULL manifest is read as the empty one: a mapping that needs a class name then says what it misses.
    pub(super) fn stored_state(
        &mut self,
        row: &PgRow,
        persistence_id: PersistenceId,
    ) -> Result<StoredState, StoreError> {
        let serializer_id = SerializerId(self.cell(row, STATE_SER_ID).unwrap_or_default());
        let manifest = self.manifest(row);
        let marker = payload_column::marker(self.settings.payload_column);
        match self.columns(row) {
            Ok(columns) => Ok(StoredState {
                persistence_id,
                slice: columns.slice,
                entity_type: columns.entity_type.into(),
                revision: columns.revision,
                db_timestamp: columns.db_timestamp,
                value: match columns.state_payload {
                    // How long it is, is found out later; until then it may be as long as the limit.
                    None => StoredValue::Withheld {
                        payload_bytes: self.settings.payload_bytes_max,
                    },
                    Some(payload) if serializer_id == SerializerId::NULL && payload == marker => {
                        StoredValue::Deleted
                    }
                    Some(payload) => StoredValue::State(Payload {
                        serializer_id,
                        manifest,
                        bytes: payload.to_vec(),
                    }),
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

    fn manifest(&mut self, row: &PgRow) -> Manifest {
        let bytes = self.bytes(row, STATE_SER_MANIFEST).unwrap_or_default();
        if let Some(manifest) = &self.manifest
            && manifest.as_str().as_bytes() == bytes
        {
            return manifest.clone();
        }
        let manifest = Manifest::new(std::str::from_utf8(bytes).unwrap_or_default());
        self.manifest.insert(manifest).clone()
    }

    fn tags(&mut self, row: &PgRow) -> Option<Tags> {
        let value = row.try_get_raw(TAGS).ok()?;
        if value.is_null() {
            return Some(Tags::NONE);
        }
        let bytes = self.bytes(row, TAGS)?;
        if let Some((form, tags)) = &self.tags
            && **form == *bytes
        {
            return Some(tags.clone());
        }
        let decoded = <Vec<Option<String>> as Decode<Postgres>>::decode(value).ok()?;
        let tags = Tags::new(decoded.iter().flatten().map(String::as_str));
        self.tags = Some((bytes.into(), tags.clone()));
        Some(tags)
    }

    fn columns<'row>(&mut self, row: &'row PgRow) -> Result<Columns<'row>, DecodeError> {
        let slice: i32 = self
            .cell(row, SLICE)
            .ok_or(malformed("column slice is no number"))?;
        let revision: i64 = self
            .cell(row, REVISION)
            .ok_or(malformed("column revision is no number"))?;
        let db_timestamp: Micros = self
            .cell(row, DB_TIMESTAMP)
            .ok_or(malformed("column db_timestamp is no time"))?;
        let state_payload: Option<&[u8]> = self
            .cell(row, STATE_PAYLOAD)
            .ok_or(malformed("column state_payload is not binary"))?;
        let limit = self.settings.payload_bytes_max;
        if state_payload.is_none() && self.share >= limit {
            return Err(DecodeError::TooLarge { limit });
        }
        let tags = self
            .tags(row)
            .ok_or(malformed("column tags is no list of texts"))?;
        Ok(Columns {
            slice: u16::try_from(slice)
                .ok()
                .and_then(Slice::new)
                .ok_or(malformed("column slice is out of range"))?,
            entity_type: self
                .cell(row, ENTITY_TYPE)
                .ok_or(malformed("column entity_type is no text"))?,
            revision: Revision::new(revision).ok_or(malformed("column revision is negative"))?,
            db_timestamp: db_timestamp
                .date_time()
                .ok_or(DecodeError::TimeOutOfRange {
                    field: "db_timestamp".into(),
                })?,
            state_payload,
            tags,
        })
    }

    /// A value, where the column is of its type.
    fn cell<'row, T: Decode<'row, Postgres>>(&self, row: &'row PgRow, place: usize) -> Option<T> {
        let value = row.try_get_raw(place).ok()?;
        // What a NULL would be the NULL of does not matter.
        if !value.is_null() && !self.is_readable(place) {
            return None;
        }
        T::decode(value).ok()
    }

    fn bytes<'row>(&self, row: &'row PgRow, place: usize) -> Option<&'row [u8]> {
        let value = row.try_get_raw(place).ok()?;
        value.as_bytes().ok().filter(|_| self.is_readable(place))
    }

    fn is_readable(&self, place: usize) -> bool {
        self.readable.get(place).copied().unwrap_or_default()
    }
}

struct Columns<'row> {
    slice: Slice,
    entity_type: &'row str,
    revision: Revision,
    db_timestamp: DateTime<Utc>,
    state_payload: Option<&'row [u8]>,
    tags: Tags,
}

/// Whether the column at this place is of this type, in all rows of this row's result.
pub(super) fn is_readable<T: Type<Postgres>>(row: &PgRow, place: usize) -> bool {
    row.columns()
        .get(place)
        .is_some_and(|column| T::compatible(column.type_info()))
}

fn malformed(problem: &'static str) -> DecodeError {
    DecodeError::Malformed {
        problem: problem.into(),
        offset: 0,
    }
}
