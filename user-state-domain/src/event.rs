//! What happened to a user.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::product_id::ProductId;

/// An accepted command, in the past tense.
///
/// Its serde form is the variant's name around its fields, as an event journal keeps it.
///
/// ```
/// use user_state_domain::UserEvent;
///
/// let event = UserEvent::LoggedIn { at: "2026-03-04T05:06:07.5Z".parse()? };
/// let text = serde_json::to_string(&event)?;
/// assert_eq!(text, r#"{"LoggedIn":{"at":"2026-03-04T05:06:07.500Z"}}"#);
/// assert_eq!(serde_json::from_str::<UserEvent>(&text)?, event);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

impl UserEvent {
    /// When it happened.
    pub fn at(&self) -> DateTime<Utc> {
        match self {
            Self::LoggedIn { at }
            | Self::CartUsed { at }
            | Self::ProductViewed { at, .. }
            | Self::MarketingOptInSet { at, .. } => *at,
        }
    }
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
