//! The stored form of any aggregate that serde knows.

use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{DecodeError, EncodeError};
use crate::jackson::{Jackson, json};
use crate::mapping::StateMapping;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::tags::Tags;

/// A first allocation that most states fit into.
const BYTES_EXPECTED: usize = 256;

/// Any aggregate in its serde form, as JSON text the way Jackson writes it.
///
/// Text is escaped and long JSON is compressed as Pekko's Jackson serializer does, so that a Pekko application can
/// read it with a class of the same fields. Field names, times and numbers are those of the serde form.
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
    /// This class name in the manifest, no tags, at most 1 MiB of JSON. What follows the last `#` of the name is
    /// dropped: it would be a version.
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

    /// The most bytes of JSON, unpacked, that are read or written; 1 MiB unless set.
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
        let mut json = Vec::with_capacity(BYTES_EXPECTED);
        json::write(&mut json, state)?;
        self.jackson.payload(json)
    }

    fn decode(&self, _: &PersistenceId, payload: &Payload) -> Result<A, DecodeError> {
        json::read(&self.jackson.json(payload)?)
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
