//! Goal: no command is acknowledged whose state nobody will find again, when the file of a SQLite store goes away.
//! Method: the file is removed under a live runtime; what was acknowledged is compared with what a new store finds.

#![cfg(all(feature = "sqlite", unix))]

use std::error::Error;

use chrono::DateTime;
use user_state_domain::{UserCommand, UserKey};
use user_state_runtime::{ExecuteError, RequestError, Runtime};

#[tokio::test]
async fn a_command_after_the_file_was_removed_is_an_error_and_the_store_works_when_opened_again()
-> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("users.db");
    let url = format!("sqlite:{}", path.display());
    let key: UserKey = "mall1-user7".parse()?;
    let login = UserCommand::Login {
        at: DateTime::UNIX_EPOCH,
    };

    let store = user_state_store::connect(&url.parse()?).await?;
    let runtime = Runtime::for_users(store.clone()).start()?;
    let user = runtime.user(&key);
    assert_eq!(user.execute(login.clone()).await?.get(), 1);
    std::fs::remove_file(&path)?;
    for _ in 0..3 {
        let answer = user.execute(login.clone()).await;
        assert!(
            matches!(
                answer,
                Err(ExecuteError::Failed(RequestError::Unavailable(_)))
            ),
            "{answer:?}"
        );
    }
    assert!(!path.exists(), "the store makes no file by itself");
    runtime.shutdown().await?;
    store.close().await;

    let store = user_state_store::connect(&url.parse()?).await?;
    let runtime = Runtime::for_users(store.clone()).start()?;
    let revision = runtime.user(&key).execute(login).await?;
    assert_eq!(revision.get(), 1, "a new file");
    runtime.shutdown().await?;
    store.close().await;
    Ok(())
}
