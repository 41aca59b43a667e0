//! The rules of a write in flight, one by one.

use chrono::DateTime;

use super::super::scene::{Got, Scene, change};
use super::*;
use crate::request::Request;
use crate::testing::database::refused;

#[test]
fn a_refused_write_fails_its_changes_with_the_reason_and_is_reported() {
    let mut scene = Scene::live(true);
    scene.ask(change());
    scene.ask(Request::Read);
    scene.cut();
    let error = RequestError::Refused(refused());
    let refusal = error.clone();
    let next = scene.call(|entity, around| entity.on_not_applied(refusal, around));
    assert!(matches!(next, Next::Drop(reads) if reads.len() == 1));
    assert_eq!(scene.got(), [(1, Got::Failed(error))]);
    let event = scene.out.published.pop();
    assert!(matches!(event, Some(LifecycleEvent::Failed { .. })));
}

#[test]
fn a_second_write_is_cut_when_the_first_has_landed() {
    let mut scene = Scene::live(false);
    scene.ask(change());
    assert!(scene.cut().is_some());
    scene.ask(change());
    assert!(scene.cut().is_none());
    scene.land(2);
    assert_eq!(scene.got(), [(1, Got::Done(2))]);
    assert_eq!(scene.cut().map(|write| write.commands), Some(1));
}

#[test]
fn nothing_is_handled_behind_a_deletion_before_it_is_durable() {
    let mut scene = Scene::live(false);
    scene.ask(Request::Delete(DateTime::UNIX_EPOCH));
    scene.ask(change());
    assert_eq!(scene.cut().map(|write| write.commands), Some(0));
    scene.call(Entity::on_cut);
    assert!(!scene.out.counted.contains(&Counter::Commands));
    scene.land(2);
    assert_eq!(scene.got(), [(1, Got::Deleted(2))]);
    assert!(scene.out.counted.contains(&Counter::Commands));
}

#[test]
fn a_conflict_fails_changes_and_reads_again_without_the_policy_to_retry() {
    let mut scene = Scene::live(false);
    scene.ask(change());
    scene.ask(Request::Delete(DateTime::UNIX_EPOCH));
    scene.ask(Request::Read);
    scene.cut();
    assert!(matches!(scene.call(Entity::on_conflict), Next::Load));
    assert_eq!(scene.got(), [(1, Got::Failed(RequestError::Conflict))]);
    assert!(scene.cut().is_none(), "what is lost is not written");
}

#[test]
fn a_conflict_is_handled_again_once() {
    let mut scene = Scene::live(true);
    scene.ask(change());
    for revision in [2, 3] {
        assert_eq!(scene.got(), []);
        scene.cut();
        scene.call(Entity::on_conflict);
        scene.recover(revision);
    }
    assert_eq!(scene.got(), [(1, Got::Failed(RequestError::Conflict))]);
}

#[test]
fn a_lost_answer_that_was_no_write_meets_no_other_writer() {
    let mut scene = Scene::live(true);
    scene.ask(change());
    scene.cut();
    scene.call(|entity, around| entity.on_unknown(RealTime::default(), around));
    assert!(matches!(
        scene.call(Entity::on_resolved_as_absent),
        Next::Load
    ));
    assert!(!scene.out.counted.contains(&Counter::Conflicts));
    scene.recover(1);
    scene.cut();
    scene.land(2);
    assert_eq!(scene.got(), [(1, Got::Done(2))]);
}

#[test]
fn an_outcome_that_stays_unknown_is_told_to_changes_only() {
    let mut scene = Scene::live(false);
    scene.ask(change());
    scene.ask(Request::Read);
    scene.cut();
    scene.call(|entity, around| entity.on_unknown(RealTime::default(), around));
    scene.call(Entity::on_lost);
    assert_eq!(scene.got(), [(1, Got::Failed(RequestError::Unknown))]);
    scene.recover(2);
    assert_eq!(scene.got(), [(2, Got::State(2))]);
}

#[test]
fn an_abandoned_write_closes_the_entity_until_it_is_resolved() {
    let mut scene = Scene::live(false);
    scene.ask(change());
    scene.cut();
    scene.call(|entity, around| entity.on_unknown(RealTime::default(), around));
    assert!(scene.entity.resolve_deadline().is_some());
    scene.call(Entity::abandon);
    assert_eq!(scene.entity.resolve_deadline(), None);
    scene.ask(Request::Read);
    let behind = Got::Failed(RequestError::behind_unresolved());
    let unknown = Got::Failed(RequestError::Unknown);
    assert_eq!(scene.got(), [(1, unknown), (2, behind)]);
    assert!(matches!(scene.land(2), Next::Drop(_)));
}
