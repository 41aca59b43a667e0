//! The stored form of an aggregate: the one place that knows it.

use chrono::{DateTime, Utc};

use crate::error::{DecodeError, EncodeError};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::tags::Tags;

mod primitive;
mod serde;
#[cfg(feature = "users")]
mod user_state;
#[cfg(feature = "users")]
mod zone;

pub use primitive::{Primitive, PrimitiveMapping};
pub use serde::SerdeMapping;
#[cfg(feature = "users")]
pub use user_state::UserStateMapping;

/// Turns an aggregate into a payload and back.
///
/// # Contract
/// `decode(id, encode(id, state))` gives the same state, within the limits the implementation documents.
/// Neither does I/O. Both may be called from any thread.
pub trait StateMapping<A>: Send + Sync + 'static {
    /// The stored form of a state.
    ///
    /// # Errors
    /// Where the state has none. Nothing is written then.
    fn encode(&self, persistence_id: &PersistenceId, state: &A) -> Result<Payload, EncodeError>;

    /// The state that a payload stands for.
    ///
    /// # Errors
    /// Where the payload cannot be read. The row is left as it is then.
    fn decode(&self, persistence_id: &PersistenceId, payload: &Payload) -> Result<A, DecodeError>;

    /// The tags written beside every state.
    fn tags(&self) -> Tags {
        Tags::NONE
    }

    /// The state that stands for "deleted" under [`DeleteForm::Reset`], deleted at this instant.
    fn reset(&self, at: DateTime<Utc>) -> A;
}

/// What deleting an entity leaves in its table; a setting per entity type.
///
/// Source of the reasons: the delete behaviour of each released Pekko plugin. `Reset` is the only form that
/// all of them read correctly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeleteForm {
    /// An ordinary write of the empty state at the next revision. Every released Pekko reads it as what it is.
    #[default]
    Reset,
    /// Pekko 2.0's delete marker at the next revision. Pekko 1.x reads it as a present null.
    Marker,
    /// The row is removed where the revision matches. The entity then counts from 0 again, so revisions are reused,
    /// and a live Pekko 1.2.0 actor of the same id brings the old state back.
    Erase,
}
