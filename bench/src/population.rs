//! The rows that are there before anything is measured, copied in as text.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use cqrs_es::{Aggregate as _, DomainEvent as _};
use sqlx::{Connection as _, Executor as _, PgConnection};
use user_state_domain::UserState;
use user_state_store::{
    ConnectOptions, Payload, PersistenceId, StateMapping as _, Tags, UserStateMapping, migrate,
};

use crate::exit::{Failure, with_causes};
use crate::sample;

/// The revision of every row in the beginning: one for each event of the history.
pub(crate) const FIRST_REVISION: i64 = 6;

/// About how many bytes are sent at once.
const CHUNK_BYTES: usize = 1 << 20;

const COPY_STATES: &str = "\
COPY durable_state (
  slice, entity_type, persistence_id, revision, db_timestamp,
  state_ser_id, state_ser_manifest, state_payload, tags
) FROM STDIN";

const COPY_EVENTS: &str = "\
COPY events (
  aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
) FROM STDIN";

const COPY_SNAPSHOTS: &str = "\
COPY snapshots (
  aggregate_type, aggregate_id, last_sequence, current_snapshot, payload
) FROM STDIN";

/// The tables of postgres-es 0.5, as its `db/init.sql` has them.
const CREATE_EVENTS_AND_SNAPSHOTS: &str = "\
CREATE TABLE events (
  aggregate_type text NOT NULL,
  aggregate_id text NOT NULL,
  sequence bigint CHECK (sequence >= 0) NOT NULL,
  event_type text NOT NULL,
  event_version text NOT NULL,
  payload json NOT NULL,
  metadata json NOT NULL,
  PRIMARY KEY (aggregate_type, aggregate_id, sequence)
);
CREATE TABLE snapshots (
  aggregate_type text NOT NULL,
  aggregate_id text NOT NULL,
  last_sequence bigint CHECK (last_sequence >= 0) NOT NULL,
  current_snapshot bigint CHECK (current_snapshot >= 0) NOT NULL,
  payload json NOT NULL,
  PRIMARY KEY (aggregate_type, aggregate_id, last_sequence)
)";

/// Which tables users are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tables {
    /// Those of Apache Pekko Persistence R2DBC.
    DurableState,
    /// The same, with a batch of users every few milliseconds.
    DurableStateInTime,
    /// Those of postgres-es.
    EventsAndSnapshots,
}

/// A row of `durable_state` as it is written.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) persistence_id: PersistenceId,
    pub(crate) payload: Payload,
    pub(crate) tags: Vec<String>,
    /// The tags as the text form of an array.
    pub(crate) tags_literal: String,
    /// The tags as SQLite has them.
    pub(crate) tags_json: Option<String>,
}

impl Row {
    /// The row of the user with this number.
    pub(crate) fn new(number: usize) -> Result<Self, Failure> {
        Self::of(number, &sample::usual_state(beginning()))
    }

    /// The row of a user of whom one thing is known.
    pub(crate) fn first(number: usize) -> Result<Self, Failure> {
        Self::of(number, &sample::first_state(beginning()))
    }

    fn of(number: usize, state: &UserState) -> Result<Self, Failure> {
        let mapping = UserStateMapping::new();
        let persistence_id = sample::persistence_id(number);
        let payload = mapping
            .encode(&persistence_id, state)
            .map_err(|error| Failure::new(1, with_causes(&error)))?;
        let tags: Tags = mapping.tags();
        let tags: Vec<String> = tags.iter().map(str::to_owned).collect();
        Ok(Self {
            persistence_id,
            payload,
            // Letters and dashes need no quotes.
            tags_literal: format!("{{{}}}", tags.join(",")),
            tags_json: (!tags.is_empty())
                .then(|| serde_json::Value::from(tags.clone()).to_string()),
            tags,
        })
    }

    fn line(&self, at: DateTime<Utc>, line: &mut String) -> std::fmt::Result {
        let Self {
            persistence_id,
            payload,
            tags_literal,
            ..
        } = self;
        write!(
            line,
            "{}\t{}\t{}\t{FIRST_REVISION}\t{}\t{}\t{}\t\\\\x",
            persistence_id.slice().get(),
            persistence_id.entity_type(),
            persistence_id.as_str(),
            at.to_rfc3339(),
            payload.serializer_id,
            payload.manifest,
        )?;
        for byte in &payload.bytes {
            write!(line, "{byte:02x}")?;
        }
        writeln!(line, "\t{tags_literal}")
    }
}

/// Makes the tables in an empty database, and so many users in them.
pub(crate) async fn create(url: &str, tables: Tables, users: usize) -> Result<(), Failure> {
    let mut connection = PgConnection::connect(url)
        .await
        .map_err(|error| failed(&error))?;
    match tables {
        Tables::DurableState | Tables::DurableStateInTime => {
            migrate(&ConnectOptions::parse(url)?).await?;
            copy(&mut connection, COPY_STATES, users, |number, lines| {
                let row = Row::new(number)?;
                let at = match tables {
                    Tables::DurableStateInTime => batch_time(number),
                    _ => beginning(),
                };
                row.line(at, lines)
                    .map_err(|error| Failure::new(1, error.to_string()))
            })
            .await?;
        }
        Tables::EventsAndSnapshots => {
            connection
                .execute(CREATE_EVENTS_AND_SNAPSHOTS)
                .await
                .map_err(|error| failed(&error))?;
            copy(&mut connection, COPY_EVENTS, users, event_lines).await?;
            copy(&mut connection, COPY_SNAPSHOTS, users, snapshot_line).await?;
        }
    }
    // Copies of the database have its statistics too.
    let analyzed = connection.execute("VACUUM (ANALYZE)").await;
    analyzed.map_err(|error| failed(&error))?;
    connection.close().await.map_err(|error| failed(&error))
}

/// Clears away dead rows, so that every measurement finds its tables alike.
pub(crate) async fn settle(connection: &mut PgConnection, tables: Tables) -> Result<(), Failure> {
    let settled = connection.execute(match tables {
        Tables::DurableState | Tables::DurableStateInTime => "VACUUM durable_state",
        Tables::EventsAndSnapshots => "VACUUM events, snapshots",
    });
    settled.await.map(drop).map_err(|error| failed(&error))
}

async fn copy(
    connection: &mut PgConnection,
    statement: &str,
    users: usize,
    lines: impl Fn(usize, &mut String) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut copying = connection
        .copy_in_raw(statement)
        .await
        .map_err(|error| failed(&error))?;
    let mut chunk = String::with_capacity(CHUNK_BYTES * 2);
    for number in 0..users {
        lines(number, &mut chunk)?;
        if chunk.len() >= CHUNK_BYTES {
            copying
                .send(chunk.as_bytes())
                .await
                .map_err(|error| failed(&error))?;
            chunk.clear();
        }
    }
    copying
        .send(chunk.as_bytes())
        .await
        .map_err(|error| failed(&error))?;
    copying
        .finish()
        .await
        .map(drop)
        .map_err(|error| failed(&error))
}

fn event_lines(number: usize, lines: &mut String) -> Result<(), Failure> {
    let id = sample::persistence_id(number);
    for (sequence, event) in (1..).zip(sample::history(beginning())) {
        let sequence: i64 = sequence;
        let payload = json(&event)?;
        lines.extend([format!(
            "{}\t{}\t{sequence}\t{}\t{}\t{payload}\t{{}}\n",
            UserState::TYPE,
            id.as_str(),
            event.event_type(),
            event.event_version(),
        )]);
    }
    Ok(())
}

fn snapshot_line(number: usize, lines: &mut String) -> Result<(), Failure> {
    let id = sample::persistence_id(number);
    let payload = json(&sample::usual_state(beginning()))?;
    lines.extend([format!(
        "{}\t{}\t{FIRST_REVISION}\t1\t{payload}\n",
        UserState::TYPE,
        id.as_str(),
    )]);
    Ok(())
}

/// A value as JSON; it holds nothing that the text form of `COPY` would take for an escape.
fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(1, with_causes(&error)))
}

/// When everything happened that the rows tell.
pub(crate) fn beginning() -> DateTime<Utc> {
    const BEGINNING: DateTime<Utc> = DateTime::from_timestamp_nanos(1_767_225_600_123_456_000);
    BEGINNING
}

/// When a user was written who is one of a batch of 100, a batch every 5 ms.
fn batch_time(number: usize) -> DateTime<Utc> {
    let batch = i64::try_from(number / 100).unwrap_or_default();
    beginning() + TimeDelta::milliseconds(batch * 5)
}

fn failed(error: &sqlx::Error) -> Failure {
    Failure::unavailable(error)
}

#[cfg(test)]
pub(crate) mod tests {
    use throwaway_postgres::TestDatabase;
    use user_state_store::{Backend as _, DurableStateStore, PostgresStore, StoredValue};

    use super::*;

    /// The store reads the rows that users begin with.
    pub(crate) async fn assert_first_rows(
        store: &dyn DurableStateStore,
        users: usize,
    ) -> Result<(), Box<dyn std::error::Error>> {
        for number in 0..users {
            let id = sample::persistence_id(number);
            let row = store.load_one(&id).await?.ok_or("no row")?;
            assert_eq!(row.revision.get(), FIRST_REVISION);
            assert_eq!(row.slice, id.slice());
            let mapping = UserStateMapping::new();
            assert_eq!(row.tags, mapping.tags());
            let StoredValue::State(payload) = row.value else {
                return Err("it was not deleted".into());
            };
            let state: UserState = mapping.decode(&id, &payload)?;
            assert_eq!(state, sample::usual_state(beginning()));
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_store_reads_what_was_copied_in() -> Result<(), Box<dyn std::error::Error>> {
        let database = TestDatabase::create().await?;
        create(database.url(), Tables::DurableState, 3)
            .await
            .map_err(|_| "not created")?;
        let store = PostgresStore::open(&ConnectOptions::parse(database.url())?).await?;
        assert_first_rows(&store, 3).await?;
        store.close().await;
        Ok(())
    }

    #[tokio::test]
    async fn postgres_es_finds_the_same_state_by_each_of_its_ways()
    -> Result<(), Box<dyn std::error::Error>> {
        use cqrs_es::EventStore as _;
        use cqrs_es::persist::PersistedEventStore;
        use postgres_es::PostgresEventRepository;

        let database = TestDatabase::create().await?;
        create(database.url(), Tables::EventsAndSnapshots, 2)
            .await
            .map_err(|_| "not created")?;
        let pool = sqlx::PgPool::connect(database.url()).await?;
        let repository = || PostgresEventRepository::new(pool.clone());
        for store in [
            PersistedEventStore::<_, UserState>::new_event_store(repository()),
            PersistedEventStore::new_snapshot_store(repository(), 10),
            PersistedEventStore::new_aggregate_store(repository()),
        ] {
            let loaded = store.load_aggregate("load-user-1").await?;
            assert_eq!(loaded.aggregate, sample::usual_state(beginning()));
            assert_eq!(i64::try_from(loaded.current_sequence)?, FIRST_REVISION);
        }
        pool.close().await;
        Ok(())
    }
}
