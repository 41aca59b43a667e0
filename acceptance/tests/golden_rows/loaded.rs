//! Rows as they stand are loaded as what they say, and stand for the states that were given to Pekko.

use user_state_domain::UserState;
use user_state_store::{
    Manifest, Payload, PayloadColumn, PersistenceId, SerializerId, StateMapping as _, StoredState,
    StoredValue,
};

use crate::TestResult;
use crate::fixture::{Category, Line, RELEASES, Release};
use crate::state::{mapping, tags, user_state};
use crate::table::{Table, revision};

/// The rows of these lines, inserted as they stand and loaded with one query.
pub(crate) async fn loaded(table: &Table, lines: &[Line]) -> TestResult<Vec<StoredState>> {
    table.refill(lines.iter().map(Line::row)).await?;
    let ids: Vec<PersistenceId> = lines
        .iter()
        .map(|line| PersistenceId::unique(&line.row().persistence_id))
        .collect::<Result<_, _>>()?;
    let rows = table.store.states().load(&ids).await?;
    let rows = rows.into_iter().zip(lines).map(|(row, line)| {
        let row = row.map_err(|error| format!("{}: {error}", line.case))?;
        Ok(row.ok_or_else(|| format!("{} is not there", line.case))?)
    });
    rows.collect()
}

/// Every column of a loaded row is that of the line.
fn assert_columns(line: &Line, loaded: &StoredState) -> TestResult {
    let row = line.row();
    let expected = StoredState {
        persistence_id: PersistenceId::unique(&row.persistence_id)?,
        slice: user_state_store::Slice::new(row.slice.try_into()?).ok_or("no slice")?,
        entity_type: row.entity_type.as_str().into(),
        revision: revision(row.revision),
        db_timestamp: row.db_timestamp,
        value: StoredValue::State(Payload {
            serializer_id: SerializerId(row.state_ser_id),
            manifest: Manifest::new(&row.state_ser_manifest),
            bytes: row.payload(),
        }),
        tags: tags(row),
    };
    assert!(*loaded == expected, "{}: {loaded:?}", line.case);
    // The columns that others read by follow from the id, here as there.
    let id = &expected.persistence_id;
    assert_eq!(
        (id.slice(), id.entity_type()),
        (loaded.slice, &*loaded.entity_type)
    );
    Ok(())
}

/// A loaded user's state.
fn decoded(line: &Line, loaded: &StoredState) -> UserState {
    let StoredValue::State(payload) = &loaded.value else {
        panic!("{} reads as deleted", line.case);
    };
    mapping(line)
        .decode(&loaded.persistence_id, payload)
        .unwrap_or_else(|error| panic!("{}: {error}", line.case))
}

#[tokio::test]
async fn json_rows_are_loaded_column_by_column_and_stand_for_the_states_given() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        users(release, Category::Json, &table).await?;
    }
    Ok(())
}

#[tokio::test]
async fn cbor_rows_are_loaded_column_by_column_and_stand_for_the_states_given() -> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        users(release, Category::Cbor, &table).await?;
    }
    Ok(())
}

#[tokio::test]
async fn jsonb_rows_are_loaded_column_by_column_and_stand_for_the_states_given() -> TestResult {
    let table = Table::new(PayloadColumn::Jsonb).await?;
    users(Release::V2_0_0M1, Category::Jsonb, &table).await
}

async fn users(release: Release, category: Category, table: &Table) -> TestResult {
    let lines = release.lines_of(category);
    let rows = loaded(table, &lines).await?;
    for (line, row) in lines.iter().zip(&rows) {
        assert_columns(line, row)?;
        let expected = user_state(&line.expected, line.zone.0);
        assert_eq!(decoded(line, row), expected, "{release:?}, {}", line.case);
    }
    Ok(())
}
