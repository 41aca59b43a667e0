//! Change feeds of decoded states.
//!
//! **Problem.** A feed gives payloads; whoever follows it wants states, and has to know of a row whose payload the mapping
//! cannot read. **How.** The items of a feed pass through the mapping. A payload that it cannot read becomes an error which
//! names the row, and the feed goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};

use super::{StateChange, TimestampOffset, UnreadableChange, UnreadableRow};
use crate::error::{DecodeError, StoreError};
use crate::mapping::StateMapping;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::revision::Revision;
use crate::slice::Slice;
use crate::store::StoredValue;
use crate::tags::Tags;

/// A state out of a change feed, decoded; see [`typed_changes`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypedChange<A> {
    /// Whose state it is.
    pub persistence_id: PersistenceId,
    /// The slice of that id.
    pub slice: Slice,
    /// The revision of the state.
    pub revision: Revision,
    /// When it was written.
    pub db_timestamp: DateTime<Utc>,
    /// The state, or that there is none any more.
    pub value: TypedValue<A>,
    /// The stored tags.
    pub tags: Tags,
    /// Where a feed goes on behind it.
    pub offset: TimestampOffset,
}

/// What a [`TypedChange`] says of the entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedValue<A> {
    /// Its state. With [`DeleteForm::Reset`](crate::DeleteForm::Reset) a deletion is one, too: the mapping's empty state.
    State(A),
    /// It was deleted, and left Pekko's mark of that.
    Deleted,
}

impl<A> TypedChange<A> {
    /// The state, unless it was deleted.
    pub fn state(&self) -> Option<&A> {
        match &self.value {
            TypedValue::State(state) => Some(state),
            TypedValue::Deleted => None,
        }
    }
}

/// A feed of decoded states, made of a feed of payloads: of [`changes_by_slices`](crate::changes_by_slices) or of
/// [`current_changes_by_slices`](crate::current_changes_by_slices).
///
/// Order, offsets, repetition and the end are those of the feed that is given.
///
/// # Errors
/// Those of that feed. In addition, a payload that the mapping cannot read is an item
/// [`StoreError::UnreadableChange`] in the place of its change. It names the row, its reason is [`StoreError::Corrupt`],
/// and the feed goes on with the next row. Whoever stops there has lost nothing: begin again at the offset of the last
/// change that was handled. Whoever goes on leaves that row out, since the offsets of later changes are behind it, as is
/// [`UnreadableChange::behind`](crate::UnreadableChange::behind). A mapping that panics is one that cannot read the payload.
///
/// # Cancel safety
/// As with the feed that is given. States are decoded when they are asked for, so nothing is lost in between.
///
/// ```
/// use std::sync::Arc;
///
/// use futures_util::TryStreamExt as _;
/// use serde::{Deserialize, Serialize};
/// use user_state_store::{
///     DurableStateStore, PersistenceId, SerdeMapping, SliceRange, SqliteStore, StateMapping as _,
///     StoreSettings, TimestampOffset, Write, WriteBatch, current_changes_by_slices, typed_changes,
/// };
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Stock {
///     pieces: u32,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
/// let mapping = SerdeMapping::<Stock>::new("com.example.Stock");
/// let persistence_id = PersistenceId::of("Stock", "p-1")?;
/// let payload = mapping.encode(&persistence_id, &Stock { pieces: 7 })?;
/// let write = Write::create(persistence_id, payload);
/// store.write(&WriteBatch::new(vec![write])?).await;
///
/// let start = TimestampOffset::default();
/// let changes = current_changes_by_slices(&store, "Stock", SliceRange::ALL, start);
/// let mut changes = std::pin::pin!(typed_changes(changes, Arc::new(mapping)));
/// let change = changes.try_next().await?.ok_or("one was written")?;
/// assert_eq!(change.state(), Some(&Stock { pieces: 7 }));
/// assert!(changes.try_next().await?.is_none());
/// # Ok(())
/// # }
/// ```
pub fn typed_changes<A, S>(
    changes: S,
    mapping: Arc<dyn StateMapping<A>>,
) -> impl Stream<Item = Result<TypedChange<A>, StoreError>> + use<A, S>
where
    S: Stream<Item = Result<StateChange, StoreError>>,
    A: 'static,
{
    changes.map(move |item| item.and_then(|change| typed(change, mapping.as_ref())))
}

fn typed<A: 'static>(
    change: StateChange,
    mapping: &dyn StateMapping<A>,
) -> Result<TypedChange<A>, StoreError> {
    let StateChange { state, offset } = change;
    let value = match &state.value {
        StoredValue::Deleted => Ok(TypedValue::Deleted),
        StoredValue::State(payload) => {
            decoded(&state.persistence_id, payload, mapping).map(TypedValue::State)
        }
        StoredValue::Withheld { payload_bytes } => Err(StoreError::TooLarge {
            what: "the payload left out of the change, in bytes".into(),
            actual: *payload_bytes,
            limit: 0,
        }),
    };
    match value {
        Ok(value) => Ok(TypedChange {
            persistence_id: state.persistence_id,
            slice: state.slice,
            revision: state.revision,
            db_timestamp: state.db_timestamp,
            value,
            tags: state.tags,
            offset,
        }),
        Err(reason) => Err(StoreError::UnreadableChange(Box::new(UnreadableChange {
            row: UnreadableRow {
                persistence_id: state.persistence_id,
                slice: state.slice,
                revision: state.revision.get(),
                db_timestamp: state.db_timestamp,
                reason,
            },
            behind: offset,
        }))),
    }
}

fn decoded<A: 'static>(
    id: &PersistenceId,
    payload: &Payload,
    mapping: &dyn StateMapping<A>,
) -> Result<A, StoreError> {
    catch_unwind(AssertUnwindSafe(|| mapping.decode(id, payload)))
        .unwrap_or(Err(DecodeError::Panicked))
        .map_err(|reason| StoreError::Corrupt {
            persistence_id: id.clone(),
            serializer_id: payload.serializer_id,
            manifest: payload.manifest.clone(),
            reason,
        })
}
