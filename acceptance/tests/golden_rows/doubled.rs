//! Two rows of one id, as Pekko and a careless operator leave them, are the error that names both, for that id alone.

use user_state_domain::UserCommand;
use user_state_runtime::{ExecuteError, RequestError, Runtime};
use user_state_store::{PayloadColumn, PersistenceId, StoreError};

use crate::TestResult;
use crate::fixture::{RELEASES, Release, Row};
use crate::table::{Table, revision};

/// Rows of one id: those that Pekko 2.0 left, and pairs made by hand of each release's rows, a state and a mark.
pub(crate) fn doubled() -> Vec<Vec<Row>> {
    let pekko = Release::V2_0_0M1.line("store-delete-next-then-first-step-3");
    assert_eq!(pekko.other_rows.len(), 1, "Pekko left two rows");
    let mut doubled = vec![[pekko.other_rows.clone(), vec![pekko.row().clone()]].concat()];
    for (index, release) in RELEASES.into_iter().enumerate() {
        let state = release.line("revision-1");
        let later = release.line("delete-step-2");
        let marked = Release::V2_0_0M1.line("delete-step-7");
        for (kind, other) in [("states", later), ("mark", marked)] {
            let rows =
                [state.row(), other.row()].map(|row| row.of(&format!("doubled-{kind}-{index}")));
            doubled.push(rows.into());
        }
    }
    doubled
}

#[tokio::test]
async fn two_rows_of_an_id_are_an_error_that_names_both_and_neither_is_touched() -> TestResult {
    let doubled = doubled();
    let single = Release::V1_1_0.line("all-fields-set");
    let rows = doubled.iter().flatten();
    let table = Table::with(PayloadColumn::Bytea, rows.chain([single.row()])).await?;
    let before = table.rows().await?;
    let runtime = Runtime::for_users(&table.store).start()?;
    for rows in &doubled {
        let id = PersistenceId::unique(&rows[0].persistence_id)?;
        let expected = StoreError::DuplicateRows {
            persistence_id: id.clone(),
            lower: revision(rows[0].revision),
            higher: revision(rows[1].revision),
        };
        let neighbour = PersistenceId::unique(&single.row().persistence_id)?;
        let loaded = table.store.states().load(&[id.clone(), neighbour]).await?;
        assert_eq!(loaded[0], Err(expected.clone()));
        assert!(matches!(loaded[1], Ok(Some(_))), "{:?}", loaded[1]);
        let text = expected.to_string();
        for row in rows {
            assert!(text.contains(&row.revision.to_string()), "{text}");
        }

        let entity = runtime.entity(id);
        let read = entity.state().await;
        assert!(
            matches!(&read, Err(RequestError::Unreadable(error)) if *error == expected),
            "{read:?}"
        );
        let at = "2026-01-01T00:00:00Z".parse()?;
        let executed = entity.execute(UserCommand::Login { at }).await;
        assert!(
            matches!(&executed, Err(ExecuteError::Failed(RequestError::Unreadable(error))) if *error == expected),
            "{executed:?}"
        );
    }
    runtime.shutdown().await?;
    assert_eq!(table.rows().await?, before);
    Ok(())
}
