//! What happened to a user.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::product_id::ProductId;

/// An accepted command, in the past tense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserEvent {
    /// The user logged in.
    LoggedIn {
        /// When.
        at: DateTime<Utc>,
    },
    /// The user used the cart.
    CartUsed {
        /// When.
        at: DateTime<Utc>,
    },
    /// The user viewed a product.
    ProductViewed {
        /// Which.
        product_id: ProductId,
        /// When.
        at: DateTime<Utc>,
    },
    /// The user agreed to marketing, or took the consent back.
    MarketingOptInSet {
        /// Whether the user agrees.
        opt_in: bool,
        /// When.
        at: DateTime<Utc>,
    },
}

impl DomainEvent for UserEvent {
    fn event_type(&self) -> String {
        match self {
            Self::LoggedIn { .. } => "LoggedIn",
            Self::CartUsed { .. } => "CartUsed",
            Self::ProductViewed { .. } => "ProductViewed",
            Self::MarketingOptInSet { .. } => "MarketingOptInSet",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}
