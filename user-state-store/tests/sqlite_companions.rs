//! Goal: a companion that SQLite refuses, in whatever way, refuses its write and no other, and leaves nothing behind.
//! Method: a table whose constraints and triggers refuse in every way that SQLite has, those that end the transaction included.

#![cfg(feature = "sqlite")]

mod support;

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqliteConnection};
use support::{change, load, put, write};
use user_state_store::{
    Change, Companion, CompanionColumn, CompanionKind, CompanionSql, SqliteStore, StoreError,
    StoreSettings, Write, WriteOutcome,
};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

static NOTE: CompanionKind = CompanionKind::new(
    &[CompanionColumn::text("name")],
    CompanionSql::new(""),
    CompanionSql::new(
        "INSERT INTO notes (persistence_id, name, revision)
         SELECT persistence_id, name, revision FROM companion",
    ),
);

static NOWHERE: CompanionKind = CompanionKind::new(
    &[CompanionColumn::text("name")],
    CompanionSql::new(""),
    CompanionSql::new("INSERT INTO nowhere SELECT persistence_id, name FROM companion"),
);

const TABLES: &str = "\
CREATE TABLE notes (
    persistence_id TEXT NOT NULL,
    name TEXT NOT NULL CHECK (name <> 'checked'),
    revision INTEGER NOT NULL,
    PRIMARY KEY (persistence_id, name),
    CONSTRAINT ends CHECK (name <> 'ends') ON CONFLICT ROLLBACK
);
CREATE TABLE endings (name TEXT UNIQUE ON CONFLICT ROLLBACK);
INSERT INTO endings VALUES ('ended');
CREATE TRIGGER aborts BEFORE INSERT ON notes WHEN NEW.name = 'aborts' BEGIN SELECT RAISE(ABORT, 'no'); END;
CREATE TRIGGER fails AFTER INSERT ON notes WHEN NEW.name = 'fails' BEGIN SELECT RAISE(FAIL, 'no'); END;
CREATE TRIGGER rolls_back AFTER INSERT ON notes WHEN NEW.name = 'rolls back'
    BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
CREATE TRIGGER ends AFTER INSERT ON notes WHEN NEW.name = 'ended' BEGIN INSERT INTO endings VALUES ('ended'); END;";

async fn plain(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new().filename(path).connect().await
}

async fn notes(path: &Path) -> TestResult<Vec<String>> {
    let mut connection = plain(path).await?;
    let notes = sqlx::query_scalar(
        "SELECT persistence_id || '/' || name || '@' || revision FROM notes ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    Ok(notes)
}

fn carrying(write: Write, kind: &'static CompanionKind, name: &str) -> TestResult<Write> {
    Ok(write.companions([Companion::new(kind, [name.into()])?]))
}

/// Makes a write of an entity.
type Form = fn(&str) -> Write;

/// A write of each form, by the revision that it leaves.
const FORMS: [(Form, i64); 3] = [
    (|id| put(id, 0, 1, b"{}"), 1),
    (|id| put(id, 1, 2, b"{}"), 2),
    (|id| change(id, 2, Change::Erase), 0),
];

#[tokio::test]
async fn however_sqlite_refuses_companions_their_writes_alone_are_refused() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("user-state.db");
    let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
    plain(&path).await?.execute(TABLES).await?;
    let ids: Vec<String> = (0..100).map(|n| format!("user-{n:03}")).collect();
    let culprits = [0, 41, 42, 99];
    for name in [
        "checked",
        "good",
        "ends",
        "aborts",
        "fails",
        "rolls back",
        "ended",
        "nowhere",
    ] {
        for (form, revision) in FORMS {
            let writes = ids.iter().enumerate().map(|(n, id)| {
                let write = match n % 2 {
                    0 => carrying(form(id), &NOTE, "good")?,
                    _ => form(id),
                };
                match (culprits.contains(&n), name) {
                    (false, _) => Ok(write),
                    (true, "nowhere") => carrying(write, &NOWHERE, name),
                    (true, "good") => carrying(carrying(form(id), &NOTE, name)?, &NOTE, name),
                    (true, name) => carrying(write, &NOTE, name),
                }
            });
            let writes = writes.collect::<TestResult<Vec<_>>>()?;
            for (n, outcome) in write(&store, writes).await.iter().enumerate() {
                let case = format!("{name} {revision} {n}: {outcome:?}");
                match outcome {
                    WriteOutcome::NotApplied(StoreError::Misconfigured(_)) => {
                        assert!(culprits.contains(&n) && name == "nowhere", "{case}");
                    }
                    WriteOutcome::NotApplied(StoreError::Refused(_)) => {
                        assert!(culprits.contains(&n) && name != "nowhere", "{case}");
                    }
                    WriteOutcome::Applied(_) => assert!(!culprits.contains(&n), "{case}"),
                    _ => return Err(case.into()),
                }
            }
            let expected = (ids.iter().enumerate().step_by(2))
                .filter(|(n, _)| !culprits.contains(n))
                .map(|(_, id)| format!("{id}/good@{revision}"));
            assert_eq!(notes(&path).await?, expected.collect::<Vec<_>>(), "{name}");
            plain(&path).await?.execute("DELETE FROM notes").await?;
            for culprit in culprits {
                let row = load(&store, &ids[culprit]).await?;
                let before = match revision {
                    0 => 2,
                    revision => revision - 1,
                };
                assert_eq!(row.map_or(0, |row| row.revision.get()), before, "{name}");
                let again = write(&store, vec![form(&ids[culprit])]).await;
                assert!(matches!(again[0], WriteOutcome::Applied(_)), "{again:?}");
            }
        }
    }
    Ok(())
}
