//! What the change feed that ends has seen, and what it asks for next.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};

use super::scan::{Progress, Scan};
use super::{
    ChangesPage, ChangesQuery, PageEnd, StateChange, TimestampOffset, UnreadableChange,
    UnreadableRow,
};
use crate::error::StoreError;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::SliceRange;
use crate::store::StoredState;

/// A feed between two pages. It asks, somebody reads the page, it takes out what is new.
#[derive(Debug, Clone)]
pub(super) struct Feed {
    entity_type: Box<str>,
    slices: SliceRange,
    scan: Scan,
    /// Where the feed began: what was seen there is left out.
    begun_at: DateTime<Utc>,
    seen: BTreeMap<PersistenceId, Revision>,
    /// Behind what was told.
    told: TimestampOffset,
    until: Option<DateTime<Utc>>,
    is_over: bool,
    unreadable: Option<Box<UnreadableRow>>,
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
            scan: Scan::new(offset.timestamp, limit),
            begun_at: offset.timestamp,
            seen: offset.seen.to_map(),
            told: offset,
            until: None,
            is_over: false,
            unreadable: None,
        }
    }

    /// The next page to read; `None` if the feed is over.
    ///
    /// # Errors
    /// [`StoreError::UnreadableChange`] if the next row cannot be read.
    pub(super) fn next_query(&mut self) -> Result<Option<ChangesQuery>, StoreError> {
        if let Some(row) = self.unreadable.take() {
            let mut behind = self.told.clone();
            behind.go_on(row.persistence_id.clone(), row.db_timestamp, row.seen_as());
            let change = UnreadableChange { row: *row, behind };
            return Err(StoreError::UnreadableChange(Box::new(change)));
        }
        if self.is_over {
            return Ok(None);
        }
        // The database's time at the first page bounds all pages.
        let query = self.scan.query(&self.entity_type, self.slices, self.until);
        Ok(Some(query))
    }

    /// Takes out of a page what was not seen yet.
    pub(super) fn on_page(&mut self, page: ChangesPage) -> Vec<StoredState> {
        self.until = Some(page.until);
        self.is_over = self.scan.on_page(&page) == Progress::Done;
        if let PageEnd::Unreadable(row) = page.end {
            if self.was_seen(&row.persistence_id, row.db_timestamp, row.seen_as()) {
                self.scan.go_behind(row.db_timestamp, row.key());
            } else {
                self.unreadable = Some(row);
            }
        }
        let mut states = page.states;
        states.retain(|state| {
            !self.was_seen(&state.persistence_id, state.db_timestamp, state.revision)
        });
        states
    }

    /// Whether the offset that the feed began at says so.
    fn was_seen(&self, id: &PersistenceId, at: DateTime<Utc>, revision: Revision) -> bool {
        at == self.begun_at && self.seen.get(id).is_some_and(|seen| *seen >= revision)
    }

    /// The change that a state taken out of a page is, with the offset behind it.
    pub(super) fn tell(&mut self, state: StoredState) -> StateChange {
        self.told.go_on(
            state.persistence_id.clone(),
            state.db_timestamp,
            state.revision,
        );
        StateChange {
            state,
            offset: self.told.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::{RowKey, Seen};
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

    fn page(states: &[(&str, i64, i64)], end: PageEnd) -> ChangesPage {
        ChangesPage {
            states: states
                .iter()
                .map(|(name, revision, second)| state(name, *revision, *second))
                .collect(),
            until: at(100),
            end,
        }
    }

    fn behind(name: &str, revision: i64, second: i64) -> PageEnd {
        PageEnd::Behind(at(second), RowKey::of(&state(name, revision, second)))
    }

    fn unreadable(name: &str, revision: i64, second: i64) -> PageEnd {
        PageEnd::Unreadable(Box::new(UnreadableRow {
            persistence_id: id(name),
            slice: id(name).slice(),
            revision,
            db_timestamp: at(second),
            reason: StoreError::Closed,
        }))
    }

    fn offset(second: i64, seen: &[(&str, i64)]) -> TimestampOffset {
        let seen = seen
            .iter()
            .map(|(name, revision)| (id(name), Revision::new(*revision).unwrap()));
        TimestampOffset {
            timestamp: at(second),
            seen: seen.collect::<Seen>(),
        }
    }

    fn feed(offset: TimestampOffset) -> Feed {
        Feed::new("", SliceRange::ALL, offset, LIMIT)
    }

    fn query(feed: &mut Feed) -> ChangesQuery {
        feed.next_query().unwrap().unwrap()
    }

    /// The names and offsets of what a page brings.
    fn told(
        feed: &mut Feed,
        states: &[(&str, i64, i64)],
        end: PageEnd,
    ) -> Vec<(String, TimestampOffset)> {
        let states = feed.on_page(page(states, end));
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
        let first = query(&mut feed);
        assert_eq!((first.from, first.until), (at(0), None));
        feed.on_page(page(&[("a", 1, 10)], behind("a", 1, 10)));
        let second = query(&mut feed);
        assert_eq!((second.from, second.until), (at(10), Some(at(100))));
    }

    #[test]
    fn offsets_gather_who_was_seen_at_one_instant_and_forget_them_at_the_next() {
        let mut feed = feed(TimestampOffset::default());
        let states = [("a", 1, 10), ("b", 2, 10), ("c", 1, 11)];
        let told = told(&mut feed, &states, PageEnd::Complete);
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
        let told = told(&mut feed, &states, PageEnd::Complete);
        assert_eq!(names(&told), ["b", "d"]);
        let seen = [("a", 2), ("b", 3), ("c", 2), ("d", 1)];
        assert_eq!(told.last().unwrap().1, offset(10, &seen));
    }

    #[test]
    fn an_instant_on_two_pages_goes_on_behind_its_last_row() {
        let mut feed = feed(TimestampOffset::default());
        let first = [("a", 1, 9), ("b", 1, 10), ("c", 1, 10), ("d", 1, 10)];
        let end = behind("d", 1, 10);
        assert_eq!(names(&told(&mut feed, &first, end)), ["a", "b", "c", "d"]);
        let second = query(&mut feed);
        assert_eq!(second.from, at(10));
        assert_eq!(second.after, Some(RowKey::of(&state("d", 1, 10))));
        let second = [("e", 1, 10)];
        assert_eq!(names(&told(&mut feed, &second, PageEnd::Complete)), ["e"]);
        assert_eq!(feed.next_query(), Ok(None));
    }

    #[test]
    fn only_a_complete_page_ends_the_feed() {
        let mut feed = feed(TimestampOffset::default());
        for end in [
            PageEnd::Crowded,
            PageEnd::Before(at(50)),
            behind("a", 1, 60),
        ] {
            assert!(feed.on_page(page(&[], end)).is_empty());
            assert!(feed.next_query().unwrap().is_some());
        }
        feed.on_page(page(&[], PageEnd::Complete));
        assert_eq!(feed.next_query(), Ok(None));
    }

    #[test]
    fn rows_before_an_unreadable_one_are_told_then_it_is_an_error_with_a_way_on() {
        let mut whole = feed(TimestampOffset::default());
        let states = [("a", 1, 9), ("b", 1, 10)];
        let first = told(&mut whole, &states, unreadable("broken", -1, 10));
        assert_eq!(names(&first), ["a", "b"]);
        let Err(StoreError::UnreadableChange(change)) = whole.next_query() else {
            panic!("it cannot be read");
        };
        assert_eq!(change.row.persistence_id, id("broken"));
        assert_eq!(change.behind, offset(10, &[("b", 1), ("broken", 0)]));

        let mut rest = feed(change.behind);
        let states = [("b", 1, 10)];
        let told = told(&mut rest, &states, unreadable("broken", -1, 10));
        assert_eq!(names(&told), [""; 0]);
        let query = query(&mut rest);
        assert_eq!((query.from, query.after.unwrap().revision), (at(10), -1));
    }
}
