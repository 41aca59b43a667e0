//! Stores and users for the tests of this folder.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]
#![allow(clippy::expect_used, reason = "a test may fail here")]

use std::error::Error;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use user_state_domain::{UserCommand, UserKey};
use user_state_runtime::testkit::TestDatabase;
use user_state_store::{ConnectOptions, DurableStateStore};

pub type TestResult = Result<(), Box<dyn Error + Send + Sync>>;

/// A PostgreSQL database of the test's own with the Pekko schema in it.
pub struct Database {
    pub database: TestDatabase,
    pub options: ConnectOptions,
}

impl Database {
    pub async fn create() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let database = TestDatabase::create().await?;
        let options: ConnectOptions = database.url().parse()?;
        user_state_store::migrate(&options).await?;
        Ok(Self { database, options })
    }

    /// A store of its own on this database, as another process would have.
    pub async fn store(&self) -> Result<Arc<dyn DurableStateStore>, Box<dyn Error + Send + Sync>> {
        Ok(user_state_store::connect(&self.options).await?)
    }
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
