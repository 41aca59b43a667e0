//! Instants as a state holds them: without leap-second fractions.
//!
//! chrono shows a leap second as a fraction of a second and more behind 23:59:59. Java's times, which stored states
//! are exchanged with, have no such thing, and text made of one cannot be read back there. So an instant inside a
//! leap second becomes the last nanosecond of the second before it. That keeps the order of instants and cannot
//! overflow, at the cost of drawing the instants of one leap second together.

use chrono::{DateTime, Timelike, Utc};
use serde::{Deserialize, Deserializer};

/// The largest fraction of an ordinary second.
const NANOSECOND_LAST: u32 = 999_999_999;

/// The instant without a leap-second fraction. Ordinary instants stay as they are.
pub(crate) fn normalise(at: DateTime<Utc>) -> DateTime<Utc> {
    if at.timestamp_subsec_nanos() <= NANOSECOND_LAST {
        return at;
    }
    at.with_nanosecond(NANOSECOND_LAST).unwrap_or(at)
}

/// Reads an instant that may be absent, normalised.
pub(crate) fn deserialize_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(normalise))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_leap_second_becomes_the_last_nanosecond_before_it() {
        for leap in ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.999999999Z"] {
            assert_eq!(
                normalise(instant(leap)),
                instant("2016-12-31T23:59:59.999999999Z"),
                "{leap}"
            );
        }
    }

    #[test]
    fn ordinary_instants_stay_as_they_are_to_the_ends_of_time() {
        for at in [
            DateTime::<Utc>::MIN_UTC,
            DateTime::<Utc>::MAX_UTC,
            DateTime::UNIX_EPOCH,
        ] {
            assert_eq!(normalise(at), at);
        }
    }

    #[test]
    fn normalising_at_the_end_of_time_does_not_overflow() {
        let end = DateTime::from_timestamp(DateTime::<Utc>::MAX_UTC.timestamp(), 1_999_999_999);
        assert_eq!(normalise(end.unwrap()), DateTime::<Utc>::MAX_UTC);
    }
}
