//! What a row's payload columns hold: serializer id, manifest and bytes.

use std::fmt;
use std::sync::Arc;

/// The id of the serializer that wrote a payload (`state_ser_id`), as Pekko numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerializerId(pub i32);

impl SerializerId {
    /// Pekko's null serializer; with an empty payload it is the mark of a deleted state.
    pub const NULL: Self = Self(0);
    /// A byte array as it is.
    pub const BYTES: Self = Self(4);
    /// A 64-bit integer.
    pub const LONG: Self = Self(18);
    /// A 32-bit integer.
    pub const INT: Self = Self(19);
    /// A text.
    pub const STRING: Self = Self(20);
    /// Jackson JSON.
    pub const JACKSON_JSON: Self = Self(31);
    /// Jackson JSON under the older number that Pekko keeps for reading.
    pub const JACKSON_JSON_OLD: Self = Self(32);
    /// Jackson CBOR.
    pub const JACKSON_CBOR: Self = Self(33);
    /// A truth value.
    pub const BOOLEAN: Self = Self(35);
}

impl fmt::Display for SerializerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What the serializer needs beside the bytes (`state_ser_manifest`): for Jackson the class name,
/// with `#n` behind it from class version 2 on.
///
/// Cloning is cheap: clones share one allocation.
///
/// ```
/// use user_state_store::Manifest;
///
/// let manifest = Manifest::new("com.example.UserState#2");
/// assert_eq!(manifest.class_name(), "com.example.UserState");
/// assert_eq!(manifest.version(), Some(2));
/// assert_eq!(Manifest::new("com.example.UserState").version(), Some(1));
/// assert_eq!(Manifest::new("com.example.UserState#x").version(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Manifest(Arc<str>);

impl Manifest {
    /// The manifest with this text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The whole text, as the column holds it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text before the last `#`.
    pub fn class_name(&self) -> &str {
        self.0
            .rsplit_once('#')
            .map_or(&self.0, |(class_name, _)| class_name)
    }

    /// The number behind the last `#`, 1 without one; `None` where no number stands there.
    pub fn version(&self) -> Option<u32> {
        self.0
            .rsplit_once('#')
            .map_or(Some(1), |(_, version)| version.parse().ok())
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A serialized state. Its `Debug` form shows the length of the bytes, never the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// Which serializer wrote the bytes.
    pub serializer_id: SerializerId,
    /// What the serializer needs to know beside the bytes.
    pub manifest: Manifest,
    /// The serialized form, compressed where the serializer does so.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Payload")
            .field("serializer_id", &self.serializer_id.0)
            .field("manifest", &self.manifest.as_str())
            .field("bytes", &format_args!("{} bytes", self.bytes.len()))
            .finish()
    }
}
