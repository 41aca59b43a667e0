//! Promises of what a row holds: texts and bytes come back as they went in.

use super::seeded::Seeded;
use super::{Fixture, Payloads, TestResult, sample};
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::store::StoredValue;
use crate::tags::{TAGS_MAX, Tags};

/// Ids whose slice and entity type are known: plain, typed, with an empty type, replicated, beyond the first plane.
const IDS: [(&str, u16, &str); 8] = [
    ("pid-1", 111, ""),
    ("pid-2", 112, ""),
    ("polygenelubricants", 0, ""),
    ("user|1", 960, "user"),
    ("TestEntity|a", 678, "TestEntity"),
    ("User|\u{3c1}-1", 620, "User"),
    ("A|\u{1f642}", 832, "A"),
    ("|a", 869, ""),
];

/// Texts that a careless statement, array or JSON form would change.
const TEXTS: [&str; 14] = [
    "plain",
    "it's",
    "\"quoted\"",
    "back\\slash",
    "a,b",
    "{a,b}",
    "[\"a\"]",
    "NULL",
    "null",
    " spaces ",
    "$1 ?1 :a %s",
    "'; drop table durable_state; --",
    "\u{c0ac}\u{c6a9}\u{c790}",
    "\u{1f642}\u{301}",
];

/// By Pekko's rules, in the row itself: its feeds read by these columns.
pub async fn slice_and_entity_type_follow_from_the_id(fixture: &Fixture) -> TestResult {
    for (text, slice, entity_type) in IDS {
        let id = sample::id(text)?;
        fixture.apply(sample::create(&id)).await?;
        let row = fixture.present(&id).await?;
        assert_eq!(row.slice.get(), slice, "{text}");
        assert_eq!(row.entity_type.as_ref(), entity_type, "{text}");
    }
    Ok(())
}

/// None, one and many, with every character that some syntax gives a meaning.
pub async fn tags_read_back_whatever_their_characters(fixture: &Fixture) -> TestResult {
    let mut cases = vec![Tags::NONE, Tags::new(TEXTS)];
    cases.extend(TEXTS.map(Tags::one));
    cases.push(Tags::new(["same", "same"]));
    cases.push(Tags::new(["", "after the empty one"]));
    cases.push(Tags::new(TEXTS.into_iter().cycle().take(TAGS_MAX)));
    let ids = sample::ids("tagged", cases.len())?;
    let writes = ids
        .iter()
        .zip(&cases)
        .map(|(id, tags)| sample::put_tagged(id, 0, 1, sample::payload(1), tags.clone()));
    fixture.write(writes.collect()).await?;
    for (id, tags) in ids.iter().zip(cases) {
        assert_eq!(fixture.present(id).await?.tags, tags);
    }
    Ok(())
}

/// Tags are those of the latest state, not of all states.
pub async fn an_update_replaces_the_tags(fixture: &Fixture) -> TestResult {
    let id = sample::id("retagged")?;
    let steps = [
        Tags::new(["a", "b"]),
        Tags::one("c"),
        Tags::NONE,
        Tags::one("d"),
    ];
    for (before, tags) in (0..).zip(steps) {
        let payload = sample::payload(before + 1);
        let write = sample::put_tagged(&id, before, before + 1, payload, tags.clone());
        fixture.apply(write).await?;
        assert_eq!(fixture.present(&id).await?.tags, tags);
    }
    Ok(())
}

/// Ids that differ by case, composition, trailing space or a wildcard are different ids.
pub async fn ids_of_any_script_are_told_apart(fixture: &Fixture) -> TestResult {
    let longest = "\u{1f642}".repeat(255);
    let texts = [
        "user",
        "User",
        "user ",
        "us_r",
        "us%r",
        "\u{e9}",
        "e\u{301}",
        "\u{c0ac}\u{c6a9}\u{c790}-1",
        "\u{5de}\u{5e9}\u{5ea}\u{5de}\u{5e9}",
        "it's",
        "\"",
        "\\",
        "a,b",
        "NULL",
        longest.as_str(),
    ];
    let ids: Vec<PersistenceId> = texts
        .into_iter()
        .map(sample::id)
        .collect::<Result<_, _>>()?;
    for (id, number) in ids.iter().zip(0..) {
        let write = sample::put_payload(id, 0, 1, sample::payload(number));
        fixture.apply(write).await?;
    }
    for ((id, number), row) in ids.iter().zip(0..).zip(fixture.store.load(&ids).await?) {
        let row = row?.ok_or_else(|| format!("no row of {id}"))?;
        assert_eq!(&row.persistence_id, id);
        assert_eq!(
            row.value,
            StoredValue::State(sample::payload(number)),
            "{id}"
        );
    }
    Ok(())
}

/// Every byte value, no text rules, no end at a zero; a store of JSON refuses them without harm to their neighbours.
pub async fn payload_bytes_come_back_or_are_refused(fixture: &Fixture) -> TestResult {
    let mut cases: Vec<Vec<u8>> = vec![
        (0..=u8::MAX).collect(),
        vec![0],
        vec![0, 0, 1],
        b"\\x00'\"".to_vec(),
        vec![0xff, 0xfe, 0x80],
        b"{\"cut\":".to_vec(),
        vec![0x1f, 0x8b, 8, 0],
    ];
    let mut random = Seeded::new(2);
    cases.extend([1, 100, 8_000, 40_000].map(|length| random.bytes(length)));
    for (number, bytes) in cases.into_iter().enumerate() {
        let id = sample::id(&format!("bytes-{number}"))?;
        let payload = sample::bytes(bytes);
        if fixture.payloads == Payloads::Json {
            fixture.refuse(&id, payload).await?;
            continue;
        }
        fixture
            .apply(sample::put_payload(&id, 0, 1, payload.clone()))
            .await?;
        let row = fixture.present(&id).await?;
        assert!(
            row.value == StoredValue::State(payload),
            "case {number} differs"
        );
    }
    Ok(())
}

/// Whatever the store makes of the bytes: the names, texts and numbers are those that were written.
pub async fn json_comes_back_as_the_same_value(fixture: &Fixture) -> TestResult {
    let cases = [
        r#"{"bb":1,"a":[true,null,-7,1.5],"":{}}"#,
        r#"{"a":"\u0001\t\n\"\\ \u00e9 \uD83D\uDE42 /"}"#,
        r#"{"\u0001":"'; drop table durable_state; --"}"#,
        "\"{}\"",
        "[]",
        "9007199254740993",
    ];
    let texts = TEXTS.iter().map(serde_json::to_string);
    let cases: Vec<String> = cases
        .into_iter()
        .map(|json| Ok(json.to_owned()))
        .chain(texts)
        .collect::<Result<_, _>>()?;
    for (number, json) in cases.iter().enumerate() {
        let id = sample::id(&format!("json-{number}"))?;
        let payload = sample::bytes(json.clone().into_bytes());
        fixture
            .apply(sample::put_payload(&id, 0, 1, payload))
            .await?;
        let StoredValue::State(stored) = fixture.present(&id).await?.value else {
            return Err(format!("{json} reads as deleted").into());
        };
        let stored: serde_json::Value = serde_json::from_slice(&stored.bytes)?;
        let written: serde_json::Value = serde_json::from_str(json)?;
        assert_eq!(stored, written);
    }
    Ok(())
}

/// Only serializer 0 makes an empty payload a mark. A store of JSON has no empty payload, and its mark's payload, `{}`,
/// is a state of any other serializer.
pub async fn an_empty_payload_of_a_real_serializer_is_a_state(fixture: &Fixture) -> TestResult {
    let id = sample::id("empty")?;
    let empty = sample::bytes(match fixture.payloads {
        Payloads::Bytes => Vec::new(),
        Payloads::Json => b"{}".to_vec(),
    });
    fixture
        .apply(sample::put_payload(&id, 0, 1, empty.clone()))
        .await?;
    assert_eq!(fixture.present(&id).await?.value, StoredValue::State(empty));
    Ok(())
}

/// The store gives them no meaning: an unknown serializer is its reader's concern. A store of JSON takes those that write
/// JSON alone.
pub async fn serializers_and_manifests_are_kept_as_they_are(fixture: &Fixture) -> TestResult {
    let ids = [31, 32, 33, 1, -7, i32::MAX, i32::MIN];
    let manifests = [
        "",
        "com.example.State#2",
        "it's \"one\" \\ of a, kind",
        "\u{c0ac}",
    ];
    for (number, serializer_id) in ids.into_iter().enumerate() {
        for (version, manifest) in manifests.into_iter().enumerate() {
            let id = sample::id(&format!("payload-{number}-{version}"))?;
            let payload = Payload {
                serializer_id: SerializerId(serializer_id),
                manifest: Manifest::new(manifest),
                bytes: b"1".to_vec(),
            };
            if fixture.payloads == Payloads::Json && ![31, 32].contains(&serializer_id) {
                fixture.refuse(&id, payload).await?;
                continue;
            }
            fixture
                .apply(sample::put_payload(&id, 0, 1, payload.clone()))
                .await?;
            assert_eq!(
                fixture.present(&id).await?.value,
                StoredValue::State(payload)
            );
        }
    }
    Ok(())
}
