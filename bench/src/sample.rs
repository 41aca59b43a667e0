//! Users, states and commands as they are in use; the same for every contender.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate as _;
use fastrand::Rng;
use user_state_domain::{ProductId, RecentProducts, UserCommand, UserEvent, UserKey, UserState};
use user_state_store::PersistenceId;

/// How many products there are to view.
const PRODUCTS: usize = 1_000;

static PRODUCT_IDS: LazyLock<Vec<ProductId>> =
    LazyLock::new(|| (0..PRODUCTS).map(product).collect());

/// The user with this number.
///
/// # Panics
/// Never: the key is made of letters and digits.
pub fn persistence_id(number: usize) -> PersistenceId {
    let key: Result<UserKey, _> = format!("load-user-{number}").parse();
    key.map_or_else(
        |_| unreachable!("letters, digits and a dash are a key"),
        |key| PersistenceId::from(&key),
    )
}

/// What happened to a user of whom everything is known: one event of each kind, and three products.
pub fn history(at: DateTime<Utc>) -> Vec<UserEvent> {
    let mut events = vec![
        UserEvent::LoggedIn { at },
        UserEvent::CartUsed { at },
        UserEvent::MarketingOptInSet { opt_in: true, at },
    ];
    for number in 1..=3 {
        events.push(UserEvent::ProductViewed {
            product_id: product(number),
            at,
        });
    }
    events
}

/// The state after that history: a row as large as they get in use.
pub fn usual_state(at: DateTime<Utc>) -> UserState {
    UserState {
        last_login: Some(at),
        last_cart_used: Some(at),
        recent_products: RecentProducts::from([3, 2, 1].map(product).to_vec()),
        marketing_opt_in: true,
        last_event_at: Some(at),
    }
}

/// The state after the usual first command.
pub fn first_state(at: DateTime<Utc>) -> UserState {
    let mut state = UserState::default();
    state.apply(UserEvent::ProductViewed {
        product_id: product(1),
        at,
    });
    state
}

/// A random command; mostly views, as in a shop.
pub fn command(random: &mut Rng, at: DateTime<Utc>) -> UserCommand {
    match random.u8(0..10) {
        0 => UserCommand::Login { at },
        1 => UserCommand::UseCart { at },
        2 => UserCommand::SetMarketingOptIn {
            opt_in: random.bool(),
            at,
        },
        _ => match random.choice(PRODUCT_IDS.iter()) {
            Some(product_id) => UserCommand::ViewProduct {
                product_id: product_id.clone(),
                at,
            },
            None => UserCommand::Login { at },
        },
    }
}

fn product(number: usize) -> ProductId {
    ProductId::from(format!("product-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_state_is_what_the_history_leads_to() {
        let at = DateTime::UNIX_EPOCH;
        let mut state = UserState::default();
        for event in history(at) {
            state.apply(event);
        }
        assert_eq!(state, usual_state(at));
    }

    #[test]
    fn every_user_has_an_id_of_its_own() {
        assert_ne!(persistence_id(1), persistence_id(11));
        assert_eq!(persistence_id(7).as_str(), "load-user-7");
    }
}
