//! A database of its own for each test, and what the tests do with it again and again.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "every test file uses a part of it, and a wrong constant of a test may end it"
)]

pub(crate) mod notes;
pub(crate) mod pooler;
pub(crate) mod proxy;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};

use sqlx::{Connection as _, Executor as _, PgConnection};
use throwaway_postgres::TestDatabase;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::Url;
use user_state_store::{
    Change, DurableStateStore, LoadedRow, Manifest, Payload, PersistenceId, Revision, SerializerId,
    Settled, Tags, Write, WriteBatch, WriteOutcome,
};

/// What a test returns.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A trigger function that waits for advisory lock 1, and changes nothing.
pub(crate) const WAIT_FOR_THE_TEST: &str = "\
CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  before text := current_setting('lock_timeout');
BEGIN
  PERFORM set_config('lock_timeout', '0', true);
  PERFORM pg_advisory_xact_lock_shared(1);
  PERFORM set_config('lock_timeout', before, true);
  RETURN NEW;
END $$";

/// A database that is dropped with this value.
pub(crate) struct Database {
    database: TestDatabase,
    url: Url,
}

impl Database {
    /// An empty database.
    pub(crate) async fn empty() -> Result<Self, Box<dyn Error>> {
        let database = TestDatabase::create().await?;
        let url = Url::parse(database.url())?;
        Ok(Self { database, url })
    }

    /// A database with the tables.
    pub(crate) async fn migrated() -> Result<Self, Box<dyn Error>> {
        let database = Self::empty().await?;
        user_state_store::migrate(&database.url().parse()?).await?;
        Ok(database)
    }

    /// The URL of the database.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The URL with another user.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        let mut url = self.url.clone();
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        url.into()
    }

    /// The server's address.
    pub(crate) fn address(&self) -> Result<SocketAddr, Box<dyn Error>> {
        let host = self.url.host_str().ok_or("the server has no host")?;
        let port = self.url.port().unwrap_or(5432);
        let mut addresses = (host, port).to_socket_addrs()?;
        Ok(addresses.next().ok_or("the server has no address")?)
    }

    /// The URL with another address on this machine.
    pub(crate) fn url_at(&self, address: SocketAddr) -> String {
        let mut url = self.url.clone();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(address.port())).unwrap();
        url.into()
    }

    /// The name of the database.
    pub(crate) fn name(&self) -> &str {
        self.database.name()
    }

    /// A connection of the test's own, which plays another writer or an operator.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(self.url()).await
    }

    /// From now on whoever inserts or updates the row of this id waits inside the statement, however short its lock
    /// time-out is, while a test holds advisory lock 1.
    pub(crate) async fn stop_at(&self, id: &str) -> Result<(), sqlx::Error> {
        self.execute(WAIT_FOR_THE_TEST).await?;
        self.execute(&format!(
            "CREATE TRIGGER stop_at BEFORE INSERT OR UPDATE ON durable_state
             FOR EACH ROW WHEN (NEW.persistence_id = '{id}') EXECUTE FUNCTION wait_for_the_test()"
        ))
        .await
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut connection = self.connect().await?;
        connection.execute(sql).await?;
        connection.close().await
    }
}

/// A user for one test, dropped with it.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) server: Database,
}

impl User {
    pub(crate) async fn new(database: Database) -> Result<Self, sqlx::Error> {
        let name = database
            .name()
            .replace("user_state_test", "user_state_user");
        database
            .execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'its-password'"))
            .await?;
        Ok(Self {
            name,
            server: database,
        })
    }

    pub(crate) fn url(&self) -> String {
        self.server.url_as(&self.name, "its-password")
    }

    pub(crate) async fn drop(self) -> Result<(), sqlx::Error> {
        let name = &self.name;
        self.server
            .execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}"))
            .await
    }
}

/// All that was logged on this thread, while the guard lives.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(crate) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let captured = Self::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (captured, tracing::subscriber::set_default(subscriber))
    }

    /// What the store said; the test's own connections warn of slow statements.
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let of_store = text
            .lines()
            .filter(|line| line.contains(" user_state_store::"));
        of_store.collect::<Vec<_>>().join("\n")
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A write of a JSON-like payload with one tag.
pub(crate) fn put(id: &str, expected: i64, revision: i64, bytes: &[u8]) -> Write {
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("com.example.State"),
        bytes: bytes.to_vec(),
    };
    let id = PersistenceId::unique(id).unwrap();
    Write::update(id, Revision::new(expected).unwrap(), payload)
        .at_revision(Revision::new(revision).unwrap())
        .tags(Tags::one("state"))
}

/// Another change of an entity.
pub(crate) fn change(id: &str, expected: i64, change: Change) -> Write {
    let id = PersistenceId::unique(id).unwrap();
    Write::new(id, Revision::new(expected).unwrap(), change)
}

/// Writes and gives the outcomes in the order of the ids.
pub(crate) async fn write(store: &dyn DurableStateStore, writes: Vec<Write>) -> Vec<WriteOutcome> {
    store.write(&WriteBatch::new(writes).unwrap()).await
}

/// Loads one id.
pub(crate) async fn load(store: &dyn DurableStateStore, id: &str) -> LoadedRow {
    store.load_one(&PersistenceId::unique(id).unwrap()).await
}

/// Writes in a task of its own; gives the outcomes as they are reported.
pub(crate) fn writing(
    store: &Arc<impl DurableStateStore>,
    batch: WriteBatch,
) -> (mpsc::Receiver<Settled>, JoinSet<()>) {
    let store = Arc::clone(store);
    let (sender, outcomes) = mpsc::channel(1_000);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let report = |settled: Vec<Settled>| {
            for settled in settled {
                drop(sender.try_send(settled));
            }
        };
        let last = store.write_early(&batch, &report).await;
        report(last);
    });
    (outcomes, task)
}

/// A transaction that has run a statement and holds what that locks.
pub(crate) async fn holding(
    database: &Database,
    sql: &str,
) -> Result<PgConnection, Box<dyn Error>> {
    let mut holder = database.connect().await?;
    holder.execute("BEGIN").await?;
    holder.execute(sql).await?;
    Ok(holder)
}
