//! What `docker compose up` makes, and that the README's next commands work on it.

use std::path::{Path, PathBuf};

use sqlx::{Connection as _, Executor as _, PgConnection};
use throwaway_postgres::TestDatabase;

use crate::TestResult;
use crate::child::Place;

/// Where the image looks for what it runs in an empty volume (its documentation, "Initialization scripts").
const INIT_FOLDER: &str = "/docker-entrypoint-initdb.d";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> std::io::Result<String> {
    std::fs::read_to_string(project().join(name))
}

/// The entries of the service's `volumes`, as source and target.
fn mounts(compose: &str) -> Vec<(&str, &str)> {
    compose
        .lines()
        .map(str::trim_start)
        .skip_while(|line| *line != "volumes:")
        .skip(1)
        .take_while(|line| line.starts_with(['-', '#']))
        .filter_map(|line| line.strip_prefix("- ")?.split_once(':'))
        .map(|(source, target)| (source, target.trim_end_matches(":ro")))
        .collect()
}

/// The value of a key, with the default of the variable that it is taken from.
fn value<'text>(compose: &'text str, key: &str) -> Result<&'text str, String> {
    let mut lines = compose.lines().map(str::trim_start);
    let value = lines
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .ok_or(format!("no {key}"))?;
    Ok(match value.split_once(":-") {
        Some((_, default)) => default.trim_end_matches('}'),
        None => value,
    })
}

#[tokio::test]
async fn the_database_of_docker_compose_takes_the_commands_of_the_readme() -> TestResult {
    let compose = read("docker-compose.yml")?;
    let into_init: Vec<&str> = mounts(&compose)
        .into_iter()
        .filter(|(_, target)| target.starts_with(INIT_FOLDER))
        .map(|(source, target)| {
            let script = "./user-state-store/migrations/postgres/0001_create_pekko_tables.sql";
            assert_eq!(source, script, "a script of another payload column");
            assert!(
                target.ends_with("/0001_create_pekko_tables.sql"),
                "{target}"
            );
            source
        })
        .collect();
    // One file: what runs first is then no question of the image's collation.
    let [script] = into_init[..] else {
        return Err(format!("not one script: {into_init:?}").into());
    };

    let database = TestDatabase::create().await?;
    let mut psql = PgConnection::connect(database.url()).await?;
    psql.execute(&*read(script)?).await?;
    psql.close().await?;

    let url = format!(
        "postgres://{}:{}@127.0.0.1:5432/{}",
        value(&compose, "POSTGRES_USER")?,
        value(&compose, "POSTGRES_PASSWORD")?,
        value(&compose, "POSTGRES_DB")?
    );
    let command = format!("cargo run --example replay -- --store {url}\n");
    for text in ["README.md", "README.ko.md", "docker-compose.yml"] {
        assert!(read(text)?.contains(&command), "{text}: {command}");
    }
    let place = Place::new()?;
    let replayed = place.run("replay", &["--store", database.url()], "")?;
    assert_eq!(replayed.status, 0, "{}", replayed.stderr);
    let inspected = place.run("inspect", &["--store", database.url(), "demo-1001"], "")?;
    assert_eq!(inspected.status, 0, "{}", inspected.stderr);
    let arguments = [
        "--workload",
        "write",
        "--users",
        "10",
        "--callers",
        "2",
        "--seconds",
        "1",
        "--store",
        database.url(),
    ];
    let tested = place.run("loadtest", &arguments, "")?;
    assert_eq!(tested.status, 0, "{}", tested.stderr);
    Ok(())
}

#[tokio::test]
async fn the_psql_command_of_the_readme_makes_the_tables_that_the_examples_open() -> TestResult {
    let readme = read("README.md")?;
    let file = readme
        .lines()
        .find_map(|line| line.strip_prefix("psql \"$DATABASE_URL\" --file "))
        .ok_or("the README has no psql command")?;
    let database = TestDatabase::create().await?;
    let mut psql = PgConnection::connect(database.url()).await?;
    psql.execute(&*read(file)?).await?;
    psql.close().await?;
    let replayed = Place::new()?.run("replay", &["--store", database.url()], "")?;
    assert_eq!(replayed.status, 0, "{}", replayed.stderr);
    Ok(())
}
