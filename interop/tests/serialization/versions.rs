//! Goal: versions of the class that stand in manifests are understood both ways: Pekko's migration reads our old rows, we
//! read Pekko's new ones, and the other way round.
//! Method: version 2 of the class has `optedIn` in place of `marketingOptIn` and counts `visits`. A Pekko with version 1,
//! one with version 1 that supports version 2, and one with version 2 exchange random states with our mappings of either
//! version, as JSON and as CBOR.

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use user_state_domain::UserState;
use user_state_interop::{
    Case, Form, LocalTime, Serialization, State, StateClass, TestResult, WirePayload, accepted,
};
use user_state_store::{
    DecodeError, JacksonMigration, PayloadFormat, PersistenceId, SerdeMapping, StateMapping,
    UserStateMapping,
};

use super::java_time::java_text;
use super::random::{our_state, pekko_state, seed, without_surplus};

const STATES: usize = 1_000;
const CLASS: &str = "com.example.persistdurable.model.UserState";
const CLASS_TWO: &str = "com.example.persistdurable.model.UserState#2";
const FORMS: [(Form, PayloadFormat); 2] = [
    (Form::Json, PayloadFormat::Json),
    (Form::Cbor, PayloadFormat::Cbor),
];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::serialization(
            "rows_of_version_one_from_here_are_read_by_pekkos_migration",
            our_one_their_two,
        ),
        Case::serialization(
            "rows_of_version_two_from_pekko_are_read_here_by_a_downcast",
            their_two_our_one,
        ),
        Case::serialization(
            "rows_of_version_two_from_here_are_read_by_pekko_of_either_version",
            our_two_their_both,
        ),
        Case::serialization(
            "rows_of_version_one_from_pekko_are_read_here_by_an_upcast",
            their_one_our_two,
        ),
        Case::serialization(
            "a_newer_version_is_a_typed_error_here_and_as_pekko_reads_it_only_where_it_is_said",
            newer_unknown,
        ),
    ]
}

/// Version 2 as it goes to and from Pekko.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StateTwo {
    mall_id: String,
    user_id: String,
    last_login: Option<LocalTime>,
    last_cart_used_time: Option<LocalTime>,
    recent_products: Vec<String>,
    opted_in: bool,
    last_event_time: Option<LocalTime>,
    visits: i32,
}

impl StateTwo {
    fn of(state: &State, visits: i32) -> Self {
        let state = state.clone();
        Self {
            mall_id: state.mall_id,
            user_id: state.user_id,
            last_login: state.last_login,
            last_cart_used_time: state.last_cart_used_time,
            recent_products: state.recent_products,
            opted_in: state.marketing_opt_in,
            last_event_time: state.last_event_time,
            visits,
        }
    }

    fn to_one(&self) -> State {
        let state = self.clone();
        State {
            mall_id: state.mall_id,
            user_id: state.user_id,
            last_login: state.last_login,
            last_cart_used_time: state.last_cart_used_time,
            recent_products: state.recent_products,
            marketing_opt_in: state.opted_in,
            last_event_time: state.last_event_time,
        }
    }
}

/// Version 2 as an aggregate of ours whose stored form it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredTwo {
    mall_id: String,
    user_id: String,
    last_login: Option<String>,
    last_cart_used_time: Option<String>,
    recent_products: Vec<String>,
    opted_in: bool,
    last_event_time: Option<String>,
    visits: i32,
}

impl StoredTwo {
    fn of(state: &StateTwo) -> Self {
        let time = |at: Option<LocalTime>| at.map(|LocalTime(at)| java_text(at));
        let state = state.clone();
        Self {
            mall_id: state.mall_id,
            user_id: state.user_id,
            last_login: time(state.last_login),
            last_cart_used_time: time(state.last_cart_used_time),
            recent_products: state.recent_products,
            opted_in: state.opted_in,
            last_event_time: time(state.last_event_time),
            visits: state.visits,
        }
    }
}

/// Renames a field of a document, whatever holds it.
fn rename(document: &mut Value, from: &str, to: &str) -> Result<(), &'static str> {
    let fields = document.as_object_mut().ok_or("not an object")?;
    let value = fields.remove(from).ok_or("a field is missing")?;
    fields.insert(to.to_owned(), value);
    Ok(())
}

/// Our mapping of version 1, which supports version 2.
fn supporting_two(format: PayloadFormat) -> UserStateMapping {
    let migration =
        JacksonMigration::new().downcast(|document| rename(document, "optedIn", "marketingOptIn"));
    UserStateMapping::new().format(format).migration(migration)
}

/// Our mapping of version 2, which reads version 1.
fn two(format: PayloadFormat) -> SerdeMapping<StoredTwo> {
    let migration = JacksonMigration::new().upcast(|document| {
        rename(document, "marketingOptIn", "optedIn")?;
        let fields = document.as_object_mut().ok_or("not an object")?;
        fields.insert("visits".to_owned(), json!(1));
        Ok(())
    });
    SerdeMapping::new(CLASS).format(format).migration(migration)
}

fn id_of(state: &State) -> Result<PersistenceId, user_state_store::InvalidPersistenceId> {
    PersistenceId::unique(&format!("{}-{}", state.mall_id, state.user_id))
}

async fn our_one_their_two(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::Two)?;
    for (_, format) in FORMS {
        let mut random = Rng::with_seed(seed());
        let mapping = UserStateMapping::new().format(format);
        let (mut payloads, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..STATES {
            let (key, state) = our_state(&mut random)?;
            let payload = mapping.encode(&PersistenceId::from(&key), &state)?;
            assert_eq!(payload.manifest.as_str(), CLASS);
            payloads.push(WirePayload::from(&payload));
            expected.push(StateTwo::of(&State::of(&key, &state), 1));
        }
        let read: Vec<StateTwo> = accepted(peer.deserialize(&payloads).await?)?;
        assert!(read == expected, "{format:?}, seed {}", seed());
    }
    Ok(())
}

async fn their_two_our_one(given: Serialization) -> TestResult {
    let (two, forward) = (
        given.peer(StateClass::Two)?,
        given.peer(StateClass::OneForward)?,
    );
    for (form, format) in FORMS {
        let mut random = Rng::with_seed(seed());
        let states = random_twos(&mut random)?;
        let written = accepted(two.serialize(form, &states).await?)?;
        let theirs: Vec<State> = accepted(forward.deserialize(&written).await?)?;
        for (index, state) in states.iter().enumerate() {
            let which = format!("state {index} as {format:?}, seed {}", seed());
            let one = state.to_one();
            let payload = written[index].decode()?;
            assert_eq!(payload.manifest.as_str(), CLASS_TWO, "{which}");
            let read: UserState = supporting_two(format).decode(&id_of(&one)?, &payload)?;
            assert_eq!(read, without_surplus(&one).to_user_state(), "{which}");
            assert_eq!(theirs[index], one, "{which}");
        }
    }
    Ok(())
}

async fn our_two_their_both(given: Serialization) -> TestResult {
    let (newer, forward) = (
        given.peer(StateClass::Two)?,
        given.peer(StateClass::OneForward)?,
    );
    for (_, format) in FORMS {
        let mut random = Rng::with_seed(seed());
        let states = random_twos(&mut random)?;
        let mut payloads = Vec::new();
        for state in &states {
            let payload = two(format).encode(&id_of(&state.to_one())?, &StoredTwo::of(state))?;
            assert_eq!(payload.manifest.as_str(), CLASS_TWO);
            payloads.push(WirePayload::from(&payload));
        }
        let read: Vec<StateTwo> = accepted(newer.deserialize(&payloads).await?)?;
        assert!(read == states, "{format:?}, seed {}", seed());
        let read: Vec<State> = accepted(forward.deserialize(&payloads).await?)?;
        let ones: Vec<State> = states.iter().map(StateTwo::to_one).collect();
        assert!(read == ones, "{format:?}, seed {}", seed());
    }
    Ok(())
}

async fn their_one_our_two(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    for (form, format) in FORMS {
        let mut random = Rng::with_seed(seed());
        let states = (0..STATES)
            .map(|_| pekko_state(&mut random))
            .collect::<Result<Vec<_>, _>>()?;
        let written = accepted(peer.serialize(form, &states).await?)?;
        for (index, state) in states.iter().enumerate() {
            let which = format!("state {index} as {format:?}, seed {}", seed());
            let payload = written[index].decode()?;
            assert_eq!(payload.manifest.as_str(), CLASS, "{which}");
            let read = two(format).decode(&id_of(state)?, &payload)?;
            assert_eq!(read, StoredTwo::of(&StateTwo::of(state, 1)), "{which}");
        }
    }
    Ok(())
}

async fn newer_unknown(given: Serialization) -> TestResult {
    let (newer, older) = (given.peer(StateClass::Two)?, given.peer(StateClass::One)?);
    for (form, format) in FORMS {
        let mut random = Rng::with_seed(seed());
        let states = random_twos(&mut random)?;
        let written = accepted(newer.serialize(form, &states).await?)?;
        // Without a migration Pekko ignores the version: what it does not know is lost, the opt-in is the default.
        let theirs: Vec<State> = accepted(older.deserialize(&written).await?)?;
        let mapping = UserStateMapping::new().format(format);
        let as_pekko = mapping
            .clone()
            .migration(JacksonMigration::new().downcast_unchanged());
        for (index, state) in states.iter().enumerate() {
            let which = format!("state {index} as {format:?}, seed {}", seed());
            let (id, payload) = (id_of(&state.to_one())?, written[index].decode()?);
            let refused: Result<UserState, _> = mapping.decode(&id, &payload);
            let newer = DecodeError::NewerVersion {
                found: 2,
                newest: 1,
            };
            assert_eq!(refused, Err(newer), "{which}");
            let read: UserState = as_pekko.decode(&id, &payload)?;
            assert_eq!(
                read,
                without_surplus(&theirs[index]).to_user_state(),
                "{which}"
            );
            assert!(!read.marketing_opt_in, "{which}");
        }
    }
    Ok(())
}

fn random_twos(random: &mut Rng) -> Result<Vec<StateTwo>, user_state_interop::AnyError> {
    (0..STATES)
        .map(|_| {
            let state = pekko_state(random)?;
            Ok(StateTwo::of(&state, random.i32(..)))
        })
        .collect()
}
