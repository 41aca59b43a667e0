//! Column `state_payload` in each of its types: how statements name it, and what may be written to it.
//!
//! **Problem.** Pekko 2.0 keeps payloads as `BYTEA`, `JSON` or `JSONB`; the last keeps a value, not bytes. **How.** Payloads
//! travel as bytes either way and the server turns them into JSON and back, so parameters and rows have one form.
//! What is known here to fail there is refused before it is sent, since it would fail its whole batch.
//!
//! **Not here.** Whether a text is JSON at all: the server decides, and a batch that it refuses is cut in halves.

use crate::connect::{PayloadColumn, StoreSettings};
use crate::error::{DatabaseError, EncodeError, StoreError};
use crate::jackson::PayloadFormat;
use crate::jackson::compression::is_compressed;
use crate::payload::Payload;
use crate::store::Write;

/// The payload of a delete marker: Pekko's "no payload".
const MARKER: &[u8] = b"";

/// The same in a column that takes no empty text.
const MARKER_JSON: &[u8] = b"{}";

/// A statement that names the payload, for each type of its column.
#[derive(Debug, Clone, Copy)]
pub(in crate::postgres) struct Statement {
    pub(super) bytea: &'static str,
    pub(super) json: &'static str,
    pub(super) jsonb: &'static str,
}

/// A statement that reads `d.state_payload` as bytes, between its first part and the rest. A payload beyond the limit
/// does not leave the server: then NULL comes.
macro_rules! reading_payload {
    ($before:literal, limit: $limit:literal, $after:literal) => {
        $crate::postgres::durable_state::payload_column::Statement {
            bytea: concat!(
                $before,
                "CASE WHEN octet_length(d.state_payload) <= ",
                $limit,
                " THEN d.state_payload END AS state_payload",
                $after
            ),
            json: concat!(
                $before,
                "CASE WHEN octet_length(d.state_payload::text) <= ",
                $limit,
                " THEN convert_to(d.state_payload::text, 'UTF8') END AS state_payload",
                $after
            ),
            jsonb: concat!(
                $before,
                "CASE WHEN octet_length(d.state_payload::text) <= ",
                $limit,
                " THEN convert_to(d.state_payload::text, 'UTF8') END AS state_payload",
                $after
            ),
        }
    };
}

/// A statement that takes the length of `d.state_payload` in bytes, between its first part and the rest.
macro_rules! measuring_payload {
    ($before:literal, $after:literal) => {
        $crate::postgres::durable_state::payload_column::Statement {
            bytea: concat!($before, "octet_length(d.state_payload)", $after),
            json: concat!($before, "octet_length(d.state_payload::text)", $after),
            jsonb: concat!($before, "octet_length(d.state_payload::text)", $after),
        }
    };
}

/// A statement that reads `d.state_payload` as bytes, NULL beyond the limit, and sums up sizes before: those of bytes as they
/// are, those of JSON as they are stored, since the server would have to unpack it to know more.
macro_rules! paging_payloads {
    (
        $before:literal, limit: $limit:literal, $between:literal, size: $row:literal, $and:literal,
        size: $again:literal, $after:literal
    ) => {
        $crate::postgres::durable_state::payload_column::Statement {
            bytea: concat!(
                $before,
                "CASE WHEN octet_length(d.state_payload) <= ",
                $limit,
                " THEN d.state_payload END AS state_payload",
                $between,
                "octet_length(",
                $row,
                ")",
                $and,
                "octet_length(",
                $again,
                ")",
                $after
            ),
            json: $crate::postgres::durable_state::payload_column::paging_json!(
                $before, $limit, $between, $row, $and, $again, $after
            ),
            jsonb: $crate::postgres::durable_state::payload_column::paging_json!(
                $before, $limit, $between, $row, $and, $again, $after
            ),
        }
    };
}

/// A statement that takes the size of a payload first, as above, and reads `d.state_payload` as bytes behind it.
macro_rules! paging_keys {
    ($before:literal, size: $row:literal, $between:literal, limit: $limit:literal, $after:literal) => {
        $crate::postgres::durable_state::payload_column::Statement {
            bytea: concat!(
                $before,
                "octet_length(",
                $row,
                ")",
                $between,
                "CASE WHEN octet_length(d.state_payload) <= ",
                $limit,
                " THEN d.state_payload END AS state_payload",
                $after
            ),
            json: $crate::postgres::durable_state::payload_column::paging_json_keys!(
                $before, $row, $between, $limit, $after
            ),
            jsonb: $crate::postgres::durable_state::payload_column::paging_json_keys!(
                $before, $row, $between, $limit, $after
            ),
        }
    };
}

macro_rules! paging_json_keys {
    ($before:literal, $row:literal, $between:literal, $limit:literal, $after:literal) => {
        concat!(
            $before,
            "pg_column_size(",
            $row,
            ")",
            $between,
            "CASE WHEN octet_length(d.state_payload::text) <= ",
            $limit,
            " THEN convert_to(d.state_payload::text, 'UTF8') END AS state_payload",
            $after
        )
    };
}

macro_rules! paging_json {
    ($before:literal, $limit:literal, $between:literal, $row:literal, $and:literal, $again:literal, $after:literal) => {
        concat!(
            $before,
            "CASE WHEN octet_length(d.state_payload::text) <= ",
            $limit,
            " THEN convert_to(d.state_payload::text, 'UTF8') END AS state_payload",
            $between,
            "pg_column_size(",
            $row,
            ")",
            $and,
            "pg_column_size(",
            $again,
            ")",
            $after
        )
    };
}

/// A statement that writes `w.state_payload`, which came as bytes, between its first part and the rest.
macro_rules! writing_payload {
    ($before:literal, $after:expr) => {
        $crate::postgres::durable_state::payload_column::Statement {
            bytea: concat!($before, "w.state_payload", $after),
            json: concat!(
                $before,
                "convert_from(w.state_payload, 'UTF8')::json",
                $after
            ),
            jsonb: concat!(
                $before,
                "convert_from(w.state_payload, 'UTF8')::jsonb",
                $after
            ),
        }
    };
}

pub(super) use {
    measuring_payload, paging_json, paging_json_keys, paging_keys, paging_payloads,
    reading_payload, writing_payload,
};

impl Statement {
    /// Its text for this type.
    pub(in crate::postgres) const fn of(self, column: PayloadColumn) -> &'static str {
        match column {
            PayloadColumn::Bytea => self.bytea,
            PayloadColumn::Json => self.json,
            PayloadColumn::Jsonb => self.jsonb,
        }
    }
}

/// The payload of a delete marker.
pub(super) const fn marker(column: PayloadColumn) -> &'static [u8] {
    match column {
        PayloadColumn::Bytea => MARKER,
        PayloadColumn::Json | PayloadColumn::Jsonb => MARKER_JSON,
    }
}

/// Why this payload cannot be written to the column.
pub(super) fn refusal(
    write: &Write,
    payload: &Payload,
    settings: &StoreSettings,
) -> Option<StoreError> {
    if settings.payload_column == PayloadColumn::Bytea {
        return None;
    }
    let unencodable = |reason| {
        Some(StoreError::Unencodable {
            persistence_id: write.persistence_id.clone(),
            reason,
        })
    };
    if PayloadFormat::of(payload.serializer_id) != Ok(PayloadFormat::Json) {
        return unencodable(EncodeError::NotJson(payload.serializer_id));
    }
    if is_compressed(&payload.bytes) {
        return unencodable(EncodeError::Compressed);
    }
    let text = std::str::from_utf8(&payload.bytes).ok();
    let Some(text) = text.filter(|text| !text.contains('\0')) else {
        // What the server answers to bytes that are no text: character_not_in_repertoire.
        return Some(refused("22021"));
    };
    if settings.payload_column == PayloadColumn::Json {
        return None;
    }
    let stored = StoredText::of(text);
    if stored.has_nul {
        // What the server answers to a NUL in JSONB: untranslatable_character.
        return Some(refused("22P05"));
    }
    let limit = settings.payload_bytes_max;
    (stored.bytes_max > limit).then_some(StoreError::TooLarge {
        what: "the payload's number of bytes as jsonb text".into(),
        actual: stored.bytes_max,
        limit,
    })
}

fn refused(code: &str) -> StoreError {
    StoreError::Refused(DatabaseError {
        code: code.into(),
        severity: "ERROR".into(),
        constraint: None,
    })
}

/// What JSON text becomes as JSONB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredText {
    /// It holds the escape of a NUL character.
    has_nul: bool,
    /// The most bytes of the text that comes back: a space behind each colon and comma, and exponents written out.
    bytes_max: usize,
}

impl StoredText {
    /// One pass, for text that is JSON; of other text it says something, and the server refuses it.
    fn of(json: &str) -> Self {
        let mut stored = Self {
            has_nul: false,
            bytes_max: json.len(),
        };
        let mut in_string = false;
        let mut rest = json.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match (in_string, byte) {
                (true, b'\\') => {
                    stored.has_nul |= rest.starts_with(b"u0000");
                    rest = rest.get(1..).unwrap_or_default();
                }
                (_, b'"') => in_string = !in_string,
                (false, b':' | b',') => stored.bytes_max = stored.bytes_max.saturating_add(1),
                (false, b'e' | b'E') => {
                    stored.bytes_max = stored.bytes_max.saturating_add(exponent(rest));
                }
                _ => {}
            }
        }
        stored
    }
}

/// The amount of the exponent behind an `e`; 0 where none stands there, as in `true`.
fn exponent(behind: &[u8]) -> usize {
    let digits = behind
        .strip_prefix(b"+")
        .or_else(|| behind.strip_prefix(b"-"))
        .unwrap_or(behind);
    digits
        .iter()
        .take_while(|digit| digit.is_ascii_digit())
        .fold(0, |amount: usize, digit| {
            amount
                .saturating_mul(10)
                .saturating_add(usize::from(digit - b'0'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_told_from_a_backslash_before_u0000() {
        for (json, has_nul) in [
            (r#"{"a":"\u0000"}"#, true),
            (r#"{"a":"\\u0000"}"#, false),
            (r#"{"a":"\\\u0000"}"#, true),
            (r#"{"\u0000":1}"#, true),
            (r#"{"a":"u0000 \u0001 \" \u00000"}"#, true),
            (r#"{"a":"\u0001\n\""}"#, false),
        ] {
            assert_eq!(StoredText::of(json).has_nul, has_nul, "{json}");
        }
    }

    #[test]
    fn the_stored_text_is_never_longer_than_expected() {
        for (json, stored) in [
            (r#"{"a":[1,2],"b":true}"#, r#"{"a": [1, 2], "b": true}"#),
            (r#"":,e9""#, r#"":,e9""#),
            ("1e5", "100000"),
            ("12E+3", "12000"),
            ("1.5e-3", "0.0015"),
            ("false", "false"),
        ] {
            let bytes_max = StoredText::of(json).bytes_max;
            assert!(stored.len() <= bytes_max, "{json}: {bytes_max}");
            assert!(bytes_max <= stored.len() + 4, "{json}: {bytes_max}");
        }
        assert_eq!(StoredText::of(r#"{"a":[1,2]}"#).bytes_max, 13);
        assert_eq!(
            StoredText::of("1e99999999999999999999").bytes_max,
            usize::MAX
        );
    }
}
