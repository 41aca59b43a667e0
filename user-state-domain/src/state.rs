//! The last known state of a user, and the reducer that keeps it.

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

use crate::command::UserCommand;
use crate::error::UserError;
use crate::event::UserEvent;
use crate::instant;
use crate::recent_products::RecentProducts;

/// The last known state of a user. It carries no ids: identity lives in the key.
///
/// The instants never go backwards, whatever order events arrive in; products and opt-in follow arrival order.
/// In its serde form absent fields are their defaults and unknown ones are ignored, so that states written before
/// or after a change of this type stay readable.
///
/// ```
/// use cqrs_es::Aggregate;
/// use user_state_domain::{UserEvent, UserState};
///
/// let mut state = UserState::default();
/// let (earlier, later) = ("2026-03-04T05:00:00Z".parse()?, "2026-03-04T06:00:00Z".parse()?);
/// state.apply(UserEvent::LoggedIn { at: later });
/// state.apply(UserEvent::LoggedIn { at: earlier });
/// assert_eq!(state.last_login, Some(later), "a late event does not turn time back");
/// # Ok::<(), chrono::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserState {
    /// The latest login.
    #[serde(deserialize_with = "instant::deserialize_option")]
    pub last_login: Option<DateTime<Utc>>,
    /// The latest use of the cart.
    #[serde(deserialize_with = "instant::deserialize_option")]
    pub last_cart_used: Option<DateTime<Utc>>,
    /// The products viewed last.
    pub recent_products: RecentProducts,
    /// Whether the user agrees to marketing.
    pub marketing_opt_in: bool,
    /// The latest instant of any event.
    #[serde(deserialize_with = "instant::deserialize_option")]
    pub last_event_at: Option<DateTime<Utc>>,
}

impl UserState {
    /// The empty state of a user whose state was deleted at this instant: nothing is known but that instant.
    ///
    /// ```
    /// use user_state_domain::UserState;
    ///
    /// let at = "2026-03-04T05:00:00Z".parse()?;
    /// let state = UserState::emptied(at);
    /// assert_eq!(state, UserState { last_event_at: Some(at), ..UserState::default() });
    /// # Ok::<(), chrono::ParseError>(())
    /// ```
    pub fn emptied(at: DateTime<Utc>) -> Self {
        Self {
            last_event_at: Some(instant::normalise(at)),
            ..Self::default()
        }
    }
}

impl Aggregate for UserState {
    const TYPE: &'static str = "UserState";
    type Command = UserCommand;
    type Event = UserEvent;
    type Error = UserError;
    type Services = ();

    async fn handle(
        &mut self,
        command: UserCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), UserError> {
        sink.write(UserEvent::try_from(command)?, self).await;
        Ok(())
    }

    fn apply(&mut self, event: UserEvent) {
        let at = Some(instant::normalise(event.at()));
        match event {
            UserEvent::LoggedIn { .. } => self.last_login = self.last_login.max(at),
            UserEvent::CartUsed { .. } => self.last_cart_used = self.last_cart_used.max(at),
            UserEvent::ProductViewed { product_id, .. } => self.recent_products.view(product_id),
            UserEvent::MarketingOptInSet { opt_in, .. } => self.marketing_opt_in = opt_in,
        }
        self.last_event_at = self.last_event_at.max(at);
    }
}
