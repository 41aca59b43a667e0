//! A server of our own, that can be killed, frozen and restarted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::blocking::blocking;
use crate::database::{Afterwards, TestDatabase};
use crate::error::{Attempts, ProvisionError};
use crate::postmaster::Postmaster;
use crate::way::Way;

/// A PostgreSQL server for one test, with durable settings, on the loopback interface.
///
/// For tests about the server's failure; a test that only needs a database is quicker with [`TestDatabase::create`].
/// Never the server of `DATABASE_URL` and never Docker's, so it may be killed. Dropping the last clone ends it and removes
/// its files, which blocks for some ten milliseconds; the end of the process does the same, by `kill -9` too.
/// `Debug` hides the password.
///
/// ```
/// use throwaway_postgres::PostgresServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), throwaway_postgres::ProvisionError> {
/// let server = PostgresServer::start().await?;
/// let database = server.create_database().await?;
/// assert!(database.url().starts_with("postgres://postgres:"));
/// server.kill().await?;
/// server.restart().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresServer {
    postmaster: Arc<Mutex<Postmaster>>,
    way: Way,
    directory: PathBuf,
    port: u16,
    password: Arc<str>,
}

impl PostgresServer {
    /// Starts a server from the programs installed on this machine, or else from fetched ones. Takes one or two
    /// seconds, most of them for `initdb`.
    ///
    /// # Errors
    ///
    /// [`ProvisionError`] says what is missing and what to do.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves nothing behind: what it began is finished, then removed, in the background.
    pub async fn start() -> Result<Self, ProvisionError> {
        Self::start_with(&[]).await
    }

    /// Starts a server with settings of its configuration that override ours, such as `[("fsync", "off")]`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); what the server says of a setting it refuses is in the error.
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self, ProvisionError> {
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        blocking(move || {
            let ways = match Way::forced()? {
                Some(Way::Local) => vec![Way::Local],
                Some(Way::Fetch) => vec![Way::Fetch],
                // The server of another way is not ours to kill.
                _ => vec![Way::Local, Way::Fetch],
            };
            let mut attempts = Attempts::default();
            for way in ways {
                match Self::launch(way, &settings)? {
                    Ok(server) => return Ok(server),
                    Err(reason) => attempts.add(way, reason),
                }
            }
            Err(ProvisionError::NoWay(attempts))
        })
        .await
    }

    /// The URL of a database of this server, password included.
    pub fn url(&self, database: &str) -> String {
        let Self { port, password, .. } = self;
        format!("postgres://postgres:{password}@127.0.0.1:{port}/{database}")
    }

    /// Creates an empty database on this server.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Database`] if the server is down.
    ///
    /// # Cancel safety
    ///
    /// A dropped future can leave a database behind; it goes when the server goes.
    pub async fn create_database(&self) -> Result<TestDatabase, ProvisionError> {
        TestDatabase::create_on(&self.url("postgres"), self.way, Afterwards::Leave).await
    }

    /// The process id of the postmaster, `None` while it is down.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Server`] if nobody looks after the server any more.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    pub async fn process_id(&self) -> Result<Option<u32>, ProvisionError> {
        self.with_postmaster(Postmaster::process_id).await
    }

    /// The directory with the server's data and log. It goes with the server.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills the server, all of its processes at once, as a power cut would: nothing is flushed, no client is told.
    /// Returns when they are gone.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Server`] if nobody looks after the server any more.
    ///
    /// # Cancel safety
    ///
    /// The server is killed even if the future is dropped.
    pub async fn kill(&self) -> Result<(), ProvisionError> {
        self.with_postmaster(Postmaster::kill).await
    }

    /// Shuts the server down in an orderly way: open transactions are rolled back, everything is flushed.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Server`] if nobody looks after the server any more.
    ///
    /// # Cancel safety
    ///
    /// The server is stopped even if the future is dropped.
    pub async fn stop(&self) -> Result<(), ProvisionError> {
        self.with_postmaster(Postmaster::stop).await
    }

    /// Starts the server again on the same data and port, after [killing](Self::kill) it if it runs. Returns when it
    /// accepts connections, recovery included.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Server`] with the end of its log.
    ///
    /// # Cancel safety
    ///
    /// The server is restarted even if the future is dropped.
    pub async fn restart(&self) -> Result<(), ProvisionError> {
        self.with_postmaster(|postmaster| {
            postmaster.kill()?;
            postmaster.start()
        })
        .await
    }

    /// Stops every process of the server where it stands: connections stay open, and nothing answers.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Server`] if nobody looks after the server any more.
    ///
    /// # Cancel safety
    ///
    /// The server is frozen even if the future is dropped.
    pub async fn freeze(&self) -> Result<(), ProvisionError> {
        self.with_postmaster(Postmaster::freeze).await
    }

    /// Lets a [frozen](Self::freeze) server go on.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Server`] if nobody looks after the server any more.
    ///
    /// # Cancel safety
    ///
    /// The server goes on even if the future is dropped.
    pub async fn thaw(&self) -> Result<(), ProvisionError> {
        self.with_postmaster(Postmaster::thaw).await
    }

    /// A new server by `way`; the inner error is why the machine has no server programs that way. Blocks.
    pub(crate) fn launch(
        way: Way,
        settings: &[(String, String)],
    ) -> Result<Result<Self, Box<str>>, ProvisionError> {
        let password: Arc<str> = Uuid::new_v4().simple().to_string().into();
        let launched = Postmaster::launch(way, settings, &password)?;
        Ok(launched.map(|postmaster| Self {
            directory: postmaster.directory().to_owned(),
            port: postmaster.port(),
            postmaster: Arc::new(Mutex::new(postmaster)),
            way,
            password,
        }))
    }

    /// Runs `work` to its end, whether or not the caller still waits.
    async fn with_postmaster<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Postmaster) -> Result<T, ProvisionError> + Send + 'static,
    ) -> Result<T, ProvisionError> {
        let postmaster = Arc::clone(&self.postmaster);
        blocking(move || work(&mut postmaster.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PostgresServer")
            .field("port", &self.port)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
