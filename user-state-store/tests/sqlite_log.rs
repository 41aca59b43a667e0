//! How large the log beside a SQLite file gets, and when it is shortened.
//!
//! Method: rows as large as they may be, so that a few batches fill the log several times; its file is looked at after each.

#![cfg(feature = "sqlite")]

use std::error::Error;
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use user_state_store::{
    Backend, DurableStateStore, Manifest, Payload, PersistenceId, Revision, SerializerId,
    SqliteStore, StoreSettings, Write, WriteBatch, WriteOutcome,
};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// A page with its header in the log.
const FRAME_BYTES: u64 = 4_096 + 24;

/// As the documentation of the store says.
const LOG_FRAMES: u64 = 20_000;
const LOG_BYTES_LEFT: u64 = 88_000_000;

/// Rows of a batch, and the bytes of each: as many as a batch may have.
const ROWS: usize = 8;
const ROW_BYTES: usize = 1_000_000;

/// More than a batch writes: its payloads, and as much again for the pages around them.
const BATCH_BYTES: u64 = 16_000_000;

/// A store, and how often its rows were written.
struct Writing {
    store: SqliteStore,
    log: PathBuf,
    revision: Revision,
    written: u64,
}

impl Writing {
    async fn to(path: &Path) -> TestResult<Self> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Self {
            store: SqliteStore::open(path, &StoreSettings::default()).await?,
            log: log.into(),
            revision: Revision::NONE,
            written: 0,
        })
    }

    /// Writes every row once; how long the log is then.
    async fn again(&mut self) -> TestResult<u64> {
        let revision = self.revision.next().ok_or("too many writes")?;
        // Pages that stay the same are not written.
        let byte = u8::try_from(revision.get())?;
        let write = |number| -> TestResult<Write> {
            let payload = Payload {
                serializer_id: SerializerId::JACKSON_JSON,
                manifest: Manifest::new("State"),
                bytes: vec![byte; ROW_BYTES],
            };
            let id = PersistenceId::unique(&format!("user-{number}"))?;
            Ok(Write::update(id, self.revision, payload))
        };
        let writes = (0..ROWS).map(write).collect::<TestResult<_>>()?;
        let outcomes = self.store.write(&WriteBatch::new(writes)?).await;
        let applied = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Applied(_));
        assert!(outcomes.iter().all(applied), "{outcomes:?}");
        self.revision = revision;
        self.written += u64::try_from(ROWS * ROW_BYTES)?;
        Ok(std::fs::metadata(&self.log)?.len())
    }
}

#[tokio::test]
async fn the_log_never_holds_more_than_its_pages_and_one_batch() -> TestResult {
    let directory = tempfile::tempdir()?;
    let mut writing = Writing::to(&directory.path().join("store.db")).await?;
    let mut longest = 0;
    while writing.written < 3 * LOG_FRAMES * FRAME_BYTES {
        longest = longest.max(writing.again().await?);
    }
    let pages = LOG_FRAMES * FRAME_BYTES;
    assert!(longest >= pages / 2, "a checkpoint came early: {longest}");
    assert!(longest <= pages + BATCH_BYTES, "{longest}");
    writing.store.close().await;
    assert!(!writing.log.exists(), "the last one to leave removes it");
    Ok(())
}

#[tokio::test]
async fn a_log_that_grew_behind_a_long_read_is_shortened_when_that_is_over() -> TestResult {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.db");
    let mut writing = Writing::to(&path).await?;
    writing.again().await?;
    let mut reader = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await?;
    reader.execute("BEGIN").await?;
    // From here on the reader needs what is in the log.
    reader.execute("SELECT count(*) FROM durable_state").await?;
    let mut length = 0;
    while length <= LOG_FRAMES * FRAME_BYTES + BATCH_BYTES {
        length = writing.again().await?;
    }
    reader.execute("COMMIT").await?;
    reader.close().await?;
    // The first write makes the checkpoint that nobody hinders any more, the second one begins the log anew.
    writing.again().await?;
    let length = writing.again().await?;
    assert_eq!(length, LOG_BYTES_LEFT);
    writing.store.close().await;
    Ok(())
}
