//! The rules of an entity, one by one.

use std::collections::VecDeque;

use super::scene::{Got, Scene, change, command, stamp};
use super::*;
use crate::request::Request;
use crate::testing::database::refused;
use crate::testing::ledger::Does;

#[test]
fn a_command_is_answered_when_its_revision_is_durable_and_not_before() {
    let mut scene = Scene::live(false);
    scene.ask(change());
    assert_eq!(scene.got(), []);
    assert!(scene.cut().is_some());
    assert_eq!(scene.got(), []);
    scene.land(2);
    assert_eq!(scene.got(), [(1, Got::Done(2))]);
    assert!(scene.entity.is_idle());
}

#[test]
fn a_read_of_a_durable_state_is_answered_at_once_and_behind_a_change_with_it() {
    let mut scene = Scene::live(false);
    scene.ask(Request::Read);
    assert_eq!(scene.got(), [(1, Got::State(1))]);
    scene.ask(change());
    scene.ask(Request::Read);
    assert_eq!(scene.got(), []);
    scene.cut();
    scene.land(2);
    assert_eq!(scene.got(), [(2, Got::Done(2)), (3, Got::State(2))]);
}

#[test]
fn what_is_asked_during_a_load_is_handled_behind_it_in_order() {
    let mut scene = Scene::loading(false);
    scene.ask(Request::Read);
    scene.ask(command(Does::Reject));
    assert_eq!((scene.got(), scene.entity.open_requests()), (vec![], 2));
    scene.recover(3);
    assert_eq!(scene.got(), [(1, Got::State(3)), (2, Got::Rejected)]);
}

#[test]
fn a_creation_is_cut_before_the_second_command() {
    let mut scene = Scene::loading(false);
    scene.recover(0);
    scene.ask(change());
    scene.ask(change());
    assert_eq!(scene.cut().map(|write| write.commands), Some(1));
    scene.call(Entity::on_cut);
    scene.land(1);
    assert_eq!(scene.cut().map(|write| write.commands), Some(1));
}

#[test]
fn a_request_to_leave_waits_for_changes_and_takes_those_behind_it_along() {
    let mut scene = Scene::live(false);
    scene.ask(change());
    scene.ask(Request::Passivate);
    scene.ask(Request::Read);
    scene.cut();
    let Next::Leave { reason, others, .. } = scene.land(2) else {
        panic!("it leaves when it is durable");
    };
    assert_eq!(reason, PassivationReason::Requested);
    assert_eq!(others.len(), 1);
}

#[test]
fn a_late_message_does_not_make_an_entity_older() {
    let mut scene = Scene::live(false);
    let now = Moment::ORIGIN + std::time::Duration::from_mins(1);
    scene.entity.touch(now);
    scene.entity.touch(Moment::ORIGIN);
    assert_eq!(scene.entity.touched(), now);
}

#[test]
fn a_failed_load_fails_those_that_wait_and_the_entity_leaves() {
    let mut scene = Scene::loading(false);
    scene.ask(Request::Read);
    let failed = Err(RequestError::Panicked);
    let next = scene.call(|entity, around| entity.on_recovered(failed, around));
    assert!(matches!(next, Next::Drop(others) if others.is_empty()));
    assert_eq!(scene.got(), [(1, Got::Failed(RequestError::Panicked))]);
    assert_eq!(scene.out.published.len(), 1, "the failure is reported");
}

#[test]
fn a_confirmed_read_shows_what_the_database_holds_and_the_next_write_follows_it() {
    let mut scene = Scene::live(false);
    assert!(matches!(scene.ask(Request::Confirm), Next::Load));
    scene.recover(4);
    assert_eq!(scene.got(), [(1, Got::State(4))]);
    scene.ask(change());
    assert_eq!(scene.cut().map(|write| write.expected), Some(stamp(4)));
}

#[test]
fn a_row_that_cannot_be_read_is_not_written_over_from_memory() {
    let mut scene = Scene::live(false);
    scene.ask(Request::Confirm);
    scene.ask(change());
    let unreadable = RequestError::Unreadable(refused());
    let failed = Err(unreadable.clone());
    let next = scene.call(|entity, around| entity.on_recovered(failed, around));
    assert!(matches!(next, Next::Drop(_)));
    let failed = Got::Failed(unreadable);
    assert_eq!(scene.got(), [(1, failed.clone()), (2, failed)]);
}

#[test]
fn a_request_to_leave_outlives_a_failed_reload() {
    let mut scene = Scene::live(true);
    scene.ask(change());
    scene.ask(Request::Leave(PassivationReason::Idle));
    scene.cut();
    scene.call(Entity::on_conflict);
    let failed = Err(RequestError::Unavailable(refused()));
    let next = scene.call(|entity, around| entity.on_recovered(failed, around));
    assert!(matches!(next, Next::Drop(leaves) if leaves.len() == 1));
}

#[test]
fn at_the_end_only_a_change_that_was_sent_is_unknown() {
    let mut scene = Scene::live(true);
    scene.ask(change());
    scene.ask(Request::Read);
    scene.cut();
    scene.ask(change());
    scene.ask(Request::Passivate);
    scene.call(Entity::give_up);
    let errors: VecDeque<_> = scene.got().into_iter().map(|(_, got)| got).collect();
    let closed = Got::Failed(RequestError::Closed);
    let unknown = Got::Failed(RequestError::Unknown);
    assert_eq!(errors, [unknown, closed.clone(), closed.clone(), closed]);
}
