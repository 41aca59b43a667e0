//! The tags of a row.

use std::sync::Arc;

/// The most tags a row may have.
pub const TAGS_MAX: usize = 16;

/// The tags written beside a state; none is a NULL column, as Pekko writes it.
///
/// Cloning is cheap: clones share one allocation.
///
/// ```
/// use user_state_store::Tags;
///
/// let tags = Tags::one("user-state");
/// assert_eq!(tags.iter().collect::<Vec<_>>(), ["user-state"]);
/// assert!(Tags::one("").is_empty(), "Pekko writes the empty tag as no tag");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(Option<Arc<[Box<str>]>>);

impl Tags {
    /// No tags.
    pub const NONE: Self = Self(None);

    /// One tag; none where the text is empty.
    pub fn one(tag: &str) -> Self {
        Self::new([tag].into_iter().filter(|tag| !tag.is_empty()))
    }

    /// These tags, in this order.
    pub fn new<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let tags: Vec<Box<str>> = tags.into_iter().map(Box::from).collect();
        Self((!tags.is_empty()).then(|| tags.into()))
    }

    /// The tags in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(Box::as_ref)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}
