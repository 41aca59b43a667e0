//! Goal: where connections are cut while both sides write, no acknowledged command is lost, and what has an unknown outcome is
//! there once or not at all.
//!
//! Method: every command views a product of its own. While our runtime and Pekko's actors do them, a trigger holds writes
//! before their commit, and all their sessions are ended, over and over. Then the revisions acknowledged must be distinct, those that
//! nobody acknowledged no more than the unknown outcomes, and the products in every state seen those of
//! the last three revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::try_join_all;
use sqlx::{Executor as _, PgConnection};
use user_state_domain::{ProductId, UserCommand, UserKey, UserState};
use user_state_interop::{AnyError, Case, Live, PekkoActor, TestResult};
use user_state_runtime::{EntityRef, ExecuteError, RequestError};

use super::history::{number, was_started_anew};
use super::user::{restarting, second};

const USERS: usize = 6;

const ROUNDS: usize = 12;

/// In which rounds all sessions are ended.
const CUTS: [usize; 4] = [2, 5, 6, 9];

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::live(
        "connections_cut_while_both_write_lose_no_acknowledged_command",
        cut,
    )]
}

/// What happens to the sessions of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sessions {
    Whole,
    Cut,
}

impl Sessions {
    fn of(round: usize) -> Self {
        if CUTS.contains(&round) {
            Self::Cut
        } else {
            Self::Whole
        }
    }
}

/// What became of the commands to a user.
#[derive(Default)]
struct Outcomes {
    acknowledged: BTreeMap<u64, String>,
    unknown: BTreeSet<String>,
    /// The products of a state by its revision.
    seen: Vec<(u64, Vec<String>)>,
}

impl Outcomes {
    fn acknowledge(&mut self, revision: u64, product: String) {
        let other = self.acknowledged.insert(revision, product);
        assert_eq!(other, None, "revision {revision} was acknowledged twice");
    }

    fn merge(&mut self, other: Self) {
        for (revision, product) in other.acknowledged {
            self.acknowledge(revision, product);
        }
        self.unknown.extend(other.unknown);
        self.seen.extend(other.seen);
    }

    /// Checks them against the revision at the end.
    fn check(&self, last: u64) {
        assert!(self.acknowledged.keys().all(|revision| *revision <= last));
        let acknowledged = u64::try_from(self.acknowledged.len()).unwrap();
        let unknown = u64::try_from(self.unknown.len()).unwrap();
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&last),
            "{last} revisions for {acknowledged} acknowledged and {unknown} unknown"
        );
        let mut applied: BTreeMap<u64, &str> = BTreeMap::new();
        for (revision, products) in &self.seen {
            let at: Vec<u64> = (1..=*revision).rev().take(3).collect();
            assert_eq!(products.len(), at.len(), "at revision {revision}");
            for (at, product) in at.into_iter().zip(products) {
                match self.acknowledged.get(&at) {
                    Some(acknowledged) => assert_eq!(product, acknowledged, "at {at}"),
                    None => assert!(self.unknown.contains(product), "{product} at {at}"),
                }
                let before = applied.insert(at, product);
                assert!(before.is_none_or(|before| before == product), "at {at}");
            }
        }
        let distinct: BTreeSet<&str> = applied.values().copied().collect();
        assert_eq!(distinct.len(), applied.len(), "a command is there twice");
    }
}

async fn cut(live: Live) -> TestResult {
    let nodes = [live.pekko().await?, live.pekko().await?];
    let runtime = live.runtime().await?;
    hold_writes(&live).await?;
    let users = (0..USERS).map(async |index| {
        let key: UserKey = format!("mall-cut{index}").parse()?;
        let ours = runtime.user(&key);
        let mut outcomes = Outcomes::default();
        outcomes.merge(we_do(&ours, "first".to_owned()).await?);
        let options = restarting();
        let id = key.to_string();
        let actors = nodes
            .iter()
            .map(|node| node.start_with(&id, options.clone()));
        Ok::<_, AnyError>((ours, try_join_all(actors).await?, outcomes))
    });
    let mut users = try_join_all(users).await?;

    let mut ended = 0;
    for round in 0..ROUNDS {
        let done = AtomicBool::new(false);
        let writing = async {
            try_join_all(users.iter_mut().map(async |(ours, actors, outcomes)| {
                let by_pekko = actors.iter().enumerate().map(|(node, actor)| {
                    let product = format!("pekko-{round}-{node}");
                    pekko_does(actor, product, Sessions::of(round))
                });
                let by_us = (0..2).map(|caller| we_do(ours, format!("ours-{round}-{caller}")));
                let (by_pekko, by_us) =
                    tokio::try_join!(try_join_all(by_pekko), try_join_all(by_us))?;
                for part in by_pekko.into_iter().chain(by_us) {
                    outcomes.merge(part);
                }
                Ok::<_, AnyError>(())
            }))
            .await?;
            done.store(true, Ordering::Relaxed);
            Ok::<_, AnyError>(())
        };
        let holding = match Sessions::of(round) {
            Sessions::Cut => {
                let mut connection = live.database.connection().await?;
                connection.execute("SELECT pg_advisory_lock(1)").await?;
                Some(connection)
            }
            Sessions::Whole => None,
        };
        let cutting = async {
            match holding {
                Some(connection) => end_all_sessions(connection, &done).await,
                None => Ok(0),
            }
        };
        let ((), cut) = tokio::try_join!(writing, cutting)?;
        ended += cut;
    }
    assert!(ended > 0, "no session was cut");

    for (ours, _, outcomes) in &mut users {
        let rows = live.database.rows(ours.persistence_id().as_str()).await?;
        assert_eq!(rows.len(), 1);
        // Once more by both: whoever was cut off goes on.
        outcomes.merge(we_do(ours, "last".to_owned()).await?);
        outcomes.merge(look(ours).await?);
        let rows = live.database.rows(ours.persistence_id().as_str()).await?;
        outcomes.check(u64::try_from(rows[0].revision)?);
        let given = 2 + ROUNDS * 4;
        assert!(outcomes.acknowledged.len() * 2 > given, "most succeed");
    }
    Ok(())
}

/// Ends all other sessions while one of them is held between its write and its commit, a few times or until the round is
/// over, and then lets writes pass. How many it ended.
async fn end_all_sessions(
    mut connection: PgConnection,
    done: &AtomicBool,
) -> Result<i64, AnyError> {
    const TIMES: usize = 3;
    let query = "\
        SELECT count(pg_terminate_backend(pid))
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND NOT granted
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          )";
    let (mut times, mut all) = (0, 0);
    while times < TIMES && !done.load(Ordering::Relaxed) {
        let ended: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
        times += usize::from(ended > 0);
        all += ended;
    }
    connection.execute("SELECT pg_advisory_unlock(1)").await?;
    Ok(all)
}

/// From here on writes wait before they commit, while somebody holds the lock.
async fn hold_writes(live: &Live) -> TestResult {
    live.database
        .execute(
            "CREATE FUNCTION hold() RETURNS TRIGGER LANGUAGE plpgsql AS $$
             BEGIN
               PERFORM pg_advisory_xact_lock_shared(1);
               RETURN NULL;
             END $$;
             CREATE TRIGGER hold AFTER INSERT OR UPDATE ON durable_state
             FOR EACH ROW EXECUTE FUNCTION hold()",
        )
        .await
}

/// Our runtime views a product, again where that was surely not applied.
async fn we_do(user: &EntityRef<UserState>, product: String) -> Result<Outcomes, AnyError> {
    const ATTEMPTS_MAX: usize = 200;
    let mut outcomes = Outcomes::default();
    for _ in 0..ATTEMPTS_MAX {
        let view = UserCommand::ViewProduct {
            product_id: ProductId::new(&product),
            at: second(1),
        };
        match user.execute(view).await {
            Ok(revision) => {
                outcomes.acknowledge(number(revision), product);
                return Ok(outcomes);
            }
            Err(ExecuteError::Failed(RequestError::Conflict | RequestError::Unavailable(_))) => {}
            Err(ExecuteError::Failed(RequestError::Unknown)) => {
                outcomes.unknown.insert(product);
                return Ok(outcomes);
            }
            Err(error) => return Err(error.to_string().into()),
        }
    }
    Err(format!("{product} was not applied {ATTEMPTS_MAX} times").into())
}

/// What is stored.
async fn look(user: &EntityRef<UserState>) -> Result<Outcomes, AnyError> {
    let read = user.state_confirmed().await?;
    let products = read.state.recent_products.iter();
    Ok(Outcomes {
        seen: vec![(
            number(read.revision),
            products
                .map(|product| product.as_str().to_owned())
                .collect(),
        )],
        ..Outcomes::default()
    })
}

/// A Pekko actor views a product. An actor that was started anew does not tell whether its write was refused or cut off:
/// where nothing is cut it was refused, and is given again.
async fn pekko_does(
    actor: &PekkoActor,
    product: String,
    sessions: Sessions,
) -> Result<Outcomes, AnyError> {
    let mut outcomes = Outcomes::default();
    loop {
        match actor.view(&product, second(1)).await {
            Ok(seen) => {
                outcomes.acknowledge(seen.revision, product);
                let state = seen.state.ok_or("an actor without a state")?;
                outcomes.seen.push((seen.revision, state.recent_products));
                return Ok(outcomes);
            }
            Err(error) if was_started_anew(&error) => {
                if sessions == Sessions::Cut {
                    outcomes.unknown.insert(product);
                    return Ok(outcomes);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
