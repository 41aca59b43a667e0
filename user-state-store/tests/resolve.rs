//! A write whose answer was lost is resolved, and never told wrongly.
//!
//! Method: a SQLite store behind one that loses answers by a plan, before or after the write was applied; other
//! writers write past it.

#![cfg(feature = "sqlite")]

use std::error::Error;

use tempfile::TempDir;
use user_state_store::{
    Backend as _, Cause, Change, DurableStateStore, Fence, Manifest, Payload, PersistenceId,
    Resolution, Revision, SerializerId, SqliteStore, StoreError, StoreSettings, StoredValue,
    UnresolvedWrite, Write, WriteBatch, WriteOutcome, Writers, resolve,
};

#[path = "lossy/store.rs"]
mod lossy;

use lossy::{Fault, LossyStore};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

async fn open() -> TestResult<(TempDir, LossyStore)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
    Ok((directory, LossyStore::new(store)))
}

fn put(id: &str, expected: i64, text: &str) -> TestResult<Write> {
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("Text"),
        bytes: text.into(),
    };
    let expected = Revision::new(expected).ok_or("negative")?;
    Ok(Write::update(PersistenceId::unique(id)?, expected, payload))
}

fn with_change(id: &str, expected: i64, change: Change) -> TestResult<Write> {
    let expected = Revision::new(expected).ok_or("negative")?;
    Ok(Write::new(PersistenceId::unique(id)?, expected, change))
}

async fn apply(store: &LossyStore, write: Write) -> TestResult {
    let outcomes = store.write(&WriteBatch::new(vec![write])?).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    Ok(())
}

/// Sends the writes in one batch whose answers are lost.
async fn lose(
    store: &LossyStore,
    fault: Fault,
    writes: Vec<Write>,
) -> TestResult<Vec<UnresolvedWrite>> {
    store.plan([fault]);
    let batch = WriteBatch::new(writes)?;
    let outcomes = store.write(&batch).await;
    let unresolved = batch
        .writes()
        .iter()
        .zip(&outcomes)
        .map(|(write, outcome)| match outcome {
            WriteOutcome::Unknown(outcome) => Ok(UnresolvedWrite::new(write.clone(), outcome)),
            other => Err(format!("not lost: {other:?}").into()),
        });
    unresolved.collect()
}

async fn lose_one(store: &LossyStore, fault: Fault, write: Write) -> TestResult<UnresolvedWrite> {
    Ok(lose(store, fault, vec![write]).await?.remove(0))
}

async fn text(store: &LossyStore, id: &str) -> TestResult<Option<(i64, String)>> {
    let row = store.load_one(&PersistenceId::unique(id)?).await?;
    row.map(|row| match row.value {
        StoredValue::State(payload) => Ok((row.revision.get(), String::from_utf8(payload.bytes)?)),
        StoredValue::Deleted => Ok((row.revision.get(), "deleted".to_owned())),
        StoredValue::Withheld { .. } => Err("withheld, although it was asked for alone".into()),
    })
    .transpose()
}

/// What is known of a write that was applied.
async fn as_found(store: &LossyStore, id: &str, writers: Writers) -> TestResult<Resolution> {
    match writers {
        Writers::Sole => applied(store, id).await,
        Writers::Shared => Ok(Resolution::Unknown),
    }
}

/// Applied, with the time of the row that is stored now.
async fn applied(store: &LossyStore, id: &str) -> TestResult<Resolution> {
    let row = store.load_one(&PersistenceId::unique(id)?).await?;
    Ok(Resolution::Applied(row.map(|row| row.db_timestamp)))
}

fn row(revision: i64, text: &str) -> (i64, String) {
    (revision, text.to_owned())
}

#[tokio::test]
async fn a_write_that_never_arrived_is_applied_by_its_repetition() -> TestResult {
    let (_directory, store) = open().await?;
    let mut create = lose_one(&store, Fault::LostBefore, put("user", 0, "one")?).await?;
    let resolution = create.attempt(&store, Writers::Shared).await;
    assert_eq!(resolution, applied(&store, "user").await?);
    let mut update = lose_one(&store, Fault::LostBefore, put("user", 1, "two")?).await?;
    let resolution = update.attempt(&store, Writers::Shared).await;
    assert_eq!(resolution, applied(&store, "user").await?);
    assert_eq!(text(&store, "user").await?, Some(row(2, "two")));
    Ok(())
}

#[tokio::test]
async fn a_write_that_arrived_is_known_to_a_sole_writer_and_unknown_to_a_shared_one() -> TestResult
{
    let (_directory, store) = open().await?;
    for (id, writers) in [("sole", Writers::Sole), ("shared", Writers::Shared)] {
        let mut create = lose_one(&store, Fault::LostAfter, put(id, 0, "one")?).await?;
        let resolution = create.attempt(&store, writers).await;
        assert_eq!(resolution, as_found(&store, id, writers).await?);
        assert_eq!(text(&store, id).await?, Some(row(1, "one")));
        let mark = with_change(id, 1, Change::Mark)?;
        let mut mark = lose_one(&store, Fault::LostAfter, mark).await?;
        let resolution = mark.attempt(&store, writers).await;
        assert_eq!(resolution, as_found(&store, id, writers).await?);
        assert_eq!(text(&store, id).await?, Some(row(2, "deleted")));
        let erase = with_change(id, 2, Change::Erase)?;
        let mut erase = lose_one(&store, Fault::LostAfter, erase).await?;
        let resolution = erase.attempt(&store, writers).await;
        assert_eq!(resolution, as_found(&store, id, writers).await?);
        assert_eq!(text(&store, id).await?, None);
    }
    Ok(())
}

#[tokio::test]
async fn a_deletion_that_never_arrived_is_applied_by_its_repetition() -> TestResult {
    let (_directory, store) = open().await?;
    apply(&store, put("user", 0, "one")?).await?;
    let mark = with_change("user", 1, Change::Mark)?;
    let mut mark = lose_one(&store, Fault::LostBefore, mark).await?;
    let resolution = mark.attempt(&store, Writers::Shared).await;
    assert_eq!(resolution, applied(&store, "user").await?);
    assert_eq!(text(&store, "user").await?, Some(row(2, "deleted")));
    let erase = with_change("user", 2, Change::Erase)?;
    let mut erase = lose_one(&store, Fault::LostBefore, erase).await?;
    let resolution = erase.attempt(&store, Writers::Shared).await;
    assert_eq!(resolution, Resolution::Applied(None));
    assert_eq!(text(&store, "user").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_write_that_another_writer_was_faster_than_was_not_applied() -> TestResult {
    let (_directory, store) = open().await?;
    let mut create = lose_one(&store, Fault::LostBefore, put("user", 0, "ours")?).await?;
    apply(&store, put("user", 0, "theirs")?).await?;
    let resolution = create.attempt(&store, Writers::Shared).await;
    assert_eq!(resolution, Resolution::NotApplied);
    assert_eq!(text(&store, "user").await?, Some(row(1, "theirs")));
    Ok(())
}

#[tokio::test]
async fn a_row_that_went_on_without_us_leaves_the_write_unknown() -> TestResult {
    let (_directory, store) = open().await?;
    let mut create = lose_one(&store, Fault::LostAfter, put("user", 0, "ours")?).await?;
    apply(&store, put("user", 1, "theirs")?).await?;
    let resolution = create.attempt(&store, Writers::Shared).await;
    assert_eq!(resolution, Resolution::Unknown);
    assert_eq!(text(&store, "user").await?, Some(row(2, "theirs")));
    Ok(())
}

#[tokio::test]
async fn a_row_that_was_made_again_at_the_expected_revision_leaves_the_write_unknown() -> TestResult
{
    for fault in [Fault::LostBefore, Fault::LostAfter] {
        for change in [put("user", 1, "ours")?.change, Change::Mark, Change::Erase] {
            let (_directory, store) = open().await?;
            apply(&store, put("user", 0, "old")?).await?;
            let known = store.load_one(&PersistenceId::unique("user")?).await?;
            let write =
                with_change("user", 1, change)?.expected_at(known.map(|row| row.db_timestamp));
            let mut lost = lose_one(&store, fault, write).await?;
            if let Some((revision, _)) = text(&store, "user").await? {
                apply(&store, with_change("user", revision, Change::Erase)?).await?;
            }
            apply(&store, put("user", 0, "again")?).await?;
            let resolution = lost.attempt(&store, Writers::Shared).await;
            assert_eq!(resolution, Resolution::Unknown, "{:?}", lost.write());
            assert_eq!(text(&store, "user").await?, Some(row(1, "again")));
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_open_session_keeps_a_write_unresolved_until_it_is_gone() -> TestResult {
    let (_directory, store) = open().await?;
    store.answer_fences(Fence::Open);
    let mut create = lose_one(&store, Fault::LostAfter, put("user", 0, "ours")?).await?;
    let session = create.sessions().to_vec();
    assert_eq!(session.len(), 1);
    let resolution = create.attempt(&store, Writers::Sole).await;
    assert!(
        matches!(
            resolution,
            Resolution::Unresolved(StoreError::Unavailable(_))
        ),
        "{resolution:?}"
    );
    assert_eq!(create.sessions(), session);
    store.answer_fences(Fence::Closed);
    let resolution = create.attempt(&store, Writers::Sole).await;
    assert_eq!(resolution, applied(&store, "user").await?);
    assert!(create.sessions().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_repetition_whose_answer_is_lost_too_adds_its_session() -> TestResult {
    let (_directory, store) = open().await?;
    store.answer_fences(Fence::Open);
    let mut create = lose_one(&store, Fault::LostBefore, put("user", 0, "ours")?).await?;
    store.plan([Fault::LostBefore, Fault::LostAfter]);
    for sessions in [2, 3] {
        let resolution = create.attempt(&store, Writers::Sole).await;
        let Resolution::Unresolved(StoreError::OutcomeUnknown(cause)) = resolution else {
            return Err(format!("{resolution:?}").into());
        };
        assert_eq!(cause, Cause::other("the answer was lost by a plan"));
        assert_eq!(create.sessions().len(), sessions);
    }
    let sessions = create.sessions().to_vec();
    store.answer_fences(Fence::Closed);
    let resolution = create.attempt(&store, Writers::Sole).await;
    assert_eq!(resolution, applied(&store, "user").await?);
    assert!(store.fenced().ends_with(&sessions));
    Ok(())
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_leaves_the_write_unresolved() -> TestResult {
    let (_directory, store) = open().await?;
    let mut create = lose_one(&store, Fault::LostBefore, put("user", 0, "ours")?).await?;
    store.plan([Fault::Unavailable]);
    let error = StoreError::Unavailable(Cause::Deadline);
    let resolution = create.attempt(&store, Writers::Sole).await;
    assert_eq!(resolution, Resolution::Unresolved(error));
    let resolution = create.attempt(&store, Writers::Sole).await;
    assert_eq!(resolution, applied(&store, "user").await?);
    store.close().await;
    let resolution = create.attempt(&store, Writers::Sole).await;
    assert_eq!(resolution, Resolution::Unresolved(StoreError::Closed));
    Ok(())
}

#[tokio::test]
async fn the_writes_of_a_lost_batch_are_resolved_together_and_each_for_itself() -> TestResult {
    let (_directory, store) = open().await?;
    let writes = ["d", "c", "b", "a"].map(|id| put(id, 0, "ours"));
    let writes = writes.into_iter().collect::<TestResult<_>>()?;
    let mut unresolved = lose(&store, Fault::LostBefore, writes).await?;
    // Not in the order of their ids, as a caller may hold them.
    unresolved.reverse();
    apply(&store, put("b", 0, "theirs")?).await?;
    apply(&store, put("c", 0, "ours")?).await?;
    let before = store.writes();
    let resolutions = resolve(&store, &mut unresolved, Writers::Shared).await;
    assert_eq!(store.writes() - before, 1);
    assert_eq!(store.fenced().len(), 1, "one session, one fence");
    let ids: Vec<&str> = unresolved
        .iter()
        .map(|unresolved| unresolved.write().persistence_id.as_str())
        .collect();
    assert_eq!(ids, ["d", "c", "b", "a"]);
    assert_eq!(
        resolutions,
        [
            applied(&store, "d").await?,
            Resolution::Unknown,
            Resolution::NotApplied,
            applied(&store, "a").await?,
        ]
    );
    Ok(())
}

#[tokio::test]
async fn two_writes_of_one_entity_are_resolved_one_after_the_other() -> TestResult {
    let (_directory, store) = open().await?;
    let first = lose_one(&store, Fault::LostBefore, put("user", 0, "one")?).await?;
    let second = lose_one(&store, Fault::LostBefore, put("user", 1, "two")?).await?;
    let resolutions = resolve(&store, &mut [first, second], Writers::Sole).await;
    assert!(
        matches!(resolutions[..], [Resolution::Applied(Some(_)), _]),
        "{resolutions:?}"
    );
    assert_eq!(resolutions[1], applied(&store, "user").await?);
    assert_eq!(text(&store, "user").await?, Some(row(2, "two")));
    Ok(())
}
