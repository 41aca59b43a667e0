//! Goal: whatever the lengths of stretches are, every row comes exactly once and in order, and the number of questions
//! follows the number of rows.
//! Method: a table in memory that answers as the databases do; times that are dense, sparse, alike or mixed at random.
//! Seeds are fixed.

use super::*;
use crate::changes::UnreadableRow;
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::store::{StoredState, StoredValue};
use crate::tags::Tags;

const LIMIT: NonZeroUsize = NonZeroUsize::new(32).unwrap();

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

fn row(number: usize, time: i64) -> StoredState {
    let persistence_id = PersistenceId::unique(&format!("user-{number:06}")).unwrap();
    StoredState {
        slice: persistence_id.slice(),
        persistence_id,
        entity_type: "".into(),
        revision: Revision::new(i64::try_from(number % 3).unwrap()).unwrap(),
        db_timestamp: at(time),
        value: StoredValue::Deleted,
        tags: Tags::NONE,
    }
}

fn place(state: &StoredState) -> (DateTime<Utc>, i64, PersistenceId) {
    let id = state.persistence_id.clone();
    (state.db_timestamp, state.revision.get(), id)
}

/// Sorted rows, some of which cannot be read, and how many of them fit into a page by their bytes.
struct Table {
    rows: Vec<StoredState>,
    unreadable: Vec<PersistenceId>,
    fitting: usize,
    until: i64,
    looked_at: usize,
}

impl Table {
    fn of(times: &[i64]) -> Self {
        let mut rows: Vec<_> = (0..)
            .zip(times)
            .map(|(number, time)| row(number, *time))
            .collect();
        rows.sort_by_key(place);
        Self {
            rows,
            unreadable: Vec::new(),
            fitting: usize::MAX,
            until: i64::MAX / 4,
            looked_at: 0,
        }
    }

    fn answer(&mut self, query: &ChangesQuery) -> ChangesPage {
        let until = query.until.unwrap_or(at(self.until));
        let to = query.to.map_or(until, |to| to.min(until));
        let is_before = |state: &StoredState| match &query.after {
            None => state.db_timestamp < query.from,
            Some(after) => {
                let key = (state.revision.get(), &state.persistence_id);
                (state.db_timestamp, key) <= (query.from, (after.revision, &after.persistence_id))
            }
        };
        let rest = &self.rows[self.rows.partition_point(is_before)..];
        let found = rest.partition_point(|state| state.db_timestamp < to);
        let next = rest.get(found).map(|state| state.db_timestamp);
        let next = next.filter(|next| *next < until && found < query.few());
        let max = query.rows_max.map_or(usize::MAX, NonZeroUsize::get);
        self.looked_at += found.min(max);
        let mut states = Vec::new();
        let mut unreadable = None;
        if found < max {
            for state in &rest[..found.min(query.limit.get()).min(self.fitting)] {
                if self.unreadable.contains(&state.persistence_id) {
                    unreadable = Some(UnreadableRow {
                        persistence_id: state.persistence_id.clone(),
                        slice: state.slice,
                        revision: state.revision.get(),
                        db_timestamp: state.db_timestamp,
                        reason: StoreError::Closed,
                    });
                    break;
                }
                states.push(state.clone());
            }
        }
        query.page(states, unreadable, found, next, until)
    }

    /// All rows that a scan from the beginning brings, and how many questions it asked. Unreadable rows are passed over.
    fn scan(&mut self) -> (Vec<StoredState>, usize) {
        let mut scan = Scan::new(DateTime::UNIX_EPOCH, LIMIT);
        let (mut told, mut questions) = (Vec::new(), 0);
        let mut until = None;
        loop {
            questions += 1;
            assert!(questions < 100_000, "it does not end");
            let query = scan.query("", SliceRange::ALL, until);
            let page = self.answer(&query);
            until = Some(page.until);
            let progress = scan.on_page(&page);
            if let PageEnd::Unreadable(row) = &page.end {
                scan.go_behind(row.db_timestamp, row.key());
            }
            told.extend(page.states);
            if progress == Progress::Done {
                return (told, questions);
            }
        }
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: i64) -> i64 {
        // Knuth's multiplier for linear congruences of 64 bits.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        i64::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Times of 2,000 rows: clusters of any size and density with gaps of any length between them.
fn times(dice: &mut Dice) -> Vec<i64> {
    let mut times = Vec::new();
    let mut now = 1 + dice.below(1_000_000_000_000_000);
    while times.len() < 2_000 {
        let step =
            [0, 1, 7, 1_000, 1_000_000, 3_600_000_000][usize::try_from(dice.below(6)).unwrap()];
        let batch = [1, 1, 16, 100][usize::try_from(dice.below(4)).unwrap()];
        for _ in 0..dice.below(300) {
            times.extend(std::iter::repeat_n(now, batch));
            now += step;
        }
        now += 10_i64.pow(u32::try_from(dice.below(13)).unwrap());
    }
    times
}

#[test]
fn every_row_comes_once_and_in_order_whatever_lies_where() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut table = Table::of(&times(&mut dice));
        if seed % 3 == 0 {
            table.fitting = usize::try_from(1 + dice.below(40)).unwrap();
        }
        if seed % 5 == 0 {
            let ids = table.rows.iter().map(|state| state.persistence_id.clone());
            table.unreadable = ids.filter(|_| dice.below(100) == 0).collect();
        }
        let (told, _) = table.scan();
        let mut expected = table.rows.clone();
        expected.retain(|state| !table.unreadable.contains(&state.persistence_id));
        assert_eq!(told, expected, "seed {seed}");
    }
}

#[test]
fn what_is_asked_and_looked_at_follows_the_rows_and_not_what_lies_behind() {
    let even = |step: i64, rows: i64| -> Vec<i64> {
        (0..rows)
            .map(|row| 1_000_000_000_000 + row * step)
            .collect()
    };
    for step in [1, 1_000, 60_000_000, 3_600_000_000] {
        for rows in [100, 1_000, 10_000] {
            let mut table = Table::of(&even(step, rows));
            let (told, questions) = table.scan();
            let rows = usize::try_from(rows).unwrap();
            assert_eq!(told.len(), rows);
            // Three quarters of a page each, and some to find the density.
            assert!(questions <= 25 + rows / 16, "{step} {rows}: {questions}");
            assert!(
                table.looked_at <= 1_500 + rows * 2,
                "{step} {rows}: {}",
                table.looked_at
            );
        }
    }
}

#[test]
fn few_rows_are_one_question_and_sparse_years_are_few() {
    let (_, questions) = Table::of(&[5, 7_000_000_000, 1_000_000_000_000_000]).scan();
    assert_eq!(questions, 1);
    // A burst of 200 rows a day, for a year.
    let day = 86_400_000_000;
    let bursts: Vec<i64> = (0..365)
        .flat_map(|number| (0..200).map(move |row| number * day + row * 10))
        .collect();
    let (told, questions) = Table::of(&bursts).scan();
    assert_eq!(told.len(), bursts.len());
    assert!(questions < 365 * 16, "{questions}");
}

#[test]
fn an_instant_of_many_pages_is_gone_through_by_revision_and_id() {
    let times = vec![1_000; 1_000];
    let mut table = Table::of(&times);
    let (told, questions) = table.scan();
    assert_eq!(told, table.rows);
    assert!(questions <= 1_000 / LIMIT.get() + 25, "{questions}");
}
