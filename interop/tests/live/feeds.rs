//! Goal: a change feed of either side tells the writes of both, in order, and misses none.
//!
//! Method: both write, by single commands and by batches whose rows share one time, more users than a page has rows. What
//! Pekko's `currentChangesBySlices` and `changesBySlices` and our two feeds tell, over all slices and over
//! quarters of them, is compared with the table.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fastrand::Rng;
use futures_util::future::try_join_all;
use futures_util::{Stream, TryStreamExt as _};
use tokio::sync::watch;
use tokio::time::timeout;
use user_state_domain::{ProductId, UserKey, UserState};
use user_state_interop::{
    AnyError, Case, Instant, Live, PekkoChange, PekkoFeed, PekkoOffset, Profile, State, TestResult,
};
use user_state_store::{
    Change, DurableStateStore, FeedSettings, PersistenceId, Revision, Slice, SliceRange,
    StateChange, StateMapping, Store, StoreError, StoredValue, TimestampOffset, UserStateMapping,
    Write, WriteBatch, WriteOutcome,
};

use super::history::{self, History, number};
use super::user::{login, restarting, second};
use crate::serialization::random::seed;

/// More than Pekko's queries and ours read at once, which is 1,000.
const USERS: usize = 1_300;

/// How long a live feed may take for the last change, writing included: a test fails instead of hanging. Pekko tells what
/// its first look missed after some 10 s.
const TOLD_WITHIN: Duration = Duration::from_mins(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "pekkos_current_changes_tell_our_batches_in_order_and_an_offset_of_either_serves_both",
            current,
        ),
        Case::live(
            "live_feeds_of_both_tell_every_users_latest_state_while_both_write",
            while_both_write,
        ),
        Case::live(
            "a_reset_a_mark_and_an_erasure_are_told_as_each_side_reads_them",
            deletions,
        ),
        Case::live(
            "the_time_of_a_row_goes_up_with_every_write_of_either_also_when_it_is_ahead_of_the_clock",
            times,
        ),
    ]
}

async fn current(live: Live) -> TestResult {
    let store = live.store().await?;
    let pekko = live.pekko().await?;
    let keys: Vec<UserKey> = (0..USERS)
        .map(|index| format!("mall-{index}").parse())
        .collect::<Result<_, _>>()?;
    let mut expected = BTreeMap::new();
    for (revision, keys) in [(1, &keys[..]), (2, &keys[..700])] {
        for batch in keys.chunks(500) {
            write(store.states().as_ref(), batch, revision).await?;
        }
        for key in keys {
            expected.insert(
                key.to_string(),
                (number_of(revision), viewed(key, revision)),
            );
        }
    }

    for slices in all_and_quarters()? {
        let by_pekko = pekko.current_changes("", slices, None).await?;
        let times = by_pekko.iter().map(|change| change.offset.timestamp);
        assert!(times.is_sorted(), "Pekko tells them in order");
        let told: BTreeMap<String, (u64, State)> = by_pekko
            .iter()
            .map(|change| {
                let state = change.state.clone().unwrap();
                (change.persistence_id.clone(), (change.revision, state))
            })
            .collect();
        assert_eq!(told.len(), by_pekko.len(), "nobody is told twice");
        assert!(
            told.iter().eq(expected
                .iter()
                .filter(|(id, _)| slices.contains(Slice::of(id)))),
            "everybody is told"
        );

        let start = TimestampOffset::default();
        let by_us = current_by_us(&store, slices, start).await?;
        assert_eq!(by_us.iter().map(ours).collect::<Vec<_>>(), {
            let mut by_pekko: Vec<_> = by_pekko.iter().map(theirs).collect();
            in_our_order(&mut by_pekko, &by_us);
            by_pekko
        });

        // In the midst of the rows of one batch.
        let middle = by_pekko.len() / 2;
        let offset = &by_pekko[middle].offset;
        assert!(offset.seen.len() > 1);
        let mut rest: Vec<_> = by_pekko[middle + 1..].iter().map(theirs).collect();
        rest.sort();
        let mut rest_by_pekko: Vec<_> = {
            let rest = pekko.current_changes("", slices, Some(offset)).await?;
            rest.iter().map(theirs).collect()
        };
        rest_by_pekko.sort();
        assert_eq!(rest_by_pekko, rest);
        let mut rest_by_us: Vec<_> = {
            let rest = current_by_us(&store, slices, our_offset(offset)).await?;
            rest.iter().map(ours).collect()
        };
        rest_by_us.sort();
        assert_eq!(rest_by_us, rest, "Pekko's offset serves us");
        let offset = pekko_offset(&by_us[middle].offset);
        let rest_by_pekko = pekko.current_changes("", slices, Some(&offset)).await?;
        assert!(
            rest_by_pekko.iter().map(theirs).collect::<Vec<_>>().len() == by_us.len() - middle - 1,
            "our offset serves Pekko"
        );
    }
    Ok(())
}

async fn while_both_write(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let store = live.store().await?;
    let beside = live.store().await?;
    let runtime = user_state_runtime::Runtime::for_users(store.clone()).start()?;
    let (set_latest, latest) = watch::channel(None::<Latest>);
    let start = TimestampOffset::default;

    let mut by_pekko = Vec::new();
    for slices in all_and_quarters()? {
        let name = format!("{:?}", slices.as_range());
        let feed = pekko.changes(&name, "", slices, None).await?;
        by_pekko.push(until_told_by_pekko(feed, slices, latest.clone()));
    }
    let mut by_us = Vec::new();
    for slices in all_and_quarters()? {
        let settings = FeedSettings::default().refresh_interval(Duration::from_millis(200));
        // One that is woken by the writes, and one that has to look for them.
        let woken = store.changes_by_slices("", slices, start(), settings.clone())?;
        let looking = beside.changes_by_slices("", slices, start(), settings)?;
        by_us.push(until_told_by_us(woken, slices, latest.clone()));
        by_us.push(until_told_by_us(looking, slices, latest.clone()));
    }

    let ours = |index: usize| format!("mall-{index}").parse::<UserKey>();
    let crowd = try_join_all((0..USERS).map(async |index| {
        let user = runtime.user(&ours(index)?);
        History::new(&ours(index)?).we_do(&user, login(1)).await
    }));
    let shared = try_join_all((0..20_u64).map(async |index| {
        let mut random = Rng::with_seed(seed().wrapping_add(index));
        let key: UserKey = format!("mall-shared{index}").parse()?;
        let mut history = History::new(&key);
        let options = restarting();
        let actor = pekko.start_with(&key.to_string(), options).await?;
        history
            .pekko_does(&actor, history::command(&mut random))
            .await?;
        for _ in 0..6 {
            let command = history::command(&mut random);
            if random.bool() {
                history.pekko_does(&actor, command).await?;
            } else {
                history.we_do(&runtime.user(&key), command).await?;
            }
        }
        history.check().map(drop)
    }));
    let writing = async {
        tokio::try_join!(crowd, shared)?;
        set_latest.send_replace(Some(latest_of(&live).await?));
        Ok::<_, AnyError>(())
    };
    let (by_pekko, by_us, ()) =
        tokio::try_join!(try_join_all(by_pekko), try_join_all(by_us), writing)?;

    for told in by_us {
        let offsets = told.iter().map(|change| change.offset.timestamp);
        assert!(offsets.is_sorted());
        let revisions = told.iter().map(|change| {
            let revision = number(change.state.revision);
            (change.state.persistence_id.as_str(), revision)
        });
        only_up(revisions, |before, after| before < after);
    }
    for told in by_pekko {
        // Those found by looking back have no state, and come again.
        let forward: Vec<_> = told
            .iter()
            .filter(|change| change.state.is_some())
            .collect();
        let times = forward.iter().map(|change| change.offset.timestamp);
        assert!(times.is_sorted());
        let revisions = forward
            .iter()
            .map(|change| (&*change.persistence_id, change.revision));
        only_up(revisions, |before, after| before <= after);
    }
    Ok(())
}

async fn deletions(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let store = live.store().await?;
    let runtime = user_state_runtime::Runtime::for_users(store.clone()).start()?;
    let user = |id: &str| Ok::<_, AnyError>(runtime.user(&id.parse()?));
    for id in ["mall-reset", "mall-marked", "mall-erased", "mall-dropped"] {
        user(id)?.execute(login(1)).await?;
    }
    let before = current_by_us(&store, SliceRange::ALL, TimestampOffset::default()).await?;
    assert_eq!(before.len(), 4);
    let offset = &before.last().ok_or("nothing told")?.offset;
    let live_by_pekko = pekko
        .changes("live", "", SliceRange::ALL, Some(&pekko_offset(offset)))
        .await?;
    let settings = FeedSettings::default()
        // What was told before is behind the offset, and so is looked at again unless this is off.
        .backtracking_window(Duration::ZERO)
        .refresh_interval(Duration::from_millis(200));
    let live_by_us = store.changes_by_slices("", SliceRange::ALL, offset.clone(), settings)?;

    assert_eq!(user("mall-reset")?.delete().await?.get(), 2);
    for (id, change) in [
        ("mall-marked", Change::Mark),
        ("mall-erased", Change::Erase),
    ] {
        let write = Write::new(PersistenceId::unique(id)?, Revision::FIRST, change);
        let outcomes = store.states().write(&WriteBatch::new(vec![write])?).await;
        assert!(matches!(&*outcomes, [WriteOutcome::Applied(_)]));
    }
    // The store's delete takes the present revision in 1.1.0, and the next one in 1.2.0.
    let revision = match live.profile() {
        Profile::Pekko11 => 1,
        Profile::PekkoNewest => 2,
    };
    pekko.delete_object("mall-dropped", revision).await?;
    assert!(live.database.rows("mall-dropped").await?.is_empty());
    user("mall-last")?.execute(login(2)).await?;
    let reset = user("mall-reset")?.state().await?.state;
    let reset = State::of(&"mall-reset".parse()?, &reset);
    let last = user("mall-last")?.state().await?.state;
    let last = State::of(&"mall-last".parse()?, &last);

    // What was removed is told by nobody; Pekko 1.x tells a mark as a change without a state.
    let expected = [
        ("mall-reset", 2, Some(reset)),
        ("mall-marked", 2, None),
        ("mall-last", 1, Some(last)),
    ];
    let check_pekko = |told: &[PekkoChange]| {
        let told: Vec<_> = told
            .iter()
            .map(|change| {
                assert!(!change.deleted, "Pekko 1.x tells nothing as deleted");
                let id = change.persistence_id.as_str();
                (id, change.revision, change.state.clone())
            })
            .collect();
        assert_eq!(told, expected);
    };
    let current = pekko
        .current_changes("", SliceRange::ALL, Some(&pekko_offset(offset)))
        .await?;
    check_pekko(&current);
    let told = live_by_pekko
        .take_until(TOLD_WITHIN, |told| {
            told.iter()
                .any(|change| change.persistence_id == "mall-last")
        })
        .await?;
    check_pekko(&told);
    live_by_pekko.stop().await?;

    let check_us = |told: &[StateChange]| {
        let told: Vec<_> = told
            .iter()
            .map(|change| {
                let id = change.state.persistence_id.as_str();
                let is_state = matches!(change.state.value, StoredValue::State(_));
                (id, number(change.state.revision), is_state)
            })
            .collect();
        assert_eq!(
            told,
            expected
                .iter()
                .map(|(id, revision, state)| (*id, *revision, state.is_some()))
                .collect::<Vec<_>>()
        );
    };
    check_us(&current_by_us(&store, SliceRange::ALL, offset.clone()).await?);
    let told = timeout(TOLD_WITHIN, first(live_by_us, expected.len())).await??;
    check_us(&told);
    Ok(())
}

async fn times(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let key: UserKey = "mall-times".parse()?;
    let options = restarting();
    let mut history = History::new(&key);
    history.we_do(&runtime.user(&key), login(1)).await?;
    let actor = pekko.start_with("mall-times", options).await?;
    let time = async || {
        let rows = live.database.rows("mall-times").await?;
        Ok::<_, AnyError>(rows[0].db_timestamp)
    };
    let mut before = time().await?;
    for turn in 0..10 {
        if turn == 4 {
            let ahead = "UPDATE durable_state SET db_timestamp = db_timestamp + interval '1 hour'";
            live.database.execute(ahead).await?;
            before += TimeDelta::hours(1);
        }
        if turn % 2 == 0 {
            history.pekko_does(&actor, login(turn)).await?;
        } else {
            history.we_do(&runtime.user(&key), login(turn)).await?;
        }
        let after = time().await?;
        if turn < 4 {
            assert!(before < after);
        } else {
            assert_eq!(after, before + TimeDelta::microseconds(1), "turn {turn}");
        }
        before = after;
    }
    history.check().map(drop)
}

/// The latest revision and state of every user.
type Latest = HashMap<String, (u64, State)>;

async fn latest_of(live: &Live) -> Result<Latest, AnyError> {
    let mut connection = live.database.connection().await?;
    let query = "SELECT persistence_id FROM durable_state";
    let ids: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut connection).await?;
    let runtime = live.runtime().await?;
    let states = ids.into_iter().map(async |id| {
        let key: UserKey = id.parse()?;
        let read = runtime.user(&key).state().await?;
        let state = State::of(&key, &read.state);
        Ok::<_, AnyError>((id, (number(read.revision), state)))
    });
    Ok(try_join_all(states).await?.into_iter().collect())
}

/// Who has been told of, up to which revision, and who has not when all is written.
struct Told {
    slices: SliceRange,
    latest: watch::Receiver<Option<Latest>>,
    revisions: HashMap<String, u64>,
    missing: Option<HashMap<String, u64>>,
}

impl Told {
    fn new(slices: SliceRange, latest: watch::Receiver<Option<Latest>>) -> Self {
        Self {
            slices,
            latest,
            revisions: HashMap::new(),
            missing: None,
        }
    }

    fn tell(&mut self, id: &str, revision: u64) {
        let told = self.revisions.entry(id.to_owned()).or_default();
        *told = revision.max(*told);
        if let Some(missing) = &mut self.missing
            && missing.get(id) == Some(&revision)
        {
            missing.remove(id);
        }
    }

    /// Whether everybody is told of, once it is known how it ends.
    fn is_complete(&mut self) -> bool {
        if self.missing.is_none()
            && let Some(latest) = self.latest.borrow().as_ref()
        {
            let missing = latest
                .iter()
                .filter(|(id, _)| self.slices.contains(Slice::of(id)))
                .filter(|(id, (revision, _))| self.revisions.get(*id) != Some(revision))
                .map(|(id, (revision, _))| (id.clone(), *revision));
            self.missing = Some(missing.collect());
        }
        self.missing.as_ref().is_some_and(HashMap::is_empty)
    }

    /// What the error of a feed says that does not get there.
    fn late(&self, side: &str) -> AnyError {
        match &self.missing {
            None => format!("{side}: the writers did not end within {TOLD_WITHIN:?}"),
            Some(missing) => format!(
                "{side}: not told within {TOLD_WITHIN:?}, of slices {:?}: {missing:?}",
                self.slices.as_range()
            ),
        }
        .into()
    }
}

async fn until_told_by_pekko(
    feed: PekkoFeed,
    slices: SliceRange,
    latest: watch::Receiver<Option<Latest>>,
) -> Result<Vec<PekkoChange>, AnyError> {
    let (mut told, mut complete) = (Vec::new(), Told::new(slices, latest.clone()));
    let taking = async {
        while !complete.is_complete() {
            for change in feed.take().await? {
                complete.tell(&change.persistence_id, change.revision);
                told.push(change);
            }
        }
        feed.stop().await?;
        Ok::<_, AnyError>(())
    };
    let taken = timeout(TOLD_WITHIN, taking).await;
    taken.map_err(|_| complete.late("Pekko"))??;
    let latest = latest.borrow().clone().ok_or("nothing is known yet")?;
    for change in &told {
        let (revision, state) = &latest[&change.persistence_id];
        assert!(change.revision <= *revision);
        if change.revision == *revision
            && let Some(told) = &change.state
        {
            assert_eq!(told, state);
        }
    }
    Ok(told)
}

async fn until_told_by_us(
    changes: impl Stream<Item = Result<StateChange, StoreError>> + Unpin,
    slices: SliceRange,
    mut latest: watch::Receiver<Option<Latest>>,
) -> Result<Vec<StateChange>, AnyError> {
    let mut changes = changes;
    let (mut told, mut complete) = (Vec::new(), Told::new(slices, latest.clone()));
    let taking = async {
        while !complete.is_complete() {
            tokio::select! {
                change = changes.try_next() => {
                    let change: StateChange = change?.ok_or("a live feed does not end")?;
                    let state = &change.state;
                    complete.tell(state.persistence_id.as_str(), number(state.revision));
                    told.push(change);
                }
                Ok(()) = latest.changed() => {}
            }
        }
        Ok::<_, AnyError>(())
    };
    let taken = timeout(TOLD_WITHIN, taking).await;
    taken.map_err(|_| complete.late("we"))??;
    let latest = latest.borrow().clone().ok_or("nothing is known yet")?;
    for change in &told {
        let id = &change.state.persistence_id;
        let (revision, state) = &latest[id.as_str()];
        assert!(number(change.state.revision) <= *revision);
        if number(change.state.revision) == *revision {
            let StoredValue::State(payload) = &change.state.value else {
                return Err(format!("{id} is told as deleted").into());
            };
            let told = UserStateMapping::default().decode(id, payload)?;
            assert_eq!(&State::of(&id.as_str().parse()?, &told), state);
        }
    }
    Ok(told)
}

/// The first changes of a live feed.
async fn first(
    mut changes: impl Stream<Item = Result<StateChange, StoreError>> + Unpin,
    count: usize,
) -> Result<Vec<StateChange>, AnyError> {
    let mut first = Vec::new();
    while first.len() < count {
        first.push(
            changes
                .try_next()
                .await?
                .ok_or("a live feed does not end")?,
        );
    }
    Ok(first)
}

async fn current_by_us(
    store: &Store,
    slices: SliceRange,
    offset: TimestampOffset,
) -> Result<Vec<StateChange>, AnyError> {
    let changes = store.current_changes_by_slices("", slices, offset);
    Ok(changes.try_collect().await?)
}

/// Checks that the revisions of each id are in order.
fn only_up<'a>(
    revisions: impl Iterator<Item = (&'a str, u64)>,
    in_order: impl Fn(u64, u64) -> bool,
) {
    let mut latest = HashMap::new();
    for (id, revision) in revisions {
        if let Some(before) = latest.insert(id, revision) {
            assert!(
                in_order(before, revision),
                "{id}: {revision} behind {before}"
            );
        }
    }
}

/// A change without its state: when, which revision, whose.
type Brief = (DateTime<Utc>, u64, String);

fn theirs(change: &PekkoChange) -> Brief {
    let Instant(at) = change.offset.timestamp;
    (at, change.revision, change.persistence_id.clone())
}

fn ours(change: &StateChange) -> Brief {
    let state = &change.state;
    let id = state.persistence_id.as_str().to_owned();
    (state.db_timestamp, number(state.revision), id)
}

/// Rows of one time and revision come in any order: in the order in which they came to us.
fn in_our_order(changes: &mut [Brief], by_us: &[StateChange]) {
    let places: HashMap<String, usize> = by_us
        .iter()
        .enumerate()
        .map(|(place, change)| (change.state.persistence_id.as_str().to_owned(), place))
        .collect();
    changes.sort_by_key(|(at, revision, id)| (*at, *revision, places.get(id).copied()));
}

fn our_offset(offset: &PekkoOffset) -> TimestampOffset {
    let Instant(timestamp) = offset.timestamp;
    let seen = offset.seen.iter().map(|(id, revision)| {
        let revision = i64::try_from(*revision).ok().and_then(Revision::new);
        (PersistenceId::unique(id).unwrap(), revision.unwrap())
    });
    TimestampOffset {
        timestamp,
        seen: seen.collect(),
    }
}

fn pekko_offset(offset: &TimestampOffset) -> PekkoOffset {
    let seen = offset.seen.to_map().into_iter();
    PekkoOffset {
        timestamp: Instant(offset.timestamp),
        seen: seen
            .map(|(id, revision)| (id.as_str().to_owned(), number(revision)))
            .collect(),
    }
}

fn all_and_quarters() -> Result<Vec<SliceRange>, AnyError> {
    let mut ranges = SliceRange::split(4).ok_or("1,024 is divisible by 4")?;
    ranges.insert(0, SliceRange::ALL);
    Ok(ranges)
}

fn number_of(revision: i64) -> u64 {
    revision.unsigned_abs()
}

/// The state that the users of a batch get at a revision.
fn viewing(revision: i64) -> UserState {
    UserState {
        recent_products: [ProductId::new(&format!("p-{revision}"))]
            .into_iter()
            .collect(),
        last_event_at: Some(second(revision)),
        ..UserState::default()
    }
}

fn viewed(key: &UserKey, revision: i64) -> State {
    State::of(key, &viewing(revision))
}

/// Writes users in one batch, so at one time.
async fn write(store: &dyn DurableStateStore, keys: &[UserKey], revision: i64) -> TestResult {
    let mapping = UserStateMapping::default();
    let writes = keys.iter().map(|key| {
        let persistence_id = PersistenceId::from(key);
        let payload = mapping.encode(&persistence_id, &viewing(revision))?;
        let expected = Revision::new(revision - 1).ok_or("no revision")?;
        Ok::<_, AnyError>(Write::update(persistence_id, expected, payload).tags(mapping.tags()))
    });
    let batch = WriteBatch::new(writes.collect::<Result<_, _>>()?)?;
    let mut times = Vec::new();
    for outcome in store.write(&batch).await {
        match outcome {
            WriteOutcome::Applied(at) => times.push(at),
            other => return Err(format!("{other:?}").into()),
        }
    }
    times.dedup();
    assert_eq!(times.len(), 1, "a batch has one time");
    Ok(())
}
