//! Times as they go between the tests and Pekko: pairs of numbers, so that no test depends on how either side writes
//! times as text.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A local time: `[second, nanosecond]` since 1970 as if its zone were UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime(pub NaiveDateTime);

/// An instant: `[second, nanosecond]` since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub DateTime<Utc>);

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0.timestamp(), self.0.timestamp_subsec_nanos()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (second, nanosecond) = Deserialize::deserialize(deserializer)?;
        DateTime::from_timestamp(second, nanosecond)
            .map(Self)
            .ok_or_else(|| D::Error::custom("a time beyond those that chrono holds"))
    }
}

impl Serialize for LocalTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Instant(self.0.and_utc()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LocalTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Instant::deserialize(deserializer).map(|Instant(at)| Self(at.naive_utc()))
    }
}
