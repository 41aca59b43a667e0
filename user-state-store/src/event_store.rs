//! cqrs-es's `EventStore` over durable states, so that `CqrsFramework` runs on `durable_state`.
//!
//! **Problem.** An aggregate written for cqrs-es should be stored as its last state, without the runtime.
//!
//! **How.** When `commit` is called, the aggregate of the context has applied its events already; it is written as it is,
//! by a compare-and-set on the revision it was loaded with, and on the time of that row.
//!
//! **Guarantees.** Of two commits decided on the same state one gets `AggregateConflict`. A store's error stays
//! downcastable: `AggregateError`'s boxed error is a [`StoreError`]. A lost answer is
//! [`StoreError::OutcomeUnknown`], never a failure or a conflict, unless it could be resolved.
//!
//! **Not here.** A history: `load_events` is always [`NoEventHistory`]. Queries get the events of each commit, but
//! cannot be replayed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, AggregateContext, AggregateError, EventEnvelope, EventStore};

use crate::error::{Cause, StoreError};
use crate::mapping::StateMapping;
use crate::persistence_id::PersistenceId;
use crate::resolve::{Resolution, UnresolvedWrite, Writers};
use crate::revision::Revision;
use crate::store::{Store, StoredValue, Write, WriteBatch, WriteOutcome};

/// How often a commit tries to resolve a lost answer before it tells its caller: a second time, where the first
/// attempt met the end of the fault.
const RESOLVE_ATTEMPTS: usize = 2;

/// An `EventStore` that keeps the last state of each aggregate in a [`DurableStateStore`](crate::DurableStateStore).
///
/// The aggregate's id is the whole persistence id, as [`PersistenceId::unique`] takes it. Every commit is one
/// revision, and the `sequence` of each of its events is that revision. A deleted state loads as the default one, at the
/// revision of its mark.
///
/// ```
/// use cqrs_es::{AggregateContext as _, CqrsFramework, EventStore as _};
/// use user_state_domain::{UserCommand, UserState};
/// use user_state_store::{DurableStateEventStore, UserStateMapping, connect};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("user-state.db").display());
/// let store = connect(&url.parse()?).await?;
/// let event_store = DurableStateEventStore::<UserState>::new(&store, UserStateMapping::new());
/// let framework = CqrsFramework::new(event_store.clone(), vec![], ());
///
/// let at = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default();
/// framework.execute("mall-user", UserCommand::Login { at }).await?;
///
/// let mut user = event_store.load_aggregate("mall-user").await?;
/// assert_eq!(user.revision().get(), 1);
/// assert_eq!(user.aggregate().last_login, Some(at));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DurableStateEventStore<A> {
    store: Store,
    mapping: Arc<dyn StateMapping<A>>,
    writers: Writers,
}

/// A loaded aggregate, and the row its commit has to follow; see [`DurableStateEventStore`]'s example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurableStateContext<A> {
    persistence_id: PersistenceId,
    revision: Revision,
    db_timestamp: Option<DateTime<Utc>>,
    aggregate: A,
}

/// A durable state has no events to load.
///
/// ```
/// assert_eq!(user_state_store::NoEventHistory.to_string(), "a durable state has no event history");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a durable state has no event history")]
pub struct NoEventHistory;

impl<A: 'static> DurableStateEventStore<A> {
    /// An event store on this store, with this stored form.
    pub fn new(store: impl Into<Store>, mapping: impl StateMapping<A>) -> Self {
        Self {
            store: store.into(),
            mapping: Arc::new(mapping),
            writers: Writers::Shared,
        }
    }

    /// Says whether anybody else writes these aggregates. By default others do: a lost answer is then told as
    /// unknown where a sole writer would know that what it finds is its own.
    #[must_use]
    pub fn with_writers(mut self, writers: Writers) -> Self {
        self.writers = writers;
        self
    }

    async fn load(&self, aggregate_id: &str) -> Result<DurableStateContext<A>, Failure>
    where
        A: Default,
    {
        let persistence_id = PersistenceId::unique(aggregate_id)
            .map_err(|error| Failure::Unexpected(Box::new(error)))?;
        let row = self.store.states().load_one(&persistence_id).await?;
        let db_timestamp = row.as_ref().map(|row| row.db_timestamp);
        let (revision, aggregate) = match row {
            None => (Revision::NONE, A::default()),
            Some(row) => match row.value {
                StoredValue::Deleted => (row.revision, A::default()),
                StoredValue::Withheld { .. } => {
                    return Err(StoreError::Unavailable(Cause::Protocol).into());
                }
                StoredValue::State(payload) => {
                    let decoded = self.mapping.decode(&persistence_id, &payload);
                    let aggregate = decoded.map_err(|reason| StoreError::Corrupt {
                        persistence_id: persistence_id.clone(),
                        serializer_id: payload.serializer_id,
                        manifest: payload.manifest,
                        reason,
                    })?;
                    (row.revision, aggregate)
                }
            },
        };
        Ok(DurableStateContext {
            persistence_id,
            revision,
            db_timestamp,
            aggregate,
        })
    }

    /// Writes the aggregate of the context; the new revision.
    async fn write(&self, context: &DurableStateContext<A>) -> Result<Revision, Failure> {
        let id = &context.persistence_id;
        let payload = self
            .mapping
            .encode(id, &context.aggregate)
            .map_err(|reason| StoreError::Unencodable {
                persistence_id: id.clone(),
                reason,
            })?;
        let exhausted = || Failure::Unexpected("the revision is the highest there is".into());
        let revision = context.revision.next().ok_or_else(exhausted)?;
        let write = Write::update(id.clone(), context.revision, payload)
            .expected_at(context.db_timestamp)
            .tags(self.mapping.tags());
        let batch = WriteBatch::new(vec![write.clone()])
            .map_err(|error| Failure::Unexpected(Box::new(error)))?;
        match self.store.states().write(&batch).await.pop() {
            Some(WriteOutcome::Applied(_)) => Ok(revision),
            Some(WriteOutcome::Conflict) => Err(Failure::Conflict),
            Some(WriteOutcome::NotApplied(error)) => Err(error.into()),
            Some(WriteOutcome::Fenced) => Err(StoreError::Unavailable(Cause::Fenced).into()),
            Some(WriteOutcome::Unknown(outcome)) => {
                let mut unresolved = UnresolvedWrite::new(write, &outcome);
                for _ in 0..RESOLVE_ATTEMPTS {
                    match unresolved
                        .attempt(self.store.states().as_ref(), self.writers)
                        .await
                    {
                        Resolution::Applied(_) => return Ok(revision),
                        Resolution::NotApplied => return Err(Failure::Conflict),
                        Resolution::Unknown => break,
                        Resolution::Unresolved(_) => {}
                    }
                }
                Err(StoreError::OutcomeUnknown(outcome.cause).into())
            }
            None => Err(Failure::Unexpected("the store gave no outcome".into())),
        }
    }
}

impl<A: Aggregate + 'static> EventStore<A> for DurableStateEventStore<A>
where
    A::Event: Send,
{
    type AC = DurableStateContext<A>;

    /// Always an error: an empty list would say that nothing ever happened.
    async fn load_events(
        &self,
        _aggregate_id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        Err(AggregateError::UnexpectedError(Box::new(NoEventHistory)))
    }

    async fn load_aggregate(
        &self,
        aggregate_id: &str,
    ) -> Result<DurableStateContext<A>, AggregateError<A::Error>> {
        Ok(self.load(aggregate_id).await?)
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        context: DurableStateContext<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let revision = self.write(&context).await?;
        let sequence = usize::try_from(revision.get()).unwrap_or(usize::MAX);
        Ok(events
            .into_iter()
            .map(|payload| EventEnvelope {
                aggregate_id: context.persistence_id.as_str().to_owned(),
                sequence,
                payload,
                metadata: metadata.clone(),
            })
            .collect())
    }
}

impl<A> fmt::Debug for DurableStateEventStore<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DurableStateEventStore")
            .field("store", &self.store)
            .field("writers", &self.writers)
            .finish_non_exhaustive()
    }
}

impl<A> DurableStateContext<A> {
    /// The revision the aggregate was loaded with; [`Revision::NONE`] where it was never written.
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

impl<A: Aggregate> AggregateContext<A> for DurableStateContext<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

/// What goes wrong here, before it is told in cqrs-es's terms.
enum Failure {
    Conflict,
    Store(StoreError),
    Unexpected(Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<E: std::error::Error> From<Failure> for AggregateError<E> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Conflict => Self::AggregateConflict,
            Failure::Store(
                error @ (StoreError::Unavailable(_)
                | StoreError::Misconfigured(_)
                | StoreError::Closed),
            ) => Self::DatabaseConnectionError(Box::new(error)),
            Failure::Store(error @ StoreError::Corrupt { .. }) => {
                Self::DeserializationError(Box::new(error))
            }
            Failure::Store(error) => Self::UnexpectedError(Box::new(error)),
            Failure::Unexpected(error) => Self::UnexpectedError(error),
        }
    }
}
