//! What a change feed has seen, and what it asks for next.

use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};

use super::{ChangesPage, ChangesQuery, StateChange, TimestampOffset};
use crate::error::StoreError;
use crate::slice::SliceRange;
use crate::store::StoredState;

/// A feed between two pages. It asks, somebody reads the page, it takes out what is new.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    entity_type: Box<str>,
    slices: SliceRange,
    limit: NonZeroUsize,
    /// Behind what was read.
    read: TimestampOffset,
    /// Behind what was told.
    told: TimestampOffset,
    until: Option<DateTime<Utc>>,
    is_over: bool,
}

impl Feed {
    /// A feed behind this offset, in pages of `limit` rows.
    pub(super) fn new(
        entity_type: &str,
        slices: SliceRange,
        offset: TimestampOffset,
        limit: NonZeroUsize,
    ) -> Self {
        Self {
            entity_type: entity_type.into(),
            slices,
            limit,
            read: offset.clone(),
            told: offset,
            until: None,
            is_over: false,
        }
    }

    /// The next page to read; `None` where the feed is over.
    pub(super) fn next_query(&self) -> Option<ChangesQuery> {
        (!self.is_over).then(|| ChangesQuery {
            entity_type: self.entity_type.clone(),
            slices: self.slices,
            from: self.read.timestamp,
            // The database's time at the first page bounds all pages.
            until: self.until,
            limit: self.limit,
        })
    }

    /// Takes out of a page what was not seen yet.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] where a page is full of rows of one time that were all seen: what comes behind them
    /// is out of reach.
    pub(super) fn on_page(&mut self, page: ChangesPage) -> Result<Vec<StoredState>, StoreError> {
        self.until = Some(page.until);
        let rows = page.states.len();
        let mut states = page.states;
        states.retain(|state| {
            self.read
                .see(&state.persistence_id, state.db_timestamp, state.revision)
        });
        self.is_over = states.is_empty();
        if self.is_over && rows >= self.limit.get() {
            return Err(StoreError::TooLarge {
                what: "the number of states written at one instant",
                actual: rows.max(self.read.seen.len()),
                limit: self.limit.get() - 1,
            });
        }
        Ok(states)
    }

    /// The change that a state taken out of a page is, with the offset behind it.
    ///
    /// Made when it is told and not before: an offset can hold as many ids as a page has rows.
    pub(super) fn tell(&mut self, state: StoredState) -> StateChange {
        self.told
            .see(&state.persistence_id, state.db_timestamp, state.revision);
        StateChange {
            state,
            offset: self.told.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::persistence_id::PersistenceId;
    use crate::revision::Revision;
    use crate::store::StoredValue;
    use crate::tags::Tags;

    const LIMIT: NonZeroUsize = NonZeroUsize::new(4).unwrap();

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn id(name: &str) -> PersistenceId {
        PersistenceId::unique(name).unwrap()
    }

    fn state(name: &str, revision: i64, second: i64) -> StoredState {
        StoredState {
            persistence_id: id(name),
            slice: id(name).slice(),
            entity_type: "".into(),
            revision: Revision::new(revision).unwrap(),
            db_timestamp: at(second),
            value: StoredValue::Deleted,
            tags: Tags::NONE,
        }
    }

    fn page(states: &[(&str, i64, i64)]) -> ChangesPage {
        ChangesPage {
            states: states
                .iter()
                .map(|(name, revision, second)| state(name, *revision, *second))
                .collect(),
            until: at(100),
        }
    }

    fn offset(second: i64, seen: &[(&str, i64)]) -> TimestampOffset {
        TimestampOffset {
            timestamp: at(second),
            seen: seen
                .iter()
                .map(|(name, revision)| (id(name), Revision::new(*revision).unwrap()))
                .collect::<BTreeMap<_, _>>()
                .into(),
        }
    }

    fn feed(offset: TimestampOffset) -> Feed {
        Feed::new("", SliceRange::ALL, offset, LIMIT)
    }

    /// The names and offsets of what a page brings.
    fn told(feed: &mut Feed, states: &[(&str, i64, i64)]) -> Vec<(String, TimestampOffset)> {
        let states = feed.on_page(page(states)).unwrap();
        states
            .into_iter()
            .map(|state| feed.tell(state))
            .map(|change| (change.state.persistence_id.to_string(), change.offset))
            .collect()
    }

    fn names(told: &[(String, TimestampOffset)]) -> Vec<&str> {
        told.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn the_first_page_sets_the_end_of_all_pages() {
        let mut feed = feed(TimestampOffset::default());
        let first = feed.next_query().unwrap();
        assert_eq!((first.from, first.until), (at(0), None));
        feed.on_page(page(&[("a", 1, 10)])).unwrap();
        let second = feed.next_query().unwrap();
        assert_eq!((second.from, second.until), (at(10), Some(at(100))));
    }

    #[test]
    fn offsets_gather_who_was_seen_at_one_instant_and_forget_them_at_the_next() {
        let mut feed = feed(TimestampOffset::default());
        let states = [("a", 1, 10), ("b", 2, 10), ("c", 1, 11)];
        let told = told(&mut feed, &states);
        let offsets: Vec<_> = told.into_iter().map(|(_, offset)| offset).collect();
        assert_eq!(
            offsets,
            [
                offset(10, &[("a", 1)]),
                offset(10, &[("a", 1), ("b", 2)]),
                offset(11, &[("c", 1)]),
            ]
        );
    }

    #[test]
    fn what_was_seen_at_the_offset_is_left_out_and_a_newer_revision_is_not() {
        let mut feed = feed(offset(10, &[("a", 2), ("b", 2), ("c", 2)]));
        let states = [("a", 2, 10), ("b", 3, 10), ("c", 1, 10), ("d", 1, 10)];
        let told = told(&mut feed, &states);
        assert_eq!(names(&told), ["b", "d"]);
        let seen = [("a", 2), ("b", 3), ("c", 2), ("d", 1)];
        assert_eq!(told.last().unwrap().1, offset(10, &seen));
    }

    #[test]
    fn an_instant_on_two_pages_is_told_once() {
        let mut feed = feed(TimestampOffset::default());
        let first = [("a", 1, 9), ("b", 1, 10), ("c", 1, 10), ("d", 1, 10)];
        assert_eq!(names(&told(&mut feed, &first)), ["a", "b", "c", "d"]);
        assert_eq!(feed.next_query().unwrap().from, at(10));
        let second = [("b", 1, 10), ("c", 1, 10), ("d", 1, 10), ("e", 1, 10)];
        assert_eq!(names(&told(&mut feed, &second)), ["e"]);
    }

    #[test]
    fn the_first_page_with_nothing_new_ends_the_feed() {
        let mut empty = feed(TimestampOffset::default());
        assert!(empty.on_page(page(&[])).unwrap().is_empty());
        assert_eq!(empty.next_query(), None);

        let mut again = feed(TimestampOffset::default());
        let states = [("a", 1, 10)];
        assert_eq!(again.on_page(page(&states)).unwrap().len(), 1);
        assert!(again.next_query().is_some(), "a short page is not the end");
        assert!(again.on_page(page(&states)).unwrap().is_empty());
        assert_eq!(again.next_query(), None);
    }

    #[test]
    fn a_page_full_of_one_instant_that_was_seen_is_an_error_and_never_the_end() {
        let mut feed = feed(TimestampOffset::default());
        let states = [("a", 1, 10), ("b", 1, 10), ("c", 1, 10), ("d", 1, 10)];
        assert_eq!(feed.on_page(page(&states)).unwrap().len(), 4);
        let error = feed.on_page(page(&states)).unwrap_err();
        assert!(
            matches!(error, StoreError::TooLarge { limit: 3, .. }),
            "{error:?}"
        );
        assert_eq!(feed.next_query(), None);
    }
}
