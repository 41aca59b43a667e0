//! The stored form of aggregates that are one primitive value.

use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Utc};

use crate::error::{DecodeError, EncodeError};
use crate::jackson::DECODED_BYTES_MAX;
use crate::mapping::StateMapping;
use crate::payload::{Manifest, Payload, SerializerId};
use crate::persistence_id::PersistenceId;
use crate::tags::Tags;

/// A value that one of Pekko's primitive serializers writes: `String`, `i64`, `i32`, `bool` or `Vec<u8>`.
///
/// Implemented here and nowhere else.
pub trait Primitive: sealed::Bytes + Send + Sync + 'static {
    /// The serializer: 20 for text, 18 and 19 for 64-bit and 32-bit integers, 35 for truth values, 4 for bytes.
    const SERIALIZER_ID: SerializerId;
}

mod sealed {
    use crate::error::DecodeError;

    /// The bytes of a primitive value.
    pub trait Bytes: Sized {
        fn into_bytes(self) -> Vec<u8>;

        fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError>;
    }
}

use sealed::Bytes;

impl Primitive for String {
    const SERIALIZER_ID: SerializerId = SerializerId::STRING;
}

impl Bytes for String {
    fn into_bytes(self) -> Vec<u8> {
        self.into()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        match str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(DecodeError::Malformed {
                problem: "the text is not UTF-8".into(),
                offset: error.valid_up_to(),
            }),
        }
    }
}

impl Primitive for i64 {
    const SERIALIZER_ID: SerializerId = SerializerId::LONG;
}

impl Bytes for i64 {
    fn into_bytes(self) -> Vec<u8> {
        self.to_le_bytes().into()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        exactly(bytes).map(Self::from_le_bytes)
    }
}

impl Primitive for i32 {
    const SERIALIZER_ID: SerializerId = SerializerId::INT;
}

impl Bytes for i32 {
    fn into_bytes(self) -> Vec<u8> {
        self.to_le_bytes().into()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        exactly(bytes).map(Self::from_le_bytes)
    }
}

impl Primitive for bool {
    const SERIALIZER_ID: SerializerId = SerializerId::BOOLEAN;
}

impl Bytes for bool {
    fn into_bytes(self) -> Vec<u8> {
        vec![self.into()]
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        match exactly(bytes)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError::Malformed {
                problem: "the byte is not 0 or 1".into(),
                offset: 0,
            }),
        }
    }
}

impl Primitive for Vec<u8> {
    const SERIALIZER_ID: SerializerId = SerializerId::BYTES;
}

impl Bytes for Vec<u8> {
    fn into_bytes(self) -> Vec<u8> {
        self
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::WrongLength {
        expected: N,
        found: bytes.len(),
    })
}

/// Any aggregate that becomes one primitive value and can be made of it, as Pekko's primitive serializers write it.
///
/// Integers have the lowest byte first, text is UTF-8. The manifest is empty, and not looked at when a row is read, as with
/// Pekko. A payload of another length, or text that is not UTF-8, is a [`DecodeError`]; Pekko ignores bytes too many and
/// replaces what is not text.
///
/// ```
/// use user_state_store::{PersistenceId, PrimitiveMapping, SerializerId, StateMapping};
///
/// #[derive(Debug, Default, Clone, PartialEq)]
/// struct Visits(i64);
///
/// impl From<i64> for Visits {
///     fn from(count: i64) -> Self {
///         Self(count)
///     }
/// }
///
/// impl From<Visits> for i64 {
///     fn from(Visits(count): Visits) -> Self {
///         count
///     }
/// }
///
/// let mapping = PrimitiveMapping::<i64>::new();
/// let id = PersistenceId::of("Visits", "shop-1")?;
///
/// let payload = mapping.encode(&id, &Visits(7))?;
/// assert_eq!(payload.serializer_id, SerializerId::LONG);
/// assert_eq!(payload.bytes, [7, 0, 0, 0, 0, 0, 0, 0]);
/// assert_eq!(StateMapping::<Visits>::decode(&mapping, &id, &payload)?, Visits(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PrimitiveMapping<P> {
    manifest: Manifest,
    tags: Tags,
    decoded_bytes_max: usize,
    primitive: PhantomData<fn() -> P>,
}

impl<P: Primitive> PrimitiveMapping<P> {
    /// No tags, at most 1 MiB.
    pub fn new() -> Self {
        Self {
            manifest: Manifest::new(""),
            tags: Tags::NONE,
            decoded_bytes_max: DECODED_BYTES_MAX,
            primitive: PhantomData,
        }
    }

    /// The tags written beside every state.
    #[must_use]
    pub fn tagged(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// The most bytes that are read or written; 1 MiB unless set.
    #[must_use]
    pub fn decoded_bytes_max(self, bytes: usize) -> Self {
        Self {
            decoded_bytes_max: bytes,
            ..self
        }
    }
}

impl<P: Primitive> Default for PrimitiveMapping<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A, P> StateMapping<A> for PrimitiveMapping<P>
where
    P: Primitive + From<A>,
    A: From<P> + Clone + Default + 'static,
{
    fn encode(&self, _: &PersistenceId, state: &A) -> Result<Payload, EncodeError> {
        let bytes = P::from(state.clone()).into_bytes();
        if bytes.len() > self.decoded_bytes_max {
            return Err(EncodeError::TooLarge {
                limit: self.decoded_bytes_max,
            });
        }
        Ok(Payload {
            serializer_id: P::SERIALIZER_ID,
            manifest: self.manifest.clone(),
            bytes,
        })
    }

    fn decode(&self, _: &PersistenceId, payload: &Payload) -> Result<A, DecodeError> {
        if payload.serializer_id != P::SERIALIZER_ID {
            return Err(DecodeError::UnknownSerializer(payload.serializer_id));
        }
        if payload.bytes.len() > self.decoded_bytes_max {
            return Err(DecodeError::TooLarge {
                limit: self.decoded_bytes_max,
            });
        }
        P::from_bytes(&payload.bytes).map(A::from)
    }

    fn tags(&self) -> Tags {
        self.tags.clone()
    }

    /// The default state; the instant is not kept.
    fn reset(&self, _: DateTime<Utc>) -> A {
        A::default()
    }
}

impl<P> Clone for PrimitiveMapping<P> {
    fn clone(&self) -> Self {
        Self {
            manifest: self.manifest.clone(),
            tags: self.tags.clone(),
            ..*self
        }
    }
}

impl<P> fmt::Debug for PrimitiveMapping<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PrimitiveMapping")
            .field("manifest", &self.manifest)
            .field("tags", &self.tags)
            .field("decoded_bytes_max", &self.decoded_bytes_max)
            .finish()
    }
}
