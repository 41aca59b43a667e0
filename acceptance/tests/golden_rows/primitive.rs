//! States that are one primitive value: loaded, continued by a runtime, and written as Pekko wrote them.

use std::fmt;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use user_state_runtime::Runtime;
use user_state_store::{
    Change, PayloadColumn, PersistenceId, Primitive, PrimitiveMapping, StateMapping, StoredValue,
    WriteOutcome,
};

use crate::TestResult;
use crate::fixture::{Category, Line, RELEASES, Release};
use crate::loaded::loaded;
use crate::table::{Table, revision, write_of};

/// A value that is replaced by each command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept<P>(P);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Replaced<P>(P);

/// Nothing is refused.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

impl<P> DomainEvent for Replaced<P>
where
    P: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync,
{
    fn event_type(&self) -> String {
        "Replaced".to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl<P> Aggregate for Kept<P>
where
    P: Clone
        + fmt::Debug
        + Default
        + PartialEq
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    const TYPE: &'static str = "Kept";
    type Command = P;
    type Event = Replaced<P>;
    type Error = Refused;
    type Services = ();

    async fn handle(&mut self, command: P, (): &(), sink: &EventSink<Self>) -> Result<(), Refused> {
        sink.write(Replaced(command), self).await;
        Ok(())
    }

    fn apply(&mut self, Replaced(value): Replaced<P>) {
        self.0 = value;
    }
}

impl<P> From<P> for Kept<P> {
    fn from(value: P) -> Self {
        Self(value)
    }
}

/// The mapping's view of a kept value.
macro_rules! kept {
    ($($primitive:ty),*) => {
        $(impl From<Kept<$primitive>> for $primitive {
            fn from(Kept(value): Kept<$primitive>) -> Self {
                value
            }
        })*
    };
}

kept!(String, i64, i32, bool, Vec<u8>);

#[tokio::test]
async fn texts_numbers_truth_values_and_bytes_are_read_continued_and_written_as_pekko_does()
-> TestResult {
    let table = Table::new(PayloadColumn::Bytea).await?;
    for release in RELEASES {
        let expected = |case: &str| -> (Line, serde_json::Value) {
            let line = release.line(case);
            let expected = line.expected.clone();
            (line, expected)
        };
        let (line, value) = expected("primitive-string-empty");
        assert_kept(
            &table,
            &line,
            value.as_str().unwrap().to_owned(),
            "다음".to_owned(),
        )
        .await?;
        let (line, value) = expected("primitive-long");
        assert_kept(&table, &line, value.as_i64().unwrap(), i64::MIN).await?;
        let (line, value) = expected("primitive-int");
        assert_kept(&table, &line, i32::try_from(value.as_i64().unwrap())?, -1).await?;
        let (line, value) = expected("primitive-boolean");
        assert_kept(&table, &line, value.as_bool().unwrap(), false).await?;
        let (line, value) = expected("primitive-bytes");
        assert_eq!(value["bytes_hex"], "000102ff");
        assert_kept(&table, &line, vec![0_u8, 1, 2, 0xff], vec![]).await?;
        let lines = release.lines_of(Category::Primitive).len();
        assert_eq!(lines, 5, "{release:?}: every case is here");
    }
    Ok(())
}

#[tokio::test]
async fn a_text_in_a_jsonb_column_is_read_as_the_json_it_is() -> TestResult {
    let lines = Release::V2_0_0M1.lines_of(Category::JsonbText);
    let rows = loaded(&Table::new(PayloadColumn::Jsonb).await?, &lines).await?;
    for (line, row) in lines.iter().zip(rows) {
        let StoredValue::State(payload) = row.value else {
            return Err("a text is no mark".into());
        };
        let mapping = PrimitiveMapping::<String>::new();
        let text: String = mapping.decode(&row.persistence_id, &payload)?;
        assert_eq!(Some(text.as_str()), line.expected.as_str());
    }
    Ok(())
}

async fn assert_kept<P>(table: &Table, line: &Line, stored: P, next: P) -> TestResult
where
    P: Primitive + From<Kept<P>> + Default + Clone + fmt::Debug + PartialEq,
    P: Serialize + DeserializeOwned,
{
    let case = &line.case;
    let pekko = line.row();
    let id = PersistenceId::unique(&pekko.persistence_id)?;
    let mapping = PrimitiveMapping::<P>::new();

    table.refill([]).await?;
    let change = Change::Put {
        revision: revision(pekko.revision),
        payload: mapping.encode(&id, &Kept(stored.clone()))?,
        tags: StateMapping::<Kept<P>>::tags(&mapping),
    };
    let outcome = table
        .write(write_of(&pekko.persistence_id, 0, change))
        .await?;
    assert!(
        matches!(outcome, WriteOutcome::Applied(_)),
        "{case}: {outcome:?}"
    );
    let rows = table.rows().await?;
    assert_eq!(rows[0].undated(), pekko.undated(), "{case}");

    table.refill([pekko]).await?;
    let runtime = Runtime::<Kept<P>>::builder(&table.store, mapping, ()).start()?;
    let entity = runtime.entity(id);
    let read = entity.state().await?;
    assert_eq!(
        (read.state, read.revision.get()),
        (Kept(stored), pekko.revision),
        "{case}"
    );
    let executed = entity.execute(next.clone()).await?;
    assert_eq!(executed.get(), pekko.revision + 1, "{case}");
    entity.passivate().await?;
    assert_eq!(entity.state().await?.state, Kept(next), "{case}");
    runtime.shutdown().await?;
    let rows = table.rows().await?;
    assert_eq!(rows.len(), 1, "{case}");
    assert_eq!(rows[0].with_payload_of(pekko).undated().tags, pekko.tags);
    assert_eq!(
        (
            rows[0].state_ser_id,
            rows[0].slice,
            &rows[0].state_ser_manifest
        ),
        (pekko.state_ser_id, pekko.slice, &pekko.state_ser_manifest),
        "{case}"
    );
    Ok(())
}
