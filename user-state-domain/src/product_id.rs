//! The id of a product.

use std::fmt;

use ecow::EcoString;
use serde::{Deserialize, Serialize};

/// The longest product id a command may bring, in bytes of UTF-8. Bounds the size of a user's state.
pub const PRODUCT_ID_BYTES_MAX: usize = 1024;

/// The id of a product, any text.
///
/// Commands with an empty or overlong id are refused ([`crate::UserError`]); stored states of other writers may
/// hold any text.
///
/// Cloning is cheap: ids of up to 15 bytes need no allocation, longer ones share theirs.
///
/// ```
/// use user_state_domain::ProductId;
///
/// let product = ProductId::new("44600062");
/// assert_eq!(product.as_str(), "44600062");
/// assert_eq!(serde_json::to_string(&product)?, r#""44600062""#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductId(EcoString);

impl ProductId {
    /// No text, where there is no product.
    pub(crate) const EMPTY: Self = Self(EcoString::new());

    /// The product with this id.
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ProductId {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl From<String> for ProductId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for ProductId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
