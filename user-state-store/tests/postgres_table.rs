//! Goal: a table that takes the store's writes opens, whatever it looks like, and one that does not is refused with what to
//! do; opening leaves no row and disturbs nobody.
//! Method: tables of the migration with one change each; a second connection plays neighbours.

#![cfg(feature = "postgres")]

mod support;

use std::time::Duration;

use sqlx::Executor as _;
use support::{Captured, Database, Outcome, User, load, put, write};
use tokio::time::timeout;
use user_state_store::{
    Access, Cause, ConnectOptions, OpenError, RowSecurity, WriteOutcome, connect,
};

const TABLE: &str = "durable_state";

async fn refusal(url: &str) -> Result<OpenError, Box<dyn std::error::Error>> {
    let options = ConnectOptions::parse(url)?;
    connect(&options).await.err().ok_or("it opened".into())
}

/// A trigger that runs this for each row.
fn trigger(event: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
         CREATE TRIGGER act BEFORE {event} ON durable_state FOR EACH ROW EXECUTE FUNCTION act()"
    )
}

#[tokio::test]
async fn a_table_that_takes_no_write_is_refused_for_writing_and_not_for_reading() -> Outcome {
    let drop_inserts = trigger("INSERT", "RETURN NULL;");
    let drop_updates = trigger("UPDATE", "RETURN NULL;");
    let cases: [(&str, &str, Option<&str>); 10] = [
        (
            "ALTER TABLE durable_state DROP CONSTRAINT durable_state_pkey;
             ALTER TABLE durable_state ADD PRIMARY KEY (persistence_id, revision) DEFERRABLE",
            "INSERT",
            Some("55000"),
        ),
        (
            "ALTER TABLE durable_state ADD UNIQUE (persistence_id) DEFERRABLE INITIALLY DEFERRED",
            "INSERT",
            Some("55000"),
        ),
        (
            "ALTER TABLE durable_state ADD owner text NOT NULL",
            "INSERT",
            Some("23502"),
        ),
        (
            "CREATE RULE keep AS ON UPDATE TO durable_state DO INSTEAD NOTHING",
            "INSERT",
            Some("0A000"),
        ),
        (
            "CREATE RULE keep AS ON INSERT TO durable_state DO INSTEAD NOTHING",
            "INSERT",
            Some("0A000"),
        ),
        (
            "ALTER TABLE durable_state ALTER slice ADD GENERATED ALWAYS AS IDENTITY",
            "INSERT",
            Some("428C9"),
        ),
        (
            "ALTER TABLE durable_state DROP slice;
             ALTER TABLE durable_state ADD slice int NOT NULL GENERATED ALWAYS AS (1) STORED",
            "INSERT",
            Some("428C9"),
        ),
        (
            &trigger("UPDATE", "NEW.no_such_column := 1; RETURN NEW;"),
            "UPDATE",
            Some("42703"),
        ),
        (&drop_inserts, "INSERT", None),
        (&drop_updates, "UPDATE", None),
    ];
    for (change, statement, sqlstate) in cases {
        let database = Database::migrated().await?;
        database.execute(change).await?;
        let refused = refusal(database.url()).await?;
        let OpenError::Unwritable {
            table: TABLE,
            operation,
            reason,
            ..
        } = &refused
        else {
            return Err(format!("{change}: {refused:?}").into());
        };
        assert_eq!(*operation, statement, "{change}");
        match (reason, sqlstate) {
            (Cause::Database(error), Some(code)) => assert_eq!(&*error.code, code, "{change}"),
            (Cause::Other(_), None) => {}
            other => return Err(format!("{change}: {other:?}").into()),
        }
        let mut options = ConnectOptions::parse(database.url())?;
        options.settings.access = Access::ReadOnly;
        let store = connect(&options).await?;
        assert_eq!(load(store.states().as_ref(), "a").await?, None);
        store.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_takes_the_writes_of_entities_opens() -> Outcome {
    let refuse_others = trigger(
        "INSERT",
        "IF NEW.persistence_id NOT LIKE 'mall-%' THEN RAISE 'no mall'; END IF; RETURN NEW;",
    );
    for change in [
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = on', current_database()); END $$",
        "CREATE DOMAIN id AS varchar(255); CREATE DOMAIN deep AS id CHECK (VALUE <> '');
         CREATE DOMAIN payload AS bytea; CREATE DOMAIN tags AS text[]; CREATE DOMAIN count AS bigint;
         ALTER TABLE durable_state ALTER persistence_id TYPE deep, ALTER state_payload TYPE payload,
           ALTER tags TYPE tags, ALTER revision TYPE count",
        "ALTER TABLE durable_state ALTER persistence_id TYPE varchar, ALTER entity_type TYPE text",
        "ALTER TABLE durable_state ADD owner text NOT NULL DEFAULT 'nobody'",
        "ALTER TABLE durable_state ALTER tags SET NOT NULL",
        "ALTER TABLE durable_state ADD CHECK (persistence_id LIKE 'mall-%')",
        "CREATE TABLE users (id text PRIMARY KEY); INSERT INTO users VALUES ('mall-user');
         ALTER TABLE durable_state ADD FOREIGN KEY (persistence_id) REFERENCES users (id)",
        &refuse_others,
        // NULL for the trial row alone.
        "ALTER TABLE durable_state ADD mall text NOT NULL
           GENERATED ALWAYS AS (substring(persistence_id FROM '^mall')) STORED",
        &format!(
            "ALTER TABLE durable_state ADD mall text NOT NULL; {}",
            trigger(
                "INSERT",
                "NEW.mall := substring(NEW.persistence_id FROM '^mall'); RETURN NEW;"
            )
        ),
        // Only erasures remove rows.
        &trigger("DELETE", "RETURN NULL;"),
    ] {
        let database = Database::migrated().await?;
        database.execute(change).await?;
        let store = connect(&database.url().parse()?)
            .await
            .map_err(|error| format!("{change}: {error:?}"))?;
        for (expected, revision) in [(0, 1), (1, 2)] {
            let outcomes = write(store.states().as_ref(), vec![put("mall-user", expected, revision, b"x")]).await;
            assert!(
                matches!(outcomes[..], [WriteOutcome::Applied(_)]),
                "{change}: {outcomes:?}"
            );
        }
        let row = load(store.states().as_ref(), "mall-user").await?.ok_or("no row")?;
        assert_eq!(row.revision.get(), 2, "{change}");
        store.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn opening_leaves_no_row_and_harms_no_store_that_is_open() -> Outcome {
    let database = Database::migrated().await?;
    let (warned, guard) = Captured::start();
    let first = connect(&database.url().parse()?).await?;
    let options: ConnectOptions = database.url().parse()?;
    let openings = (0..4).map(|_| connect(&options));
    for opened in futures_util::future::join_all(openings).await {
        opened?.close().await;
    }
    drop(guard);
    assert_eq!(warned.text(), "");
    let outcomes = write(first.states().as_ref(), vec![put("a", 0, 1, b"x")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM durable_state")
        .fetch_one(&mut database.connect().await?)
        .await?;
    assert_eq!(rows, 1);
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_locked_just_now_opens_soon_and_with_a_warning() -> Outcome {
    let database = Database::migrated().await?;
    let mut neighbour = database.connect().await?;
    neighbour
        .execute("BEGIN; LOCK TABLE durable_state IN SHARE MODE")
        .await?;
    let (warned, guard) = Captured::start();
    let options = database.url().parse()?;
    let store = timeout(Duration::from_secs(4), connect(&options)).await??;
    drop(guard);
    assert!(
        warned.text().contains("the table is locked"),
        "{}",
        warned.text()
    );
    neighbour.execute("ROLLBACK").await?;
    let outcomes = write(store.states().as_ref(), vec![put("a", 0, 1, b"x")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn something_else_with_the_tables_name_is_named() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "ALTER TABLE durable_state RENAME TO states;
             CREATE VIEW durable_state AS SELECT * FROM states",
        )
        .await?;
    let found = "a view";
    assert_eq!(
        refusal(database.url()).await?,
        OpenError::NotATable {
            table: TABLE,
            found
        }
    );
    Ok(())
}

#[tokio::test]
async fn an_index_that_includes_the_revision_is_no_key() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "ALTER TABLE durable_state DROP CONSTRAINT durable_state_pkey;
             CREATE UNIQUE INDEX ON durable_state (slice, persistence_id) INCLUDE (revision)",
        )
        .await?;
    let refused = refusal(database.url()).await?;
    assert!(
        matches!(refused, OpenError::KeyMissing { .. }),
        "{refused:?}"
    );
    database
        .execute("CREATE UNIQUE INDEX ON durable_state (persistence_id) INCLUDE (revision)")
        .await?;
    connect(&database.url().parse()?).await?.close().await;
    Ok(())
}

#[tokio::test]
async fn rights_on_columns_are_as_good_as_rights_on_the_table() -> Outcome {
    let user = User::new(Database::migrated().await?).await?;
    let name = &user.name;
    let all = "slice, entity_type, persistence_id, revision, db_timestamp, state_ser_id,
        state_ser_manifest, state_payload, tags";
    let grant =
        format!("GRANT SELECT ({all}), INSERT ({all}), UPDATE ({all}) ON durable_state TO {name}");
    user.server.execute(&grant).await?;
    let store = connect(&user.url().parse()?).await?;
    let outcomes = write(store.states().as_ref(), vec![put("a", 0, 1, b"x")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    store.close().await;
    let revoke = format!("REVOKE UPDATE (tags) ON durable_state FROM {name}");
    user.server.execute(&revoke).await?;
    let privilege = "UPDATE";
    assert_eq!(
        refusal(&user.url()).await?,
        OpenError::MissingPrivilege {
            privilege,
            table: TABLE
        }
    );
    user.drop().await?;
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_needs_another_right_is_refused() -> Outcome {
    let user = User::new(Database::migrated().await?).await?;
    let audit = trigger(
        "INSERT",
        "INSERT INTO audit VALUES (NEW.persistence_id); RETURN NEW;",
    );
    let grant = format!(
        "CREATE TABLE audit (id text); {audit};
         GRANT SELECT, INSERT, UPDATE ON durable_state TO {}",
        user.name
    );
    user.server.execute(&grant).await?;
    let refused = refusal(&user.url()).await?;
    assert!(
        matches!(&refused, OpenError::Unwritable { operation: "INSERT", reason: Cause::Database(error), .. } if &*error.code == "42501"),
        "{refused:?}"
    );
    user.drop().await?;
    Ok(())
}

#[tokio::test]
async fn row_security_that_applies_to_the_role_is_refused_unless_it_is_accepted() -> Outcome {
    let user = User::new(Database::migrated().await?).await?;
    let name = &user.name;
    let grant = format!(
        "GRANT SELECT, INSERT, UPDATE ON durable_state TO {name};
         INSERT INTO durable_state VALUES (1, '', 'a', 5, now(), 31, 'm', 'x', NULL);
         ALTER TABLE durable_state ENABLE ROW LEVEL SECURITY"
    );
    user.server.execute(&grant).await?;
    let table = TABLE;
    assert_eq!(
        refusal(&user.url()).await?,
        OpenError::RowSecurity { table }
    );
    let mut options = ConnectOptions::parse(&user.url())?;
    options.settings.access = Access::ReadOnly;
    let refused = connect(&options).await.err();
    assert_eq!(refused, Some(OpenError::RowSecurity { table }));

    options.settings.row_security = RowSecurity::Accept;
    options.settings.access = Access::ReadWrite;
    let store = connect(&options).await?;
    assert_eq!(
        load(store.states().as_ref(), "a").await?,
        None,
        "no policy shows it"
    );
    store.close().await;
    user.server
        .execute("CREATE POLICY mall ON durable_state USING (persistence_id NOT LIKE '%|')")
        .await?;
    let store = connect(&options).await?;
    assert!(load(store.states().as_ref(), "a").await?.is_some());
    let outcomes = write(store.states().as_ref(), vec![put("b", 0, 1, b"x")]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Applied(_)]),
        "{outcomes:?}"
    );
    store.close().await;

    // Who is exempt opens without a word.
    connect(&user.server.url().parse()?).await?.close().await;
    let exempt = format!("ALTER ROLE {name} BYPASSRLS");
    user.server.execute(&exempt).await?;
    connect(&user.url().parse()?).await?.close().await;
    let owner = format!("ALTER ROLE {name} NOBYPASSRLS; ALTER TABLE durable_state OWNER TO {name}");
    user.server.execute(&owner).await?;
    connect(&user.url().parse()?).await?.close().await;
    user.server
        .execute("ALTER TABLE durable_state FORCE ROW LEVEL SECURITY")
        .await?;
    assert_eq!(
        refusal(&user.url()).await?,
        OpenError::RowSecurity { table }
    );
    user.drop().await?;
    Ok(())
}

#[tokio::test]
async fn a_partitioned_table_opens_and_only_its_own_row_security_counts() -> Outcome {
    let user = User::new(Database::migrated().await?).await?;
    let partitioned = format!(
        "ALTER TABLE durable_state RENAME TO states;
         CREATE TABLE durable_state (LIKE states INCLUDING DEFAULTS) PARTITION BY HASH (persistence_id);
         ALTER TABLE durable_state ADD PRIMARY KEY (persistence_id, revision);
         CREATE TABLE part PARTITION OF durable_state FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         ALTER TABLE part ENABLE ROW LEVEL SECURITY;
         GRANT SELECT, INSERT, UPDATE ON durable_state TO {}",
        user.name
    );
    user.server.execute(&partitioned).await?;
    let store = connect(&user.url().parse()?).await?;
    for (expected, revision) in [(0, 1), (1, 2)] {
        let outcomes = write(
            store.states().as_ref(),
            vec![put("a", expected, revision, b"x")],
        )
        .await;
        assert!(
            matches!(outcomes[..], [WriteOutcome::Applied(_)]),
            "{outcomes:?}"
        );
    }
    assert!(load(store.states().as_ref(), "a").await?.is_some());
    store.close().await;
    user.server
        .execute("ALTER TABLE durable_state ENABLE ROW LEVEL SECURITY")
        .await?;
    let table = TABLE;
    assert_eq!(
        refusal(&user.url()).await?,
        OpenError::RowSecurity { table }
    );
    user.drop().await?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_not_in_utf_8_opens_with_a_warning() -> Outcome {
    let database = Database::empty().await?;
    let name = format!("{}_latin1", database.name());
    database
        .execute(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
        ))
        .await?;
    let url = database.url().replace(database.name(), &name);
    let options = ConnectOptions::parse(&url)?;
    user_state_store::migrate(&options).await?;
    let (warned, guard) = Captured::start();
    let store = connect(&options).await?;
    drop(guard);
    assert_eq!(
        warned.text().matches("not in UTF-8").count(),
        1,
        "{}",
        warned.text()
    );
    store.close().await;
    database
        .execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await?;
    Ok(())
}
