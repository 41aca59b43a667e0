//! The stored form of any aggregate that serde knows.

use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{DecodeError, EncodeError};
use crate::jackson::{Compression, Jackson, JacksonMigration, PayloadFormat, cbor, json};
use crate::mapping::StateMapping;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::tags::Tags;

/// A first allocation that most states fit into.
const BYTES_EXPECTED: usize = 256;

/// Any aggregate in its serde form, as JSON or CBOR the way Jackson writes it.
///
/// Text is written and long payloads are compressed as Pekko's Jackson serializers do, so that a Pekko application can
/// read it with a class of the same fields. Field names, times and numbers are those of the serde form; byte strings of
/// CBOR are read into lists too. Settings decide what is written; what is read is told by the row.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use user_state_store::{PersistenceId, SerdeMapping, StateMapping};
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Stock {
///     sku: String,
///     pieces: u32,
/// }
///
/// let mapping = SerdeMapping::new("com.example.Stock");
/// let id = PersistenceId::of("Stock", "p-1")?;
/// let stock = Stock { sku: "p-1".to_owned(), pieces: 7 };
///
/// let payload = mapping.encode(&id, &stock)?;
/// assert_eq!(payload.bytes, br#"{"sku":"p-1","pieces":7}"#);
/// assert_eq!(mapping.decode(&id, &payload)?, stock);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SerdeMapping<A> {
    jackson: Jackson,
    tags: Tags,
    aggregate: PhantomData<fn() -> A>,
}

impl<A> SerdeMapping<A> {
    /// This class name in the manifest, at version 1, no tags, JSON of at most 1 MiB. What follows the last `#` of the
    /// name is dropped: versions come from a [`migration`](Self::migration).
    pub fn new(class_name: &str) -> Self {
        Self {
            jackson: Jackson::new(class_name),
            tags: Tags::NONE,
            aggregate: PhantomData,
        }
    }

    /// The tags written beside every state.
    #[must_use]
    pub fn tagged(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// Whether JSON or CBOR is written; JSON unless set.
    #[must_use]
    pub fn format(self, format: PayloadFormat) -> Self {
        Self {
            jackson: self.jackson.with_format(format),
            ..self
        }
    }

    /// How long payloads are compressed; JSON with gzip and CBOR not at all unless set.
    #[must_use]
    pub fn compression(self, compression: Compression) -> Self {
        Self {
            jackson: self.jackson.with_compression(compression),
            ..self
        }
    }

    /// The most bytes that are never compressed; 32 KiB unless set.
    #[must_use]
    pub fn compress_larger_than(self, bytes: usize) -> Self {
        Self {
            jackson: self.jackson.with_compress_larger_than(bytes),
            ..self
        }
    }

    /// The versions of the class, and how those that are not the current one are read.
    #[must_use]
    pub fn migration(self, migration: JacksonMigration) -> Self {
        Self {
            jackson: self.jackson.with_migration(migration),
            ..self
        }
    }

    /// The most bytes, unpacked, that are read or written; 1 MiB unless set.
    #[must_use]
    pub fn decoded_bytes_max(self, bytes: usize) -> Self {
        Self {
            jackson: self.jackson.with_decoded_bytes_max(bytes),
            ..self
        }
    }
}

impl<A> StateMapping<A> for SerdeMapping<A>
where
    A: Serialize + DeserializeOwned + Default + 'static,
{
    fn encode(&self, _: &PersistenceId, state: &A) -> Result<Payload, EncodeError> {
        let mut plain = Vec::with_capacity(BYTES_EXPECTED);
        match self.jackson.format() {
            PayloadFormat::Json => json::write(&mut plain, state)?,
            PayloadFormat::Cbor => cbor::write(&mut plain, state)?,
        }
        self.jackson.payload(plain)
    }

    fn decode(&self, _: &PersistenceId, payload: &Payload) -> Result<A, DecodeError> {
        self.jackson.open(payload)?.read()
    }

    fn tags(&self) -> Tags {
        self.tags.clone()
    }

    /// The default state; the instant is not kept.
    fn reset(&self, _: DateTime<Utc>) -> A {
        A::default()
    }
}

impl<A> Clone for SerdeMapping<A> {
    fn clone(&self) -> Self {
        Self {
            jackson: self.jackson.clone(),
            tags: self.tags.clone(),
            aggregate: PhantomData,
        }
    }
}

impl<A> fmt::Debug for SerdeMapping<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SerdeMapping")
            .field("jackson", &self.jackson)
            .field("tags", &self.tags)
            .finish()
    }
}
