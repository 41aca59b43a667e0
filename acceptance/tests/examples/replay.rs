//! What `replay` counts, stores and tells.

use std::collections::{HashMap, HashSet};
use std::error::Error;

use chrono::{NaiveDateTime, TimeDelta};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use throwaway_postgres::TestDatabase;
use user_state_store::{ConnectOptions, PersistenceId, Store, StoredState};

use crate::TestResult;
use crate::child::{Place, Run, keys};

const SAMPLE: &str = include_str!("../../../user-state/examples/replay/sample.csv");

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

impl Run {
    /// The JSON object without what differs from run to run.
    fn counts(&self) -> Result<Value, Box<dyn Error>> {
        assert_eq!(self.status, 0, "{}", self.stderr);
        let mut json = self.json()?;
        assert_eq!(keys(&json), REPLAY_KEYS);
        let counts = json.as_object_mut().ok_or("not an object")?;
        assert!(
            counts
                .remove("elapsed_ms")
                .is_some_and(|elapsed| elapsed.is_u64())
        );
        Ok(json)
    }
}

#[test]
fn a_replay_of_the_sample_counts_what_its_records_say_and_a_second_one_continues() -> TestResult {
    let place = Place::new()?;
    let expected = expected_of_sample()?;
    assert!(expected["passivated"].as_u64() > Some(0), "{expected}");
    assert!(
        expected["recovered"].as_u64() > expected["users"].as_u64(),
        "{expected}"
    );

    let url = place.url();
    let arguments = ["--store", &url, "--json"];
    let first = place.run("replay", &arguments, "")?;
    assert_eq!(first.counts()?, expected);
    assert!(first.stderr.contains("line 43: "), "{}", first.stderr);
    let revision = place.inspect(&["--json", "demo-1001"])?.json()?["revision"].clone();

    assert_eq!(place.replay(SAMPLE, &[])?.counts()?, expected);
    let twice = place.inspect(&["--json", "demo-1001"])?.json()?["revision"].clone();
    assert_eq!(twice.as_i64(), revision.as_i64().map(|once| 2 * once));
    Ok(())
}

#[test]
fn a_replay_without_arguments_shows_states_and_names_the_file_they_are_in() -> TestResult {
    let place = Place::new()?;
    let shown = place.run("replay", &[], "")?;
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    let file = place.path("user-state.db").canonicalize()?;
    assert!(
        shown.stdout.contains(&*file.to_string_lossy()),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.contains("demo-1001, revision "),
        "{}",
        shown.stdout
    );
    assert!(
        !shown.stdout.contains('\u{1b}'),
        "no terminal, no control sequences"
    );
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
        "\r\n".to_owned(),
        "2019-10-01 00:00:06 UTC,view,p9,1,,,1".to_owned(),
    ];
    let replayed = place.replay(&lines.concat(), &[])?;
    let expected = json!({
        "commands": 4, "events": 3, "live": 1, "passivated": 0, "recovered": 1, "rejected": 10, "users": 1,
    });
    assert_eq!(replayed.counts()?, expected, "{}", replayed.stderr);
    let told: Vec<_> = replayed
        .stderr
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    let numbers = [3, 4, 5, 6, 7, 8, 12, 13, 15, 17];
    let numbers: Vec<_> = numbers
        .iter()
        .map(|number| format!("line {number}"))
        .collect();
    assert_eq!(told, numbers, "{}", replayed.stderr);
    let state = &place.inspect(&["--json", "demo-1"])?.json()?["state"];
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
    let half_an_hour = Place::new()?.replay(&csv, &[])?.counts()?;
    let expected = json!({
        "commands": 9, "events": 5, "live": 3, "passivated": 1, "recovered": 4, "rejected": 0, "users": 3,
    });
    assert_eq!(half_an_hour, expected);
    let second_more = Place::new()?
        .replay(&csv, &["--idle-timeout", "30m 1s"])?
        .counts()?;
    assert_eq!(second_more["passivated"], 0);
    let second_less = Place::new()?
        .replay(&csv, &["--idle-timeout", "1799s"])?
        .counts()?;
    assert_eq!(second_less["passivated"], 2);
    Ok(())
}

#[test]
fn times_are_stored_in_the_zone_asked_for_and_read_back_as_the_same_instants() -> TestResult {
    let place = Place::new()?;
    let csv = HEADER.to_owned() + &record("20:00:00", "view", "p1", "1", "s1");
    place
        .replay(&csv, &["--zone", "Asia/Seoul", "--mall", "seoul"])?
        .counts()?;
    let told = |zone| -> Result<Value, Box<dyn Error>> {
        let run = place.inspect(&["--json", "--zone", zone, "seoul-1"])?;
        Ok(run.json()?["state"]["last_login"].clone())
    };
    assert_eq!(told("Asia/Seoul")?, "2019-10-01T20:00:00Z");
    assert_eq!(told("UTC")?, "2019-10-02T05:00:00Z");
    Ok(())
}

#[tokio::test]
async fn postgresql_and_sqlite_hold_the_same_rows_after_the_same_replay() -> TestResult {
    let place = Place::new()?;
    let database = TestDatabase::create().await?;
    let arguments = ["--store", database.url(), "--json"];
    let replayed = place.run("replay", &arguments, "")?;
    assert_eq!(replayed.counts()?, expected_of_sample()?);
    place.replay(SAMPLE, &[])?.counts()?;

    let postgres = user_state_store::connect(&ConnectOptions::parse(database.url())?).await?;
    let sqlite = place.store().await?;
    let rows_of_postgres = rows(&postgres).await?;
    assert_eq!(rows_of_postgres.len(), 12);
    assert_eq!(rows_of_postgres, rows(&sqlite).await?);

    let readable = ["--store", database.url(), "--json", "demo-1001"];
    let readable = place.run("inspect", &readable, "")?;
    assert_eq!(readable.status, 0, "{}", readable.stderr);
    assert_eq!(readable.json()?["revision"], 13);
    postgres.close().await;
    sqlite.close().await;
    Ok(())
}

fn record(time: &str, event_type: &str, product: &str, user: &str, session: &str) -> String {
    format!("2019-10-01 {time} UTC,{event_type},{product},1,,,1.00,{user},{session}\n")
}

/// All rows but their `db_timestamp`, by persistence id.
async fn rows(store: &Store) -> Result<Vec<StoredState>, Box<dyn Error>> {
    let ids: Vec<PersistenceId> = store.current_persistence_ids().try_collect().await?;
    let mut rows = Vec::new();
    for row in store.states().load(&ids).await? {
        let mut row = row?.ok_or("a listed row is gone")?;
        row.db_timestamp = chrono::DateTime::UNIX_EPOCH;
        rows.push(row);
    }
    rows.sort_by(|left, right| left.persistence_id.cmp(&right.persistence_id));
    Ok(rows)
}

/// What a replay of the sample into a store has to count, told from the records one by one.
fn expected_of_sample() -> Result<Value, Box<dyn Error>> {
    let idle = TimeDelta::minutes(30);
    let (mut events, mut rejected, mut recovered, mut passivated) = (0, 0, 0, 0);
    let mut touched = HashMap::new();
    let mut sessions = HashSet::new();
    let mut last = NaiveDateTime::MIN;
    for line in SAMPLE.lines().skip(1) {
        let columns: Vec<_> = line.split(',').collect();
        let [time, _, _, _, _, _, _, user, session] = columns[..] else {
            rejected += 1;
            continue;
        };
        events += 1;
        let at = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S UTC")?;
        sessions.insert((user, session));
        match touched.insert(user, at) {
            Some(before) if at - before < idle => {}
            Some(_) => {
                passivated += 1;
                recovered += 1;
            }
            None => recovered += 1,
        }
        last = at;
    }
    let gone = touched.values().filter(|at| last - **at >= idle);
    passivated += gone.count();
    Ok(json!({
        "commands": events + sessions.len(),
        "events": events,
        "live": recovered - passivated,
        "passivated": passivated,
        "recovered": recovered,
        "rejected": rejected,
        "users": touched.len(),
    }))
}
