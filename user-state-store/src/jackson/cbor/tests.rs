//! The bytes are those that jackson-dataformat-cbor 2.17.3 wrote for the same values, and what it read from others.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::json;

use super::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Fields {
    s: Option<String>,
    d: f64,
    l: i64,
    li: Option<Vec<i32>>,
    m: BTreeMap<String, i32>,
    o: Option<bool>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(u8),
    Line(u8, u8),
    Box { width: u8, height: u8 },
}

fn written<T: Serialize + ?Sized>(value: &T) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes, value).unwrap();
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|digit| *digit != b' ').collect();
    let (pairs, _) = digits.as_chunks::<2>();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(|pair| byte(pair)).collect()
}

fn problem<T>(read: &Result<T, DecodeError>) -> (&str, usize) {
    match read {
        Err(DecodeError::Malformed { problem, offset }) => (problem, *offset),
        _ => ("none", 0),
    }
}

#[test]
fn numbers_are_written_in_the_fewest_bytes() {
    let integers: [(i64, &str); 22] = [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_535, "19ffff"),
        (65_536, "1a00010000"),
        (2_147_483_647, "1a7fffffff"),
        (2_147_483_648, "1a80000000"),
        (4_294_967_295, "1affffffff"),
        (4_294_967_296, "1b0000000100000000"),
        (i64::MAX, "1b7fffffffffffffff"),
        (-1, "20"),
        (-24, "37"),
        (-25, "3818"),
        (-256, "38ff"),
        (-257, "390100"),
        (-65_537, "3a00010000"),
        (-2_147_483_649, "3a80000000"),
        (-4_294_967_296, "3affffffff"),
        (-4_294_967_297, "3b0000000100000000"),
        (i64::MIN, "3b7fffffffffffffff"),
    ];
    for (number, expected) in integers {
        assert_eq!(written(&number), expected, "{number}");
        assert_eq!(read::<i64>(&bytes(expected)), Ok(number));
    }
    assert_eq!(written(&1.5_f64), "fb3ff8000000000000");
    assert_eq!(written(&1.5_f32), "fa3fc00000");
    assert_eq!(written(&u64::MAX), "1bffffffffffffffff");
}

#[test]
fn maps_lists_and_other_values_are_written_as_jackson_does() {
    let map = json!({ "": null, "a": 1, "b": [1, 2] });
    assert_eq!(
        written(&map),
        "bf60f6 616101 6162820102 ff".replace(' ', "")
    );
    assert_eq!(written(&BTreeMap::<String, i32>::new()), "bfff");
    assert_eq!(written(&[1, 2, 3]), "83010203");
    assert_eq!(written(&(true, false, ())), "83f5f4f6");
    assert_eq!(written(&BTreeMap::from([(7, 'x')])), "bf61376178ff");
}

#[test]
fn text_is_cut_where_jackson_cuts_it() {
    // The heads that Jackson wrote for a character repeated up to this many UTF-16 units.
    let cases: [(&str, usize, &[&str]); 12] = [
        ("a", 0, &["60"]),
        ("a", 23, &["77"]),
        ("a", 24, &["7818"]),
        ("é", 23, &["782e"]),
        ("가", 85, &["78ff"]),
        ("가", 86, &["790102"]),
        ("a", 256, &["790100"]),
        ("가", 3_996, &["792ed4"]),
        ("a", 3_997, &["7f", "790f9c", "61", "ff"]),
        ("가", 3_997, &["7f", "792ed4", "63", "ff"]),
        ("😀", 3_998, &["7f", "791f38", "64", "ff"]),
        ("가", 8_000, &["7f", "792ed4", "792ed4", "7818", "ff"]),
    ];
    for (character, units, expected) in cases {
        let count = units / character.encode_utf16().count();
        assert_eq!(
            heads(&character.repeat(count)),
            expected,
            "{character} {units}"
        );
    }
    // A pair of surrogates is not divided: the first chunk is one unit shorter.
    let odd = format!("a{}", "😀".repeat(2_000));
    assert_eq!(heads(&odd), ["7f", "791f35", "6c", "ff"]);
}

/// The heads of the pieces of a text, in hexadecimal.
fn heads(text: &str) -> Vec<String> {
    let mut cbor = Vec::new();
    write_text(&mut cbor, text);
    assert_eq!(read::<String>(&cbor).as_deref(), Ok(text));
    let mut heads = Vec::new();
    let mut at = 0;
    while let Some(head) = cbor.get(at) {
        let (digits, len) = match head {
            0x60..=0x77 => (1, usize::from(head - 0x60)),
            0x78 => (2, usize::from(cbor[at + 1])),
            0x79 => (
                3,
                usize::from(u16::from_be_bytes([cbor[at + 1], cbor[at + 2]])),
            ),
            _ => (1, 0),
        };
        heads.push(hex(&cbor[at..at + digits]));
        at += digits + len;
    }
    heads
}

#[test]
fn what_jackson_reads_is_read_into_the_same_fields() {
    let text = |text: &str| Fields {
        s: Some(text.to_owned()),
        ..Fields::default()
    };
    let cases = [
        ("a0", Fields::default()),
        ("a16173f6", Fields::default()),
        ("a16173f7", Fields::default()),
        ("b90001 6173 6161", text("a")),
        ("bf 6173 6161 ff", text("a")),
        ("bf 6173 7f 6161 626262 ff ff", text("abb")),
        ("bf 4173 6161 ff", text("a")),
        ("a1 6173 7b0000000000000001 61", text("a")),
        ("a2 00 01 6173 6161", text("a")),
        ("c0 a1 c0 6173 c0c0 6161", text("a")),
    ];
    for (digits, expected) in cases {
        assert_eq!(read::<Fields>(&bytes(digits)), Ok(expected), "{digits}");
    }
}

#[test]
fn numbers_lists_and_maps_are_read_in_every_form_that_jackson_reads() {
    let cases = [
        (
            "a1 6164 f93e00",
            Fields {
                d: 1.5,
                ..Fields::default()
            },
        ),
        (
            "a1 6164 fa3fc00000",
            Fields {
                d: 1.5,
                ..Fields::default()
            },
        ),
        (
            "a1 6164 05",
            Fields {
                d: 5.0,
                ..Fields::default()
            },
        ),
        (
            "a1 616c c105",
            Fields {
                l: 5,
                ..Fields::default()
            },
        ),
        (
            "a1 616c c24105",
            Fields {
                l: 5,
                ..Fields::default()
            },
        ),
        (
            "a1 616c c34105",
            Fields {
                l: -6,
                ..Fields::default()
            },
        ),
        (
            "a1 616c 1b0000000000000005",
            Fields {
                l: 5,
                ..Fields::default()
            },
        ),
        (
            "a1 626c69 9f0102ff",
            Fields {
                li: Some(vec![1, 2]),
                ..Fields::default()
            },
        ),
        (
            "a1 626c69 c0820102",
            Fields {
                li: Some(vec![1, 2]),
                ..Fields::default()
            },
        ),
        (
            "a1 626c69 420102",
            Fields {
                li: Some(vec![1, 2]),
                ..Fields::default()
            },
        ),
        (
            "a1 616d a2 6161 01 01 02",
            Fields {
                m: BTreeMap::from([("a".to_owned(), 1), ("1".to_owned(), 2)]),
                ..Fields::default()
            },
        ),
        (
            "a1 616f c0f5",
            Fields {
                o: Some(true),
                ..Fields::default()
            },
        ),
        // In fields that are unknown, whatever is well-formed.
        (
            "a5 617a c48221196ab3 6179 5f41ffff 6178 d81900 6177 f8ff 6176 9fa10203bfffff",
            Fields::default(),
        ),
    ];
    for (digits, expected) in cases {
        assert_eq!(read::<Fields>(&bytes(digits)), Ok(expected), "{digits}");
    }
}

#[test]
fn numbers_of_half_precision_are_read() {
    let cases = [
        ("0000", 0.0),
        ("3c00", 1.0),
        ("c000", -2.0),
        ("7bff", 65_504.0),
        ("0400", 2_f64.powi(-14)),
        ("0001", 2_f64.powi(-24)),
        ("7c00", f64::INFINITY),
        ("fc00", f64::NEG_INFINITY),
    ];
    for (digits, expected) in cases {
        assert_eq!(
            read::<f64>(&bytes(&format!("f9{digits}"))),
            Ok(expected),
            "{digits}"
        );
    }
    assert!(read::<f64>(&bytes("f97e00")).unwrap().is_nan());
    assert_eq!(
        problem(&read::<f64>(&bytes("f97e"))).0,
        "the bytes end too early"
    );
}

#[test]
fn big_integers_are_read_as_far_as_a_field_can_hold_them() {
    let max = "c24900ffffffffffffffff";
    assert_eq!(read::<u64>(&bytes(max)), Ok(u64::MAX));
    assert_eq!(read::<i128>(&bytes("c3480000000000000000")), Ok(-1));
    assert_eq!(read::<Option<u64>>(&bytes(max)), Ok(Some(u64::MAX)));
    for digits in [
        max,
        "c2510100000000000000000000000000000000",
        "c25080000000000000000000000000000000",
    ] {
        assert!(read::<i64>(&bytes(digits)).is_err(), "{digits}");
    }
}

#[test]
fn every_shape_of_an_enum_is_written_and_read_back() {
    let shapes = [
        (Shape::Point, "65506f696e74"),
        (Shape::Circle(1), "bf66436972636c6501ff"),
        (Shape::Line(1, 2), "bf644c696e65820102ff"),
        (
            Shape::Box {
                width: 1,
                height: 2,
            },
            "bf63426f78bf657769647468016668656967687402ffff",
        ),
    ];
    for (shape, expected) in shapes {
        assert_eq!(written(&shape), expected);
        assert_eq!(read(&bytes(expected)), Ok(shape));
    }
}

#[test]
fn an_error_tells_the_kind_and_the_place_and_no_text() {
    let wrong_form = "a value is not of the form its field has";
    let early = "the bytes end too early";
    let cases = [
        ("", (early, 0)),
        ("bf", (early, 1)),
        ("a1 6173", (early, 3)),
        ("a1 6173 6361", (early, 3)),
        ("bf 6173 6161", (early, 5)),
        ("a1 6173 01", (wrong_form, 4)),
        ("a1 616c 6161", (wrong_form, 5)),
        ("a1 616c fb3ff0000000000000", (wrong_form, 12)),
        ("a0a0", ("more bytes follow the value", 1)),
        ("a0ff", ("more bytes follow the value", 1)),
        ("a1 f6 01", ("the key of a map is not text", 1)),
        ("a1 41ff 01", ("the key of a map is not text", 3)),
        ("a1 6173 62c328", ("the bytes are not CBOR", 3)),
        ("a1 6173 1c", ("the bytes are not CBOR", 3)),
        ("a1 6173 ff", ("the bytes are not CBOR", 3)),
        ("ff", ("the bytes are not CBOR", 0)),
        ("a1 6173 d81900", ("string references are not read", 5)),
        (
            "a1 6164 c48221196ab3",
            ("decimal fractions are not read", 4),
        ),
    ];
    for (digits, (expected, place)) in cases {
        let read = read::<Fields>(&bytes(digits));
        let (problem, offset) = problem(&read);
        assert_eq!(problem, expected, "{digits}");
        assert!(offset.abs_diff(place) <= 1, "{digits}: {offset}");
    }
    for digits in ["80", "f6", "01", "60"] {
        let read = read_object::<Fields>(&bytes(digits));
        let (problem, _) = problem(&read);
        assert_eq!(problem, "the value is not a CBOR map", "{digits}");
    }
    assert_eq!(read_object(&bytes("c0a0")), Ok(Fields::default()));
}

#[test]
fn nesting_is_bounded_in_fields_that_are_read_and_in_those_that_are_not() {
    for opening in [0x81, 0x9f, 0xbf] {
        let deep = vec![opening; 1024 * 1024];
        assert!(read::<Value>(&deep).is_err());
        assert!(read::<IgnoredAny>(&deep).is_err());
    }
    let nested = |depth| [vec![0x81; depth], vec![0x01]].concat();
    for read in [
        |cbor: &[u8]| read::<IgnoredAny>(cbor).map(|_| ()),
        |cbor: &[u8]| read_tree(cbor).map(|_| ()),
    ] {
        assert_eq!(read(&nested(128)), Ok(()));
        assert_eq!(
            problem(&read(&nested(129))).0,
            "the value is nested too deep"
        );
    }
    // Any number of tags is no nesting.
    assert_eq!(
        read::<u8>(&[vec![0xc0; 1_000_000], vec![0x01]].concat()),
        Ok(1)
    );
}

#[test]
fn a_length_beyond_the_payload_reserves_no_memory() {
    for digits in [
        "9bffffffffffffffff 01",
        "bbffffffffffffffff 616101",
        "7bffffffffffffffff 61",
        "5bffffffffffffffff 61",
    ] {
        assert!(read::<Value>(&bytes(digits)).is_err(), "{digits}");
        assert!(read::<Vec<u64>>(&bytes(digits)).is_err(), "{digits}");
        assert!(read::<IgnoredAny>(&bytes(digits)).is_err(), "{digits}");
    }
}

#[test]
fn a_tree_has_byte_strings_as_lists_and_no_numbers_that_json_has_not() {
    assert_eq!(
        read_tree(&bytes("a1 6162 4201ff")),
        Ok(json!({ "b": [1, 255] }))
    );
    assert_eq!(read_tree(&bytes("c243010000")), Ok(json!(65_536)));
    for digits in ["fb7ff8000000000000", "f97c00"] {
        assert_eq!(
            problem(&read_tree(&bytes(digits))).0,
            "a number that JSON does not have"
        );
    }
}

#[test]
fn a_list_that_has_another_length_than_it_said_is_refused() {
    struct Lying;

    impl Serialize for Lying {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            let mut list = serializer.serialize_seq(Some(2))?;
            list.serialize_element(&1)?;
            list.end()
        }
    }

    assert_eq!(write(&mut Vec::new(), &Lying), Err(EncodeError::Serialize));
    let keyed = BTreeMap::from([(None::<u8>, 1)]);
    assert_eq!(write(&mut Vec::new(), &keyed), Err(EncodeError::Serialize));
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (3_990..4_003_usize, any::<char>())
            .prop_map(|(count, character)| character.to_string().repeat(count).into()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((any::<String>(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_document_reads_back_the_same(document in documents()) {
        let mut cbor = Vec::new();
        write(&mut cbor, &document).unwrap();
        prop_assert_eq!(read_tree(&cbor), Ok(document.clone()));
        prop_assert_eq!(read::<Value>(&cbor), Ok(document));
        prop_assert!(read::<IgnoredAny>(&cbor).is_ok());
        for cut in 0..cbor.len().min(64) {
            prop_assert!(read::<IgnoredAny>(&cbor[..cut]).is_err());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in any::<Vec<u8>>(), shaped in vec(
        prop_oneof![
            prop::sample::select(b"\x00\x17\x20\x41\x5f\x61\x7f\x80\x81\x9f\xa0\xa1\xbf\xc2\xd9\xf4\xf6\xf9\xff".to_vec()),
            any::<u8>(),
        ],
        0..40,
    )) {
        for bytes in [bytes, shaped] {
            let skipped = read::<IgnoredAny>(&bytes).is_ok();
            let tree = read_tree(&bytes).is_ok();
            prop_assert!(skipped || !tree, "what is read as a tree is well-formed");
            drop(read::<Fields>(&bytes));
            drop(read::<Shape>(&bytes));
            drop(read::<BTreeMap<u8, Option<i128>>>(&bytes));
        }
    }
}
