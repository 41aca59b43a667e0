//! Rows that Pekko itself wrote with its Jackson JSON serializer are read exactly and written again as the same bytes.
//!
//! `fixtures/durable_state.jsonl` holds a choice of such rows, one JSON object a line: the columns that matter here,
//! the state they stand for with local times, and the zone of the writer (the four-product lists of the two
//! `large` cases stand for 2,000 products, and the payload of `large-lz4` is only its beginning). Where the full set of
//! rows of three Pekko versions lies beside the repository, all of its durable states are checked too.
//!
//! Most rows have arbitrary persistence ids, so the mapping is given an id made of the ids in the state. What was
//! checked is counted, so that an empty or misread file is a failure.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;
use serde_json::Value;
use user_state_domain::{ProductId, RECENT_PRODUCTS_MAX, UserState};
use user_state_store::{
    DecodeError, Manifest, Payload, PersistenceId, SerializerId, StateMapping, UserStateMapping,
};

const FIXTURE: &str = include_str!("fixtures/durable_state.jsonl");
const FULL_SET: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/data/pekko-golden"
);

/// What was checked in a file.
#[derive(Debug, Default, PartialEq)]
struct Checked {
    read: usize,
    written_again: usize,
    refused: usize,
}

#[test]
fn rows_that_pekko_wrote_are_read_exactly_and_written_again_as_the_same_bytes() {
    let fixture = Checked {
        read: 19,
        written_again: 16,
        refused: 5,
    };
    assert_eq!(check_all(FIXTURE), fixture);

    let full_set = Path::new(FULL_SET);
    if full_set.is_dir() {
        for version in ["1.1.0", "1.2.0", "2.0.0-M1"] {
            let file = full_set.join(format!("durable_state-{version}.jsonl"));
            let checked = check_all(&std::fs::read_to_string(file).unwrap());
            assert!(checked.read >= 45, "{version}: {checked:?}");
            assert!(checked.written_again >= 40, "{version}: {checked:?}");
            assert!(checked.refused >= 25, "{version}: {checked:?}");
        }
    }
}

fn check_all(lines: &str) -> Checked {
    let mut checked = Checked::default();
    let mut cases = HashSet::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let case = line["case"].as_str().unwrap();
        assert!(cases.insert(case.to_owned()), "{case} is there twice");
        // A step that left no row, or a mark of deletion, has no state to be read.
        if line["row"].is_null() || line["row"]["state_ser_id"] == 0 {
            continue;
        }
        check(case, &line, &mut checked);
    }
    checked
}

fn check(case: &str, line: &Value, checked: &mut Checked) {
    let zone: Tz = line["zone"].as_str().unwrap().parse().unwrap();
    let mapping = UserStateMapping::new().zone(zone);
    let (payload, reformatted) = payload(&line["row"]);
    let expected = &line["expected"];
    let id = id_of(expected);

    if let Some(refusal) = refusal(case, &payload) {
        let error = mapping.decode(&id, &payload).unwrap_err();
        assert!(refusal(&error), "{case}: {error}");
        checked.refused += 1;
        return;
    }
    let state = mapping
        .decode(&id, &payload)
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_state(case, &state, expected, zone);
    checked.read += 1;

    let products = expected["recentProducts"].as_array().unwrap();
    let distinct: HashSet<&Value> = products.iter().collect();
    if reformatted || products.len() > RECENT_PRODUCTS_MAX || distinct.len() < products.len() {
        return;
    }
    let written = mapping.encode(&id, &state).unwrap();
    assert_eq!(written.serializer_id, payload.serializer_id, "{case}");
    assert_eq!(written.manifest, payload.manifest, "{case}");
    assert!(
        unpacked(&written) == unpacked(&payload),
        "{case}: other bytes"
    );
    checked.written_again += 1;
}

/// How a row that is not read yet has to be refused.
fn refusal(case: &str, payload: &Payload) -> Option<fn(&DecodeError) -> bool> {
    if payload.serializer_id != SerializerId::JACKSON_JSON {
        return Some(|error| matches!(error, DecodeError::UnknownSerializer(_)));
    }
    if payload.manifest.version() == Some(2) {
        return Some(|error| {
            *error
                == DecodeError::NewerVersion {
                    found: 2,
                    newest: 1,
                }
        });
    }
    match case {
        "large-lz4" => Some(|error| *error == DecodeError::UnsupportedCompression("LZ4")),
        "times-as-arrays" => Some(|error| matches!(error, DecodeError::Malformed { .. })),
        _ => None,
    }
}

/// The payload, and whether it comes from a JSONB column, which does not keep the writer's bytes.
fn payload(row: &Value) -> (Payload, bool) {
    let (bytes, reformatted) = match row["state_payload_hex"].as_str() {
        Some(digits) => (bytes_of(digits), false),
        None => (row["state_payload"].as_str().unwrap().into(), true),
    };
    let number = row["state_ser_id"].as_i64().unwrap();
    let payload = Payload {
        serializer_id: SerializerId(number.try_into().unwrap()),
        manifest: Manifest::new(row["state_ser_manifest"].as_str().unwrap()),
        bytes,
    };
    (payload, reformatted)
}

fn bytes_of(digits: &str) -> Vec<u8> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty());
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(|pair| byte(pair)).collect()
}

/// The id of the user in the state; of other states, which are all refused, any.
fn id_of(expected: &Value) -> PersistenceId {
    match (expected["mallId"].as_str(), expected["userId"].as_str()) {
        (Some(mall), Some(user)) => PersistenceId::unique(&format!("{mall}-{user}")).unwrap(),
        _ => PersistenceId::unique("mall-user").unwrap(),
    }
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
    // Version 2 of the class calls it otherwise; a row of version 1 may be shown as version 2 sees it.
    let opt_in = [&expected["marketingOptIn"], &expected["optedIn"]]
        .into_iter()
        .find_map(Value::as_bool)
        .unwrap();
    assert_eq!(state.marketing_opt_in, opt_in, "{case}");
}

fn unpacked(payload: &Payload) -> Vec<u8> {
    let mut json = Vec::new();
    if payload.bytes.starts_with(&[0x1f, 0x8b]) {
        let mut decoder = flate2::read::GzDecoder::new(&payload.bytes[..]);
        decoder.read_to_end(&mut json).unwrap();
    } else {
        json.clone_from(&payload.bytes);
    }
    json
}
