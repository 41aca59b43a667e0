//! The rules of a shard's core, one by one.

use std::time::Duration;

use chrono::DateTime;

use super::*;
use crate::effects::Counter;
use crate::shard::simulation::callers::Asks;
use crate::shard::simulation::player::Player;
use crate::shard::simulation::schedule::Setup;
use crate::shard::simulation::world::Work;
use crate::testing::database::Deletes;

/// A shard with room for so many entities.
fn shard(live_entities_max: usize) -> Player {
    let limits = Limits {
        live_entities_max,
        entity_requests_max: 2,
        admission_requests_max: 1,
        shard_requests_max: 8,
        ..Limits::default()
    };
    let setup = Setup {
        limits,
        entities: 4,
        retries: true,
        deletes: Deletes::Reset,
        faults: 0,
    };
    Player::new(setup, false)
}

fn read(player: &mut Player, id: &str) {
    ask(player, id, Request::Read, Asks::Read);
}

fn ask(
    player: &mut Player,
    id: &str,
    request: Request<crate::testing::ledger::Ledger>,
    asks: Asks,
) {
    let world = &mut player.world;
    let ticket = world.callers.next_ticket();
    let id = id.to_owned();
    world.callers.ask(ticket, &id, asks, &mut world.database);
    player.feed(Input::Mail(&mut vec![Mail::Request(Message {
        persistence_id: PersistenceId::unique(&id).unwrap(),
        accepted_at: player.world.clock,
        request,
        ticket,
    })]));
}

/// Finishes everything that is outstanding.
fn finish(player: &mut Player) {
    let mut dice = fastrand::Rng::with_seed(0);
    while !player.world.work.is_empty() || player.step == Step::LetReturn {
        if player.step == Step::LetReturn {
            player.feed(Input::NobodyReturned);
        } else {
            player.finish_work(&mut dice, 0);
        }
    }
}

fn counted(player: &Player, counter: Counter) -> u64 {
    player.world.books.counted(counter)
}

#[test]
fn an_entity_is_loaded_once_for_all_that_ask_during_its_load() {
    let mut player = shard(4);
    read(&mut player, "mall-a");
    read(&mut player, "mall-a");
    assert!(matches!(player.world.work.as_slice(), [Work::Recover(_)]));
    finish(&mut player);
    assert!(player.world.callers.open.is_empty());
    assert_eq!(counted(&player, Counter::Recovered), 1);
}

#[test]
fn beyond_its_limit_an_entity_refuses_requests() {
    let mut player = shard(4);
    for _ in 0..3 {
        read(&mut player, "mall-a");
    }
    assert_eq!(counted(&player, Counter::Overloaded), 1);
    assert_eq!(player.world.callers.open.len(), 2);
}

#[test]
fn the_least_recent_idle_entity_makes_room() {
    let mut player = shard(2);
    for id in ["mall-a", "mall-b", "mall-a", "mall-c"] {
        read(&mut player, id);
        finish(&mut player);
    }
    let is_live = |id| {
        let id = PersistenceId::unique(id).unwrap();
        player.core.entities.key_of(&id).is_some()
    };
    assert_eq!(
        ["mall-a", "mall-b", "mall-c"].map(is_live),
        [true, false, true]
    );
}

#[test]
fn requests_wait_for_room_in_order_and_up_to_their_limit() {
    let mut player = shard(1);
    for id in ["mall-a", "mall-b", "mall-c"] {
        read(&mut player, id);
    }
    assert_eq!(counted(&player, Counter::Overloaded), 1, "one waits");
    finish(&mut player);
    assert!(player.world.callers.open.is_empty());
    assert_eq!(counted(&player, Counter::Reads), 2);
}

#[test]
fn callers_that_were_answered_are_let_back_in_before_anything_else() {
    let mut player = shard(4);
    read(&mut player, "mall-a");
    let mut dice = fastrand::Rng::with_seed(0);
    player.finish_work(&mut dice, 0);
    assert_eq!(player.step, Step::LetReturn);
    player.feed(Input::NobodyReturned);
    assert_eq!(player.step, Step::Wait);
}

#[test]
fn a_barrier_is_passed_when_what_was_due_has_left() {
    let mut player = shard(4);
    read(&mut player, "mall-a");
    player.barrier(Duration::from_hours(1));
    assert_eq!(player.world.barriers.len(), 1, "its entity is being loaded");
    finish(&mut player);
    assert!(player.world.barriers.is_empty());
    assert_eq!(player.core.entities.len(), 0);
}

#[test]
fn a_deletion_of_what_is_not_stored_writes_nothing() {
    let mut player = shard(4);
    ask(
        &mut player,
        "mall-a",
        Request::Delete(DateTime::UNIX_EPOCH),
        Asks::Delete,
    );
    finish(&mut player);
    assert_eq!(counted(&player, Counter::Batches), 0);
    assert!(player.world.callers.open.is_empty());
}

#[test]
fn when_time_is_over_everybody_is_answered() {
    let mut player = shard(4);
    read(&mut player, "mall-a");
    player.world.books.shuts_down = true;
    let until = player.world.now;
    player.feed(Input::ShutDown { until });
    assert_eq!(player.core.real_deadline(), Some(until));
    player.feed(Input::RealTimeReached);
    assert_eq!(player.step, Step::Finished);
    assert!(player.world.callers.open.is_empty());
}
