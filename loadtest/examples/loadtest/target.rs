//! The store under load: the one named, or one on a throw-away PostgreSQL.

#[cfg(unix)]
use throwaway_postgres::{PostgresServer, TestDatabase};
use user_state_store::Store;

use crate::exit::Failure;
use crate::open;

/// What a server that is used for more than tests would have: room for its pages, and no checkpoint every few
/// seconds. Commits stay as durable as they are by default.
#[cfg(unix)]
const SERVER_SETTINGS: &[(&str, &str)] = &[("shared_buffers", "256MB"), ("max_wal_size", "4GB")];

/// A store, and the server that lives as long as it is used.
pub(crate) struct Target {
    store: Store,
    #[cfg(unix)]
    _server: Option<(PostgresServer, TestDatabase)>,
}

impl Target {
    /// Opens the store at this URL, or one on a server of its own.
    pub(crate) async fn open(url: Option<&str>) -> Result<Self, Failure> {
        match url {
            Some(url) => Ok(Self {
                store: open::open(url).await?,
                #[cfg(unix)]
                _server: None,
            }),
            None => Self::throw_away().await,
        }
    }

    #[cfg(unix)]
    async fn throw_away() -> Result<Self, Failure> {
        let server = PostgresServer::start_with(SERVER_SETTINGS)
            .await
            .map_err(|error| Failure::unavailable(&error))?;
        let database = server
            .create_database()
            .await
            .map_err(|error| Failure::unavailable(&error))?;
        Ok(Self {
            store: open::open(database.url()).await?,
            _server: Some((server, database)),
        })
    }

    #[cfg(not(unix))]
    async fn throw_away() -> Result<Self, Failure> {
        Err(Failure::usage("on this system --store is needed"))
    }

    pub(crate) fn store(&self) -> Store {
        self.store.clone()
    }

    /// Closes the store; the server ends with it.
    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}
