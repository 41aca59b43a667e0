//! Rows of `durable_state`, as the file has them: nothing in them is trusted.

use chrono::DateTime;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::error::{DecodeError, StoreError};
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::Slice;
use crate::sqlite::error::cause;
use crate::store::{StoredState, StoredValue};
use crate::tags::Tags;

/// Whose row it is, its revision, and what it says or why that cannot be read; an outer error where not even the id
/// can.
pub(super) fn read(
    row: &SqliteRow,
    payload_bytes_max: usize,
) -> Result<(PersistenceId, Revision, Result<StoredState, StoreError>), StoreError> {
    let persistence_id = row
        .try_get::<&str, _>("persistence_id")
        .map(PersistenceId::stored)
        .map_err(|error| StoreError::Misconfigured(cause(&error)))?;
    let serializer_id = SerializerId(row.try_get("state_ser_id").unwrap_or_default());
    let manifest: Option<&str> = row.try_get("state_ser_manifest").unwrap_or_default();
    let manifest = Manifest::new(manifest.unwrap_or_default());
    let state = read_columns(
        row,
        &persistence_id,
        serializer_id,
        &manifest,
        payload_bytes_max,
    )
    .map_err(|reason| StoreError::Corrupt {
        persistence_id: persistence_id.clone(),
        serializer_id,
        manifest,
        reason,
    });
    let revision = row.try_get("revision").ok().and_then(Revision::new);
    Ok((persistence_id, revision.unwrap_or_default(), state))
}

fn read_columns(
    row: &SqliteRow,
    persistence_id: &PersistenceId,
    serializer_id: SerializerId,
    manifest: &Manifest,
    payload_bytes_max: usize,
) -> Result<StoredState, DecodeError> {
    let slice: i64 = column(row, "slice", "the column slice is no number")?;
    let slice = u16::try_from(slice).ok().and_then(Slice::new);
    let revision: i64 = column(row, "revision", "the column revision is no number")?;
    let micros: i64 = column(row, "db_timestamp", "the column db_timestamp is no number")?;
    let bytes: Option<Vec<u8>> = column(row, "state_payload", "the payload is no blob")?;
    let value = match (bytes, withheld(row)) {
        (Some(bytes), _) if serializer_id == SerializerId::NULL && bytes.is_empty() => {
            StoredValue::Deleted
        }
        (Some(bytes), _) => StoredValue::State(Payload {
            serializer_id,
            manifest: manifest.clone(),
            bytes,
        }),
        (None, Some(payload_bytes)) if payload_bytes <= payload_bytes_max => {
            StoredValue::Withheld { payload_bytes }
        }
        (None, _) => {
            return Err(DecodeError::TooLarge {
                limit: payload_bytes_max,
            });
        }
    };
    Ok(StoredState {
        persistence_id: persistence_id.clone(),
        slice: slice.ok_or(malformed("the column slice is not from 0 to 1023"))?,
        entity_type: column(row, "entity_type", "the column entity_type is no text")?,
        revision: Revision::new(revision).ok_or(malformed("the revision is negative"))?,
        db_timestamp: DateTime::from_timestamp_micros(micros)
            .ok_or(malformed("the column db_timestamp is out of range"))?,
        value,
        tags: read_tags(row)?,
    })
}

/// How many bytes the payload has that a load left out.
fn withheld(row: &SqliteRow) -> Option<usize> {
    let bytes: Option<i64> = row.try_get("payload_bytes").ok()?;
    usize::try_from(bytes?).ok()
}

fn column<'r, T>(row: &'r SqliteRow, name: &str, problem: &'static str) -> Result<T, DecodeError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(|_| malformed(problem))
}

fn read_tags(row: &SqliteRow) -> Result<Tags, DecodeError> {
    const PROBLEM: &str = "the column tags is no array of texts";
    let text: Option<&str> = column(row, "tags", PROBLEM)?;
    let Some(text) = text else {
        return Ok(Tags::NONE);
    };
    let tags: Vec<String> = serde_json::from_str(text).map_err(|_| malformed(PROBLEM))?;
    Ok(Tags::new(tags.iter().map(String::as_str)))
}

fn malformed(problem: &'static str) -> DecodeError {
    DecodeError::Malformed {
        problem: problem.into(),
        offset: 0,
    }
}
