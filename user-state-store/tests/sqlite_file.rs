//! What only a file can show: how it is made, opened and refused, shared with other processes, and filled up.
//!
//! Method: real files in temporary directories; a second plain connection stands for another program; where a limit of
//! the operating system is needed, the test runs itself again in a child process that has it.

#![cfg(feature = "sqlite")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use futures_util::future::{join, join_all};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use tempfile::TempDir;
use user_state_store::{
    Access, Backend as _, Cause, ConnectOptions as StoreOptions, DecodeError, DurableStateStore,
    LoadedRow, Manifest, OpenError, Payload, PayloadColumn, PersistenceId, Revision, SerializerId,
    SqliteStore, StateFeeds as _, StoreError, StoreSettings, Write, WriteBatch, WriteOutcome,
    connect,
};

type TestResult<T = ()> = Result<T, Box<dyn Error>>;

/// Tells a child process which file to work on.
const CHILD_FILE: &str = "USER_STATE_TEST_FILE";

fn settings(change: impl FnOnce(&mut StoreSettings)) -> StoreSettings {
    let mut settings = StoreSettings::default();
    change(&mut settings);
    settings
}

fn read_only() -> StoreSettings {
    settings(|settings| settings.access = Access::ReadOnly)
}

async fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, &StoreSettings::default()).await
}

async fn refusal(path: &Path, settings: &StoreSettings) -> TestResult<OpenError> {
    let opened = SqliteStore::open(path, settings).await;
    Ok(opened.err().ok_or("it was opened")?)
}

fn new_path() -> TestResult<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("user-state.db");
    Ok((directory, path))
}

/// Another program's connection.
async fn plain(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new().filename(path).connect().await
}

fn files(directory: &TempDir) -> TestResult<Vec<String>> {
    let mut names = std::fs::read_dir(directory.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<TestResult<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn put(id: &str, expected: i64, bytes: Vec<u8>) -> TestResult<Write> {
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("State"),
        bytes,
    };
    let expected = Revision::new(expected).ok_or("negative")?;
    Ok(Write::update(PersistenceId::unique(id)?, expected, payload))
}

async fn write(store: &SqliteStore, writes: Vec<Write>) -> TestResult<Vec<WriteOutcome>> {
    Ok(store.write(&WriteBatch::new(writes)?).await)
}

async fn create(store: &SqliteStore, ids: &[&str]) -> TestResult {
    let writes = ids.iter().map(|id| put(id, 0, b"{}".to_vec()));
    let outcomes = write(store, writes.collect::<TestResult<_>>()?).await?;
    let applied = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Applied(_));
    assert!(outcomes.iter().all(applied), "{outcomes:?}");
    Ok(())
}

async fn load(store: &SqliteStore, ids: &[&str]) -> TestResult<Vec<LoadedRow>> {
    let ids = ids.iter().copied().map(PersistenceId::unique);
    Ok(store.load(&ids.collect::<Result<Vec<_>, _>>()?).await?)
}

async fn is_stored(store: &SqliteStore, id: &str) -> TestResult<bool> {
    Ok(store.load_one(&PersistenceId::unique(id)?).await?.is_some())
}

#[tokio::test]
async fn a_payload_column_that_sqlite_does_not_have_is_refused_and_no_file_made() -> TestResult {
    let (directory, path) = new_path()?;
    for column in [PayloadColumn::Json, PayloadColumn::Jsonb] {
        let settings = settings(|settings| settings.payload_column = column);
        let refused = refusal(&path, &settings).await?;
        assert!(
            matches!(
                refused,
                OpenError::InvalidOption {
                    option: "payload_column",
                    ..
                }
            ),
            "{refused:?}"
        );
    }
    assert_eq!(files(&directory)?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_setting_out_of_its_range_is_refused_and_no_file_made() -> TestResult {
    let (directory, path) = new_path()?;
    let settings = StoreSettings::default().statement_timeout(Duration::ZERO);
    let refused = refusal(&path, &settings).await?;
    assert!(
        matches!(&refused, OpenError::InvalidSetting(invalid) if invalid.setting == "statement_timeout"),
        "{refused:?}"
    );
    assert_eq!(
        refused.to_string(),
        "statement_timeout is 0ns, it must be between 10ms and 3600s"
    );
    let options = StoreOptions::parse(&format!("sqlite:{}", path.display()))?;
    let refused = user_state_store::connect(&options.pool_connections_max(0)).await;
    assert_eq!(
        refused.err().ok_or("it opened")?.to_string(),
        "pool_connections_max is 0, it must be between 1 and 1000"
    );
    assert_eq!(files(&directory)?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_new_file_gets_the_tables_and_indexes_of_the_pekko_schema() -> TestResult {
    let (_directory, path) = new_path()?;
    open(&path).await?.close().await;
    let mut connection = plain(&path).await?;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name",
    )
    .fetch_all(&mut connection)
    .await?;
    assert_eq!(
        names,
        [
            "durable_state",
            "durable_state_slice_idx",
            "event_journal",
            "event_journal_slice_idx",
            "projection_management",
            "projection_offset_store",
            "projection_timestamp_offset_store",
            "snapshot",
        ]
    );
    let key: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM pragma_table_info('durable_state') WHERE pk > 0 ORDER BY pk",
    )
    .fetch_all(&mut connection)
    .await?;
    assert_eq!(key, ["persistence_id", "revision"]);
    Ok(())
}

#[tokio::test]
async fn states_are_there_when_the_file_is_opened_again() -> TestResult {
    let (directory, path) = new_path()?;
    let store = open(&path).await?;
    create(&store, &["user"]).await?;
    store.close().await;
    assert_eq!(
        files(&directory)?,
        ["user-state.db"],
        "nothing is left beside the file"
    );
    let store = open(&path).await?;
    assert!(is_stored(&store, "user").await?);
    Ok(())
}

#[tokio::test]
async fn opening_a_file_again_changes_nothing_in_it() -> TestResult {
    let (_directory, path) = new_path()?;
    open(&path).await?.close().await;
    let before = std::fs::read(&path)?;
    open(&path).await?.close().await;
    assert!(std::fs::read(&path)? == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_open_a_new_file_at_once_all_get_it() -> TestResult {
    let (_directory, path) = new_path()?;
    let stores = join_all((0..8).map(|_| open(&path))).await;
    for (number, store) in stores.into_iter().enumerate() {
        let store = store?;
        create(&store, &[&format!("user-{number}")]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_url_opens_a_file() -> TestResult {
    let (_directory, path) = new_path()?;
    let url = format!("sqlite:{}", path.display());
    let store = connect(&StoreOptions::parse(&url)?).await?;
    assert!(path.exists());
    store.close().await;
    let opened = connect(&StoreOptions::parse("sqlite::memory:")?).await;
    assert_eq!(opened.err(), Some(OpenError::InMemory));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_with_its_reason() -> TestResult {
    let (directory, path) = new_path()?;
    let writing = StoreSettings::default();
    let missing = directory
        .path()
        .join("no such directory")
        .join("user-state.db");
    assert_eq!(
        refusal(&missing, &writing).await?,
        OpenError::DirectoryMissing
    );
    assert_eq!(
        refusal(&missing, &read_only()).await?,
        OpenError::DirectoryMissing
    );
    for text in ["", ":memory:"] {
        assert_eq!(
            refusal(Path::new(text), &writing).await?,
            OpenError::InMemory
        );
    }
    let refused = refusal(directory.path(), &writing).await?;
    assert!(matches!(refused, OpenError::Unreachable(_)), "{refused:?}");

    std::fs::write(
        &path,
        "a text that is long enough to be no database header at all\n".repeat(99),
    )?;
    for settings in [writing, read_only()] {
        let refused = refusal(&path, &settings).await?;
        assert!(matches!(refused, OpenError::NotADatabase(_)), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_of_another_form_is_refused_and_left_alone() -> TestResult {
    let (_directory, path) = new_path()?;
    let mut connection = plain_new(&path).await?;
    connection
        .execute("CREATE TABLE durable_state (id TEXT, state TEXT)")
        .await?;
    connection.close().await?;
    for settings in [StoreSettings::default(), read_only()] {
        let refused = refusal(&path, &settings).await?;
        assert!(
            matches!(
                refused,
                OpenError::ColumnMismatch {
                    table: "durable_state",
                    ..
                }
            ),
            "{refused:?}"
        );
    }
    let mut connection = plain(&path).await?;
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master")
        .fetch_all(&mut connection)
        .await?;
    assert_eq!(tables, ["durable_state"]);
    Ok(())
}

async fn plain_new(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .connect()
        .await
}

#[tokio::test]
async fn a_read_only_open_makes_nothing() -> TestResult {
    let (directory, path) = new_path()?;
    assert_eq!(
        refusal(&path, &read_only()).await?,
        OpenError::DatabaseMissing
    );
    assert!(files(&directory)?.is_empty());
    let mut connection = plain_new(&path).await?;
    connection.execute("CREATE TABLE other (x)").await?;
    connection.close().await?;
    let refused = refusal(&path, &read_only()).await?;
    assert_eq!(
        refused,
        OpenError::TableMissing {
            table: "durable_state"
        }
    );
    assert_eq!(files(&directory)?, ["user-state.db"]);
    Ok(())
}

#[tokio::test]
async fn a_read_only_store_reads_writes_nothing_and_leaves_nothing_behind() -> TestResult {
    let (directory, path) = new_path()?;
    let writer = open(&path).await?;
    create(&writer, &["before"]).await?;
    writer.close().await;
    let bytes = std::fs::read(&path)?;

    let reader = SqliteStore::open(&path, &read_only()).await?;
    assert!(is_stored(&reader, "before").await?);
    let outcomes = write(&reader, vec![put("refused", 0, Vec::new())?]).await?;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Misconfigured(_))]
        ),
        "{outcomes:?}"
    );
    assert_eq!(files(&directory)?, ["user-state.db"]);
    assert!(std::fs::read(&path)? == bytes);

    // A reader that was there first sees what a writer does later, while it writes and after it is gone.
    let writer = open(&path).await?;
    create(&writer, &["during"]).await?;
    assert!(is_stored(&reader, "during").await?);
    writer.close().await;
    assert!(is_stored(&reader, "during").await?);
    assert!(!is_stored(&reader, "refused").await?);
    Ok(())
}

#[tokio::test]
async fn a_write_waits_for_the_lock_of_another_program() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    let mut other = plain(&path).await?;
    other.execute("BEGIN IMMEDIATE").await?;
    let waiting = create(&store, &["user"]);
    let release = async {
        // Readers do not wait, and by then the write is on its way.
        let before = is_stored(&store, "user").await?;
        other.execute("ROLLBACK").await?;
        TestResult::Ok(before)
    };
    let (written, before) = join(waiting, release).await;
    written?;
    assert!(!before?);
    assert!(is_stored(&store, "user").await?);
    Ok(())
}

#[tokio::test]
async fn a_write_that_finds_the_file_locked_past_its_deadline_was_surely_not_applied() -> TestResult
{
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    let hasty = settings(|settings| settings.statement_timeout = Duration::from_millis(500));
    let hasty = SqliteStore::open(&path, &hasty).await?;
    let mut other = plain(&path).await?;
    other.execute("BEGIN IMMEDIATE").await?;
    let outcomes = write(&hasty, vec![put("user", 0, Vec::new())?]).await?;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Unavailable(_))]
        ),
        "{outcomes:?}"
    );
    other.execute("ROLLBACK").await?;
    // The lock is free again, so whatever the first write left behind would now be done.
    create(&store, &["neighbour"]).await?;
    assert!(!is_stored(&store, "user").await?);
    Ok(())
}

#[tokio::test]
async fn a_value_that_the_database_refuses_harms_no_neighbour() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    let mut other = plain(&path).await?;
    other
        .execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON durable_state
             WHEN new.persistence_id = 'b-refused'
             BEGIN SELECT RAISE(ABORT, 'marker-message'); END",
        )
        .await?;
    let writes = ["a", "b-refused", "c"].map(|id| put(id, 0, b"marker-payload".to_vec()));
    let outcomes = write(&store, writes.into_iter().collect::<TestResult<_>>()?).await?;
    let [
        WriteOutcome::Applied(_),
        WriteOutcome::NotApplied(StoreError::Refused(refusal)),
        WriteOutcome::Applied(_),
    ] = outcomes.as_slice()
    else {
        return Err(format!("{outcomes:?}").into());
    };
    assert_eq!(&*refusal.code, "1811", "SQLITE_CONSTRAINT_TRIGGER");
    assert!(!format!("{outcomes:?} {refusal}").contains("marker"));
    assert!(is_stored(&store, "a").await? && is_stored(&store, "c").await?);
    assert!(!is_stored(&store, "b-refused").await?);
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_told_and_its_neighbours_are_read() -> TestResult {
    let (_directory, path) = new_path()?;
    let small = settings(|settings| settings.payload_bytes_max = 10);
    let store = SqliteStore::open(&path, &small).await?;
    let cases = [
        ("large", "state_payload = x'0102030405060708090a0b'"),
        ("largest", "state_payload = x'0102030405060708090a'"),
        ("slice", "slice = 1024"),
        ("slice-text", "slice = 'marker'"),
        ("revision", "revision = -1"),
        ("time", "db_timestamp = 9223372036854775807"),
        ("tags", "tags = '{\"marker\": 1}'"),
    ];
    let ids: Vec<&str> = cases.iter().map(|(id, _)| *id).collect();
    create(&store, &ids).await?;
    let mut other = plain(&path).await?;
    for (id, change) in cases {
        let update = format!("UPDATE durable_state SET {change} WHERE persistence_id = '{id}'");
        other.execute(&*update).await?;
    }
    for ((id, _), row) in cases.iter().zip(load(&store, &ids).await?) {
        let reason = match row {
            Ok(Some(_)) if *id == "largest" => continue,
            Err(StoreError::Corrupt {
                persistence_id,
                reason,
                ..
            }) => {
                assert_eq!(persistence_id.as_str(), *id);
                reason
            }
            other => return Err(format!("{id}: {other:?}").into()),
        };
        assert_eq!(
            reason == DecodeError::TooLarge { limit: 10 },
            *id == "large",
            "{id}: {reason:?}"
        );
        assert!(!format!("{reason:?} {reason}").contains("marker"));
    }
    Ok(())
}

#[tokio::test]
async fn two_rows_of_one_id_are_told_and_not_guessed_between() -> TestResult {
    let (_directory, path) = new_path()?;
    // A file whose table has Pekko's key only, as another program may have made it.
    let mut other = plain_new(&path).await?;
    other
        .execute(
            "CREATE TABLE durable_state (slice INTEGER, entity_type TEXT, persistence_id TEXT, revision INTEGER,
             db_timestamp INTEGER, state_ser_id INTEGER, state_ser_manifest TEXT, state_payload BLOB, tags TEXT,
             PRIMARY KEY (persistence_id, revision));
             INSERT INTO durable_state VALUES (0, '', 'user', 7, 1, 31, '', x'00', NULL), (0, '', 'user', 1, 2, 31, '', x'00', NULL),
             (0, '', 'user', 3, 3, 31, '', x'00', NULL), (0, '', 'other', 1, 4, 31, '', x'00', NULL)",
        )
        .await?;
    let store = open(&path).await?;
    let rows = load(&store, &["user", "other"]).await?;
    let doubled = StoreError::DuplicateRows {
        persistence_id: PersistenceId::unique("user")?,
        lower: Revision::FIRST,
        higher: Revision::new(7).ok_or("negative")?,
    };
    assert_eq!(rows[0], Err(doubled));
    assert!(matches!(rows[1], Ok(Some(_))));
    let outcomes = write(&store, vec![put("user", 0, Vec::new())?]).await?;
    assert_eq!(outcomes, [WriteOutcome::Conflict], "no third row is made");
    Ok(())
}

#[tokio::test]
async fn a_table_that_goes_away_is_told_as_a_wrong_set_up() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    plain(&path)
        .await?
        .execute("DROP TABLE durable_state")
        .await?;
    let outcomes = write(&store, vec![put("user", 0, Vec::new())?]).await?;
    let loaded = store.load_one(&PersistenceId::unique("user")?).await;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Misconfigured(
                Cause::Database(_)
            ))]
        ),
        "{outcomes:?}"
    );
    assert!(
        matches!(loaded, Err(StoreError::Misconfigured(_))),
        "{loaded:?}"
    );
    Ok(())
}

/// Runs one test of this file again, as `shell` runs it.
fn child(shell: &str, test: &str, file: &Path) -> TestResult<Output> {
    Ok(Command::new("sh")
        .arg("-c")
        .arg(shell)
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_FILE, file)
        .output()?)
}

fn child_file() -> Option<PathBuf> {
    std::env::var_os(CHILD_FILE).map(PathBuf::from)
}

/// As root every file is writable, so the child runs as nobody where this process is root.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_the_operating_system_protects_is_refused_as_read_only() -> TestResult {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const NAME: &str = "what_the_operating_system_protects_is_refused_as_read_only";
    const NOBODY: u32 = 65_534;

    if let Some(file) = child_file() {
        return open_protected(&file).await;
    }
    let (directory, path) = new_path()?;
    let store = open(&path).await?;
    create(&store, &["user"]).await?;
    store.close().await;
    let protected = directory.path().join("protected");
    std::fs::create_dir(&protected)?;
    let in_protected = protected.join("user-state.db");
    std::fs::copy(&path, &in_protected)?;
    // The child may not be able to reach the build's directory.
    let executable = directory.path().join("child");
    std::fs::copy(std::env::current_exe()?, &executable)?;
    let is_root = std::fs::metadata(&path)?.uid() == 0;
    for (path, mode) in [
        (directory.path(), 0o755),
        (&executable, 0o755),
        (&path, 0o444),
        (&in_protected, 0o666),
        (&protected, 0o555),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    let mut child = Command::new(&executable);
    child
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD_FILE, &path);
    child.current_dir(directory.path());
    if is_root {
        std::os::unix::process::CommandExt::uid(&mut child, NOBODY);
    }
    let output = child.output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(told.contains("1 passed"), "{told}");
    std::fs::set_permissions(&protected, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A protected file, a writable file in a protected directory, a new file in a protected directory.
async fn open_protected(file: &Path) -> TestResult {
    let protected = file.with_file_name("protected");
    let in_protected = protected.join("user-state.db");
    for path in [file, &in_protected, &protected.join("new.db")] {
        let refused = refusal(path, &StoreSettings::default()).await?;
        assert!(
            matches!(refused, OpenError::ReadOnly { .. }),
            "{}: {refused:?}",
            path.display()
        );
    }
    for path in [file, &in_protected] {
        let store = SqliteStore::open(path, &read_only()).await?;
        assert!(is_stored(&store, "user").await?);
    }
    Ok(())
}

/// The largest file the child may write is reached in the middle of its writes. What it was told then is compared with
/// what is in the file.
#[tokio::test]
async fn on_a_full_disk_nothing_acknowledged_is_lost_and_nothing_refused_is_there() -> TestResult {
    if let Some(path) = child_file() {
        return fill(&path).await;
    }
    let (_directory, path) = new_path()?;
    open(&path).await?.close().await;
    // A limit of 512 blocks of 512 or 1,024 bytes; the signal that comes with it is ignored, so writes fail.
    let output = child(
        "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"",
        "on_a_full_disk_nothing_acknowledged_is_lost_and_nothing_refused_is_there",
        &path,
    )?;
    let told = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{told}");
    let store = open(&path).await?;
    let (mut applied, mut failed) = (0, 0);
    for line in told.lines() {
        let Some((id, outcome)) = line
            .strip_prefix("told ")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let stored = is_stored(&store, id).await?;
        match outcome {
            "applied" => {
                assert!(stored, "{id} was acknowledged");
                applied += 1;
            }
            "not-applied" => {
                assert!(!stored, "{id} was refused");
                failed += 1;
            }
            "unknown" => failed += 1,
            other => return Err(format!("{id}: {other}").into()),
        }
    }
    assert!(applied > 0 && failed > 0, "{told}");
    Ok(())
}

/// Writes until the disk is full and a little longer, and tells each outcome.
async fn fill(path: &Path) -> TestResult {
    let store = open(path).await?;
    let mut failures = 0;
    for number in 0..200 {
        let id = format!("user-{number}");
        let outcomes = write(&store, vec![put(&id, 0, vec![7; 20_000])?]).await?;
        let told = match outcomes.as_slice() {
            [WriteOutcome::Applied(_)] => "applied",
            [WriteOutcome::NotApplied(StoreError::Unavailable(_))] => "not-applied",
            [WriteOutcome::Unknown(_)] => "unknown",
            other => return Err(format!("{other:?}").into()),
        };
        println!("\ntold {id} {told}");
        failures += i32::from(told != "applied");
        if failures > 3 {
            return Ok(());
        }
    }
    Err("the disk was never full".into())
}

/// What happens to the file of an open store.
type Incident = fn(&Path) -> std::io::Result<()>;

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

/// Incidents after which another file, or none, is at the path.
#[cfg(unix)]
const GONE: [(&str, Incident); 5] = [
    ("removed", |path| std::fs::remove_file(path)),
    ("moved away", |path| {
        std::fs::rename(path, beside(path, ".old"))
    }),
    ("replaced", |path| {
        let copy = beside(path, ".copy");
        std::fs::copy(path, &copy)?;
        std::fs::rename(copy, path)
    }),
    ("directory moved away", |path| {
        let directory = path.parent().unwrap_or(path);
        std::fs::rename(directory, beside(directory, ".moved"))
    }),
    ("emptied", |path| std::fs::File::create(path).map(drop)),
];

/// A directory that an incident may move away.
fn nested_path() -> TestResult<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("data").join("user-state.db");
    std::fs::create_dir(directory.path().join("data"))?;
    Ok((directory, path))
}

fn file_replaced() -> StoreError {
    StoreError::Misconfigured(Cause::FileReplaced)
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_gone_while_open_refuses_every_call_and_is_not_made_again() -> TestResult {
    for (incident, act) in GONE {
        let (_directory, path) = nested_path()?;
        let store = open(&path).await?;
        create(&store, &["before"]).await?;
        act(&path)?;
        let left = path.exists();
        for _ in 0..2 {
            let outcomes = write(&store, vec![put("after", 0, b"{}".to_vec())?]).await?;
            assert_eq!(
                outcomes,
                [WriteOutcome::NotApplied(file_replaced())],
                "{incident}"
            );
            let ids = [PersistenceId::unique("before")?];
            assert_eq!(store.load(&ids).await, Err(file_replaced()), "{incident}");
        }
        assert_eq!(path.exists(), left, "{incident}: no file is made");
        store.close().await;
    }
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_write_into_a_file_that_goes_during_its_commit_is_unknown() -> TestResult {
    for (incident, act) in GONE {
        let (_directory, path) = nested_path()?;
        let store = open(&path).await?;
        create(&store, &["before"]).await?;
        let mut other = plain(&path).await?;
        other.execute("BEGIN IMMEDIATE").await?;
        let waiting = write(&store, vec![put("user", 0, b"{}".to_vec())?]);
        let release = async {
            // By then the write is on its way.
            is_stored(&store, "before").await?;
            act(&path)?;
            other.execute("ROLLBACK").await?;
            TestResult::Ok(())
        };
        let (written, released) = join(waiting, release).await;
        released?;
        match written?.as_slice() {
            [WriteOutcome::Unknown(unknown)] => {
                assert_eq!(unknown.cause, Cause::FileReplaced, "{incident}");
            }
            // An emptied file can fail the statement itself.
            [WriteOutcome::NotApplied(_)] if incident == "emptied" => {}
            outcomes => return Err(format!("{incident}: {outcomes:?}").into()),
        }
        let outcomes = write(&store, vec![put("user", 0, b"{}".to_vec())?]).await?;
        assert_eq!(
            outcomes,
            [WriteOutcome::NotApplied(file_replaced())],
            "{incident}"
        );
    }
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_commit_into_a_log_that_was_removed_is_unknown_and_the_last_one() -> TestResult {
    for suffix in ["-wal", "-shm"] {
        let (_directory, path) = new_path()?;
        let store = open(&path).await?;
        create(&store, &["before"]).await?;
        std::fs::remove_file(beside(&path, suffix))?;
        let outcomes = write(&store, vec![put("user", 0, b"{}".to_vec())?]).await?;
        assert!(
            matches!(&outcomes[..], [WriteOutcome::Unknown(unknown)] if unknown.cause == Cause::FileReplaced),
            "{suffix}: {outcomes:?}"
        );
        let outcomes = write(&store, vec![put("user", 0, b"{}".to_vec())?]).await?;
        assert_eq!(
            outcomes,
            [WriteOutcome::NotApplied(file_replaced())],
            "{suffix}"
        );
    }
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_that_lost_its_file_works_again_when_it_is_opened_again() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    create(&store, &["before"]).await?;
    std::fs::rename(&path, beside(&path, ".old"))?;
    let outcomes = write(&store, vec![put("during", 0, b"{}".to_vec())?]).await?;
    assert_eq!(outcomes, [WriteOutcome::NotApplied(file_replaced())]);
    std::fs::rename(beside(&path, ".old"), &path)?;
    let outcomes = write(&store, vec![put("during", 0, b"{}".to_vec())?]).await?;
    assert_eq!(
        outcomes,
        [WriteOutcome::NotApplied(file_replaced())],
        "until it is opened again"
    );
    store.close().await;
    let store = open(&path).await?;
    assert!(is_stored(&store, "before").await?);
    assert!(!is_stored(&store, "during").await?);
    create(&store, &["during"]).await?;
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_that_reads_only_does_not_go_on_in_another_file() -> TestResult {
    let (_directory, path) = new_path()?;
    open(&path).await?.close().await;
    let reader = SqliteStore::open(&path, &read_only()).await?;
    assert!(!is_stored(&reader, "user").await?);
    let copy = beside(&path, ".copy");
    std::fs::copy(&path, &copy)?;
    std::fs::rename(copy, &path)?;
    let ids = [PersistenceId::unique("user")?];
    assert_eq!(reader.load(&ids).await, Err(file_replaced()));
    Ok(())
}

/// A file in directory `data`, and the paths that lead to it through a link to the file and through one to the directory.
#[cfg(unix)]
fn linked() -> TestResult<(TempDir, PathBuf, [PathBuf; 2])> {
    let (directory, path) = nested_path()?;
    let file_link = directory.path().join("link.db");
    let directory_link = directory.path().join("link");
    std::os::unix::fs::symlink("data/user-state.db", &file_link)?;
    std::os::unix::fs::symlink("data", &directory_link)?;
    let links = [file_link, directory_link.join("user-state.db")];
    Ok((directory, path, links))
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_opened_through_a_symbolic_link_writes_and_watches_the_file_behind_it() -> TestResult
{
    for which in 0..2 {
        for is_new in [true, false] {
            let (_directory, path, links) = linked()?;
            if !is_new {
                open(&path).await?.close().await;
            }
            let store = open(&links[which]).await?;
            for id in ["first", "second"] {
                create(&store, &[id]).await?;
                assert!(is_stored(&store, id).await?, "{which}");
            }
            std::fs::remove_file(beside(&path, "-wal"))?;
            let outcomes = write(&store, vec![put("third", 0, b"{}".to_vec())?]).await?;
            assert!(
                matches!(&outcomes[..], [WriteOutcome::Unknown(unknown)] if unknown.cause == Cause::FileReplaced),
                "{which}: {outcomes:?}"
            );
        }
    }
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_that_leads_to_another_file_refuses_every_call() -> TestResult {
    let (directory, _path, [link, _]) = linked()?;
    let store = open(&link).await?;
    create(&store, &["before"]).await?;
    let other = directory.path().join("other.db");
    open(&other).await?.close().await;
    std::fs::remove_file(&link)?;
    std::os::unix::fs::symlink(&other, &link)?;
    let outcomes = write(&store, vec![put("after", 0, b"{}".to_vec())?]).await?;
    assert_eq!(outcomes, [WriteOutcome::NotApplied(file_replaced())]);
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_store_that_reads_only_through_a_link_sees_what_a_writer_has_in_its_log() -> TestResult {
    for which in 0..2 {
        let (directory, path, links) = linked()?;
        open(&path).await?.close().await;
        let reader = SqliteStore::open(&links[which], &read_only()).await?;
        assert!(!is_stored(&reader, "user").await?);
        let writer = open(&path).await?;
        create(&writer, &["user"]).await?;
        assert!(is_stored(&reader, "user").await?, "{which}");
        writer.close().await;
        assert!(is_stored(&reader, "user").await?, "{which}");
        assert_eq!(files(&directory)?, ["data", "link", "link.db"]);
    }
    Ok(())
}

/// A path that leads to itself: the system can look at nothing there.
#[cfg(unix)]
fn hide(path: &Path) -> std::io::Result<()> {
    std::fs::rename(path, beside(path, ".hidden"))?;
    std::os::unix::fs::symlink(path, path)
}

#[cfg(unix)]
fn show(path: &Path) -> std::io::Result<()> {
    std::fs::rename(beside(path, ".hidden"), path)
}

#[cfg(unix)]
#[tokio::test]
async fn a_path_that_cannot_be_looked_at_fails_a_call_and_not_the_store() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    create(&store, &["before"]).await?;
    hide(&path)?;
    let outcomes = write(&store, vec![put("user", 0, b"{}".to_vec())?]).await?;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Unavailable(
                Cause::Io(_)
            ))]
        ),
        "{outcomes:?}"
    );
    show(&path)?;
    create(&store, &["user"]).await?;

    // The log is looked at once the commit is in it.
    hide(&beside(&path, "-wal"))?;
    let outcomes = write(&store, vec![put("unknown", 0, b"{}".to_vec())?]).await?;
    assert!(
        matches!(&outcomes[..], [WriteOutcome::Unknown(unknown)] if matches!(unknown.cause, Cause::Io(_))),
        "{outcomes:?}"
    );
    show(&beside(&path, "-wal"))?;
    assert!(is_stored(&store, "unknown").await?);
    create(&store, &["after"]).await?;
    Ok(())
}

#[tokio::test]
async fn connections_that_come_and_go_are_no_incident() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    for number in 0..20 {
        // A future that is dropped closes its connection, and with the last one the log goes.
        let batch = WriteBatch::new(vec![put(&format!("dropped-{number}"), 0, b"{}".to_vec())?])?;
        let dropped = tokio::time::timeout(Duration::ZERO, store.write(&batch)).await;
        drop(dropped);
        let other = plain(&path).await?;
        other.close().await?;
        create(&store, &[&format!("user-{number}")]).await?;
    }
    let mut other = plain(&path).await?;
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    other.execute("VACUUM").await?;
    create(&store, &["after"]).await?;
    Ok(())
}

/// The size of a page in the files that are made here.
const PAGE: usize = 4096;

#[tokio::test]
async fn a_damaged_page_harms_only_the_rows_in_it() -> TestResult {
    let (_directory, path) = new_path()?;
    let names: Vec<String> = (0..40).map(|number| format!("id-{number:02}")).collect();
    let store = open(&path).await?;
    for (name, letter) in names.iter().zip(b'A'..) {
        let bytes = vec![letter; 3 * PAGE];
        write(&store, vec![put(name, 0, bytes)?]).await?;
    }
    store.close().await;

    // The pages of long payloads form a chain: four bytes name the next page, then the payload goes on.
    let mut file = std::fs::read(&path)?;
    let damaged = [3_u8, 4, 39];
    for page in file.chunks_mut(PAGE) {
        let (next, payload) = page.split_at_mut(4);
        if damaged
            .iter()
            .any(|number| payload.iter().all(|byte| *byte == b'A' + number))
        {
            next.fill(0x7f);
        }
    }
    std::fs::write(&path, file)?;

    let store = open(&path).await?;
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    let rows = load(&store, &ids).await?;
    assert_eq!(rows.len(), ids.len());
    for (number, row) in (0..).zip(rows) {
        match row {
            Ok(Some(_)) if !damaged.contains(&number) => {}
            Err(StoreError::Unreadable { .. }) if damaged.contains(&number) => {}
            other => return Err(format!("{number}: {other:?}").into()),
        }
    }
    let alone = store.load_one(&PersistenceId::unique("id-39")?).await;
    assert!(
        matches!(alone, Err(StoreError::Unreadable { .. })),
        "{alone:?}"
    );
    Ok(())
}

#[tokio::test]
async fn ids_that_are_no_text_do_not_hide_the_others() -> TestResult {
    let (_directory, path) = new_path()?;
    let store = open(&path).await?;
    create(&store, &["a", "b", "c"]).await?;
    let mut other = plain(&path).await?;
    for id in [
        "CAST(x'61ff' AS TEXT)",
        "CAST(x'62fe' AS TEXT)",
        "CAST(x'62ff' AS TEXT)",
        "x'00'",
        "x'ff'",
    ] {
        let copy = format!(
            "INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp,
               state_ser_id, state_ser_manifest, state_payload)
             SELECT slice, entity_type, {id}, revision, db_timestamp,
               state_ser_id, state_ser_manifest, state_payload
             FROM durable_state WHERE persistence_id = 'a'"
        );
        other.execute(&*copy).await?;
    }
    for limit in 1..9 {
        let limit = std::num::NonZeroUsize::new(limit).ok_or("zero")?;
        let mut seen: Vec<PersistenceId> = Vec::new();
        loop {
            let page = store.persistence_ids(seen.last(), limit).await?;
            assert!(page.len() <= limit.get());
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        let seen: Vec<&str> = seen.iter().map(PersistenceId::as_str).collect();
        assert_eq!(seen, ["a", "b", "c"], "{limit}");
    }
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_refuses_a_row_harms_no_other_however_it_does_that() -> TestResult {
    for raise in ["ABORT", "FAIL", "ROLLBACK"] {
        for when in ["BEFORE", "AFTER"] {
            let (_directory, path) = new_path()?;
            let store = open(&path).await?;
            let names: Vec<String> = (0..100).map(|number| format!("id-{number:03}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            create(&store, &names).await?;
            let mut other = plain(&path).await?;
            let trigger = format!(
                "CREATE TRIGGER refuse {when} UPDATE ON durable_state
                 WHEN NEW.persistence_id IN ('id-007', 'id-070')
                 BEGIN SELECT RAISE({raise}, 'no'); END"
            );
            other.execute(&*trigger).await?;
            let writes = names.iter().map(|name| put(name, 1, b"{}".to_vec()));
            let outcomes = write(&store, writes.collect::<Result<_, _>>()?).await?;
            for (name, outcome) in names.iter().zip(&outcomes) {
                let is_refused =
                    matches!(outcome, WriteOutcome::NotApplied(StoreError::Refused(_)));
                let is_applied = matches!(outcome, WriteOutcome::Applied(_));
                let refuses = ["id-007", "id-070"].contains(name);
                assert_eq!(is_refused, refuses, "{raise} {when} {name}: {outcome:?}");
                assert_eq!(is_applied, !refuses, "{raise} {when} {name}: {outcome:?}");
                let id = PersistenceId::unique(name)?;
                let row = store.load_one(&id).await?.ok_or("no row")?;
                let expected = if refuses { 1 } else { 2 };
                assert_eq!(row.revision.get(), expected, "{raise} {when} {name}");
            }
            store.close().await;
        }
    }
    Ok(())
}
