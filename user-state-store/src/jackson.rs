//! The payload form of Pekko's Jackson JSON serializer, for one class.
//!
//! **How.** The serializer id says that the bytes are JSON, the manifest names the class, and JSON longer than
//! 32 KiB is compressed. Which compression was used is told by the first bytes, not by the manifest or a setting.
//!
//! **Guarantees.** What is written here is read here: a form larger than the limit of reading is refused when it
//! is written. Reading never takes more memory than the limit, whatever the bytes claim. Errors never hold a part
//! of the payload.
//!
//! **Not here.** CBOR and LZ4 (typed errors), and versions of a class above 1.
//!
//! Source: `JacksonSerializer` of Pekko (manifest, compression by magic bytes) and rows that it wrote.

use std::borrow::Cow;

use crate::error::{DecodeError, EncodeError};
use crate::payload::{Manifest, Payload, SerializerId};

mod compression;
pub(crate) mod json;
pub(crate) mod local_date_time;

/// The most bytes of JSON that are read unless set otherwise: far above any sane state, and little enough that
/// recovering many at once stays cheap.
const DECODED_BYTES_MAX: usize = 1024 * 1024;

/// The only version of a class that is read.
const CLASS_VERSION: u32 = 1;

/// Wraps JSON of one class into payloads and back.
#[derive(Debug, Clone)]
pub(crate) struct Jackson {
    manifest: Manifest,
    decoded_bytes_max: usize,
}

impl Jackson {
    /// The serializer of this class. A version suffix is dropped.
    pub(crate) fn new(class_name: &str) -> Self {
        Self {
            manifest: class(class_name),
            decoded_bytes_max: DECODED_BYTES_MAX,
        }
    }

    /// The same for another class.
    pub(crate) fn with_class(self, class_name: &str) -> Self {
        Self {
            manifest: class(class_name),
            ..self
        }
    }

    /// The same with another limit of JSON bytes.
    pub(crate) fn with_decoded_bytes_max(self, bytes: usize) -> Self {
        Self {
            decoded_bytes_max: bytes,
            ..self
        }
    }

    /// The payload that holds this JSON.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] above the limit of reading.
    pub(crate) fn payload(&self, json: Vec<u8>) -> Result<Payload, EncodeError> {
        if json.len() > self.decoded_bytes_max {
            return Err(EncodeError::TooLarge {
                limit: self.decoded_bytes_max,
            });
        }
        Ok(Payload {
            serializer_id: SerializerId::JACKSON_JSON,
            manifest: self.manifest.clone(),
            bytes: compression::compress(json).map_err(|_| EncodeError::Serialize)?,
        })
    }

    /// The JSON that a payload holds; borrowed where it is not compressed.
    ///
    /// # Errors
    /// Where the payload is of another serializer, class or version, is too large or cannot be decompressed.
    pub(crate) fn json<'a>(&self, payload: &'a Payload) -> Result<Cow<'a, [u8]>, DecodeError> {
        match payload.serializer_id {
            SerializerId::JACKSON_JSON | SerializerId::JACKSON_JSON_OLD => {}
            other => return Err(DecodeError::UnknownSerializer(other)),
        }
        self.check_class(&payload.manifest)?;
        compression::decompress(&payload.bytes, self.decoded_bytes_max)
    }

    fn check_class(&self, stored: &Manifest) -> Result<(), DecodeError> {
        if stored.class_name() != self.manifest.as_str() {
            return Err(DecodeError::WrongManifest {
                expected: self.manifest.as_str().into(),
            });
        }
        match stored.version() {
            Some(CLASS_VERSION) => Ok(()),
            Some(0) | None => Err(DecodeError::MalformedVersion),
            Some(found) => Err(DecodeError::NewerVersion {
                found,
                newest: CLASS_VERSION,
            }),
        }
    }
}

fn class(name: &str) -> Manifest {
    Manifest::new(Manifest::new(name).class_name())
}
