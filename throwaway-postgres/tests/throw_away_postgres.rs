//! Goal: each test gets an empty, durable database of its own, and a server that can fail in every way a server fails.
//!
//! Method: databases and servers are taken as any other test takes them, and asked what they are and whether they
//! still answer.

use std::io;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use throwaway_postgres::{PostgresServer, TestDatabase};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A bound for what is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_mins(1);

async fn text(url: &str, query: &str) -> Result<String, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let value = connection.fetch_one(query).await?.try_get(0)?;
    connection.close().await?;
    Ok(value)
}

#[tokio::test]
async fn each_test_has_an_empty_database_of_its_own() -> TestResult {
    let (one, two) = (TestDatabase::create().await?, TestDatabase::create().await?);
    assert_ne!(one.name(), two.name());
    let mut connection = PgConnection::connect(one.url()).await?;
    connection.execute("CREATE TABLE mine (id INT)").await?;
    let tables =
        "SELECT count(*)::TEXT FROM information_schema.tables WHERE table_schema = 'public'";
    assert_eq!(text(one.url(), tables).await?, "1");
    assert_eq!(text(two.url(), tables).await?, "0");
    Ok(())
}

#[test]
fn tests_on_different_runtimes_share_one_server() -> TestResult {
    let mut ports = Vec::new();
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let port = runtime.block_on(async {
            let database = TestDatabase::create().await?;
            let port = text(database.url(), "SELECT inet_server_port()::TEXT").await?;
            Ok::<_, Box<dyn std::error::Error>>(port)
        })?;
        ports.push(port);
    }
    assert_eq!(ports.first(), ports.last());
    Ok(())
}

#[tokio::test]
async fn what_is_durable_in_production_is_durable_in_tests() -> TestResult {
    let database = TestDatabase::create().await?;
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        assert_eq!(
            text(database.url(), &format!("SHOW {setting}")).await?,
            "on",
            "{setting}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn text_is_compared_byte_by_byte_in_utf_8() -> TestResult {
    let database = TestDatabase::create().await?;
    assert_eq!(text(database.url(), "SHOW server_encoding").await?, "UTF8");
    assert_eq!(
        text(database.url(), "SELECT ('B' < 'a')::TEXT").await?,
        "true"
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_database_is_gone_with_its_connections() -> TestResult {
    let (kept, dropped) = (TestDatabase::create().await?, TestDatabase::create().await?);
    let mut open = PgConnection::connect(dropped.url()).await?;
    let name = dropped.name().to_owned();
    dropped.drop_now().await?;
    assert!(open.execute("SELECT 1").await.is_err());
    let names = format!("SELECT count(*)::TEXT FROM pg_database WHERE datname = '{name}'");
    assert_eq!(text(kept.url(), &names).await?, "0");
    Ok(())
}

#[tokio::test]
async fn a_killed_server_recovers_what_was_committed() -> TestResult {
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    let mut connection = PgConnection::connect(database.url()).await?;
    connection
        .execute("CREATE TABLE kept (id INT); INSERT INTO kept VALUES (1)")
        .await?;
    // A statement that runs must not keep the server from being killed, nor from coming back.
    let url = database.url().to_owned();
    let mut busy = tokio::task::JoinSet::new();
    busy.spawn(
        async move { text(&url, "SELECT count(*)::TEXT FROM generate_series(1, 1e12)").await },
    );
    let before = server.process_id().await?;

    server.kill().await?;
    assert_eq!(server.process_id().await?, None);
    assert!(PgConnection::connect(database.url()).await.is_err());
    assert!(connection.execute("SELECT 1").await.is_err());
    assert!(
        busy.join_next()
            .await
            .is_some_and(|outcome| matches!(outcome, Ok(Err(_))))
    );

    server.restart().await?;
    assert_ne!(server.process_id().await?, before);
    assert_eq!(
        text(database.url(), "SELECT count(*)::TEXT FROM kept").await?,
        "1"
    );
    Ok(())
}

#[tokio::test]
async fn a_stopped_server_starts_again_and_a_running_one_restarts() -> TestResult {
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    server.stop().await?;
    assert_eq!(server.process_id().await?, None);
    for _ in 0..2 {
        server.restart().await?;
        assert_eq!(text(database.url(), "SELECT 'up'").await?, "up");
    }
    Ok(())
}

#[tokio::test]
async fn a_frozen_server_keeps_its_connections_and_does_not_answer() -> TestResult {
    let server = PostgresServer::start().await?;
    let mut connection = PgConnection::connect(&server.url("postgres")).await?;
    server.freeze().await?;
    let answer = connection.execute("SELECT 1");
    tokio::pin!(answer);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut answer)
            .await
            .is_err()
    );
    server.thaw().await?;
    tokio::time::timeout(PATIENCE, answer).await??;
    Ok(())
}

#[tokio::test]
async fn a_server_takes_settings_that_override_ours() -> TestResult {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await?;
    assert_eq!(text(&server.url("postgres"), "SHOW fsync").await?, "off");
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_its_settings_says_so_and_leaves_nothing_behind() -> TestResult {
    let error = PostgresServer::start_with(&[("no_such_setting", "1")])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_dropped_server_takes_its_process_and_files_with_it() -> TestResult {
    let server = PostgresServer::start().await?;
    let directory = server.directory().to_owned();
    let url = server.url("postgres");
    assert!(directory.exists());
    drop(server);
    assert!(!directory.exists());
    let refused = PgConnection::connect(&url).await.unwrap_err();
    assert!(
        matches!(refused, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    );
    Ok(())
}

#[tokio::test]
async fn nothing_shows_a_password() -> TestResult {
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    let url = server.url("postgres");
    let password = url
        .split(['@', ':'])
        .nth(2)
        .ok_or("the URL has a password")?;
    assert!(password.len() >= 32, "too short to be one");
    for shown in [format!("{server:?}"), format!("{database:?}")] {
        assert!(!shown.contains(password), "{shown}");
    }
    server.kill().await?;
    let error = server.create_database().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(password));
    Ok(())
}
