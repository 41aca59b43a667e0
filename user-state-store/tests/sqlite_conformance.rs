//! SQLite keeps the contract: every promise of the conformance suite, each on a file of its own.

#![cfg(feature = "sqlite")]

use user_state_store::conformance::{Database, Fixture, TestResult};
use user_state_store::{SqliteStore, StoreSettings};

async fn open() -> TestResult<Fixture> {
    let directory = tempfile::tempdir()?;
    let settings = StoreSettings::default();
    let path = directory.path().join("store.db");
    let store = SqliteStore::open(&path, &settings).await?;
    let fixture = Fixture::new(store, settings.payload_bytes_max);
    Ok(fixture.on(Database::Sqlite(path)).keeping(directory))
}

user_state_store::conformance_tests!(open);
