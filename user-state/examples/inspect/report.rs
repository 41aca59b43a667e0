//! A row, for people and for programs.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use user_state_domain::UserState;
use user_state_store::{
    DecodeError, LoadedRow, Payload, PersistenceId, SerializerId, StateMapping, StoreError,
    StoredState, StoredValue, UserStateMapping,
};

use crate::exit::{Failure, with_causes};
use crate::primitive;
use crate::stored_time::StoredTimes;

/// The row is readable, or the mark of a deletion.
const READABLE: u8 = 0;

/// The row cannot be read, or there are two.
const UNREADABLE: u8 = 1;

/// There is no row.
const NO_ROW: u8 = 3;

/// What is known of a row. Columns that could not be read are null.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    persistence_id: String,
    entity_type: String,
    slice: u16,
    revision: Option<i64>,
    db_timestamp: Option<String>,
    serializer: Option<i32>,
    manifest: Option<String>,
    tags: Vec<String>,
    deleted: bool,
    state: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The rows, where there is more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<Row>,
    #[serde(skip)]
    status: u8,
}

/// The decoded state.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shown {
    User(State),
    Primitive(Value),
}

/// A user's state.
#[derive(Debug, Serialize)]
struct State {
    last_login: Option<String>,
    last_cart_used: Option<String>,
    last_event_at: Option<String>,
    recent_products: Vec<String>,
    marketing_opt_in: bool,
}

/// One of several rows.
#[derive(Debug, Serialize)]
struct Row {
    revision: i64,
}

impl Report {
    /// What a load gave.
    pub(crate) fn of(id: &PersistenceId, row: LoadedRow, mapping: &UserStateMapping) -> Self {
        match row {
            Ok(Some(row)) => Self::of_row(&row, mapping),
            Ok(None) => Self {
                status: NO_ROW,
                error: Some("there is no row".to_owned()),
                ..Self::empty(id)
            },
            Err(error) => Self::of_error(id, &error),
        }
    }

    fn of_row(row: &StoredState, mapping: &UserStateMapping) -> Self {
        let at = row.db_timestamp;
        let mut report = Self {
            entity_type: row.entity_type.to_string(),
            slice: row.slice.get(),
            revision: Some(row.revision.get()),
            db_timestamp: Some(at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            tags: row.tags.iter().map(str::to_owned).collect(),
            ..Self::empty(&row.persistence_id)
        };
        match &row.value {
            StoredValue::State(payload) => {
                report.serializer = Some(payload.serializer_id.0);
                report.manifest = Some(payload.manifest.as_str().to_owned());
                match Shown::of(&row.persistence_id, payload, mapping) {
                    Ok(state) => report.state = Some(state),
                    Err(error) => {
                        report.status = UNREADABLE;
                        report.error = Some(with_causes(&error));
                    }
                }
            }
            StoredValue::Withheld { payload_bytes } => {
                report.status = UNREADABLE;
                report.error = Some(format!("the payload of {payload_bytes} bytes did not come"));
            }
            StoredValue::Deleted => {
                report.serializer = Some(SerializerId::NULL.0);
                report.manifest = Some(String::new());
                report.deleted = true;
            }
        }
        report
    }

    fn of_error(id: &PersistenceId, error: &StoreError) -> Self {
        let mut report = Self {
            status: UNREADABLE,
            error: Some(with_causes(error)),
            ..Self::empty(id)
        };
        match error {
            StoreError::Corrupt {
                serializer_id,
                manifest,
                ..
            } => {
                report.serializer = Some(serializer_id.0);
                report.manifest = Some(manifest.as_str().to_owned());
            }
            StoreError::DuplicateRows { lower, higher, .. } => {
                let revisions = [lower.get(), higher.get()];
                report.rows = revisions.map(|revision| Row { revision }).into();
            }
            _ => {}
        }
        report
    }

    fn empty(id: &PersistenceId) -> Self {
        Self {
            persistence_id: id.as_str().to_owned(),
            entity_type: id.entity_type().to_owned(),
            slice: id.slice().get(),
            revision: None,
            db_timestamp: None,
            serializer: None,
            manifest: None,
            tags: Vec::new(),
            deleted: false,
            state: None,
            error: None,
            rows: Vec::new(),
            status: READABLE,
        }
    }

    /// One JSON object on one line.
    pub(crate) fn json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::new(1, with_causes(&error)))
    }

    /// One line for each thing that is known.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![printable(&self.persistence_id)];
        let mut line = |name: &str, value: &str| {
            let value = if value.is_empty() { "-" } else { value };
            lines.push(format!("  {name:<15} {}", printable(value)));
        };
        line("entity type", &self.entity_type);
        line("slice", &self.slice.to_string());
        for row in &self.rows {
            line("row at revision", &row.revision.to_string());
        }
        if let Some(revision) = self.revision {
            line("revision", &revision.to_string());
        }
        if let Some(at) = &self.db_timestamp {
            line("written", at);
        }
        if let Some(serializer) = self.serializer {
            line("serializer", &serializer.to_string());
        }
        if let Some(manifest) = &self.manifest {
            line("manifest", manifest);
        }
        if self.revision.is_some() {
            line("tags", &self.tags.join(", "));
        }
        if self.deleted {
            line("state", "deleted");
        }
        if let Some(Shown::Primitive(value)) = &self.state {
            line("state", &primitive::text(value));
        }
        if let Some(Shown::User(state)) = &self.state {
            line("last login", or_nothing(state.last_login.as_ref()));
            line("last cart use", or_nothing(state.last_cart_used.as_ref()));
            line("last event", or_nothing(state.last_event_at.as_ref()));
            line("viewed", &state.recent_products.join(", "));
            line(
                "marketing",
                if state.marketing_opt_in { "yes" } else { "no" },
            );
        }
        if let Some(error) = &self.error {
            line("error", error);
        }
        lines.join("\n")
    }
}

impl Shown {
    fn of(
        id: &PersistenceId,
        payload: &Payload,
        mapping: &UserStateMapping,
    ) -> Result<Self, DecodeError> {
        if let Some(value) = primitive::decoded(id, payload) {
            return value.map(Self::Primitive);
        }
        let state = mapping.decode(id, payload)?;
        Ok(Self::User(State::of(&state, payload)))
    }
}

impl State {
    fn of(state: &UserState, payload: &Payload) -> Self {
        let stored = StoredTimes::of(payload);
        let show = |field, at: Option<DateTime<Utc>>| at.map(|at| stored.show(field, at));
        let products = state.recent_products.iter();
        Self {
            last_login: show("lastLogin", state.last_login),
            last_cart_used: show("lastCartUsedTime", state.last_cart_used),
            last_event_at: show("lastEventTime", state.last_event_at),
            recent_products: products.map(ToString::to_string).collect(),
            marketing_opt_in: state.marketing_opt_in,
        }
    }
}

/// The exit status of several reports: an unreadable row counts more than one that is not there.
pub(crate) fn status(reports: &[Report]) -> u8 {
    let told = |status| reports.iter().any(|report| report.status == status);
    [UNREADABLE, NO_ROW]
        .into_iter()
        .find(|status| told(*status))
        .unwrap_or(READABLE)
}

fn or_nothing(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

/// Stored text on a terminal: control characters are shown, not obeyed.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escaped = character.is_control().then(|| character.escape_default());
            let plain = (!character.is_control()).then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
