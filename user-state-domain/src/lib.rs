//! What a shop's user did last: pure commands, events, state and reducers.
//!
//! A user of a mall logs in, uses the cart, views products, agrees to marketing. This crate says what each of
//! these leaves behind in the user's last known state, and nothing else: no clock, no I/O, no randomness. It serves
//! alone for tests of pure logic; the store crate makes the state durable and the runtime crate keeps it live.
//!
//! [`UserState`] is a [`cqrs_es::Aggregate`], so given/when/then tests read as they should:
//!
//! ```
//! use cqrs_es::Aggregate;
//! use cqrs_es::test::TestFramework;
//! use user_state_domain::{ProductId, UserCommand, UserEvent, UserState};
//!
//! let at = "2026-03-04T05:06:07Z".parse()?;
//! let viewed = |id: &str| UserEvent::ProductViewed { product_id: ProductId::new(id), at };
//!
//! TestFramework::<UserState>::with(())
//!     .given(vec![UserEvent::LoggedIn { at }])
//!     .when(UserCommand::ViewProduct { product_id: ProductId::new("p4"), at })
//!     .then_expect_events(vec![viewed("p4")]);
//!
//! let mut state = UserState::default();
//! for product in ["p1", "p2", "p3", "p4"] {
//!     state.apply(viewed(product));
//! }
//! let kept: Vec<&str> = state.recent_products.iter().map(ProductId::as_str).collect();
//! assert_eq!(kept, ["p4", "p3", "p2"]);
//! assert_eq!(state.last_event_at, Some(at));
//! # Ok::<(), chrono::ParseError>(())
//! ```
//!
//! # Guarantees
//!
//! - Every accepted command is exactly one event; the fold of the events is the state.
//! - Events may arrive late or twice. The `last_*` instants never go backwards, and replaying any suffix of a user's
//!   history in its order changes nothing.
//! - Never more than three products are kept, never one twice.
//! - No instant in a state lies inside a leap second, so each has a text that Java reads too.
//! - No input makes it panic, and the size of a state is bounded ([`PRODUCT_ID_BYTES_MAX`]).

mod command;
mod error;
mod event;
mod instant;
mod key;
mod product_id;
mod recent_products;
mod state;

pub use command::UserCommand;
pub use error::UserError;
pub use event::UserEvent;
pub use key::{InvalidKey, KEY_CHARACTERS_MAX, MallId, UserId, UserKey};
pub use product_id::{PRODUCT_ID_BYTES_MAX, ProductId};
pub use recent_products::{RECENT_PRODUCTS_MAX, RecentProducts};
pub use state::UserState;
