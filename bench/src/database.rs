//! The server of a run, and a database for each contender: nobody pays for the dead rows of somebody else.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use throwaway_postgres::PostgresServer;

use crate::exit::Failure;
use crate::population::{self, Tables};

/// What a server that is used for more than tests would have. Commits stay as durable as they are by default.
const SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "256MB"),
    // No checkpoint during a measurement: it would hit whoever has the turn.
    ("max_wal_size", "16GB"),
    // All files of the log are used again, none is removed.
    ("min_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    // Contenders keep their connections between their turns.
    ("max_connections", "200"),
];

/// What has to be on for an acknowledged commit to survive a crash; said so at the top of every run.
const DURABLE: [&str; 3] = ["fsync", "synchronous_commit", "full_page_writes"];

/// How large a file of the log is, unless a server was made otherwise.
const LOG_FILE_BYTES: i64 = 16 * 1024 * 1024;

/// How many files of the log are made ready before anything is measured, for turns of a second or longer: 2 GiB.
///
/// A server that has been in use for a while uses its files again. One that has just been made has to fill and sync a new
/// one for every 16 MiB, and all commits wait 50 ms or longer for that: a property of new servers, not of contenders.
const LOG_FILES: i64 = 128;

/// How many there are for the shortest turns.
const LOG_FILES_MIN: i64 = 8;

/// A database of a contender's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) contender: &'static str,
    pub(crate) tables: Tables,
    /// How many users are in it in the beginning.
    pub(crate) users: usize,
}

/// A throw-away server, started when the first database is asked for, and its databases.
pub(crate) struct Databases {
    server: Option<PostgresServer>,
    /// How many files its log uses again and again.
    log_files: i64,
    /// Populated once, then copied.
    templates: HashMap<(Tables, usize), String>,
    copies: HashMap<Wanted, String>,
    named: usize,
}

impl Databases {
    /// None yet, for turns of such a length.
    pub(crate) fn new(turn: Duration) -> Self {
        Self {
            server: None,
            log_files: log_files(turn),
            templates: HashMap::new(),
            copies: HashMap::new(),
            named: 0,
        }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let server = PostgresServer::start_with(&SETTINGS).await;
        self.server = Some(server.map_err(|error| Failure::unavailable(&error))?);
        self.make_log_files().await?;
        eprintln!("PostgreSQL: {}", self.description().await?);
        Ok(())
    }

    fn url(&self, database: &str) -> Result<String, Failure> {
        let server = self.server.as_ref();
        let server = server.ok_or_else(|| Failure::new(1, "there is no server yet"))?;
        Ok(server.url(database))
    }

    /// Fills the files of the log once, so that there are as many to be used again.
    async fn make_log_files(&self) -> Result<(), Failure> {
        let files = self.log_files;
        self.administer(&format!(
            "DO $$ BEGIN
                 FOR file IN 1..{files} LOOP
                     PERFORM pg_logical_emit_message(false, '', repeat(' ', {LOG_FILE_BYTES}));
                 END LOOP;
             END $$"
        ))
        .await?;
        self.administer("CHECKPOINT").await
    }

    /// The server's version and what it says of its durability.
    async fn description(&self) -> Result<String, Failure> {
        let mut connection = self.connect("postgres").await?;
        let mut settings = Vec::new();
        for name in ["server_version"].iter().chain(&DURABLE) {
            let setting: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(name)
                .fetch_one(&mut connection)
                .await
                .map_err(|error| failed(&error))?;
            if DURABLE.contains(name) && setting != "on" {
                let message = format!("the server has {name} {setting}; nothing is measured so");
                return Err(Failure::new(1, message));
            }
            settings.push(format!("{name} {setting}"));
        }
        connection.close().await.map_err(|error| failed(&error))?;
        Ok(settings.join(", "))
    }

    /// The URL of a contender's database, made where it is not there yet, dead rows cleared away.
    pub(crate) async fn settled(&mut self, wanted: &Wanted) -> Result<String, Failure> {
        if self.server.is_none() {
            self.start().await?;
        }
        let name = match self.copies.get(wanted) {
            Some(name) => name.clone(),
            None => self.copy(wanted).await?,
        };
        let mut connection = self.connect(&name).await?;
        // Before dead rows are cleared away, which touches every page: the first change of each after a checkpoint costs more.
        let log: i64 = sqlx::query_scalar(
            "SELECT (pg_current_wal_lsn() - redo_lsn)::bigint FROM pg_control_checkpoint()",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(|error| failed(&error))?;
        // A checkpoint sets files free to be used again; half of them are left for the turn.
        if log > self.log_files / 2 * LOG_FILE_BYTES {
            self.administer("CHECKPOINT").await?;
        }
        population::settle(&mut connection, wanted.tables).await?;
        connection.close().await.map_err(|error| failed(&error))?;
        self.url(&name)
    }

    /// Drops every database. Their contenders have let go of them.
    pub(crate) async fn clear(&mut self) -> Result<(), Failure> {
        let names: Vec<String> = self
            .copies
            .drain()
            .map(|(_, name)| name)
            .chain(self.templates.drain().map(|(_, name)| name))
            .collect();
        for name in names {
            self.administer(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await?;
        }
        Ok(())
    }

    async fn copy(&mut self, wanted: &Wanted) -> Result<String, Failure> {
        let template = self.template(wanted.tables, wanted.users).await?;
        let name = self.next_name();
        self.administer(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await?;
        self.copies.insert(*wanted, name.clone());
        Ok(name)
    }

    async fn template(&mut self, tables: Tables, users: usize) -> Result<String, Failure> {
        if let Some(name) = self.templates.get(&(tables, users)) {
            return Ok(name.clone());
        }
        let name = self.next_name();
        self.administer(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        ))
        .await?;
        population::create(&self.url(&name)?, tables, users).await?;
        self.templates.insert((tables, users), name.clone());
        Ok(name)
    }

    fn next_name(&mut self) -> String {
        self.named += 1;
        format!("bench_{}", self.named)
    }

    /// One statement that no parameter can be bound to; the names in it are made here.
    async fn administer(&self, statement: &str) -> Result<(), Failure> {
        let mut connection = self.connect("postgres").await?;
        let done = connection.execute(statement).await;
        done.map_err(|error| failed(&error))?;
        connection.close().await.map_err(|error| failed(&error))
    }

    async fn connect(&self, database: &str) -> Result<PgConnection, Failure> {
        let connected = PgConnection::connect(&self.url(database)?).await;
        connected.map_err(|error| failed(&error))
    }
}

/// How many files the log of a server for turns of such a length has.
fn log_files(turn: Duration) -> i64 {
    let milliseconds = i64::try_from(turn.as_millis()).unwrap_or(i64::MAX);
    (milliseconds.saturating_mul(LOG_FILES) / 1_000).clamp(LOG_FILES_MIN, LOG_FILES)
}

fn failed(error: &sqlx::Error) -> Failure {
    Failure::unavailable(error)
}
