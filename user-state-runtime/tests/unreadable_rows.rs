//! Goal: a row that cannot be read gives a typed error, stays as it is byte for byte, and harms nobody else.
//! Method: rows of real users are damaged by SQL in every way; commands, reads and deletes are tried on them, together with
//! healthy users in one load; then the rows are compared, and mended.

mod support;

use sqlx::Executor;
use support::{AnyError, Database, TestResult, cart, execute, key, login, read};
use user_state_domain::UserState;
use user_state_runtime::testkit::TestProbe;
use user_state_runtime::{
    ExecuteError, FailureReason, LifecycleEvent, RequestError, Runtime, Settings,
};
use user_state_store::{DecodeError, DeleteForm, SerializerId, StoreError};

const MANIFEST: &str = "com.example.persistdurable.model.UserState";

/// The name of a damage, and the SQL that does it.
const DAMAGES: [(&str, &str); 9] = [
    ("garbage", "state_payload = '\\x00ff00ff'"),
    (
        "truncated",
        "state_payload = substring(state_payload for 20)",
    ),
    ("empty", "state_payload = ''"),
    ("gzip", "state_payload = '\\x1f8b0800deadbeef'"),
    ("serializer", "state_ser_id = 4711"),
    ("manifest", "state_ser_manifest = 'com.example.Other'"),
    ("newer", "state_ser_manifest = state_ser_manifest || '#7'"),
    ("version", "state_ser_manifest = state_ser_manifest || '#x'"),
    (
        "oversize",
        "state_payload = convert_to(repeat('x', 1048577), 'UTF8')",
    ),
];

/// All rows of an id, every column of them.
async fn rows(database: &Database, user: &str) -> Result<Vec<String>, AnyError> {
    let query =
        "SELECT durable_state::TEXT FROM durable_state WHERE persistence_id = $1 ORDER BY revision";
    let mut connection = database.connection().await?;
    let rows = sqlx::query_scalar(query).bind(format!("mall-{user}"));
    Ok(rows.fetch_all(&mut connection).await?)
}

async fn sql(database: &Database, statement: &str) -> TestResult {
    database.connection().await?.execute(statement).await?;
    Ok(())
}

async fn damage(database: &Database, user: &str, how: &str) -> TestResult {
    let statement = format!("UPDATE durable_state SET {how} WHERE persistence_id = 'mall-{user}'");
    sql(database, &statement).await
}

/// Users with these names, at revision 1, and nobody live.
async fn stored(database: &Database, users: &[&str]) -> TestResult {
    let runtime = Runtime::for_users(database.store().await?).start()?;
    for user in users {
        runtime.user(&key(user)).execute(login(1)).await?;
    }
    Ok(runtime.shutdown().await?)
}

fn is_typed(damage: &str, error: &StoreError) -> bool {
    let StoreError::Corrupt {
        persistence_id,
        serializer_id,
        manifest,
        reason,
    } = error
    else {
        return false;
    };
    let json = SerializerId::JACKSON_JSON;
    let (expected_serializer, expected_manifest, right) = match damage {
        "serializer" => (
            SerializerId(4711),
            MANIFEST.to_owned(),
            *reason == DecodeError::UnknownSerializer(SerializerId(4711)),
        ),
        "manifest" => (
            json,
            "com.example.Other".to_owned(),
            matches!(reason, DecodeError::WrongManifest { expected } if **expected == *MANIFEST),
        ),
        "newer" => (
            json,
            format!("{MANIFEST}#7"),
            matches!(reason, DecodeError::NewerVersion { found: 7, .. }),
        ),
        "version" => (
            json,
            format!("{MANIFEST}#x"),
            *reason == DecodeError::MalformedVersion,
        ),
        "oversize" => (
            json,
            MANIFEST.to_owned(),
            matches!(reason, DecodeError::TooLarge { limit: 1_048_576 }),
        ),
        "gzip" => (
            json,
            MANIFEST.to_owned(),
            *reason == DecodeError::DamagedCompression,
        ),
        _ => (
            json,
            MANIFEST.to_owned(),
            matches!(reason, DecodeError::Malformed { .. }),
        ),
    };
    right
        && persistence_id.as_str() == format!("mall-{damage}")
        && *serializer_id == expected_serializer
        && manifest.as_str() == expected_manifest
}

#[tokio::test]
async fn each_unreadable_row_is_a_typed_error_and_stays_as_it_is() -> TestResult {
    for form in [DeleteForm::Reset, DeleteForm::Marker, DeleteForm::Erase] {
        let database = Database::create().await?;
        let names = DAMAGES.map(|(name, _)| name);
        stored(&database, &names).await?;
        for (name, how) in DAMAGES {
            damage(&database, name, how).await?;
        }
        let runtime = Runtime::for_users(database.store().await?)
            .delete_form(form)
            .start()?;
        for name in names {
            let before = rows(&database, name).await?;
            let user = runtime.user(&key(name));
            let command = user.execute(cart(2)).await.unwrap_err();
            assert!(
                matches!(&command, ExecuteError::Failed(RequestError::Unreadable(error)) if is_typed(name, error)),
                "{name}: {command:?}"
            );
            assert!(command.is_definitely_not_applied());
            for read in [user.state().await, user.state_confirmed().await] {
                let error = read.unwrap_err();
                assert!(
                    matches!(&error, RequestError::Unreadable(error) if is_typed(name, error)),
                    "{name}: {error:?}"
                );
            }
            let delete = user.delete().await.unwrap_err();
            assert!(matches!(delete, RequestError::Unreadable(_)), "{name}");
            let mut probe = TestProbe::new(&runtime);
            user.tell(cart(3))?;
            let failed = probe.expect().await?;
            assert!(
                matches!(
                    failed,
                    LifecycleEvent::Failed {
                        reason: FailureReason::Unreadable,
                        ..
                    }
                ),
                "{name}: {failed:?}"
            );
            assert_eq!(rows(&database, name).await?, before, "{name}");
        }
        assert_eq!(runtime.stats().live, 0);
        assert_eq!(runtime.stats().persisted, 0);
    }
    Ok(())
}

#[tokio::test]
async fn healthy_users_of_the_same_load_are_served() -> TestResult {
    let database = Database::create().await?;
    let names = DAMAGES.map(|(name, _)| name);
    stored(&database, &names).await?;
    let healthy: Vec<String> = (0..20).map(|number| format!("healthy-{number}")).collect();
    let borrowed: Vec<&str> = healthy.iter().map(String::as_str).collect();
    stored(&database, &borrowed).await?;
    for (name, how) in DAMAGES {
        damage(&database, name, how).await?;
    }
    let faulty = database.faulty().await?;
    let runtime = Runtime::for_users(faulty.clone())
        .settings(Settings::default().shards(1).loads_in_flight_max(1))
        .start()?;
    let held = faulty.hold_loads();
    let first = read(&runtime.user(&key("nobody")));
    faulty.loads_arrived(1).await;
    let bad = names.map(|name| execute(&runtime.user(&key(name)), cart(2)));
    let good: Vec<_> = borrowed
        .iter()
        .map(|name| execute(&runtime.user(&key(name)), cart(2)))
        .collect();
    drop(held);
    assert_eq!(first.await?.revision.get(), 0);
    for call in bad {
        assert!(matches!(
            call.await,
            Err(ExecuteError::Failed(RequestError::Unreadable(_)))
        ));
    }
    for call in good {
        assert_eq!(call.await?.get(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn two_rows_of_one_user_are_an_error_that_names_both_and_neither_is_touched() -> TestResult {
    let database = Database::create().await?;
    stored(&database, &["double", "single"]).await?;
    sql(
        &database,
        "INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp,
           state_ser_id, state_ser_manifest, state_payload, tags)
         SELECT slice, entity_type, persistence_id, 5, db_timestamp,
           state_ser_id, state_ser_manifest, state_payload, tags
         FROM durable_state WHERE persistence_id = 'mall-double'",
    )
    .await?;
    let before = rows(&database, "double").await?;
    assert_eq!(before.len(), 2);
    let runtime = Runtime::for_users(database.store().await?).start()?;
    let double = runtime.user(&key("double"));
    let error = double.execute(cart(2)).await.unwrap_err();
    assert!(
        matches!(
            &error,
            ExecuteError::Failed(RequestError::Unreadable(StoreError::DuplicateRows { lower, higher, .. }))
                if (lower.get(), higher.get()) == (1, 5)
        ),
        "{error:?}"
    );
    assert!(matches!(
        double.state().await,
        Err(RequestError::Unreadable(_))
    ));
    assert!(matches!(
        double.delete().await,
        Err(RequestError::Unreadable(_))
    ));
    assert_eq!(
        runtime.user(&key("single")).execute(cart(2)).await?.get(),
        2
    );
    assert_eq!(rows(&database, "double").await?, before);
    Ok(())
}

#[tokio::test]
async fn a_mended_row_is_read_without_a_restart() -> TestResult {
    let database = Database::create().await?;
    stored(&database, &["u"]).await?;
    damage(&database, "u", "state_ser_id = 4711").await?;
    let runtime = Runtime::for_users(database.store().await?).start()?;
    let user = runtime.user(&key("u"));
    assert!(user.execute(cart(2)).await.is_err());
    damage(&database, "u", "state_ser_id = 31").await?;
    assert_eq!(user.execute(cart(2)).await?.get(), 2);
    assert!(user.state().await?.state.last_login.is_some());
    Ok(())
}

#[tokio::test]
async fn a_live_user_found_unreadable_is_not_written_over_from_memory() -> TestResult {
    let database = Database::create().await?;
    let runtime: Runtime<UserState> = Runtime::for_users(database.store().await?).start()?;
    let user = runtime.user(&key("u"));
    user.execute(login(1)).await?;

    // Found by a confirming read, at the revision in memory.
    damage(&database, "u", "state_payload = '\\x00'").await?;
    let before = rows(&database, "u").await?;
    let confirmed = user.state_confirmed().await;
    assert!(matches!(confirmed, Err(RequestError::Unreadable(_))));
    let command = user.execute(cart(2)).await;
    assert!(matches!(
        command,
        Err(ExecuteError::Failed(RequestError::Unreadable(_)))
    ));
    assert_eq!(rows(&database, "u").await?, before);

    // Found by a conflict.
    let other = runtime.user(&key("other"));
    other.execute(login(1)).await?;
    damage(&database, "other", "revision = 2, state_payload = '\\x00'").await?;
    let before = rows(&database, "other").await?;
    let command = other.execute(cart(2)).await;
    assert!(
        matches!(
            command,
            Err(ExecuteError::Failed(RequestError::Unreadable(_)))
        ),
        "{command:?}"
    );
    assert_eq!(rows(&database, "other").await?, before);
    Ok(())
}

#[tokio::test]
async fn a_row_that_the_database_cannot_give_is_unreadable_for_its_user_alone() -> TestResult {
    let database = Database::create().await?;
    sql(
        &database,
        "ALTER TABLE durable_state ALTER COLUMN state_payload SET STORAGE EXTERNAL",
    )
    .await?;
    let names = ["a", "b", "c", "d", "e"];
    stored(&database, &names).await?;
    // Spaces behind JSON mean nothing, and a payload of this size is stored apart from its row.
    damage(
        &database,
        "c",
        "state_payload = state_payload || convert_to(repeat(' ', 5000), 'UTF8')",
    )
    .await?;
    let toast = "(SELECT reltoastrelid FROM pg_class WHERE oid = 'durable_state'::regclass)";
    let kind = |kind| format!("UPDATE pg_class SET relkind = '{kind}' WHERE oid = {toast}");
    sql(&database, &kind("r")).await?;
    let delete = format!(
        "DO $$ BEGIN EXECUTE 'DELETE FROM ' || {toast}::regclass; END $$; {}",
        kind("t")
    );
    sql(&database, &delete).await?;
    // Until they are vacuumed, the parts are read although they are deleted.
    sql(&database, "VACUUM durable_state").await?;

    let runtime = Runtime::for_users(database.store().await?).start()?;
    for _ in 0..2 {
        let mut calls = Vec::new();
        for name in names {
            let user = runtime.user(&key(name));
            calls.push((name, execute(&user, cart(2)), read(&user)));
        }
        for (name, command, read) in calls {
            let (command, read) = (command.await, read.await);
            if name == "c" {
                assert!(matches!(
                    command,
                    Err(ExecuteError::Failed(RequestError::Unreadable(
                        StoreError::Unreadable { .. }
                    )))
                ));
                assert!(matches!(
                    read,
                    Err(RequestError::Unreadable(StoreError::Unreadable { .. }))
                ));
            } else {
                assert!(command.is_ok() && read.is_ok(), "{name}");
            }
        }
        runtime.user(&key("a")).passivate().await?;
    }
    assert_eq!(database.revisions("mall-c").await?, [1]);
    Ok(())
}
