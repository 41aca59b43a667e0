//! Goal: commands that lost to another writer are handled again exactly once and in their order, or fail, as the
//! policy says.
//! Method: two runtimes on one database, the other one writing while this one's writes are held; a sum that shows
//! every command that is missing or applied twice.

mod support;

use std::sync::Arc;

use sqlx::Connection as _;
use support::ledger::{Bank, Ledger, LedgerCommand, add, id, ledgers, sum};
use support::{AnyError, Call, Database, TICK, TestResult, execute, is_open, read};
use user_state_runtime::testkit::{FaultyStore, ManualTime, WriteFault};
use user_state_runtime::{ConflictPolicy, EntityRef, ExecuteError, RequestError, Runtime};
use user_state_store::Revision;

/// A runtime whose writes can be held, and another one on the same database.
struct Rivals {
    database: Database,
    faulty: Arc<FaultyStore>,
    bank: Arc<Bank>,
    time: ManualTime,
    runtime: Runtime<Ledger>,
    rival: Runtime<Ledger>,
}

impl Rivals {
    async fn meet(policy: ConflictPolicy<Ledger>) -> Result<Self, AnyError> {
        let database = Database::create().await?;
        let faulty = database.faulty().await?;
        let (bank, time) = (Bank::with_rate(10), ManualTime::new());
        let runtime = ledgers(faulty.clone(), &bank)
            .conflict_policy(policy)
            .clock(time.clone())
            .start()?;
        let rival = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
        runtime.entity(id("l")).execute(add(100)).await?;
        Ok(Self {
            database,
            faulty,
            bank,
            time,
            runtime,
            rival,
        })
    }

    fn ledger(&self) -> EntityRef<Ledger> {
        self.runtime.entity(id("l"))
    }

    fn send(&self, command: LedgerCommand) -> Call<Result<Revision, ExecuteError<Ledger>>> {
        execute(&self.ledger(), command)
    }
}

#[tokio::test]
async fn commands_that_lost_are_handled_once_more_in_their_order_on_the_reloaded_state()
-> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    let held = rivals.faulty.hold_writes();
    let in_flight = rivals.send(add(1));
    rivals.faulty.batches_arrived(2).await;
    let gathered = rivals.send(add(2));
    let told = rivals.ledger();
    told.tell(add(3))?;
    let refused = rivals.send(LedgerCommand::Take(1_000));
    // Refused on the state that is lost, possible on the rival's.
    let possible = rivals.send(LedgerCommand::Take(200));
    rivals.time.advance(TICK).await?;
    rivals.rival.entity(id("l")).execute(add(500)).await?;

    drop(held);
    assert_eq!(in_flight.await?.get(), 3);
    assert_eq!(gathered.await?.get(), 4);
    assert!(matches!(
        refused.await,
        Err(ExecuteError::Rejected(error)) if error.balance == 606
    ));
    assert_eq!(possible.await?.get(), 6);
    let read = rivals.ledger().state().await?;
    assert_eq!(read.state.recent, [100, 500, 1, 2, 3, -200]);
    assert_eq!((read.revision.get(), read.state.entries), (6, 6));
    assert_eq!(rivals.runtime.stats().conflicts, 1);
    Ok(())
}

#[tokio::test]
async fn a_second_conflict_is_the_answer() -> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    rivals.faulty.fail_writes(WriteFault::Conflict, 2);
    let lost = rivals.ledger().execute(add(1)).await.unwrap_err();
    assert!(matches!(lost, ExecuteError::Failed(RequestError::Conflict)));
    assert!(lost.is_definitely_not_applied());
    assert_eq!(sum(&rivals.ledger()).await?, (100, 1));
    assert_eq!(rivals.runtime.stats().conflicts, 2);

    rivals.faulty.fail_writes(WriteFault::Conflict, 1);
    assert_eq!(rivals.ledger().execute(add(1)).await?.get(), 2);
    assert_eq!(sum(&rivals.ledger()).await?, (101, 2));
    Ok(())
}

#[tokio::test]
async fn under_the_fail_policy_a_conflict_is_the_answer_at_once_and_reads_are_repeated()
-> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::fail()).await?;
    let held = rivals.faulty.hold_writes();
    let in_flight = rivals.send(add(1));
    rivals.faulty.batches_arrived(2).await;
    let gathered = rivals.send(add(2));
    let reading = read(&rivals.ledger());
    rivals.time.advance(TICK).await?;
    rivals.rival.entity(id("l")).execute(add(500)).await?;

    drop(held);
    assert!(matches!(
        in_flight.await,
        Err(ExecuteError::Failed(RequestError::Conflict))
    ));
    assert!(matches!(
        gathered.await,
        Err(ExecuteError::Failed(RequestError::Conflict))
    ));
    let read = reading.await?;
    assert_eq!((read.revision.get(), read.state.balance), (2, 600));
    assert_eq!(rivals.ledger().execute(add(1)).await?.get(), 3);
    assert_eq!(sum(&rivals.ledger()).await?, (601, 3));
    Ok(())
}

#[tokio::test]
async fn a_refusal_in_the_second_handling_is_the_answer() -> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    let held = rivals.faulty.hold_writes();
    let take = rivals.send(LedgerCommand::Take(80));
    rivals.faulty.batches_arrived(2).await;
    let rival = rivals.rival.entity(id("l"));
    rival.execute(LedgerCommand::Take(50)).await?;
    drop(held);
    let refused = take.await.unwrap_err();
    assert!(matches!(refused, ExecuteError::Rejected(error) if error.balance == 50));
    assert_eq!(sum(&rivals.ledger()).await?, (50, 2));
    Ok(())
}

#[tokio::test]
async fn a_handler_that_waits_while_its_entity_meets_a_conflict_is_run_again() -> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    let held = rivals.faulty.hold_writes();
    let in_flight = rivals.send(add(1));
    rivals.faulty.batches_arrived(2).await;
    rivals.bank.shut();
    let mut waiting = rivals.send(LedgerCommand::AddAtRate(2));
    let behind = rivals.send(add(3));
    rivals.rival.entity(id("l")).execute(add(500)).await?;
    drop(held);
    // The conflict is known, and the lost state is still the handler's.
    while rivals.runtime.stats().conflicts == 0 {
        tokio::task::yield_now().await;
    }
    assert!(is_open(&mut waiting));

    rivals.bank.open();
    assert_eq!(in_flight.await?.get(), 3);
    assert_eq!(waiting.await?.get(), 4);
    assert_eq!(behind.await?.get(), 5);
    let read = rivals.ledger().state().await?;
    assert_eq!(read.state.recent, [100, 500, 1, 20, 3]);
    assert_eq!(rivals.bank.calls(), 2, "the service is asked again");
    Ok(())
}

#[tokio::test]
async fn a_creation_that_lost_is_handled_again_on_the_winners_row() -> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    let new = rivals.runtime.entity(id("new"));
    let held = rivals.faulty.hold_writes();
    let mut created = execute(&new, add(1));
    let behind = execute(&new, add(2));
    rivals.faulty.batches_arrived(2).await;
    assert!(is_open(&mut created));
    rivals.rival.entity(id("new")).execute(add(500)).await?;
    drop(held);
    assert_eq!(created.await?.get(), 2);
    assert_eq!(behind.await?.get(), 3);
    assert_eq!(new.state().await?.state.recent, [500, 1, 2]);
    assert_eq!(rivals.database.revisions("Ledger|new").await?, [3]);
    Ok(())
}

/// Removes the row and makes it again at its revision, as a writer does that counts from 1 again: with the state of another
/// ledger.
async fn make_again(rivals: &Rivals, revision: i64) -> TestResult {
    let mut connection = rivals.database.connection().await?;
    let mut transaction = connection.begin().await?;
    for statement in [
        "CREATE TEMPORARY TABLE removed ON COMMIT DROP AS
         SELECT * FROM durable_state WHERE persistence_id = 'Ledger|l'",
        "DELETE FROM durable_state WHERE persistence_id = 'Ledger|l'",
        "INSERT INTO durable_state
         SELECT r.slice, r.entity_type, r.persistence_id, r.revision, transaction_timestamp(),
           o.state_ser_id, o.state_ser_manifest, o.state_payload, o.tags
         FROM removed AS r
         JOIN durable_state AS o ON o.persistence_id = 'Ledger|other'",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    assert_eq!(rivals.database.revisions("Ledger|l").await?, [revision]);
    Ok(())
}

#[tokio::test]
async fn a_row_that_somebody_removed_and_made_again_at_our_revision_is_not_overwritten()
-> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    rivals.rival.entity(id("other")).execute(add(500)).await?;
    let ledger = rivals.ledger();
    // The row is known from its creation, from an update, and from a load.
    for (revision, conflicts) in [(1, 1), (2, 2), (3, 3)] {
        if revision == 3 {
            ledger.passivate().await?;
            ledger.state().await?;
        }
        make_again(&rivals, revision).await?;
        assert_eq!(ledger.execute(add(revision)).await?.get(), revision + 1);
        assert_eq!(rivals.runtime.stats().conflicts, conflicts);
        let read = ledger.state_confirmed().await?;
        assert_eq!(read.state.recent, [500, revision], "theirs, and ours on it");
    }
    Ok(())
}

#[tokio::test]
async fn a_confirmed_read_sees_what_another_runtime_wrote() -> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::fail()).await?;
    rivals.rival.entity(id("l")).execute(add(500)).await?;
    let confirmed = rivals.ledger().state_confirmed().await?;
    assert_eq!(
        (confirmed.revision.get(), confirmed.state.balance),
        (2, 600)
    );
    // The look has refreshed the entity: the next command follows the other's write without a conflict.
    assert_eq!(rivals.ledger().execute(add(1)).await?.get(), 3);
    assert_eq!(rivals.runtime.stats().conflicts, 0);
    Ok(())
}

#[tokio::test]
async fn of_a_batch_only_the_entity_that_lost_is_loaded_again() -> TestResult {
    let rivals = Rivals::meet(ConflictPolicy::retry_once()).await?;
    // Against the order of their ids, in which a batch stands.
    let names = ["e", "d", "c", "b", "a"];
    for name in names {
        rivals.runtime.entity(id(name)).execute(add(1)).await?;
    }
    rivals.rival.entity(id("d")).execute(add(10)).await?;

    let batches = rivals.runtime.stats().batches;
    let calls = names.map(|name| execute(&rivals.runtime.entity(id(name)), add(100)));
    for (name, call) in names.into_iter().zip(calls) {
        let lost = name == "d";
        assert_eq!(call.await?.get(), if lost { 3 } else { 2 }, "{name}");
        let expected = if lost { 111 } else { 101 };
        let entity = rivals.runtime.entity(id(name));
        assert_eq!(sum(&entity).await?.0, expected, "{name}");
    }
    let stats = rivals.runtime.stats();
    assert_eq!(
        (stats.conflicts, stats.batches - batches),
        (1, 2),
        "one batch of all, and one of the loser"
    );
    Ok(())
}
