//! How an aggregate that is one primitive value is stored: the bytes of Pekko's primitive serializers, and nothing else.
//!
//! Bytes are those of rows that Pekko wrote; proptest draws values and bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;

use proptest::prelude::*;
use user_state_store::{
    DecodeError, EncodeError, Manifest, Payload, PersistenceId, Primitive, PrimitiveMapping,
    SerializerId, StateMapping, Tags,
};

fn id() -> PersistenceId {
    PersistenceId::unique("prim-1").unwrap()
}

fn payload(serializer: i32, manifest: &str, bytes: &[u8]) -> Payload {
    Payload {
        serializer_id: SerializerId(serializer),
        manifest: Manifest::new(manifest),
        bytes: bytes.to_vec(),
    }
}

fn assert_stored_as<P>(value: &P, serializer: i32, bytes: &[u8])
where
    P: Primitive + Clone + Default + Debug + PartialEq,
{
    let mapping = PrimitiveMapping::<P>::new();
    let expected = payload(serializer, "", bytes);
    assert_eq!(mapping.encode(&id(), value), Ok(expected));
    // Pekko does not look at the manifest either.
    for manifest in ["", "java.lang.Object#2"] {
        let stored = payload(serializer, manifest, bytes);
        assert_eq!(mapping.decode(&id(), &stored), Ok(value.clone()));
    }
}

fn error<P>(serializer: i32, bytes: &[u8]) -> Option<DecodeError>
where
    P: Primitive + Clone + Default,
{
    let read: Result<P, _> =
        PrimitiveMapping::<P>::new().decode(&id(), &payload(serializer, "", bytes));
    read.err()
}

#[test]
fn values_are_stored_as_pekko_stores_them() {
    assert_stored_as(&1_234_567_890_123_i64, 18, b"\xcb\x04\xfb\x71\x1f\x01\0\0");
    assert_stored_as(&-1_i64, 18, &[0xff; 8]);
    assert_stored_as(&0x1234_5678_i32, 19, b"\x78\x56\x34\x12");
    assert_stored_as(&true, 35, b"\x01");
    assert_stored_as(&false, 35, b"\0");
    assert_stored_as(&String::new(), 20, b"");
    assert_stored_as(&"몰 😀".to_owned(), 20, "몰 😀".as_bytes());
    assert_stored_as(&vec![0, 1, 2, 255], 4, b"\0\x01\x02\xff");
}

#[test]
fn another_length_or_serializer_or_what_is_no_value_is_refused() {
    let length = |expected, found| Some(DecodeError::WrongLength { expected, found });
    assert_eq!(error::<i64>(18, &[0; 7]), length(8, 7));
    assert_eq!(error::<i64>(18, &[0; 9]), length(8, 9));
    assert_eq!(error::<i32>(19, &[]), length(4, 0));
    assert_eq!(error::<bool>(35, &[0, 0]), length(1, 2));
    let malformed = |problem, offset| Some(DecodeError::Malformed { problem, offset });
    assert_eq!(
        error::<bool>(35, &[2]),
        malformed("the byte is not 0 or 1".into(), 0)
    );
    assert_eq!(
        error::<String>(20, b"ab\xff"),
        malformed("the text is not UTF-8".into(), 2)
    );

    let other = |number| Some(DecodeError::UnknownSerializer(SerializerId(number)));
    assert_eq!(error::<i64>(19, &[0; 8]), other(19));
    assert_eq!(error::<String>(31, b"{}"), other(31));
    assert_eq!(error::<Vec<u8>>(0, b""), other(0));
}

#[test]
fn tags_are_optional_and_the_limit_holds_in_both_directions() {
    let mapping = PrimitiveMapping::<String>::new();
    assert_eq!(StateMapping::<String>::tags(&mapping), Tags::NONE);
    let narrow = mapping.tagged(Tags::one("note")).decoded_bytes_max(3);
    assert_eq!(StateMapping::<String>::tags(&narrow), Tags::one("note"));

    let fits = "abc".to_owned();
    let written = narrow.encode(&id(), &fits).unwrap();
    assert_eq!(narrow.decode(&id(), &written), Ok(fits));
    let limit = 3;
    assert_eq!(
        narrow.encode(&id(), &"abcd".to_owned()),
        Err(EncodeError::TooLarge { limit })
    );
    let read: Result<String, _> = narrow.decode(&id(), &payload(20, "", b"abcd"));
    assert_eq!(read, Err(DecodeError::TooLarge { limit }));
    let reset: String = narrow.reset(chrono::DateTime::UNIX_EPOCH);
    assert_eq!(reset, "");
}

proptest! {
    #[test]
    fn every_value_is_recovered_exactly(
        long in any::<i64>(), int in any::<i32>(), text in any::<String>(), bytes in any::<Vec<u8>>(),
    ) {
        assert_stored_as(&long, 18, &long.to_le_bytes());
        assert_stored_as(&int, 19, &int.to_le_bytes());
        assert_stored_as(&text, 20, text.as_bytes());
        assert_stored_as(&bytes, 4, &bytes);
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
        prop_assert_eq!(error::<i64>(18, &bytes).is_none(), bytes.len() == 8);
        prop_assert_eq!(error::<i32>(19, &bytes).is_none(), bytes.len() == 4);
        prop_assert_eq!(error::<bool>(35, &bytes).is_none(), bytes == [0] || bytes == [1]);
        prop_assert_eq!(error::<String>(20, &bytes).is_none(), str::from_utf8(&bytes).is_ok());
        prop_assert_eq!(error::<Vec<u8>>(4, &bytes), None);
    }
}
