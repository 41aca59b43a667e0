//! An empty database for one test.

use std::fmt;
use std::thread;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::runtime;
use url::Url;
use uuid::Uuid;

use crate::error::ProvisionError;
use crate::shared::Shared;
use crate::way::Way;

const PREFIX: &str = "user_state_test_";
/// How long [`Drop`] tries: a server that does not answer must not keep a test from ending.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);
/// What every database of the tests is like, whatever the server's defaults are: text as in a store that knows no
/// language.
const CREATE_OPTIONS: &str = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'";

/// What becomes of a database whose test is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It is dropped: the server outlives the tests.
    Drop,
    /// It stays until its server goes, which is soon.
    Leave,
}

/// An empty database of a test's own, named `user_state_test_<uuid>`.
///
/// Collation is `C` and encoding UTF-8. Dropping the value drops the database where the server is not one of our own,
/// as well as can be: with its server gone, it stays. `Debug` hides the password.
///
/// ```
/// use throwaway_postgres::TestDatabase;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), throwaway_postgres::ProvisionError> {
/// let database = TestDatabase::create().await?;
/// assert!(database.url().contains(database.name()));
/// database.drop_now().await?;
/// # Ok(())
/// # }
/// ```
pub struct TestDatabase {
    name: String,
    url: Url,
    maintenance: PgConnectOptions,
    way: Way,
    afterwards: Afterwards,
}

impl TestDatabase {
    /// Creates a database on the server that the tests of this process share. The first call of a process starts
    /// that server and takes a second or two, or longer where server programs have to be fetched; then some 50 ms.
    ///
    /// # Errors
    ///
    /// [`ProvisionError`] says what is missing and what to do.
    ///
    /// # Cancel safety
    ///
    /// A dropped future can leave an empty database behind.
    pub async fn create() -> Result<Self, ProvisionError> {
        let shared = Shared::server().await?;
        Self::create_on(&shared.maintenance_url(), shared.way, shared.afterwards()).await
    }

    /// Creates a database on the server of `maintenance_url`.
    pub(crate) async fn create_on(
        maintenance_url: &str,
        way: Way,
        afterwards: Afterwards,
    ) -> Result<Self, ProvisionError> {
        let unusable = || ProvisionError::DatabaseUrl {
            problem: "it is not understood",
        };
        let mut url = Url::parse(maintenance_url).map_err(|_| unusable())?;
        let maintenance: PgConnectOptions = maintenance_url.parse().map_err(|_| unusable())?;
        let name = format!("{PREFIX}{}", Uuid::new_v4().simple());
        url.set_path(&name);
        execute(
            &maintenance,
            &format!("CREATE DATABASE {name} {CREATE_OPTIONS}"),
        )
        .await
        .map_err(|error| failed("created", &error))?;
        Ok(Self {
            name,
            url,
            maintenance,
            way,
            afterwards,
        })
    }

    /// The URL of the database, password included.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its server came from.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Drops the database now, and with it every connection that is still open.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Database`] if the server is down or refuses.
    ///
    /// # Cancel safety
    ///
    /// A dropped future drops the database as a dropped value does.
    pub async fn drop_now(mut self) -> Result<(), ProvisionError> {
        let outcome = drop_database(&self.maintenance, &self.name).await;
        self.afterwards = Afterwards::Leave;
        outcome.map_err(|error| failed("dropped", &error))
    }
}

impl fmt::Debug for TestDatabase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TestDatabase")
            .field("name", &self.name)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if self.afterwards == Afterwards::Leave {
            return;
        }
        // The caller's runtime cannot be waited on here, so a thread has one of its own.
        let (maintenance, name) = (self.maintenance.clone(), std::mem::take(&mut self.name));
        let thread = thread::spawn(move || {
            let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let dropping = drop_database(&maintenance, &name);
            // A failure leaves an empty name behind, which a later look at the server shows.
            drop(runtime.block_on(async { tokio::time::timeout(DROP_TIMEOUT, dropping).await }));
        });
        drop(thread.join());
    }
}

async fn drop_database(maintenance: &PgConnectOptions, name: &str) -> Result<(), sqlx::Error> {
    execute(
        maintenance,
        &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
    )
    .await
}

async fn execute(options: &PgConnectOptions, statement: &str) -> Result<(), sqlx::Error> {
    let mut connection: PgConnection = options.connect().await?;
    connection.execute(statement).await?;
    connection.close().await
}

/// What failed, reduced to what may be shown.
fn failed(operation: &'static str, error: &sqlx::Error) -> ProvisionError {
    let reason = match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("SQLSTATE {code}"),
            None => "refused".to_owned(),
        },
        sqlx::Error::Io(error) => error.kind().to_string(),
        sqlx::Error::Tls(_) => "no TLS session".to_owned(),
        _ => "no connection".to_owned(),
    };
    ProvisionError::Database {
        operation,
        reason: reason.into(),
    }
}
