//! What decoding tells a log: a row that names other ids than its persistence id is warned of, without its contents
//! and with the id shortened; a row that is in order is not.
//!
//! A subscriber of this thread gathers every field of every event as text.

#![cfg(feature = "users")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};
use user_state_domain::UserState;
use user_state_store::{
    Manifest, Payload, PersistenceId, SerializerId, StateMapping, UserStateMapping,
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock().unwrap();
        assert_eq!(*event.metadata().level(), Level::WARN);
        log.push_str("WARN");
        event.record(&mut Text(&mut log));
        log.push('\n');
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn logged_while_decoding(id: &str, json: &str) -> String {
    let log = Log::default();
    let payload = Payload {
        serializer_id: SerializerId::JACKSON_JSON,
        manifest: Manifest::new("com.example.persistdurable.model.UserState"),
        bytes: json.into(),
    };
    let id = PersistenceId::unique(id).unwrap();
    let state = tracing::subscriber::with_default(log.clone(), || {
        UserStateMapping::new().decode(&id, &payload)
    });
    assert_eq!(state, Ok(UserState::default()));
    log.0.lock().unwrap().clone()
}

#[test]
fn a_row_of_its_own_key_is_read_silently() {
    let json = r#"{"mallId":"mall1","userId":"user-1"}"#;
    for id in ["mall1-user-1", "UserState|mall1-user-1"] {
        assert_eq!(logged_while_decoding(id, json), "");
    }
}

#[test]
fn a_row_that_names_other_ids_is_warned_of_without_contents_and_with_a_short_id() {
    let cases = [
        ("mall1-user-1", r#"{"mallId":"M4RKER","userId":"user-1"}"#),
        ("mall1-user-1", r#"{"mallId":"mall1","userId":"M4RKER"}"#),
        ("mall1-user-1", r#"{"mallId":"mall1"}"#),
        ("-user-no-key", r#"{"mallId":"","userId":"user-no-key"}"#),
        ("mall1_no_key", r#"{"mallId":"mall1","userId":"M4RKER"}"#),
    ];
    for (id, json) in cases {
        let logged = logged_while_decoding(id, json);
        assert_eq!(logged.lines().count(), 1, "{logged}");
        assert!(logged.contains(&id[..8]), "{logged}");
        assert!(!logged.contains(id), "{logged}");
        assert!(!logged.contains("M4RKER"), "{logged}");
    }
}
