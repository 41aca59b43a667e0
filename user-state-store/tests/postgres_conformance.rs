//! PostgreSQL keeps the contract: every promise of the conformance suite, each on a database of its own.

#![cfg(feature = "postgres")]

use throwaway_postgres::TestDatabase;
use user_state_store::conformance::{Fixture, TestResult};
use user_state_store::{ConnectOptions, PostgresStore, migrate};

async fn open() -> TestResult<Fixture> {
    let database = TestDatabase::create().await?;
    let options = ConnectOptions::parse(database.url())?;
    migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    Ok(Fixture::new(store, options.settings.payload_bytes_max).keeping(database))
}

user_state_store::conformance_tests!(open);
