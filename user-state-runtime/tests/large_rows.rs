//! Goal: however large the rows are that many entities come to life from at once, memory stays bounded.
//! Method: rows of 900 KiB whose states are small, read all at once, and the resident memory of the process before and after.
//! The only test of its file, because the memory of a neighbour would be counted as well.

#![cfg(target_os = "linux")]

mod support;

use futures_util::future::join_all;
use sqlx::Executor as _;
use support::ledger::{Bank, add, id, ledgers};
use support::{AnyError, Database, TestResult};
use user_state_runtime::{EntityRef, Settings};

const LEDGERS: usize = 600;

/// The highest resident memory of this process so far in KiB, as the operating system counts it.
fn highest_resident_kib() -> Result<u64, AnyError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmHWM")?.parse()?)
}

#[tokio::test]
async fn many_cold_reads_of_large_rows_take_bounded_memory() -> TestResult {
    let database = Database::create().await?;
    let store = database.store().await?;
    let first = ledgers(store.clone(), &Bank::with_rate(1)).start()?;
    first.entity(id("0")).execute(add(7)).await?;
    // Spaces behind JSON mean nothing, and take little room in the database.
    let copies = format!(
        "UPDATE durable_state SET
           state_payload = state_payload || convert_to(repeat(' ', 900 * 1024), 'UTF8');
         INSERT INTO durable_state
         SELECT slice, entity_type, entity_type || '|' || i, revision, db_timestamp, state_ser_id,
           state_ser_manifest, state_payload, tags
         FROM durable_state, generate_series(1, {LEDGERS} - 1) AS i"
    );
    database.connection().await?.execute(&*copies).await?;

    let runtime = ledgers(store, &Bank::with_rate(1))
        .settings(Settings::default().shards(1))
        .start()?;
    let all: Vec<_> = (0..LEDGERS)
        .map(|number| runtime.entity(id(&number.to_string())))
        .collect();
    let before = highest_resident_kib()?;
    for read in join_all(all.iter().map(EntityRef::state)).await {
        assert_eq!(read?.state.balance, 7);
    }
    let grown = highest_resident_kib()?.saturating_sub(before);
    assert!(grown < 128 * 1_024, "{grown} KiB");
    Ok(())
}
