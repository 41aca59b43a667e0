//! PostgreSQL keeps the contract with payloads in a JSON column: every promise of the conformance suite, each on a
//! database of its own.

#![cfg(feature = "postgres")]

use throwaway_postgres::TestDatabase;
use user_state_store::conformance::{Database, Fixture, Payloads, TestResult};
use user_state_store::{ConnectOptions, PayloadColumn, PostgresStore, migrate};

async fn open() -> TestResult<Fixture> {
    let database = TestDatabase::create().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.payload_column = PayloadColumn::Json;
    migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    let fixture = Fixture::new(store, options.settings.payload_bytes_max);
    let on = Database::Postgres(database.url().to_owned());
    Ok(fixture.taking(Payloads::Json).on(on).keeping(database))
}

user_state_store::conformance_tests!(open);
