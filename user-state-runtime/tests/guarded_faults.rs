//! Goal: the store of the test kit that fails on request passes on what batches carry.
//! Method: a kind of guards that holds for one epoch alone, and so needs no table.

use std::sync::Arc;

use user_state_runtime::testkit::{FaultyStore, WriteFault};
use user_state_store::{
    DurableStateStore as _, Guard, GuardKind, PersistenceId, Resolution, Revision, SliceRange,
    UnresolvedWrite, Write, WriteBatch, WriteOutcome, Writers, connect,
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Only epoch 1 holds.
static FIRST: GuardKind = GuardKind::new("", "SELECT ordinal FROM guard WHERE epoch <> 1");

fn batch(ids: &[&str], epoch: i64) -> Result<WriteBatch, Box<dyn std::error::Error>> {
    let writes = ids
        .iter()
        .map(|id| Ok(Write::mark(PersistenceId::unique(id)?, Revision::NONE)));
    let writes = writes.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let slices = SliceRange::ALL;
    Ok(WriteBatch::new(writes)?.guarded(&FIRST, [Guard { slices, epoch }])?)
}

#[tokio::test]
async fn writes_are_passed_on_under_their_guards_and_so_are_those_whose_answer_is_lost()
-> TestResult {
    let directory = tempfile::tempdir()?;
    let url = format!("sqlite:{}", directory.path().join("state.db").display());
    let store = connect(&url.parse()?).await?;
    let faulty = Arc::new(FaultyStore::new(&store));
    let (b, c) = (PersistenceId::unique("b")?, PersistenceId::unique("c")?);

    faulty.fail_writes_of(&b, WriteFault::FailBefore, 1);
    let outcomes = faulty.write(&batch(&["a", "b"], 2)?).await;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::Fenced, WriteOutcome::NotApplied(_)]
        ),
        "{outcomes:?}"
    );

    // Such a write is still running, and has to find its guard lost, too.
    faulty.fail_writes_of(&c, WriteFault::LoseAnswer, 1);
    let lost = batch(&["c"], 2)?;
    let outcomes = faulty.write(&lost).await;
    let [WriteOutcome::Unknown(unknown)] = &outcomes[..] else {
        return Err(format!("{outcomes:?}").into());
    };
    let write = lost.writes()[0].clone();
    let mut unresolved = UnresolvedWrite::new(write, unknown).guarded_as(lost.guards());
    let resolution = unresolved.attempt(faulty.as_ref(), Writers::Sole).await;
    assert_eq!(resolution, Resolution::NotApplied);
    assert_eq!(faulty.load_one(&c).await?, None);

    let outcomes = faulty.write(&batch(&["a", "b", "c"], 1)?).await;
    let applied = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Applied(_));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    Ok(())
}
