//! The payload form of Pekko's Jackson serializers, for one class.
//!
//! **How.** The serializer id says whether the bytes are JSON or CBOR, the manifest names the class and its version, and
//! long payloads are compressed. Which compression was used is told by the first bytes, not by the manifest or a
//! setting. So what is read follows the row; the settings decide only what is written.
//!
//! **Guarantees.** What is written here is read here: a form larger than the limit of reading is refused when it
//! is written. Unpacking never takes more memory than the limit, whatever the bytes claim. Errors never hold a part
//! of the payload. A row of the current version is read without an intermediate tree; others go through one, which takes
//! a few times the memory of the plain form, for a payload made to do so up to 64 times.
//!
//! Source: `JacksonSerializer` of Pekko (manifest, versions, compression by magic bytes) and rows that it wrote.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{DecodeError, EncodeError};
use crate::payload::{Manifest, Payload, SerializerId};

pub(crate) mod cbor;
pub(crate) mod compression;
pub(crate) mod json;
#[cfg(feature = "users")]
pub(crate) mod local_date_time;
mod migration;

pub use compression::Compression;
pub use migration::JacksonMigration;

/// The most bytes, unpacked, that are read unless set otherwise: far above any sane state, and little enough that
/// recovering many at once stays cheap.
pub(crate) const DECODED_BYTES_MAX: usize = 1024 * 1024;

/// The form that payloads are written in. Both are read, whichever is set: a row says which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PayloadFormat {
    /// JSON, serializer 31: Pekko's `jackson-json`. Compressed with gzip above 32 KiB unless set otherwise.
    #[default]
    Json,
    /// CBOR, serializer 33: Pekko's `jackson-cbor`. Not compressed unless set. A user's state takes about 15 % fewer bytes than as JSON.
    Cbor,
}

impl PayloadFormat {
    fn serializer_id(self) -> SerializerId {
        match self {
            Self::Json => SerializerId::JACKSON_JSON,
            Self::Cbor => SerializerId::JACKSON_CBOR,
        }
    }

    pub(crate) fn of(serializer_id: SerializerId) -> Result<Self, DecodeError> {
        match serializer_id {
            SerializerId::JACKSON_JSON | SerializerId::JACKSON_JSON_OLD => Ok(Self::Json),
            SerializerId::JACKSON_CBOR => Ok(Self::Cbor),
            other => Err(DecodeError::UnknownSerializer(other)),
        }
    }

    /// What Pekko's `reference.conf` has for the serializer.
    fn default_compression(self) -> Compression {
        match self {
            Self::Json => Compression::Gzip,
            Self::Cbor => Compression::Off,
        }
    }
}

/// Wraps the serialized states of one class into payloads and back.
#[derive(Debug, Clone)]
pub(crate) struct Jackson {
    /// Class name and current version, as they are written.
    manifest: Manifest,
    migration: JacksonMigration,
    format: PayloadFormat,
    compression: Option<Compression>,
    compress_larger_than_bytes: usize,
    decoded_bytes_max: usize,
}

impl Jackson {
    /// The serializer of this class. A version suffix is dropped.
    pub(crate) fn new(class_name: &str) -> Self {
        let migration = JacksonMigration::new();
        Self {
            manifest: migration.manifest(Manifest::new(class_name).class_name()),
            migration,
            format: PayloadFormat::default(),
            compression: None,
            compress_larger_than_bytes: compression::COMPRESS_LARGER_THAN_BYTES,
            decoded_bytes_max: DECODED_BYTES_MAX,
        }
    }

    pub(crate) fn with_class(self, class_name: &str) -> Self {
        let manifest = self
            .migration
            .manifest(Manifest::new(class_name).class_name());
        Self { manifest, ..self }
    }

    pub(crate) fn with_migration(self, migration: JacksonMigration) -> Self {
        Self {
            manifest: migration.manifest(self.manifest.class_name()),
            migration,
            ..self
        }
    }

    pub(crate) fn with_format(self, format: PayloadFormat) -> Self {
        Self { format, ..self }
    }

    pub(crate) fn with_compression(self, compression: Compression) -> Self {
        Self {
            compression: Some(compression),
            ..self
        }
    }

    pub(crate) fn with_compress_larger_than(self, bytes: usize) -> Self {
        Self {
            compress_larger_than_bytes: bytes,
            ..self
        }
    }

    pub(crate) fn with_decoded_bytes_max(self, bytes: usize) -> Self {
        Self {
            decoded_bytes_max: bytes,
            ..self
        }
    }

    /// The form that [`Jackson::payload`] is to be given.
    pub(crate) fn format(&self) -> PayloadFormat {
        self.format
    }

    /// The payload that holds this plain form.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] above the limit of reading.
    pub(crate) fn payload(&self, plain: Vec<u8>) -> Result<Payload, EncodeError> {
        if plain.len() > self.decoded_bytes_max {
            return Err(EncodeError::TooLarge {
                limit: self.decoded_bytes_max,
            });
        }
        let compression = self
            .compression
            .unwrap_or(self.format.default_compression());
        let bytes = compression::compress(plain, compression, self.compress_larger_than_bytes);
        Ok(Payload {
            serializer_id: self.format.serializer_id(),
            manifest: self.manifest.clone(),
            bytes: bytes.map_err(|_| EncodeError::Serialize)?,
        })
    }

    /// What a payload holds, in the current version of the class; borrowed where it is neither compressed nor of another
    /// version.
    ///
    /// # Errors
    /// Where the payload is of another serializer or class or of a version that is not read, is too large, cannot be
    /// decompressed, or does not fit its migration.
    pub(crate) fn open<'a>(&self, payload: &'a Payload) -> Result<Plain<'a>, DecodeError> {
        let format = PayloadFormat::of(payload.serializer_id)?;
        let steps = if payload.manifest == self.manifest {
            None
        } else {
            self.migration
                .steps(self.manifest.class_name(), &payload.manifest)?
        };
        let bytes = compression::decompress(&payload.bytes, self.decoded_bytes_max)?;
        let plain = match format {
            PayloadFormat::Json => Plain::Json(bytes),
            PayloadFormat::Cbor => Plain::Cbor(bytes),
        };
        match steps {
            None => Ok(plain),
            Some(steps) => {
                let mut tree = plain.tree()?;
                steps.run(&mut tree)?;
                Ok(Plain::Tree(tree))
            }
        }
    }
}

/// A serialized state, unpacked.
pub(crate) enum Plain<'a> {
    Json(Cow<'a, [u8]>),
    Cbor(Cow<'a, [u8]>),
    Tree(Value),
}

impl Plain<'_> {
    /// # Errors
    /// [`DecodeError::Malformed`].
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, DecodeError> {
        match self {
            Self::Json(bytes) => json::read(bytes),
            Self::Cbor(bytes) => cbor::read(bytes),
            Self::Tree(tree) => T::deserialize(tree).map_err(|_| DecodeError::Malformed {
                problem: "a value of the migrated state is not of the form its field has".into(),
                offset: 0,
            }),
        }
    }

    /// Reads from an object. `serde` would take the fields from a list too, by their order.
    ///
    /// # Errors
    /// As [`Plain::read`], and for anything but an object.
    pub(crate) fn read_object<'a, T: Deserialize<'a>>(&'a self) -> Result<T, DecodeError> {
        match self {
            Self::Json(bytes) => json::read_object(bytes),
            Self::Cbor(bytes) => cbor::read_object(bytes),
            Self::Tree(tree) if !tree.is_object() => Err(DecodeError::Malformed {
                problem: "the migrated state is not an object".into(),
                offset: 0,
            }),
            Self::Tree(_) => self.read(),
        }
    }

    fn tree(&self) -> Result<Value, DecodeError> {
        match self {
            Self::Json(bytes) => json::read(bytes),
            Self::Cbor(bytes) => cbor::read_tree(bytes),
            Self::Tree(tree) => Ok(tree.clone()),
        }
    }
}
