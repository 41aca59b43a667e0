//! What can be asked of a user's state.

use chrono::{DateTime, Utc};

use crate::error::UserError;
use crate::event::UserEvent;
use crate::instant;
use crate::product_id::{PRODUCT_ID_BYTES_MAX, ProductId};

/// A command to a user, with the instant it happened, given by the caller.
///
/// Whether a command is accepted depends on the command alone, never on the state; an accepted one becomes exactly
/// one [`UserEvent`].
///
/// ```
/// use user_state_domain::{ProductId, UserCommand, UserError, UserEvent};
///
/// let at = "2026-03-04T05:06:07Z".parse()?;
/// let view = UserCommand::ViewProduct { product_id: ProductId::new("p-1"), at };
/// assert_eq!(view.at(), at);
/// assert_eq!(
///     UserEvent::try_from(view),
///     Ok(UserEvent::ProductViewed { product_id: ProductId::new("p-1"), at }),
/// );
///
/// let nothing = UserCommand::ViewProduct { product_id: ProductId::new(""), at };
/// assert_eq!(UserEvent::try_from(nothing), Err(UserError::EmptyProductId));
/// # Ok::<(), chrono::ParseError>(())
/// ```
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

impl UserCommand {
    /// When it happened, as the caller said.
    pub fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Login { at }
            | Self::UseCart { at }
            | Self::ViewProduct { at, .. }
            | Self::SetMarketingOptIn { at, .. } => *at,
        }
    }
}

/// The event an accepted command becomes. An instant inside a leap second becomes the last nanosecond before it.
impl TryFrom<UserCommand> for UserEvent {
    type Error = UserError;

    fn try_from(command: UserCommand) -> Result<Self, UserError> {
        let at = instant::normalise(command.at());
        Ok(match command {
            UserCommand::Login { .. } => Self::LoggedIn { at },
            UserCommand::UseCart { .. } => Self::CartUsed { at },
            UserCommand::ViewProduct { product_id, .. } => Self::ProductViewed {
                product_id: accepted(product_id)?,
                at,
            },
            UserCommand::SetMarketingOptIn { opt_in, .. } => Self::MarketingOptInSet { opt_in, at },
        })
    }
}

fn accepted(product_id: ProductId) -> Result<ProductId, UserError> {
    match product_id.as_str().len() {
        0 => Err(UserError::EmptyProductId),
        bytes if bytes > PRODUCT_ID_BYTES_MAX => Err(UserError::ProductIdTooLong { bytes }),
        _ => Ok(product_id),
    }
}
