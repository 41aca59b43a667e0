//! Stores and users for the tests of this folder.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, in what it calls as well"
)]

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt;
use sqlx::{Connection, PgConnection};
use throwaway_postgres::TestDatabase;
use user_state_domain::{UserCommand, UserKey};
use user_state_runtime::testkit::FaultyStore;
use user_state_runtime::{EntityRef, ExecuteError, LiveAggregate, RequestError, Versioned};
use user_state_store::{ConnectOptions, Revision, Store};

pub mod history;
pub mod ledger;

pub type AnyError = Box<dyn Error + Send + Sync>;
pub type TestResult = Result<(), AnyError>;

/// The least step of a manual clock: enough to pass a barrier, too little to be idle for.
pub const TICK: Duration = Duration::from_nanos(1);

/// A PostgreSQL database of the test's own with the Pekko schema in it.
pub struct Database {
    pub database: TestDatabase,
    pub options: ConnectOptions,
}

impl Database {
    pub async fn create() -> Result<Self, AnyError> {
        let database = TestDatabase::create().await?;
        let options: ConnectOptions = database.url().parse()?;
        user_state_store::migrate(&options).await?;
        Ok(Self { database, options })
    }

    /// A store of its own on this database, as another process would have.
    pub async fn store(&self) -> Result<Store, AnyError> {
        Ok(user_state_store::connect(&self.options).await?)
    }

    /// A store of its own that fails on request.
    pub async fn faulty(&self) -> Result<Arc<FaultyStore>, AnyError> {
        Ok(Arc::new(FaultyStore::new(self.store().await?)))
    }

    /// A connection beside all stores.
    pub async fn connection(&self) -> Result<PgConnection, AnyError> {
        Ok(PgConnection::connect(self.database.url()).await?)
    }

    /// The revisions of all rows of an id, lowest first: two would be one too many.
    pub async fn revisions(&self, id: &str) -> Result<Vec<i64>, AnyError> {
        let query = "SELECT revision FROM durable_state WHERE persistence_id = $1 ORDER BY 1";
        let mut connection = self.connection().await?;
        let revisions = sqlx::query_scalar(query).bind(id);
        Ok(revisions.fetch_all(&mut connection).await?)
    }
}

/// A call that was sent and has no answer yet.
pub type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends a call: it must not be answered on the spot.
#[track_caller]
pub fn sent<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> Call<T> {
    let mut call: Call<T> = Box::pin(call);
    assert!(is_open(&mut call), "answered before it could be");
    call
}

/// Sends a command: it must not be answered on the spot.
#[track_caller]
pub fn execute<A: LiveAggregate>(
    entity: &EntityRef<A>,
    command: A::Command,
) -> Call<Result<Revision, ExecuteError<A>>> {
    let entity = entity.clone();
    sent(async move { entity.execute(command).await })
}

/// Sends a read: it must not be answered on the spot.
#[track_caller]
pub fn read<A: LiveAggregate>(entity: &EntityRef<A>) -> Call<Result<Versioned<A>, RequestError>> {
    let entity = entity.clone();
    sent(async move { entity.state().await })
}

/// Whether a call has no answer yet. Where it has, the answer is lost.
pub fn is_open<T>(call: &mut Call<T>) -> bool {
    call.now_or_never().is_none()
}

/// This many seconds after the start of 2026.
pub fn second(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600 + seconds)
}

pub fn key(user: &str) -> UserKey {
    format!("mall-{user}").parse().expect("a mall and a user")
}

pub fn login(seconds: i64) -> UserCommand {
    UserCommand::Login {
        at: second(seconds),
    }
}

pub fn cart(seconds: i64) -> UserCommand {
    UserCommand::UseCart {
        at: second(seconds),
    }
}

pub fn view(product: &str, seconds: i64) -> UserCommand {
    UserCommand::ViewProduct {
        product_id: product.into(),
        at: second(seconds),
    }
}

pub fn opt_in(opt_in: bool, seconds: i64) -> UserCommand {
    UserCommand::SetMarketingOptIn {
        opt_in,
        at: second(seconds),
    }
}
