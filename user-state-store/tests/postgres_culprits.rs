//! Goal: an id that the server cannot take, and a row that it cannot give, harm nobody else in a load or a page of ids, and
//! have an error of their own.
//! Method: databases of other encodings, rows of bytes that are no text, and stored values that are really damaged.

#![cfg(feature = "postgres")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a wrong constant ends the test"
)]

mod support;

use std::num::NonZeroUsize;

use sqlx::{Connection as _, Executor as _, PgConnection};
use support::{Database, Outcome, put, write};
use throwaway_postgres::PostgresServer;
use user_state_store::{
    Backend as _, Cause, ConnectOptions, DurableStateStore as _, PersistenceId, PostgresStore,
    StateFeeds as _, StoreError, StoredValue, WriteOutcome, load_in_parts,
};

fn ids(count: usize) -> Vec<PersistenceId> {
    (0..count)
        .map(|number| PersistenceId::unique(&format!("id-{number:03}")).unwrap())
        .collect()
}

/// A database in this encoding, with the tables.
async fn encoded(encoding: &str) -> Result<Database, Box<dyn std::error::Error>> {
    let database = Database::empty().await?;
    let mut maintenance: url::Url = database.url().parse()?;
    maintenance.set_path("postgres");
    let mut connection = PgConnection::connect(maintenance.as_str()).await?;
    let name = database.name();
    for statement in [
        format!("DROP DATABASE {name} WITH (FORCE)"),
        format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'
             LC_COLLATE 'C' LC_CTYPE 'C'"
        ),
    ] {
        connection.execute(&*statement).await?;
    }
    connection.close().await?;
    user_state_store::migrate(&database.url().parse()?).await?;
    Ok(database)
}

async fn open(database: &Database) -> Result<PostgresStore, Box<dyn std::error::Error>> {
    Ok(PostgresStore::open(&database.url().parse()?).await?)
}

/// Loads, and holds that exactly these fail, each with this SQLSTATE for its row or, if it has none, for its id.
async fn assert_culprits(
    store: &PostgresStore,
    ids: &[PersistenceId],
    culprits: &[usize],
    code: &str,
) -> Outcome {
    for (place, row) in store.load(ids).await?.into_iter().enumerate() {
        match row {
            Ok(Some(row)) if !culprits.contains(&place) => {
                assert_eq!(row.persistence_id, ids[place]);
            }
            Err(StoreError::Unreadable {
                persistence_id,
                reason,
            }) if culprits.contains(&place) => {
                assert_eq!((&persistence_id, &*reason.code), (&ids[place], code));
            }
            Err(StoreError::Refused(reason)) if culprits.contains(&place) => {
                assert!(!ids[place].as_str().is_ascii());
                assert_eq!(&*reason.code, code);
            }
            other => return Err(format!("{place}: {other:?}").into()),
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_id_that_the_server_cannot_take_is_refused_alone() -> Outcome {
    let database = encoded("LATIN1").await?;
    let store = open(&database).await?;
    let mut ids = ids(100);
    ids[4] = PersistenceId::unique("caf\u{e9}-1")?;
    let texts = ids.iter().map(PersistenceId::as_str);
    write(&store, texts.map(|id| put(id, 0, 1, b"{}")).collect()).await;
    assert_culprits(&store, &ids, &[], "").await?;

    let culprits = [0, 41, 42, 99];
    for place in culprits {
        ids[place] = PersistenceId::unique(&format!("\u{1f642}-{place}"))?;
    }
    assert_culprits(&store, &ids, &culprits, "22P05").await?;
    assert_culprits(&store, &ids[41..42], &[0], "22P05").await?;

    // Beyond so many of them and nothing else, the rest is not sent any more.
    let refused: Vec<_> = (0..500)
        .map(|number| PersistenceId::unique(&format!("\u{1f642}-{number}")).unwrap())
        .collect();
    for row in store.load(&refused).await? {
        assert!(matches!(row, Err(StoreError::Refused(_))), "{row:?}");
    }
    let after = store
        .persistence_ids(Some(&refused[0]), NonZeroUsize::MIN)
        .await;
    assert!(matches!(after, Err(StoreError::Refused(_))), "{after:?}");
    Ok(())
}

#[tokio::test]
async fn a_write_of_an_id_that_the_server_cannot_take_is_refused_alone() -> Outcome {
    let database = encoded("LATIN1").await?;
    let store = open(&database).await?;
    let texts = ["a", "b", "\u{1f642}", "c", "d"];
    for revision in [1, 2] {
        let writes = texts.map(|id| put(id, revision - 1, revision, b"{}"));
        let outcomes = write(&store, writes.to_vec()).await;
        // In the order of the ids.
        assert!(
            matches!(
                &outcomes[..],
                [
                    WriteOutcome::Applied(_),
                    WriteOutcome::Applied(_),
                    WriteOutcome::Applied(_),
                    WriteOutcome::Applied(_),
                    WriteOutcome::NotApplied(StoreError::Refused(error)),
                ] if &*error.code == "22P05"
            ),
            "{revision}: {outcomes:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_row_whose_text_is_none_is_unreadable_alone() -> Outcome {
    let database = encoded("SQL_ASCII").await?;
    let store = open(&database).await?;
    let ids = ids(60);
    let texts = ids.iter().map(PersistenceId::as_str);
    write(&store, texts.map(|id| put(id, 0, 1, b"{}")).collect()).await;
    database
        .execute(
            "UPDATE durable_state SET state_ser_manifest = convert_from('\\xff', 'SQL_ASCII')
             WHERE persistence_id IN ('id-007', 'id-008', 'id-059')",
        )
        .await?;
    assert_culprits(&store, &ids, &[7, 8, 59], "22021").await?;
    Ok(())
}

#[tokio::test]
async fn a_damaged_row_is_unreadable_alone() -> Outcome {
    let database = Database::migrated().await?;
    let ids = ids(400);
    database
        .execute(
            "ALTER TABLE durable_state ALTER COLUMN state_payload SET STORAGE EXTERNAL;
             INSERT INTO durable_state
             SELECT 1, '', 'id-' || to_char(i, 'FM000'), 1, now(), 31, 'm',
               convert_to(repeat('x', 5000), 'UTF8'), NULL
             FROM generate_series(0, 399) AS i",
        )
        .await?;
    let store = open(&database).await?;
    for (culprits, offsets) in [
        (vec![254], "WHERE n = 254"),
        ((0..254).chain([399]).collect(), "WHERE n <= 254 OR n = 399"),
    ] {
        damage(&database, offsets).await?;
        let culprits: Vec<usize> = culprits;
        let damaged: Vec<usize> = (0..400)
            .filter(|place| culprits.contains(place) || *place == 254)
            .collect();
        assert_culprits(&store, &ids, &damaged, "XX001").await?;
    }
    Ok(())
}

/// Removes the stored chunks of the payloads with these numbers `n`, in the order in which they were written.
async fn damage(database: &Database, numbers: &str) -> Outcome {
    let mut connection = database.connect().await?;
    let toast: String = sqlx::query_scalar(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'durable_state'::regclass",
    )
    .fetch_one(&mut connection)
    .await?;
    let kind = |kind: &str| {
        format!("UPDATE pg_class SET relkind = '{kind}' WHERE oid = '{toast}'::regclass")
    };
    // The chunks of a value stay in the list, so that their numbers stay.
    let chunks = format!(
        "CREATE TABLE IF NOT EXISTS chunks AS
         SELECT row_number() OVER (ORDER BY chunk_id) - 1 AS n, chunk_id
         FROM (SELECT DISTINCT chunk_id FROM {toast}) AS c"
    );
    let delete =
        format!("DELETE FROM {toast} WHERE chunk_id IN (SELECT chunk_id FROM chunks {numbers})");
    // Until they are vacuumed, chunks are read although they are deleted.
    let vacuum = "VACUUM durable_state".to_owned();
    for statement in [chunks, kind("r"), delete, kind("t"), vacuum] {
        connection.execute(&*statement).await?;
    }
    connection.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_damaged_page_of_the_table_harms_only_the_rows_in_it() -> Outcome {
    const PAGE: usize = 8192;
    let server = PostgresServer::start_with(&[("autovacuum", "off")]).await?;
    let database = server.create_database().await?;
    let options: ConnectOptions = database.url().parse()?;
    user_state_store::migrate(&options).await?;
    let mut connection = PgConnection::connect(database.url()).await?;
    connection
        .execute(
            "INSERT INTO durable_state
             SELECT 1, '', 'id-' || to_char(i, 'FM000'), 1, now(), 31, 'm', 'x', NULL
             FROM generate_series(0, 399) AS i",
        )
        .await?;
    // As for a table with more pages than these.
    let name = database.name();
    connection
        .execute(&*format!("ALTER DATABASE {name} SET enable_seqscan = off"))
        .await?;
    connection.execute("CHECKPOINT").await?;
    let damaged: Vec<String> = sqlx::query_scalar(
        "SELECT persistence_id FROM durable_state WHERE (ctid::text::point)[0] = 2 ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await?;
    let file: String = sqlx::query_scalar("SELECT pg_relation_filepath('durable_state')")
        .fetch_one(&mut connection)
        .await?;
    let data: String = sqlx::query_scalar("SHOW data_directory")
        .fetch_one(&mut connection)
        .await?;
    server.stop().await?;
    let file = std::path::Path::new(&data).join(file);
    let mut bytes = std::fs::read(&file)?;
    bytes[2 * PAGE..3 * PAGE].fill(0x7f);
    std::fs::write(&file, bytes)?;
    server.restart().await?;

    let store = PostgresStore::open(&options).await?;
    let ids = ids(400);
    let culprits: Vec<usize> = (0..ids.len())
        .filter(|place| damaged.iter().any(|id| id == ids[*place].as_str()))
        .collect();
    assert!(culprits.len() > 10, "{culprits:?}");
    assert_culprits(&store, &ids, &culprits, "XX001").await?;

    // Every id before the damage, and then an error.
    let limit = NonZeroUsize::new(100).unwrap();
    let mut seen: Vec<PersistenceId> = Vec::new();
    let error = loop {
        match store.persistence_ids(seen.last(), limit).await {
            Ok(page) => seen.extend(page),
            Err(error) => break error,
        }
    };
    assert_eq!(seen, ids[..culprits[0]]);
    assert!(
        matches!(&error, StoreError::Unavailable(Cause::Database(error)) if &*error.code == "XX001"),
        "{error:?}"
    );
    let behind = store
        .persistence_ids(Some(&ids[*culprits.last().unwrap()]), limit)
        .await?;
    assert_eq!(behind.first(), ids.get(culprits.last().unwrap() + 1));
    Ok(())
}

#[tokio::test]
async fn a_missing_privilege_is_no_fault_of_any_row() -> Outcome {
    let database = Database::migrated().await?;
    let role = format!("{}_reader", database.name());
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret';
             GRANT SELECT, INSERT, UPDATE, DELETE ON durable_state TO {role}"
        ))
        .await?;
    let options: ConnectOptions = database.url_as(&role, "secret").parse()?;
    let store = PostgresStore::open(&options).await?;
    database
        .execute(&format!("REVOKE SELECT ON durable_state FROM {role}"))
        .await?;
    for count in [1, 100] {
        for row in store.load(&ids(count)).await? {
            assert!(
                matches!(&row, Err(StoreError::Misconfigured(Cause::Database(error)))
                    if &*error.code == "42501"),
                "{row:?}"
            );
        }
    }
    store.close().await;
    database
        .execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await?;
    Ok(())
}

#[tokio::test]
async fn ids_that_are_no_text_do_not_hide_the_others() -> Outcome {
    let database = encoded("SQL_ASCII").await?;
    let store = open(&database).await?;
    let ids = ids(9);
    let texts = ids.iter().map(PersistenceId::as_str);
    write(&store, texts.map(|id| put(id, 0, 1, b"{}")).collect()).await;
    database
        .execute(
            "INSERT INTO durable_state
             SELECT 1, '', convert_from(id, 'SQL_ASCII'), 1, now(), 31, 'm', 'x', NULL
             FROM unnest(ARRAY['\\x00ff', '\\x69642d303033ff', '\\x69642d303034fe',
               '\\x69642d303034ff', '\\xfe']::bytea[]) AS id
             WHERE position('\\x00'::bytea IN id) = 0",
        )
        .await?;
    for limit in [1, 2, 5, 100] {
        let limit = NonZeroUsize::new(limit).unwrap();
        let mut seen: Vec<PersistenceId> = Vec::new();
        loop {
            let page = store.persistence_ids(seen.last(), limit).await?;
            assert!(page.len() <= limit.get());
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen, ids, "{limit}");
    }
    Ok(())
}

#[tokio::test]
async fn ids_of_another_encoding_come_as_unicode() -> Outcome {
    let database = encoded("LATIN1").await?;
    let store = open(&database).await?;
    let id = PersistenceId::unique("caf\u{e9}")?;
    write(&store, vec![put(id.as_str(), 0, 1, b"{}")]).await;
    let page = store.persistence_ids(None, NonZeroUsize::MIN).await?;
    assert_eq!(page, [id]);
    Ok(())
}

#[tokio::test]
async fn many_large_rows_come_in_parts_of_at_most_eight_mebibytes() -> Outcome {
    let database = Database::migrated().await?;
    database
        .execute(
            "INSERT INTO durable_state
             SELECT 1, '', 'id-' || to_char(i, 'FM000'), 1, now(), 31, 'm',
               convert_to(repeat('x', 900 * 1024), 'UTF8'), NULL
             FROM generate_series(0, 99) AS i",
        )
        .await?;
    let store = open(&database).await?;
    let ids = ids(100);
    let answer = store.load(&ids).await?;
    for row in answer {
        let value = row?.ok_or("the row is there")?.value;
        let payload_bytes = 900 * 1024;
        assert_eq!(value, StoredValue::Withheld { payload_bytes });
    }
    let mut found = vec![0_usize; ids.len()];
    load_in_parts(&store, &ids, |place, row| {
        if let Ok(Some(row)) = row
            && let StoredValue::State(payload) = row.value
        {
            found[place] += payload.bytes.len();
        }
    })
    .await;
    assert_eq!(found, vec![900 * 1024; ids.len()]);
    Ok(())
}
