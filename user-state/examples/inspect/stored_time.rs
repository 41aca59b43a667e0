//! Instants with as many digits of a second as are stored.

use chrono::{DateTime, Utc};
use serde_json::Value;
use user_state_store::Payload;

/// The JSON of a state as it is stored.
pub(crate) struct StoredTimes(Option<Value>);

impl StoredTimes {
    /// A compressed payload is not looked into: then an instant has as many digits as it needs, which is how Jackson
    /// writes it.
    pub(crate) fn of(payload: &Payload) -> Self {
        Self(serde_json::from_slice(&payload.bytes).ok())
    }

    /// The instant of a stored field, in RFC 3339 and UTC.
    pub(crate) fn show(&self, field: &str, at: DateTime<Utc>) -> String {
        let stored = self.0.as_ref().and_then(|json| json.get(field)?.as_str());
        let stored_digits = stored
            .and_then(|text| text.split_once('.'))
            .map(|(_, fraction)| fraction.len());
        let nanoseconds = format!("{:09}", at.timestamp_subsec_nanos());
        let needed = nanoseconds.trim_end_matches('0');
        let digits = stored_digits.unwrap_or_default().max(needed.len());
        let fraction = nanoseconds.get(..digits).unwrap_or(&nanoseconds);
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}Z", at.format("%Y-%m-%dT%H:%M:%S"))
    }
}
