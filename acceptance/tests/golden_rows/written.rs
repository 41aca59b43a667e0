//! The states of the lines, written by us, make the rows that Pekko made: column by column, and payload by payload.
//!
//! JSON has the same bytes. Compressed payloads have the same content: a compressor may choose among encodings of one
//! content, and Java's is another one. CBOR is compared as a tree.

use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::Value;
use user_state_store::{
    Change, Compression, EncodeError, Manifest, Payload, PayloadColumn, PayloadFormat,
    PersistenceId, SerdeMapping, SerializerId, StateMapping as _, StoreError, WriteBatch,
    WriteOutcome,
};

use crate::TestResult;
use crate::fixture::{Category, Line, RELEASES, Release, Row};
use crate::state::{CLASS, Document, is_whole, mapping, tags, user_state};
use crate::table::{Table, revision, write_of};

const GZIP: [u8; 2] = [0x1f, 0x8b];

const LZ4: [u8; 4] = [0x87, 0xd9, 0x6d, 0xf6];

/// Cases that were written with other settings than the default ones, which no mapping of ours writes: times as lists of
/// numbers, a form that Pekko has left.
const READ_ONLY: [&str; 1] = ["times-as-arrays"];

/// Cases whose user has no key: an empty mall.
const NO_KEY: [&str; 1] = ["cbor-empty-strings"];

#[tokio::test]
async fn json_states_written_by_us_make_the_rows_that_pekko_made() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        let lines = release.lines_of(Category::Json);
        let counts = written(&table, &lines).await?;
        // Three products are the most that a user's state keeps; documents keep them all.
        assert_eq!(counts, (32, 36), "{release:?}");
    }
    Ok(())
}

#[tokio::test]
async fn cbor_states_written_by_us_make_the_rows_that_pekko_made() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        let lines = release.lines_of(Category::Cbor);
        let counts = written(&table, &lines).await?;
        assert_eq!(counts, (16, 20), "{release:?}");
    }
    Ok(())
}

#[tokio::test]
async fn jsonb_states_written_by_us_make_the_rows_that_pekko_made() -> TestResult {
    let lines = Release::V2_0_0M1.lines_of(Category::Jsonb);
    let counts = written(&Table::new(PayloadColumn::Jsonb).await?, &lines).await?;
    assert_eq!(counts, (6, 7));
    Ok(())
}

/// Writes the states of the lines, as users and as documents of the class; how many of each.
async fn written(table: &Table, lines: &[Line]) -> TestResult<(usize, usize)> {
    let writable: Vec<&Line> = lines
        .iter()
        .filter(|line| !READ_ONLY.contains(&line.case.as_str()))
        .collect();
    let as_users: Vec<(&Line, Payload)> = writable
        .iter()
        .filter(|line| is_whole(&line.expected) && !NO_KEY.contains(&line.case.as_str()))
        .map(|line| Ok((*line, user_payload(line)?)))
        .collect::<TestResult<_>>()?;
    write_and_compare(table, &as_users).await?;
    let as_documents: Vec<(&Line, Payload)> = writable
        .iter()
        .map(|line| Ok((*line, document_payload(line)?)))
        .collect::<TestResult<_>>()?;
    write_and_compare(table, &as_documents).await?;
    Ok((as_users.len(), as_documents.len()))
}

/// The settings that the line was written with: Pekko's defaults unless its case says otherwise.
fn settings(line: &Line) -> (PayloadFormat, Option<Compression>) {
    let format = match line.category() {
        Category::Cbor => PayloadFormat::Cbor,
        _ => PayloadFormat::Json,
    };
    let compression = match line.case.as_str() {
        "large-lz4" | "small-lz4-setting" => Some(Compression::Lz4),
        "large-plain" | "jsonb-large" => Some(Compression::Off),
        "cbor-large-gzip-configured" => Some(Compression::Gzip),
        _ => None,
    };
    (format, compression)
}

/// The payload of the user's state, under the ids that the class holds.
fn user_payload(line: &Line) -> TestResult<Payload> {
    let (format, compression) = settings(line);
    let mut mapping = mapping(line).format(format);
    if let Some(compression) = compression {
        mapping = mapping.compression(compression);
    }
    let object = &line.expected;
    let [mall, user] = ["mallId", "userId"].map(|field| object[field].as_str().unwrap());
    let id = PersistenceId::unique(&format!("{mall}-{user}"))?;
    Ok(mapping.encode(&id, &user_state(object, line.zone.0))?)
}

/// The payload of the class as it is.
fn document_payload(line: &Line) -> TestResult<Payload> {
    let (format, compression) = settings(line);
    let mut mapping = SerdeMapping::<Document>::new(CLASS).format(format);
    if let Some(compression) = compression {
        mapping = mapping.compression(compression);
    }
    let document = Document::of(&line.expected)?;
    let id = PersistenceId::unique(&line.row().persistence_id)?;
    Ok(mapping.encode(&id, &document)?)
}

/// Writes each payload at the revision of its line and compares the rows.
async fn write_and_compare(table: &Table, payloads: &[(&Line, Payload)]) -> TestResult {
    table.refill([]).await?;
    // Every id from nothing, then those that Pekko wrote twice once more.
    for expected in [0, 1] {
        let writes = payloads.iter().filter_map(|(line, payload)| {
            let row = line.row();
            let change = Change::Put {
                revision: revision(expected + 1),
                payload: payload.clone(),
                tags: tags(row),
            };
            (row.revision > expected).then(|| write_of(&row.persistence_id, expected, change))
        });
        let batch = WriteBatch::new(writes.collect())?;
        for outcome in table.store.states().write(&batch).await {
            assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
        }
    }
    let rows = table.rows().await?;
    assert_eq!(rows.len(), payloads.len());
    for (line, _) in payloads {
        let pekko = line.row();
        let of_id = |row: &&Row| row.persistence_id == pekko.persistence_id;
        let ours = rows.iter().find(of_id).ok_or("a row is missing")?;
        assert_same_row(line, ours, pekko)?;
    }
    Ok(())
}

fn assert_same_row(line: &Line, ours: &Row, pekko: &Row) -> TestResult {
    let case = &line.case;
    let (our_payload, their_payload) = (ours.payload(), pekko.payload());
    let columns = |row: &Row| row.with_payload_of(pekko).undated();
    assert_eq!(columns(ours), columns(pekko), "{case}");
    let starts = |magic: &[u8]| {
        let [ours, theirs] = [&our_payload, &their_payload].map(|bytes| bytes.starts_with(magic));
        assert_eq!(ours, theirs, "{case}: only one is compressed");
        ours
    };
    if starts(&GZIP) {
        assert!(
            unpacked(&our_payload)? == unpacked(&their_payload)?,
            "{case}"
        );
    } else if starts(&LZ4) || line.category() == Category::Cbor {
        assert_eq!(tree(ours)?, tree(pekko)?, "{case}");
    } else {
        assert!(our_payload == their_payload, "{case}: other bytes");
    }
    Ok(())
}

fn unpacked(gzip: &[u8]) -> TestResult<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(gzip).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The payload as a tree, whatever its form.
fn tree(row: &Row) -> TestResult<Value> {
    let payload = Payload {
        serializer_id: SerializerId(row.state_ser_id),
        manifest: Manifest::new(&row.state_ser_manifest),
        bytes: row.payload(),
    };
    let id = PersistenceId::unique(&row.persistence_id)?;
    Ok(SerdeMapping::<Value>::new(CLASS).decode(&id, &payload)?)
}

#[tokio::test]
async fn what_pekko_could_not_write_to_a_jsonb_column_is_refused_to_us_alone() -> TestResult {
    let table = Table::new(PayloadColumn::Jsonb).await?;
    let refused = Release::V2_0_0M1.lines_of(Category::JsonbRefused);
    let names: Vec<&str> = refused.iter().map(|line| line.case.as_str()).collect();
    assert_eq!(names, ["jsonb-nul-character", "jsonb-primitive-long"]);
    assert!(refused.iter().all(|line| line.row.is_none()));
    let document = Document {
        recent_products: vec!["before\0after".to_owned()],
        ..Document::default()
    };
    let id = PersistenceId::unique("jsonb-nul-character")?;
    let nul = SerdeMapping::new(CLASS).encode(&id, &document)?;
    let plain = SerdeMapping::new(CLASS).encode(&id, &Document::default())?;
    let primitive = |serializer_id, bytes: &[u8]| Payload {
        serializer_id: SerializerId(serializer_id),
        manifest: Manifest::new(""),
        bytes: bytes.to_vec(),
    };
    let text = Release::V2_0_0M1.lines_of(Category::JsonbText);
    let [text] = &text[..] else {
        return Err("one line is a text".into());
    };
    let writes = [
        ("jsonb-nul-character", nul),
        ("jsonb-plain", plain),
        ("jsonb-primitive-long", primitive(18, &7_i64.to_le_bytes())),
        // Pekko writes a text that happens to be JSON, and fails on any other: ours takes none.
        (
            "jsonb-primitive-string-quoted",
            primitive(20, &text.row().payload()),
        ),
    ];
    let writes = writes.map(|(id, payload)| {
        let change = Change::Put {
            revision: revision(1),
            payload,
            tags: user_state_store::Tags::NONE,
        };
        write_of(id, 0, change)
    });
    let outcomes = table
        .store
        .states()
        .write(&WriteBatch::new(writes.into())?)
        .await;
    let [nul, plain, long, text] = &outcomes[..] else {
        return Err("four writes have four outcomes".into());
    };
    assert!(
        matches!(nul, WriteOutcome::NotApplied(StoreError::Refused(error)) if &*error.code == "22P05"),
        "{nul:?}"
    );
    assert!(matches!(plain, WriteOutcome::Applied(_)), "{plain:?}");
    for (outcome, number) in [(long, 18), (text, 20)] {
        assert!(
            matches!(
                outcome,
                WriteOutcome::NotApplied(StoreError::Unencodable {
                    reason: EncodeError::NotJson(SerializerId(found)),
                    ..
                }) if *found == number
            ),
            "{outcome:?}"
        );
    }
    assert_eq!(table.rows().await?.len(), 1);
    Ok(())
}
