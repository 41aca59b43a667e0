//! What can be asked of a user's state.

use chrono::{DateTime, Utc};

use crate::product_id::ProductId;

/// A command to a user, with the instant it happened, given by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserCommand {
    /// The user logged in.
    Login {
        /// When.
        at: DateTime<Utc>,
    },
    /// The user used the cart.
    UseCart {
        /// When.
        at: DateTime<Utc>,
    },
    /// The user viewed a product.
    ViewProduct {
        /// Which.
        product_id: ProductId,
        /// When.
        at: DateTime<Utc>,
    },
    /// The user agreed to marketing, or took the consent back.
    SetMarketingOptIn {
        /// Whether the user agrees.
        opt_in: bool,
        /// When.
        at: DateTime<Utc>,
    },
}
