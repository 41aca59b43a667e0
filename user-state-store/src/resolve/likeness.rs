//! Whether a stored payload is the one that was written.
//!
//! **Problem.** A JSONB column keeps a JSON value and not its bytes: fields come back in another order, with spaces, numbers
//! in another notation. To take such a row for somebody else's would tell an applied write as not applied.
//!
//! **How.** Equal bytes are the payload. Other bytes still are, where both are JSON of one value as the database
//! compares values; where that cannot be told, they are taken for it too. Both answers are never
//! more than "looks like ours": see [`Writers`](crate::Writers).
//!
//! **Guarantees.** Never different for what a database made of the same payload.

use serde::de::IgnoredAny;
use serde_json::{Number, Value};

use crate::jackson::PayloadFormat;
use crate::payload::Payload;

/// Whether the stored payload is what became of the written one.
pub(super) fn is_alike(written: &Payload, stored: &Payload) -> bool {
    written.serializer_id == stored.serializer_id
        && written.manifest == stored.manifest
        && (written.bytes == stored.bytes
            || (is_json(written) && is_same_json(&written.bytes, &stored.bytes)))
}

/// Whether the payload could be in a JSON column at all.
fn is_json(payload: &Payload) -> bool {
    // Reading past a value has no limits of depth and of numbers: it tells what is JSON, and nothing else.
    PayloadFormat::of(payload.serializer_id) == Ok(PayloadFormat::Json)
        && serde_json::from_slice::<IgnoredAny>(&payload.bytes).is_ok()
}

fn is_same_json(written: &[u8], stored: &[u8]) -> bool {
    if serde_json::from_slice::<IgnoredAny>(stored).is_err() {
        return false;
    }
    match (
        serde_json::from_slice(written),
        serde_json::from_slice(stored),
    ) {
        (Ok(written), Ok(stored)) => is_same_value(&written, &stored),
        // JSON that is too deep or holds numbers too large to look into: it may be the same.
        _ => true,
    }
}

/// Equality of JSONB: objects have no order and the last of two equal names, numbers have a value and no notation.
fn is_same_value(written: &Value, stored: &Value) -> bool {
    match (written, stored) {
        (Value::Number(written), Value::Number(stored)) => is_same_number(written, stored),
        (Value::Array(written), Value::Array(stored)) => {
            written.len() == stored.len()
                && written
                    .iter()
                    .zip(stored)
                    .all(|(written, stored)| is_same_value(written, stored))
        }
        (Value::Object(written), Value::Object(stored)) => {
            written.len() == stored.len()
                && written.iter().all(|(name, written)| {
                    stored
                        .get(name)
                        .is_some_and(|stored| is_same_value(written, stored))
                })
        }
        (written, stored) => written == stored,
    }
}

/// Exact for integers of 64 bits; other numbers that are the same in 53 bits may be the same.
fn is_same_number(written: &Number, stored: &Number) -> bool {
    let integer = |number: &Number| {
        let unsigned = number.as_u64().map(i128::from);
        unsigned.or_else(|| number.as_i64().map(i128::from))
    };
    match (integer(written), integer(stored)) {
        (Some(written), Some(stored)) => written == stored,
        _ => written.as_f64() == stored.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Manifest;
    use crate::payload::SerializerId;

    fn json(bytes: &[u8]) -> Payload {
        Payload {
            serializer_id: SerializerId::JACKSON_JSON,
            manifest: Manifest::new("State"),
            bytes: bytes.to_vec(),
        }
    }

    #[track_caller]
    fn assert_alike(written: &str, stored: &str, alike: bool) {
        let answer = is_alike(&json(written.as_bytes()), &json(stored.as_bytes()));
        assert_eq!(answer, alike, "{written} and {stored}");
    }

    #[test]
    fn what_jsonb_makes_of_a_payload_is_alike() {
        // The right sides are PostgreSQL's answers to `SELECT left::jsonb::text`.
        for (written, stored) in [
            (r#"{"bb":1,"a":[1,2]}"#, r#"{"a": [1, 2], "bb": 1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a": 2}"#),
            (
                r#"{"a":1E2,"b":1.50,"c":-0}"#,
                r#"{"a": 100, "b": 1.50, "c": 0}"#,
            ),
            (r#"{"a":"\uD83D\uDE42\u00e9\/"}"#, r#"{"a": "🙂é/"}"#),
            (
                r#"{"a":12345678901234567890123}"#,
                r#"{"a": 12345678901234567890123}"#,
            ),
            ("[null,true,\"\\u0001\"]", "[null, true, \"\\u0001\"]"),
        ] {
            assert_alike(written, stored, true);
        }
    }

    #[test]
    fn another_value_is_not_alike() {
        for (written, stored) in [
            (r#"{"a":1}"#, r#"{"a": 2}"#),
            (r#"{"a":1}"#, r#"{"a": 1, "b": null}"#),
            (r#"{"a":1}"#, r#"{"b": 1}"#),
            (r#"{"a":[1,2]}"#, r#"{"a": [2, 1]}"#),
            (r#"{"a":"1"}"#, r#"{"a": 1}"#),
            (r#"{"a":9007199254740993}"#, r#"{"a": 9007199254740992}"#),
            ("[]", "{}"),
        ] {
            assert_alike(written, stored, false);
        }
    }

    #[test]
    fn json_that_cannot_be_looked_into_may_be_the_same() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert_alike(&deep, &format!("{deep} "), true);
        assert_alike("[1e400]", &format!("[1{}]", "0".repeat(400)), true);
    }

    #[test]
    fn bytes_that_no_json_column_holds_are_compared_as_bytes() {
        assert_alike("ours", "ours", true);
        assert_alike("ours", "theirs", false);
        assert_alike("[1]", "theirs", false);
        assert_alike("ours", "[1]", false);
        for serializer in [SerializerId::JACKSON_CBOR, SerializerId(20)] {
            let payload = |bytes: &[u8]| Payload {
                serializer_id: serializer,
                ..json(bytes)
            };
            assert!(!is_alike(&payload(b"1"), &payload(b"1 ")));
        }
        let other = Payload {
            manifest: Manifest::new("Other"),
            ..json(b"1")
        };
        assert!(!is_alike(&json(b"1"), &other));
    }
}
