//! What Pekko's serialization and its ids make of things.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use user_state_store::{Manifest, Payload, SerializerId};

use crate::peer::{Peer, PeerError, Refusal};

/// How Pekko serializes a state: by which serializer, with which setting of its compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Form {
    /// JSON as Pekko writes it unless told otherwise: gzip above 32 KiB.
    Json,
    /// JSON, every payload gzip.
    JsonGzip,
    /// JSON, every payload LZ4.
    JsonLz4,
    /// CBOR as Pekko writes it unless told otherwise: never compressed.
    Cbor,
    /// CBOR, every payload gzip.
    CborGzip,
    /// CBOR, every payload LZ4.
    CborLz4,
}

/// A payload on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WirePayload {
    serializer: i32,
    manifest: String,
    bytes: String,
}

impl From<&Payload> for WirePayload {
    fn from(payload: &Payload) -> Self {
        Self {
            serializer: payload.serializer_id.0,
            manifest: payload.manifest.as_str().to_owned(),
            bytes: STANDARD.encode(&payload.bytes),
        }
    }
}

impl WirePayload {
    /// The payload.
    ///
    /// # Errors
    /// Where the bytes are not base 64.
    pub fn decode(&self) -> Result<Payload, base64::DecodeError> {
        Ok(Payload {
            serializer_id: SerializerId(self.serializer),
            manifest: Manifest::new(&self.manifest),
            bytes: STANDARD.decode(&self.bytes)?,
        })
    }
}

/// What Pekko makes of a text as a persistence id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdJudgement {
    /// Its slice; any text has one.
    pub slice: u16,
    /// Whether it is an id.
    pub unique: Result<String, Refusal>,
    /// Its entity type, where one can be told.
    pub entity_type: Result<String, Refusal>,
    /// Its entity id, where one can be told.
    pub entity_id: Result<String, Refusal>,
}

/// A machine that serializes.
#[derive(Debug, Clone)]
pub struct SerializationPeer(Arc<Peer>);

impl SerializationPeer {
    /// Asks this machine.
    pub(crate) fn new(peer: Arc<Peer>) -> Self {
        Self(peer)
    }

    /// The machine.
    pub fn peer(&self) -> &Peer {
        &self.0
    }

    /// What Pekko stores for each of these states.
    ///
    /// # Errors
    /// Where the machine does not answer; a state that is refused is an error of its own.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn serialize(
        &self,
        form: Form,
        states: &[impl Serialize],
    ) -> Result<Vec<Result<WirePayload, Refusal>>, PeerError> {
        #[derive(Deserialize)]
        struct Element {
            payload: Option<WirePayload>,
            error: Option<Refusal>,
        }
        let arguments = json!({ "form": form, "states": states });
        let elements: Vec<Element> = self.0.call("serialize", arguments).await?;
        Ok(elements
            .into_iter()
            .map(|element| one_of(element.payload, element.error))
            .collect())
    }

    /// The state that each of these payloads is for Pekko.
    ///
    /// # Errors
    /// Where the machine does not answer; a payload that is refused is an error of its own.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn deserialize<S: DeserializeOwned>(
        &self,
        payloads: &[WirePayload],
    ) -> Result<Vec<Result<S, Refusal>>, PeerError> {
        #[derive(Deserialize)]
        struct Element<S> {
            state: Option<S>,
            error: Option<Refusal>,
        }
        let arguments = json!({ "payloads": payloads });
        let elements: Vec<Element<S>> = self.0.call("deserialize", arguments).await?;
        Ok(elements
            .into_iter()
            .map(|element| one_of(element.state, element.error))
            .collect())
    }

    /// What each of these texts is as an id.
    ///
    /// # Errors
    /// Where the machine does not answer.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn ids(&self, ids: &[String]) -> Result<Vec<IdJudgement>, PeerError> {
        #[derive(Deserialize)]
        struct Element {
            slice: u16,
            unique: IdOrError,
            entity_type: IdOrError,
            entity_id: IdOrError,
        }
        let elements: Vec<Element> = self.0.call("ids", json!({ "ids": ids })).await?;
        Ok(elements
            .into_iter()
            .map(|element| IdJudgement {
                slice: element.slice,
                unique: element.unique.into(),
                entity_type: element.entity_type.into(),
                entity_id: element.entity_id.into(),
            })
            .collect())
    }

    /// The id that each of these pairs of entity type and entity id makes.
    ///
    /// # Errors
    /// Where the machine does not answer; a pair that is refused is an error of its own.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn id_pairs(
        &self,
        pairs: &[(String, String)],
    ) -> Result<Vec<Result<String, Refusal>>, PeerError> {
        let elements: Vec<IdOrError> = self.0.call("id-pairs", json!({ "pairs": pairs })).await?;
        Ok(elements.into_iter().map(Into::into).collect())
    }
}

#[derive(Deserialize)]
struct IdOrError {
    id: Option<String>,
    error: Option<Refusal>,
}

impl From<IdOrError> for Result<String, Refusal> {
    fn from(IdOrError { id, error }: IdOrError) -> Self {
        one_of(id, error)
    }
}

/// What was asked for, or why not.
fn one_of<T>(value: Option<T>, error: Option<Refusal>) -> Result<T, Refusal> {
    let neither = || Refusal {
        class: "none".to_owned(),
        message: "an element has neither a value nor an error".to_owned(),
    };
    match error {
        Some(error) => Err(error),
        None => value.ok_or_else(neither),
    }
}

/// All of these, or the first refusal with its place.
///
/// # Errors
/// Where one was refused.
pub fn accepted<T>(elements: Vec<Result<T, Refusal>>) -> Result<Vec<T>, String> {
    (0_usize..)
        .zip(elements)
        .map(|(index, element)| element.map_err(|refusal| format!("element {index}: {refusal}")))
        .collect()
}

/// All refusals, or the place of the first that was none.
///
/// # Errors
/// Where one was accepted.
pub fn refused<T>(elements: Vec<Result<T, Refusal>>) -> Result<Vec<Refusal>, String> {
    (0_usize..)
        .zip(elements)
        .map(|(index, element)| match element {
            Ok(_) => Err(format!("element {index} was accepted")),
            Err(refusal) => Ok(refusal),
        })
        .collect()
}
