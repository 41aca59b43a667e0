//! Why a command is refused.

use crate::product_id::PRODUCT_ID_BYTES_MAX;

/// Why a user's state refuses a command. Nothing changed; sending the same command again will not help.
///
/// ```
/// use user_state_domain::UserError;
///
/// let refused = UserError::ProductIdTooLong { bytes: 4096 };
/// assert_eq!(refused.to_string(), "the product id has 4096 bytes, at most 1024 are kept");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// A view of a product without an id.
    #[error("the product id is empty")]
    EmptyProductId,
    /// A product id that is too long to keep.
    #[error("the product id has {bytes} bytes, at most {PRODUCT_ID_BYTES_MAX} are kept")]
    ProductIdTooLong {
        /// How many bytes it has.
        bytes: usize,
    },
}
