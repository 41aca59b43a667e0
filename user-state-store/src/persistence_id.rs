//! The id of an entity as the tables hold it.

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "users")]
use user_state_domain::UserKey;

use crate::slice::Slice;

/// Separates the entity type from the entity id, as in Pekko's `PersistenceId`.
pub(crate) const SEPARATOR: char = '|';

/// The most characters a persistence id may have: what its VARCHAR(255) column holds.
pub(crate) const CHARACTERS_MAX: usize = 255;

/// The id of an entity's row: `entityType|entityId`, or a plain unique id.
///
/// The rules are Pekko's `PersistenceId` and `ReplicationId`, and two of our own: at most 255
/// Unicode characters (the column's limit) and no control characters.
///
/// Cloning is cheap: clones share one allocation.
///
/// ```
/// use user_state_store::PersistenceId;
///
/// let plain = PersistenceId::unique("mall-user")?;
/// assert_eq!((plain.entity_type(), plain.entity_id()), ("", "mall-user"));
///
/// let typed = PersistenceId::of("UserState", "mall-user")?;
/// assert_eq!(typed.as_str(), "UserState|mall-user");
/// assert_eq!((typed.entity_type(), typed.entity_id()), ("UserState", "mall-user"));
/// # Ok::<(), user_state_store::InvalidPersistenceId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistenceId(Arc<str>);

impl PersistenceId {
    /// The id `entityType|entityId`.
    ///
    /// An empty entity type is allowed, as in Pekko: the id then begins with the separator.
    ///
    /// # Errors
    /// Where a part contains the separator, or the whole breaks a rule of [`PersistenceId::unique`].
    pub fn of(entity_type: &str, entity_id: &str) -> Result<Self, InvalidPersistenceId> {
        if entity_id.contains(SEPARATOR) {
            return Err(InvalidPersistenceId::SeparatorInEntityId);
        }
        if entity_type.contains(SEPARATOR) {
            return Err(InvalidPersistenceId::SeparatorInEntityType);
        }
        Self::unique(&format!("{entity_type}{SEPARATOR}{entity_id}"))
    }

    /// The id that is exactly this text (Pekko's `PersistenceId.ofUniqueId`).
    ///
    /// # Errors
    /// Where the text is blank, has more than 255 characters or a control character, or has exactly
    /// two separators with nothing behind the last: Pekko takes that for a replication id and
    /// refuses it.
    pub fn unique(id: &str) -> Result<Self, InvalidPersistenceId> {
        if id.trim().is_empty() {
            return Err(InvalidPersistenceId::Blank);
        }
        let characters = id.chars().count();
        if characters > CHARACTERS_MAX {
            return Err(InvalidPersistenceId::TooLong { characters });
        }
        if id.chars().any(char::is_control) {
            return Err(InvalidPersistenceId::ControlCharacter);
        }
        if id.matches(SEPARATOR).count() == 2 && id.ends_with(SEPARATOR) {
            return Err(InvalidPersistenceId::IncompleteReplicationId);
        }
        Ok(Self(id.into()))
    }

    /// The id of a row that is stored already, whatever rules its writer had.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "only backends read stored ids")
    )]
    pub(crate) fn stored(id: &str) -> Self {
        Self(id.into())
    }

    /// The whole id, as the `persistence_id` column holds it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first separator, as the `entity_type` column holds it; empty without one.
    pub fn entity_type(&self) -> &str {
        self.0
            .split_once(SEPARATOR)
            .map_or("", |(entity_type, _)| entity_type)
    }

    /// The part behind the entity type; the middle part of a replication id
    /// (`entityType|entityId|replicaId`).
    pub fn entity_id(&self) -> &str {
        let Some((_, rest)) = self.0.split_once(SEPARATOR) else {
            return &self.0;
        };
        match rest.split_once(SEPARATOR) {
            Some((entity_id, replica)) if !replica.contains(SEPARATOR) => entity_id,
            _ => rest,
        }
    }

    /// The slice this id belongs to.
    pub fn slice(&self) -> Slice {
        Slice::of(&self.0)
    }
}

/// A user's plain id, `mallId-userId`: the default form for users.
///
/// A key is at most 255 characters and has no control characters and no separator, so this cannot fail.
#[cfg(feature = "users")]
impl From<&UserKey> for PersistenceId {
    fn from(key: &UserKey) -> Self {
        Self(key.to_string().into())
    }
}

impl fmt::Display for PersistenceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for PersistenceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PersistenceId({:?})", &self.0)
    }
}

impl AsRef<str> for PersistenceId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Why a text is no persistence id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPersistenceId {
    /// Empty, or nothing but white space.
    #[error("a persistence id must not be blank")]
    Blank,
    /// More characters than the column holds.
    #[error("a persistence id has at most {CHARACTERS_MAX} characters, this one has {characters}")]
    TooLong {
        /// How many Unicode characters the text has.
        characters: usize,
    },
    /// A control character, NUL included (PostgreSQL cannot store that one).
    #[error("a persistence id must not contain control characters")]
    ControlCharacter,
    /// A separator inside an entity id.
    #[error("an entity id must not contain `{SEPARATOR}`")]
    SeparatorInEntityId,
    /// A separator inside an entity type.
    #[error("an entity type must not contain `{SEPARATOR}`")]
    SeparatorInEntityType,
    /// Two separators with nothing behind the last.
    #[error("an id with two `{SEPARATOR}` is a replication id and needs three parts")]
    IncompleteReplicationId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_type_and_id_are_taken_apart_as_pekko_does() {
        let cases = [
            ("mall-user", "", "mall-user"),
            ("UserState|mall-user", "UserState", "mall-user"),
            ("|mall-user", "", "mall-user"),
            ("type|entity|replica", "type", "entity"),
            ("type||replica", "type", ""),
            ("a|b|c|d", "a", "b|c|d"),
        ];
        for (id, entity_type, entity_id) in cases {
            let parsed = PersistenceId::unique(id).unwrap();
            assert_eq!(parsed.entity_type(), entity_type, "{id}");
            assert_eq!(parsed.entity_id(), entity_id, "{id}");
        }
    }

    #[test]
    fn an_id_that_breaks_a_rule_is_refused_with_the_rule() {
        use InvalidPersistenceId as Invalid;
        assert_eq!(PersistenceId::unique(" \u{a0}"), Err(Invalid::Blank));
        assert_eq!(
            PersistenceId::unique("a\0b"),
            Err(Invalid::ControlCharacter)
        );
        assert_eq!(
            PersistenceId::unique("a|b|"),
            Err(Invalid::IncompleteReplicationId)
        );
        assert_eq!(
            PersistenceId::unique("||"),
            Err(Invalid::IncompleteReplicationId)
        );
        assert_eq!(
            PersistenceId::of("a|b", "c"),
            Err(Invalid::SeparatorInEntityType)
        );
        assert_eq!(
            PersistenceId::of("a", "b|c"),
            Err(Invalid::SeparatorInEntityId)
        );
    }

    #[test]
    fn the_length_limit_counts_characters_and_includes_its_bound() {
        let longest = "\u{1F642}".repeat(CHARACTERS_MAX);
        assert!(PersistenceId::unique(&longest).is_ok());
        assert_eq!(
            PersistenceId::unique(&format!("{longest}x")),
            Err(InvalidPersistenceId::TooLong { characters: 256 })
        );
    }
}
