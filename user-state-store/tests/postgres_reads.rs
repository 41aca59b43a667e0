//! Goal: change feeds and id pages are those of Pekko's queries, edges included.
//! Method: rows made with plain SQL, at chosen times.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a wrong constant ends the test")]

mod support;

use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use support::{Database, Outcome, put, write};
use user_state_store::{
    Backend as _, ChangesQuery, DurableStateStore as _, PageEnd, PersistenceId, PostgresStore,
    RowKey, Slice, SliceRange, StateFeeds as _, StoreError, StoredValue, TimestampOffset,
};

fn query(limit: usize) -> ChangesQuery {
    ChangesQuery {
        limit: NonZeroUsize::new(limit).unwrap(),
        ..ChangesQuery::all("", SliceRange::ALL)
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
async fn rows_of_one_instant_come_by_revision_then_id_and_pages_go_on_inside_it() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state
             SELECT n % 1024, '', 'id-' || lpad(n::text, 5, '0'), n % 3, to_timestamp(10), 31, 'm', 'x', NULL
             FROM generate_series(1, 1000) AS n",
        )
        .await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let mut reached = Vec::new();
    let mut next = query(300);
    loop {
        let page = store.changes(&next).await?;
        reached.extend(page.states.iter().map(RowKey::of));
        match page.end {
            PageEnd::Behind(at, key) => {
                assert_eq!(reached.last(), Some(&key));
                (next.from, next.after) = (at, Some(key));
            }
            end => {
                assert_eq!(end, PageEnd::Complete);
                break;
            }
        }
    }
    assert_eq!(reached.len(), 1000);
    assert!(
        reached
            .windows(2)
            .all(|pair| (pair[0].revision, &pair[0].persistence_id)
                < (pair[1].revision, &pair[1].persistence_id))
    );
    Ok(())
}

#[tokio::test]
async fn a_page_looks_at_no_more_rows_than_it_may_and_says_where_the_next_row_is() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state
             SELECT n % 1024, '', 'id-' || n, 1, to_timestamp(n), 31, 'm', 'x', NULL
             FROM generate_series(101, 400) AS n",
        )
        .await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let mut bounded = query(100);
    bounded.rows_max = NonZeroUsize::new(200);
    let page = store.changes(&bounded).await?;
    assert_eq!((page.states.len(), page.end), (0, PageEnd::Crowded));
    bounded.to = Some(at(50));
    let page = store.changes(&bounded).await?;
    assert_eq!((page.states.len(), page.end), (0, PageEnd::Before(at(101))));
    bounded.to = Some(at(151));
    let page = store.changes(&bounded).await?;
    assert_eq!(
        (page.states.len(), page.end),
        (50, PageEnd::Before(at(151)))
    );
    bounded.to = Some(at(251));
    let page = store.changes(&bounded).await?;
    assert_eq!(page.states.len(), 100);
    assert!(matches!(page.end, PageEnd::Behind(last, _) if last == at(200)));
    bounded.from = at(399);
    bounded.to = Some(at(1000));
    let page = store.changes(&bounded).await?;
    assert_eq!((page.states.len(), page.end), (2, PageEnd::Complete));
    Ok(())
}

#[tokio::test]
async fn an_unreadable_row_ends_its_page_and_names_itself() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state VALUES
             (5000, '', 'broken', -3, to_timestamp(10), 31, 'm', 'x', NULL),
             (7, '', 'before', 1, to_timestamp(9), 31, 'm', 'x', NULL),
             (7, '', 'behind', 1, to_timestamp(11), 31, 'm', 'x', NULL);
             UPDATE durable_state SET slice = 5, tags = '{{a},{b}}' WHERE persistence_id = 'broken'",
        )
        .await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    let page = store.changes(&query(10)).await?;
    assert_eq!(page.states.len(), 1);
    let PageEnd::Unreadable(row) = page.end else {
        return Err(format!("{:?}", page.end).into());
    };
    assert_eq!(row.persistence_id.as_str(), "broken");
    assert_eq!((row.slice.get(), row.revision), (5, -3));
    assert_eq!(row.db_timestamp, at(10));
    assert!(matches!(row.reason, StoreError::Corrupt { .. }), "{row:?}");
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
