//! The lines of the fixtures, and the category of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use user_state_store::{PayloadColumn, SerializerId, Tz};

/// The releases of pekko-persistence-r2dbc whose rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    V1_1_0,
    V1_2_0,
    V2_0_0M1,
}

pub(crate) const RELEASES: [Release; 3] = [Release::V1_1_0, Release::V1_2_0, Release::V2_0_0M1];

impl Release {
    fn file(self) -> &'static str {
        match self {
            Self::V1_1_0 => {
                include_str!(
                    "../../../user-state-store/tests/fixtures/pekko/durable_state-1.1.0.jsonl"
                )
            }
            Self::V1_2_0 => {
                include_str!(
                    "../../../user-state-store/tests/fixtures/pekko/durable_state-1.2.0.jsonl"
                )
            }
            Self::V2_0_0M1 => {
                include_str!(
                    "../../../user-state-store/tests/fixtures/pekko/durable_state-2.0.0-M1.jsonl"
                )
            }
        }
    }

    /// All lines, in the order of the file.
    pub(crate) fn lines(self) -> &'static [Line] {
        static FILES: [OnceLock<Vec<Line>>; 3] = [const { OnceLock::new() }; 3];
        let read =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let file = match self {
            Self::V1_1_0 => &FILES[0],
            Self::V1_2_0 => &FILES[1],
            Self::V2_0_0M1 => &FILES[2],
        };
        file.get_or_init(|| self.file().lines().map(read).collect())
    }

    /// The lines of one category.
    pub(crate) fn lines_of(self, category: Category) -> Vec<Line> {
        let lines = self.lines().iter();
        lines
            .filter(|line| line.category() == category)
            .cloned()
            .collect()
    }

    /// The line of this name.
    pub(crate) fn line(self, case: &str) -> Line {
        let mut lines = self.lines().iter();
        lines
            .find(|line| line.case == case)
            .cloned()
            .unwrap_or_else(|| panic!("{self:?} has no {case}"))
    }
}

/// What a line is about; a field that is not here fails every test.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "fields that are read by nobody are still known")]
pub(crate) struct Line {
    pub(crate) case: String,
    note: String,
    pub(crate) row: Option<Row>,
    #[serde(default)]
    pub(crate) other_rows: Vec<Row>,
    pub(crate) expected: Value,
    pub(crate) zone: Zone,
    #[serde(default)]
    pub(crate) given: Option<Value>,
    #[serde(default)]
    actor_sees: Option<Seen>,
    #[serde(default)]
    pub(crate) fresh_recovery_sees: Option<Seen>,
    #[serde(default)]
    pub(crate) get_object_sees: Option<Seen>,
}

/// The zone of the writer.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Zone(pub(crate) Tz);

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse().map(Self).map_err(|_| name)
    }
}

/// What a reader on Pekko's side sees.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Seen {
    pub(crate) revision: i64,
    pub(crate) state: Value,
}

/// A row, column by column.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) slice: i32,
    pub(crate) entity_type: String,
    pub(crate) persistence_id: String,
    pub(crate) revision: i64,
    pub(crate) db_timestamp: DateTime<Utc>,
    pub(crate) state_ser_id: i32,
    pub(crate) state_ser_manifest: String,
    /// A `BYTEA` column.
    state_payload_hex: Option<String>,
    /// A `JSONB` column.
    state_payload: Option<String>,
    pub(crate) tags: Option<Vec<String>>,
}

impl Row {
    /// A row as the server gives it, with its payload as bytes.
    pub(crate) fn new(columns: RowColumns, payload: &[u8], column: PayloadColumn) -> Self {
        let (hex, text) = match column {
            PayloadColumn::Bytea => (Some(hex(payload)), None),
            _ => (None, Some(String::from_utf8_lossy(payload).into_owned())),
        };
        let (slice, entity_type, persistence_id, revision, db_timestamp, ser_id, manifest, tags) =
            columns;
        Self {
            slice,
            entity_type,
            persistence_id,
            revision,
            db_timestamp,
            state_ser_id: ser_id,
            state_ser_manifest: manifest,
            state_payload_hex: hex,
            state_payload: text,
            tags,
        }
    }

    /// The payload as the server gives it.
    pub(crate) fn payload(&self) -> Vec<u8> {
        match (&self.state_payload_hex, &self.state_payload) {
            (Some(digits), None) => bytes(digits),
            (None, Some(json)) => json.clone().into_bytes(),
            other => panic!("a row has one payload: {other:?}"),
        }
    }

    /// The same row under another id; slice and entity type stay.
    pub(crate) fn of(&self, persistence_id: &str) -> Self {
        Self {
            persistence_id: persistence_id.to_owned(),
            ..self.clone()
        }
    }

    /// The same row with the payload of another.
    pub(crate) fn with_payload_of(&self, other: &Self) -> Self {
        Self {
            state_payload_hex: other.state_payload_hex.clone(),
            state_payload: other.state_payload.clone(),
            ..self.clone()
        }
    }

    /// The same row without the time at which it was written.
    pub(crate) fn undated(&self) -> Self {
        Self {
            db_timestamp: DateTime::UNIX_EPOCH,
            ..self.clone()
        }
    }
}

/// All columns but the payload.
pub(crate) type RowColumns = (
    i32,
    String,
    String,
    i64,
    DateTime<Utc>,
    i32,
    String,
    Option<Vec<String>>,
);

/// What a line shows, and so which tests go through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Category {
    /// A user's state as JSON: loaded, continued, written, shown.
    Json,
    /// A user's state as CBOR: the same.
    Cbor,
    /// A state that is one primitive value: the same.
    Primitive,
    /// Versions of the class.
    Migration,
    /// A step of writes and deletions: replayed.
    Step,
    /// A user's state in a JSONB column: loaded, continued, written, shown.
    Jsonb,
    /// A text that happens to be JSON, of the text serializer, in a JSONB column: loaded; we refuse to write it.
    JsonbText,
    /// What Pekko could not write to a JSONB column: refused by ours too.
    JsonbRefused,
    /// A step in a JSONB column: replayed.
    JsonbStep,
}

impl Line {
    /// The one category of the line.
    pub(crate) fn category(&self) -> Category {
        let begins = |beginning: &str| self.case.starts_with(beginning);
        let serializer = self.row.as_ref().map(|row| SerializerId(row.state_ser_id));
        if begins("jsonb-") {
            return match serializer {
                _ if begins("jsonb-delete-step-") => Category::JsonbStep,
                None => Category::JsonbRefused,
                Some(SerializerId(20)) => Category::JsonbText,
                Some(SerializerId::JACKSON_JSON) => Category::Jsonb,
                other => panic!("{}: serializer {other:?}", self.case),
            };
        }
        let steps = ["delete-step-", "store-delete-", "store-upsert-conflicts-"];
        if steps.into_iter().any(begins) {
            return Category::Step;
        }
        if self.case.contains("migration-") {
            return Category::Migration;
        }
        match serializer {
            Some(SerializerId::JACKSON_JSON) => Category::Json,
            Some(SerializerId::JACKSON_CBOR) => Category::Cbor,
            Some(_) if begins("primitive-") => Category::Primitive,
            other => panic!("{}: serializer {other:?}", self.case),
        }
    }

    /// The row of a line that has one.
    pub(crate) fn row(&self) -> &Row {
        let row = self.row.as_ref();
        row.unwrap_or_else(|| panic!("{} has no row", self.case))
    }
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(digits, "{byte:02x}").expect("a text takes more text");
    }
    digits
}

fn bytes(digits: &str) -> Vec<u8> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty(), "half a byte");
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(byte).collect()
}

/// A line that nobody has decided about fails this test.
#[test]
fn every_line_of_every_file_has_one_category() {
    let both = [
        (Category::Json, 37),
        (Category::Cbor, 20),
        (Category::Primitive, 5),
        (Category::Migration, 8),
        (Category::Step, 27),
    ];
    let jsonb = [
        (Category::Jsonb, 7),
        (Category::JsonbText, 1),
        (Category::JsonbRefused, 2),
        (Category::JsonbStep, 2),
    ];
    for (release, lines, expected) in [
        (Release::V1_1_0, 97, both.to_vec()),
        (Release::V1_2_0, 97, both.to_vec()),
        (Release::V2_0_0M1, 109, [&both[..], &jsonb].concat()),
    ] {
        let all = release.lines();
        assert_eq!(all.len(), lines, "{release:?}");
        let mut names: Vec<&str> = all.iter().map(|line| line.case.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), lines, "{release:?} has a name twice");
        let mut counts = BTreeMap::new();
        for line in all {
            *counts.entry(line.category()).or_insert(0) += 1;
        }
        assert_eq!(counts, expected.into_iter().collect(), "{release:?}");
    }
}
