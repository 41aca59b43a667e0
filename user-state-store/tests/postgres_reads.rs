//! Goal: change feeds and id pages are those of Pekko's queries, edges included.
//! Method: rows made with plain SQL, at chosen times.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a wrong constant ends the test")]

mod support;

use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use support::{Database, Outcome, put, write};
use user_state_store::{
    ChangesQuery, DurableStateStore as _, PersistenceId, PostgresStore, Slice, SliceRange,
    StoreError, StoredValue, TimestampOffset,
};

fn query(limit: usize) -> ChangesQuery {
    ChangesQuery {
        entity_type: "".into(),
        slices: SliceRange::ALL,
        from: DateTime::UNIX_EPOCH,
        until: None,
        limit: NonZeroUsize::new(limit).unwrap(),
    }
}

fn at(second: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(i64::from(second), 0).unwrap()
}

async fn ids(store: &PostgresStore, query: &ChangesQuery) -> Result<Vec<String>, StoreError> {
    let page = store.changes(query).await?;
    Ok(page
        .states
        .iter()
        .map(|state| state.persistence_id.to_string())
        .collect())
}

/// Neighbours share what they have in common, and nothing else.
#[tokio::test]
async fn each_row_of_a_load_and_of_a_page_has_its_own_manifest_and_tags() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (0, '', 'a', 1, to_timestamp(1), 31, 'm', 'x', '{t}'),
             (0, '', 'b', 1, to_timestamp(2), 31, 'm', 'y', '{t}'),
             (0, '', 'c', 1, to_timestamp(3), 31, 'n', 'z', NULL),
             (0, '', 'd', 1, to_timestamp(4), 31, 'n', 'x', '{t,u}'),
             (0, '', 'e', 1, to_timestamp(5), 31, 'm', '', '{u}'),
             (0, '', 'f', 1, to_timestamp(6), 31, '', 'x', '{}'),
             (0, '', 'g', 1, to_timestamp(7), 31, 'm', 'x', '{t}')",
        )
        .await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let expected: [(&str, &str, &[u8], &[&str]); 7] = [
        ("a", "m", b"x", &["t"]),
        ("b", "m", b"y", &["t"]),
        ("c", "n", b"z", &[]),
        ("d", "n", b"x", &["t", "u"]),
        ("e", "m", b"", &["u"]),
        ("f", "", b"x", &[]),
        ("g", "m", b"x", &["t"]),
    ];
    let ids = expected.map(|(id, ..)| PersistenceId::unique(id).unwrap());
    let mut loaded = Vec::new();
    for row in store.load(&ids).await? {
        loaded.push(row?.ok_or("no row")?);
    }
    let page = store.changes(&query(10)).await?.states;
    for states in [loaded, page] {
        assert_eq!(states.len(), expected.len());
        for (state, (id, manifest, bytes, tags)) in states.iter().zip(expected) {
            let StoredValue::State(payload) = &state.value else {
                return Err(format!("{id} is deleted").into());
            };
            assert_eq!(state.persistence_id.as_str(), id);
            assert_eq!(payload.manifest.as_str(), manifest, "{id}");
            assert_eq!(payload.bytes, bytes, "{id}");
            assert_eq!(state.tags.iter().collect::<Vec<_>>(), tags, "{id}");
        }
    }
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn changes_come_by_time_then_revision_within_their_bounds() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (5, '', 'c', 9, to_timestamp(10), 31, 'm', 'x', '{t}'),
             (5, '', 'b', 2, to_timestamp(10), 31, 'm', 'x', NULL),
             (1023, '', 'a', 1, to_timestamp(20), 31, 'm', 'x', NULL),
             (0, '', 'deleted', 4, to_timestamp(30), 0, '', '', NULL),
             (5, 'Other', 'Other|x', 1, to_timestamp(10), 31, 'm', 'x', NULL),
             (5, '', 'future', 1, now() + interval '1 hour', 31, 'm', 'x', NULL)",
        )
        .await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    assert_eq!(ids(&store, &query(10)).await?, ["b", "c", "a", "deleted"]);
    assert_eq!(ids(&store, &query(2)).await?, ["b", "c"]);

    let mut bounded = query(10);
    bounded.from = at(20);
    assert_eq!(
        ids(&store, &bounded).await?,
        ["a", "deleted"],
        "from is included"
    );
    bounded.until = Some(at(30));
    assert_eq!(ids(&store, &bounded).await?, ["a"], "until is not");

    let mut slices = query(10);
    slices.slices = SliceRange::new(
        Slice::new(1).ok_or("slice")?,
        Slice::new(1022).ok_or("slice")?,
    )
    .ok_or("range")?;
    assert_eq!(ids(&store, &slices).await?, ["b", "c"]);

    let mut other = query(10);
    other.entity_type = "Other".into();
    assert_eq!(ids(&store, &other).await?, ["Other|x"]);

    let page = store.changes(&query(10)).await?;
    assert_eq!(page.states[3].value, StoredValue::Deleted);
    assert_eq!(page.states[1].tags.iter().collect::<Vec<_>>(), ["t"]);
    Ok(())
}

#[tokio::test]
async fn an_empty_page_has_its_upper_bound_too() -> Outcome {
    let database = Database::migrated().await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let first = store.changes(&query(10)).await?;
    assert!(first.states.is_empty());
    let mut repeated = query(10);
    repeated.until = Some(first.until);
    repeated.from = TimestampOffset::default().timestamp;
    write(&store, vec![put("a", 0, 1, b"x")]).await;
    let page = store.changes(&repeated).await?;
    assert_eq!((page.states.len(), page.until), (0, first.until));
    repeated.until = None;
    repeated.from = DateTime::<Utc>::MIN_UTC;
    let page = store.changes(&repeated).await?;
    assert_eq!(
        page.states.len(),
        1,
        "from before the server's first instant is its first"
    );
    assert!(page.until > first.until);
    Ok(())
}

#[tokio::test]
async fn an_unreadable_row_fails_its_page_and_names_itself() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (5000, '', 'fine', 1, to_timestamp(10), 31, 'm', 'x', NULL);
             UPDATE durable_state SET slice = 5, tags = '{{a},{b}}'",
        )
        .await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    assert!(matches!(
        store.changes(&query(10)).await,
        Err(StoreError::Corrupt { persistence_id, .. }) if persistence_id.as_str() == "fine"
    ));
    Ok(())
}

#[tokio::test]
async fn pages_of_ids_reach_every_id_once() -> Outcome {
    let database = Database::migrated().await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let all: Vec<String> = (0..25).map(|index| format!("id-{index:02}")).collect();
    write(&store, all.iter().map(|id| put(id, 0, 1, b"x")).collect()).await;
    database
        .execute("INSERT INTO durable_state VALUES (1, '', 'id-07', 9, now(), 31, 'm', 'x', NULL)")
        .await?;
    let limit = NonZeroUsize::new(7).ok_or("zero")?;
    let mut after: Option<PersistenceId> = None;
    let mut seen = Vec::new();
    loop {
        let page = store.persistence_ids(after.as_ref(), limit).await?;
        assert!(page.len() <= limit.get());
        let Some(last) = page.last().cloned() else {
            break;
        };
        seen.extend(page.iter().map(ToString::to_string));
        after = Some(last);
    }
    assert_eq!(seen, all);
    Ok(())
}
