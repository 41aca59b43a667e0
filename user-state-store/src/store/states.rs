//! Durable states: what is loaded and written.
//!
//! **Problem.** Many entities' states become durable together, yet each needs its own answer: a conflict on
//! one must not harm its neighbours, and a lost answer must not pass for a failure.
//!
//! **How.** A [`WriteBatch`] holds at most one compare-and-set [`Write`](crate::Write) per entity; a backend answers
//! with one [`WriteOutcome`] per write, in the order of the batch. There are three kinds of answers, never more:
//! applied, definitely not applied, and unknown. A write may carry [`Companions`](crate::Companions), rows of other
//! tables that share its outcome, and a batch may name the [`Guards`](crate::Guards) that have to hold for it.
//!
//! **Guarantees.** One row per persistence id; a revision is written only if the stored one is the expected
//! one, and of the time that is expected, if one is; `db_timestamp` strictly increases per id as long as its row lives;
//! a row that cannot be read is never overwritten.
//!
//! **Not here.** Retrying, resolving unknown outcomes (see [`crate::resolve`]) and caching.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::{Cause, StoreError};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::Slice;
use crate::store::{Early, Settled, StateFeeds, UnknownOutcome, WriteBatch};
use crate::tags::Tags;

/// Durable states in a database, one row per persistence id.
///
/// Implemented by [`crate::PostgresStore`] and [`crate::SqliteStore`]; shared as `Arc<dyn DurableStateStore>`, which is also
/// an `Arc<dyn StateFeeds>` and an `Arc<dyn Backend>`. Programs reach it through [`Store::states`](crate::Store::states).
///
/// # Contract
/// The conformance suite (feature `conformance`) is the contract in executable form; each method's
/// `# Contract` section is its text. An implementation keeps its promises when any of its futures is dropped
/// at any await point: a connection with an unfinished call is closed, never reused.
#[async_trait]
pub trait DurableStateStore: StateFeeds {
    /// Loads the rows of these ids in one round trip, or two if payloads are left out. For rows of any size use [`crate::load_in_parts`].
    ///
    /// # Contract
    /// The answer has one element per id, in the order asked: `Ok(None)` if there is no row, and an error
    /// of its own for an id that the database does not take ([`StoreError::Refused`]) or whose row is unreadable
    /// ([`StoreError::Corrupt`], also for a payload beyond the limit), cannot be given by the database
    /// ([`StoreError::Unreadable`]) or is doubled ([`StoreError::DuplicateRows`]). Such an id harms no other; finding it takes
    /// more round trips. Ids may repeat. At most [`BATCH_ROWS_MAX`](crate::BATCH_ROWS_MAX) ids.
    ///
    /// The answer holds at most [`LOAD_BYTES_MAX`](crate::LOAD_BYTES_MAX) of payload, of which each id has an equal share. A larger payload is
    /// left out ([`StoredValue::Withheld`]), one beyond the limit perhaps too: ask again for fewer ids. What a single id
    /// has is never withheld.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Misconfigured`], for all ids together;
    /// [`StoreError::TooLarge`] for too many ids.
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer and nothing else.
    async fn load(&self, ids: &[PersistenceId]) -> Result<Vec<LoadedRow>, StoreError>;

    /// Loads the row of one id, with its payload however large: [`DurableStateStore::load`] for a single id.
    ///
    /// # Errors
    /// Those of the call and those of the id.
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer and nothing else.
    async fn load_one(&self, id: &PersistenceId) -> LoadedRow {
        let rows = self.load(std::slice::from_ref(id)).await?;
        let unanswered = Err(StoreError::Unavailable(Cause::Protocol));
        rows.into_iter().next().unwrap_or(unanswered)
    }

    /// Writes a batch, and returns when every write has its outcome.
    ///
    /// # Contract
    /// One outcome per write, in the order of `batch.writes()`. A write is applied where the stored revision
    /// is the expected one, and the stored `db_timestamp` too where one is expected, and only there; a creating write ([`Revision::NONE`] expected) only where no row
    /// exists, and never beside one that another writer makes meanwhile. One write's failure leaves the others
    /// of the batch unharmed. An outcome is [`WriteOutcome::NotApplied`] only where the write surely
    /// was not applied and will not be later.
    ///
    /// The companions of a write ([`Write::companions`](crate::Write#structfield.companions)) are stored in its transaction, or
    /// not at all: all of them if it is applied, none otherwise. If the database refuses one of them, the write is
    /// [`WriteOutcome::NotApplied`] with the reason. If a condition of one of them does not hold
    /// ([`CompanionSql::requiring`](crate::CompanionSql::requiring)), it is [`WriteOutcome::Conflict`].
    ///
    /// The guards of a batch ([`WriteBatch::guarded`]) are compared once in each statement or transaction, which holds them
    /// until it ends. Where one does not hold, nothing is applied under it: each of its writes is [`WriteOutcome::Fenced`],
    /// and the others go on without them.
    ///
    /// # Cancel safety
    /// After a drop the writes may or may not have been applied.
    async fn write(&self, batch: &WriteBatch) -> Vec<WriteOutcome>;

    /// Writes a batch, and reports outcomes while others of it are still open.
    ///
    /// Some writes take longer than their neighbours, such as that of a row which somebody else holds locked. A caller
    /// that can use the other outcomes meanwhile calls this in place of [`DurableStateStore::write`].
    ///
    /// # Contract
    /// As for [`DurableStateStore::write`], and each write is reported exactly once: in a call of `early`, or in the
    /// answer. `early` is called when what is left of the batch takes longer: it has to wait, or to be sent again. An empty
    /// report says that all that is left waits for somebody else, and no other report says so: a caller that bounds how
    /// much is in flight need not count the rest any more. In the common case all outcomes come at once as the answer, and
    /// `early` is not called at all. `early` is called from inside this future, never after it has ended.
    ///
    /// The provided implementation reports nothing early. A store that wraps another one passes the call on, so that
    /// its callers do not wait longer than those of the store it wraps.
    ///
    /// # Cancel safety
    /// As for [`DurableStateStore::write`]; what was reported before the drop stands.
    async fn write_early(&self, batch: &WriteBatch, _early: &Early<'_>) -> Vec<Settled> {
        Settled::in_order(self.write(batch).await)
    }
}

/// What a load found for one id: its row, `None` if there is none, or what is wrong with this id alone.
pub type LoadedRow = Result<Option<StoredState>, StoreError>;

/// A row, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// Whose row this is.
    pub persistence_id: PersistenceId,
    /// The stored slice.
    pub slice: Slice,
    /// The stored entity type.
    pub entity_type: Box<str>,
    /// The stored revision.
    pub revision: Revision,
    /// When the row was last written, by the database's clock, in whole microseconds; strictly increasing per id as
    /// long as the row lives.
    pub db_timestamp: DateTime<Utc>,
    /// The state, or the mark that it was deleted.
    pub value: StoredValue,
    /// The stored tags.
    pub tags: Tags,
}

/// What a row says of an entity's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredValue {
    /// A serialized state.
    State(Payload),
    /// Pekko 2.0's delete marker: serializer 0 and an empty payload.
    Deleted,
    /// A serialized state that was left out of the answer to a load, since it is larger than its share of it. Only a load of
    /// several ids has this value: load the id again, with fewer others or alone.
    Withheld {
        /// How many bytes the payload has.
        payload_bytes: usize,
    },
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is durable. The new `db_timestamp`, exactly as a load tells it; `None` after [`Change::Erase`](crate::Change::Erase).
    Applied(Option<DateTime<Utc>>),
    /// Not applied: the stored revision or time is not the expected one, or a row exists that must not, or what a companion
    /// requires is not there.
    Conflict,
    /// Surely not applied, and it will not be later.
    NotApplied(StoreError),
    /// Surely not applied, and it will not be later: the guard that it was to be written under does not hold.
    Fenced,
    /// It was sent and its answer was lost: it may have been applied, or may still be.
    Unknown(UnknownOutcome),
}
