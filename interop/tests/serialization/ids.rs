//! Goal: what is an id, and its slice, entity type and entity id, are the same for Pekko and for us.
//! Method: random texts, full of what ids are made of and of what they must not be made of, are judged by both.

use user_state_interop::{Case, Serialization, StateClass, TestResult};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::serialization(
        "the_versions_that_run_are_those_of_the_profile",
        versions,
    )]
}

async fn versions(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    let about: serde_json::Value = peer.peer().call("about", serde_json::json!({})).await?;
    assert_eq!(about["pekko"], given.profile().pekko_version());
    Ok(())
}
