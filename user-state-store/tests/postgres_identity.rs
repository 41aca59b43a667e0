//! Goal: a lost write's session is found and ended whichever role the store works as; where the server hides it, the store
//! opens with a warning and waits for the session to be gone.
//! Method: roles as operators make them; a proxy loses the answer of a write that waits for a lock.

#![cfg(feature = "postgres")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Executor as _, PgConnection};
use support::proxy::Proxy;
use support::{Captured, Database, Outcome, User, put, write};
use tokio::task::JoinSet;
use user_state_store::{
    Backend as _, ConnectOptions, Fence, PostgresStore, WriteOutcome, WriterSession,
};

/// A store of one role, whose way to the server can be cut.
struct Scene {
    proxy: Proxy,
    store: Arc<PostgresStore>,
    blocker: PgConnection,
    observer: PgConnection,
    user: User,
}

impl Scene {
    /// The statements may name the role as `APP`.
    async fn of_role(statements: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let user = User::new(Database::migrated().await?).await?;
        let statements = statements.replace("APP", &user.name);
        user.server.execute(&statements).await?;
        let proxy = Proxy::to(user.server.address()?).await?;
        let port = user.server.address()?.port().to_string();
        let url = user
            .url()
            .replace(&port, &proxy.address().port().to_string());
        let mut options = ConnectOptions::parse(&url)?;
        options.settings.statement_timeout = Duration::from_mins(1);
        Ok(Self {
            store: Arc::new(PostgresStore::open(&options).await?),
            blocker: user.server.connect().await?,
            observer: user.server.connect().await?,
            proxy,
            user,
        })
    }

    /// A write that waits for the blocker, and whose answer is lost.
    async fn lose_a_write(&mut self) -> Result<WriterSession, Box<dyn std::error::Error>> {
        let outcomes = write(&*self.store, vec![put("a", 0, 1, b"1")]).await;
        assert!(
            matches!(outcomes[..], [WriteOutcome::Applied(_)]),
            "{outcomes:?}"
        );
        self.blocker
            .execute("BEGIN; SELECT FROM durable_state FOR UPDATE")
            .await?;
        let store = self.store.clone();
        let mut writing = JoinSet::new();
        writing.spawn(async move { write(&*store, vec![put("a", 1, 2, b"2")]).await });
        while !self.is_waiting().await? {
            tokio::task::yield_now().await;
        }
        self.proxy.cut();
        let outcomes = writing.join_next().await.ok_or("no outcome")??;
        match outcomes.as_slice() {
            [WriteOutcome::Unknown(unknown)] => Ok(unknown.session.ok_or("no session")?),
            other => Err(format!("{other:?}").into()),
        }
    }

    async fn is_waiting(&mut self) -> Result<bool, sqlx::Error> {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut self.observer)
        .await?;
        Ok(waiting > 0)
    }

    /// Whether the lost write is still running; it waits for the blocker as long as it does.
    async fn is_gone(&mut self, session: WriterSession) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1")
            .bind(session.process_id)
            .fetch_one(&mut self.observer)
            .await
    }

    async fn end(mut self, also: &str) -> Outcome {
        self.store.close().await;
        self.blocker.execute("ROLLBACK").await?;
        let also = also.replace("APP", &self.user.name);
        self.user.server.execute(&also).await?;
        self.user.drop().await?;
        Ok(())
    }
}

const GRANT: &str = "GRANT SELECT, INSERT, UPDATE ON durable_state TO APP";

#[tokio::test]
async fn a_role_set_at_login_opens_works_as_that_role_and_its_lost_sessions_are_ended() -> Outcome {
    let owner = "ALTER ROLE APP NOINHERIT; CREATE ROLE APP_owner NOLOGIN; ALTER TABLE durable_state OWNER TO APP_owner;
        GRANT APP_owner TO APP; ALTER ROLE APP SET role = 'APP_owner'";
    let (warned, guard) = Captured::start();
    let mut scene = Scene::of_role(owner).await?;
    drop(guard);
    assert_eq!(warned.text(), "");
    let session = scene.lose_a_write().await?;
    assert!(session.started_at_micros.is_some(), "{session:?}");
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    assert!(scene.is_gone(session).await?);
    // The blocker is still there, so the write was not applied before its session ended.
    let roles: Vec<String> = sqlx::query_scalar("SELECT current_user::text")
        .fetch_all(scene.store.pool())
        .await?;
    assert_eq!(roles, [format!("{}_owner", scene.user.name)]);
    scene
        .end("DROP OWNED BY APP_owner CASCADE; DROP ROLE APP_owner")
        .await
}

#[tokio::test]
async fn a_role_that_sees_no_statistics_and_a_server_that_tracks_none_make_no_difference() -> Outcome
{
    let (warned, guard) = Captured::start();
    // An operator sets both; the observer of the test is a superuser, for whom the view still works.
    let hidden = format!(
        "{GRANT}; REVOKE ALL ON pg_stat_activity FROM PUBLIC; ALTER ROLE APP SET track_activities = off"
    );
    let mut scene = Scene::of_role(&hidden).await?;
    drop(guard);
    assert_eq!(warned.text(), "");
    let outcomes = write(&*scene.store, vec![put("a", 0, 1, b"1")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    // The session that was used is idle, and the first one that a lost write would name.
    let process_id: i32 = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = $1
         AND pid <> ALL (SELECT pid FROM pg_locks WHERE granted) LIMIT 1",
    )
    .bind(&scene.user.name)
    .fetch_one(&mut scene.observer)
    .await?;
    let started_at_micros: i64 = sqlx::query_scalar(
        "SELECT (extract(epoch FROM backend_start) * 1000000)::bigint
         FROM pg_stat_activity WHERE pid = $1",
    )
    .bind(process_id)
    .fetch_one(&mut scene.observer)
    .await?;
    let session = WriterSession {
        process_id,
        started_at_micros: Some(started_at_micros),
    };
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    assert!(scene.is_gone(session).await?);
    scene.end("SELECT 1").await
}

#[tokio::test]
async fn where_the_start_of_processes_is_hidden_the_store_opens_with_one_warning_and_waits()
-> Outcome {
    let (warned, guard) = Captured::start();
    let hidden =
        format!("{GRANT}; REVOKE EXECUTE ON FUNCTION pg_stat_get_activity(integer) FROM PUBLIC");
    let mut scene = Scene::of_role(&hidden).await?;
    drop(guard);
    assert_eq!(
        warned.text().matches("only waited for").count(),
        1,
        "{}",
        warned.text()
    );
    waits_until_the_session_is_gone(&mut scene, None).await?;
    scene.end("SELECT 1").await
}

#[tokio::test]
async fn a_session_that_may_not_be_ended_is_waited_for() -> Outcome {
    let hidden = format!("{GRANT}; REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC");
    let mut scene = Scene::of_role(&hidden).await?;
    waits_until_the_session_is_gone(&mut scene, Some(())).await?;
    scene.end("SELECT 1").await
}

async fn waits_until_the_session_is_gone(scene: &mut Scene, starts: Option<()>) -> Outcome {
    let session = scene.lose_a_write().await?;
    assert_eq!(session.started_at_micros.map(drop), starts);
    assert_eq!(scene.store.fence(&session).await, Fence::Open);
    assert!(!scene.is_gone(session).await?);
    sqlx::query("SELECT pg_terminate_backend($1)")
        .bind(session.process_id)
        .execute(&mut scene.observer)
        .await?;
    assert_eq!(scene.store.fence(&session).await, Fence::Closed);
    assert!(scene.is_gone(session).await?);
    Ok(())
}
