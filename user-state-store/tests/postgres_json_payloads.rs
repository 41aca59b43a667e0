//! Payloads in JSON and JSONB columns: what opening says of them, what is refused alone, what rows hold, and that a
//! lost write is found again although its bytes changed. The conformance suite shows the rest of the contract.
//!
//! Method: real databases; where the column matters, the same steps run on both types.

#![cfg(all(feature = "postgres", feature = "users"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken expectation fails the test by panicking"
)]

mod support;

use std::error::Error;

use support::{Database, Outcome, change, load, put, write};
use user_state_domain::UserState;
use user_state_store::{
    Backend as _, Cause, Change, ConnectOptions, EncodeError, OpenError, Payload, PayloadColumn,
    PersistenceId, PostgresStore, Resolution, SerializerId, StateMapping as _, StoreError,
    StoredValue, UnknownOutcome, UnresolvedWrite, UserStateMapping, Write, WriteOutcome, Writers,
};

const JSON_COLUMNS: [PayloadColumn; 2] = [PayloadColumn::Json, PayloadColumn::Jsonb];

/// Id, revision, serializer, manifest, payload and tags.
type StoredRow = (String, i64, i32, String, String, Option<Vec<String>>);

fn options(database: &Database, column: PayloadColumn) -> Result<ConnectOptions, Box<dyn Error>> {
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.payload_column = column;
    Ok(options)
}

async fn open(column: PayloadColumn) -> Result<(Database, PostgresStore), Box<dyn Error>> {
    let database = Database::empty().await?;
    let options = options(&database, column)?;
    user_state_store::migrate(&options).await?;
    Ok((database, PostgresStore::open(&options).await?))
}

fn refusal(outcome: &WriteOutcome) -> Option<&str> {
    match outcome {
        WriteOutcome::NotApplied(StoreError::Refused(error)) => Some(&error.code),
        _ => None,
    }
}

fn payload_of(value: StoredValue) -> Payload {
    match value {
        StoredValue::State(payload) => payload,
        value => panic!("no state: {value:?}"),
    }
}

#[tokio::test]
async fn a_table_with_another_payload_type_does_not_open_and_the_error_names_the_setting() -> Outcome
{
    let columns = [
        PayloadColumn::Bytea,
        PayloadColumn::Json,
        PayloadColumn::Jsonb,
    ];
    for made in columns {
        let database = Database::empty().await?;
        user_state_store::migrate(&options(&database, made)?).await?;
        for configured in columns {
            let opened = PostgresStore::open(&options(&database, configured)?).await;
            let Err(error) = opened else {
                assert_eq!(configured, made);
                continue;
            };
            let expected = OpenError::ColumnMismatch {
                table: "durable_state",
                column: "state_payload",
                expected: configured.as_str(),
                found: made.to_string().into(),
            };
            assert_eq!(error, expected);
            let advice = format!("set payload_column to {made}");
            assert!(error.to_string().ends_with(&advice), "{error}");
        }
        // Neither does migrating change a table that is there.
        user_state_store::migrate(&options(&database, PayloadColumn::default())?).await?;
        PostgresStore::open(&options(&database, made)?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_payload_column_of_a_fourth_type_is_a_mismatch_of_the_column() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute("ALTER TABLE durable_state ALTER COLUMN state_payload TYPE text USING 'x'")
        .await?;
    let opened = PostgresStore::open(&options(&database, PayloadColumn::Jsonb)?).await;
    let expected = OpenError::ColumnMismatch {
        table: "durable_state",
        column: "state_payload",
        expected: "jsonb",
        found: "text".into(),
    };
    let error = opened.unwrap_err();
    assert_eq!(error, expected);
    assert!(!error.to_string().contains("payload_column"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_a_column_cannot_hold_is_refused_alone() -> Outcome {
    let compressed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let lz4 = [0x87, 0xd9, 0x6d, 0xf6, 0, 0, 0, 1, 0x10, b'1'];
    for column in JSON_COLUMNS {
        let (_database, store) = open(column).await?;
        let mut cbor = put("d-cbor", 0, 1, b"{}");
        if let Change::Put { payload, .. } = &mut cbor.change {
            payload.serializer_id = SerializerId::JACKSON_CBOR;
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let outcomes = write(
            &store,
            vec![
                put("a", 0, 1, br#"{"a":1}"#),
                put("b-nul", 0, 1, br#"{"a":"\u0000"}"#),
                put("c-backslash", 0, 1, br#"{"a":"\\u0000"}"#),
                cbor,
                put("e-gzip", 0, 1, &compressed),
                put("f-lz4", 0, 1, &lz4),
                put("g-latin", 0, 1, b"\"\xe9\""),
                put("h-cut", 0, 1, br#"{"a":"#),
                put("i-surrogate", 0, 1, br#""\ud83d""#),
                put("j-large-number", 0, 1, b"1e200000"),
                put("k-deep", 0, 1, deep.as_bytes()),
                put("l", 0, 1, b"[]"),
            ],
        )
        .await;
        let applied = |index: usize| matches!(outcomes[index], WriteOutcome::Applied(_));
        let unencodable = |index: usize| match &outcomes[index] {
            WriteOutcome::NotApplied(StoreError::Unencodable { reason, .. }) => reason.clone(),
            other => panic!("{column}, {index}: {other:?}"),
        };
        for index in [0, 2, 11] {
            assert!(applied(index), "{column}, {index}: {outcomes:?}");
        }
        assert_eq!(
            unencodable(3),
            EncodeError::NotJson(SerializerId::JACKSON_CBOR)
        );
        assert_eq!(unencodable(4), EncodeError::Compressed);
        assert_eq!(unencodable(5), EncodeError::Compressed);
        assert_eq!(refusal(&outcomes[6]), Some("22021"), "{column}");
        assert_eq!(refusal(&outcomes[7]), Some("22P02"), "{column}");
        assert_eq!(refusal(&outcomes[10]), Some("54001"), "{column}");
        // JSON keeps the text of what JSONB has no value for.
        match column {
            PayloadColumn::Jsonb => {
                assert_eq!(refusal(&outcomes[1]), Some("22P05"));
                assert_eq!(refusal(&outcomes[8]), Some("22P02"));
                assert!(
                    matches!(
                        outcomes[9],
                        WriteOutcome::NotApplied(
                            StoreError::Refused(_) | StoreError::TooLarge { .. }
                        )
                    ),
                    "{:?}",
                    outcomes[9]
                );
            }
            _ => assert!([1, 8, 9].into_iter().all(applied), "{outcomes:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn updates_that_jsonb_refuses_leave_their_rows_and_harm_no_neighbour() -> Outcome {
    let (_database, store) = open(PayloadColumn::Jsonb).await?;
    let ids: Vec<String> = (0..40).map(|number| format!("user-{number:02}")).collect();
    let created = ids.iter().map(|id| put(id, 0, 1, b"1")).collect();
    write(&store, created).await;
    let bad = [3, 17, 18];
    let updates = ids.iter().enumerate().map(|(index, id)| {
        let payload: &[u8] = if bad.contains(&index) {
            b"{\"a\":"
        } else {
            b"2"
        };
        put(id, 1, 2, payload)
    });
    let outcomes = write(&store, updates.collect()).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        let stored = load(&store, &ids[index]).await?.unwrap();
        if bad.contains(&index) {
            assert_eq!(refusal(outcome), Some("22P02"), "{index}");
            assert_eq!(stored.revision.get(), 1);
        } else {
            assert!(matches!(outcome, WriteOutcome::Applied(_)), "{index}");
            assert_eq!(stored.revision.get(), 2);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_compressing_mapping_is_told_so_by_the_write_of_the_large_state_alone() -> Outcome {
    let (_database, store) = open(PayloadColumn::Jsonb).await?;
    let mapping = UserStateMapping::new();
    let state = UserState::default();
    let id = PersistenceId::unique("mall-user")?;
    let small = mapping.encode(&id, &state)?;
    let mut large = small.clone();
    // What a mapping makes of a state beyond 32 KiB: gzip.
    large.bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let write_of =
        |id: &str, payload: Payload| Write::create(PersistenceId::unique(id).unwrap(), payload);
    let outcomes = write(
        &store,
        vec![write_of("mall-large", large), write_of("mall-user", small)],
    )
    .await;
    let [WriteOutcome::NotApplied(refused), WriteOutcome::Applied(_)] = &outcomes[..] else {
        return Err(format!("{outcomes:?}").into());
    };
    let cause = refused.source().map(ToString::to_string);
    assert!(cause.is_some_and(|cause| cause.contains("switch the compression off")));
    let stored = load(&store, "mall-user").await?.unwrap();
    let decoded: UserState = mapping.decode(&id, &payload_of(stored.value))?;
    assert_eq!(decoded, state);
    Ok(())
}

#[tokio::test]
async fn what_is_written_can_be_read_also_at_the_limit_of_the_text_that_comes_back() -> Outcome {
    let database = Database::empty().await?;
    let mut options = options(&database, PayloadColumn::Jsonb)?;
    // `{"a": [1, 2]}` has 13 bytes, two more than it was written with.
    options.settings.payload_bytes_max = 13;
    user_state_store::migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    let outcomes = write(
        &store,
        vec![
            put("at", 0, 1, br#"{"a":[1,2]}"#),
            put("beyond", 0, 1, br#"{"a":[1,22]}"#),
            put("exponent", 0, 1, b"[1e10]"),
        ],
    )
    .await;
    assert!(
        matches!(outcomes[0], WriteOutcome::Applied(_)),
        "{outcomes:?}"
    );
    for outcome in &outcomes[1..] {
        assert!(
            matches!(
                outcome,
                WriteOutcome::NotApplied(StoreError::TooLarge { limit: 13, .. })
            ),
            "{outcome:?}"
        );
    }
    let stored = load(&store, "at").await?.unwrap();
    assert_eq!(payload_of(stored.value).bytes, br#"{"a": [1, 2]}"#);
    Ok(())
}

#[tokio::test]
async fn a_mark_is_serializer_0_with_an_empty_object_and_any_other_serializer_of_it_is_a_state()
-> Outcome {
    for column in JSON_COLUMNS {
        let (database, store) = open(column).await?;
        write(
            &store,
            vec![
                put("absent", 0, 1, b"{}"),
                change("first", 0, Change::Mark),
                put("user", 0, 1, b"1"),
            ],
        )
        .await;
        write(&store, vec![change("user", 1, Change::Mark)]).await;
        let rows: Vec<StoredRow> = sqlx::query_as(
            "SELECT persistence_id, revision, state_ser_id, state_ser_manifest, state_payload::text, tags
             FROM durable_state ORDER BY persistence_id",
        )
        .fetch_all(store.pool())
        .await?;
        let class = "com.example.State".to_owned();
        let tags = Some(vec!["state".to_owned()]);
        let empty = || "{}".to_owned();
        assert_eq!(
            rows,
            [
                ("absent".to_owned(), 1, 31, class, empty(), tags.clone()),
                ("first".to_owned(), 1, 0, String::new(), empty(), None),
                ("user".to_owned(), 2, 0, String::new(), empty(), tags),
            ]
        );
        assert_eq!(
            load(&store, "user").await?.unwrap().value,
            StoredValue::Deleted
        );
        assert_eq!(
            load(&store, "first").await?.unwrap().value,
            StoredValue::Deleted
        );
        let state = payload_of(load(&store, "absent").await?.unwrap().value);
        assert_eq!(state.bytes, b"{}");
        // What a Pekko application leaves behind that stores JSON which is no state of ours.
        database
            .execute("UPDATE durable_state SET state_payload = '[]' WHERE persistence_id = 'user'")
            .await?;
        let other = payload_of(load(&store, "user").await?.unwrap().value);
        assert_eq!(other.serializer_id, SerializerId::NULL);
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_write_is_recognised_by_its_value_although_jsonb_changed_its_bytes() -> Outcome {
    let (_database, store) = open(PayloadColumn::Jsonb).await?;
    let payload = br#"{"zone":"UTC","mallId":"m","count":1E2,"name":"\u00e9"}"#;
    for (id, expected) in [("created", 0), ("updated", 1)] {
        let lost = put(id, expected, expected + 1, payload);
        if expected > 0 {
            write(&store, vec![put(id, 0, 1, b"{}")]).await;
        }
        let outcomes = write(&store, vec![lost.clone()]).await;
        assert!(
            matches!(outcomes[0], WriteOutcome::Applied(_)),
            "{outcomes:?}"
        );
        let row = load(&store, id).await?.unwrap();
        let applied = Resolution::Applied(Some(row.db_timestamp));
        let stored = payload_of(row.value);
        assert_ne!(stored.bytes, payload, "the bytes are still those written");

        // The write was applied, and its answer lost.
        for (writers, resolution) in [
            (Writers::Sole, applied),
            (Writers::Shared, Resolution::Unknown),
        ] {
            assert_eq!(
                resolve(&store, lost.clone(), writers).await,
                resolution,
                "{id}"
            );
        }
        // Another writer was there first, with another value.
        let other = put(id, expected, expected + 1, br#"{"zone":"UTC"}"#);
        for writers in [Writers::Sole, Writers::Shared] {
            let resolution = resolve(&store, other.clone(), writers).await;
            assert_eq!(resolution, Resolution::NotApplied, "{id}");
        }
    }
    Ok(())
}

async fn resolve(store: &PostgresStore, lost: Write, writers: Writers) -> Resolution {
    let outcome = UnknownOutcome {
        session: None,
        cause: Cause::Deadline,
    };
    UnresolvedWrite::new(lost, &outcome)
        .attempt(store, writers)
        .await
}

#[tokio::test]
async fn rows_with_a_payload_beyond_the_limit_stay_on_the_server() -> Outcome {
    for column in JSON_COLUMNS {
        let database = Database::empty().await?;
        let mut options = options(&database, column)?;
        options.settings.payload_bytes_max = 10;
        user_state_store::migrate(&options).await?;
        let store = PostgresStore::open(&options).await?;
        database
            .execute(
                "INSERT INTO durable_state VALUES
                   (1, '', 'at', 1, now(), 31, 'm', '\"12345678\"', NULL),
                   (1, '', 'beyond', 1, now(), 31, 'm', '\"123456789\"', NULL)",
            )
            .await?;
        assert!(load(&store, "at").await?.is_some());
        let beyond = load(&store, "beyond").await;
        assert!(
            matches!(&beyond, Err(StoreError::Corrupt { reason, .. })
                if *reason == user_state_store::DecodeError::TooLarge { limit: 10 }),
            "{beyond:?}"
        );
        store.close().await;
    }
    Ok(())
}
