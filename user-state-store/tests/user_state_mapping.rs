//! How a user's state is stored: the exact bytes, what is read leniently, and what is refused with which error.
//!
//! Payloads are made by hand and by the mapping itself; proptest draws states and zones. Markers in payloads show that
//! no error repeats what a payload holds.

#![cfg(feature = "users")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{America, Asia, Australia, Europe, Tz};
use flate2::write::GzEncoder;
use proptest::prelude::*;
use user_state_domain::{ProductId, UserKey, UserState};
use user_state_store::{
    Compression, DecodeError, EncodeError, Manifest, Payload, PayloadFormat, PersistenceId,
    SerdeMapping, SerializerId, StateMapping, StoreError, Tags, UserStateMapping,
};

const CLASS: &str = "com.example.persistdurable.model.UserState";

fn id() -> PersistenceId {
    PersistenceId::unique("mall1-user1").unwrap()
}

fn payload(json: impl Into<Vec<u8>>) -> Payload {
    Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new(CLASS),
        bytes: json.into(),
    }
}

fn decode(json: &str) -> Result<UserState, DecodeError> {
    UserStateMapping::new().decode(&id(), &payload(json))
}

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn viewed<'a>(products: impl IntoIterator<Item = &'a str>) -> UserState {
    UserState {
        recent_products: products.into_iter().map(ProductId::new).collect(),
        ..UserState::default()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_empty_state_is_written_with_all_seven_fields_in_order() {
    let payload = UserStateMapping::new()
        .encode(&id(), &UserState::default())
        .unwrap();
    assert_eq!(payload.serializer_id, SerializerId::JACKSON_JSON);
    assert_eq!(payload.manifest.as_str(), CLASS);
    let json = concat!(
        r#"{"mallId":"mall1","userId":"user1","lastLogin":null,"lastCartUsedTime":null,"#,
        r#""recentProducts":[],"marketingOptIn":false,"lastEventTime":null}"#,
    );
    assert_eq!(String::from_utf8(payload.bytes).unwrap(), json);
}

#[test]
fn times_are_written_local_to_the_zone_and_text_is_escaped_as_jackson_does() {
    let state = UserState {
        last_login: Some(instant("2025-03-03T20:06:07.123456789Z")),
        last_cart_used: Some(instant("2025-03-03T20:06:08.5Z")),
        marketing_opt_in: true,
        last_event_at: Some(instant("2025-03-03T20:06:09Z")),
        ..viewed(["상품/1", "😀", "\u{1f}\"\\"])
    };
    let id = PersistenceId::of("UserState", "몰-사용자-😀").unwrap();
    let mapping = UserStateMapping::new().zone(Asia::Seoul);
    let payload = mapping.encode(&id, &state).unwrap();
    let json = concat!(
        r#"{"mallId":"몰","userId":"사용자-\uD83D\uDE00","lastLogin":"2025-03-04T05:06:07.123456789","#,
        r#""lastCartUsedTime":"2025-03-04T05:06:08.5","recentProducts":["상품/1","\uD83D\uDE00","\u001F\"\\"],"#,
        r#""marketingOptIn":true,"lastEventTime":"2025-03-04T05:06:09"}"#,
    );
    assert_eq!(str::from_utf8(&payload.bytes).unwrap(), json);
    assert_eq!(mapping.decode(&id, &payload).unwrap(), state);
}

#[test]
fn cbor_is_written_as_jackson_writes_the_class() {
    let state = UserState {
        last_login: Some(instant("2025-03-03T20:06:07.123456789Z")),
        last_cart_used: Some(instant("2025-03-03T20:06:08.5Z")),
        marketing_opt_in: true,
        last_event_at: None,
        ..viewed(["p1", "😀"])
    };
    let mapping = UserStateMapping::new()
        .zone(Asia::Seoul)
        .format(PayloadFormat::Cbor);
    let payload = mapping.encode(&id(), &state).unwrap();
    let cbor = [
        &b"\xbf\x66mallId\x65mall1\x66userId\x65user1"[..],
        b"\x69lastLogin\x78\x1d2025-03-04T05:06:07.123456789",
        b"\x70lastCartUsedTime\x752025-03-04T05:06:08.5",
        b"\x6erecentProducts\x82\x62p1\x64\xf0\x9f\x98\x80",
        b"\x6emarketingOptIn\xf5\x6dlastEventTime\xf6\xff",
    ];
    assert_eq!(payload.bytes, cbor.concat());
    assert_eq!(payload.serializer_id, SerializerId::JACKSON_CBOR);
    assert_eq!(payload.manifest.as_str(), CLASS);
    assert_eq!(mapping.decode(&id(), &payload).unwrap(), state);
}

#[test]
fn every_setting_reads_what_every_other_one_wrote() {
    let long = viewed(["y".repeat(40_000).as_str(), "p2"]);
    let mut mappings = Vec::new();
    for format in [PayloadFormat::Json, PayloadFormat::Cbor] {
        let mapping = UserStateMapping::new().format(format);
        mappings.push(mapping.clone());
        for compression in [Compression::Off, Compression::Gzip, Compression::Lz4] {
            mappings.push(mapping.clone().compression(compression));
            mappings.push(
                mapping
                    .clone()
                    .compression(compression)
                    .compress_larger_than(100),
            );
        }
    }
    for state in [&long, &viewed(["p1"])] {
        for writer in &mappings {
            let payload = writer.encode(&id(), state).unwrap();
            for reader in &mappings {
                assert_eq!(reader.decode(&id(), &payload).as_ref(), Ok(state));
            }
        }
    }
}

#[test]
fn json_is_compressed_with_gzip_and_cbor_not_at_all_unless_set() {
    let long = viewed(["y".repeat(40_000).as_str()]);
    let starts = |mapping: UserStateMapping| {
        let bytes = mapping.encode(&id(), &long).unwrap().bytes;
        bytes[..2].to_vec()
    };
    let json = UserStateMapping::new();
    let cbor = UserStateMapping::new().format(PayloadFormat::Cbor);
    assert_eq!(starts(json.clone()), [0x1f, 0x8b]);
    assert_eq!(starts(json.clone().compress_larger_than(50_000)), *b"{\"");
    assert_eq!(starts(json.clone().compression(Compression::Off)), *b"{\"");
    assert_eq!(starts(json.compression(Compression::Lz4)), [0x87, 0xd9]);
    assert_eq!(starts(cbor.clone()), [0xbf, 0x66]);
    assert_eq!(
        starts(cbor.clone().compression(Compression::Gzip)),
        [0x1f, 0x8b]
    );
    assert_eq!(starts(cbor.compression(Compression::Lz4)), [0x87, 0xd9]);
}

#[test]
fn times_are_read_as_jackson_reads_local_date_times() {
    let cases = [
        ("[2025,3,4,5,6]", Some("2025-03-04T05:06:00Z")),
        ("[2025,3,4,5,6,7]", Some("2025-03-04T05:06:07Z")),
        ("[2025,3,4,5,6,7,8]", Some("2025-03-04T05:06:07.000000008Z")),
        ("[]", None),
        ("\"\"", None),
        ("\" \"", None),
        ("\" 2025-03-04T05:06 \"", Some("2025-03-04T05:06:00Z")),
        ("\"2025-03-04T05:06:07Z\"", Some("2025-03-04T05:06:07Z")),
    ];
    let seoul = UserStateMapping::new().zone(Asia::Seoul);
    for (json, expected) in cases {
        let stored = payload(format!("{{\"lastLogin\":{json}}}"));
        let state = UserStateMapping::new().decode(&id(), &stored).unwrap();
        assert_eq!(state.last_login, expected.map(instant), "{json}");
        // Always local to the zone, a `Z` or not.
        let local = seoul.decode(&id(), &stored).unwrap().last_login;
        let earlier = expected.map(|text| instant(text) - TimeDelta::hours(9));
        assert_eq!(local, earlier, "{json}");
    }
    let cbor = Payload {
        serializer_id: SerializerId::JACKSON_CBOR,
        ..payload(*b"\xa1\x69lastLogin\x86\x19\x07\xe9\x03\x04\x05\x06\x07")
    };
    let state = UserStateMapping::new().decode(&id(), &cbor).unwrap();
    assert_eq!(state.last_login, Some(instant("2025-03-04T05:06:07Z")));
    let beyond = decode("{\"lastLogin\":[999999999,1,1,0,0]}");
    let field = "lastLogin";
    assert_eq!(
        beyond,
        Err(DecodeError::TimeOutOfRange {
            field: field.into()
        })
    );
}

#[test]
fn manifest_and_tag_are_configurable_and_a_manifest_has_no_version() {
    let mapping = UserStateMapping::new();
    assert_eq!(mapping.tags(), Tags::one("user-state"));
    let mapping = mapping.manifest("org.shop.User#7").tagged(Tags::NONE);
    assert_eq!(mapping.tags(), Tags::NONE);
    let payload = mapping.encode(&id(), &UserState::default()).unwrap();
    assert_eq!(payload.manifest.as_str(), "org.shop.User");
    assert!(mapping.decode(&id(), &payload).is_ok());
}

#[test]
fn a_reset_state_has_the_instant_of_the_deletion_and_nothing_else() {
    let at = instant("2025-03-04T05:06:07Z");
    let reset = UserStateMapping::new().reset(at);
    assert_eq!(reset.last_event_at, Some(at));
    assert_eq!(
        UserState {
            last_event_at: None,
            ..reset
        },
        UserState::default()
    );
}

#[test]
fn a_state_of_a_foreign_persistence_id_is_not_written() {
    for foreign in ["user1", "-user1", "type|user1", "mall-us|er|x|y"] {
        let id = PersistenceId::unique(foreign).unwrap();
        let error = UserStateMapping::new()
            .encode(&id, &UserState::default())
            .unwrap_err();
        assert!(
            matches!(error, EncodeError::ForeignPersistenceId { .. }),
            "{foreign}: {error}"
        );
    }
}

#[test]
fn unknown_fields_are_ignored_and_absent_or_null_ones_are_the_defaults() {
    let nulls = concat!(
        r#"{"mallId":null,"userId":null,"lastLogin":null,"lastCartUsedTime":null,"#,
        r#""recentProducts":null,"marketingOptIn":null,"lastEventTime":null}"#,
    );
    let unknown = r#"{"visits":[1,{"deep":"x"}],"mallId":"mall1","note":"\uD83D\uDE00"}"#;
    for json in ["{}", nulls, unknown] {
        assert_eq!(decode(json), Ok(UserState::default()), "{json}");
    }
}

#[test]
fn order_and_spaces_of_the_fields_do_not_matter() {
    let json = "{ \"lastEventTime\" : \"2025-03-04T05:06\",\n\t\"recentProducts\": [ \"p1\" ] }";
    let expected = UserState {
        last_event_at: Some(instant("2025-03-04T05:06:00Z")),
        ..viewed(["p1"])
    };
    assert_eq!(decode(json), Ok(expected));
}

#[test]
fn of_a_longer_list_the_first_three_distinct_products_are_kept() {
    let json = r#"{"recentProducts":["a","b","a","b","c","d","a"]}"#;
    assert_eq!(decode(json), Ok(viewed(["a", "b", "c"])));
}

#[test]
fn a_row_that_names_other_ids_is_read_and_the_next_write_carries_those_of_the_key() {
    let mapping = UserStateMapping::new();
    let foreign = payload(r#"{"mallId":"other","userId":"ids","recentProducts":["p1"]}"#);
    for id in ["mall1-user1", "no user key"] {
        let id = PersistenceId::unique(id).unwrap();
        assert_eq!(mapping.decode(&id, &foreign), Ok(viewed(["p1"])));
    }
    let written = mapping.encode(&id(), &viewed(["p1"])).unwrap();
    assert!(
        written
            .bytes
            .starts_with(br#"{"mallId":"mall1","userId":"user1","#)
    );
}

#[test]
fn the_older_serializer_number_is_read_and_others_are_refused_by_number() {
    let mut stored = payload("{}");
    stored.serializer_id = SerializerId::JACKSON_JSON_OLD;
    let mapping = UserStateMapping::new();
    assert_eq!(mapping.decode(&id(), &stored), Ok(UserState::default()));
    for number in [0, 4, 20, 30, 34, -1, i32::MAX] {
        stored.serializer_id = SerializerId(number);
        assert_eq!(
            mapping.decode(&id(), &stored),
            Err(DecodeError::UnknownSerializer(SerializerId(number)))
        );
    }
}

#[test]
fn another_class_or_version_in_the_manifest_is_refused() {
    let wrong_class = || DecodeError::WrongManifest {
        expected: CLASS.into(),
    };
    let cases = [
        (CLASS.to_owned(), None),
        (format!("{CLASS}#1"), None),
        (
            format!("{CLASS}#2"),
            Some(DecodeError::NewerVersion {
                found: 2,
                newest: 1,
            }),
        ),
        (format!("{CLASS}#0"), Some(DecodeError::MalformedVersion)),
        (format!("{CLASS}#x"), Some(DecodeError::MalformedVersion)),
        (format!("{CLASS}#"), Some(DecodeError::MalformedVersion)),
        (String::new(), Some(wrong_class())),
        (format!("{CLASS}s"), Some(wrong_class())),
        (format!("{CLASS}#1#1"), Some(wrong_class())),
    ];
    for (manifest, expected) in cases {
        let stored = Payload {
            manifest: Manifest::new(&manifest),
            ..payload("{}")
        };
        let result = UserStateMapping::new().decode(&id(), &stored);
        assert_eq!(result.err(), expected, "{manifest}");
    }
}

#[test]
fn a_malformed_payload_is_told_with_the_place_of_the_damage() {
    let cases = [
        ("", 0),
        ("null", 0),
        ("[]", 0),
        ("{\"lastLogin\":", 12),
        ("{\"lastLogin\":[2025,3,4,5]}", 23),
        ("{\"lastLogin\":[2025,3,4,5,6,7,8,9]}", 31),
        ("{\"lastLogin\":[2025,3,4,5,6.5]}", 28),
        ("{\"lastLogin\":[2025,3,4,5,null]}", 28),
        ("{\"lastLogin\":\"yesterday\"}", 23),
        ("{\"lastLogin\":7}", 13),
        ("{\"recentProducts\":[null]}", 22),
        ("{\"recentProducts\":{}}", 18),
        ("{\"marketingOptIn\":\"yes\"}", 22),
        ("{\"lastLogin\":null,\"lastLogin\":null}", 28),
        ("{}{}", 2),
        ("{\"mallId\":\"\\uD800\"}", 16),
    ];
    for (json, expected) in cases {
        let result = decode(json);
        let offset = match result {
            Err(DecodeError::Malformed { offset, .. }) => Some(offset),
            _ => None,
        };
        // The reader notices the damage at the value or at the byte beside it.
        let near = offset.is_some_and(|offset| offset.abs_diff(expected) <= 1);
        assert!(near, "{json}: {result:?}");
    }
}

#[test]
fn a_year_that_cannot_be_held_is_told_with_its_field() {
    let max = DateTime::<Utc>::MAX_UTC;
    let json = r#"{"lastEventTime":"+999999999-12-31T23:59:59"}"#;
    let field = "lastEventTime";
    assert_eq!(
        decode(json),
        Err(DecodeError::TimeOutOfRange {
            field: field.into()
        })
    );

    // The local time exists; its instant does not.
    let json = r#"{"lastEventTime":"+262142-12-31T23:59:59"}"#;
    let new_york = UserStateMapping::new().zone(America::New_York);
    assert_eq!(
        new_york.decode(&id(), &payload(json)),
        Err(DecodeError::TimeOutOfRange {
            field: field.into()
        })
    );

    let state = UserState {
        last_event_at: Some(max),
        ..UserState::default()
    };
    let seoul = UserStateMapping::new().zone(Asia::Seoul);
    assert_eq!(
        seoul.encode(&id(), &state),
        Err(EncodeError::TimeOutOfRange {
            field: field.into()
        })
    );
    let utc = UserStateMapping::new();
    let written = utc.encode(&id(), &state).unwrap();
    assert_eq!(utc.decode(&id(), &written), Ok(state));
}

#[test]
fn the_size_limit_holds_for_plain_and_compressed_payloads_in_both_directions() {
    let too_large = Err(DecodeError::TooLarge { limit: 1024 * 1024 });
    let mapping = UserStateMapping::new();
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(1024 * 1024));
    assert_eq!(decode(&long), too_large);
    assert_eq!(
        mapping.decode(&id(), &payload(gzip(long.as_bytes()))),
        too_large
    );

    let state = viewed(["y".repeat(1024 * 1024).as_str()]);
    assert_eq!(
        mapping.encode(&id(), &state),
        Err(EncodeError::TooLarge { limit: 1024 * 1024 })
    );
    let roomy = mapping.decoded_bytes_max(2 * 1024 * 1024);
    let written = roomy.encode(&id(), &state).unwrap();
    assert!(written.bytes.len() < 10_000, "compressed");
    assert_eq!(roomy.decode(&id(), &written), Ok(state));
}

#[test]
fn no_error_repeats_what_the_payload_holds() {
    let marker = "M4RKER";
    let texts = [
        marker.to_owned(),
        format!("\"{marker}\""),
        format!("{{\"{marker}"),
        format!("{{\"lastLogin\":\"{marker}\"}}"),
        format!("{{\"lastLogin\":{{\"{marker}\":1}}}}"),
        format!("{{\"marketingOptIn\":\"{marker}\"}}"),
        format!("{{\"recentProducts\":\"{marker}\"}}"),
        format!("{{\"recentProducts\":[\"{marker}\",7]}}"),
        format!("{{\"mallId\":\"{marker}\",\"mallId\":\"{marker}\"}}"),
        format!("{{}} {marker}"),
    ];
    let unpackable = [&[0x1f, 0x8b], marker.as_bytes()].concat();
    let payloads = texts.map(payload).into_iter().chain([payload(unpackable)]);
    for stored in payloads {
        let reason = UserStateMapping::new().decode(&id(), &stored).unwrap_err();
        let error = StoreError::Corrupt {
            persistence_id: id(),
            serializer_id: stored.serializer_id,
            manifest: stored.manifest.clone(),
            reason: reason.clone(),
        };
        let shown = format!("{reason} {reason:?} {error} {error:?} {stored:?}");
        assert!(!shown.contains(marker), "{shown}");
    }
}

#[test]
fn a_local_time_that_the_zone_repeats_is_recovered_as_the_earlier_instant() {
    let cases = [
        (Europe::Berlin, "2025-10-26T01:30:00Z", TimeDelta::hours(1)),
        (
            America::New_York,
            "2025-11-02T06:30:00Z",
            TimeDelta::hours(1),
        ),
        (Asia::Seoul, "1988-10-08T17:30:00Z", TimeDelta::hours(1)),
        (
            Australia::Lord_Howe,
            "2025-04-05T15:15:00Z",
            TimeDelta::minutes(30),
        ),
    ];
    for (zone, later, overlap) in cases {
        let mapping = UserStateMapping::new().zone(zone);
        let at = instant(later);
        let recovered = |at| {
            let written = mapping.encode(&id(), &UserState::emptied(at)).unwrap();
            mapping.decode(&id(), &written).unwrap().last_event_at
        };
        assert_eq!(recovered(at), Some(at - overlap), "{zone}");
        assert_eq!(recovered(at - overlap), Some(at - overlap), "{zone}");
    }
}

fn instants() -> impl Strategy<Value = DateTime<Utc>> {
    // The bulk within the years in which the zones below changed their clocks.
    let seconds = prop_oneof![0..2_000_000_000_i64, -100_000_000_000..100_000_000_000_i64];
    (seconds, prop_oneof![Just(0), 0..1_000_000_000_u32])
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
}

fn states() -> impl Strategy<Value = UserState> {
    let at = || prop::option::of(instants());
    let products = prop::collection::vec(any::<String>(), 0..5);
    (at(), at(), products, any::<bool>(), at()).prop_map(
        |(last_login, last_cart_used, products, marketing_opt_in, last_event_at)| UserState {
            last_login,
            last_cart_used,
            marketing_opt_in,
            last_event_at,
            ..viewed(products.iter().map(String::as_str))
        },
    )
}

fn keys() -> impl Strategy<Value = UserKey> {
    "[^-|\\pC]{1,9}-[^|\\pC]{1,9}".prop_map(|key| key.parse().unwrap())
}

/// The instant that a recovered state is to have: the earlier one where the local time is repeated.
fn recovered(zone: Tz, at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let local = at?.with_timezone(&zone).naive_local();
    Some(zone.from_local_datetime(&local).earliest()?.to_utc())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_state_is_recovered_exactly_outside_overlaps(
        key in keys(),
        state in states(),
        zone in prop::sample::select(vec![
            Tz::UTC, Europe::Berlin, America::New_York, Asia::Seoul, Australia::Lord_Howe,
        ]),
    ) {
        let id = PersistenceId::from(&key);
        let mapping = UserStateMapping::new().zone(zone);
        let written = mapping.encode(&id, &state).unwrap();
        let expected = UserState {
            last_login: recovered(zone, state.last_login),
            last_cart_used: recovered(zone, state.last_cart_used),
            last_event_at: recovered(zone, state.last_event_at),
            ..state.clone()
        };
        let read = mapping.decode(&id, &written).unwrap();
        prop_assert_eq!(&read, &expected);
        if zone == Tz::UTC {
            prop_assert_eq!(&read, &state);
        }
        prop_assert_eq!(mapping.encode(&id, &read).unwrap(), written, "the same bytes again");
    }

    #[test]
    fn json_and_cbor_hold_the_same_state(
        key in keys(),
        state in states(),
        unknown in (any::<String>(), prop::collection::vec(any::<String>(), 0..3)),
        left_out in 0..8_usize,
    ) {
        let id = PersistenceId::from(&key);
        let json = UserStateMapping::new();
        let cbor = UserStateMapping::new().format(PayloadFormat::Cbor);
        let as_json = json.encode(&id, &state).unwrap();
        let as_cbor = cbor.encode(&id, &state).unwrap();
        prop_assert_eq!(cbor.decode(&id, &as_json), Ok(state.clone()));
        prop_assert_eq!(json.decode(&id, &as_cbor), Ok(state.clone()));

        // Another document, in another order: a field less and one that nobody knows.
        let any = SerdeMapping::<serde_json::Value>::new(CLASS);
        let mut document = any.decode(&id, &as_json).unwrap();
        prop_assert_eq!(&any.decode(&id, &as_cbor).unwrap(), &document);
        let fields = document.as_object_mut().unwrap();
        if let Some(name) = fields.keys().nth(left_out).cloned() {
            fields.remove(&name);
        }
        fields.insert(format!("?{}", unknown.0), unknown.1.into());
        let from_json = json.decode(&id, &any.encode(&id, &document).unwrap());
        let any = any.format(PayloadFormat::Cbor);
        let from_cbor = json.decode(&id, &any.encode(&id, &document).unwrap());
        prop_assert!(from_json.is_ok());
        prop_assert_eq!(from_json, from_cbor);
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in any::<Vec<u8>>(), cut in any::<prop::sample::Index>()) {
        let mapping = UserStateMapping::new();
        let as_cbor = |bytes| Payload { serializer_id: SerializerId::JACKSON_CBOR, ..payload(bytes) };
        let written = mapping.clone().format(PayloadFormat::Cbor).encode(&id(), &viewed(["p1"])).unwrap();
        let end = cut.index(written.bytes.len());
        prop_assert!(mapping.decode(&id(), &as_cbor(written.bytes[..end].to_vec())).is_err());
        let read = mapping.decode(&id(), &as_cbor(bytes.clone()));
        prop_assert!(read.is_err() || read == Ok(UserState::default()));
        let mut stored = mapping.encode(&id(), &viewed(["p1"])).unwrap();
        stored.bytes.truncate(cut.index(stored.bytes.len()));
        prop_assert!(mapping.decode(&id(), &stored).is_err());
        prop_assert!(mapping.decode(&id(), &payload(bytes.clone())).is_err());
        prop_assert!(mapping.decode(&id(), &payload(gzip(&bytes))).is_err());
    }
}
