//! A random history of writes that carry companions, under guards that come and go, agrees with a model in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::companions::{noted, noting, removing};
use super::guards::take;
use super::seeded::Seeded;
use super::tables::LEASES;
use super::{Fixture, TestResult, sample};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::slice::SliceRange;
use crate::store::{Change, Guard, Write, WriteBatch, WriteOutcome};

/// How many batches a history has.
const BATCHES: usize = 60;

/// The names of notes. The table refuses the last one.
const NAMES: [&str; 4] = ["a", "b", "c", "refused"];

/// What is stored, and which epochs the writer knows.
#[derive(Default)]
struct Model {
    revisions: BTreeMap<PersistenceId, i64>,
    /// The revision of each note.
    notes: BTreeMap<(PersistenceId, &'static str), i64>,
    epochs: BTreeMap<u16, i64>,
    known_epochs: BTreeMap<u16, i64>,
}

/// A write, and the notes that it makes and removes.
struct Planned {
    write: Write,
    made: Vec<&'static str>,
    removed: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Applied,
    Conflict,
    Refused,
    Fenced,
}

/// Outcome by outcome and row by row the store agrees with a map, whatever the writes carry. The seed is fixed, so a failure
/// can be seen again.
pub async fn random_histories_of_what_writes_carry_agree_with_a_model(
    fixture: &Fixture,
) -> TestResult {
    fixture.make_tables().await?;
    let mut random = Seeded::new(43);
    let ids = sample::ids("modelled", 14)?;
    let mut model = Model::default();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for batch in 0..BATCHES {
        let ranges = model.move_epochs(&mut random, &ids);
        take(fixture, &ranges).await?;
        let mut planned = Vec::new();
        for id in &ids {
            if random.below(4) > 0 {
                planned.push(model.plan(&mut random, id)?);
            }
        }
        let writes = planned.iter().map(|planned| planned.write.clone());
        let guards = SliceRange::split(128).ok_or("it divides the number of slices")?;
        let guards = guards.into_iter().zip(0..).map(|(slices, range)| Guard {
            slices,
            epoch: model.known_epoch(range),
        });
        let written = WriteBatch::new(writes.collect())?.guarded(&LEASES, guards)?;
        let outcomes = fixture.write_batch(&written).await?;
        for (planned, outcome) in planned.iter().zip(outcomes) {
            let found = match &outcome {
                WriteOutcome::Applied(_) => Expected::Applied,
                WriteOutcome::Conflict => Expected::Conflict,
                WriteOutcome::Fenced => Expected::Fenced,
                WriteOutcome::NotApplied(StoreError::Refused(_)) => Expected::Refused,
                other => return Err(format!("batch {batch}: {other:?}").into()),
            };
            *seen.entry(format!("{found:?}")).or_default() += 1;
            let expected = model.decide(planned);
            assert_eq!(found, expected, "batch {batch}, {:?}", planned.write);
        }
        assert_eq!(noted(fixture).await?, model.noted(), "batch {batch}");
        for (id, row) in ids.iter().zip(fixture.store.load(&ids).await?) {
            let revision = row?.map(|row| row.revision.get());
            let expected = model.revisions.get(id).copied();
            assert_eq!(revision, expected, "batch {batch}, {id}");
        }
    }
    assert!(
        seen.len() == 4 && seen.values().all(|count| *count > 20),
        "{seen:?}"
    );
    Ok(())
}

fn range(id: &PersistenceId) -> u16 {
    id.slice().get() / 8
}

impl Model {
    fn epoch(&self, range: u16) -> i64 {
        self.epochs.get(&range).copied().unwrap_or(1)
    }

    fn known_epoch(&self, range: u16) -> i64 {
        self.known_epochs.get(&range).copied().unwrap_or(1)
    }

    /// Some ranges go to somebody else, and the writer learns of some.
    fn move_epochs(&mut self, random: &mut Seeded, ids: &[PersistenceId]) -> BTreeSet<u16> {
        let mut taken = BTreeSet::new();
        for range in ids.iter().map(range) {
            match random.below(12) {
                0 if taken.insert(range) => {
                    self.epochs.insert(range, self.epoch(range) + 1);
                }
                1..5 => {
                    self.known_epochs.insert(range, self.epoch(range));
                }
                _ => {}
            }
        }
        taken
    }

    /// Some write of this entity, mostly at the right revision.
    fn plan(&self, random: &mut Seeded, id: &PersistenceId) -> TestResult<Planned> {
        let stored = self.revisions.get(id).copied().unwrap_or_default();
        let expected = match random.below(6) {
            0 => stored + 1,
            1 => 0,
            _ => stored,
        };
        let mut write = match random.below(6) {
            0 => sample::mark(id, expected),
            1 if expected > 0 => sample::erase(id, expected),
            _ => sample::put(id, expected, expected + 1),
        };
        let removed = NAMES
            .iter()
            .filter(|_| random.below(5) == 0)
            .copied()
            .next();
        let others = NAMES.iter().filter(|name| Some(**name) != removed);
        let made: Vec<&str> = others
            .filter(|name| random.below(if **name == "refused" { 12 } else { 4 }) == 0)
            .copied()
            .collect();
        if let Some(removed) = removed {
            write = removing(write, removed)?;
        }
        Ok(Planned {
            write: noting(write, &made)?,
            made,
            removed,
        })
    }

    /// The contract of one write.
    fn decide(&mut self, planned: &Planned) -> Expected {
        let Planned {
            write,
            made,
            removed,
        } = planned;
        let id = &write.persistence_id;
        if self.epoch(range(id)) != self.known_epoch(range(id)) {
            return Expected::Fenced;
        }
        let is_noted = |name: &'static str| self.notes.contains_key(&(id.clone(), name));
        let stored = self.revisions.get(id).copied().unwrap_or_default();
        if stored != write.expected.get() || removed.is_some_and(|name| !is_noted(name)) {
            return Expected::Conflict;
        }
        if made.iter().any(|name| *name == "refused" || is_noted(name)) {
            return Expected::Refused;
        }
        let revision = write.new_revision().get();
        match write.change {
            Change::Erase => self.revisions.remove(id),
            Change::Put { .. } | Change::Mark => self.revisions.insert(id.clone(), revision),
        };
        if let Some(removed) = removed {
            self.notes.remove(&(id.clone(), *removed));
        }
        for name in made {
            self.notes.insert((id.clone(), *name), revision);
        }
        Expected::Applied
    }

    fn noted(&self) -> BTreeSet<String> {
        let notes = self.notes.iter();
        let short = notes.map(|((id, name), revision)| format!("{id}/{name}@{revision}"));
        short.collect()
    }
}
