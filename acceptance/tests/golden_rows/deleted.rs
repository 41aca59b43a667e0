//! Deletions and conflicts step by step, as each release of Pekko has them and as we do.
//!
//! Every step that Pekko took has its counterpart among our writes, or says why it has none; the row after it is the one
//! that Pekko left, and what we read is what Pekko's own reader saw. Where Pekko did what we never do, its row is put in
//! as it stands, and ours is shown to be refused.

use chrono::{DateTime, Utc};
use serde_json::Value;
use user_state_domain::{UserCommand, UserState};
use user_state_runtime::Runtime;
use user_state_runtime::testkit::ManualTime;
use user_state_store::{
    Change, DeleteForm, InvalidBatch, PayloadColumn, PersistenceId, StateMapping as _, StoredValue,
    WriteBatch, WriteOutcome,
};

use crate::TestResult;
use crate::fixture::{Category, Line, RELEASES, Release, Row, Seen};
use crate::state::{mapping, user_state};
use crate::table::{Table, revision, write_of};

/// What we do where Pekko took a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    /// A state at the revision after this one; it is applied.
    Put(i64),
    /// The same; it conflicts and leaves the table alone, as Pekko's failed there.
    PutConflicts(i64),
    /// A delete marker after this revision; it is applied.
    Mark(i64),
    /// The same; it conflicts.
    MarkConflicts(i64),
    /// An erasure at this revision; it is applied.
    Erase(i64),
    /// The same; it conflicts.
    EraseConflicts(i64),
    /// An erasure of nothing, which makes no batch.
    EraseNothing,
    /// Pekko did what we never do, for this reason. Ours after this revision conflicts; then its row is put in as it stands.
    Never(&'static str, i64),
    /// Pekko's deletion did nothing; none of our forms leaves the row as it is.
    LeavesTheRow,
}

use Ours::{
    Erase, EraseConflicts, EraseNothing, LeavesTheRow, Mark, MarkConflicts, Never, Put,
    PutConflicts,
};

const FALLBACK: &str =
    "1.2.0 inserts above revision 1 where an update finds no row, and so brings erased states back";
const SECOND_ROW: &str = "2.0 inserts at revision 1 beside a marker, which leaves two rows";

/// Our counterpart of every step of a sequence, in its order.
type Sequence = (&'static str, &'static [Ours]);

const STEPS_1_1_0: [Sequence; 6] = [
    // Effect.delete asks for a row at the next revision, finds none, and nobody is told.
    (
        "delete",
        &[
            Put(0),
            Put(1),
            LeavesTheRow,
            PutConflicts(3),
            Put(2),
            LeavesTheRow,
            LeavesTheRow,
        ],
    ),
    (
        "store-delete-stored-revision",
        &[Put(0), Erase(1), Put(0), Put(1)],
    ),
    (
        "store-delete-next-revision",
        &[Put(0), EraseConflicts(2), PutConflicts(2), PutConflicts(3)],
    ),
    (
        "store-delete-next-then-first",
        &[Put(0), EraseConflicts(2), PutConflicts(0)],
    ),
    ("store-delete-nothing", &[EraseConflicts(1), Put(0)]),
    (
        "store-upsert-conflicts",
        &[
            PutConflicts(1),
            EraseNothing,
            Put(0),
            PutConflicts(0),
            PutConflicts(2),
            Put(1),
            PutConflicts(1),
        ],
    ),
];

const STEPS_1_2_0: [Sequence; 6] = [
    (
        "delete",
        &[
            Put(0),
            Put(1),
            Erase(2),
            Never(FALLBACK, 3),
            Put(4),
            Erase(5),
            EraseNothing,
        ],
    ),
    (
        "store-delete-stored-revision",
        &[Put(0), EraseNothing, PutConflicts(0), Put(1)],
    ),
    (
        "store-delete-next-revision",
        &[Put(0), Erase(1), Never(FALLBACK, 2), Put(3)],
    ),
    ("store-delete-next-then-first", &[Put(0), Erase(1), Put(0)]),
    ("store-delete-nothing", &[EraseNothing, Put(0)]),
    (
        "store-upsert-conflicts",
        &[
            Never(FALLBACK, 1),
            // Pekko deletes whatever is there; ours names the revision.
            Erase(2),
            Put(0),
            PutConflicts(0),
            PutConflicts(2),
            Put(1),
            PutConflicts(1),
        ],
    ),
];

const STEPS_2_0_0M1: [Sequence; 6] = [
    (
        "delete",
        &[Put(0), Put(1), Mark(2), Put(3), Put(4), Mark(5), Mark(6)],
    ),
    (
        "store-delete-stored-revision",
        &[Put(0), MarkConflicts(0), PutConflicts(0), Put(1)],
    ),
    (
        "store-delete-next-revision",
        &[Put(0), Mark(1), Put(2), Put(3)],
    ),
    (
        "store-delete-next-then-first",
        &[Put(0), Mark(1), Never(SECOND_ROW, 0)],
    ),
    ("store-delete-nothing", &[Mark(0), PutConflicts(0)]),
    (
        "store-upsert-conflicts",
        &[
            PutConflicts(1),
            EraseNothing,
            Put(0),
            PutConflicts(0),
            PutConflicts(2),
            Put(1),
            PutConflicts(1),
        ],
    ),
];

#[tokio::test]
async fn the_steps_of_1_1_0_leave_the_same_rows_by_our_writes() -> TestResult {
    replay_all(Release::V1_1_0, STEPS_1_1_0).await
}

#[tokio::test]
async fn the_steps_of_1_2_0_leave_the_same_rows_by_our_writes() -> TestResult {
    replay_all(Release::V1_2_0, STEPS_1_2_0).await
}

#[tokio::test]
async fn the_steps_of_2_0_0_m1_leave_the_same_rows_by_our_writes() -> TestResult {
    replay_all(Release::V2_0_0M1, STEPS_2_0_0M1).await
}

async fn replay_all(release: Release, sequences: [Sequence; 6]) -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    let mut replayed = 0;
    for (sequence, ours) in sequences {
        let id = match sequence {
            "delete" => "delete-unique",
            other => other,
        };
        for (number, ours) in (1..).zip(ours) {
            let line = release.line(&format!("{sequence}-step-{number}"));
            replay(&table, id, &line, *ours).await?;
            replayed += 1;
        }
    }
    let steps = release.lines_of(Category::Step).len();
    assert_eq!(replayed, steps, "every step is replayed");
    Ok(())
}

/// Takes one step and compares the table with what Pekko left.
async fn replay(table: &Table, id: &str, line: &Line, ours: Ours) -> TestResult {
    let case = &line.case;
    let before = table.rows_of(id).await?;
    let put = |expected: i64| -> TestResult<_> {
        let object = line.given.as_ref().ok_or("the step gives no state")?;
        Ok(write_of(id, expected, put(line, object, expected + 1)?))
    };
    let (write, applied) = match ours {
        Put(expected) => (put(expected)?, true),
        PutConflicts(expected) | Never(_, expected) => (put(expected)?, false),
        Mark(expected) => (write_of(id, expected, Change::Mark), true),
        MarkConflicts(expected) => (write_of(id, expected, Change::Mark), false),
        Erase(expected) => (write_of(id, expected, Change::Erase), true),
        EraseConflicts(expected) => (write_of(id, expected, Change::Erase), false),
        EraseNothing => {
            let nothing = write_of(id, 0, Change::Erase);
            let refused = WriteBatch::new(vec![nothing]).unwrap_err();
            assert_eq!(refused, InvalidBatch::NothingToErase, "{case}");
            return assert_as_pekko_left_it(table, id, line).await;
        }
        LeavesTheRow => return assert_as_pekko_left_it(table, id, line).await,
    };
    let outcome = table.write(write).await?;
    match outcome {
        WriteOutcome::Applied(_) => assert!(applied, "{case}: {ours:?} was applied"),
        WriteOutcome::Conflict => {
            assert!(!applied, "{case}: {ours:?} conflicts");
            assert_eq!(
                table.rows_of(id).await?,
                before,
                "{case}: a conflict changes nothing"
            );
        }
        other => return Err(format!("{case}: {other:?}").into()),
    }
    if let Never(_, _) = ours {
        let rows: Vec<_> = line.other_rows.iter().chain([line.row()]).collect();
        let new = rows
            .into_iter()
            .filter(|row| !before.iter().any(|stored| stored.revision == row.revision));
        table.insert(new).await?;
    }
    assert_as_pekko_left_it(table, id, line).await
}

/// The change that stores this state as a program beside the writer of the line would.
fn put(line: &Line, object: &Value, new: i64) -> TestResult<Change> {
    let mapping = mapping(line);
    let state = user_state(object, line.zone.0);
    // The class holds other ids than the persistence id of the step: those of its user.
    let user = format!(
        "{}-{}",
        object["mallId"].as_str().unwrap(),
        object["userId"].as_str().unwrap()
    );
    let user = PersistenceId::unique(&user)?;
    Ok(Change::Put {
        revision: revision(new),
        payload: mapping.encode(&user, &state)?,
        tags: mapping.tags(),
    })
}

async fn assert_as_pekko_left_it(table: &Table, id: &str, line: &Line) -> TestResult {
    let undated = |rows: Vec<_>| -> Vec<_> { rows.iter().map(Row::undated).collect() };
    let left: Vec<_> = line.other_rows.iter().chain(&line.row).cloned().collect();
    assert_eq!(
        undated(table.rows_of(id).await?),
        undated(left),
        "{}",
        line.case
    );
    let sees = [&line.fresh_recovery_sees, &line.get_object_sees];
    let sees = sees
        .into_iter()
        .flatten()
        .next()
        .ok_or("nobody sees the step")?;
    assert_read_as(table, id, line, sees).await
}

/// What we read is what a reader on Pekko's side saw; of two rows Pekko takes either, and we say so.
async fn assert_read_as(table: &Table, id: &str, line: &Line, sees: &Seen) -> TestResult {
    let case = &line.case;
    let row = table
        .store
        .states()
        .load_one(&PersistenceId::unique(id)?)
        .await;
    if !line.other_rows.is_empty() {
        assert!(
            matches!(row, Err(user_state_store::StoreError::DuplicateRows { .. })),
            "{case}: {row:?}"
        );
        return Ok(());
    }
    let Some(row) = row? else {
        assert_eq!((sees.revision, &sees.state), (0, &Value::Null), "{case}");
        return Ok(());
    };
    assert_eq!(row.revision.get(), sees.revision, "{case}");
    match &row.value {
        StoredValue::Deleted => assert_eq!(sees.state, Value::Null, "{case}"),
        StoredValue::Withheld { .. } => return Err(format!("{case} was withheld").into()),
        StoredValue::State(payload) => {
            let state: UserState = mapping(line).decode(&row.persistence_id, payload)?;
            assert_eq!(state, user_state(&sees.state, line.zone.0), "{case}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_steps_in_a_jsonb_column_leave_the_same_rows_by_our_writes() -> TestResult {
    let table = Table::new(PayloadColumn::Jsonb).await?;
    let [marked, goes_on] =
        [1, 2].map(|step| Release::V2_0_0M1.line(&format!("jsonb-delete-step-{step}")));
    let id = "jsonb-delete";
    // The state before the deletion is not told; any will do.
    let first = write_of(id, 0, put(&goes_on, &goes_on.expected, 1)?);
    let second = write_of(id, 2, put(&goes_on, &goes_on.expected, 3)?);
    for (write, line) in [
        (vec![first, write_of(id, 1, Change::Mark)], &marked),
        (vec![second], &goes_on),
    ] {
        for write in write {
            let outcome = table.write(write).await?;
            assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
        }
        assert_as_pekko_left_it(&table, id, line).await?;
    }
    let steps = Release::V2_0_0M1.lines_of(Category::JsonbStep).len();
    assert_eq!(steps, 2, "every step is replayed");
    Ok(())
}

#[tokio::test]
async fn a_runtime_reads_a_deletion_of_each_release_as_what_it_left_and_goes_on() -> TestResult {
    let bytea = Table::new(PayloadColumn::Bytea).await?;
    let jsonb = Table::new(PayloadColumn::Jsonb).await?;
    for (release, line) in [
        // Nothing was deleted: the state lives on.
        (Release::V1_1_0, "delete-step-3"),
        (Release::V1_1_0, "store-delete-stored-revision-step-2"),
        (Release::V1_2_0, "delete-step-3"),
        (Release::V1_2_0, "delete-step-7"),
        (Release::V2_0_0M1, "delete-step-3"),
        (Release::V2_0_0M1, "delete-step-7"),
        (Release::V2_0_0M1, "store-delete-nothing-step-1"),
        (Release::V2_0_0M1, "jsonb-delete-step-1"),
    ] {
        let line = release.line(line);
        let table = match line.category() {
            Category::JsonbStep => &jsonb,
            _ => &bytea,
        };
        table.refill(&line.row).await?;
        let runtime = Runtime::for_users_as(&table.store, mapping(&line)).start()?;
        let id = line
            .row
            .as_ref()
            .map_or("mall-user", |row| &row.persistence_id);
        let user = runtime.entity(PersistenceId::unique(id)?);
        let sees = [&line.fresh_recovery_sees, &line.get_object_sees];
        let sees = sees.into_iter().flatten().next().ok_or("nobody sees it")?;
        let read = user.state().await?;
        let expected = match &sees.state {
            Value::Null => UserState::default(),
            state => user_state(state, line.zone.0),
        };
        assert_eq!(read.state, expected, "{release:?}, {}", line.case);
        assert_eq!(
            read.revision.get(),
            sees.revision,
            "{release:?}, {}",
            line.case
        );
        let at: DateTime<Utc> = "2026-01-01T00:00:00Z".parse()?;
        let next = user.execute(UserCommand::Login { at }).await?;
        assert_eq!(next.get(), sees.revision + 1, "{release:?}, {}", line.case);
        runtime.shutdown().await?;
        let rows = table.rows().await?;
        assert_eq!(rows.len(), 1, "{release:?}, {}", line.case);
        assert_eq!(rows[0].revision, sees.revision + 1);
    }
    Ok(())
}

#[tokio::test]
async fn each_form_of_deletion_leaves_the_row_of_one_release_or_an_ordinary_state() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        let before = release.line("delete-step-2");
        for form in [DeleteForm::Reset, DeleteForm::Marker, DeleteForm::Erase] {
            table.refill(&before.row).await?;
            let time = ManualTime::new();
            let runtime = Runtime::for_users_as(&table.store, mapping(&before))
                .delete_form(form)
                .clock(time.clone())
                .start()?;
            let id = &before.row().persistence_id;
            let user = runtime.entity(PersistenceId::unique(id)?);
            let deleted = user.delete().await?.get();
            runtime.shutdown().await?;
            let rows: Vec<_> = table.rows().await?.iter().map(Row::undated).collect();
            match form {
                DeleteForm::Marker => {
                    let pekko = Release::V2_0_0M1.line("delete-step-3");
                    assert_eq!(rows, [pekko.row().undated()]);
                    assert_eq!(deleted, 3);
                }
                DeleteForm::Erase => {
                    assert_eq!(Release::V1_2_0.line("delete-step-3").row, None);
                    assert_eq!(rows, []);
                    assert_eq!(deleted, 0);
                }
                // No release writes it, and each reads it as the state it is: the next revision of the row.
                DeleteForm::Reset => {
                    let [row] = &rows[..] else {
                        return Err(format!("{} rows", rows.len()).into());
                    };
                    let state = payload_of(&before, &UserState::emptied(time.utc_now()), id)?;
                    let mut expected = before.row().undated();
                    expected.revision = 3;
                    assert_eq!(row.payload(), state);
                    assert_eq!((row.revision, deleted), (3, 3));
                    assert_eq!(row.state_ser_id, expected.state_ser_id);
                    assert_eq!(row.state_ser_manifest, expected.state_ser_manifest);
                    assert_eq!((row.slice, &row.tags), (expected.slice, &expected.tags));
                }
            }
        }
    }
    Ok(())
}

fn payload_of(line: &Line, state: &UserState, id: &str) -> TestResult<Vec<u8>> {
    Ok(mapping(line)
        .encode(&PersistenceId::unique(id)?, state)?
        .bytes)
}
