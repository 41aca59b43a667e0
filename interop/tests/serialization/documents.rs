//! Goal: documents that another version of the class may have written (fields missing, null, in another order, fields
//! that nobody knows, white space) are the same state for both, and we read whatever Pekko reads.
//! Method: ten thousand random documents are read by both. A Kotlin class refuses nulls that it has no room for; we read
//! those as the defaults. Nothing else may differ.

use fastrand::Rng;
use serde_json::{Value, json};
use user_state_domain::UserState;
use user_state_interop::{
    Case, LocalTime, Refusal, Serialization, State, StateClass, TestResult, WirePayload,
};
use user_state_store::{
    DecodeError, Manifest, Payload, PersistenceId, SerializerId, StateMapping, UserStateMapping,
};

use super::java_time::java_text;
use super::random::{pekko_state, seed, text, without_surplus};

const DOCUMENTS: usize = 10_000;

/// Documents that go to Pekko together.
const TOGETHER: usize = 500;

const CLASS: &str = "com.example.persistdurable.model.UserState";

/// Without these a Kotlin object cannot be made.
const REQUIRED: [&str; 3] = ["mallId", "userId", "lastEventTime"];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::serialization(
            "ten_thousand_documents_with_other_fields_are_the_same_state_for_both",
            documents,
        ),
        Case::serialization(
            "a_year_beyond_ours_is_read_by_pekko_and_a_typed_error_here",
            year_beyond,
        ),
        Case::serialization(
            "a_state_that_no_event_made_is_refused_by_the_kotlin_class",
            no_event,
        ),
    ]
}

async fn documents(given: Serialization) -> TestResult {
    let (peer, mapping) = (given.peer(StateClass::One)?, UserStateMapping::new());
    let mut random = Rng::with_seed(seed());
    let (mut same, mut refused_there) = (0, 0);
    for _ in 0..DOCUMENTS / TOGETHER {
        let mut documents = Vec::new();
        for _ in 0..TOGETHER {
            let state = pekko_state(&mut random)?;
            documents.push((state.clone(), Document::of(&state, &mut random)));
        }
        let payloads: Vec<Payload> = documents
            .iter()
            .map(|(_, document)| payload(&document.text))
            .collect();
        let wire: Vec<WirePayload> = payloads.iter().map(Into::into).collect();
        let theirs: Vec<Result<State, Refusal>> = peer.deserialize(&wire).await?;
        assert_eq!(theirs.len(), TOGETHER);
        for (index, (state, document)) in documents.iter().enumerate() {
            let which = format!("seed {}: {}", seed(), document.text);
            let id = PersistenceId::unique(&format!("{}-{}", state.mall_id, state.user_id))?;
            let ours: UserState = mapping.decode(&id, &payloads[index])?;
            match &theirs[index] {
                Ok(theirs) => {
                    assert_eq!(ours, without_surplus(theirs).to_user_state(), "{which}");
                    same += 1;
                }
                Err(refusal) => {
                    assert!(document.lacks_required, "{refusal}, {which}");
                    refused_there += 1;
                }
            }
        }
    }
    assert!(
        same > DOCUMENTS / 4 && refused_there > DOCUMENTS / 10,
        "{same} and {refused_there}"
    );
    Ok(())
}

async fn year_beyond(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    let text = r#"{"mallId":"mall","userId":"user","lastLogin":"+300000-01-01T00:00:00","#
        .to_owned()
        + r#""lastCartUsedTime":null,"recentProducts":[],"marketingOptIn":false,"#
        + r#""lastEventTime":"2026-03-04T05:06:07"}"#;
    let payload = payload(&text);
    // The harness holds times as chrono does, so Pekko's is looked at as the numbers it comes in.
    let read: Vec<Result<Value, Refusal>> = peer.deserialize(&[(&payload).into()]).await?;
    let [Ok(state)] = &read[..] else {
        panic!("{read:?}");
    };
    assert_eq!(state["lastLogin"], json!([9_404_918_380_800_i64, 0]));
    let id = PersistenceId::unique("mall-user")?;
    let ours: Result<UserState, _> = UserStateMapping::new().decode(&id, &payload);
    assert_eq!(
        ours,
        Err(DecodeError::TimeOutOfRange {
            field: "lastLogin".into()
        })
    );
    Ok(())
}

async fn no_event(given: Serialization) -> TestResult {
    let peer = given.peer(StateClass::One)?;
    let id = PersistenceId::unique("mall-user")?;
    let payload = UserStateMapping::new().encode(&id, &UserState::default())?;
    let read: Vec<Result<State, Refusal>> = peer.deserialize(&[(&payload).into()]).await?;
    let [Err(refusal)] = &read[..] else {
        panic!("{read:?}");
    };
    assert!(refusal.message.contains("lastEventTime"), "{refusal}");
    // Which is why a reset says when it was done.
    let reset: UserState = UserStateMapping::new().reset("2026-03-04T05:06:07Z".parse()?);
    let payload = UserStateMapping::new().encode(&id, &reset)?;
    let read: Vec<Result<State, Refusal>> = peer.deserialize(&[(&payload).into()]).await?;
    assert_eq!(read[0], Ok(State::of(&"mall-user".parse()?, &reset)));
    Ok(())
}

fn payload(text: &str) -> Payload {
    Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new(CLASS),
        bytes: text.as_bytes().to_vec(),
    }
}

/// A text that is the state, but for what is missing.
struct Document {
    text: String,
    /// Whether a field that the class has no room to lack is missing or null.
    lacks_required: bool,
}

impl Document {
    fn of(state: &State, random: &mut Rng) -> Self {
        let time = |at: Option<LocalTime>| at.map(|LocalTime(at)| java_text(at));
        let known = [
            ("mallId", json!(state.mall_id)),
            ("userId", json!(state.user_id)),
            ("lastLogin", json!(time(state.last_login))),
            ("lastCartUsedTime", json!(time(state.last_cart_used_time))),
            ("recentProducts", json!(state.recent_products)),
            ("marketingOptIn", json!(state.marketing_opt_in)),
            ("lastEventTime", json!(time(state.last_event_time))),
        ];
        let mut fields = Vec::new();
        let mut lacks_required = false;
        for (name, value) in known {
            let value = match random.u8(..20) {
                0 => None,
                1 => Some(Value::Null),
                _ => Some(value),
            };
            // A list and a flag may be missing, since they have defaults, but not be null.
            lacks_required |= match value {
                None => REQUIRED.contains(&name),
                Some(Value::Null) => !["lastLogin", "lastCartUsedTime"].contains(&name),
                Some(_) => false,
            };
            fields.extend(value.map(|value| (name.to_owned(), value)));
        }
        for _ in 0..random.usize(..3) {
            let length = random.usize(1..10);
            fields.push((text(random, length, |_| true), unknown(random, 3)));
        }
        random.shuffle(&mut fields);
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}{}:{value}", space(random), json!(name)))
            .collect();
        Self {
            text: format!("{{{}{}}}", fields.join(","), space(random)),
            lacks_required,
        }
    }
}

fn space(random: &mut Rng) -> &'static str {
    ["", " ", "\n  ", "\t", "\r\n"][random.usize(..5)]
}

/// Something that no class knows.
fn unknown(random: &mut Rng, depth: u8) -> Value {
    match random.u8(..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!(random.f64()),
        4 => json!(text(random, 5, |_| true)),
        5 => (0..3).map(|_| unknown(random, depth - 1)).collect(),
        _ => json!({ "mallId": unknown(random, depth - 1), "x": unknown(random, depth - 1) }),
    }
}
