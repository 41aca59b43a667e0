//! A runtime reads the rows as they stand and goes on where Pekko stopped: the next revision, in the same row.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use user_state_domain::{UserCommand, UserState};
use user_state_runtime::{EntityRef, ExecuteError, RequestError, Runtime};
use user_state_store::{EncodeError, PayloadColumn, PersistenceId, StoreError};

use crate::TestResult;
use crate::fixture::{Category, Line, RELEASES, Release, Row};
use crate::state::{mapping, user_state};
use crate::table::Table;

/// The one case whose id names no user: our commands there are refused, since no key can be written.
const NO_USER: &str = "id-255-characters";

/// A command later than every event of the fixtures.
fn command() -> TestResult<UserCommand> {
    Ok(UserCommand::Login {
        at: "+20000-01-01T00:00:00Z".parse()?,
    })
}

#[tokio::test]
async fn a_runtime_reads_json_rows_and_continues_their_revisions_in_place() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        continued(&table, release.lines_of(Category::Json)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_runtime_reads_cbor_rows_and_continues_their_revisions_in_place() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        continued(&table, release.lines_of(Category::Cbor)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_runtime_reads_jsonb_rows_and_continues_their_revisions_in_place() -> TestResult {
    let lines = Release::V2_0_0M1.lines_of(Category::Jsonb);
    let table = Table::new(PayloadColumn::Jsonb).await?;
    continued(&table, lines).await
}

/// Reads, continues and recovers all of these on one table, each under the tag of its row.
async fn continued(table: &Table, lines: Vec<Line>) -> TestResult {
    table.refill(lines.iter().map(Line::row)).await?;
    let mut by_tag: BTreeMap<Option<Vec<String>>, Vec<Line>> = BTreeMap::new();
    for line in lines.clone() {
        by_tag
            .entry(line.row().tags.clone())
            .or_default()
            .push(line);
    }
    for lines in by_tag.values() {
        let runtime = Runtime::for_users_as(&table.store, mapping(&lines[0])).start()?;
        let users = lines.iter().map(|line| (line, entity(&runtime, line)));
        try_join_all(users.map(|(line, user)| read_and_continue(line, user))).await?;
        runtime.shutdown().await?;
    }
    let rows = table.rows().await?;
    assert_eq!(rows.len(), lines.len(), "every id still has one row");
    for line in &lines {
        let before = line.row();
        let mut of_id = rows
            .iter()
            .filter(|row| row.persistence_id == before.persistence_id);
        let after = of_id.next().ok_or("the row is gone")?;
        if line.case == NO_USER {
            assert_eq!(after, before, "a refused command leaves the row alone");
        } else {
            assert_continued(line, before, after);
        }
    }
    Ok(())
}

fn entity(runtime: &Runtime<UserState>, line: &Line) -> EntityRef<UserState> {
    let id = PersistenceId::unique(&line.row().persistence_id);
    runtime.entity(id.unwrap())
}

async fn read_and_continue(line: &Line, user: EntityRef<UserState>) -> TestResult {
    let case = &line.case;
    let stored = line.row().revision;
    let read = user
        .state()
        .await
        .map_err(|error| format!("{case}: {error}"))?;
    assert_eq!(read.revision.get(), stored, "{case}");
    assert_eq!(
        read.state,
        user_state(&line.expected, line.zone.0),
        "{case}"
    );

    let executed = user.execute(command()?).await;
    if case == NO_USER {
        let refused = executed.unwrap_err();
        assert!(
            matches!(
                &refused,
                ExecuteError::Failed(RequestError::Refused(StoreError::Unencodable {
                    reason: EncodeError::ForeignPersistenceId { .. },
                    ..
                }))
            ),
            "{refused:?}"
        );
        return Ok(());
    }
    assert_eq!(executed?.get(), stored + 1, "{case}");
    let in_memory = user.state().await?;
    user.passivate().await?;
    let recovered = user.state().await?;
    assert_eq!(recovered.state, in_memory.state, "{case} recovered");
    assert_eq!(recovered.state.recent_products, read.state.recent_products);
    assert_eq!(recovered.revision.get(), stored + 1, "{case} recovered");
    Ok(())
}

/// The row is the same but for what a new state changes.
fn assert_continued(line: &Line, before: &Row, after: &Row) {
    let case = &line.case;
    assert_eq!(after.revision, before.revision + 1, "{case}");
    assert_eq!(after.slice, before.slice, "{case}");
    assert_eq!(after.entity_type, before.entity_type, "{case}");
    assert_eq!(after.tags, before.tags, "{case}");
    assert_eq!(
        after.state_ser_manifest, before.state_ser_manifest,
        "{case}"
    );
    assert!(after.db_timestamp > before.db_timestamp, "{case}");
    assert_ne!(after.payload(), before.payload(), "{case}");
    if case == "db-timestamp-ahead" {
        let step = after.db_timestamp - before.db_timestamp;
        assert_eq!(
            step,
            chrono::TimeDelta::microseconds(1),
            "the clock is behind"
        );
    }
}
