//! Goal: nothing that happens to the server or to a session while the store is open keeps the store from working once a new
//! session can; what a new session does not promise is refused by name.
//! Method: the store has sessions in use, the test changes the database as an operator does, and the same calls go on.

#![cfg(feature = "postgres")]

mod support;

use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use support::pooler::{Pooler, Unknown};
use support::proxy::Proxy;
use support::{Database, Outcome, change, load, put, write};
use throwaway_postgres::{PostgresServer, TestDatabase};
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Url;
use user_state_store::{
    Backend as _, Cause, Change, ChangesQuery, ConnectOptions, OpenError, PostgresStore,
    SliceRange, StateFeeds as _, StoreError, StoreSettings, Write, WriteOutcome, connect, migrate,
};

/// How long to wait for what takes milliseconds, before it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store with one session of each kind, so that the next call meets the session of the last.
async fn narrow(database: &Database) -> Result<PostgresStore, Box<dyn Error>> {
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.writer_connections = 1;
    options.pool_connections_max = 1;
    Ok(PostgresStore::open(&options).await?)
}

/// The same on a pool of the test's own.
async fn on_a_callers_pool(
    database: &Database,
    connections: u32,
) -> Result<(PostgresStore, PgPool), Box<dyn Error>> {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .connect(database.url())
        .await?;
    let mut settings = StoreSettings::default();
    settings.writer_connections = 1;
    Ok((
        PostgresStore::from_pool(pool.clone(), settings).await?,
        pool,
    ))
}

/// Writes once, and expects every write to be applied.
async fn applied(store: &PostgresStore, writes: Vec<Write>) -> Outcome {
    let outcomes = write(store, writes).await;
    let are_applied = outcomes
        .iter()
        .all(|it| matches!(it, WriteOutcome::Applied(_)));
    are_applied
        .then_some(())
        .ok_or(format!("{outcomes:?}").into())
}

/// One call of each kind, round by round on rows of its own.
async fn use_everything(store: &PostgresStore, round: i64) -> Outcome {
    let (kept, gone) = (format!("kept-{round}"), format!("gone-{round}"));
    applied(store, vec![put(&kept, 0, 1, b"1"), put(&gone, 0, 1, b"1")]).await?;
    applied(store, vec![put(&kept, 1, 2, b"2")]).await?;
    applied(store, vec![change(&gone, 1, Change::Erase)]).await?;
    let row = load(store, &kept).await?.ok_or("no row")?;
    assert_eq!(row.revision.get(), 2);
    let page = store.changes(&everything()).await?;
    assert!(
        page.states
            .iter()
            .any(|it| it.persistence_id.as_str() == kept)
    );
    let ids = store.persistence_ids(None, NonZeroUsize::MAX).await?;
    assert!(ids.iter().any(|id| id.as_str() == kept));
    Ok(())
}

fn everything() -> ChangesQuery {
    ChangesQuery::all("", SliceRange::ALL)
}

/// Ends all sessions of the database but the observer's, and waits until they are gone.
async fn end_sessions(database: &Database) -> Outcome {
    let mut observer = database.connect().await?;
    timeout(PATIENCE, async {
        loop {
            let left: i64 = sqlx::query_scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .fetch_one(&mut observer)
            .await?;
            if left == 0 {
                return Ok::<_, sqlx::Error>(());
            }
        }
    })
    .await??;
    Ok(())
}

#[tokio::test]
async fn a_changed_column_type_ends_no_call_of_any_kind() -> Outcome {
    let database = Database::migrated().await?;
    let own = narrow(&database).await?;
    let (shared, _pool) = on_a_callers_pool(&database, 1).await?;
    for (index, store) in [&own, &shared].into_iter().enumerate() {
        let base = i64::try_from(index)? * 10;
        use_everything(store, base).await?;
        for (round, length) in [(1, 400), (2, 500)] {
            database
                .execute(&format!(
                    "ALTER TABLE durable_state ALTER persistence_id TYPE varchar({})",
                    length + index
                ))
                .await?;
            use_everything(store, base + round).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn prepared_statements_that_somebody_removes_end_no_call() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "CREATE TABLE removals (at timestamptz);
             CREATE FUNCTION remove_all() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN NULL; END $$",
        )
        .await?;
    let own = narrow(&database).await?;
    let (shared, pool) = on_a_callers_pool(&database, 1).await?;
    for (base, store, pool) in [(0, &own, own.pool()), (10, &shared, &pool)] {
        use_everything(store, base).await?;
        pool.execute("DEALLOCATE ALL").await?;
        database
            .execute(
                "CREATE TRIGGER remover AFTER UPDATE ON durable_state
                 FOR EACH STATEMENT EXECUTE FUNCTION remove_all()",
            )
            .await?;
        applied(store, vec![put(&format!("kept-{base}"), 2, 3, b"3")]).await?;
        database
            .execute("DROP TRIGGER remover ON durable_state")
            .await?;
        use_everything(store, base + 1).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pooled_connection_whose_search_path_somebody_changed_is_replaced() -> Outcome {
    let database = Database::migrated().await?;
    let (store, pool) = on_a_callers_pool(&database, 1).await?;
    use_everything(&store, 0).await?;
    pool.execute("SET search_path = pg_catalog").await?;
    use_everything(&store, 1).await?;
    pool.execute("SET search_path = pg_catalog").await?;
    let opened = PostgresStore::from_pool(pool, StoreSettings::default()).await?;
    use_everything(&opened, 2).await?;
    Ok(())
}

/// Loads many ids at once, each in a call of its own.
async fn load_all(store: &Arc<PostgresStore>, count: usize) -> Outcome {
    let mut loads = JoinSet::new();
    for index in 0..count {
        let store = store.clone();
        loads.spawn(async move { load(&*store, &format!("id-{index}")).await });
    }
    for row in loads.join_all().await {
        row?.ok_or("no row")?;
    }
    Ok(())
}

async fn stores_of_each_size(
    database: &Database,
) -> Result<Vec<Arc<PostgresStore>>, Box<dyn Error>> {
    let mut stores = Vec::new();
    for connections in [1, 8] {
        let mut options = ConnectOptions::parse(database.url())?;
        options.pool_connections_max = connections;
        stores.push(PostgresStore::open(&options).await?.into());
        stores.push(on_a_callers_pool(database, connections).await?.0.into());
    }
    Ok(stores)
}

#[tokio::test]
async fn reads_survive_the_end_of_every_pooled_connection() -> Outcome {
    let database = Database::migrated().await?;
    let stores = stores_of_each_size(&database).await?;
    let rows = (0..30).map(|index| put(&format!("id-{index}"), 0, 1, b"1"));
    applied(&stores[0], rows.collect()).await?;
    for store in &stores {
        for _ in 0..3 {
            load_all(store, 30).await?;
            end_sessions(&database).await?;
            load_all(store, 30).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_session_that_the_server_ended_for_being_idle_costs_no_call() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(&format!(
            "ALTER DATABASE {} SET idle_session_timeout = '100ms'",
            database.name()
        ))
        .await?;
    let store = narrow(&database).await?;
    let mut observer = database.connect().await?;
    observer.execute("SET idle_session_timeout = 0").await?;
    for round in 0..3 {
        use_everything(&store, round).await?;
        timeout(PATIENCE, until_alone(&mut observer)).await??;
    }
    Ok(())
}

async fn until_alone(observer: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        let others: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .fetch_one(&mut *observer)
        .await?;
        if others == 0 {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_read_of_a_server_that_is_down_fails_before_long() -> Outcome {
    let server = PostgresServer::start().await?;
    let database = server.create_database().await?;
    migrate(&database.url().parse()?).await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    assert_eq!(load(&store, "a").await?, None);
    server.kill().await?;
    let answer = timeout(PATIENCE, load(&store, "a")).await?;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    server.restart().await?;
    assert_eq!(load(&store, "a").await?, None);
    Ok(())
}

/// Two servers with one password: new sessions reach the old one, and later the new one.
struct Failover {
    pooler: Pooler,
    old: TestDatabase,
    new: TestDatabase,
    _servers: [PostgresServer; 2],
}

impl Failover {
    async fn begin(new_settings: &[(&str, &str)]) -> Result<Self, Box<dyn Error>> {
        let servers = [
            PostgresServer::start().await?,
            PostgresServer::start_with(new_settings).await?,
        ];
        let old = servers[0].create_database().await?;
        let new = servers[1].create_database().await?;
        for database in [&old, &new] {
            migrate(&database.url().parse()?).await?;
        }
        let pooler = Pooler::to(address(&old)?, Unknown::Refused).await?;
        pooler.lead_to(address(&old)?, old.name());
        Ok(Self {
            pooler,
            old,
            new,
            _servers: servers,
        })
    }

    /// The URL of whichever server takes new sessions.
    fn url(&self) -> Result<String, Box<dyn Error>> {
        let mut url = Url::parse(self.old.url())?;
        let port = self.pooler.address().port();
        url.set_port(Some(port)).map_err(|()| "no port")?;
        Ok(url.into())
    }

    /// The old server takes no writes any more, and new sessions reach the new one.
    async fn demote(&self) -> Outcome {
        self.lead_on().await?;
        let mut operator = PgConnection::connect(self.old.url()).await?;
        operator
            .execute("ALTER SYSTEM SET default_transaction_read_only = on")
            .await?;
        operator.execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// New sessions reach the new server.
    async fn lead_on(&self) -> Outcome {
        let url = Url::parse(self.old.url())?;
        let password = url.password().ok_or("no password")?;
        let mut operator = PgConnection::connect(self.new.url()).await?;
        operator
            .execute(&*format!("ALTER ROLE postgres PASSWORD '{password}'"))
            .await?;
        self.pooler.lead_to(address(&self.new)?, self.new.name());
        Ok(())
    }
}

fn address(database: &TestDatabase) -> Result<SocketAddr, Box<dyn Error>> {
    let addresses = Url::parse(database.url())?.socket_addrs(|| None)?;
    Ok(*addresses.first().ok_or("no address")?)
}

#[tokio::test]
async fn after_a_failover_writes_and_reads_leave_the_old_server() -> Outcome {
    for owned in [true, false] {
        let failover = Failover::begin(&[]).await?;
        let store = if owned {
            PostgresStore::open(&failover.url()?.parse()?).await?
        } else {
            let connect: PgConnectOptions = failover.url()?.parse()?;
            let pool = PgPoolOptions::new().connect_with(connect.extra_float_digits(None));
            PostgresStore::from_pool(pool.await?, StoreSettings::default()).await?
        };
        applied(&store, vec![put("a", 0, 1, b"old")]).await?;
        assert!(load(&store, "a").await?.is_some());
        let mut observer = PgConnection::connect(failover.new.url()).await?;
        failover.demote().await?;
        let created = timeout(PATIENCE, created_on(&store, &mut observer)).await??;
        assert!(load(&store, &created).await?.is_some(), "owned: {owned}");
        assert_eq!(load(&store, "a").await?, None, "owned: {owned}");
        store.close().await;
    }
    Ok(())
}

/// Creates entities until the observer's server has the newest: the old server's sessions hear of their new settings one
/// after the other.
async fn created_on(
    store: &PostgresStore,
    observer: &mut PgConnection,
) -> Result<String, Box<dyn Error>> {
    for index in 0.. {
        let id = format!("b-{index}");
        applied(store, vec![put(&id, 0, 1, b"new")]).await?;
        let asking =
            sqlx::query("SELECT revision FROM durable_state WHERE persistence_id = $1").bind(&id);
        if asking.fetch_optional(&mut *observer).await?.is_some() {
            return Ok(id);
        }
    }
    Err("there are no more numbers".into())
}

/// Why a store that may write does not read here.
fn session_error(answer: &Result<impl Sized, StoreError>) -> Option<&OpenError> {
    match answer {
        Err(StoreError::Misconfigured(Cause::Session(error))) => Some(error),
        _ => None,
    }
}

fn write_error(outcomes: &[WriteOutcome]) -> Option<&OpenError> {
    match outcomes {
        [WriteOutcome::NotApplied(StoreError::Misconfigured(Cause::Session(error)))] => Some(error),
        _ => None,
    }
}

#[tokio::test]
async fn a_new_session_on_a_read_only_database_is_refused_by_name() -> Outcome {
    let database = Database::migrated().await?;
    let store = narrow(&database).await?;
    use_everything(&store, 0).await?;
    let set = |value: &str| {
        format!(
            "ALTER DATABASE {} SET default_transaction_read_only = {value}",
            database.name()
        )
    };
    database.execute(&set("on")).await?;
    end_sessions(&database).await?;
    let answer = load(&store, "a").await;
    assert!(
        matches!(session_error(&answer), Some(OpenError::ReadOnly { .. })),
        "{answer:?}"
    );
    let outcomes = write(&store, vec![put("b", 0, 1, b"x")]).await;
    assert!(
        matches!(write_error(&outcomes), Some(OpenError::ReadOnly { .. })),
        "{outcomes:?}"
    );
    let mut operator = database.connect().await?;
    operator
        .execute("SET default_transaction_read_only = off")
        .await?;
    operator.execute(&*set("off")).await?;
    use_everything(&store, 1).await?;
    Ok(())
}

#[tokio::test]
async fn commits_wait_for_the_disk_whatever_the_role_says() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "CREATE TABLE seen (id text, setting text);
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO seen VALUES (NEW.persistence_id, current_setting('synchronous_commit'));
               RETURN NEW; END $$;
             CREATE TRIGGER seeing BEFORE INSERT ON durable_state
             FOR EACH ROW EXECUTE FUNCTION see()",
        )
        .await?;
    let store = narrow(&database).await?;
    applied(&store, vec![put("before", 0, 1, b"x")]).await?;
    for (id, value) in [("off", "off"), ("local", "local")] {
        let set = format!(
            "ALTER DATABASE {} SET synchronous_commit = {value}",
            database.name()
        );
        database.execute(&set).await?;
        // The second load meets the ends, so that no write is lost.
        assert!(load(&store, "before").await?.is_some());
        end_sessions(&database).await?;
        assert!(load(&store, "before").await?.is_some());
        applied(&store, vec![put(id, 0, 1, b"x")]).await?;
        let opened = narrow(&database).await?;
        applied(&opened, vec![put(&format!("opened-{id}"), 0, 1, b"x")]).await?;
    }
    let seen: Vec<(String, String)> = sqlx::query_as("SELECT id, setting FROM seen ORDER BY 1")
        .fetch_all(&mut database.connect().await?)
        .await?;
    let seen: Vec<_> = seen
        .iter()
        .map(|(id, setting)| (&**id, &**setting))
        .collect();
    let expected = [
        ("before", "on"),
        ("local", "local"),
        ("off", "on"),
        ("opened-local", "local"),
        ("opened-off", "on"),
    ];
    assert_eq!(seen, expected);
    Ok(())
}

/// Whether this is the refusal of an unlogged table of that name.
fn is_unlogged(error: Option<&OpenError>, table: &str) -> bool {
    matches!(
        error,
        Some(OpenError::NotDurable { setting, value })
            if **setting == *format!("table {table}") && &**value == "unlogged"
    )
}

#[tokio::test]
async fn an_unlogged_table_or_partition_is_refused_by_name() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute("ALTER TABLE durable_state SET UNLOGGED")
        .await?;
    let refused = connect(&database.url().parse()?).await.err();
    assert!(
        is_unlogged(refused.as_ref(), "durable_state"),
        "{refused:?}"
    );
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.durability = user_state_store::Durability::AllowRelaxed;
    connect(&options).await?;

    database
        .execute(
            "ALTER TABLE durable_state RENAME TO states_0;
             ALTER TABLE states_0 SET LOGGED;
             ALTER INDEX durable_state_pkey RENAME TO states_0_pkey;
             CREATE TABLE durable_state (LIKE states_0, PRIMARY KEY (persistence_id, revision))
             PARTITION BY RANGE (persistence_id);
             ALTER TABLE durable_state ATTACH PARTITION states_0 FOR VALUES FROM (MINVALUE) TO ('m');
             CREATE TABLE states_1 PARTITION OF durable_state
             FOR VALUES FROM ('m') TO (MAXVALUE) PARTITION BY RANGE (persistence_id);
             CREATE TABLE states_1_0 PARTITION OF states_1 DEFAULT",
        )
        .await?;
    connect(&database.url().parse()?).await?.close().await;
    database
        .execute("ALTER TABLE states_1_0 SET UNLOGGED")
        .await?;
    let refused = connect(&database.url().parse()?).await.err();
    assert!(is_unlogged(refused.as_ref(), "states_1_0"), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_becomes_unlogged_is_noticed_within_the_age_of_a_session() -> Outcome {
    let database = Database::migrated().await?;
    let pool = PgPool::connect(database.url()).await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.session_age_max = Duration::from_millis(200);
    options.settings.writer_connections = 1;
    let own = PostgresStore::open(&options).await?;
    let shared = PostgresStore::from_pool(pool, options.settings.clone()).await?;
    for (round, store) in [&own, &shared].into_iter().enumerate() {
        use_everything(store, i64::try_from(round)?).await?;
        database
            .execute("ALTER TABLE durable_state SET UNLOGGED")
            .await?;
        timeout(PATIENCE, async {
            loop {
                let answer = load(store, "a").await;
                if is_unlogged(session_error(&answer), "durable_state") {
                    return;
                }
                assert_eq!(answer, Ok(None));
            }
        })
        .await?;
        timeout(PATIENCE, async {
            for index in 0.. {
                let id = format!("{round}-{index}");
                let outcomes = write(store, vec![put(&id, 0, 1, b"x")]).await;
                if is_unlogged(write_error(&outcomes), "durable_state") {
                    return;
                }
                assert!(
                    matches!(outcomes[..], [WriteOutcome::Applied(_)]),
                    "{outcomes:?}"
                );
            }
        })
        .await?;
        database
            .execute("ALTER TABLE durable_state SET LOGGED")
            .await?;
        use_everything(store, i64::try_from(round + 10)?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_session_on_a_server_that_would_lose_commits_is_refused_by_name() -> Outcome {
    for setting in ["fsync", "full_page_writes"] {
        let failover = Failover::begin(&[(setting, "off")]).await?;
        let mut options = ConnectOptions::parse(&failover.url()?)?;
        options.settings.session_age_max = Duration::from_millis(100);
        let store = PostgresStore::open(&options).await?;
        use_everything(&store, 0).await?;
        failover.lead_on().await?;
        timeout(PATIENCE, async {
            for index in 0.. {
                let outcomes = write(&store, vec![put(&format!("{index}"), 0, 1, b"x")]).await;
                if let Some(OpenError::NotDurable { setting: named, .. }) = write_error(&outcomes) {
                    assert_eq!(&**named, setting);
                    return;
                }
                assert!(
                    matches!(outcomes[..], [WriteOutcome::Applied(_)]),
                    "{outcomes:?}"
                );
            }
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_session_that_finds_another_table_is_refused() -> Outcome {
    let database = Database::migrated().await?;
    let store = narrow(&database).await?;
    use_everything(&store, 0).await?;
    database
        .execute(&format!(
            "CREATE SCHEMA other; CREATE TABLE other.durable_state (LIKE durable_state INCLUDING ALL);
             ALTER DATABASE {} SET search_path = other, public",
            database.name()
        ))
        .await?;
    end_sessions(&database).await?;
    let answer = load(&store, "a").await;
    assert!(
        matches!(
            session_error(&answer),
            Some(OpenError::OtherTable { expected, found, .. })
                if &**expected == "public" && &**found == "other"
        ),
        "{answer:?}"
    );
    let outcomes = write(&store, vec![put("b", 0, 1, b"x")]).await;
    assert!(
        matches!(write_error(&outcomes), Some(OpenError::OtherTable { .. })),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn no_session_of_the_store_outlives_its_age() -> Outcome {
    let database = Database::migrated().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.session_age_max = Duration::from_millis(150);
    options.settings.writer_connections = 1;
    options.pool_connections_max = 1;
    let store = PostgresStore::open(&options).await?;
    use_everything(&store, 0).await?;
    let mut observer = database.connect().await?;
    let first: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'user-state'",
    )
    .fetch_all(&mut observer)
    .await?;
    assert!(!first.is_empty());
    timeout(PATIENCE, async {
        for round in 1.. {
            use_everything(&store, round).await?;
            let left: i64 =
                sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1)")
                    .bind(&first)
                    .fetch_one(&mut observer)
                    .await?;
            if left == 0 {
                return Ok(());
            }
        }
        Err::<(), Box<dyn Error>>("never".into())
    })
    .await?
}

/// Says that a user takes as few sessions as the store may have, one of each kind.
#[tokio::test]
async fn a_session_is_replaced_where_the_server_has_no_room_for_one_more() -> Outcome {
    let database = Database::migrated().await?;
    let user = database
        .name()
        .replace("user_state_test", "user_state_user");
    database
        .execute(&format!(
            "CREATE ROLE {user} LOGIN PASSWORD 'its-password' CONNECTION LIMIT 2;
             GRANT ALL ON durable_state TO {user}"
        ))
        .await?;
    let mut options = ConnectOptions::parse(&database.url_as(&user, "its-password"))?;
    options.settings.writer_connections = 1;
    options.pool_connections_max = 1;
    let store = PostgresStore::open(&options).await?;
    use_everything(&store, 0).await?;
    for (round, length) in [(1, 400), (2, 500), (3, 600)] {
        database
            .execute(&format!(
                "ALTER TABLE durable_state ALTER persistence_id TYPE varchar({length})"
            ))
            .await?;
        use_everything(&store, round).await?;
    }
    store.close().await;
    database
        .execute(&format!("DROP OWNED BY {user}; DROP ROLE {user}"))
        .await?;
    Ok(())
}

/// The statements prepared by the store know how often they ran.
#[tokio::test]
async fn a_pooled_connection_is_proven_once_and_not_for_each_read() -> Outcome {
    let database = Database::migrated().await?;
    let own = narrow(&database).await?;
    let (shared, pool) = on_a_callers_pool(&database, 1).await?;
    for (store, pool) in [(&own, own.pool()), (&shared, &pool)] {
        for _ in 0..50 {
            assert_eq!(load(store, "a").await?, None);
        }
        let proofs: i64 = sqlx::query_scalar(
            "SELECT (generic_plans + custom_plans)::bigint FROM pg_prepared_statements
             WHERE statement LIKE '%pg_is_in_recovery()%' AND statement NOT LIKE '%generic%'",
        )
        .fetch_one(pool)
        .await?;
        assert!(proofs <= 2, "{proofs} for 50 loads");
    }
    Ok(())
}

#[tokio::test]
async fn a_pooled_connection_that_something_on_the_way_forgot_fails_no_read() -> Outcome {
    let database = Database::migrated().await?;
    let proxy = Proxy::to(database.address()?).await?;
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .test_before_acquire(false)
        .connect(&database.url_at(proxy.address()))
        .await?;
    let mut settings = StoreSettings::default();
    // Each use finds the connection too old to be taken for fit.
    settings.session_age_max = Duration::from_millis(10);
    settings.acquire_timeout = Duration::from_secs(1);
    settings.connect_timeout = Duration::from_secs(1);
    let store = Arc::new(PostgresStore::from_pool(pool, settings).await?);
    applied(&store, vec![put("id-0", 0, 1, b"x")]).await?;
    let mut loads = JoinSet::new();
    for _ in 0..3 {
        let store = Arc::clone(&store);
        loads.spawn(async move { load(&*store, "id-0").await.map(|row| row.is_some()) });
    }
    for found in loads.join_all().await {
        assert!(found?);
    }
    proxy.freeze();
    for _ in 0..3 {
        assert!(load(&*store, "id-0").await?.is_some());
    }
    Ok(())
}
