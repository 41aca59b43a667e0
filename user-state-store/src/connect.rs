//! Opening a store from a URL, whichever backend it names.
//!
//! **Guarantees.** Nothing secret is in a `Debug` form or an error; opening a PostgreSQL store runs no DDL; a store
//! that opens has passed its backend's start-up check. **Not here.** What the backends check, see their `schema` modules.

use crate::open_error::OpenError;
#[cfg(feature = "sqlite")]
use crate::store::Backend as _;
use crate::store::Store;

mod options;
mod parameters;
mod target;

#[cfg(feature = "postgres")]
pub(crate) use options::TLS_MODES;
pub use options::{
    Access, ConnectOptions, Durability, PayloadColumn, RemoteTls, RowSecurity, StoreSettings,
    TlsMode,
};
#[cfg(feature = "postgres")]
pub(crate) use parameters::AskedServer;
#[cfg(feature = "postgres")]
pub(crate) use target::PostgresTarget;
pub(crate) use target::Target;

/// Opens the store that the options name.
///
/// A SQLite file and its tables are made where they are missing and the store may write; on PostgreSQL the tables must
/// be there, see [`migrate`].
///
/// # Errors
/// Each reason has its own [`OpenError`].
///
/// # Cancel safety
/// Dropping the future closes what was opened.
///
/// ```no_run
/// # async fn example() -> Result<(), user_state_store::OpenError> {
/// use user_state_store::ConnectOptions;
///
/// let options = ConnectOptions::parse("postgres://user:password@localhost/users")?;
/// user_state_store::migrate(&options).await?;
/// let store = user_state_store::connect(&options).await?;
/// # store.close().await;
/// # Ok(())
/// # }
/// ```
pub async fn connect(options: &ConnectOptions) -> Result<Store, OpenError> {
    match options.target() {
        #[cfg(feature = "postgres")]
        Target::Postgres(_) => Ok(crate::postgres::PostgresStore::open(options).await?.into()),
        #[cfg(not(feature = "postgres"))]
        Target::Postgres(_) => Err(OpenError::BackendNotEnabled {
            backend: "postgres",
        }),
        #[cfg(feature = "sqlite")]
        Target::Sqlite(path) => Ok(open_sqlite(path, options).await?.into()),
        #[cfg(not(feature = "sqlite"))]
        Target::Sqlite(_) => Err(OpenError::BackendNotEnabled { backend: "sqlite" }),
    }
}

/// Creates the tables and indexes that are not there yet.
///
/// On PostgreSQL column `state_payload`, and those of events and snapshots, get the type that
/// [`StoreSettings::payload_column`] says. Changes nothing where they are, whoever made them. Needs a user that may create tables, which the store itself
/// should not be.
///
/// # Errors
/// Each reason has its own [`OpenError`].
///
/// # Cancel safety
/// The tables are made in one transaction or statement batch: after a drop all of them are there or none.
pub async fn migrate(options: &ConnectOptions) -> Result<(), OpenError> {
    match options.target() {
        #[cfg(feature = "postgres")]
        Target::Postgres(_) => crate::postgres::migrate(options).await,
        #[cfg(not(feature = "postgres"))]
        Target::Postgres(_) => Err(OpenError::BackendNotEnabled {
            backend: "postgres",
        }),
        #[cfg(feature = "sqlite")]
        Target::Sqlite(path) => {
            open_sqlite(path, options).await?.close().await;
            Ok(())
        }
        #[cfg(not(feature = "sqlite"))]
        Target::Sqlite(_) => Err(OpenError::BackendNotEnabled { backend: "sqlite" }),
    }
}

/// Opens a SQLite file; where it may write, that makes the file and its tables.
#[cfg(feature = "sqlite")]
async fn open_sqlite(
    path: &std::path::Path,
    options: &ConnectOptions,
) -> Result<crate::sqlite::Store, OpenError> {
    options.validate()?;
    let readers = options.pool_connections_max;
    crate::sqlite::Store::open_with_readers(path, &options.settings, readers).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawnable(_: &(impl Future + Send)) {}

    #[test]
    fn opening_and_migrating_are_futures_that_can_be_spawned() {
        let options = ConnectOptions::parse("sqlite:never-opened.db").unwrap();
        spawnable(&connect(&options));
        spawnable(&migrate(&options));
        let spawning = async move { connect(&options).await };
        spawnable(&spawning);
    }
}
