//! Goal: the examples do what their users and scripts rely on: exit statuses, the keys and counts of their JSON, and
//! that one run continues where another has ended.
//!
//! Method: the compiled examples run as child processes on files and databases of the test's own. What `replay` must
//! count is worked out by hand for small inputs, and by a simple second implementation for the sample.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use user_state_runtime::testkit::TestDatabase;
use user_state_store::{
    Change, ConnectOptions, DurableStateStore, Manifest, Payload, PersistenceId, Revision,
    SerializerId, StoredState, StoredValue, Tags, Write as RowWrite, WriteBatch, WriteOutcome,
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const SAMPLE: &str = include_str!("../examples/replay/sample.csv");

const HEADER: &str =
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n";

const REPLAY_KEYS: [&str; 8] = [
    "commands",
    "elapsed_ms",
    "events",
    "live",
    "passivated",
    "recovered",
    "rejected",
    "users",
];

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

/// A directory with a SQLite store in it.
struct Place {
    directory: TempDir,
}

/// What a child process said.
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path("test.db").display())
    }

    /// Plays records into the store.
    fn replay(&self, csv: &str, more: &[&str]) -> Result<Run, Box<dyn std::error::Error>> {
        let url = self.url();
        let arguments = [&["-", "--store", &url, "--json"], more].concat();
        run("replay", &arguments, csv, self.directory.path())
    }

    fn inspect(&self, arguments: &[&str]) -> Result<Run, Box<dyn std::error::Error>> {
        let url = self.url();
        let arguments = [&["--store", url.as_str()], arguments].concat();
        run("inspect", &arguments, "", self.directory.path())
    }

    async fn store(&self) -> Result<Arc<dyn DurableStateStore>, user_state_store::OpenError> {
        user_state_store::connect(&ConnectOptions::parse(&self.url())?).await
    }
}

impl Run {
    /// The JSON object on the last line of stdout.
    fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.stdout, self.stderr))
    }

    /// The JSON object without what differs from run to run.
    fn counts(&self) -> Value {
        assert_eq!(self.status, 0, "{}", self.stderr);
        let mut json = self.json();
        assert_eq!(keys(&json), REPLAY_KEYS);
        json.as_object_mut().unwrap().remove("elapsed_ms").unwrap();
        json
    }
}

/// Runs an example to its end.
fn run(
    example: &str,
    arguments: &[&str],
    stdin: &str,
    directory: &Path,
) -> Result<Run, Box<dyn std::error::Error>> {
    let mut child = Command::new(binary(example)?)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // What is piped in fits into the pipe; a child that reads none of it may be gone already.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output()?;
    Ok(Run {
        status: status.code().ok_or("killed")?,
        stdout: String::from_utf8(stdout)?,
        stderr: String::from_utf8(stderr)?,
    })
}

/// The compiled example beside this test; built where a test was run on its own and it is not there.
fn binary(example: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).ok_or("no profile directory")?;
    let name = format!("{example}{}", std::env::consts::EXE_SUFFIX);
    let binary = profile.join("examples").join(name);
    if !binary.exists() {
        let target = profile.parent().ok_or("no target directory")?;
        let release = profile.file_name().is_some_and(|name| name == "release");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--package", env!("CARGO_PKG_NAME")])
            .args(["--example", example, "--target-dir"])
            .arg(target)
            .args(release.then_some("--release"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()?;
        assert!(built.success(), "example {example} does not build");
    }
    Ok(binary)
}

fn keys(json: &Value) -> Vec<&str> {
    json.as_object().unwrap().keys().map(String::as_str).collect()
}

fn record(time: &str, event_type: &str, product: &str, user: &str, session: &str) -> String {
    format!("2019-10-01 {time} UTC,{event_type},{product},1,,,1.00,{user},{session}\n")
}

/// All rows but their `db_timestamp`, by persistence id.
async fn rows(
    store: &Arc<dyn DurableStateStore>,
) -> Result<Vec<StoredState>, Box<dyn std::error::Error>> {
    let ids = store
        .persistence_ids(None, NonZeroUsize::new(1_000).unwrap())
        .await?;
    let mut rows = Vec::new();
    for row in store.load(&ids).await? {
        let mut row = row?.ok_or("a listed row is gone")?;
        row.db_timestamp = chrono::DateTime::UNIX_EPOCH;
        rows.push(row);
    }
    rows.sort_by(|left, right| left.persistence_id.cmp(&right.persistence_id));
    Ok(rows)
}

/// Creates a row.
async fn create(place: &Place, id: &str, payload: Payload) -> TestResult {
    let store = place.store().await?;
    let write = RowWrite {
        persistence_id: PersistenceId::unique(id)?,
        expected: Revision::NONE,
        change: Change::Put {
            revision: Revision::FIRST,
            payload,
            tags: Tags::new(["one", "two"]),
        },
    };
    let outcomes = store.write(&WriteBatch::new(vec![write])?).await;
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

/// What a replay of the sample into a store has to count, told from the records one by one.
fn expected_of_sample() -> Value {
    let idle = TimeDelta::minutes(30);
    let (mut events, mut rejected, mut recovered, mut passivated) = (0, 0, 0, 0);
    let mut touched = HashMap::new();
    let mut sessions = HashSet::new();
    let mut last = None;
    for line in SAMPLE.lines().skip(1) {
        let columns: Vec<_> = line.split(',').collect();
        let [time, _, _, _, _, _, _, user, session] = columns[..] else {
            rejected += 1;
            continue;
        };
        events += 1;
        let at = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S UTC").unwrap();
        sessions.insert((user, session));
        match touched.insert(user, at) {
            Some(before) if at - before < idle => {}
            Some(_) => {
                passivated += 1;
                recovered += 1;
            }
            None => recovered += 1,
        }
        last = Some(at);
    }
    let gone = touched.values().filter(|at| last.unwrap() - **at >= idle);
    passivated += gone.count();
    json!({
        "commands": events + sessions.len(),
        "events": events,
        "live": recovered - passivated,
        "passivated": passivated,
        "recovered": recovered,
        "rejected": rejected,
        "users": touched.len(),
    })
}

#[test]
fn a_replay_of_the_sample_counts_what_its_records_say_and_a_second_one_continues() -> TestResult {
    let place = Place::new()?;
    let expected = expected_of_sample();
    assert!(expected["passivated"].as_u64() > Some(0), "{expected}");
    assert!(expected["recovered"].as_u64() > expected["users"].as_u64(), "{expected}");

    let url = place.url();
    let arguments = ["--store", &url, "--json"];
    let first = run("replay", &arguments, "", place.directory.path())?;
    assert_eq!(first.counts(), expected);
    assert!(first.stderr.contains("line 43: "), "{}", first.stderr);
    let revision = place.inspect(&["--json", "demo-1001"])?.json()["revision"].clone();

    assert_eq!(place.replay(SAMPLE, &[])?.counts(), expected);
    let twice = place.inspect(&["--json", "demo-1001"])?.json()["revision"].clone();
    assert_eq!(twice.as_i64(), revision.as_i64().map(|once| 2 * once));
    Ok(())
}

#[test]
fn a_replay_without_arguments_shows_states_and_names_the_file_they_are_in() -> TestResult {
    let place = Place::new()?;
    let shown = run("replay", &[], "", place.directory.path())?;
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    let file = place.path("user-state.db").canonicalize()?;
    assert!(shown.stdout.contains(&*file.to_string_lossy()), "{}", shown.stdout);
    assert!(shown.stdout.contains("demo-1001, revision "), "{}", shown.stdout);
    assert!(!shown.stdout.contains('\u{1b}'), "no terminal, no control sequences");
    Ok(())
}

#[test]
fn each_broken_record_is_told_with_its_line_counted_and_skipped() -> TestResult {
    let place = Place::new()?;
    let lines = [
        HEADER.to_owned(),
        record("00:00:00", "view", "p1", "1", "s1"),
        record("00:00", "view", "p1", "1", "s1"),
        record("00:00:01", "look", "p1", "1", "s1"),
        record("00:00:01", "view", "", "1", "s1"),
        record("00:00:01", "cart", "p1", "", "s1"),
        record("00:00:01", "cart", "p1", "1", ""),
        record("00:00:01", "cart", "p1", "a|b", "s1"),
        "\n".to_owned(),
        record("00:00:02", "view", "\"p\n2\"", "1", "s1"),
        record("00:00:99", "view", "p1", "1", "s1"),
        record("00:00:03", "view", &"p".repeat(2_000), "1", "s1"),
        record("00:00:04", "purchase", "p1", "1", "s1").replace('\n', "\r\n"),
        record("00:00:05", "view", "p1", &"u".repeat(300), "s1"),
        "2019-10-01 00:00:06 UTC,view,p9,1,,,1".to_owned(),
    ];
    let replayed = place.replay(&lines.concat(), &[])?;
    let expected = json!({
        "commands": 4, "events": 3, "live": 1, "passivated": 0, "recovered": 1, "rejected": 10, "users": 1,
    });
    assert_eq!(replayed.counts(), expected, "{}", replayed.stderr);
    let told: Vec<_> = replayed.stderr.lines().filter_map(|line| line.split(':').next()).collect();
    let numbers = [3, 4, 5, 6, 7, 8, 12, 13, 15, 16];
    let numbers: Vec<_> = numbers.iter().map(|number| format!("line {number}")).collect();
    assert_eq!(told, numbers, "{}", replayed.stderr);
    let state = &place.inspect(&["--json", "demo-1"])?.json()["state"];
    assert_eq!(state["recent_products"], json!(["p\n2", "p1"]));
    assert_eq!(state["last_cart_used"], json!("2019-10-01T00:00:04Z"));
    Ok(())
}

#[test]
fn users_leave_after_exactly_the_idle_time_of_the_records() -> TestResult {
    let csv = [
        HEADER.to_owned(),
        record("00:00:00", "view", "p1", "early", "s1"),
        record("00:00:01", "view", "p1", "late", "s1"),
        record("00:30:00", "view", "p1", "other", "s1"),
        record("00:30:00", "view", "p2", "late", "s1"),
        // Late in the file, but the clock stays where it is.
        record("00:10:00", "view", "p2", "early", "s2"),
    ]
    .concat();
    let half_an_hour = Place::new()?.replay(&csv, &[])?.counts();
    let expected = json!({
        "commands": 9, "events": 5, "live": 3, "passivated": 1, "recovered": 4, "rejected": 0, "users": 3,
    });
    assert_eq!(half_an_hour, expected);
    let second_more = Place::new()?.replay(&csv, &["--idle-timeout", "30m 1s"])?.counts();
    assert_eq!(second_more["passivated"], 0);
    let second_less = Place::new()?.replay(&csv, &["--idle-timeout", "1799s"])?.counts();
    assert_eq!(second_less["passivated"], 2);
    Ok(())
}

#[test]
fn times_are_stored_in_the_zone_asked_for_and_read_back_as_the_same_instants() -> TestResult {
    let place = Place::new()?;
    let csv = HEADER.to_owned() + &record("20:00:00", "view", "p1", "1", "s1");
    place.replay(&csv, &["--zone", "Asia/Seoul", "--mall", "seoul"])?.counts();
    let told = |zone| -> Result<Value, Box<dyn std::error::Error>> {
        let run = place.inspect(&["--json", "--zone", zone, "seoul-1"])?;
        Ok(run.json()["state"]["last_login"].clone())
    };
    assert_eq!(told("Asia/Seoul")?, "2019-10-01T20:00:00Z");
    assert_eq!(told("UTC")?, "2019-10-02T05:00:00Z");
    Ok(())
}

#[test]
fn wrong_usage_and_unusable_input_have_exit_statuses_of_their_own() -> TestResult {
    let place = Place::new()?;
    let missing = place.path("missing/test.db").display().to_string();
    let missing_store = format!("sqlite:{missing}");
    let secret = "mysql://user:marker-secret@host/database";
    let cases: [(&str, &[&str], i32); 14] = [
        ("replay", &["--frobnicate"], 64),
        ("replay", &["--mall", "a-b"], 64),
        ("replay", &["--idle-timeout", "0s"], 64),
        ("replay", &["--zone", "Nowhere"], 64),
        ("replay", &["--store", secret], 64),
        ("replay", &["no-such-file.csv"], 66),
        ("replay", &["-"], 65),
        ("replay", &["--store", &missing_store], 69),
        ("loadtest", &[], 64),
        ("loadtest", &["--workload", "dance"], 64),
        ("loadtest", &["--workload", "read", "--users", "0"], 64),
        ("inspect", &["demo-1"], 64),
        ("inspect", &["--store", secret, "demo-1"], 64),
        ("inspect", &["--store", &missing_store, "demo-1"], 69),
    ];
    for (example, arguments, status) in cases {
        let ended = run(example, arguments, "no,such,header\n", place.directory.path())?;
        assert_eq!(ended.status, status, "{example} {arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty(), "{example} {arguments:?}");
        assert!(!ended.stderr.contains("marker-secret"), "{}", ended.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn inspect_shows_what_is_stored_and_tells_by_its_status_whether_that_is_readable() -> TestResult
{
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
    let mark = RowWrite {
        persistence_id: PersistenceId::unique("gone-1")?,
        expected: Revision::FIRST,
        change: Change::Mark,
    };
    let store = place.store().await?;
    store.write(&WriteBatch::new(vec![mark])?).await;
    let stored = store.load(&[PersistenceId::unique("gone-1")?]).await?.remove(0)?.unwrap();
    assert_eq!(stored.value, StoredValue::Deleted);
    store.close().await;
    let files = files(&place)?;

    let readable = place.inspect(&["--json", "Shop|demo-1"])?;
    assert_eq!(readable.status, 0, "{}", readable.stderr);
    let mut json = readable.json();
    assert_eq!(keys(&json), INSPECT_KEYS);
    let written = json["db_timestamp"].take();
    assert_eq!(written.as_str().map(str::len), Some("2019-10-01T00:00:00.123456Z".len()));
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
    assert_eq!(keys(&deleted.json()), INSPECT_KEYS);
    assert_eq!(deleted.json()["deleted"], true);
    assert_eq!(deleted.json()["revision"], 2);
    assert_eq!(deleted.json()["state"], Value::Null);

    for (id, serializer) in [("unknown-1", 999), ("garbage-1", 31)] {
        let unreadable = place.inspect(&["--json", id])?;
        assert_eq!(unreadable.status, 1, "{id}: {}", unreadable.stderr);
        let json = unreadable.json();
        assert_eq!(json["serializer"], serializer);
        assert_eq!(json["state"], Value::Null);
        assert!(json["error"].as_str().is_some_and(|error| !error.is_empty()), "{json}");
        assert_eq!(place.inspect(&[id])?.status, 1);
    }
    assert_eq!(place.inspect(&["--json", "nobody-1"])?.status, 3);
    assert_eq!(place.inspect(&["nobody-1"])?.status, 3);
    assert_eq!(self::files(&place)?, files, "inspect changes no file and makes none");
    Ok(())
}

/// The names and contents of all files.
fn files(place: &Place) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(place.directory.path())? {
        let path = entry?.path();
        files.push((path.clone(), std::fs::read(path)?));
    }
    files.sort();
    Ok(files)
}

#[tokio::test]
async fn postgresql_and_sqlite_hold_the_same_rows_after_the_same_replay() -> TestResult {
    let place = Place::new()?;
    let database = TestDatabase::create().await?;
    let arguments = ["--store", database.url(), "--json"];
    let replayed = run("replay", &arguments, "", place.directory.path())?;
    assert_eq!(replayed.counts(), expected_of_sample());
    place.replay(SAMPLE, &[])?.counts();

    let postgres = user_state_store::connect(&ConnectOptions::parse(database.url())?).await?;
    let sqlite = place.store().await?;
    let rows_of_postgres = rows(&postgres).await?;
    assert_eq!(rows_of_postgres.len(), 12);
    assert_eq!(rows_of_postgres, rows(&sqlite).await?);

    let readable = ["--store", database.url(), "--json", "demo-1001"];
    let readable = run("inspect", &readable, "", place.directory.path())?;
    assert_eq!(readable.status, 0, "{}", readable.stderr);
    assert_eq!(keys(&readable.json()), INSPECT_KEYS);
    postgres.close().await;
    sqlite.close().await;
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
        connection.execute(insert.replace("REVISION", revision).as_str()).await?;
    }
    connection.close().await?;
    let doubled = ["--store", database.url(), "--json", "twice-1"];
    let doubled = run("inspect", &doubled, "", place.directory.path())?;
    assert_eq!(doubled.status, 1, "{}", doubled.stderr);
    let json = doubled.json();
    assert_eq!(json["state"], Value::Null);
    assert!(json["error"].is_string(), "{json}");
    assert_eq!(json["rows"], json!([{"revision": 1}, {"revision": 7}]));
    Ok(())
}

#[test]
fn every_workload_of_a_load_test_runs_without_errors_and_tells_its_figures() -> TestResult {
    let place = Place::new()?;
    let url = place.url();
    for workload in ["write", "hot", "read", "recover"] {
        let arguments = ["--workload", workload, "--store", &url, "--users", "50"];
        let arguments = [&arguments[..], &["--callers", "20", "--seconds", "1", "--json"]].concat();
        let loaded = run("loadtest", &arguments, "", place.directory.path())?;
        assert_eq!(loaded.status, 0, "{workload}: {}", loaded.stderr);
        let json = loaded.json();
        let mut expected = [
            "workload", "per_second", "p50_us", "p99_us", "errors", "users", "callers", "rss_bytes",
        ];
        expected.sort_unstable();
        assert_eq!(keys(&json), expected);
        assert_eq!(json["workload"], workload);
        assert_eq!((&json["users"], &json["callers"]), (&json!(50), &json!(20)));
        assert_eq!(json["errors"], 0, "{json}");
        assert!(json["per_second"].as_u64() > Some(0), "{json}");
        assert!(json["p50_us"].as_u64() <= json["p99_us"].as_u64(), "{json}");
        assert!(json["rss_bytes"].as_u64() > Some(1_000_000), "{json}");
    }
    Ok(())
}
