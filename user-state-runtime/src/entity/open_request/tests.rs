//! The rules of an open request, one by one.

use chrono::DateTime;

use super::super::scene::{Recorder, Scene, change};
use super::*;
use crate::testing::ledger::Ledger;

fn held(scene: &mut Scene, request: Request<Ledger>) -> HeldAnswer<Recorder> {
    let answer = match &request {
        Request::Execute(_) => Answer::Done,
        Request::Delete(_) => Answer::Deleted,
        _ => Answer::State(Box::default()),
    };
    let request = scene.open(request);
    request.hold(Revision::FIRST, answer, &mut scene.desk.counts)
}

fn again(held: HeldAnswer<Recorder>, undo: Undo, retries: bool) -> bool {
    matches!(held.undo(undo, retries), Retry::Again(_))
}

#[test]
fn a_barrier_waits_for_requests_until_they_are_handled() {
    let mut scene = Scene::live(false);
    let early = scene.open(change());
    scene.desk.counts.next_epoch();
    let late = scene.open(change());
    assert!(!scene.desk.counts.earlier_are_handled());
    let counts = &mut scene.desk.counts;
    let _late = late.hold(Revision::FIRST, Answer::Done, counts);
    assert!(!counts.earlier_are_handled(), "not by one of a later epoch");
    let _early = early.hold(Revision::FIRST, Answer::Done, counts);
    assert!(counts.earlier_are_handled());
    assert_eq!(counts.open(), 2, "they are open until they are answered");
}

#[test]
fn a_deletion_is_made_again_only_if_the_policy_retries() {
    let mut scene = Scene::live(false);
    for retries in [false, true] {
        let deletion = held(&mut scene, Request::Delete(DateTime::UNIX_EPOCH));
        assert_eq!(again(deletion, Undo::Everything, retries), retries);
    }
}

#[test]
fn a_refused_write_takes_its_changes_along_and_no_reads() {
    let mut scene = Scene::live(true);
    for (request, expected) in [(change(), false), (Request::Read, true)] {
        let held = held(&mut scene, request);
        assert_eq!(again(held, Undo::Changes, true), expected);
    }
}

#[test]
fn overload_is_counted_apart_from_failures() {
    let mut scene = Scene::live(false);
    for error in [RequestError::Overloaded, RequestError::Closed] {
        let request = scene.open(change());
        scene.call(|_, around| request.fail(error, around));
    }
    let counted = [Counter::Overloaded, Counter::Failed];
    assert!(scene.out.counted.ends_with(&counted));
    assert_eq!(scene.desk.counts.open(), 0);
}
