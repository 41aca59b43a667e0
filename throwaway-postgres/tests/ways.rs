//! Goal: a test gets a PostgreSQL on any machine, whichever way, and nothing of it outlives the test's process.
//!
//! Method: each way is taken in a child process, which has its own environment and can be killed: the test binary
//! runs itself again with one test selected, which then plays the child's part. What stays behind is looked for in
//! the process table, in the directory of the servers' data, and in the list of databases.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use throwaway_postgres::{PostgresServer, ProvisionError, TestDatabase, Way};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A bound for what is a matter of a second.
const PATIENCE: Duration = Duration::from_mins(1);
/// Set in a child process, to the part that it plays.
const PART: &str = "THROW_AWAY_POSTGRES_PART";
/// Begins a line that a child prints for its parent.
const REPORT: &str = "report: ";

async fn text(url: &str, query: &str) -> Result<String, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let value = connection.fetch_one(query).await?.try_get(0)?;
    connection.close().await?;
    Ok(value)
}

fn is_child() -> bool {
    std::env::var_os(PART).is_some()
}

/// This test binary, about to run `test` once more, as the child, with no choice of a way in its environment.
fn child(test: &str) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([test, "--exact", "--nocapture"])
        .env(PART, "child")
        .env_remove("DATABASE_URL")
        .env_remove("USER_STATE_TEST_POSTGRES")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Ok(command)
}

/// What a child reports until it ends by itself.
fn reports(command: &mut Command) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let output = command.output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout)?;
    Ok(lines
        .lines()
        .filter_map(|line| line.split_once(REPORT))
        .map(|(_, it)| it.into())
        .collect())
}

/// Waits until `holds` does.
async fn eventually(holds: impl Fn() -> bool) -> TestResult {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let wait = async {
        while !holds() {
            looks.tick().await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, wait).await?)
}

fn process_exists(process_id: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "kill -0 \"$1\"", "sh", process_id])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A directory like `/tmp` for the data of servers, to see what stays in it.
fn data_directory() -> io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o1777))?;
    Ok(directory)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn the_servers_of_a_process_end_with_it_even_by_kill_9() -> TestResult {
    const NAME: &str = "the_servers_of_a_process_end_with_it_even_by_kill_9";
    if is_child() {
        let server = PostgresServer::start().await?;
        let _database = TestDatabase::create().await?;
        let process_id = server.process_id().await?.ok_or("the server is up")?;
        println!("\n{REPORT}{process_id}");
        // For ever: the parent holds the other end.
        io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let data = data_directory()?;
    let mut child = child(NAME)?.env("TMPDIR", data.path()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("standard output is a pipe")?).lines();
    let process_id = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once(REPORT)?.1.to_owned()))
        .ok_or("the child ended early")?;
    assert!(process_exists(&process_id));
    assert_eq!(
        entries(data.path()).len(),
        2,
        "the server and the one for databases"
    );

    child.kill()?;
    child.wait()?;
    eventually(|| !process_exists(&process_id)).await?;
    eventually(|| entries(data.path()).is_empty()).await
}

#[tokio::test]
async fn what_a_process_killed_while_it_starts_a_server_leaves_behind_the_next_one_removes()
-> TestResult {
    const NAME: &str =
        "what_a_process_killed_while_it_starts_a_server_leaves_behind_the_next_one_removes";
    if is_child() {
        PostgresServer::start().await?;
        return Ok(());
    }
    let data = data_directory()?;
    // As soon as there is a directory, and as soon as `initdb` has begun to fill it.
    for moment in [1, 3] {
        let mut killed = child(NAME)?.env("TMPDIR", data.path()).spawn()?;
        eventually(|| {
            entries(data.path())
                .iter()
                .any(|path| entries(path).len() >= moment)
        })
        .await?;
        killed.kill()?;
        killed.wait()?;
        let next = reports(child(NAME)?.env("TMPDIR", data.path()))?;
        assert!(next.is_empty());
        eventually(|| entries(data.path()).is_empty()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_way_gives_a_database_or_an_error_that_says_what_to_do() -> TestResult {
    const NAME: &str = "each_way_gives_a_database_or_an_error_that_says_what_to_do";
    if is_child() {
        match TestDatabase::create().await {
            Ok(database) => {
                assert_eq!(text(database.url(), "SELECT 'up'").await?, "up");
                println!("\n{REPORT}{}", database.way());
            }
            Err(error) => println!("\n{REPORT}{error}"),
        }
        return Ok(());
    }
    for way in ["local", "docker", "fetch"] {
        let reports = reports(child(NAME)?.env("USER_STATE_TEST_POSTGRES", way))?;
        let absent = format!("tried {way}: ");
        let told =
            |report: &String| report.contains("install PostgreSQL") && report.contains(&absent);
        assert!(
            reports.iter().any(|report| report == way || told(report)),
            "{way}: {reports:?}"
        );
    }
    let without_url = reports(child(NAME)?.env("USER_STATE_TEST_POSTGRES", "database-url"))?;
    assert!(
        without_url
            .iter()
            .any(|report| report.contains("set DATABASE_URL")),
        "{without_url:?}"
    );
    let unknown = reports(child(NAME)?.env("USER_STATE_TEST_POSTGRES", "podman"))?;
    assert!(
        unknown
            .iter()
            .any(|report| report.contains("use database-url, local")),
        "{unknown:?}"
    );
    // What else the machine has, if no server programs are installed.
    let nowhere = reports(child(NAME)?.env("USER_STATE_TEST_POSTGRES_BIN", "/nowhere"))?;
    let told = |report: &String| report.contains("tried database-url: not set; local: ");
    let other = |report: &String| report == "docker" || report == "fetch";
    assert!(
        nowhere.iter().any(|report| other(report) || told(report)),
        "{nowhere:?}"
    );
    Ok(())
}

#[tokio::test]
async fn beside_a_named_database_others_are_made_and_dropped_and_it_is_not_touched() -> TestResult {
    const NAME: &str = "beside_a_named_database_others_are_made_and_dropped_and_it_is_not_touched";
    if is_child() {
        let database = TestDatabase::create().await?;
        assert_eq!(database.way(), Way::DatabaseUrl);
        let mut connection = PgConnection::connect(database.url()).await?;
        connection.execute("CREATE TABLE mine (id INT)").await?;
        println!("\n{REPORT}{}", database.name());
        return Ok(());
    }
    let server = PostgresServer::start().await?;
    let named = server.create_database().await?;
    let databases = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
    let before = text(named.url(), databases).await?;

    let reports = reports(child(NAME)?.env("DATABASE_URL", named.url()))?;
    let name = reports.first().ok_or("the child had a database")?;
    assert!(
        name.starts_with("user_state_test_") && !before.contains(name),
        "{name}"
    );
    assert_eq!(
        text(named.url(), databases).await?,
        before,
        "dropped with its open connection"
    );
    let tables =
        "SELECT count(*)::TEXT FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(text(named.url(), tables).await?, "0");
    Ok(())
}

#[tokio::test]
async fn a_named_server_that_refuses_is_reported_without_its_password() -> TestResult {
    const NAME: &str = "a_named_server_that_refuses_is_reported_without_its_password";
    if is_child() {
        let error: ProvisionError = TestDatabase::create().await.unwrap_err();
        println!("\n{REPORT}{error} {error:?}");
        return Ok(());
    }
    let server = PostgresServer::start().await?;
    let mut connection = PgConnection::connect(&server.url("postgres")).await?;
    connection
        .execute("CREATE ROLE plain LOGIN PASSWORD 'marker'")
        .await?;
    let password = server
        .url("")
        .split(['@', ':'])
        .nth(2)
        .map(str::to_owned)
        .unwrap_or_default();
    let url = |user: &str| {
        server
            .url("postgres")
            .replace(&format!("postgres:{password}"), user)
    };
    let gone = server.url("postgres").replace(&password, "marker");
    for (url, advice) in [
        (url("plain:marker"), "CREATEDB"),
        (gone, "SQLSTATE 28P01"),
        (
            "postgres://plain:marker@192.0.2.1/postgres".into(),
            "USER_STATE_TEST_ALLOW_REMOTE=1",
        ),
        (
            "mysql://plain:marker@127.0.0.1/app".into(),
            "use postgres://",
        ),
    ] {
        let reports = reports(child(NAME)?.env("DATABASE_URL", url))?;
        let report = reports.first().ok_or("the child had an error")?;
        assert!(report.contains(advice), "{report}");
        assert!(!report.contains("marker"), "{report}");
    }
    Ok(())
}
