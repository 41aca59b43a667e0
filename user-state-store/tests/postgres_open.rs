//! Goal: a server or a database that would not keep the store's promises is refused, each reason by its own error; the
//! migration makes Pekko's tables and leaves existing ones alone.
//! Method: databases and users with one defect each.

#![cfg(feature = "postgres")]

mod support;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor as _, Row as _};
use support::{Database, Outcome, User, load, put, write};
use user_state_store::{
    Access, Backend as _, ConnectOptions, Durability, OpenError, PostgresStore, StoreError,
    StoreSettings, WriteOutcome, connect, migrate,
};

async fn refusal(url: &str) -> Result<OpenError, Box<dyn std::error::Error>> {
    let options = ConnectOptions::parse(url)?;
    connect(&options).await.err().ok_or("it opened".into())
}

#[tokio::test]
async fn an_unreachable_server_is_told_from_a_missing_database() -> Outcome {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let error = refusal(&format!("postgres://user:marker@127.0.0.1:{port}/d")).await?;
    assert!(matches!(error, OpenError::Unreachable(_)), "{error:?}");

    let database = Database::empty().await?;
    let missing = database
        .url()
        .replace(database.name(), "user_state_test_missing");
    assert_eq!(refusal(&missing).await?, OpenError::DatabaseMissing);
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() -> Outcome {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let mut options = ConnectOptions::parse(&format!("postgres://u@{}/d", silent.local_addr()?))?;
    options.settings.connect_timeout = Duration::from_millis(50);
    let error = connect(&options).await.err().ok_or("it opened")?;
    assert!(matches!(error, OpenError::Unreachable(_)), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn an_unknown_user_is_refused() -> Outcome {
    let database = Database::migrated().await?;
    let error = refusal(&database.url_as("user_state_nobody", "marker")).await?;
    assert!(
        matches!(error, OpenError::AuthenticationFailed(_)),
        "{error:?}"
    );
    assert!(!format!("{error:?} {error}").contains("marker"));
    Ok(())
}

#[tokio::test]
async fn a_missing_table_a_wrong_column_and_a_missing_key_are_named() -> Outcome {
    let database = Database::empty().await?;
    let table = "durable_state";
    assert_eq!(
        refusal(database.url()).await?,
        OpenError::TableMissing { table }
    );

    migrate(&database.url().parse()?).await?;
    database
        .execute("ALTER TABLE durable_state ALTER state_payload TYPE jsonb USING '{}'")
        .await?;
    assert_eq!(
        refusal(database.url()).await?,
        OpenError::ColumnMismatch {
            table,
            column: "state_payload",
            expected: "bytea",
            found: "jsonb".into()
        }
    );
    database
        .execute(
            "ALTER TABLE durable_state ALTER state_payload TYPE bytea USING '';
             ALTER TABLE durable_state DROP tags",
        )
        .await?;
    let error = refusal(database.url()).await?;
    assert!(
        matches!(&error, OpenError::ColumnMismatch { column: "tags", found, .. } if &**found == "nothing"),
        "{error:?}"
    );
    database
        .execute(
            "ALTER TABLE durable_state ADD tags text[];
             ALTER TABLE durable_state DROP CONSTRAINT durable_state_pkey",
        )
        .await?;
    assert!(matches!(
        refusal(database.url()).await?,
        OpenError::KeyMissing { .. }
    ));
    Ok(())
}

#[tokio::test]
async fn a_read_only_database_is_refused_for_writing_and_not_for_reading() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(&format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            database.name()
        ))
        .await?;
    assert!(matches!(
        refusal(database.url()).await?,
        OpenError::ReadOnly { .. }
    ));
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.access = Access::ReadOnly;
    let store = connect(&options).await?;
    assert_eq!(load(store.states().as_ref(), "a").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_store_opened_for_reading_cannot_write() -> Outcome {
    let database = Database::migrated().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.settings.access = Access::ReadOnly;
    let store = connect(&options).await?;
    for writes in [vec![put("a", 0, 1, b"x")], vec![put("a", 1, 2, b"x")]] {
        let outcomes = write(store.states().as_ref(), writes).await;
        assert!(
            matches!(
                outcomes[..],
                [WriteOutcome::NotApplied(StoreError::Misconfigured(_))]
            ),
            "{outcomes:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_would_lose_commits_is_refused_unless_that_is_allowed() -> Outcome {
    let database = Database::migrated().await?;
    let url = format!("{}?options=-c%20synchronous_commit%3Doff", database.url());
    let error = refusal(&url).await?;
    assert!(
        matches!(&error, OpenError::NotDurable { setting, .. } if &**setting == "synchronous_commit"),
        "{error:?}"
    );
    let mut options = ConnectOptions::parse(&url)?;
    options.settings.durability = Durability::AllowRelaxed;
    connect(&options).await?.close().await;
    Ok(())
}

#[tokio::test]
async fn missing_privileges_are_named_and_delete_is_not_among_them() -> Outcome {
    let user = User::new(Database::migrated().await?).await?;
    for privilege in ["SELECT", "INSERT", "UPDATE"] {
        assert_eq!(
            refusal(&user.url()).await?,
            OpenError::MissingPrivilege {
                privilege,
                table: "durable_state"
            }
        );
        let grant = format!("GRANT {privilege} ON durable_state TO {}", user.name);
        user.server.execute(&grant).await?;
    }
    let store = PostgresStore::open(&user.url().parse()?).await?;
    let outcomes = write(&store, vec![put("a", 0, 1, b"x")]).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    let erase = support::change("a", 1, user_state_store::Change::Erase);
    let outcomes = write(&store, vec![erase]).await;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Misconfigured(_))]
        ),
        "{outcomes:?}"
    );
    store.close().await;
    user.drop().await?;
    Ok(())
}

#[tokio::test]
async fn a_table_that_vanishes_is_a_misconfiguration_from_then_on() -> Outcome {
    let database = Database::migrated().await?;
    let store = PostgresStore::open(&database.url().parse()?).await?;
    database.execute("DROP TABLE durable_state").await?;
    assert!(matches!(
        load(&store, "a").await,
        Err(StoreError::Misconfigured(_))
    ));
    let outcomes = write(&store, vec![put("a", 0, 1, b"x"), put("b", 1, 2, b"x")]).await;
    for outcome in outcomes {
        assert!(matches!(
            outcome,
            WriteOutcome::NotApplied(StoreError::Misconfigured(_))
        ));
    }
    Ok(())
}

/// Every relation, column, default, constraint and index of the database, with the identity of each relation.
async fn catalog(database: &Database) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT concat_ws(' ', c.oid, c.relfilenode, c.relkind, c.relname, a.attname,
                          format_type(a.atttypid, a.atttypmod), a.attnotnull,
                          pg_get_expr(d.adbin, d.adrelid), pg_get_indexdef(c.oid), n.conname)
         FROM pg_class c
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         LEFT JOIN pg_constraint n ON n.conindid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace
         ORDER BY c.relname, a.attnum",
    )
    .fetch_all(&mut database.connect().await?)
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[tokio::test]
async fn a_migration_makes_every_table_and_changes_none_that_is_there() -> Outcome {
    let script = include_str!("../migrations/postgres/0001_create_pekko_tables.sql");
    let pekkos = Database::empty().await?;
    pekkos.execute(script).await?;
    pekkos
        .execute("INSERT INTO durable_state VALUES (1, '', 'a', 5, now(), 31, 'm', 'x', NULL)")
        .await?;
    let before = catalog(&pekkos).await?;
    for _ in 0..2 {
        migrate(&pekkos.url().parse()?).await?;
    }
    assert_eq!(catalog(&pekkos).await?, before);
    let store = connect(&pekkos.url().parse()?).await?;
    assert_eq!(
        load(store.states().as_ref(), "a")
            .await?
            .ok_or("no row")?
            .revision
            .get(),
        5
    );

    let ours = Database::migrated().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1",
    )
    .fetch_all(&mut ours.connect().await?)
    .await?;
    assert_eq!(
        tables,
        [
            "durable_state",
            "event_journal",
            "projection_management",
            "projection_offset_store",
            "projection_timestamp_offset_store",
            "snapshot"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn migrations_at_the_same_time_all_succeed() -> Outcome {
    let database = Database::empty().await?;
    let options = ConnectOptions::parse(database.url())?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let options = options.clone();
        tasks.spawn(async move { migrate(&options).await });
    }
    for migrated in tasks.join_all().await {
        migrated?;
    }
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_not_create_tables_is_told_so() -> Outcome {
    let user = User::new(Database::empty().await?).await?;
    user.server
        .execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await?;
    let error = migrate(&user.url().parse()?)
        .await
        .err()
        .ok_or("it migrated")?;
    assert!(
        matches!(
            error,
            OpenError::MissingPrivilege {
                privilege: "CREATE",
                ..
            }
        ),
        "{error:?}"
    );
    user.drop().await?;
    Ok(())
}

#[tokio::test]
async fn a_callers_pool_serves_the_store_and_outlives_it() -> Outcome {
    let database = Database::migrated().await?;
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect(database.url())
        .await?;
    let store = PostgresStore::from_pool(pool.clone(), StoreSettings::default()).await?;
    let outcomes = write(&store, vec![put("a", 0, 1, b"x")]).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    assert!(load(&store, "a").await?.is_some());
    store.close().await;
    assert_eq!(load(&store, "a").await, Err(StoreError::Closed));
    pool.execute("SELECT 1").await?;
    Ok(())
}

/// Which case the child process plays.
const CHILD: &str = "USER_STATE_TEST_CHILD_URL";

/// Runs a test of this file again in a process with these variables, on this URL, and gives what it printed.
fn child(
    test: &str,
    url: &str,
    variables: &[(&str, &str)],
) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, url)
        .envs(variables.iter().copied())
        .output()?;
    let printed = String::from_utf8(output.stdout)?;
    let opened = printed
        .lines()
        .find_map(|line| line.strip_prefix("opened "))
        .ok_or(format!("{printed} {:?}", output.stderr))?;
    Ok(opened.to_owned())
}

#[tokio::test]
async fn variables_of_libpq_count_where_the_url_says_nothing_and_wrong_ones_are_named() -> Outcome {
    if let Ok(url) = std::env::var(CHILD) {
        let opened = connect(&url.parse()?).await.map(drop);
        println!("\nopened {opened:?}");
        return Ok(());
    }
    let test = "variables_of_libpq_count_where_the_url_says_nothing_and_wrong_ones_are_named";
    let database = Database::migrated().await?;
    let plain = database.url();
    let disabled = format!("{plain}?sslmode=disable");
    for (url, variables, opened) in [
        (plain, &[("PGSSLMODE", "disable")][..], "Ok(())"),
        // The server has no TLS.
        (plain, &[("PGSSLMODE", "verify-full")], "Err(TlsRefused)"),
        (&disabled, &[("PGSSLMODE", "verify-full")], "Ok(())"),
        (
            plain,
            &[("PGSSLMODE", "no-verify")],
            "option: \"PGSSLMODE\"",
        ),
        (plain, &[("PGSSLMODE", "")], "Ok(())"),
        (plain, &[("PGPORT", "nonsense")], "Ok(())"),
        (
            "postgres://u@localhost/d",
            &[("PGPORT", "nonsense")],
            "option: \"PGPORT\"",
        ),
        (
            plain,
            &[("PGSSLROOTCERT", "no-such-file")],
            "option: \"PGSSLROOTCERT\"",
        ),
        (plain, &[("PGSSLROOTCERT", "system")], "Err(TlsRefused)"),
        (
            plain,
            &[("PGSSLCERT", "no-such-file")],
            "option: \"PGSSLCERT\"",
        ),
    ] {
        let told = child(test, url, variables)?;
        assert!(told.contains(opened), "{variables:?}: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn parameters_of_hosting_providers_open_a_store() -> Outcome {
    let database = Database::migrated().await?;
    for parameters in [
        "channel_binding=prefer&connect_timeout=10&target_session_attrs=read-write",
        "gssencmode=disable&keepalives_idle=30&sslnegotiation=postgres&application_name=a@b",
        "options=-c%20lock_timeout%3D1s&client_encoding=UTF8&fallback_application_name=shop",
    ] {
        let url = format!("{}?{parameters}", database.url());
        connect(&url.parse()?).await?.close().await;
        let upper = url.replacen("postgres", "Postgres", 1);
        connect(&upper.parse()?).await?.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn the_kind_of_server_that_a_url_asks_for_is_checked() -> Outcome {
    let database = Database::migrated().await?;
    for (attributes, access, accepted) in [
        ("any", Access::ReadWrite, true),
        ("primary", Access::ReadWrite, true),
        ("prefer-standby", Access::ReadWrite, true),
        ("read-only", Access::ReadWrite, false),
        ("standby", Access::ReadWrite, false),
        ("read-write", Access::ReadOnly, true),
        ("read-only", Access::ReadOnly, true),
        ("prefer-standby", Access::ReadOnly, true),
        ("standby", Access::ReadOnly, false),
    ] {
        let url = format!("{}?target_session_attrs={attributes}", database.url());
        let mut options = ConnectOptions::parse(&url)?;
        options.settings.access = access;
        let opened = connect(&options).await.map(drop);
        assert_eq!(
            opened.is_ok(),
            accepted,
            "{attributes} {access:?}: {opened:?}"
        );
        if let Err(refused) = opened {
            assert!(
                refused.to_string().contains("target_session_attrs"),
                "{refused}"
            );
        }
    }
    Ok(())
}

/// The SQL of the page on security, with roles and passwords of this test.
fn statements_for_roles(suffix: &str) -> Vec<String> {
    let page = include_str!("../../SECURITY.md");
    let blocks = page.split("```sql\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks
        .map(|sql| sql.replace("user_state_", &format!("user_state_{suffix}_")))
        .collect()
}

#[tokio::test]
async fn the_roles_of_the_page_on_security_migrate_write_and_read() -> Outcome {
    let database = Database::empty().await?;
    let suffix = database.name().replace("user_state_test_", "");
    let role = |name: &str| format!("user_state_{suffix}_{name}");
    let [roles, grants] = &statements_for_roles(&suffix)[..] else {
        return Err("the page has other blocks".into());
    };
    database.execute(roles).await?;
    for name in ["migrator", "runtime", "reader"] {
        let password = format!("ALTER ROLE {} PASSWORD 'its-password'", role(name));
        database.execute(&password).await?;
    }
    let url = |name: &str| database.url_as(&role(name), "its-password");
    migrate(&url("migrator").parse()?).await?;
    database.execute(grants).await?;

    let store = connect(&url("runtime").parse()?).await?;
    let outcomes = write(store.states().as_ref(), vec![put("a", 0, 1, b"x")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    store.close().await;
    let mut options = ConnectOptions::parse(&url("reader"))?;
    options.settings.access = Access::ReadOnly;
    let store = connect(&options).await?;
    assert!(load(store.states().as_ref(), "a").await?.is_some());
    store.close().await;
    // Its role is set at login, and it may not see its own processes by it.
    connect(&url("migrator").parse()?).await?.close().await;

    for name in ["owner", "migrator", "runtime", "reader"] {
        let role = role(name);
        let drop = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
        database.execute(&drop).await?;
    }
    Ok(())
}
