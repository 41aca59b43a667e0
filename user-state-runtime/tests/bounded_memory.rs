//! Goal: however many commands come while the store hangs, memory stays bounded, and nothing that was accepted is lost.
//! Method: millions of commands against a store that holds its writes, and the resident memory of the process before and
//! after; then it lets go, and everything accepted is counted. The only test of its file, because the memory of a neighbour
//! would be counted as well.

mod support;

use support::ledger::{Bank, LedgerCommand, add, id, ledgers};
use support::{AnyError, Database, TestResult};
use user_state_runtime::{RequestError, Settings, TellError};

/// Resident memory of this process in KiB, as the operating system counts it.
fn resident_kib() -> Result<u64, AnyError> {
    let process = std::process::id().to_string();
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        return Ok(number.ok_or("no VmRSS")?.parse()?);
    }
    let mut ps = std::process::Command::new("ps");
    let listed = ps.args(["-o", "rss=", "-p", &process]).output()?;
    Ok(String::from_utf8(listed.stdout)?.trim().parse()?)
}

#[tokio::test]
async fn millions_of_commands_against_a_store_that_hangs_take_bounded_memory() -> TestResult {
    const ATTEMPTS: i64 = 2_000_000;
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .settings(
            Settings::default()
                .shards(1)
                .mailbox_messages_max(4_096)
                .shard_requests_max(16_384),
        )
        .start()?;
    let ledgers: Vec<_> = (0..100)
        .map(|number| runtime.entity(id(&number.to_string())))
        .collect();
    for ledger in &ledgers {
        ledger.execute(LedgerCommand::Add(vec![])).await?;
    }
    let held = faulty.hold_writes();
    let before = resident_kib()?;
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for attempt in 0..ATTEMPTS {
        let ledger = &ledgers[usize::try_from(attempt)? % ledgers.len()];
        match ledger.tell(add(1)) {
            Ok(()) => accepted += 1,
            Err(TellError::Overloaded(_)) => refused += 1,
            Err(error) => return Err(error.to_string().into()),
        }
        if attempt % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(accepted <= 4_096 + 16_384, "{accepted}");
    assert!(refused > 1_000_000);
    let grown = resident_kib()?.saturating_sub(before);
    assert!(grown < 64 * 1_024, "{grown} KiB for {accepted} requests");

    drop(held);
    let mut applied = 0;
    for ledger in &ledgers {
        applied += loop {
            match ledger.state().await {
                Ok(read) => break read.state.entries,
                Err(RequestError::Overloaded) => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
        };
    }
    assert_eq!(applied, accepted, "whatever was accepted is applied");
    Ok(())
}
