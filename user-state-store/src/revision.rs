//! The revision of an entity's stored state.

use std::fmt;

/// How many writes' worth of commands an entity's state reflects.
///
/// 0 means "never written". Every accepted command that makes events advances the revision by one,
/// so several commands written together advance the stored revision by their number. Pekko calls
/// the same number `revision` too.
///
/// ```
/// use user_state_store::Revision;
///
/// let first = Revision::NONE.next().unwrap();
/// assert_eq!(first.get(), 1);
/// assert_eq!(first.advance(2), Revision::new(3));
/// assert_eq!(Revision::new(-1), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(i64);

impl Revision {
    /// The revision of an entity that was never written.
    pub const NONE: Self = Self(0);
    /// The revision of a creating write.
    pub const FIRST: Self = Self(1);

    /// The revision with this number, or `None` for a negative one.
    pub const fn new(number: i64) -> Option<Self> {
        if number < 0 { None } else { Some(Self(number)) }
    }

    /// The number, as the `revision` column holds it.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Whether nothing was ever written.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The revision after this one; `None` past the largest a BIGINT column holds.
    pub fn next(self) -> Option<Self> {
        self.advance(1)
    }

    /// The revision `count` commands later; `None` past the largest a BIGINT column holds.
    pub fn advance(self, count: u32) -> Option<Self> {
        self.0.checked_add(i64::from(count)).map(Self)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
