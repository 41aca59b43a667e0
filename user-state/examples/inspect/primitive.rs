//! States that are one primitive value.

use std::fmt;

use serde_json::{Value, json};
use user_state_store::{
    DecodeError, Payload, PersistenceId, Primitive, PrimitiveMapping, SerializerId, StateMapping,
};

/// The value in a payload of one of Pekko's primitive serializers; none where it is of another one. Bytes are shown as
/// `{"bytes_hex": …}`.
pub(crate) fn decoded(id: &PersistenceId, payload: &Payload) -> Option<Result<Value, DecodeError>> {
    match payload.serializer_id {
        SerializerId::STRING => Some(value::<String>(id, payload).map(Value::from)),
        SerializerId::LONG => Some(value::<i64>(id, payload).map(Value::from)),
        SerializerId::INT => Some(value::<i32>(id, payload).map(Value::from)),
        SerializerId::BOOLEAN => Some(value::<bool>(id, payload).map(Value::from)),
        SerializerId::BYTES => Some(
            value::<Vec<u8>>(id, payload)
                .map(|bytes| json!({ "bytes_hex": Hex(&bytes).to_string() })),
        ),
        _ => None,
    }
}

/// A value on one line.
pub(crate) fn text(value: &Value) -> String {
    let bytes = value.get("bytes_hex").and_then(Value::as_str);
    bytes
        .or_else(|| value.as_str())
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn value<P: Primitive + Clone + Default>(
    id: &PersistenceId,
    payload: &Payload,
) -> Result<P, DecodeError> {
    StateMapping::<P>::decode(&PrimitiveMapping::<P>::new(), id, payload)
}

/// Bytes in hexadecimal.
struct Hex<'bytes>(&'bytes [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
