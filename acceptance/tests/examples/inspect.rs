//! What `inspect` shows of a row, and that it changes nothing.

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use throwaway_postgres::TestDatabase;
use user_state_store::{
    ConnectOptions, Manifest, Payload, PersistenceId, Revision, SerializerId, StoredValue, Tags,
    Write, WriteBatch, WriteOutcome,
};

use crate::TestResult;
use crate::child::{Place, keys};

const INSPECT_KEYS: [&str; 10] = [
    "db_timestamp",
    "deleted",
    "entity_type",
    "manifest",
    "persistence_id",
    "revision",
    "serializer",
    "slice",
    "state",
    "tags",
];

const CLASS: &str = "com.example.persistdurable.model.UserState";

#[tokio::test]
async fn inspect_shows_what_is_stored_and_tells_by_its_status_whether_that_is_readable()
-> TestResult {
    let place = Place::new()?;
    let state = r#"{"mallId":"demo","userId":"1","lastLogin":"2019-10-01T00:00:00.12","lastCartUsedTime":null,
        "recentProducts":["p2","p1"],"marketingOptIn":true,"lastEventTime":"2019-10-01T00:00:01.000"}"#;
    create(&place, "Shop|demo-1", jackson(state)).await?;
    let unknown = Payload {
        serializer_id: SerializerId(999),
        manifest: Manifest::new("X"),
        bytes: b"anything".to_vec(),
    };
    create(&place, "unknown-1", unknown).await?;
    create(&place, "garbage-1", jackson("{")).await?;
    create(&place, "gone-1", jackson("{}")).await?;
    let gone = PersistenceId::unique("gone-1")?;
    let mark = Write::mark(gone.clone(), Revision::FIRST);
    let store = place.store().await?;
    store.states().write(&WriteBatch::new(vec![mark])?).await;
    let stored = store.states().load_one(&gone).await?.unwrap();
    assert_eq!(stored.value, StoredValue::Deleted);
    store.close().await;
    let files = place.files()?;

    let readable = place.inspect(&["--json", "Shop|demo-1"])?;
    assert_eq!(readable.status, 0, "{}", readable.stderr);
    let mut json = readable.json()?;
    assert_eq!(keys(&json), INSPECT_KEYS);
    let written = json["db_timestamp"].take();
    assert_eq!(
        written.as_str().map(str::len),
        Some("2019-10-01T00:00:00.123456Z".len())
    );
    let expected = json!({
        "persistence_id": "Shop|demo-1", "entity_type": "Shop",
        "slice": PersistenceId::unique("Shop|demo-1")?.slice().get(), "revision": 1,
        "db_timestamp": null, "serializer": 31, "manifest": CLASS, "tags": ["one", "two"], "deleted": false,
        "state": {
            "last_login": "2019-10-01T00:00:00.12Z", "last_cart_used": null,
            "last_event_at": "2019-10-01T00:00:01.000Z", "recent_products": ["p2", "p1"],
            "marketing_opt_in": true,
        },
    });
    assert_eq!(json, expected);

    let deleted = place.inspect(&["--json", "gone-1"])?;
    assert_eq!(deleted.status, 0, "{}", deleted.stderr);
    assert_eq!(keys(&deleted.json()?), INSPECT_KEYS);
    assert_eq!(deleted.json()?["deleted"], true);
    assert_eq!(deleted.json()?["revision"], 2);
    assert_eq!(deleted.json()?["state"], Value::Null);

    for (id, serializer) in [("unknown-1", 999), ("garbage-1", 31)] {
        let unreadable = place.inspect(&["--json", id])?;
        assert_eq!(unreadable.status, 1, "{id}: {}", unreadable.stderr);
        let json = unreadable.json()?;
        assert_eq!(json["serializer"], serializer);
        assert_eq!(json["state"], Value::Null);
        assert!(
            json["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "{json}"
        );
        assert_eq!(place.inspect(&[id])?.status, 1);
    }
    assert_eq!(place.inspect(&["--json", "nobody-1"])?.status, 3);
    assert_eq!(place.inspect(&["nobody-1"])?.status, 3);

    // Several ids: a line each, in the order asked; the worst of them makes the status.
    let several = place.inspect(&["--json", "gone-1", "nobody-1", "Shop|demo-1"])?;
    assert_eq!(several.status, 3, "{}", several.stderr);
    let ids: Vec<Value> = several
        .stdout
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["persistence_id"].take()))
        .collect::<Result<_, serde_json::Error>>()?;
    assert_eq!(ids, ["gone-1", "nobody-1", "Shop|demo-1"]);
    assert_eq!(place.inspect(&["nobody-1", "garbage-1"])?.status, 1);
    assert_eq!(place.inspect(&[])?.status, 64, "at least one id");
    assert_eq!(
        place.files()?,
        files,
        "inspect changes no file and makes none"
    );
    Ok(())
}

#[tokio::test]
async fn two_rows_of_one_id_are_shown_with_status_1() -> TestResult {
    let place = Place::new()?;
    let database = TestDatabase::create().await?;
    user_state_store::migrate(&ConnectOptions::parse(database.url())?).await?;
    let mut connection = PgConnection::connect(database.url()).await?;
    for revision in ["1", "7"] {
        let insert = "INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, \
            state_ser_id, state_ser_manifest, state_payload) \
            VALUES (0, '', 'twice-1', REVISION, now(), 31, 'X', '')";
        connection
            .execute(insert.replace("REVISION", revision).as_str())
            .await?;
    }
    connection.close().await?;
    let doubled = ["--store", database.url(), "--json", "twice-1"];
    let doubled = place.run("inspect", &doubled, "")?;
    assert_eq!(doubled.status, 1, "{}", doubled.stderr);
    let json = doubled.json()?;
    assert_eq!(json["state"], Value::Null);
    assert!(json["error"].is_string(), "{json}");
    assert_eq!(json["rows"], json!([{"revision": 1}, {"revision": 7}]));
    Ok(())
}

/// Creates a row.
async fn create(place: &Place, id: &str, payload: Payload) -> TestResult {
    let store = place.store().await?;
    let write = Write::create(PersistenceId::unique(id)?, payload).tags(Tags::new(["one", "two"]));
    let outcomes = store.states().write(&WriteBatch::new(vec![write])?).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    store.close().await;
    Ok(())
}

fn jackson(json: &str) -> Payload {
    Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new(CLASS),
        bytes: json.as_bytes().to_vec(),
    }
}
