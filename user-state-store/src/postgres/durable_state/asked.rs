//! The ids of a load, and what was found for each.
//!
//! **Problem.** Rows come in any order, an id may be asked for twice, and it may have two rows. **How.** Ids are sent sorted,
//! each once. The server looks for them one by one, so that rows nearly always come in the order of their ids: each is
//! compared with the next id first, and only then searched for.

use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::store::{LoadedRow, StoredState};

/// The ids of a load.
pub(super) struct Asked<'ids> {
    ids: &'ids [PersistenceId],
    /// Each id once, in their order, and the first place where it is asked for.
    sorted: Vec<(&'ids str, usize)>,
}

/// What was found for them so far.
pub(super) struct Answers<'asked> {
    asked: &'asked Asked<'asked>,
    /// Where in `sorted` the next row's id is expected.
    next: usize,
    found: Vec<LoadedRow>,
    /// The lowest and the highest revision found, for each place.
    revisions: Vec<Option<(Revision, Revision)>>,
}

impl<'ids> Asked<'ids> {
    pub(super) fn new(ids: &'ids [PersistenceId]) -> Self {
        let mut sorted: Vec<(&str, usize)> =
            ids.iter().map(PersistenceId::as_str).zip(0..).collect();
        sorted.sort_unstable();
        sorted.dedup_by_key(|(id, _)| *id);
        Self { ids, sorted }
    }

    /// Each id once, in their order.
    pub(super) fn distinct(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.sorted.iter().map(|(id, _)| *id)
    }

    fn index(&self, id: &[u8]) -> Option<usize> {
        self.sorted
            .binary_search_by(|(sent, _)| sent.as_bytes().cmp(id))
            .ok()
    }
}

impl<'asked> Answers<'asked> {
    /// No row was found yet.
    pub(super) fn to(asked: &'asked Asked<'asked>) -> Self {
        let places = asked.ids.len();
        let mut found = Vec::with_capacity(places);
        found.resize_with(places, || Ok(None));
        Self {
            asked,
            next: 0,
            found,
            revisions: vec![None; places],
        }
    }

    /// Notes a row, read with the id that was asked for. Beside another row of its id there is no state to show, only
    /// the error that names both. What was not asked for is nothing.
    pub(super) fn add(
        &mut self,
        id: &[u8],
        revision: Revision,
        read: impl FnOnce(PersistenceId) -> Result<StoredState, StoreError>,
    ) {
        let sorted = &self.asked.sorted;
        let is_next = sorted
            .get(self.next)
            .is_some_and(|(next, _)| next.as_bytes() == id);
        let index = if is_next {
            Some(self.next)
        } else {
            self.asked.index(id)
        };
        let Some((index, &(_, place))) = index.and_then(|index| Some((index, sorted.get(index)?)))
        else {
            return;
        };
        self.next = index + 1;
        let (Some(id), Some(found), Some(revisions)) = (
            self.asked.ids.get(place),
            self.found.get_mut(place),
            self.revisions.get_mut(place),
        ) else {
            return;
        };
        let (lower, higher) = revisions.unwrap_or((revision, revision));
        let (lower, higher) = (lower.min(revision), higher.max(revision));
        *found = match revisions.replace((lower, higher)) {
            None => read(id.clone()).map(Some),
            Some(_) => Err(StoreError::DuplicateRows {
                persistence_id: id.clone(),
                lower,
                higher,
            }),
        };
    }

    /// What was found, in the order asked.
    pub(super) fn into_found(self) -> Vec<LoadedRow> {
        let Self {
            asked, mut found, ..
        } = self;
        if asked.sorted.len() == asked.ids.len() {
            return found;
        }
        for (place, id) in asked.ids.iter().enumerate() {
            let first = asked
                .index(id.as_str().as_bytes())
                .and_then(|index| asked.sorted.get(index))
                .map(|(_, first)| *first)
                .filter(|first| *first != place);
            let again = first.and_then(|first| found.get(first).cloned());
            if let (Some(again), Some(slot)) = (again, found.get_mut(place)) {
                *slot = again;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::slice::Slice;
    use crate::store::StoredValue;
    use crate::tags::Tags;

    fn ids(ids: &[&str]) -> Vec<PersistenceId> {
        ids.iter().map(|id| PersistenceId::stored(id)).collect()
    }

    fn revision(number: i64) -> Revision {
        Revision::new(number).unwrap()
    }

    fn state(persistence_id: PersistenceId, revision: Revision) -> StoredState {
        StoredState {
            persistence_id,
            slice: Slice::of(""),
            entity_type: "".into(),
            revision,
            db_timestamp: DateTime::UNIX_EPOCH,
            value: StoredValue::Deleted,
            tags: Tags::NONE,
        }
    }

    /// The answers to `asked` where the database has these rows, in this order.
    fn answers(asked: &[&str], rows: &[(&str, i64)]) -> Vec<LoadedRow> {
        let asked = ids(asked);
        let asked = Asked::new(&asked);
        let mut answers = Answers::to(&asked);
        for &(id, number) in rows {
            answers.add(id.as_bytes(), revision(number), |id| {
                Ok(state(id, revision(number)))
            });
        }
        answers.into_found()
    }

    fn found(id: &str, number: i64) -> StoredState {
        state(PersistenceId::stored(id), revision(number))
    }

    fn doubled(id: &str, lower: i64, higher: i64) -> StoreError {
        StoreError::DuplicateRows {
            persistence_id: PersistenceId::stored(id),
            lower: revision(lower),
            higher: revision(higher),
        }
    }

    #[test]
    fn ids_are_sent_sorted_and_once() {
        let asked = ids(&["b", "c", "a", "b"]);
        let asked = Asked::new(&asked);
        assert_eq!(asked.distinct().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn rows_are_found_in_whatever_order_they_come() {
        let expected = [
            Ok(Some(found("c", 3))),
            Ok(Some(found("a", 1))),
            Ok(None),
            Ok(Some(found("b", 2))),
        ];
        for rows in [
            [("a", 1), ("b", 2), ("c", 3)],
            [("c", 3), ("b", 2), ("a", 1)],
            [("b", 2), ("c", 3), ("a", 1)],
            [("b", 2), ("a", 1), ("c", 3)],
        ] {
            assert_eq!(answers(&["c", "a", "d", "b"], &rows), expected, "{rows:?}");
        }
    }

    #[test]
    fn an_id_that_is_asked_for_again_has_its_answer_again() {
        assert_eq!(
            answers(&["b", "a", "b", "c", "c", "b"], &[("a", 1), ("b", 2)]),
            [
                Ok(Some(found("b", 2))),
                Ok(Some(found("a", 1))),
                Ok(Some(found("b", 2))),
                Ok(None),
                Ok(None),
                Ok(Some(found("b", 2)))
            ]
        );
    }

    #[test]
    fn rows_beside_each_other_are_one_error_with_the_lowest_and_the_highest_revision() {
        for rows in [
            [("a", 5), ("a", 7), ("b", 1), ("a", 6)],
            [("b", 1), ("a", 6), ("a", 7), ("a", 5)],
        ] {
            let expected = [
                Err(doubled("a", 5, 7)),
                Ok(Some(found("b", 1))),
                Err(doubled("a", 5, 7)),
            ];
            assert_eq!(answers(&["a", "b", "a"], &rows), expected, "{rows:?}");
        }
    }

    #[test]
    fn rows_that_nobody_asked_for_are_left_out() {
        let answers = answers(&["b"], &[("a", 1), ("b", 2), ("B", 3)]);
        assert_eq!(answers, [Ok(Some(found("b", 2)))]);
    }
}
