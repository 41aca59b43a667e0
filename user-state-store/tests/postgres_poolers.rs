//! Goal: behind a pooler in session mode the store is what it is without one, or says by name what is missing.
//! Method: poolers that refuse start-up parameters they do not know, and such that drop them without a word.

#![cfg(feature = "postgres")]

mod support;

use std::error::Error;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use support::pooler::{Pooler, Unknown};
use support::{Database, Outcome, load, put, write};
use tokio::time::Instant;
use url::Url;
use user_state_store::{
    Access, Cause, ConnectOptions, OpenError, PostgresStore, StoreError, StoreSettings,
    WriteOutcome, connect, migrate,
};

/// A database behind a pooler.
struct Scene {
    pooler: Pooler,
    database: Database,
}

impl Scene {
    async fn new(unknown: Unknown) -> Result<Self, Box<dyn Error>> {
        let database = Database::empty().await?;
        let pooler = Pooler::to(database.address()?, unknown).await?;
        Ok(Self { pooler, database })
    }

    fn url(&self) -> String {
        self.database.url_at(self.pooler.address())
    }

    /// The URL with settings for each session.
    fn url_with(&self, options: &str) -> Result<String, Box<dyn Error>> {
        let mut url = Url::parse(&self.url())?;
        url.query_pairs_mut().append_pair("options", options);
        Ok(url.into())
    }
}

#[tokio::test]
async fn a_store_works_behind_poolers_that_refuse_or_drop_parameters() -> Outcome {
    for unknown in [Unknown::Refused, Unknown::Dropped] {
        let scene = Scene::new(unknown).await?;
        migrate(&scene.url().parse()?).await?;
        let store = connect(&scene.url().parse()?).await?;
        let outcomes = write(store.states().as_ref(), vec![put("a", 0, 1, b"x")]).await;
        assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
        assert!(load(store.states().as_ref(), "a").await?.is_some());
        store.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn the_search_path_of_the_url_holds_behind_any_pooler() -> Outcome {
    for unknown in [Unknown::Refused, Unknown::Dropped] {
        let scene = Scene::new(unknown).await?;
        scene.database.execute("CREATE SCHEMA app").await?;
        let options: ConnectOptions = scene.url_with("-c search_path=app")?.parse()?;
        migrate(&options).await?;
        let store = PostgresStore::open(&options).await?;
        let outcomes = write(&store, vec![put("a", 0, 1, b"x"), put("b", 0, 1, b"x")]).await;
        assert!(matches!(
            outcomes[..],
            [WriteOutcome::Applied(_), WriteOutcome::Applied(_)]
        ));
        assert!(load(&store, "a").await?.is_some());
        let mut observer = scene.database.connect().await?;
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM app.durable_state")
            .fetch_one(&mut observer)
            .await?;
        assert_eq!(rows, 2);
        let others: Option<String> =
            sqlx::query_scalar("SELECT to_regclass('public.durable_state')::text")
                .fetch_one(&mut observer)
                .await?;
        assert_eq!(others, None);
        // Others that share the store's pool have it too.
        store.pool().execute("SELECT FROM durable_state").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_store_for_reading_cannot_write_behind_a_pooler_that_drops_parameters() -> Outcome {
    let scene = Scene::new(Unknown::Dropped).await?;
    migrate(&scene.url().parse()?).await?;
    let mut options = ConnectOptions::parse(&scene.url())?;
    options.settings.access = Access::ReadOnly;
    let store = PostgresStore::open(&options).await?;
    let outcomes = write(&store, vec![put("a", 0, 1, b"x")]).await;
    assert!(
        matches!(
            &outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Misconfigured(Cause::Database(error)))]
                if &*error.code == "25006"
        ),
        "{outcomes:?}"
    );
    assert!(store.pool().execute("CREATE TABLE t ()").await.is_err());
    assert_eq!(load(&store, "a").await?, None);
    Ok(())
}

#[tokio::test]
async fn the_lock_time_out_holds_behind_a_pooler_that_drops_parameters() -> Outcome {
    let scene = Scene::new(Unknown::Dropped).await?;
    migrate(&scene.url().parse()?).await?;
    let mut options = ConnectOptions::parse(&scene.url())?;
    options.settings.statement_timeout = Duration::from_secs(4);
    let store = PostgresStore::open(&options).await?;
    let outcomes = write(&store, vec![put("a", 0, 1, b"x")]).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    let mut blocker = scene.database.connect().await?;
    blocker.execute("BEGIN").await?;
    blocker
        .execute("SELECT FROM durable_state FOR UPDATE")
        .await?;
    let began = Instant::now();
    let outcomes = write(&store, vec![put("a", 1, 2, b"x")]).await;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::NotApplied(StoreError::Unavailable(_))]
        ),
        "{outcomes:?}"
    );
    // Without it this side gives up a second after the statement time-out, and knows nothing.
    assert!(began.elapsed() < Duration::from_secs(5));
    Ok(())
}

#[tokio::test]
async fn a_setting_that_the_server_refuses_is_named() -> Outcome {
    let scene = Scene::new(Unknown::Dropped).await?;
    migrate(&scene.url().parse()?).await?;
    for (options, name, code) in [
        (
            "-c search_path=public -c no_such_setting=marker",
            "no_such_setting",
            "42704",
        ),
        ("-c work_mem=marker", "work_mem", "22023"),
        (
            "-c ignore_system_indexes=on",
            "ignore_system_indexes",
            "55P02",
        ),
    ] {
        let error = connect(&scene.url_with(options)?.parse()?).await.err();
        assert!(
            matches!(
                &error,
                Some(OpenError::SettingRefused { setting, cause: Cause::Database(error) })
                    if &**setting == name && &*error.code == code
            ),
            "{options}: {error:?}"
        );
        assert!(!format!("{error:?}").contains("marker"));
    }
    let error = connect(&scene.url_with("-e marker")?.parse()?).await.err();
    assert!(
        matches!(
            error,
            Some(OpenError::InvalidOption {
                option: "options",
                ..
            })
        ),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_callers_pool_that_the_pooler_refuses_is_refused_with_what_to_do() -> Outcome {
    let scene = Scene::new(Unknown::Refused).await?;
    migrate(&scene.url().parse()?).await?;
    // sqlx sends `extra_float_digits` unless told otherwise.
    let connect: PgConnectOptions = scene.url().parse()?;
    for (connect, is_refused) in [
        (connect.clone(), true),
        (connect.clone().extra_float_digits(None), false),
        (
            connect
                .extra_float_digits(None)
                .options([("work_mem", "1MB")]),
            true,
        ),
    ] {
        let pool = PgPoolOptions::new().connect_lazy_with(connect);
        let opened = PostgresStore::from_pool(pool, StoreSettings::default()).await;
        match opened {
            Err(OpenError::StartupRefused(error)) => {
                assert!(is_refused);
                assert_eq!(&*error.code, "08P01");
                let shown = OpenError::StartupRefused(error).to_string();
                assert!(shown.contains("ignore_startup_parameters"), "{shown}");
            }
            opened => assert!(opened.is_ok() && !is_refused, "{opened:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_callers_pool_asks_for_holds_behind_a_pooler_that_drops_it() -> Outcome {
    let scene = Scene::new(Unknown::Dropped).await?;
    scene.database.execute("CREATE SCHEMA app").await?;
    migrate(&scene.url_with("-c search_path=app")?.parse()?).await?;
    let connect: PgConnectOptions = scene.url().parse()?;
    let pool = PgPoolOptions::new()
        .connect_with(connect.options([("search_path", "app")]))
        .await?;
    let store = PostgresStore::from_pool(pool, StoreSettings::default()).await?;
    let outcomes = write(&store, vec![put("a", 0, 1, b"x")]).await;
    assert!(matches!(outcomes[..], [WriteOutcome::Applied(_)]));
    assert!(load(&store, "a").await?.is_some());
    Ok(())
}
