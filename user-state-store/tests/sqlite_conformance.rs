//! SQLite keeps the contract: every promise of the conformance suite, each on a file of its own.

#![cfg(feature = "sqlite")]

use user_state_store::conformance::{Fixture, TestResult};
use user_state_store::{SqliteStore, StoreSettings};

async fn open() -> TestResult<Fixture> {
    let directory = tempfile::tempdir()?;
    let settings = StoreSettings::default();
    let store = SqliteStore::open(&directory.path().join("store.db"), &settings).await?;
    Ok(Fixture::new(store, settings.payload_bytes_max).keeping(directory))
}

user_state_store::conformance_tests!(open);
