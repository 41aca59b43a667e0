//! Rows of both versions of a class, read by a class of either version, as Pekko's migrations read them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use user_state_domain::UserCommand;
use user_state_runtime::{RequestError, Runtime};
use user_state_store::{
    Change, DecodeError, JacksonMigration, Manifest, Payload, PayloadColumn, PayloadFormat,
    PersistenceId, SerdeMapping, SerializerId, StateMapping as _, StoreError, StoredState,
    StoredValue, UserStateMapping, WriteOutcome,
};

use crate::TestResult;
use crate::fixture::{Category, Line, RELEASES, Release, Row};
use crate::loaded::loaded;
use crate::state::{CLASS, mapping, tags, user_state};
use crate::table::{Table, revision, write_of};

/// Version 2 of the class: `optedIn` in place of `marketingOptIn`, and the visits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecondVersion {
    mall_id: String,
    user_id: String,
    last_login: Option<String>,
    last_cart_used_time: Option<String>,
    recent_products: Vec<String>,
    opted_in: bool,
    visits: i32,
    last_event_time: Option<String>,
}

fn rename(document: &mut Value, from: &str, to: &str) -> Result<(), &'static str> {
    let fields = document.as_object_mut().ok_or("not an object")?;
    let value = fields.remove(from).ok_or("the field is not there")?;
    fields.insert(to.to_owned(), value);
    Ok(())
}

/// The class at version 2, which reads version 1.
fn second_version(format: PayloadFormat) -> SerdeMapping<SecondVersion> {
    let migration = JacksonMigration::new().upcast(|document| {
        rename(document, "marketingOptIn", "optedIn")?;
        document["visits"] = 1.into();
        Ok(())
    });
    SerdeMapping::new(CLASS).migration(migration).format(format)
}

/// The class at version 1 under the migration of the case, if it has one.
fn first_version(line: &Line) -> UserStateMapping {
    let mapping = mapping(line);
    match line.case.as_str() {
        "migration-v1-row" | "migration-v2-row-refused" => mapping,
        // Pekko without a migration ignores the version; ours has to be told so.
        "migration-v2-row-read-as-v1" => {
            mapping.migration(JacksonMigration::new().downcast_unchanged())
        }
        "migration-v2-row-forward" => {
            let back = |document: &mut Value| rename(document, "optedIn", "marketingOptIn");
            mapping.migration(JacksonMigration::new().downcast(back))
        }
        other => panic!("{other} is not read by version 1"),
    }
}

/// Cases that a class of version 2 reads, and those that one of version 1 does: together all of them.
const BY_SECOND: [&str; 4] = [
    "migration-v1-row-read-as-v2",
    "migration-v1-row-updated-as-v2",
    "migration-v2-row",
    "cbor-migration-v2-row",
];

const BY_FIRST: [&str; 4] = [
    "migration-v1-row",
    "migration-v2-row-read-as-v1",
    "migration-v2-row-forward",
    "migration-v2-row-refused",
];

#[test]
fn every_case_of_versions_is_read_by_one_of_them() {
    let mut known = [BY_SECOND, BY_FIRST].concat();
    known.sort_unstable();
    for release in RELEASES {
        let lines = release.lines_of(Category::Migration);
        let mut names: Vec<&str> = lines.iter().map(|line| line.case.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, known, "{release:?}");
    }
}

#[tokio::test]
async fn version_2_of_a_class_reads_both_versions_and_writes_the_rows_that_pekko_wrote()
-> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        for case in BY_SECOND {
            let line = release.line(case);
            let format = if case.starts_with("cbor-") {
                PayloadFormat::Cbor
            } else {
                PayloadFormat::Json
            };
            let mapping = second_version(format);
            let row = loaded(&table, std::slice::from_ref(&line)).await?;
            let state = mapping.decode(&row[0].persistence_id, payload(&row[0])?)?;
            let expected: SecondVersion = serde_json::from_value(line.expected.clone())?;
            assert_eq!(state, expected, "{release:?}, {case}");
            if line.row().state_ser_manifest.ends_with("#2") {
                assert_written(&table, release, &line, &mapping, &state).await?;
            }
        }
    }
    Ok(())
}

fn payload(row: &StoredState) -> TestResult<&Payload> {
    match &row.value {
        StoredValue::State(payload) => Ok(payload),
        value => Err(format!("no state: {value:?}").into()),
    }
}

/// Writing the state, where there is a row of version 1 after reading that, makes Pekko's row of version 2.
async fn assert_written(
    table: &Table,
    release: Release,
    line: &Line,
    mapping: &SerdeMapping<SecondVersion>,
    state: &SecondVersion,
) -> TestResult {
    let pekko = line.row();
    let before = pekko.revision - 1;
    let first = release.line("migration-v1-row");
    let first = (before == 1).then(|| first.row());
    table.refill(first).await?;
    let id = PersistenceId::unique(&pekko.persistence_id)?;
    let change = Change::Put {
        revision: revision(pekko.revision),
        payload: mapping.encode(&id, state)?,
        tags: tags(pekko),
    };
    let outcome = table
        .write(write_of(&pekko.persistence_id, before, change))
        .await?;
    assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
    let rows = table.rows().await?;
    let [ours] = &rows[..] else {
        return Err(format!("{} rows", rows.len()).into());
    };
    let case = &line.case;
    let columns = |row: &Row| row.with_payload_of(pekko).undated();
    assert_eq!(columns(ours), columns(pekko), "{case}");
    if case.starts_with("cbor-") {
        let ours = loaded_tree(mapping, ours)?;
        assert_eq!(ours, loaded_tree(mapping, pekko)?, "{case}");
    } else {
        assert_eq!(ours.payload(), pekko.payload(), "{case}");
    }
    Ok(())
}

fn loaded_tree(mapping: &SerdeMapping<SecondVersion>, row: &Row) -> TestResult<SecondVersion> {
    let payload = Payload {
        serializer_id: SerializerId(row.state_ser_id),
        manifest: Manifest::new(&row.state_ser_manifest),
        bytes: row.payload(),
    };
    let id = PersistenceId::unique(&row.persistence_id)?;
    Ok(mapping.decode(&id, &payload)?)
}

#[tokio::test]
async fn version_1_of_a_class_reads_and_continues_what_its_migration_allows_and_nothing_else()
-> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        for case in BY_FIRST {
            let line = release.line(case);
            table.refill(&line.row).await?;
            let runtime = Runtime::for_users_as(&table.store, first_version(&line)).start()?;
            let user = runtime.entity(PersistenceId::unique(&line.row().persistence_id)?);
            let read = user.state().await;
            if case == "migration-v2-row-refused" {
                let refused = DecodeError::NewerVersion {
                    found: 2,
                    newest: 1,
                };
                assert!(
                    matches!(
                        &read,
                        Err(RequestError::Unreadable(StoreError::Corrupt { reason, .. }))
                            if *reason == refused
                    ),
                    "{release:?}: {read:?}"
                );
                let at = "2026-01-01T00:00:00Z".parse()?;
                assert!(user.execute(UserCommand::Login { at }).await.is_err());
                assert_eq!(table.rows().await?, [line.row().clone()]);
                continue;
            }
            let read = read?;
            let expected = user_state(&line.expected, line.zone.0);
            assert_eq!(read.state, expected, "{release:?}, {case}");
            let at = "2026-01-01T00:00:00Z".parse()?;
            let next = user.execute(UserCommand::Login { at }).await?;
            assert_eq!(next.get(), line.row().revision + 1);
            runtime.shutdown().await?;
            let rows = table.rows().await?;
            assert_eq!(rows.len(), 1, "{release:?}, {case}");
            assert_eq!(
                rows[0].state_ser_manifest, CLASS,
                "it is written as version 1"
            );
        }
    }
    Ok(())
}
