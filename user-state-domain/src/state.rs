//! The last known state of a user, and the reducer that keeps it.

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

use crate::command::UserCommand;
use crate::error::UserError;
use crate::event::UserEvent;
use crate::recent_products::RecentProducts;

/// The last known state of a user. It carries no ids: identity lives in the key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserState {
    /// The latest login.
    pub last_login: Option<DateTime<Utc>>,
    /// The latest use of the cart.
    pub last_cart_used: Option<DateTime<Utc>>,
    /// The products viewed last.
    pub recent_products: RecentProducts,
    /// Whether the user agrees to marketing.
    pub marketing_opt_in: bool,
    /// The latest instant of any event.
    pub last_event_at: Option<DateTime<Utc>>,
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
        let event = match command {
            UserCommand::Login { at } => UserEvent::LoggedIn { at },
            UserCommand::UseCart { at } => UserEvent::CartUsed { at },
            UserCommand::ViewProduct { product_id, at } => {
                UserEvent::ProductViewed { product_id, at }
            }
            UserCommand::SetMarketingOptIn { opt_in, at } => {
                UserEvent::MarketingOptInSet { opt_in, at }
            }
        };
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: UserEvent) {
        let at = match event {
            UserEvent::LoggedIn { at } => {
                self.last_login = self.last_login.max(Some(at));
                at
            }
            UserEvent::CartUsed { at } => {
                self.last_cart_used = self.last_cart_used.max(Some(at));
                at
            }
            UserEvent::ProductViewed { product_id, at } => {
                self.recent_products.view(product_id);
                at
            }
            UserEvent::MarketingOptInSet { opt_in, at } => {
                self.marketing_opt_in = opt_in;
                at
            }
        };
        self.last_event_at = self.last_event_at.max(Some(at));
    }
}
