//! A user's state as Pekko's class has it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use user_state_domain::{ProductId, UserKey, UserState};

use crate::local_time::LocalTime;

/// The fields of `com.example.persistdurable.model.UserState`, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    /// Who, by mall.
    pub mall_id: String,
    /// Who, within the mall.
    pub user_id: String,
    /// The latest login.
    pub last_login: Option<LocalTime>,
    /// The latest use of the cart.
    pub last_cart_used_time: Option<LocalTime>,
    /// The products viewed last.
    pub recent_products: Vec<String>,
    /// Whether the user agrees to marketing.
    pub marketing_opt_in: bool,
    /// The latest event; Pekko has it non-null in every stored state, so `None` is a state never stored.
    pub last_event_time: Option<LocalTime>,
}

impl State {
    /// A state of ours as Pekko's class should have it, where the application's zone is UTC.
    pub fn of(key: &UserKey, state: &UserState) -> Self {
        let local = |at: Option<DateTime<Utc>>| at.map(|at| LocalTime(at.naive_utc()));
        let products = state.recent_products.iter();
        Self {
            mall_id: key.mall_id().as_str().to_owned(),
            user_id: key.user_id().as_str().to_owned(),
            last_login: local(state.last_login),
            last_cart_used_time: local(state.last_cart_used),
            recent_products: products
                .map(|product| product.as_str().to_owned())
                .collect(),
            marketing_opt_in: state.marketing_opt_in,
            last_event_time: local(state.last_event_at),
        }
    }

    /// The state of ours that this stands for, where the application's zone is UTC.
    pub fn to_user_state(&self) -> UserState {
        let instant = |at: Option<LocalTime>| at.map(|LocalTime(at)| at.and_utc());
        let products = self.recent_products.iter();
        UserState {
            last_login: instant(self.last_login),
            last_cart_used: instant(self.last_cart_used_time),
            recent_products: products.map(|product| ProductId::new(product)).collect(),
            marketing_opt_in: self.marketing_opt_in,
            last_event_at: instant(self.last_event_time),
        }
    }
}
