//! PostgreSQL keeps the contract: every promise of the conformance suite, each on a database of its own.

#![cfg(feature = "postgres")]

use throwaway_postgres::TestDatabase;
use user_state_store::conformance::{Database, Fixture, TestResult};
use user_state_store::{ConnectOptions, PostgresStore, migrate};

async fn open() -> TestResult<Fixture> {
    let database = TestDatabase::create().await?;
    let options = ConnectOptions::parse(database.url())?;
    migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    let fixture = Fixture::new(store, options.settings.payload_bytes_max);
    let on = Database::Postgres(database.url().to_owned());
    Ok(fixture.on(on).keeping(database))
}

user_state_store::conformance_tests!(open);
