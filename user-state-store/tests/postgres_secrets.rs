//! Goal: passwords, payloads and ids reach no log, no error and no `Debug` form.
//! Method: marker values go in, everything that can be logged is captured at TRACE through successes and faults of each kind,
//! and no marker comes out. Ids are in typed errors on purpose, so those are checked for the other markers only.

#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "a poisoned lock ends the test")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{Connection as _, Executor as _};
use support::proxy::Proxy;
use support::{Database, Outcome, change, load, put, write};
use tracing_subscriber::fmt::MakeWriter;
use user_state_store::{
    Backend as _, Change, ConnectOptions, PostgresStore, RemoteTls, TlsMode, connect, migrate,
};

const PASSWORD: &str = "marker-password";
const PAYLOAD: &[u8] = b"marker-payload";
const ID: &str = "marker-id";

/// All that was logged.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[tokio::test]
async fn no_secret_payload_or_id_is_shown_through_successes_and_faults() -> Outcome {
    // Made before the capture begins: this statement has the password in it.
    let database = Database::empty().await?;
    let user = database
        .name()
        .replace("user_state_test", "user_state_user");
    let role = format!(
        "CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'; GRANT ALL ON SCHEMA public TO {user}"
    );
    database.execute(&role).await?;
    let captured = Captured::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(captured.clone())
        .init();
    tracing::trace!("the capture works");
    let mut shown = Vec::new();

    let proxy = Proxy::to(database.address()?).await?;
    let mut options = ConnectOptions::parse(&as_user(&user, &database.url_at(proxy.address())))?;
    options.settings.statement_timeout = Duration::from_millis(300);
    shown.push(format!("{options:?}"));
    migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    shown.push(format!("{store:?}"));

    let other = format!("{ID}-2");
    let outcomes = write(
        &store,
        vec![put(ID, 0, 1, PAYLOAD), put(&other, 0, 1, PAYLOAD)],
    )
    .await;
    shown.push(format!("{outcomes:?}"));
    shown.push(format!(
        "{:?}",
        write(&store, vec![put(ID, 1, 2, PAYLOAD)]).await
    ));
    shown.push(format!(
        "{:?}",
        write(&store, vec![put(ID, 1, 2, PAYLOAD)]).await
    ));
    // Debug of a state shows its id, and of its payload the length.
    let loaded = format!("{:?}", load(&store, ID).await);
    assert!(loaded.contains("14 bytes") && !loaded.contains("marker-payload"));

    // Refused by a constraint whose DETAIL holds the row.
    database
        .execute(
            "ALTER TABLE durable_state ADD CONSTRAINT small CHECK (octet_length(state_payload) < 20)",
        )
        .await?;
    let large = [PAYLOAD, PAYLOAD].concat();
    shown.push(format!(
        "{:?}",
        write(&store, vec![put("refused", 0, 1, &large)]).await
    ));
    let error = write(&store, vec![put("refused", 0, 1, &large)]).await;
    shown.push(format!("{error:?}"));

    // A lock that is not given, a statement that takes too long, a server that is gone.
    let mut blocker = database.connect().await?;
    blocker
        .execute("BEGIN; SELECT FROM durable_state FOR UPDATE")
        .await?;
    shown.push(format!(
        "{:?}",
        write(&store, vec![put(ID, 2, 3, PAYLOAD)]).await
    ));
    shown.push(format!(
        "{:?}",
        write(&store, vec![change(ID, 2, Change::Erase)]).await
    ));
    proxy.cut();
    shown.push(format!(
        "{:?}",
        write(&store, vec![put(ID, 2, 3, PAYLOAD)]).await
    ));
    drop(proxy);
    let outcomes = write(&store, vec![put("unreachable", 0, 1, PAYLOAD)]).await;
    shown.push(format!("{outcomes:?}"));
    let error = connect(&options).await.err().ok_or("it opened")?;
    shown.push(format!("{error:?} {error}"));
    store.close().await;

    shown.extend(failed_openings(&database, &user).await?);
    blocker.close().await?;
    let drop_user = format!("DROP OWNED BY {user}; DROP ROLE {user}");
    database.execute(&drop_user).await?;

    let shown = shown.join("\n");
    let log = captured.text();
    assert!(log.contains("the capture works"));
    for marker in [PASSWORD, "marker-payload", ID] {
        assert!(!log.contains(marker), "{marker} was logged");
    }
    for marker in [PASSWORD, "marker-payload"] {
        assert!(!shown.contains(marker), "{marker} is in {shown}");
    }
    Ok(())
}

/// What openings that fail in each way show.
async fn failed_openings(
    database: &Database,
    user: &str,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut shown = Vec::new();
    let nobody = database.url_as("user_state_nobody", PASSWORD);
    let error = connect(&nobody.parse()?).await.err().ok_or("it opened")?;
    shown.push(format!("{error:?} {error}"));
    let mut tls = ConnectOptions::parse(&as_user(user, database.url()))?;
    tls.tls_mode = Some(TlsMode::VerifyFull);
    tls.remote_tls = RemoteTls::AsConfigured;
    if let Err(error) = connect(&tls).await {
        shown.push(format!("{error:?} {error}"));
    }
    for url in [
        format!("postgres://u:{PASSWORD}@h/d?sslpassword={PASSWORD}"),
        format!("postgres://u:{PASSWORD}@h:port/d"),
        format!("mysql://u:{PASSWORD}@h/d"),
    ] {
        let error = ConnectOptions::parse(&url).err().ok_or("it was accepted")?;
        shown.push(format!("{error:?} {error}"));
    }
    Ok(shown)
}

fn as_user(user: &str, url: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.into()
}
