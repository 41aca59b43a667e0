//! A random history of writes gives the same outcomes and rows as a model in memory.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::seeded::Seeded;
use super::{Fixture, TestResult, sample};
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::store::{Change, StoredValue, Write, WriteOutcome};
use crate::tags::Tags;

/// How many batches a history has.
const BATCHES: usize = 120;

/// What the model knows of a row.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    revision: Revision,
    value: StoredValue,
    tags: Tags,
    /// As the outcome told it.
    db_timestamp: DateTime<Utc>,
}

/// Batches of random writes, mostly at the right revision and with or without the right time, over a few entities: outcome by outcome and row by row the
/// store agrees with a map. The seed is fixed, so a failure can be seen again.
pub async fn random_histories_agree_with_a_model(fixture: &Fixture) -> TestResult {
    let mut random = Seeded::new(42);
    let mut ids = sample::ids("modelled", 6)?;
    ids.extend(sample::ids("Type|modelled", 6)?);
    let mut model: BTreeMap<PersistenceId, Row> = BTreeMap::new();
    let mut applied = 0;
    for batch in 0..BATCHES {
        let mut writes = Vec::new();
        for id in &ids {
            let stored = model.get(id).map_or(0, |row| row.revision.get());
            if random.below(2) == 0 {
                let write = random_write(fixture, &mut random, id, stored);
                let time = model.get(id).map(|row| row.db_timestamp);
                writes.extend(write.map(|write| write.expected_at(random_time(&mut random, time))));
            }
        }
        writes.sort_unstable_by(|left, right| left.persistence_id.cmp(&right.persistence_id));
        let outcomes = fixture.write(writes.clone()).await?;
        assert_eq!(outcomes.len(), writes.len());
        for (write, outcome) in writes.iter().zip(&outcomes) {
            let (told, time) = match outcome {
                WriteOutcome::Applied(time) => (true, time.unwrap_or_default()),
                WriteOutcome::Conflict => (false, DateTime::UNIX_EPOCH),
                other => return Err(format!("batch {batch}, {write:?}: {other:?}").into()),
            };
            let expected = decide(&mut model, write, time);
            assert_eq!(told, expected, "batch {batch}, {write:?}");
            applied += usize::from(told);
        }
        for (id, row) in ids.iter().zip(fixture.store.load(&ids).await?) {
            let row = row?.map(|state| Row {
                revision: state.revision,
                value: state.value,
                tags: state.tags,
                db_timestamp: state.db_timestamp,
            });
            assert_eq!(row.as_ref(), model.get(id), "batch {batch}, {id}");
        }
    }
    assert!(applied > BATCHES, "the history did next to nothing");
    Ok(())
}

/// Some write of this entity, whose row is at `stored`; none where chance drew one that no batch takes.
fn random_write(
    fixture: &Fixture,
    random: &mut Seeded,
    id: &PersistenceId,
    stored: i64,
) -> Option<Write> {
    let expected = match random.below(10) {
        0 => stored - 1,
        1 => stored + 1,
        2 => 0,
        _ => stored,
    };
    let expected = expected.max(0);
    match random.below(8) {
        0 => Some(sample::mark(id, expected)),
        1 => (expected > 0).then(|| sample::erase(id, expected)),
        _ => {
            let jump = if expected == 0 {
                1
            } else {
                i64::try_from(1 + random.below(4)).ok()?
            };
            let tags = match random.below(3) {
                0 => Tags::NONE,
                1 => Tags::one("one"),
                _ => Tags::new(["one", "two"]),
            };
            let length = random.pick(&[0, 3, 200])?;
            let payload = fixture.payload(random, *length);
            Some(sample::put_tagged(
                id,
                expected,
                expected + jump,
                payload,
                tags,
            ))
        }
    }
}

/// The time that a write expects of its row: mostly none or the stored one.
fn random_time(random: &mut Seeded, stored: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    match random.below(10) {
        0 => stored.map(|time| time - TimeDelta::microseconds(1)),
        1..5 => stored,
        _ => None,
    }
}

/// The contract of one write; whether it applies, from when on if it does.
fn decide(
    model: &mut BTreeMap<PersistenceId, Row>,
    write: &Write,
    db_timestamp: DateTime<Utc>,
) -> bool {
    let stored = model.get(&write.persistence_id);
    if stored.map_or(Revision::NONE, |row| row.revision) != write.expected {
        return false;
    }
    let is_another = |row: &Row| write.expected_at.is_some_and(|at| at != row.db_timestamp);
    if stored.is_some_and(is_another) {
        return false;
    }
    let kept_tags = stored.map_or(Tags::NONE, |row| row.tags.clone());
    let row = match &write.change {
        Change::Put { payload, tags, .. } => Row {
            revision: write.new_revision(),
            value: StoredValue::State(payload.clone()),
            tags: tags.clone(),
            db_timestamp,
        },
        Change::Mark => Row {
            revision: write.new_revision(),
            value: StoredValue::Deleted,
            tags: kept_tags,
            db_timestamp,
        },
        Change::Erase => {
            model.remove(&write.persistence_id);
            return true;
        }
    };
    model.insert(write.persistence_id.clone(), row);
    true
}
