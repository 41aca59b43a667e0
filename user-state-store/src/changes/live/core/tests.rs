//! Goal: a live feed asks in the right order for the right stretches of time, and loses nothing.
//! Method: pages by hand; then a database in memory, whose transactions take their times early, commit late and
//! overtake each other, and a feed that is cut and resumed at random. Seeds are fixed.

use std::collections::BTreeMap;
use std::error::Error;

use super::*;
use crate::changes::Seen;
use crate::store::StoredValue;
use crate::tags::Tags;

type TestResult = Result<(), Box<dyn Error>>;

const REFRESH: Duration = Duration::from_secs(3);
const WINDOW: i64 = 120;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

fn id(name: &str) -> PersistenceId {
    PersistenceId::unique(name).unwrap()
}

fn revision(number: i64) -> Revision {
    Revision::new(number).unwrap()
}

fn row(name: &str, number: i64, timestamp: DateTime<Utc>) -> StoredState {
    StoredState {
        persistence_id: id(name),
        slice: id(name).slice(),
        entity_type: "".into(),
        revision: revision(number),
        db_timestamp: timestamp,
        value: StoredValue::Deleted,
        tags: Tags::NONE,
    }
}

/// A page of these rows, of which four are as many as it may have.
fn page(rows: &[(&str, i64, i64)], until: i64) -> ChangesPage {
    let rows = rows.iter();
    let states: Vec<StoredState> = rows
        .map(|(name, number, second)| row(name, *number, at(*second)))
        .collect();
    let last = states.last().filter(|_| states.len() == 4);
    let end = last.map_or(PageEnd::Complete, |last| {
        PageEnd::Behind(last.db_timestamp, RowKey::of(last))
    });
    ChangesPage {
        states,
        until: at(until),
        end,
    }
}

/// A page that ends before a row that cannot be read.
fn page_before(broken: (&str, i64, i64), rows: &[(&str, i64, i64)], until: i64) -> ChangesPage {
    let (name, revision, second) = broken;
    ChangesPage {
        end: PageEnd::Unreadable(Box::new(UnreadableRow {
            persistence_id: id(name),
            slice: id(name).slice(),
            revision,
            db_timestamp: at(second),
            reason: StoreError::Closed,
        })),
        ..page(rows, until)
    }
}

fn offset(second: i64, seen: &[(&str, i64)]) -> TimestampOffset {
    let seen = seen
        .iter()
        .map(|(name, number)| (id(name), revision(*number)));
    TimestampOffset {
        timestamp: at(second),
        seen: seen.collect::<Seen>(),
    }
}

/// A feed with pages of four rows.
fn core(offset: TimestampOffset) -> Core {
    core_with(offset, FeedSettings::default())
}

fn core_with(offset: TimestampOffset, settings: FeedSettings) -> Core {
    let mut core = Core::new("", SliceRange::ALL, offset, settings).unwrap();
    core.limit = NonZeroUsize::new(4).unwrap();
    core.forward.scan = Scan::new(core.forward.read.at, core.limit);
    core
}

/// What is read next: from, until.
fn read(core: &mut Core, now: Instant) -> Option<(DateTime<Utc>, Option<DateTime<Utc>>)> {
    match core.next_step(now) {
        Step::Read(query) => Some((query.from, query.until)),
        Step::Wait(_) => None,
    }
}

fn waits(core: &mut Core, now: Instant) -> Option<Duration> {
    match core.next_step(now) {
        Step::Read(_) => None,
        Step::Wait(until) => Some(until - now),
    }
}

/// Names, revisions and the instants of the offsets of what comes out.
fn told(core: &mut Core) -> Vec<(String, i64, i64)> {
    std::iter::from_fn(|| core.next_change())
        .map(|change| {
            let change = change.unwrap();
            let name = change.state.persistence_id.to_string();
            let number = change.state.revision.get();
            (name, number, change.offset.timestamp.timestamp())
        })
        .collect()
}

fn change(name: &str, number: i64, offset: i64) -> (String, i64, i64) {
    (name.to_owned(), number, offset)
}

fn span(first: i64, last: i64) -> Span {
    Span {
        first: at(first),
        last: at(last),
        slices: SliceRange::ALL,
    }
}

#[test]
fn it_reads_on_from_full_pages_and_then_waits_for_the_refresh_interval() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    assert_eq!(read(&mut core, now), Some((at(0), None)));
    let full = [("a", 1, 10), ("b", 1, 11), ("c", 1, 12), ("d", 1, 12)];
    core.on_answer(Ok(page(&full, 1000)), now)?;
    assert_eq!(told(&mut core).len(), 4);
    assert_eq!(read(&mut core, now), Some((at(12), None)));
    core.on_answer(Ok(page(&[("c", 1, 12), ("d", 1, 12)], 1000)), now)?;
    assert_eq!(told(&mut core), []);
    assert_eq!(waits(&mut core, now), Some(REFRESH));
    assert_eq!(read(&mut core, now + REFRESH), Some((at(12), None)));
    Ok(())
}

#[test]
fn a_page_that_brought_much_halves_the_wait() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    read(&mut core, now);
    core.on_answer(Ok(page(&[("a", 1, 10)], 1000)), now)?;
    assert_eq!(waits(&mut core, now), Some(REFRESH / 2));
    Ok(())
}

#[test]
fn what_is_younger_than_the_distance_waits_for_its_turn_and_is_asked_for_soon() -> TestResult {
    let now = Instant::now();
    let settings = FeedSettings::default().behind_current_time(Duration::from_secs(2));
    let mut core = core_with(TimestampOffset::default(), settings);
    read(&mut core, now);
    core.on_answer(
        Ok(page(&[("a", 1, 97), ("b", 1, 98), ("c", 1, 99)], 100)),
        now,
    )?;
    assert_eq!(told(&mut core), [change("a", 1, 97)]);
    assert_eq!(waits(&mut core, now), Some(Duration::from_secs(2)));
    assert!(read(&mut core, now + Duration::from_secs(2)).is_some());
    core.on_answer(
        Ok(page(&[("a", 1, 97), ("b", 1, 98), ("c", 1, 99)], 102)),
        now,
    )?;
    assert_eq!(told(&mut core), [change("b", 1, 98), change("c", 1, 99)]);
    Ok(())
}

#[test]
fn own_writes_are_read_at_once_and_the_offset_follows_in_its_turn() -> TestResult {
    let now = Instant::now();
    let mut core = core(offset(50, &[("a", 1)]));
    core.window = TimeDelta::zero();
    read(&mut core, now);
    core.on_answer(Ok(page(&[("a", 1, 50)], 1000)), now)?;
    assert_eq!(waits(&mut core, now), Some(REFRESH));

    core.on_written(span(1000, 1000));
    core.on_written(span(999, 1001));
    let until = Some(at(1001) + MICROSECOND);
    assert_eq!(read(&mut core, now), Some((at(999), until)));
    let own = page(&[("b", 1, 999), ("c", 7, 1001)], 1001);
    core.on_answer(Ok(own), now)?;
    assert_eq!(told(&mut core), [change("b", 1, 50), change("c", 7, 50)]);
    assert_eq!(
        waits(&mut core, now),
        Some(REFRESH),
        "nothing is left to read"
    );

    let later = now + REFRESH;
    assert_eq!(read(&mut core, later), Some((at(50), None)));
    let rows = [("a", 1, 50), ("b", 1, 999), ("c", 7, 1001), ("d", 1, 1002)];
    core.on_answer(Ok(page(&rows, 2000)), later)?;
    assert_eq!(told(&mut core), [change("d", 1, 1002)]);
    Ok(())
}

#[test]
fn between_reads_of_own_writes_it_rests_as_long_as_the_last_one_took() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    read(&mut core, now);
    core.on_answer(Ok(page(&[], 1000)), now)?;
    let slice = id("a").slice();
    let slices = SliceRange::new(slice, slice).ok_or("one slice")?;
    core.on_written(Span {
        slices,
        ..span(1000, 1000)
    });
    let Step::Read(query) = core.next_step(now) else {
        return Err("own writes wait".into());
    };
    assert_eq!(query.slices, slices, "the others need not be looked at");
    let took = Duration::from_millis(7);
    core.on_answer(Ok(page(&[("a", 1, 1000)], 1001)), now + took)?;
    let wait = waits(&mut core, now + took).ok_or("nothing is left to read")?;
    assert_eq!(wait + took, REFRESH);
    core.on_written(span(1001, 1001));
    assert_eq!(waits(&mut core, now + took), Some(took));
    assert!(read(&mut core, now + took + took).is_some());
    Ok(())
}

#[test]
fn until_it_has_caught_up_own_writes_come_in_their_turn() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    core.on_written(span(12, 14));
    assert_eq!(read(&mut core, now), Some((at(0), None)));
    let full = [("a", 1, 10), ("b", 1, 11), ("c", 1, 12), ("d", 1, 13)];
    core.on_answer(Ok(page(&full, 20)), now)?;
    assert_eq!(read(&mut core, now), Some((at(13), None)));
    core.on_written(span(15, 15));
    core.on_answer(Ok(page(&[("d", 1, 13), ("e", 1, 14)], 20)), now)?;
    // Only what was written during the read may have been invisible to it.
    assert_eq!(
        read(&mut core, now),
        Some((at(15), Some(at(15) + MICROSECOND)))
    );
    core.on_answer(Ok(page(&[("f", 1, 15)], 20)), now)?;
    let names: Vec<_> = told(&mut core).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
    Ok(())
}

#[test]
fn a_late_commit_is_found_by_looking_back_and_leaves_the_offset_where_it_is() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    read(&mut core, now);
    core.on_answer(Ok(page(&[("a", 1, 900)], 1000)), now)?;
    told(&mut core);
    assert_eq!(
        waits(&mut core, now),
        Some(REFRESH / 2),
        "the first look was one back too"
    );

    let later = now + REFRESH;
    assert_eq!(read(&mut core, later), Some((at(900), None)));
    core.on_answer(
        Ok(page(&[("a", 1, 900), ("b", 1, 1050)], 1000 + WINDOW / 2)),
        later,
    )?;
    assert_eq!(told(&mut core), [change("b", 1, 1050)]);
    // From the settled line to the offset.
    assert_eq!(
        read(&mut core, later),
        Some((at(1000 - WINDOW), Some(at(1050))))
    );
    core.on_answer(Ok(page(&[("a", 1, 900), ("late", 1, 950)], 0)), later)?;
    assert_eq!(told(&mut core), [change("late", 1, 1050)]);
    assert_eq!(core.settled, at(1000 - WINDOW / 2));
    Ok(())
}

#[test]
fn a_resumed_feed_looks_back_from_its_offset_once_and_goes_on() -> TestResult {
    let now = Instant::now();
    let mut core = core(offset(1000, &[("a", 1)]));
    assert_eq!(read(&mut core, now), Some((at(1000), None)));
    let full = [
        ("a", 1, 1000),
        ("b", 1, 2000),
        ("c", 1, 3000),
        ("d", 1, 4000),
    ];
    core.on_answer(Ok(page(&full, 90_000)), now)?;
    assert_eq!(
        read(&mut core, now),
        Some((at(1000 - 2 * WINDOW), Some(at(4000))))
    );
    core.on_answer(Ok(page(&[("late", 1, 990), ("a", 1, 1000)], 0)), now)?;
    let names: Vec<_> = told(&mut core).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["b", "c", "d", "late"]);
    // All of it is settled, so the rest of what was there is read forward only.
    assert_eq!(core.settled, at(4000));
    let full = [
        ("d", 1, 4000),
        ("e", 1, 5000),
        ("f", 1, 6000),
        ("g", 1, 7000),
    ];
    assert_eq!(read(&mut core, now), Some((at(4000), None)));
    core.on_answer(Ok(page(&full, 90_100)), now)?;
    assert_eq!(read(&mut core, now), Some((at(7000), None)));
    Ok(())
}

#[test]
fn without_a_window_it_never_looks_back() -> TestResult {
    let now = Instant::now();
    let settings = FeedSettings::default().backtracking_window(Duration::ZERO);
    let mut core = core_with(offset(1000, &[]), settings);
    for until in [2000, 3000, 4000] {
        core.forward.due = None;
        let (_, bound) = read(&mut core, now).ok_or("it was due")?;
        assert_eq!(bound, None);
        core.on_answer(Ok(page(&[("a", until, until - 500)], until)), now)?;
    }
    assert_eq!(told(&mut core).len(), 3);
    Ok(())
}

#[test]
fn after_an_error_the_same_is_read_again_later_each_time() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    let failed = StoreError::Unavailable(crate::error::Cause::Deadline);
    let mut moment = now;
    let mut delays = Vec::new();
    for _ in 0..9 {
        assert_eq!(read(&mut core, moment), Some((at(0), None)));
        assert_eq!(
            core.on_answer(Err(failed.clone()), moment),
            Err(failed.clone())
        );
        core.on_written(span(60, 60));
        let delay = waits(&mut core, moment).ok_or("it has to wait")?;
        delays.push(delay.as_millis());
        moment += delay;
    }
    assert_eq!(
        delays,
        [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
    );
    assert_eq!(read(&mut core, moment), Some((at(0), None)));
    core.on_answer(Ok(page(&[], 100)), moment)?;
    assert!(
        read(&mut core, moment).is_none(),
        "what was written was visible"
    );
    assert_eq!(core.retry.errors, 0);
    Ok(())
}

#[test]
fn a_failed_read_of_own_writes_or_back_is_repeated() -> TestResult {
    let now = Instant::now();
    let failed = StoreError::Unavailable(crate::error::Cause::Deadline);
    let mut core = core(offset(1000, &[]));
    read(&mut core, now);
    core.on_answer(Ok(page(&[("a", 1, 1010)], 2000)), now)?;
    core.on_written(span(2000, 2000));
    let mut reads = Vec::new();
    let mut moment = now;
    for _ in 0..2 {
        reads.push(read(&mut core, moment).ok_or("something is to be read")?);
        assert!(core.on_answer(Err(failed.clone()), moment).is_err());
        moment += Duration::from_secs(1);
    }
    reads.sort_unstable();
    let (back, own) = (
        (at(760), Some(at(1010))),
        (at(2000), Some(at(2000) + MICROSECOND)),
    );
    assert_eq!(reads, [back, own]);
    let mut again = Vec::new();
    while again.len() < 2 {
        let query = read(&mut core, moment).ok_or("something is to be read")?;
        core.on_answer(Ok(page(&[], 2001)), moment)?;
        again.extend(query.1.map(|_| query));
    }
    again.sort_unstable();
    assert_eq!(again, reads);
    Ok(())
}

#[test]
fn an_instant_of_many_pages_is_gone_through_by_every_kind_of_read() -> TestResult {
    let now = Instant::now();
    let full = |names: [&str; 4], second| page(&names.map(|name| (name, 1, second)), 5000);
    let after = |core: &mut Core| match core.next_step(now) {
        Step::Read(query) => query.after.map(|key| key.persistence_id.to_string()),
        Step::Wait(_) => None,
    };

    let mut forward = core(TimestampOffset::default());
    read(&mut forward, now);
    forward.on_answer(Ok(full(["a", "b", "c", "d"], 1000)), now)?;
    assert_eq!(after(&mut forward).as_deref(), Some("d"));
    forward.on_answer(Ok(full(["e", "f", "g", "h"], 1000)), now)?;
    assert_eq!(after(&mut forward).as_deref(), Some("h"));
    forward.on_answer(Ok(page(&[], 5000)), now)?;
    let told = told(&mut forward);
    assert_eq!(told.len(), 8);
    forward.forward.due = None;
    assert_eq!(
        after(&mut forward).as_deref(),
        Some("h"),
        "so much is not read again at each look"
    );

    let mut own = core(TimestampOffset::default());
    read(&mut own, now);
    own.on_answer(Ok(page(&[], 1000)), now)?;
    own.on_written(span(2000, 2000));
    read(&mut own, now);
    own.on_answer(Ok(full(["a", "b", "c", "d"], 2000)), now)?;
    assert_eq!(after(&mut own).as_deref(), Some("d"));

    let mut back = core(offset(1000, &[]));
    read(&mut back, now);
    back.on_answer(Ok(page(&[("z", 1, 1001)], 5000)), now)?;
    assert_eq!(read(&mut back, now), Some((at(760), Some(at(1001)))));
    back.on_answer(Ok(full(["a", "b", "c", "d"], 900)), now)?;
    assert_eq!(after(&mut back).as_deref(), Some("d"));
    Ok(())
}

#[test]
fn a_late_row_of_an_instant_that_is_not_read_again_is_found_by_looking_back() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    read(&mut core, now);
    let full = ["b", "c", "d", "e"].map(|name| (name, 1, 1000));
    core.on_answer(Ok(page(&full, 1001)), now)?;
    read(&mut core, now);
    core.on_answer(Ok(page(&[], 1001)), now)?;
    assert_eq!(told(&mut core).len(), 4);
    let later = now + REFRESH;
    read(&mut core, later).ok_or("it was due")?;
    core.on_answer(Ok(page(&[], 1001 + WINDOW)), later)?;
    let (_, until) = read(&mut core, later).ok_or("it was due")?;
    assert_eq!(until, Some(at(1000) + MICROSECOND));
    core.on_answer(Ok(page(&[("a", 1, 1000)], 0)), later)?;
    assert_eq!(told(&mut core), [change("a", 1, 1000)]);
    Ok(())
}

/// What comes out: names, and of unreadable rows the name and the offset behind it.
fn items(core: &mut Core) -> Vec<Result<String, (String, TimestampOffset)>> {
    std::iter::from_fn(|| core.next_change())
        .map(|item| match item {
            Ok(change) => Ok(change.state.persistence_id.to_string()),
            Err(StoreError::UnreadableChange(change)) => {
                Err((change.row.persistence_id.to_string(), change.behind))
            }
            Err(error) => panic!("{error:?}"),
        })
        .collect()
}

#[test]
fn rows_before_an_unreadable_one_are_told_and_it_is_reported_with_a_growing_delay() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    let broken = ("broken", -1, 11);
    let stuck = Err(("broken".to_owned(), offset(11, &[("broken", 0)])));
    read(&mut core, now);
    core.on_answer(Ok(page_before(broken, &[("a", 1, 10)], 5000)), now)?;
    assert_eq!(items(&mut core), [Ok("a".to_owned()), stuck.clone()]);
    let mut moment = now;
    for delay in [100, 200, 400] {
        assert_eq!(waits(&mut core, moment), Some(Duration::from_millis(delay)));
        moment += Duration::from_millis(delay);
        while let Some((from, until)) = read(&mut core, moment) {
            let is_forward = until.is_none();
            let answer = if is_forward {
                assert_eq!(from, at(10));
                page_before(broken, &[], 5000)
            } else {
                page(&[], 5000)
            };
            core.on_answer(Ok(answer), moment)?;
            if is_forward {
                break;
            }
        }
        assert_eq!(items(&mut core), std::slice::from_ref(&stuck));
    }
    moment += Duration::from_secs(1);
    read(&mut core, moment).ok_or("it tries again")?;
    core.on_answer(Ok(page(&[("broken", 1, 11), ("b", 1, 12)], 5000)), moment)?;
    let rest = ["broken", "b"].map(|name| Ok(name.to_owned()));
    assert_eq!(items(&mut core), rest);
    Ok(())
}

#[test]
fn a_feed_that_begins_behind_an_unreadable_row_leaves_it_out_wherever_it_meets_it() -> TestResult {
    let now = Instant::now();
    let mut core = core(offset(1000, &[("a", 1), ("broken", 0)]));
    read(&mut core, now);
    let rows = page_before(("broken", -1, 1000), &[("a", 1, 1000)], 5000);
    core.on_answer(Ok(rows), now)?;
    assert_eq!(items(&mut core), []);
    let mut forward = 0;
    let mut told = Vec::new();
    for _ in 0..6 {
        let Some((_, until)) = read(&mut core, now) else {
            break;
        };
        let answer = match until {
            None if forward == 0 => {
                forward += 1;
                page(&[("b", 1, 1001)], 5000)
            }
            // Before the offset there is another one, which the offset says nothing of.
            Some(_) if told.is_empty() => page_before(("older", 0, 990), &[], 5000),
            Some(_) => page_before(("broken", -1, 1000), &[], 5000),
            None => page(&[], 5000),
        };
        core.on_answer(Ok(answer), now)?;
        told.extend(items(&mut core).into_iter().map(|item| match item {
            Ok(name) => name,
            Err((name, _)) => format!("!{name}"),
        }));
    }
    told.sort_unstable();
    assert_eq!(told, ["!older", "b"], "each once");
    assert_eq!(core.retry.errors, 0);
    Ok(())
}

#[test]
fn an_erased_entity_that_was_made_again_comes_with_its_lower_revision() -> TestResult {
    let now = Instant::now();
    let mut core = core(TimestampOffset::default());
    read(&mut core, now);
    core.on_answer(Ok(page(&[("a", 9, 10)], 1000)), now)?;
    read(&mut core, now + REFRESH);
    core.on_answer(Ok(page(&[("a", 1, 20)], 1010)), now)?;
    assert_eq!(told(&mut core), [change("a", 9, 10), change("a", 1, 20)]);
    Ok(())
}

#[test]
fn it_remembers_no_more_than_it_may_and_repeats_what_it_forgot() -> TestResult {
    let now = Instant::now();
    let settings = FeedSettings::default().remembered_max(2);
    let mut core = core_with(offset(1000, &[]), settings);
    read(&mut core, now);
    core.on_answer(
        Ok(page(
            &[("a", 1, 1001), ("b", 1, 1002), ("c", 1, 1003)],
            1010,
        )),
        now,
    )?;
    assert_eq!(core.memory.len(), 2);
    assert_eq!(read(&mut core, now), Some((at(760), Some(at(1003)))));
    core.on_answer(Ok(page(&[("a", 1, 1001), ("b", 1, 1002)], 0)), now)?;
    let names: Vec<_> = told(&mut core).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["a", "b", "c", "a", "b"]);
    assert_eq!(core.memory.len(), 2);
    Ok(())
}

/// A database in memory whose transactions are visible only when they commit.
struct World {
    now: i64,
    rows: BTreeMap<String, (i64, i64)>,
    /// Commit time, name, revision, timestamp.
    open: Vec<(i64, String, i64, i64)>,
}

impl World {
    fn page(&self, query: &ChangesQuery) -> ChangesPage {
        let until = query.until.unwrap_or(micros(self.now));
        let to = query.to.map_or(until, |to| to.min(until));
        let place = |state: &StoredState| {
            let id = state.persistence_id.clone();
            (state.db_timestamp, state.revision.get(), id)
        };
        let after = query.after.clone();
        let after = after.map(|key| (query.from, key.revision, key.persistence_id));
        let rows = self.rows.iter();
        let mut states: Vec<StoredState> = rows
            .map(|(name, (number, timestamp))| row(name, *number, micros(*timestamp)))
            .filter(|state| query.from <= state.db_timestamp && state.db_timestamp < until)
            .filter(|state| after.as_ref().is_none_or(|after| place(state) > *after))
            .collect();
        states.sort_by_key(place);
        let next = states.iter().map(|state| state.db_timestamp);
        let next = next.filter(|at| *at >= to).min();
        states.retain(|state| state.db_timestamp < to);
        let rows = states.len();
        if query.rows_max.is_some_and(|max| rows >= max.get()) {
            states.clear();
        }
        states.truncate(query.limit.get());
        query.page(
            states,
            None,
            rows,
            next.filter(|_| rows < query.few()),
            until,
        )
    }

    /// Begins a transaction that commits after a while, unless the row is locked.
    fn begin(&mut self, name: String, lasts: i64) {
        if self.open.iter().all(|(_, locked, ..)| *locked != name) {
            let (number, before) = self.rows.get(&name).copied().unwrap_or((0, 0));
            let timestamp = self.now.max(before + 1);
            self.open
                .push((self.now + lasts, name, number + 1, timestamp));
        }
    }

    /// Lets time pass and commits what is due; the times that were written.
    fn pass(&mut self, time: i64) -> Vec<i64> {
        self.now += time;
        let (due, open) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|(commit_at, ..)| *commit_at <= self.now);
        self.open = open;
        let due: Vec<(i64, String, i64, i64)> = due;
        due.into_iter()
            .map(|(_, name, number, timestamp)| {
                self.rows.insert(name, (number, timestamp));
                timestamp
            })
            .collect()
    }
}

fn micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_000_000_000_000_000 + micros).unwrap()
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

/// Times in microseconds: a window of 10,000, a distance of 100, transactions of up to 10,000, a refresh of 500.
fn settings(dice: &mut Dice) -> FeedSettings {
    FeedSettings::default()
        .refresh_interval(Duration::from_millis(1))
        .behind_current_time(Duration::from_micros(100))
        .backtracking_window(Duration::from_millis(10))
        .remembered_max(usize::try_from(1 + dice.below(40)).unwrap())
}

#[test]
fn whatever_commits_late_or_is_cut_off_every_final_revision_is_told_in_order() {
    let (mut late, mut changes, mut resumed) = (0, 0, 0);
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let start = Instant::now();
        let instant = |now: i64| start + Duration::from_micros(u64::try_from(now).unwrap());
        let mut world = World {
            now: 1,
            rows: BTreeMap::new(),
            open: Vec::new(),
        };
        let mut core = core_with(TimestampOffset::default(), settings(&mut dice));
        // What the reader knows, and the offset of the last change that it handled.
        let mut known: BTreeMap<String, i64> = BTreeMap::new();
        let mut stored = TimestampOffset::default();
        let writes_until = 60_000;
        // A slow reader handles two changes where time passes once, and holds up the reads.
        let handled_max = if seed % 3 == 0 { 2 } else { 1000 };
        // Some windows after the last commit everything is told.
        while world.now < writes_until + 100_000 {
            if world.now < writes_until && dice.below(3) == 0 {
                let name = format!("user-{}", dice.below(25));
                let lasts = [5, 50, 400, 9_900][usize::try_from(dice.below(4)).unwrap()];
                world.begin(name, lasts);
            }
            let listens = seed % 2 == 0;
            let passed = dice.below(120);
            for at in world.pass(passed) {
                late += i64::from(micros(at) < stored.timestamp);
                if listens {
                    core.on_written(Span {
                        first: micros(at),
                        last: micros(at),
                        slices: SliceRange::ALL,
                    });
                }
            }
            if core.ready.is_empty()
                && let Step::Read(query) = core.next_step(instant(world.now))
            {
                let answer = if dice.below(40) == 0 {
                    Err(StoreError::Unavailable(crate::error::Cause::Deadline))
                } else {
                    Ok(world.page(&query))
                };
                // An error is repeated by the feed.
                drop(core.on_answer(answer, instant(world.now)));
                // The backoff is real time, which this world has little of.
                core.retry.at = None;
            }
            let mut before = stored.timestamp;
            for _ in 0..handled_max {
                let Some(change) = core.next_change() else {
                    break;
                };
                changes += 1;
                let change = change.unwrap();
                let name = change.state.persistence_id.to_string();
                let number = change.state.revision.get();
                let last = known.insert(name.clone(), number).unwrap_or(0);
                assert!(
                    last <= number,
                    "seed {seed}: {name} from {last} to {number}"
                );
                assert!(
                    before <= change.offset.timestamp,
                    "seed {seed}: the offset went back"
                );
                before = change.offset.timestamp;
                stored = change.offset;
                if dice.below(60) == 0 {
                    // The reader ends here and another one goes on from its offset.
                    core = core_with(stored.clone(), settings(&mut dice));
                    resumed += 1;
                    break;
                }
            }
        }
        assert!(world.open.is_empty());
        let rows = world.rows.iter();
        let revisions: BTreeMap<String, i64> = rows
            .map(|(name, (number, _))| (name.clone(), *number))
            .collect();
        assert_eq!(known, revisions, "seed {seed}");
    }
    assert!(late > 1000, "only {late} commits were late");
    assert!(resumed > 100, "only {resumed} feeds were resumed");
    assert!(changes > 10_000, "only {changes} changes");
}
