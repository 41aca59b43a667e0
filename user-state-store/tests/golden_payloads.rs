//! Every row that three releases of Pekko wrote is read as the state that Pekko recovers from it, and written again the same.
//!
//! `fixtures/pekko/durable_state-*.jsonl` are read line by line. Each line is handled in exactly one way, and how many
//! lines were handled in which way is asserted for each file, so that none is passed over. A row of the users' class is
//! read in two forms: by the mapping of users, which keeps three products, and by that of a document with all of
//! them. What is written again is compared with the row: byte for byte, and where it is compressed, unpacked byte for byte.
//!
//! Most rows have arbitrary persistence ids, so the mapping of users is given an id made of the ids in the state.

#![cfg(feature = "users")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use user_state_domain::{ProductId, RECENT_PRODUCTS_MAX, UserKey, UserState};
use user_state_store::{
    Compression, DecodeError, JacksonMigration, Manifest, Payload, PayloadFormat, PersistenceId,
    Primitive, PrimitiveMapping, SerdeMapping, SerializerId, StateMapping, UserStateMapping,
};

const CLASS: &str = "com.example.persistdurable.model.UserState";

/// Version 1 of the class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    mall_id: String,
    user_id: String,
    last_login: Option<String>,
    last_cart_used_time: Option<String>,
    recent_products: Vec<String>,
    marketing_opt_in: bool,
    last_event_time: Option<String>,
}

/// Version 2 of the class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentV2 {
    mall_id: String,
    user_id: String,
    last_login: Option<String>,
    last_cart_used_time: Option<String>,
    recent_products: Vec<String>,
    opted_in: bool,
    visits: i32,
    last_event_time: Option<String>,
}

/// How a line was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Handled {
    /// Read in both forms, written again in both forms as the same bytes.
    Same,
    /// Read in both forms, written again as the same bytes with all products only: the mapping of users keeps three.
    SameWithAllProducts,
    /// Read in both forms, written again as the same bytes as a document only: its ids are no key of a user.
    SameWithoutKey,
    /// Compressed: as `Same` or `SameWithAllProducts`, after unpacking.
    SameUnpacked,
    /// JSONB, which keeps the values and not the bytes: read in both forms.
    Jsonb,
    /// Times as lists of numbers: read, and written again as text.
    TimesAsNumbers,
    /// Of version 2, or read as version 2.
    SecondVersion,
    /// Of version 2, read as version 1.
    SecondVersionAsFirst,
    /// Of version 2, and refused.
    SecondVersionRefused,
    /// One of Pekko's primitive serializers.
    Primitive,
    /// The mark of a deleted state; no payload to read.
    Marker,
    /// The mark of a deleted state beside a row with a state, which was read.
    MarkerBesideState,
    /// No row.
    Nothing,
}

use Handled::{
    Jsonb, Marker, MarkerBesideState, Nothing, Same, SameUnpacked, SameWithAllProducts,
    SameWithoutKey, SecondVersion, SecondVersionAsFirst, SecondVersionRefused, TimesAsNumbers,
};

#[test]
fn every_row_of_1_1_0_is_read_and_written_again() {
    let lines = include_str!("fixtures/pekko/durable_state-1.1.0.jsonl");
    let expected = [
        (Same, 72),
        (SameWithAllProducts, 4),
        (SameWithoutKey, 1),
        (SameUnpacked, 3),
        (TimesAsNumbers, 1),
        (SecondVersion, 4),
        (SecondVersionAsFirst, 2),
        (SecondVersionRefused, 1),
        (Handled::Primitive, 5),
        (Nothing, 4),
    ];
    assert_eq!(handle_all(lines), BTreeMap::from(expected));
}

#[test]
fn every_row_of_1_2_0_is_read_and_written_again() {
    let lines = include_str!("fixtures/pekko/durable_state-1.2.0.jsonl");
    let expected = [
        (Same, 69),
        (SameWithAllProducts, 4),
        (SameWithoutKey, 1),
        (SameUnpacked, 3),
        (TimesAsNumbers, 1),
        (SecondVersion, 4),
        (SecondVersionAsFirst, 2),
        (SecondVersionRefused, 1),
        (Handled::Primitive, 5),
        (Nothing, 7),
    ];
    assert_eq!(handle_all(lines), BTreeMap::from(expected));
}

#[test]
fn every_row_of_2_0_0_m1_is_read_and_written_again() {
    let lines = include_str!("fixtures/pekko/durable_state-2.0.0-M1.jsonl");
    let expected = [
        (Same, 66),
        (SameWithAllProducts, 4),
        (SameWithoutKey, 1),
        (SameUnpacked, 3),
        (Jsonb, 8),
        (TimesAsNumbers, 1),
        (SecondVersion, 4),
        (SecondVersionAsFirst, 2),
        (SecondVersionRefused, 1),
        (Handled::Primitive, 6),
        (Marker, 8),
        (MarkerBesideState, 1),
        (Nothing, 4),
    ];
    assert_eq!(handle_all(lines), BTreeMap::from(expected));
}

fn handle_all(lines: &str) -> BTreeMap<Handled, usize> {
    let mut counts = BTreeMap::new();
    let mut cases = HashSet::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let case = line["case"].as_str().unwrap();
        assert!(cases.insert(case.to_owned()), "{case} is there twice");
        *counts.entry(handle(case, &line)).or_insert(0) += 1;
    }
    counts
}

fn handle(case: &str, line: &Value) -> Handled {
    let row = &line["row"];
    let expected = &line["expected"];
    if row.is_null() {
        return Nothing;
    }
    let id = PersistenceId::unique(row["persistence_id"].as_str().unwrap()).unwrap();
    assert_eq!(row["slice"], id.slice().get(), "{case}");
    assert_eq!(
        Some(id.entity_type()),
        row["entity_type"].as_str(),
        "{case}"
    );

    let zone: Tz = line["zone"].as_str().unwrap().parse().unwrap();
    let stored = Stored::new(row);
    match stored.payload.serializer_id {
        SerializerId::NULL => {
            assert_eq!(stored.payload.manifest.as_str(), "", "{case}");
            let nothing = if stored.jsonb { &b"{}"[..] } else { b"" };
            assert_eq!(stored.payload.bytes, nothing, "{case}");
            let Some(other) = line["other_rows"].as_array() else {
                return Marker;
            };
            assert_eq!(other.len(), 1, "{case}");
            handle_first_version(case, &Stored::new(&other[0]), expected, zone);
            MarkerBesideState
        }
        SerializerId::JACKSON_JSON | SerializerId::JACKSON_CBOR => match case {
            "migration-v2-row-refused" => {
                assert!(expected.is_null());
                assert_refused_without_migration(case, &stored);
                SecondVersionRefused
            }
            "migration-v2-row-read-as-v1" => {
                let unchanged = JacksonMigration::new().downcast_unchanged();
                assert_read_as_first_version(case, &stored, expected, zone, &unchanged);
                SecondVersionAsFirst
            }
            "migration-v2-row-forward" => {
                let renamed = JacksonMigration::new()
                    .downcast(|document| rename(document, "optedIn", "marketingOptIn"));
                assert_read_as_first_version(case, &stored, expected, zone, &renamed);
                SecondVersionAsFirst
            }
            _ if expected.get("optedIn").is_some() => {
                assert_second_version(case, &stored, expected);
                SecondVersion
            }
            _ => handle_first_version(case, &stored, expected, zone),
        },
        SerializerId::STRING => handle_primitive::<String>(case, &stored, expected, Value::from),
        SerializerId::LONG => handle_primitive::<i64>(case, &stored, expected, Value::from),
        SerializerId::INT => handle_primitive::<i32>(case, &stored, expected, Value::from),
        SerializerId::BOOLEAN => handle_primitive::<bool>(case, &stored, expected, Value::from),
        SerializerId::BYTES => handle_primitive(case, &stored, expected, |bytes: Vec<u8>| {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            serde_json::json!({ "bytes_hex": digits.concat() })
        }),
        other => panic!("{case}: serializer {other}"),
    }
}

/// What a row holds.
struct Stored {
    payload: Payload,
    jsonb: bool,
}

impl Stored {
    fn new(row: &Value) -> Self {
        let (bytes, jsonb) = match row["state_payload_hex"].as_str() {
            Some(digits) => (bytes_of(digits), false),
            None => (row["state_payload"].as_str().unwrap().into(), true),
        };
        let number = row["state_ser_id"].as_i64().unwrap();
        let payload = Payload {
            serializer_id: SerializerId(number.try_into().unwrap()),
            manifest: Manifest::new(row["state_ser_manifest"].as_str().unwrap()),
            bytes,
        };
        Self { payload, jsonb }
    }

    fn format(&self) -> PayloadFormat {
        if self.payload.serializer_id == SerializerId::JACKSON_CBOR {
            PayloadFormat::Cbor
        } else {
            PayloadFormat::Json
        }
    }

    fn is_compressed(&self) -> bool {
        matches!(unpacked(&self.payload), Cow::Owned(_))
    }

    /// The mapping of any class with the settings of the writer.
    fn documents<A>(&self, case: &str) -> SerdeMapping<A> {
        let mapping = SerdeMapping::new(CLASS).format(self.format());
        match compression(case) {
            Some(compression) => mapping.compression(compression),
            None => mapping,
        }
    }

    /// The mapping of users with the settings of the writer.
    fn users(&self, case: &str, zone: Tz) -> UserStateMapping {
        let mapping = UserStateMapping::new().zone(zone).format(self.format());
        match compression(case) {
            Some(compression) => mapping.compression(compression),
            None => mapping,
        }
    }

    fn assert_same(&self, case: &str, written: &Payload) {
        assert_eq!(written.serializer_id, self.payload.serializer_id, "{case}");
        assert_eq!(written.manifest, self.payload.manifest, "{case}");
        if self.is_compressed() {
            assert_eq!(written.bytes[..2], self.payload.bytes[..2], "{case}");
        }
        assert!(
            unpacked(written) == unpacked(&self.payload),
            "{case}: other bytes"
        );
    }
}

/// The setting that the writer had, where it was not the default.
fn compression(case: &str) -> Option<Compression> {
    match case {
        "large-plain" => Some(Compression::Off),
        "small-lz4-setting" | "large-lz4" => Some(Compression::Lz4),
        "cbor-large-gzip-configured" => Some(Compression::Gzip),
        _ => None,
    }
}

fn handle_first_version(case: &str, stored: &Stored, expected: &Value, zone: Tz) -> Handled {
    let id = id_of(expected);
    let users = stored.users(case, zone);
    let state = users.decode(&id, &stored.payload).unwrap();
    assert_state(case, &state, expected, zone);

    let documents = stored.documents::<Document>(case);
    let document: Document = serde_json::from_value(expected.clone()).unwrap();
    if case == "times-as-arrays" {
        let as_text = documents.encode(&id, &document).unwrap();
        assert_eq!(users.encode(&id, &state), Ok(as_text));
        return TimesAsNumbers;
    }
    assert_eq!(
        documents.decode(&id, &stored.payload).as_ref(),
        Ok(&document),
        "{case}"
    );
    if stored.jsonb {
        return Jsonb;
    }
    stored.assert_same(case, &documents.encode(&id, &document).unwrap());

    let distinct: HashSet<&String> = document.recent_products.iter().collect();
    let all_kept =
        distinct.len() == document.recent_products.len() && distinct.len() <= RECENT_PRODUCTS_MAX;
    let is_key = id.as_str().parse::<UserKey>().is_ok();
    if all_kept && is_key {
        stored.assert_same(case, &users.encode(&id, &state).unwrap());
    }
    match (stored.is_compressed(), is_key, all_kept) {
        (true, ..) => SameUnpacked,
        (_, false, _) => SameWithoutKey,
        (_, _, false) => SameWithAllProducts,
        _ => Same,
    }
}

/// Through a migration from version 1, the versions of both classes.
fn assert_second_version(case: &str, stored: &Stored, expected: &Value) {
    let migration = JacksonMigration::new().upcast(|document| {
        rename(document, "marketingOptIn", "optedIn")?;
        let fields = document.as_object_mut().ok_or("not an object")?;
        fields.insert("visits".to_owned(), 1.into());
        Ok(())
    });
    let id = id_of(expected);
    let mapping = stored.documents::<DocumentV2>(case).migration(migration);
    let document: DocumentV2 = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(
        mapping.decode(&id, &stored.payload).as_ref(),
        Ok(&document),
        "{case}"
    );
    let written = mapping.encode(&id, &document).unwrap();
    if stored.payload.manifest.version() == Some(2) {
        stored.assert_same(case, &written);
        assert_refused_without_migration(case, stored);
    } else {
        // The row is still the one of version 1, which has one field less.
        assert_eq!(written.manifest.as_str(), format!("{CLASS}#2"), "{case}");
        assert_eq!(mapping.decode(&id, &written), Ok(document), "{case}");
    }
}

fn assert_read_as_first_version(
    case: &str,
    stored: &Stored,
    expected: &Value,
    zone: Tz,
    migration: &JacksonMigration,
) {
    let id = id_of(expected);
    let users = stored.users(case, zone).migration(migration.clone());
    let state = users.decode(&id, &stored.payload).unwrap();
    assert_state(case, &state, expected, zone);
    let documents = stored.documents(case).migration(migration.clone());
    let document: Document = serde_json::from_value(expected.clone()).unwrap();
    assert_eq!(
        documents.decode(&id, &stored.payload).as_ref(),
        Ok(&document),
        "{case}"
    );
    assert_refused_without_migration(case, stored);

    let as_first_version = users.encode(&id, &state).unwrap();
    assert_eq!(
        documents.encode(&id, &document).as_ref(),
        Ok(&as_first_version),
        "{case}"
    );
    assert_eq!(as_first_version.manifest.as_str(), CLASS, "{case}");
}

fn assert_refused_without_migration(case: &str, stored: &Stored) {
    let id = PersistenceId::unique("mall1-user9").unwrap();
    let newer = DecodeError::NewerVersion {
        found: 2,
        newest: 1,
    };
    let users = UserStateMapping::new().decode(&id, &stored.payload);
    assert_eq!(users.as_ref(), Err(&newer), "{case}");
    let documents = stored
        .documents::<Document>(case)
        .decode(&id, &stored.payload);
    assert_eq!(documents.as_ref(), Err(&newer), "{case}");
}

fn handle_primitive<P>(
    case: &str,
    stored: &Stored,
    expected: &Value,
    shown: impl FnOnce(P) -> Value,
) -> Handled
where
    P: Primitive + Clone + Default,
{
    let id = PersistenceId::unique("primitive").unwrap();
    let mapping = PrimitiveMapping::<P>::new();
    let state: P = mapping.decode(&id, &stored.payload).unwrap();
    assert_eq!(
        mapping.encode(&id, &state).as_ref(),
        Ok(&stored.payload),
        "{case}"
    );
    assert_eq!(&shown(state), expected, "{case}");
    Handled::Primitive
}

fn rename(document: &mut Value, from: &str, to: &str) -> Result<(), &'static str> {
    let fields = document.as_object_mut().ok_or("not an object")?;
    let value = fields.remove(from).ok_or("a field is missing")?;
    fields.insert(to.to_owned(), value);
    Ok(())
}

fn bytes_of(digits: &str) -> Vec<u8> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty());
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(|pair| byte(pair)).collect()
}

/// The id of the user in the state.
fn id_of(expected: &Value) -> PersistenceId {
    let [mall, user] = [&expected["mallId"], &expected["userId"]].map(|id| id.as_str().unwrap());
    PersistenceId::unique(&format!("{mall}-{user}")).unwrap()
}

fn assert_state(case: &str, state: &UserState, expected: &Value, zone: Tz) {
    let local = |at: Option<DateTime<Utc>>| at.map(|at| at.with_timezone(&zone).naive_local());
    for (at, field) in [
        (state.last_login, "lastLogin"),
        (state.last_cart_used, "lastCartUsedTime"),
        (state.last_event_at, "lastEventTime"),
    ] {
        let stored: Option<NaiveDateTime> =
            expected[field].as_str().map(|text| text.parse().unwrap());
        assert_eq!(local(at), stored, "{case}: {field}");
    }
    let mut seen = HashSet::new();
    let products: Vec<&str> = expected["recentProducts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|product| product.as_str().unwrap())
        .filter(|product| seen.insert(*product))
        .take(RECENT_PRODUCTS_MAX)
        .collect();
    let kept: Vec<&str> = state
        .recent_products
        .iter()
        .map(ProductId::as_str)
        .collect();
    assert_eq!(kept, products, "{case}");
    assert_eq!(
        Some(state.marketing_opt_in),
        expected["marketingOptIn"].as_bool(),
        "{case}"
    );
}

fn unpacked(payload: &Payload) -> Cow<'_, [u8]> {
    let bytes = &payload.bytes[..];
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut plain)
            .unwrap();
        Cow::Owned(plain)
    } else if let Some(behind) = bytes.strip_prefix(&[0x87, 0xd9, 0x6d, 0xf6]) {
        let (len, block) = behind.split_first_chunk().unwrap();
        let len = u32::from_be_bytes(*len).try_into().unwrap();
        Cow::Owned(lz4_flex::block::decompress(block, len).unwrap())
    } else {
        Cow::Borrowed(bytes)
    }
}
