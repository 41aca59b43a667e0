//! How rows of other versions of a class are read: step by step, up or down, in either format, and refused where a
//! step is missing or cannot do its work.
//!
//! Payloads are made by hand. Every mapping has a migration; the state shows which steps ran.

#![cfg(feature = "users")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use user_state_domain::UserState;
use user_state_store::{
    DecodeError, JacksonMigration, Manifest, Payload, PayloadFormat, PersistenceId, SerdeMapping,
    SerializerId, StateMapping, UserStateMapping,
};

const CLASS: &str = "com.example.Trace";

/// The steps that a document went through.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Trace {
    steps: Vec<String>,
}

fn id() -> PersistenceId {
    PersistenceId::of("Trace", "t-1").unwrap()
}

fn step(name: &'static str) -> impl Fn(&mut Value) -> Result<(), &'static str> {
    move |document| {
        let steps = document.get_mut("steps").and_then(Value::as_array_mut);
        steps.ok_or("no steps")?.push(name.into());
        Ok(())
    }
}

fn stored(manifest: &str, json: &Value) -> Payload {
    Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new(manifest),
        bytes: serde_json::to_vec(json).unwrap(),
    }
}

/// The steps from each version to version 3.
fn migration() -> JacksonMigration {
    JacksonMigration::new()
        .upcast(step("1 to 2"))
        .upcast(step("2 to 3"))
        .downcast(step("4 to 3"))
        .downcast(step("5 to 4"))
        .former_class_name("com.example.Track")
}

fn mapping() -> SerdeMapping<Trace> {
    SerdeMapping::new(CLASS).migration(migration())
}

fn steps_from(manifest: &str) -> Result<Vec<String>, DecodeError> {
    let payload = stored(manifest, &json!({ "steps": [] }));
    Ok(mapping().decode(&id(), &payload)?.steps)
}

#[test]
fn each_version_goes_through_its_steps_in_order() {
    let cases: [(&str, &[&str]); 8] = [
        ("com.example.Trace", &["1 to 2", "2 to 3"]),
        ("com.example.Trace#1", &["1 to 2", "2 to 3"]),
        ("com.example.Trace#2", &["2 to 3"]),
        ("com.example.Trace#3", &[]),
        ("com.example.Trace#4", &["4 to 3"]),
        ("com.example.Trace#5", &["5 to 4", "4 to 3"]),
        ("com.example.Track", &["1 to 2", "2 to 3"]),
        ("com.example.Track#3", &[]),
    ];
    for (manifest, expected) in cases {
        assert_eq!(steps_from(manifest).unwrap(), expected, "{manifest}");
    }
}

#[test]
fn cbor_goes_through_the_same_steps() {
    let document = Trace::default();
    let cbor = SerdeMapping::<Trace>::new(CLASS).format(PayloadFormat::Cbor);
    let payload = cbor.encode(&id(), &document).unwrap();
    assert_eq!(payload.serializer_id, SerializerId::JACKSON_CBOR);
    let read = mapping().decode(&id(), &payload).unwrap();
    assert_eq!(read.steps, ["1 to 2", "2 to 3"]);
}

#[test]
fn what_is_written_carries_the_current_version_from_2_on() {
    let written = mapping().encode(&id(), &Trace::default()).unwrap();
    assert_eq!(written.manifest.as_str(), "com.example.Trace#3");
    assert_eq!(mapping().decode(&id(), &written), Ok(Trace::default()));

    let first = SerdeMapping::<Trace>::new(CLASS).migration(JacksonMigration::new());
    let written = first.encode(&id(), &Trace::default()).unwrap();
    assert_eq!(written.manifest.as_str(), CLASS);

    let renamed = UserStateMapping::new()
        .migration(JacksonMigration::starting_at(4).unwrap())
        .manifest("org.shop.User#9");
    let user = PersistenceId::unique("mall1-user1").unwrap();
    let written = renamed.encode(&user, &UserState::default()).unwrap();
    assert_eq!(written.manifest.as_str(), "org.shop.User#4");
}

#[test]
fn a_class_begins_at_version_1_or_later() {
    let refused = JacksonMigration::starting_at(0).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "oldest_version is 0, it must be at least 1"
    );
}

#[test]
fn a_version_without_steps_is_refused_and_told() {
    let newer = DecodeError::NewerVersion {
        found: 6,
        newest: 5,
    };
    assert_eq!(steps_from("com.example.Trace#6"), Err(newer));
    for manifest in [
        "com.example.Trace#0",
        "com.example.Trace#-1",
        "com.example.Trace#x",
    ] {
        assert_eq!(steps_from(manifest), Err(DecodeError::MalformedVersion));
    }
    let expected = CLASS.into();
    assert_eq!(
        steps_from("com.example.Other#3"),
        Err(DecodeError::WrongManifest { expected })
    );

    let late = JacksonMigration::starting_at(3)
        .unwrap()
        .upcast(step("3 to 4"));
    assert_eq!(late.current_version(), 4);
    let late = SerdeMapping::<Trace>::new(CLASS).migration(late);
    let read = |manifest| late.decode(&id(), &stored(manifest, &json!({ "steps": [] })));
    assert_eq!(read("com.example.Trace#3").unwrap().steps, ["3 to 4"]);
    let older = DecodeError::OlderVersion {
        found: 2,
        oldest: 3,
    };
    assert_eq!(read("com.example.Trace#2"), Err(older));
}

#[test]
fn unchanged_versions_are_read_as_they_are() {
    let migration = JacksonMigration::new()
        .upcast_unchanged()
        .upcast(step("2 to 3"))
        .upcast_unchanged()
        .downcast_unchanged();
    assert_eq!(migration.current_version(), 4);
    assert_eq!(migration.supported_forward_version(), 5);
    let mapping = SerdeMapping::<Trace>::new(CLASS).migration(migration);
    let cases: [(&str, &[&str]); 5] = [
        ("com.example.Trace", &["2 to 3"]),
        ("com.example.Trace#2", &["2 to 3"]),
        ("com.example.Trace#3", &[]),
        ("com.example.Trace#4", &[]),
        ("com.example.Trace#5", &[]),
    ];
    for (manifest, expected) in cases {
        let payload = stored(manifest, &json!({ "steps": [], "more": 1 }));
        let read = mapping.decode(&id(), &payload).unwrap();
        assert_eq!(read.steps, expected, "{manifest}");
    }
}

#[test]
fn a_step_that_cannot_do_its_work_is_told_with_its_version_and_without_the_document() {
    let marker = "M4RKER";
    for (manifest, from) in [("com.example.Trace#2", 2), ("com.example.Trace#5", 5)] {
        let payload = stored(manifest, &json!({ "other": marker }));
        let error = mapping().decode(&id(), &payload).unwrap_err();
        let problem = "no steps";
        assert_eq!(
            error,
            DecodeError::Migration {
                from,
                problem: problem.into()
            }
        );
        assert!(!format!("{error} {error:?} {:?}", mapping()).contains(marker));
    }
}

#[test]
fn a_migrated_document_has_to_fit_the_state_and_is_not_shown() {
    let marker = "M4RKER";
    let payload = stored("com.example.Trace#2", &json!({ "steps": [[marker]] }));
    let error = mapping().decode(&id(), &payload).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains(marker));

    let list = JacksonMigration::new().upcast(|document| {
        *document = json!([]);
        Ok(())
    });
    let users = UserStateMapping::new().migration(list);
    let payload = stored("com.example.persistdurable.model.UserState", &json!({}));
    let error = users.decode(&id(), &payload).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
}

#[test]
fn users_are_migrated_like_any_other_class() {
    let renamed = JacksonMigration::new().upcast(|document| {
        let fields = document.as_object_mut().ok_or("not an object")?;
        if let Some(products) = fields.remove("products") {
            fields.insert("recentProducts".to_owned(), products);
        }
        Ok(())
    });
    let mapping = UserStateMapping::new().migration(renamed);
    let user = PersistenceId::unique("mall1-user1").unwrap();
    let old = json!({
        "mallId": "mall1",
        "userId": "user1",
        "products": ["a", "b"],
        "lastLogin": [2025, 3, 4, 5, 6],
    });
    let payload = stored("com.example.persistdurable.model.UserState", &old);
    let state = mapping.decode(&user, &payload).unwrap();
    assert_eq!(state.recent_products.iter().count(), 2);
    assert_eq!(
        state.last_login,
        Some("2025-03-04T05:06:00Z".parse().unwrap())
    );
    let written = mapping.encode(&user, &state).unwrap();
    assert_eq!(written.manifest.version(), Some(2));
    assert_eq!(mapping.decode(&user, &written), Ok(state));
}
