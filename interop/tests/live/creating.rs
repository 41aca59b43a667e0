//! Goal: a first write is right whatever the other side has done meanwhile: it goes on behind the other's row, and no
//! command is lost. What Pekko's own first writes can do to a row of ours is among the hazards.
//!
//! Method: one side is made to believe that there is no row; the other writes; then the first does. Where the order of
//! statements matters, a trigger holds our insert until Pekko is done. First writes that race freely are judged by
//! [`History`].

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::try_join_all;
use user_state_domain::{UserKey, UserState};
use user_state_interop::{AnyError, Case, Live, PekkoActor, Profile, State, TestResult};
use user_state_runtime::{EntityRef, Runtime};
use user_state_store::{ConnectOptions, PersistenceId, Revision, Write, WriteBatch, WriteOutcome};

use super::history::{self, History, was_started_anew};
use super::user::{login, restarting, second};
use crate::serialization::random::seed;

/// A statement of ours that is held must not run into the time-outs of its store.
const HELD_FOR_MAX: Duration = Duration::from_mins(2);

/// How many users are created by both at once.
const RACES: usize = 40;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "a_pekko_actor_that_knew_no_row_goes_on_behind_our_first_write",
            pekko_behind_our_first_write,
        ),
        Case::live(
            "our_first_write_that_pekko_overtakes_twice_while_it_runs_goes_on_behind_pekkos_row",
            we_are_overtaken,
        ),
        Case::live(
            "first_writes_at_the_same_time_leave_one_row_and_every_command",
            races,
        ),
        Case::live(
            "our_first_write_goes_on_behind_a_row_that_pekko_inserted_above_revision_1",
            behind_the_fallback,
        ),
    ]
}

async fn pekko_behind_our_first_write(live: Live) -> TestResult {
    let mut race = Race::new(&live, "mall-first").await?;
    assert_eq!(race.actor.recovered().revision, 0);
    race.we_do(1).await?;
    assert_eq!(race.pekko_does(2).await?, 1, "it lost once");
    race.we_do(3).await?;
    race.one_row_of_every_command(&live).await
}

/// The insert has found no row, and is held before it puts its own there; meanwhile Pekko creates the row and moves it
/// on, out of the way of the primary key.
async fn we_are_overtaken(live: Live) -> TestResult {
    let race = Race::new(&live, "mall-overtaken").await?;
    let mut inserts = live.database.hold_our_inserts().await?;
    let Race {
        runtime,
        actor,
        ours,
        mut history,
        ..
    } = race;
    let (mut by_us, mut by_pekko) = (history.apart(), history.apart());
    let creating = by_us.we_do(&ours, login(1));
    let overtaking = async {
        inserts.arrived().await?;
        by_pekko.pekko_does(&actor, login(2)).await?;
        by_pekko.pekko_does(&actor, login(3)).await?;
        inserts.release().await
    };
    tokio::try_join!(creating, overtaking)?;
    history.merge(by_us);
    history.merge(by_pekko);
    assert_eq!(history.last(), 3);
    assert_eq!(runtime.stats().conflicts, 1);
    one_row_of_every_command(&live, &history, "mall-overtaken").await
}

/// We give one command only: were we to move the row to 2, Pekko's insert at 1 would stand beside it.
async fn races(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut random = Rng::with_seed(seed());
    let parts: Vec<_> = (0..RACES)
        .map(|index| {
            let commands: Vec<_> = (0..4).map(|_| history::command(&mut random)).collect();
            (format!("mall-race{index}"), commands)
        })
        .collect();
    let racing = parts.into_iter().map(async |(id, commands)| {
        let key: UserKey = id.parse()?;
        let actor = pekko.start_with(&id, restarting()).await?;
        let ours = runtime.user(&key);
        assert_eq!(ours.state().await?.revision, Revision::NONE);
        let mut history = History::new(&key);
        let (mut by_us, mut by_pekko) = (history.apart(), history.apart());
        let mut commands = commands.into_iter();
        let our_command = commands.next().ok_or("no command")?;
        let theirs = async {
            for command in commands {
                by_pekko.pekko_does(&actor, command).await?;
            }
            Ok(())
        };
        tokio::try_join!(by_us.we_do(&ours, our_command), theirs)?;
        history.merge(by_us);
        history.merge(by_pekko);
        one_row_of_every_command(&live, &history, &id).await
    });
    try_join_all(racing).await?;
    Ok(())
}

async fn behind_the_fallback(live: Live) -> TestResult {
    let mut race = Race::new(&live, "mall-fallback").await?;
    for at in 1..=3 {
        race.pekko_does(at).await?;
    }
    erase(&live, "mall-fallback", 3).await?;
    assert_eq!(race.ours.state().await?.revision, Revision::NONE);
    let refused = race.actor.login(second(4)).await;
    match live.profile() {
        Profile::Pekko11 => {
            assert!(was_started_anew(&refused.unwrap_err()));
            assert!(live.database.rows("mall-fallback").await?.is_empty());
            let after = race.ours.execute(login(5)).await?;
            assert_eq!(after.get(), 1);
        }
        // What was erased is there again, and so is its revision.
        Profile::PekkoNewest => {
            assert_eq!(refused?.revision, 4);
            let after = race.ours.execute(login(5)).await?;
            assert_eq!(after.get(), 5);
            assert_eq!(race.runtime.stats().conflicts, 1);
        }
    }
    assert_eq!(live.database.rows("mall-fallback").await?.len(), 1);
    Ok(())
}

async fn erase(live: &Live, id: &str, expected: i64) -> TestResult {
    let expected = Revision::new(expected).ok_or("no revision")?;
    let erase = Write::erase(PersistenceId::unique(id)?, expected);
    let outcomes = live
        .store()
        .await?
        .states()
        .write(&WriteBatch::new(vec![erase])?)
        .await;
    assert_eq!(outcomes, [WriteOutcome::Applied(None)]);
    Ok(())
}

/// A user that nobody has written, known as such to a Pekko actor.
struct Race {
    id: String,
    actor: PekkoActor,
    runtime: Runtime<UserState>,
    ours: EntityRef<UserState>,
    history: History,
}

impl Race {
    async fn new(live: &Live, id: &str) -> Result<Self, AnyError> {
        let key: UserKey = id.parse()?;
        let mut options: ConnectOptions = live.database.url()?.as_str().parse()?;
        options.settings.statement_timeout = HELD_FOR_MAX;
        let store = user_state_store::connect(&options).await?;
        let runtime = Runtime::for_users(store).start()?;
        Ok(Self {
            id: id.to_owned(),
            actor: live.pekko().await?.start_with(id, restarting()).await?,
            ours: runtime.user(&key),
            runtime,
            history: History::new(&key),
        })
    }

    async fn we_do(&mut self, at: i64) -> TestResult {
        self.history.we_do(&self.ours, login(at)).await?;
        self.history.we_showed(&self.ours.state().await?);
        Ok(())
    }

    /// How often Pekko lost.
    async fn pekko_does(&mut self, at: i64) -> Result<u32, AnyError> {
        self.history.pekko_does(&self.actor, login(at)).await
    }

    async fn one_row_of_every_command(&self, live: &Live) -> TestResult {
        one_row_of_every_command(live, &self.history, &self.id).await
    }
}

async fn one_row_of_every_command(live: &Live, history: &History, id: &str) -> TestResult {
    let state = history.check()?;
    let rows = live.database.rows(id).await?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(u64::try_from(rows[0].revision)?, history.last());
    let runtime = live.runtime().await?;
    let key: UserKey = id.parse()?;
    let stored = runtime.user(&key).state().await?;
    assert_eq!(State::of(&key, &stored.state), state);
    Ok(())
}
