//! Goal: what is an id, and its slice, entity type and entity id, are the same for Pekko and for us; where we refuse more
//! than Pekko, it is by one of the rules that we say we have.
//! Method: a hundred thousand random texts, full of what ids are made of and of what they must not be made of, are judged by
//! both. The outcomes are counted, so that a kind of text that never came is a failure.

use std::collections::BTreeMap;

use fastrand::Rng;
use user_state_interop::{AnyError, Case, IdJudgement, Serialization, StateClass, TestResult};
use user_state_store::{InvalidPersistenceId, PersistenceId, Slice};

use super::random::{character, seed};

const IDS: usize = 100_000;
const PAIRS: usize = 20_000;

/// Texts that go to Pekko together.
const TOGETHER: usize = 5_000;

/// The longest random text: some are beyond the 255 characters of the column.
const CHARACTERS_MAX: usize = 300;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::serialization("the_versions_that_run_are_those_of_the_profile", versions),
        Case::serialization(
            "a_hundred_thousand_texts_have_the_same_slice_and_are_the_same_ids",
            whole_ids,
        ),
        Case::serialization(
            "an_entity_type_and_an_entity_id_make_the_same_id_or_none",
            pairs,
        ),
    ]
}

async fn versions(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    let about: serde_json::Value = peer.peer().call("about", serde_json::json!({})).await?;
    assert_eq!(about["pekko"], given.profile().pekko_version());
    Ok(())
}

async fn whole_ids(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    let mut random = Rng::with_seed(seed());
    let mut outcomes = BTreeMap::new();
    for _ in 0..IDS / TOGETHER {
        let ids: Vec<String> = (0..TOGETHER).map(|_| text(&mut random)).collect();
        let judgements = peer.ids(&ids).await?;
        assert_eq!(judgements.len(), TOGETHER);
        for (id, pekko) in ids.iter().zip(&judgements) {
            *outcomes.entry(compare(id, pekko)?).or_insert(0) += 1;
        }
    }
    let kinds = [
        "blank by Unicode",
        "blank for both",
        "control character",
        "incomplete replication id",
        "the same id",
        "too long",
    ];
    assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), kinds);
    assert!(outcomes["the same id"] > IDS / 4, "{outcomes:?}");
    Ok(())
}

/// What a text is. An error where the two differ in another way than we say.
fn compare(id: &str, pekko: &IdJudgement) -> Result<&'static str, AnyError> {
    let differ = || format!("seed {}: {id:?} is {pekko:?} for Pekko", seed());
    if Slice::of(id).get() != pekko.slice {
        return Err(differ().into());
    }
    let ours = match PersistenceId::unique(id) {
        Ok(ours) => ours,
        Err(refused) => {
            let kind = match refused {
                InvalidPersistenceId::Blank if pekko.unique.is_err() => Some("blank for both"),
                // Java trims what is not above U+0020.
                InvalidPersistenceId::Blank => (id.chars().all(char::is_whitespace)
                    && id.chars().any(|c| c > ' '))
                .then_some("blank by Unicode"),
                // What PostgreSQL would refuse, and for Pekko fails at the first write.
                InvalidPersistenceId::TooLong { characters } => {
                    (characters > 255).then_some("too long")
                }
                InvalidPersistenceId::ControlCharacter => id
                    .chars()
                    .any(char::is_control)
                    .then_some("control character"),
                InvalidPersistenceId::IncompleteReplicationId => (pekko.entity_type.is_err()
                    && pekko.entity_id.is_err())
                .then_some("incomplete replication id"),
                _ => None,
            };
            return kind.ok_or_else(|| differ().into());
        }
    };
    let same = pekko.unique.as_deref() == Ok(id)
        && pekko.entity_type.as_deref() == Ok(ours.entity_type())
        && pekko.entity_id.as_deref() == Ok(ours.entity_id());
    same.then_some("the same id").ok_or_else(|| differ().into())
}

async fn pairs(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    let mut random = Rng::with_seed(seed() + 1);
    let (mut made, mut refused) = (0, 0);
    for _ in 0..PAIRS / TOGETHER {
        let pairs: Vec<(String, String)> = (0..TOGETHER)
            .map(|_| (part(&mut random), part(&mut random)))
            .collect();
        let answers = peer.id_pairs(&pairs).await?;
        assert_eq!(answers.len(), TOGETHER);
        for ((entity_type, entity_id), pekko) in pairs.iter().zip(answers) {
            let ours = PersistenceId::of(entity_type, entity_id);
            let which = format!("seed {}: {entity_type:?}, {entity_id:?}", seed() + 1);
            match (ours, pekko) {
                (Ok(ours), Ok(pekko)) => {
                    assert_eq!(ours.as_str(), pekko, "{which}");
                    made += 1;
                }
                (Err(_), Err(_)) => refused += 1,
                // Our own rules, that the other case looks at.
                (
                    Err(
                        InvalidPersistenceId::ControlCharacter
                        | InvalidPersistenceId::TooLong { .. },
                    ),
                    Ok(_),
                ) => {}
                (ours, pekko) => panic!("{which}: {ours:?} here, {pekko:?} for Pekko"),
            }
        }
    }
    assert!(
        made > PAIRS / 10 && refused > PAIRS / 10,
        "{made} and {refused}"
    );
    Ok(())
}

/// A text that may be an id.
fn text(random: &mut Rng) -> String {
    if random.u8(..50) == 0 {
        // Nothing to see: each is white space for somebody.
        let spaces = [' ', '\u{a0}', '\u{3000}', '\t', '\u{1f}'];
        return (0..random.usize(..4))
            .map(|_| spaces[random.usize(..spaces.len())])
            .collect();
    }
    let length = match random.u8(..10) {
        0 => random.usize(240..=CHARACTERS_MAX),
        1..4 => random.usize(..6),
        _ => random.usize(6..30),
    };
    let wild = random.bool();
    (0..length).map(|_| of_an_id(random, wild)).collect()
}

fn of_an_id(random: &mut Rng, wild: bool) -> char {
    match random.u8(..12) {
        0 => '|',
        1 => '-',
        2..8 => random.alphanumeric(),
        8 => random.char('가'..='힣'),
        9 => random.char('\u{1f600}'..='\u{1f64f}'),
        _ if wild => character(random),
        _ => random.lowercase(),
    }
}

/// An entity type or id, with a separator only sometimes.
fn part(random: &mut Rng) -> String {
    let length = random.usize(..12);
    (0..length)
        .map(|_| match random.u8(..24) {
            0 => '|',
            1 => '-',
            2 => ' ',
            _ => character(random),
        })
        .collect()
}
