//! The stored form of a user's state: what a Pekko application's `UserState` class is as Jackson JSON.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use user_state_domain::{UserKey, UserState};

use crate::error::{DecodeError, EncodeError};
use crate::jackson::{Compression, Jackson, JacksonMigration, PayloadFormat, Plain};
use crate::mapping::{StateMapping, zone};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::tags::Tags;

mod as_written;
mod document;
mod written;

use document::{Document, StoredTime};
use written::Written;

const CLASS_NAME: &str = "com.example.persistdurable.model.UserState";
const TAG: &str = "user-state";

/// How many characters of a persistence id a log shows.
const ID_CHARACTERS_LOGGED: usize = 8;

/// [`UserState`] as JSON or CBOR that a Pekko application reads and writes too.
///
/// The fields are `mallId`, `userId`, `lastLogin`, `lastCartUsedTime`, `recentProducts`, `marketingOptIn` and
/// `lastEventTime`, in this order, null where nothing is known; the ids come from the key in the persistence id.
/// The bytes are those that Jackson writes. Settings decide what is written; what is read is told by the row, so that
/// they may be changed at any time.
///
/// # Time zone
/// Times are stored as the text of Java's `LocalDateTime`, in the configured zone: the one the Pekko application's
/// clock runs in. In a zone that sets its clock back, local times of that hour mean two instants; a recovered instant is
/// then the earlier one, as with Java's `LocalDateTime.atZone`, so it may be earlier than the one encoded by the length
/// of the overlap. Local times that the zone skips are taken as later by the length of the gap. UTC, the default, has
/// neither, and every instant is recovered exactly. Zone rules are those of the `chrono-tz` release in use; they know
/// daylight saving until the end of 2099, Java's go on.
///
/// # What is read
/// JSON and CBOR, plain, gzip or LZ4, with times as text or as lists of numbers, of the current version of the class or
/// of those that a [`migration`](Self::migration) knows. Unknown fields are ignored; absent or null ones are the defaults; of a longer product list the first three
/// distinct products are kept. Where the stored ids are not those of the persistence id, the state is read, a
/// warning is traced, and the next write carries the key's. Anything else that does not fit is a [`DecodeError`].
///
/// ```
/// use user_state_domain::{UserKey, UserState};
/// use user_state_store::{PersistenceId, StateMapping, Tz, UserStateMapping};
///
/// let mapping = UserStateMapping::new().zone(Tz::Asia__Seoul);
/// let id = PersistenceId::from(&"mall1-user1".parse::<UserKey>()?);
/// let state = UserState {
///     last_login: Some("2025-03-03T20:06:07.5Z".parse()?),
///     ..UserState::default()
/// };
///
/// let payload = mapping.encode(&id, &state)?;
/// let json = r#"{"mallId":"mall1","userId":"user1","lastLogin":"2025-03-04T05:06:07.5","#.to_owned()
///     + r#""lastCartUsedTime":null,"recentProducts":[],"marketingOptIn":false,"lastEventTime":null}"#;
/// assert_eq!(payload.bytes, json.as_bytes());
/// assert_eq!(mapping.decode(&id, &payload)?, state);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct UserStateMapping {
    zone: Tz,
    jackson: Jackson,
    tags: Tags,
}

impl UserStateMapping {
    /// UTC, class `com.example.persistdurable.model.UserState` at version 1, tag `user-state`, JSON of at most 1 MiB.
    pub fn new() -> Self {
        Self {
            zone: Tz::UTC,
            jackson: Jackson::new(CLASS_NAME),
            tags: Tags::one(TAG),
        }
    }

    /// The zone that stored times are local to.
    #[must_use]
    pub fn zone(self, zone: Tz) -> Self {
        Self { zone, ..self }
    }

    /// The class name that stands in the manifest. What follows the last `#` is dropped: versions come from a
    /// [`migration`](Self::migration).
    #[must_use]
    pub fn manifest(self, class_name: &str) -> Self {
        Self {
            jackson: self.jackson.with_class(class_name),
            ..self
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

    /// The versions of the class, and how those that are not the current one are read. The fields that are written are
    /// the same whatever the version: a class whose fields are others has to be read by Pekko's migration.
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

    fn instant(
        &self,
        field: &'static str,
        stored: StoredTime,
    ) -> Result<Option<DateTime<Utc>>, DecodeError> {
        match stored {
            StoredTime::Absent => Ok(None),
            StoredTime::Local(local) => {
                zone::instant(self.zone, local)
                    .map(Some)
                    .ok_or(DecodeError::TimeOutOfRange {
                        field: field.into(),
                    })
            }
            StoredTime::OutOfRange => Err(DecodeError::TimeOutOfRange {
                field: field.into(),
            }),
        }
    }
}

impl Default for UserStateMapping {
    fn default() -> Self {
        Self::new()
    }
}

impl StateMapping<UserState> for UserStateMapping {
    fn encode(
        &self,
        persistence_id: &PersistenceId,
        state: &UserState,
    ) -> Result<Payload, EncodeError> {
        let key = UserKey::split(persistence_id.entity_id());
        let (mall_id, user_id) = key.map_err(|_| EncodeError::ForeignPersistenceId {
            expected: "mallId-userId, with or without an entity type before it".into(),
        })?;
        let written = Written {
            mall_id,
            user_id,
            state,
            zone: self.zone,
        };
        self.jackson.payload(match self.jackson.format() {
            PayloadFormat::Json => written.json()?,
            PayloadFormat::Cbor => written.cbor()?,
        })
    }

    fn decode(
        &self,
        persistence_id: &PersistenceId,
        payload: &Payload,
    ) -> Result<UserState, DecodeError> {
        let plain = self.jackson.open(payload)?;
        let as_written = match &plain {
            Plain::Json(json) => as_written::read(json),
            Plain::Cbor(_) | Plain::Tree(_) => None,
        };
        let stored: Document<'_> = match as_written {
            Some(stored) => stored,
            None => plain.read_object()?,
        };
        if !stored.is_of(persistence_id) {
            tracing::warn!(
                persistence_id = %Shortened(persistence_id.as_str()),
                "a stored user state names other ids than its persistence id; the next write corrects it"
            );
        }
        Ok(UserState {
            last_login: self.instant("lastLogin", stored.last_login)?,
            last_cart_used: self.instant("lastCartUsedTime", stored.last_cart_used_time)?,
            recent_products: stored.recent_products.unwrap_or_default().into(),
            marketing_opt_in: stored.marketing_opt_in.unwrap_or_default(),
            last_event_at: self.instant("lastEventTime", stored.last_event_time)?,
        })
    }

    fn tags(&self) -> Tags {
        self.tags.clone()
    }

    /// The empty state with the instant of the deletion as its last event: Kotlin classes have that time non-null.
    fn reset(&self, at: DateTime<Utc>) -> UserState {
        UserState::emptied(at)
    }
}

/// The beginning of an id, for logs.
struct Shortened<'a>(&'a str);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(ID_CHARACTERS_LOGGED) {
            Some((end, _)) => write!(formatter, "{}…", self.0.split_at(end).0),
            None => formatter.write_str(self.0),
        }
    }
}
