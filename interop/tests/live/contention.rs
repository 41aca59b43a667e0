//! Goal: where both sides write the same users at the same time, over and over, no acknowledged command is lost, the
//! loser recovers and goes on, and no user ever has two rows.
//!
//! Method: rounds. In each, our runtime with two callers and Pekko's actors, on one node or on two, get one command each
//! for every user, all at once; a command that surely was not applied is given again. What both acknowledged, and what
//! both showed meanwhile, is judged by [`History`]. A trigger in the database keeps every revision and time that the
//! table ever held.

use fastrand::Rng;
use futures_util::future::try_join_all;
use user_state_domain::{UserKey, UserState};
use user_state_interop::{AnyError, Case, Live, PekkoActor, PekkoNode, TestResult};
use user_state_runtime::{EntityRef, Runtime};

use super::history::{self, History};
use super::user::restarting;
use crate::serialization::random::seed;

const USERS: usize = 8;

const ROUNDS: usize = 8;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "no_command_acknowledged_by_one_of_us_or_a_pekko_node_is_lost_while_both_write",
            |live| both_write(live, 1, Begin::Written),
        ),
        Case::live(
            "no_command_acknowledged_by_one_of_us_or_two_pekko_nodes_is_lost_while_all_write",
            |live| both_write(live, 2, Begin::Written),
        ),
        Case::live(
            "with_the_unique_index_also_users_that_all_create_at_once_keep_one_row_and_every_command",
            |live| both_write(live, 2, Begin::Absent),
        ),
    ]
}

/// What is there when everybody begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// A row, written by Pekko for some users and by us for the others.
    Written,
    /// Nothing. Without the unique index, Pekko may then add a second row: see the scenario of creations.
    Absent,
}

/// A user and all who write it.
struct Writers {
    ours: EntityRef<UserState>,
    actors: Vec<PekkoActor>,
    history: History,
    random: Rng,
    pekko_lost: u32,
}

async fn both_write(live: Live, nodes: usize, begin: Begin) -> TestResult {
    keep_every_version(&live).await?;
    if begin == Begin::Absent {
        live.database.create_unique_index().await?;
    }
    let nodes: Vec<PekkoNode> = try_join_all((0..nodes).map(|_| live.pekko())).await?;
    let runtime = live.runtime().await?;
    let users = (0..USERS).map(|index| writers(&nodes, &runtime, index, begin));
    let mut users = try_join_all(users).await?;
    for _ in 0..ROUNDS {
        try_join_all(users.iter_mut().map(round)).await?;
    }

    for user in &users {
        let id = user.ours.persistence_id().as_str();
        let state = user.history.check()?;
        let rows = live.database.rows(id).await?;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(u64::try_from(rows[0].revision)?, user.history.last());
        let stored = nodes[0].load(id).await?;
        assert_eq!(stored.state, Some(state));
        assert!(user.pekko_lost > 0, "{id} met no conflict of Pekko's");
    }
    assert!(runtime.stats().conflicts > 0, "we met no conflict");
    only_forward(&live).await
}

/// A user, ready to be written by all: everybody knows what is there, or that nothing is.
async fn writers(
    nodes: &[PekkoNode],
    runtime: &Runtime<UserState>,
    index: usize,
    begin: Begin,
) -> Result<Writers, AnyError> {
    let mut random = Rng::with_seed(seed().wrapping_add(u64::try_from(index)?));
    let key: UserKey = format!("mall-user{index}").parse()?;
    let ours = runtime.user(&key);
    let mut history = History::new(&key);
    let first = history::command(&mut random);
    match begin {
        Begin::Written if index.is_multiple_of(2) => history.we_do(&ours, first).await?,
        Begin::Written => {
            let actor = nodes[0].start(&key.to_string()).await?;
            history.pekko_does(&actor, first).await?;
            actor.stop().await?;
        }
        Begin::Absent => {}
    }
    history.we_showed(&ours.state().await?);
    let options = restarting();
    let id = key.to_string();
    let actors = nodes
        .iter()
        .map(|node| node.start_with(&id, options.clone()));
    Ok(Writers {
        ours,
        actors: try_join_all(actors).await?,
        history,
        random,
        pekko_lost: 0,
    })
}

/// One command by everybody at the same time, while our runtime and Pekko's store are read.
async fn round(user: &mut Writers) -> TestResult {
    let Writers {
        ours,
        actors,
        history,
        random,
        pekko_lost,
    } = user;
    let apart = history.apart();
    let mut part = || (apart.clone(), history::command(random));
    let by_pekko: Vec<_> = actors.iter().map(|actor| (actor, part())).collect();
    let by_us = [part(), part()];
    let by_pekko = by_pekko
        .into_iter()
        .map(async |(actor, (mut history, command))| {
            let lost = history.pekko_does(actor, command).await?;
            history.pekko_showed(actor.get().await?);
            Ok::<_, AnyError>((history, lost))
        });
    let by_us = by_us.into_iter().map(async |(mut history, command)| {
        history.we_do(ours, command).await?;
        history.we_showed(&ours.state_confirmed().await?);
        Ok::<_, AnyError>(history)
    });
    let (by_pekko, by_us) = tokio::try_join!(try_join_all(by_pekko), try_join_all(by_us))?;
    for (by_pekko, lost) in by_pekko {
        history.merge(by_pekko);
        *pekko_lost += lost;
    }
    for by_us in by_us {
        history.merge(by_us);
    }
    Ok(())
}

/// From here on, the database keeps what each write to the table left, in the order in which it was done.
async fn keep_every_version(live: &Live) -> TestResult {
    live.database
        .execute(
            "CREATE TABLE version (
               number BIGSERIAL PRIMARY KEY,
               persistence_id TEXT NOT NULL,
               revision BIGINT NOT NULL,
               db_timestamp TIMESTAMPTZ NOT NULL
             );
             CREATE FUNCTION keep_version() RETURNS TRIGGER LANGUAGE plpgsql AS $$
             BEGIN
               INSERT INTO version (persistence_id, revision, db_timestamp)
               VALUES (NEW.persistence_id, NEW.revision, NEW.db_timestamp);
               RETURN NULL;
             END $$;
             CREATE TRIGGER keep_version AFTER INSERT OR UPDATE ON durable_state
             FOR EACH ROW EXECUTE FUNCTION keep_version()",
        )
        .await
}

/// Checks that revisions and times of every user only ever went up.
async fn only_forward(live: &Live) -> TestResult {
    let query = "\
        SELECT count(*) FILTER (WHERE revision <= revision_before OR db_timestamp <= db_timestamp_before),
               count(*) FILTER (WHERE revision_before IS NOT NULL)
        FROM (
          SELECT revision, lag(revision) OVER written AS revision_before,
                 db_timestamp, lag(db_timestamp) OVER written AS db_timestamp_before
          FROM version
          WINDOW written AS (PARTITION BY persistence_id ORDER BY number)
        ) AS versions";
    let mut connection = live.database.connection().await?;
    let (backward, followed): (i64, i64) = sqlx::query_as(query).fetch_one(&mut connection).await?;
    assert_eq!(backward, 0, "of {followed} writes behind another");
    assert!(followed > 0);
    Ok(())
}
