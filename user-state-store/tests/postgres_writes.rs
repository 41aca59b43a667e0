//! Goal: on PostgreSQL every write of a batch gets its own outcome, and rows are those that Pekko would have written.
//! Method: batches on a real server, the rows then read with plain SQL.

#![cfg(feature = "postgres")]

mod support;

use sqlx::Row as _;
use support::{Database, Outcome, change, load, put, write};
use user_state_store::{
    Change, ConnectOptions, DecodeError, DurableStateStore as _, Payload, PersistenceId,
    PostgresStore, Revision, StoreError, StoredValue, Tags, WriteOutcome,
};

async fn open(database: &Database) -> Result<PostgresStore, Box<dyn std::error::Error>> {
    Ok(PostgresStore::open(&database.url().parse()?).await?)
}

fn applied(outcomes: &[WriteOutcome]) -> bool {
    outcomes
        .iter()
        .all(|outcome| matches!(outcome, WriteOutcome::Applied(Some(_))))
}

#[tokio::test]
async fn a_row_is_created_updated_marked_and_erased() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    assert!(load(&store, "Type|a").await?.is_none());

    assert!(applied(
        &write(&store, vec![put("Type|a", 0, 1, b"1")]).await
    ));
    let created = load(&store, "Type|a").await?.ok_or("no row")?;
    assert_eq!(created.revision, Revision::FIRST);
    assert_eq!(&*created.entity_type, "Type");
    assert_eq!(created.slice, created.persistence_id.slice());
    assert_eq!(created.tags, Tags::one("state"));

    let outcomes = write(&store, vec![put("Type|a", 1, 7, b"7")]).await;
    let updated = load(&store, "Type|a").await?.ok_or("no row")?;
    assert_eq!(
        outcomes,
        [WriteOutcome::Applied(Some(updated.db_timestamp))]
    );
    assert_eq!(updated.revision.get(), 7);
    assert!(updated.db_timestamp > created.db_timestamp);

    assert!(applied(
        &write(&store, vec![change("Type|a", 7, Change::Mark)]).await
    ));
    let marked = load(&store, "Type|a").await?.ok_or("no row")?;
    assert_eq!(marked.value, StoredValue::Deleted);
    assert_eq!(marked.revision.get(), 8);
    assert_eq!(marked.tags, Tags::one("state"), "a mark keeps the tags");

    let outcomes = write(&store, vec![change("Type|a", 7, Change::Erase)]).await;
    assert_eq!(outcomes, [WriteOutcome::Conflict]);
    let outcomes = write(&store, vec![change("Type|a", 8, Change::Erase)]).await;
    assert_eq!(outcomes, [WriteOutcome::Applied(None)]);
    assert!(load(&store, "Type|a").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_created_mark_is_the_marker_of_pekko() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    assert!(applied(
        &write(&store, vec![change("a", 0, Change::Mark)]).await
    ));
    let row = sqlx::query(
        "SELECT revision, state_ser_id, state_ser_manifest, state_payload, tags FROM durable_state",
    )
    .fetch_one(&mut database.connect().await?)
    .await?;
    assert_eq!(row.get::<i64, _>(0), 1);
    assert_eq!(row.get::<i32, _>(1), 0);
    assert_eq!(row.get::<Option<String>, _>(2), Some(String::new()));
    assert_eq!(row.get::<Vec<u8>, _>(3), b"");
    assert_eq!(row.get::<Option<Vec<String>>, _>(4), None);
    Ok(())
}

#[tokio::test]
async fn one_batch_of_every_kind_answers_each_write() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let ids = ["conflict", "erase", "mark", "put"];
    let created = ids.map(|id| put(id, 0, 1, b"x")).to_vec();
    assert!(applied(&write(&store, created).await));

    let outcomes = write(
        &store,
        vec![
            put("conflict", 5, 6, b"y"),
            put("create", 0, 1, b"y"),
            change("erase", 1, Change::Erase),
            change("mark", 1, Change::Mark),
            put("put", 1, 2, b"y"),
            put("put-exists", 0, 1, b"y"),
            put("unknown", 3, 4, b"y"),
        ],
    )
    .await;
    assert!(
        matches!(
            outcomes[..],
            [
                WriteOutcome::Conflict,
                WriteOutcome::Applied(Some(_)),
                WriteOutcome::Applied(None),
                WriteOutcome::Applied(Some(_)),
                WriteOutcome::Applied(Some(_)),
                WriteOutcome::Applied(Some(_)),
                WriteOutcome::Conflict,
            ]
        ),
        "{outcomes:?}"
    );
    let again = write(
        &store,
        vec![put("put-exists", 0, 1, b"z"), put("put", 0, 1, b"z")],
    )
    .await;
    assert_eq!(again, [WriteOutcome::Conflict, WriteOutcome::Conflict]);
    Ok(())
}

#[tokio::test]
async fn any_tags_are_stored_as_they_are() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    let tags = Tags::new([
        "",
        "NULL",
        "a,b",
        "{c}",
        "\"d\"",
        "\\e\\",
        " f ",
        "\u{1F642}",
        "'g'",
    ]);
    let mut writes = vec![put("a", 0, 1, b"x"), put("b", 0, 1, b"x")];
    if let Change::Put { tags: slot, .. } = &mut writes[0].change {
        *slot = tags.clone();
    }
    if let Change::Put { tags: slot, .. } = &mut writes[1].change {
        *slot = Tags::NONE;
    }
    assert!(applied(&write(&store, writes.clone()).await));
    for (write, revision) in writes.iter_mut().zip([2, 2]) {
        write.expected = Revision::FIRST;
        if let Change::Put { revision: slot, .. } = &mut write.change {
            *slot = Revision::new(revision).ok_or("negative")?;
        }
    }
    for round in 0..2 {
        assert_eq!(load(&store, "a").await?.ok_or("no row")?.tags, tags);
        assert_eq!(load(&store, "b").await?.ok_or("no row")?.tags, Tags::NONE);
        if round == 0 {
            assert!(applied(&write(&store, writes.clone()).await));
        }
    }
    let untagged: i64 = sqlx::query_scalar("SELECT count(*) FROM durable_state WHERE tags IS NULL")
        .fetch_one(&mut database.connect().await?)
        .await?;
    assert_eq!(untagged, 1);
    Ok(())
}

#[tokio::test]
async fn values_the_database_refuses_fail_alone() -> Outcome {
    let database = Database::migrated().await?;
    // Stands for any refusal that only the server can know of.
    database
        .execute(
            "ALTER TABLE durable_state ADD CONSTRAINT no_poison
             CHECK (state_payload <> 'poison'::bytea)",
        )
        .await?;
    let store = open(&database).await?;
    let payload = |index: i64| -> &'static [u8] {
        if matches!(index, 17 | 40) {
            b"poison"
        } else {
            b"fine"
        }
    };
    let batch: Vec<_> = (0..50)
        .map(|index| put(&format!("id-{index:02}"), 0, 1, payload(index)))
        .collect();
    let outcomes = write(&store, batch.clone()).await;
    for (write, outcome) in batch.iter().zip(&outcomes) {
        let poisoned = write
            .payload()
            .is_some_and(|payload| payload.bytes == b"poison");
        match outcome {
            WriteOutcome::Applied(_) => assert!(!poisoned),
            WriteOutcome::NotApplied(StoreError::Refused(error)) => {
                assert!(poisoned);
                assert_eq!(&*error.code, "23514");
                assert_eq!(error.constraint.as_deref(), Some("no_poison"));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut batch: Vec<_> = (0..16)
        .map(|index| put(&format!("id-{index:02}"), 1, 2, b"fine"))
        .collect();
    batch.push(put("id-18", 1, 2, b"poison"));
    let outcomes = write(&store, batch).await;
    let (last, others) = outcomes.split_last().ok_or("no outcomes")?;
    assert!(applied(others));
    assert!(matches!(
        last,
        WriteOutcome::NotApplied(StoreError::Refused(_))
    ));
    Ok(())
}

#[tokio::test]
async fn values_known_to_be_refused_are_not_sent() -> Outcome {
    let database = Database::migrated().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.payload_bytes_max = 10;
    let store = PostgresStore::open(&options).await?;
    let mut nul = put("c-nul", 0, 1, b"x");
    if let Change::Put { tags, .. } = &mut nul.change {
        *tags = Tags::one("a\0b");
    }
    let outcomes = write(
        &store,
        vec![
            put("a-limit", 0, 1, &[7; 10]),
            put("b-beyond", 0, 1, &[7; 11]),
            nul,
        ],
    )
    .await;
    assert!(
        matches!(
            &outcomes[..],
            [
                WriteOutcome::Applied(Some(_)),
                WriteOutcome::NotApplied(StoreError::TooLarge { actual: 11, limit: 10, .. }),
                WriteOutcome::NotApplied(StoreError::Refused(error)),
            ] if &*error.code == "22021"
        ),
        "{outcomes:?}"
    );
    Ok(())
}

/// A store that reads and writes payloads of at most ten bytes, on rows nobody should have written.
async fn open_on_odd_rows(
    database: &Database,
) -> Result<PostgresStore, Box<dyn std::error::Error>> {
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (1, '', 'fine', 1, now(), 31, 'm', 'x', '{a,NULL}'),
             (1, '', 'no-manifest', 1, now(), 31, NULL, 'x', NULL),
             (1, '', 'infinite', 1, 'infinity', 31, 'm', 'x', NULL),
             (1, '', 'far', 1, '294000-01-01', 31, 'm', 'x', NULL),
             (4000, '', 'slice', 1, now(), 31, 'm', 'x', NULL),
             (1, '', 'negative', -1, now(), 31, 'm', 'x', NULL),
             (1, '', 'matrix', 1, now(), 31, 'm', 'x', '{{a,b},{c,d}}'),
             (1, '', 'large', 1, now(), 31, 'm', '12345678901', NULL),
             (1, '', 'limit', 1, now(), 31, 'm', '1234567890', NULL),
             (1, '', 'twice', 3, now(), 31, 'm', 'x', NULL),
             (1, '', 'twice', 9, now(), 31, 'm', 'x', NULL),
             (1, '', 'twice', 1, now(), 31, 'm', '12345678901', NULL)",
        )
        .await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.payload_bytes_max = 10;
    Ok(PostgresStore::open(&options).await?)
}

#[tokio::test]
async fn rows_nobody_should_have_written_are_typed_errors() -> Outcome {
    let database = Database::migrated().await?;
    let store = open_on_odd_rows(&database).await?;
    for id in ["infinite", "far", "slice", "negative", "matrix"] {
        let row = load(&store, id).await;
        assert!(
            matches!(
                &row,
                Err(StoreError::Corrupt {
                    reason: DecodeError::Malformed { .. } | DecodeError::TimeOutOfRange { .. },
                    ..
                })
            ),
            "{row:?}"
        );
    }
    assert!(matches!(
        load(&store, "large").await,
        Err(StoreError::Corrupt {
            reason: DecodeError::TooLarge { limit: 10 },
            ..
        })
    ));
    let twice = load(&store, "twice").await;
    assert!(
        matches!(
            &twice,
            Err(StoreError::DuplicateRows { lower, higher, .. })
                if lower.get() == 1 && higher.get() == 9
        ),
        "{twice:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_be_read_harms_no_neighbour() -> Outcome {
    let database = Database::migrated().await?;
    let store = open_on_odd_rows(&database).await?;
    let ids = [
        "fine",
        "infinite",
        "twice",
        "no-manifest",
        "large",
        "limit",
        "absent",
        "fine",
    ];
    let ids: Vec<_> = ids
        .iter()
        .map(|id| PersistenceId::unique(id))
        .collect::<Result<_, _>>()?;
    let mut states = Vec::new();
    for row in store.load(&ids).await? {
        states.push(row.ok());
    }
    let [
        Some(Some(fine)),
        None,
        None,
        Some(Some(no_manifest)),
        None,
        Some(Some(_)),
        Some(None),
        Some(Some(repeated)),
    ] = &states[..]
    else {
        return Err(format!("{states:?}").into());
    };
    assert_eq!(fine.tags, Tags::one("a"));
    assert_eq!(repeated, fine);
    let StoredValue::State(Payload { manifest, .. }) = &no_manifest.value else {
        return Err("a state without a manifest is still a state".into());
    };
    assert!(manifest.as_str().is_empty());
    Ok(())
}

#[tokio::test]
async fn db_timestamp_increases_when_the_clock_does_not() -> Outcome {
    let database = Database::migrated().await?;
    let store = open(&database).await?;
    write(&store, vec![put("a", 0, 1, b"x")]).await;
    database
        .execute("UPDATE durable_state SET db_timestamp = '2100-01-01T00:00:00Z'")
        .await?;
    write(&store, vec![put("a", 1, 2, b"x")]).await;
    let state = load(&store, "a").await?.ok_or("no row")?;
    assert_eq!(
        state.db_timestamp.to_rfc3339(),
        "2100-01-01T00:00:00.000001+00:00"
    );
    Ok(())
}

#[tokio::test]
async fn concurrent_batches_in_any_overlap_lose_no_update() -> Outcome {
    let database = Database::migrated().await?;
    let store = std::sync::Arc::new(open(&database).await?);
    let ids: Vec<String> = (0..40).map(|index| format!("id-{index:02}")).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8_usize {
        let (store, ids) = (store.clone(), ids.clone());
        tasks.spawn(async move {
            let mut applied = 0_i64;
            for round in 0..20_usize {
                let chosen: Vec<_> = (0..ids.len())
                    .filter(|index| (index * 7 + writer + round) % 3 != 0)
                    .filter_map(|index| PersistenceId::unique(&ids[index]).ok())
                    .collect();
                let Ok(rows) = store.load(&chosen).await else {
                    return Err("load failed");
                };
                let mut writes = Vec::new();
                for (id, row) in chosen.iter().zip(rows) {
                    let Ok(row) = row else {
                        return Err("row failed");
                    };
                    let revision = row.map_or(0, |row| row.revision.get());
                    writes.push(put(id.as_str(), revision, revision + 1, b"x"));
                }
                for outcome in write(&*store, writes).await {
                    match outcome {
                        WriteOutcome::Applied(_) => applied += 1,
                        WriteOutcome::Conflict => {}
                        _ => return Err("neither applied nor a conflict"),
                    }
                }
            }
            Ok(applied)
        });
    }
    let mut applied = 0;
    while let Some(task) = tasks.join_next().await {
        applied += task??;
    }
    let (rows, revisions): (i64, i64) =
        sqlx::query_as("SELECT count(*), sum(revision)::bigint FROM durable_state")
            .fetch_one(&mut database.connect().await?)
            .await?;
    assert_eq!(rows, 40);
    assert_eq!(revisions, applied, "every applied write is one revision");
    Ok(())
}
