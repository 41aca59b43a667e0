//! How any other aggregate is stored: its serde form as JSON, under the manifest of its caller.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use user_state_store::{
    Compression, DecodeError, EncodeError, Manifest, Payload, PayloadFormat, PersistenceId,
    SerdeMapping, SerializerId, StateMapping, Tags,
};

const CLASS: &str = "com.example.Basket";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Basket {
    note: String,
    pieces: BTreeMap<String, u32>,
    paid: Option<bool>,
}

fn mapping() -> SerdeMapping<Basket> {
    SerdeMapping::new(CLASS)
}

fn id() -> PersistenceId {
    PersistenceId::of("Basket", "b-1").unwrap()
}

fn noted(note: &str) -> Basket {
    Basket {
        note: note.to_owned(),
        ..Basket::default()
    }
}

#[test]
fn the_serde_form_is_written_as_jackson_writes_text() {
    let basket = Basket {
        note: "a/b 😀\u{1f}".to_owned(),
        pieces: BTreeMap::from([("k😀".to_owned(), 2)]),
        paid: None,
    };
    let payload = mapping().encode(&id(), &basket).unwrap();
    let json = r#"{"note":"a/b \uD83D\uDE00\u001F","pieces":{"k\uD83D\uDE00":2},"paid":null}"#;
    assert_eq!(str::from_utf8(&payload.bytes).unwrap(), json);
    assert_eq!(payload.serializer_id, SerializerId::JACKSON_JSON);
    assert_eq!(payload.manifest, Manifest::new(CLASS));
    assert_eq!(mapping().decode(&id(), &payload), Ok(basket));
}

#[test]
fn long_states_are_compressed_and_the_limit_holds_in_both_directions() {
    let long = noted(&"x".repeat(40_000));
    let payload = mapping().encode(&id(), &long).unwrap();
    assert!(payload.bytes.starts_with(&[0x1f, 0x8b]));
    assert_eq!(mapping().decode(&id(), &payload), Ok(long.clone()));

    let narrow = mapping().decoded_bytes_max(30_000);
    let limit = 30_000;
    assert_eq!(
        narrow.decode(&id(), &payload),
        Err(DecodeError::TooLarge { limit })
    );
    assert_eq!(
        narrow.encode(&id(), &long),
        Err(EncodeError::TooLarge { limit })
    );
}

#[test]
fn cbor_is_written_where_it_is_set_and_either_is_read() {
    let basket = Basket {
        note: "a/b 😀".to_owned(),
        pieces: BTreeMap::from([("k".to_owned(), 2)]),
        paid: None,
    };
    let cbor = mapping().format(PayloadFormat::Cbor);
    let payload = cbor.encode(&id(), &basket).unwrap();
    let expected =
        b"\xbf\x64note\x68a/b \xf0\x9f\x98\x80\x66pieces\xbf\x61k\x02\xff\x64paid\xf6\xff";
    assert_eq!(payload.bytes, expected);
    assert_eq!(payload.serializer_id, SerializerId::JACKSON_CBOR);
    assert_eq!(mapping().decode(&id(), &payload), Ok(basket.clone()));
    let as_json = mapping().encode(&id(), &basket).unwrap();
    assert_eq!(cbor.decode(&id(), &as_json), Ok(basket));
}

#[test]
fn compression_is_a_setting_for_either_format() {
    let long = noted(&"x".repeat(40_000));
    for format in [PayloadFormat::Json, PayloadFormat::Cbor] {
        let mapping = mapping().format(format);
        for (compression, start) in [
            (Compression::Gzip, &[0x1f, 0x8b][..]),
            (Compression::Lz4, &[0x87, 0xd9, 0x6d, 0xf6]),
        ] {
            let mapping = mapping.clone().compression(compression);
            let payload = mapping.encode(&id(), &long).unwrap();
            assert!(
                payload.bytes.starts_with(start),
                "{format:?} {compression:?}"
            );
            assert_eq!(mapping.decode(&id(), &payload), Ok(long.clone()));
            let narrow = mapping.clone().decoded_bytes_max(30_000);
            let limit = 30_000;
            assert_eq!(
                narrow.decode(&id(), &payload),
                Err(DecodeError::TooLarge { limit })
            );
            let plain = mapping
                .compress_larger_than(50_000)
                .encode(&id(), &long)
                .unwrap();
            assert!(plain.bytes.len() > 40_000);
        }
        let off = mapping
            .compression(Compression::Off)
            .encode(&id(), &long)
            .unwrap();
        assert!(off.bytes.len() > 40_000);
    }
}

#[test]
fn tags_are_optional_and_reset_is_the_default_state() {
    assert_eq!(mapping().tags(), Tags::NONE);
    let tagged = mapping().tagged(Tags::one("basket"));
    assert_eq!(tagged.tags(), Tags::one("basket"));
    assert_eq!(
        tagged.reset(chrono::DateTime::UNIX_EPOCH),
        Basket::default()
    );
}

#[test]
fn what_does_not_fit_the_aggregate_is_refused_without_its_text() {
    let marker = "M4RKER";
    let stored = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new(CLASS),
        bytes: format!(r#"{{"note":"","pieces":{{"x":"{marker}"}},"paid":null}}"#).into(),
    };
    let error = mapping().decode(&id(), &stored).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
    assert!(!format!("{error} {error:?} {:?}", mapping()).contains(marker));
}

#[test]
fn a_state_that_refuses_to_be_serialized_is_an_error() {
    #[derive(Default, Serialize, Deserialize)]
    struct Keyed(BTreeMap<Option<bool>, u8>);

    let keyed = Keyed(BTreeMap::from([(None, 1)]));
    let mapping = SerdeMapping::new("com.example.Keyed");
    assert_eq!(mapping.encode(&id(), &keyed), Err(EncodeError::Serialize));
}

proptest! {
    #[test]
    fn every_state_is_recovered_exactly(
        note in any::<String>(),
        pieces in prop::collection::btree_map(any::<String>(), any::<u32>(), 0..5),
        paid in any::<Option<bool>>(),
    ) {
        let basket = Basket { note, pieces, paid };
        let payload = mapping().encode(&id(), &basket).unwrap();
        prop_assert_eq!(mapping().decode(&id(), &payload), Ok(basket.clone()));
        let cbor = mapping().format(PayloadFormat::Cbor).encode(&id(), &basket).unwrap();
        prop_assert_eq!(mapping().decode(&id(), &cbor), Ok(basket));
    }
}
