//! What a shop's user did last: pure commands, events, state and reducers.

mod command;
mod error;
mod event;
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
