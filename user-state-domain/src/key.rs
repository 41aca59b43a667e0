//! Who a user is: the mall and the user's id there.

use std::fmt;
use std::str::FromStr;

/// The most characters of a whole key: what a persistence id's column holds.
pub const KEY_CHARACTERS_MAX: usize = 255;

/// A mall's id: not empty, without `-`, `|` and control characters.
///
/// ```
/// use user_state_domain::{InvalidKey, MallId};
///
/// assert_eq!(MallId::new("mall1")?.as_str(), "mall1");
/// assert_eq!(MallId::new(""), Err(InvalidKey::EmptyMallId));
/// assert!(MallId::new("mall-1").is_err(), "the first `-` of a key ends the mall's id");
/// # Ok::<(), InvalidKey>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MallId(Box<str>);

/// A user's id within a mall: not empty, without `|` and control characters; a `-` is allowed.
///
/// ```
/// use user_state_domain::{InvalidKey, UserId};
///
/// assert_eq!(UserId::new("user-1")?.as_str(), "user-1");
/// assert!(UserId::new("user|1").is_err(), "`|` ends the entity type of a persistence id");
/// # Ok::<(), InvalidKey>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Box<str>);

/// A user of a mall, shown and parsed as `mallId-userId`: the first `-` separates.
///
/// What is shown parses back to the same key, and what parses is shown as the same text.
///
/// ```
/// use user_state_domain::{InvalidKey, UserKey};
///
/// let key: UserKey = "mall1-user-7".parse()?;
/// assert_eq!(key.mall_id().as_str(), "mall1");
/// assert_eq!(key.user_id().as_str(), "user-7");
/// assert_eq!(key.to_string(), "mall1-user-7");
///
/// assert_eq!("mall1".parse::<UserKey>(), Err(InvalidKey::NoSeparator));
/// # Ok::<(), InvalidKey>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey {
    mall_id: MallId,
    user_id: UserId,
}

/// Why a text is no key, or no part of one.
///
/// ```
/// use user_state_domain::{InvalidKey, UserKey};
///
/// let refused = "mall1-a|b".parse::<UserKey>();
/// assert_eq!(refused, Err(InvalidKey::ForbiddenCharacter { part: "user id", character: '|' }));
/// assert_eq!(InvalidKey::EmptyUserId.to_string(), "the user id is empty");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// No `-` between mall and user.
    #[error("a user key is `mallId-userId`: there is no `-`")]
    NoSeparator,
    /// The mall's id is empty.
    #[error("the mall id is empty")]
    EmptyMallId,
    /// The user's id is empty.
    #[error("the user id is empty")]
    EmptyUserId,
    /// A character that the part must not have.
    #[error("the {part} must not contain {character:?}")]
    ForbiddenCharacter {
        /// Which part.
        part: &'static str,
        /// The character.
        character: char,
    },
    /// The key is longer than a persistence id may be.
    #[error("a user key has at most {KEY_CHARACTERS_MAX} characters, this one has {characters}")]
    TooLong {
        /// How many it has.
        characters: usize,
    },
}

impl MallId {
    /// The mall with this id.
    ///
    /// # Errors
    /// Where the text is empty or has a character it must not have.
    pub fn new(id: &str) -> Result<Self, InvalidKey> {
        Self::check(id)?;
        Ok(Self(id.into()))
    }

    fn check(id: &str) -> Result<(), InvalidKey> {
        if id.is_empty() {
            return Err(InvalidKey::EmptyMallId);
        }
        refuse("mall id", id, |character| character == '-')
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    /// The user with this id.
    ///
    /// # Errors
    /// Where the text is empty or has a character it must not have.
    pub fn new(id: &str) -> Result<Self, InvalidKey> {
        Self::check(id)?;
        Ok(Self(id.into()))
    }

    fn check(id: &str) -> Result<(), InvalidKey> {
        if id.is_empty() {
            return Err(InvalidKey::EmptyUserId);
        }
        refuse("user id", id, |_| false)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserKey {
    /// The key of this user of this mall.
    ///
    /// # Errors
    /// Where the whole is longer than 255 characters.
    pub fn new(mall_id: MallId, user_id: UserId) -> Result<Self, InvalidKey> {
        check_length(&mall_id.0, &user_id.0)?;
        Ok(Self { mall_id, user_id })
    }

    /// The mall's and the user's id in the text of a key: all that parsing checks, without a copy.
    ///
    /// ```
    /// use user_state_domain::UserKey;
    ///
    /// assert_eq!(UserKey::split("mall1-user-7")?, ("mall1", "user-7"));
    /// # Ok::<(), user_state_domain::InvalidKey>(())
    /// ```
    ///
    /// # Errors
    /// Where the text is no key.
    pub fn split(text: &str) -> Result<(&str, &str), InvalidKey> {
        let (mall_id, user_id) = text.split_once('-').ok_or(InvalidKey::NoSeparator)?;
        MallId::check(mall_id)?;
        UserId::check(user_id)?;
        check_length(mall_id, user_id)?;
        Ok((mall_id, user_id))
    }

    /// The mall.
    pub fn mall_id(&self) -> &MallId {
        &self.mall_id
    }

    /// The user within the mall.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }
}

impl FromStr for UserKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (mall_id, user_id) = Self::split(text)?;
        Ok(Self {
            mall_id: MallId(mall_id.into()),
            user_id: UserId(user_id.into()),
        })
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.mall_id.0, self.user_id.0)
    }
}

fn check_length(mall_id: &str, user_id: &str) -> Result<(), InvalidKey> {
    // No text has more characters than bytes.
    if mall_id.len() + 1 + user_id.len() <= KEY_CHARACTERS_MAX {
        return Ok(());
    }
    let characters = mall_id.chars().count() + 1 + user_id.chars().count();
    if characters > KEY_CHARACTERS_MAX {
        return Err(InvalidKey::TooLong { characters });
    }
    Ok(())
}

fn refuse(
    part: &'static str,
    id: &str,
    forbidden: impl Fn(char) -> bool,
) -> Result<(), InvalidKey> {
    id.chars()
        .find(|&character| character == '|' || character.is_control() || forbidden(character))
        .map_or(Ok(()), |character| {
            Err(InvalidKey::ForbiddenCharacter { part, character })
        })
}
