//! Goal: a first write is right whatever the other side has done meanwhile: it goes on behind the other's row, or is
//! refused. Where Pekko adds a second row, we name both and touch neither; with the unique index there is none.
//!
//! Method: one side is made to believe that there is no row, or an old one; the other writes; then the first does. Where the
//! order of statements matters, a trigger holds one side's insert until the other is done. First writes that
//! race freely are judged by [`History`].

use fastrand::Rng;
use futures_util::future::try_join_all;
use sqlx::{Executor as _, PgConnection};
use user_state_domain::{UserCommand, UserKey};
use user_state_interop::{
    AnyError, Case, Live, OnWriteFailure, PekkoActor, PekkoNode, Profile, Row, StartOptions,
    TestResult,
};
use user_state_runtime::{ExecuteError, RequestError, Runtime};
use user_state_store::{
    Change, ConnectOptions, PersistenceId, Revision, StoreError, Write, WriteBatch, WriteOutcome,
};

use super::contention::UNIQUE_INDEX;
use super::history::{self, History, second, was_started_anew};
use crate::serialization::random::seed;

/// How many users are created by both at once.
const RACES: usize = 40;

/// How long a held insert may take to come: a test fails instead of hanging.
const HELD_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "a_pekko_actor_that_knew_no_row_goes_on_behind_our_first_write",
            pekko_behind_our_first_write,
        ),
        Case::live(
            "our_first_write_goes_on_behind_a_row_that_pekko_has_moved_on",
            we_behind_a_moved_row,
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
            "a_second_row_that_pekko_inserts_at_1_is_named_with_the_first_and_neither_is_touched",
            second_row_at_1,
        ),
        Case::live(
            "with_the_unique_index_pekko_is_refused_at_1_and_goes_on_behind_our_moved_row",
            refused_at_1,
        ),
        Case::live(
            "our_first_write_goes_on_behind_a_row_that_pekko_inserted_above_revision_1",
            behind_the_fallback,
        ),
        Case::live(
            "a_second_row_that_pekko_inserts_above_1_is_named_with_ours_and_neither_is_touched",
            second_row_above_1,
        ),
        Case::live(
            "with_the_unique_index_pekko_is_refused_above_1_and_goes_on_behind_our_first_write",
            refused_above_1,
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

async fn we_behind_a_moved_row(live: Live) -> TestResult {
    let mut race = Race::new(&live, "mall-moved").await?;
    assert_eq!(race.ours.state().await?.revision, Revision::NONE);
    for at in 1..=3 {
        race.pekko_does(at).await?;
    }
    race.we_do(4).await?;
    assert_eq!(race.runtime.stats().conflicts, 1);
    race.pekko_does(5).await?;
    race.one_row_of_every_command(&live).await
}

/// The insert has found no row, and is held before it puts its own there; meanwhile Pekko creates the row and moves it
/// on, out of the way of the primary key.
async fn we_are_overtaken(live: Live) -> TestResult {
    let race = Race::new(&live, "mall-overtaken").await?;
    let hold = Hold::inserts(&live, "current_setting('application_name') = 'user-state'").await?;
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
        let mut hold = hold;
        hold.until_held().await?;
        by_pekko.pekko_does(&actor, login(2)).await?;
        by_pekko.pekko_does(&actor, login(3)).await?;
        hold.release().await
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
        let actor = start(&pekko, &id).await?;
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

async fn second_row_at_1(live: Live) -> TestResult {
    let mut race = Race::new(&live, "mall-two").await?;
    for at in 1..=3 {
        race.we_do(at).await?;
    }
    // Pekko's own defect, in every version: an insert at 1 does not collide with a row at 3.
    let inserted = race.actor.login(second(4)).await?;
    assert_eq!(inserted.revision, 1);
    names_both_and_touches_neither(&live, "mall-two", 1, 3).await?;

    // A live entity of ours does not look again before it writes: it goes on with the row that it knows.
    race.we_do(5).await?;
    names_both_and_touches_neither(&live, "mall-two", 1, 4).await?;

    let mend = "DELETE FROM durable_state WHERE persistence_id = 'mall-two' AND revision = 1";
    live.database.execute(mend).await?;
    race.we_do(6).await?;
    race.one_row_of_every_command(&live).await
}

async fn refused_at_1(live: Live) -> TestResult {
    live.database.execute(UNIQUE_INDEX).await?;
    let mut race = Race::new(&live, "mall-one").await?;
    for at in 1..=3 {
        race.we_do(at).await?;
    }
    assert_eq!(race.pekko_does(4).await?, 1, "it lost once");
    race.one_row_of_every_command(&live).await
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

async fn second_row_above_1(live: Live) -> TestResult {
    let answer = fallback_beside_our_creation(&live, "mall-above").await?;
    match live.profile() {
        Profile::Pekko11 => assert_eq!(answer, None, "1.1.0 has no such insert"),
        Profile::PekkoNewest => {
            assert_eq!(answer, Some(4));
            names_both_and_touches_neither(&live, "mall-above", 1, 4).await?;
        }
    }
    Ok(())
}

async fn refused_above_1(live: Live) -> TestResult {
    live.database.execute(UNIQUE_INDEX).await?;
    let answer = fallback_beside_our_creation(&live, "mall-below").await?;
    assert_eq!(answer, None, "it was refused");
    Ok(())
}

/// A Pekko actor at revision 3 writes when its row was erased. Plugin 1.2.0 finds no row, and its insert at 4 is held there;
/// we create the row at 1; then its insert goes on. The revision that it acknowledged; `None` where it was refused, as
/// 1.1.0 is at once, and where both went on behind our row.
async fn fallback_beside_our_creation(live: &Live, id: &str) -> Result<Option<u64>, AnyError> {
    let mut race = Race::new(live, id).await?;
    for at in 1..=3 {
        race.pekko_does(at).await?;
    }
    erase(live, id, 3).await?;
    let mut hold = Hold::inserts(live, "NEW.revision > 1").await?;
    let mut after = race.history.apart();
    let falling_back = race.actor.login(second(4));
    let creating = async {
        if live.profile() == Profile::PekkoNewest {
            hold.until_held().await?;
        }
        after.we_do(&race.ours, login(5)).await?;
        hold.release().await
    };
    let (answer, created) = tokio::join!(falling_back, creating);
    created?;
    assert_eq!(after.last(), 1, "no row was there");
    match answer {
        Ok(seen) => Ok(Some(seen.revision)),
        Err(error) if was_started_anew(&error) => {
            after.pekko_does(&race.actor, login(6)).await?;
            after.we_do(&race.ours, login(7)).await?;
            one_row_of_every_command(live, &after, id).await?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Everything of ours that has to read this user says which two rows there are, and the rows stay as they are.
async fn names_both_and_touches_neither(
    live: &Live,
    id: &str,
    lower: i64,
    higher: i64,
) -> TestResult {
    let persistence_id = PersistenceId::unique(id)?;
    let both = |error: &StoreError| match error {
        StoreError::DuplicateRows {
            persistence_id: named,
            lower: low,
            higher: high,
        } => *named == persistence_id && (low.get(), high.get()) == (lower, higher),
        _ => false,
    };
    let rows = live.database.rows(id).await?;
    assert_eq!(
        rows.iter().map(|row| row.revision).collect::<Vec<_>>(),
        [lower, higher]
    );

    let store = live.store().await?;
    let loaded = store.load(std::slice::from_ref(&persistence_id)).await?;
    assert!(loaded[0].as_ref().is_err_and(both), "{loaded:?}");
    let runtime = live.runtime().await?;
    let user = runtime.entity(persistence_id.clone());
    let executed = user.execute(login(100)).await;
    assert!(
        matches!(&executed, Err(ExecuteError::Unreadable(error)) if both(error)),
        "{executed:?}"
    );
    let read = user.state().await;
    assert!(
        matches!(&read, Err(RequestError::Unreadable(error)) if both(error)),
        "{read:?}"
    );
    let deleted = user.delete().await;
    assert!(
        matches!(&deleted, Err(RequestError::Unreadable(error)) if both(error)),
        "{deleted:?}"
    );
    let created = Write {
        persistence_id: persistence_id.clone(),
        expected: Revision::NONE,
        change: Change::Mark,
    };
    let outcomes = store.write(&WriteBatch::new(vec![created])?).await;
    assert_eq!(outcomes, [WriteOutcome::Conflict]);

    let after: Vec<Row> = live.database.rows(id).await?;
    assert_eq!(after, rows);
    Ok(())
}

async fn erase(live: &Live, id: &str, expected: i64) -> TestResult {
    let erase = Write {
        persistence_id: PersistenceId::unique(id)?,
        expected: Revision::new(expected).ok_or("no revision")?,
        change: Change::Erase,
    };
    let outcomes = live
        .store()
        .await?
        .write(&WriteBatch::new(vec![erase])?)
        .await;
    assert_eq!(outcomes, [WriteOutcome::Applied(None)]);
    Ok(())
}

fn login(at: i64) -> UserCommand {
    UserCommand::Login { at: second(at) }
}

async fn start(pekko: &PekkoNode, id: &str) -> Result<PekkoActor, AnyError> {
    let options = StartOptions {
        on_write_failure: OnWriteFailure::Restart,
        ..StartOptions::default()
    };
    Ok(pekko.start_with(id, options).await?)
}

/// A user that nobody has written, known as such to a Pekko actor.
struct Race {
    id: String,
    actor: PekkoActor,
    runtime: Runtime<user_state_domain::UserState>,
    ours: user_state_runtime::EntityRef<user_state_domain::UserState>,
    history: History,
}

impl Race {
    async fn new(live: &Live, id: &str) -> Result<Self, AnyError> {
        let key: UserKey = id.parse()?;
        // A held insert must not run into the time-outs of a store.
        let mut options: ConnectOptions = live.database.url()?.as_str().parse()?;
        options.settings.statement_timeout = HELD_WITHIN * 4;
        let store = user_state_store::connect(&options).await?;
        let runtime = Runtime::for_users(store).start()?;
        Ok(Self {
            id: id.to_owned(),
            actor: start(&live.pekko().await?, id).await?,
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
    assert_eq!(user_state_interop::State::of(&key, &stored.state), state);
    Ok(())
}

/// Inserts that wait, behind the look at what is there and before their row is.
struct Hold {
    connection: PgConnection,
}

impl Hold {
    /// Holds those that satisfy a condition on the new row, `NEW`.
    async fn inserts(live: &Live, condition: &str) -> Result<Self, AnyError> {
        live.database
            .execute(&format!(
                "CREATE FUNCTION hold() RETURNS TRIGGER LANGUAGE plpgsql AS $$
                 BEGIN
                   PERFORM pg_advisory_xact_lock_shared(1);
                   RETURN NEW;
                 END $$;
                 CREATE TRIGGER hold BEFORE INSERT ON durable_state
                 FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION hold()"
            ))
            .await?;
        let mut connection = live.database.connection().await?;
        connection.execute("SELECT pg_advisory_lock(1)").await?;
        Ok(Self { connection })
    }

    /// Until one waits.
    async fn until_held(&mut self) -> TestResult {
        let waiting = "\
            SELECT EXISTS (
              SELECT FROM pg_locks
              WHERE locktype = 'advisory' AND NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            )";
        let looking = async {
            while !sqlx::query_scalar::<_, bool>(waiting)
                .fetch_one(&mut self.connection)
                .await?
            {}
            Ok::<_, AnyError>(())
        };
        tokio::time::timeout(HELD_WITHIN, looking).await?
    }

    async fn release(mut self) -> TestResult {
        self.connection
            .execute("SELECT pg_advisory_unlock(1)")
            .await?;
        Ok(())
    }
}
