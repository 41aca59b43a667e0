//! Slices and entity types are those that Pekko computes, for each of 2,000 ids.
//!
//! `fixtures/pekko/slices.jsonl` has what Pekko said. Some of its ids are none here: they are counted by the reason of the
//! refusal, so that no line is passed over.

use std::collections::BTreeMap;

use serde_json::Value;
use user_state_store::{InvalidPersistenceId, PersistenceId, Slice};

const LINES: &str = include_str!("fixtures/pekko/slices.jsonl");

#[test]
fn slice_and_entity_type_of_every_id_are_those_of_pekko() {
    let mut counts = BTreeMap::new();
    for line in LINES.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = line["persistence_id"].as_str().unwrap();
        assert_eq!(line["slice"], Slice::of(text).get(), "{text:?}");
        let refused_by_pekko = line["entity_type"].is_null();
        let handled = match PersistenceId::unique(text) {
            Ok(id) => {
                assert_eq!(
                    Some(id.entity_type()),
                    line["entity_type"].as_str(),
                    "{text:?}"
                );
                assert_eq!(id.slice(), Slice::of(text));
                "an id"
            }
            Err(InvalidPersistenceId::IncompleteReplicationId) => {
                assert!(refused_by_pekko, "{text:?}");
                "refused by Pekko too"
            }
            Err(InvalidPersistenceId::Blank) => "blank",
            Err(other) => unreachable!("{text:?}: {other}"),
        };
        assert_eq!(
            refused_by_pekko,
            handled == "refused by Pekko too",
            "{text:?}"
        );
        *counts.entry(handled).or_insert(0) += 1;
    }
    let expected = [("an id", 1_995), ("blank", 1), ("refused by Pekko too", 4)];
    assert_eq!(counts, BTreeMap::from(expected));
}
