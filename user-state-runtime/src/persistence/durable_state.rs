//! Entities stored as their last state: one row each, replaced by every write.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use user_state_store::{
    Cause, Change, DecodeError, DeleteForm, DurableStateStore, PersistenceId,
    Resolution as StoreResolution, Revision, Settled, StateMapping, StoreError, StoredState,
    StoredValue, Tags, UnknownOutcome, UnresolvedWrite, Write, WriteBatch, WriteOutcome, Writers,
};

use super::{
    ChangeKind, Cut, Deletion, Early, Intake, Key, Known, Outcome, Outcomes, Persistence, Recovery,
    Resolution, Resolutions, Storage, Weight,
};
use crate::error::RequestError;
use crate::live_aggregate::LiveAggregate;

mod row;

use row::Row;

/// The last state of each entity, in a durable state store.
pub(crate) struct DurableState<A> {
    pub(crate) store: Arc<dyn DurableStateStore>,
    pub(crate) mapping: Arc<dyn StateMapping<A>>,
    pub(crate) tags: Tags,
    pub(crate) delete_form: DeleteForm,
    pub(crate) writers: Writers,
}

impl<A: LiveAggregate> Persistence<A> for DurableState<A> {
    type Known = Row;
    type Gathered = ();
    type Write = Write;
    type Lost = UnresolvedWrite;

    /// A command moves the revision by one, however many events it made.
    fn gather(
        &self,
        (): &mut (),
        revision: Revision,
        _events: Vec<A::Event>,
    ) -> Result<Revision, RequestError> {
        revision.next().ok_or(RequestError::RevisionsExhausted)
    }

    /// A creating write holds the state after the first command, as Pekko's does, so the second waits
    /// until that is cut. Later writes replace each other.
    fn intake(&self, from: Revision, (): &()) -> Intake {
        if from.is_none() {
            Intake::CutFirst
        } else {
            Intake::Open
        }
    }

    fn delete(
        &self,
        revision: Revision,
        at: DateTime<Utc>,
    ) -> Result<Option<Deletion<A>>, RequestError> {
        if revision.is_none() && self.delete_form != DeleteForm::Marker {
            return Ok(None);
        }
        let (state, next) = match self.delete_form {
            DeleteForm::Reset => (self.mapping.reset(at), revision.next()),
            DeleteForm::Marker => (A::default(), revision.next()),
            DeleteForm::Erase => (A::default(), Some(Revision::NONE)),
        };
        let revision = next.ok_or(RequestError::RevisionsExhausted)?;
        Ok(Some(Deletion { state, revision }))
    }

    fn cut(&self, cut: Cut<'_, A, Self>) -> Result<Write, RequestError> {
        let change = match (cut.change, self.delete_form) {
            (ChangeKind::Deletion, DeleteForm::Marker) => Change::Mark,
            (ChangeKind::Deletion, DeleteForm::Erase) => Change::Erase,
            (ChangeKind::Deletion, DeleteForm::Reset) | (ChangeKind::Commands(()), _) => {
                let payload = self.mapping.encode(cut.id, cut.state).map_err(|reason| {
                    RequestError::Refused(StoreError::Unencodable {
                        persistence_id: cut.id.clone(),
                        reason,
                    })
                })?;
                Change::Put {
                    revision: cut.to,
                    payload,
                    tags: self.tags.clone(),
                }
            }
        };
        let write = Write::new(cut.id.clone(), cut.known.revision(), change);
        Ok(write.expected_at(cut.known.db_timestamp()))
    }

    fn weight(&self, write: &Write) -> Weight {
        Weight {
            rows: 1,
            bytes: write.bytes(),
        }
    }
}

impl<A: LiveAggregate> Storage<A> for DurableState<A> {
    async fn recover(&self, wanted: Vec<(Key, PersistenceId)>) -> Vec<(Key, Recovery<A, Row>)> {
        let (keys, ids): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        let missing = || {
            let error = StoreError::Unavailable(Cause::other("the store panicked"));
            Err(RequestError::not_loaded(error))
        };
        let mut recovered: Vec<_> = keys.into_iter().map(|key| (key, missing())).collect();
        // Each row is decoded as it comes, so that no more than a part's payloads are held.
        let loading = user_state_store::load_in_parts(self.store.as_ref(), &ids, |place, row| {
            if let (Some((_, recovery)), Some(id)) = (recovered.get_mut(place), ids.get(place)) {
                *recovery = self.decode(id, row);
            }
        });
        // What did not come before a panic keeps the answer that it has.
        drop(AssertUnwindSafe(loading).catch_unwind().await);
        recovered
    }

    async fn write(
        &self,
        mut batch: Vec<(Key, Write)>,
        early: &Early<'_, Row, UnresolvedWrite>,
    ) -> Outcomes<Row, UnresolvedWrite> {
        // As the batch sorts them, so that an index in it leads to the key.
        batch
            .sort_unstable_by(|(_, one), (_, other)| one.persistence_id.cmp(&other.persistence_id));
        let (keys, writes): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let batch = WriteBatch::new(writes).unwrap_or_else(|broken| {
            unreachable!("a shard cuts one valid write per entity: {broken}")
        });
        // The key of each write that has no outcome yet.
        let open = Mutex::new(keys.into_iter().map(Some).collect::<Vec<_>>());
        let with_keys = |settled: Vec<Settled>| -> Outcomes<_, _> {
            let keys = &mut *open.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = |Settled { index, outcome }| {
                // Reported once, whatever the store does.
                let key = keys.get_mut(index)?.take()?;
                Some((key, outcome_of(batch.writes().get(index)?, outcome)))
            };
            settled.into_iter().filter_map(outcome).collect()
        };
        let report = |settled: Vec<Settled>| early(with_keys(settled));
        let writing = AssertUnwindSafe(self.store.write_early(&batch, &report));
        let last = writing.catch_unwind().await.unwrap_or_default();
        let mut outcomes = with_keys(last);
        let keys = open.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Without an outcome of its own a write may have been applied.
        for (key, write) in keys.into_iter().zip(batch.writes()) {
            if let Some(key) = key {
                let unknown = WriteOutcome::Unknown(UnknownOutcome {
                    session: None,
                    cause: Cause::other("the store gave no outcome"),
                });
                outcomes.push((key, outcome_of(write, unknown)));
            }
        }
        outcomes
    }

    async fn resolve(
        &self,
        lost: Vec<(Key, UnresolvedWrite)>,
    ) -> Resolutions<Row, UnresolvedWrite> {
        let (keys, mut writes): (Vec<_>, Vec<_>) = lost.into_iter().unzip();
        let attempt = user_state_store::resolve(self.store.as_ref(), &mut writes, self.writers);
        let resolutions = AssertUnwindSafe(attempt)
            .catch_unwind()
            .await
            .unwrap_or_default();
        // An attempt that panicked has found out nothing.
        let mut resolutions = resolutions.into_iter();
        keys.into_iter()
            .zip(writes)
            .map(|(key, write)| {
                let resolution = match resolutions.next() {
                    Some(StoreResolution::Applied(at)) => {
                        Resolution::Applied(stored_after(write.write(), at))
                    }
                    Some(StoreResolution::NotApplied) => Resolution::NotApplied,
                    Some(StoreResolution::Unknown) => Resolution::Unknown,
                    Some(StoreResolution::Unresolved(_)) | None => Resolution::Open(write),
                };
                (key, resolution)
            })
            .collect()
    }
}

impl<A: LiveAggregate> DurableState<A> {
    fn decode(
        &self,
        id: &PersistenceId,
        row: Result<Option<StoredState>, StoreError>,
    ) -> Recovery<A, Row> {
        let (value, row) = match row.map_err(RequestError::not_loaded)? {
            Some(row) => (row.value, Row::new(row.revision, Some(row.db_timestamp))),
            None => (StoredValue::Deleted, Row::NONE),
        };
        let payload = match value {
            StoredValue::State(payload) => payload,
            StoredValue::Deleted => {
                let initial = std::panic::catch_unwind(A::default);
                return initial
                    .map(|state| (state, row))
                    .map_err(|_panic| RequestError::Panicked);
            }
            StoredValue::Withheld { .. } => {
                let withheld = StoreError::Unavailable(Cause::Protocol);
                return Err(RequestError::not_loaded(withheld));
            }
        };
        let decoding = AssertUnwindSafe(|| self.mapping.decode(id, &payload));
        let decoded = std::panic::catch_unwind(decoding).unwrap_or(Err(DecodeError::Panicked));
        decoded.map(|state| (state, row)).map_err(|reason| {
            RequestError::not_loaded(StoreError::Corrupt {
                persistence_id: id.clone(),
                serializer_id: payload.serializer_id,
                manifest: payload.manifest.clone(),
                reason,
            })
        })
    }
}

fn outcome_of(write: &Write, outcome: WriteOutcome) -> Outcome<Row, UnresolvedWrite> {
    match outcome {
        WriteOutcome::Applied(at) => Outcome::Applied(stored_after(write, at)),
        WriteOutcome::Conflict => Outcome::Conflict,
        WriteOutcome::NotApplied(error) => Outcome::NotApplied(RequestError::not_applied(error)),
        WriteOutcome::Fenced => {
            let fenced = StoreError::Unavailable(Cause::Fenced);
            Outcome::NotApplied(RequestError::not_applied(fenced))
        }
        WriteOutcome::Unknown(outcome) => {
            Outcome::Unknown(UnresolvedWrite::new(write.clone(), &outcome))
        }
    }
}

/// The row that a write leaves.
fn stored_after(write: &Write, at: Option<DateTime<Utc>>) -> Row {
    Row::new(write.new_revision(), at)
}
