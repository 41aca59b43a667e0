//! Finding out what became of a write whose answer was lost.
//!
//! **Problem.** Reading the row is not enough: the database session that lost its client may still be running the write,
//! so the row can change after it was read.
//!
//! **How.** One [`attempt`](UnresolvedWrite::attempt) makes sure that the old sessions are gone, then repeats the
//! *identical* compare-and-set, and reads the row only where that conflicts. Of the lost write and its
//! repetitions at most one can hit, whichever of them runs last. The decision is a pure function, see `resolve/decision.rs`.
//!
//! A repetition carries the companions of the write, which share its transaction: the row decides for all of them. It is sent
//! under the guard of the write, with the epoch of then; one that is fenced leaves the answer to the row.
//!
//! **Guarantees.** [`Resolution::Applied`] and [`Resolution::NotApplied`] are certain, within one limit: where another
//! writer erases rows ([`Change::Erase`](crate::Change::Erase)) revisions count anew, and a row of a later life can be
//! taken for someone else's write of this one.
//!
//! **Not here.** When to try again and when to give up.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::error::{Cause, StoreError};
use crate::parts::load_in_parts;
use crate::store::{
    DurableStateStore, Fence, Guard, GuardKind, Guards, UnknownOutcome, Write, WriteBatch,
    WriteOutcome, WriterSession,
};

mod decision;
mod likeness;

use decision::Step;

/// The outcome of a write that a store gave none for.
const UNANSWERED: UnknownOutcome = UnknownOutcome {
    session: None,
    cause: Cause::Protocol,
};

/// A write whose outcome is unknown, and the sessions that may still be running it.
///
/// ```
/// use user_state_store::{
///     Cause, Change, DurableStateStore, Manifest, Payload, PersistenceId, Resolution, Revision,
///     SerializerId, SqliteStore, StoreSettings, Tags, UnknownOutcome, UnresolvedWrite, Write, Writers,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("user-state.db");
/// let store = SqliteStore::open(&path, &StoreSettings::default()).await?;
/// let payload = Payload {
///     serializer_id: SerializerId::JACKSON_JSON,
///     manifest: Manifest::new("com.example.State"),
///     bytes: b"{}".to_vec(),
/// };
/// let write = Write::create(PersistenceId::unique("mall-user")?, payload);
/// // The answer to this write was lost, and in fact it never reached the database.
/// let lost = UnknownOutcome { session: None, cause: Cause::Deadline };
/// let mut unresolved = UnresolvedWrite::new(write, &lost);
/// let resolution = unresolved.attempt(&store, Writers::Sole).await;
/// assert!(matches!(resolution, Resolution::Applied(Some(_))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnresolvedWrite {
    write: Write,
    guard: Option<(&'static GuardKind, Guard)>,
    sessions: Vec<WriterSession>,
}

/// Whether anybody else may write the entity: another runtime, another framework, a Pekko application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Writers {
    /// Only the caller: a row that looks like the lost write is the lost write.
    Sole,
    /// Others too: a row that looks like the lost write may be theirs.
    Shared,
}

/// What one attempt found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The write is durable. The row's `db_timestamp`, as [`WriteOutcome::Applied`] holds it, so that the next write can
    /// expect it; `None` after [`Change::Erase`](crate::Change::Erase).
    Applied(Option<DateTime<Utc>>),
    /// The write was not applied and will not be: someone else's write stands, or the database refuses it. Reload
    /// and decide again.
    NotApplied,
    /// It cannot be told any more, however often it is tried. Reload; the caller of the write has to be told so.
    Unknown,
    /// Not yet: try again later. The reason is [`StoreError::Unavailable`], [`StoreError::OutcomeUnknown`] where
    /// the answer to the repetition was lost too, or what else kept the store from answering.
    Unresolved(StoreError),
}

impl UnresolvedWrite {
    /// A write, and what is known of how its answer was lost.
    pub fn new(write: Write, outcome: &UnknownOutcome) -> Self {
        Self {
            write,
            guard: None,
            sessions: outcome.session.into_iter().collect(),
        }
    }

    /// The same of a batch with these guards. Without them a program that lost the right to write the entity would still
    /// repeat the write.
    #[must_use]
    pub fn guarded_as(mut self, guards: Option<&Guards>) -> Self {
        self.guard = guards.and_then(|guards| {
            let guard = guards.of(self.write.persistence_id.slice())?;
            Some((guards.kind(), guard))
        });
        self
    }

    /// The write.
    pub fn write(&self) -> &Write {
        &self.write
    }

    /// The sessions that may still be running it; one more after each repetition whose answer was lost too.
    pub fn sessions(&self) -> &[WriterSession] {
        &self.sessions
    }

    /// Makes one attempt: at most one fence per session, one write and one load.
    ///
    /// # Cancel safety
    /// Run it to its end: a dropped attempt may have sent the write from a session that nobody knows.
    pub async fn attempt(&mut self, store: &dyn DurableStateStore, writers: Writers) -> Resolution {
        let resolutions = resolve(store, std::slice::from_mut(self), writers).await;
        resolutions
            .into_iter()
            .next()
            .unwrap_or(Resolution::Unknown)
    }
}

/// Makes one attempt for several writes together, such as those of one failed batch: one fence per session, one
/// write, one load. The answers are in the order of the writes.
///
/// Writes that make no batch together, two of one entity say, are tried one after the other.
///
/// # Cancel safety
/// Run it to its end: a dropped attempt may have sent the writes from a session that nobody knows.
pub async fn resolve(
    store: &dyn DurableStateStore,
    lost: &mut [UnresolvedWrite],
    writers: Writers,
) -> Vec<Resolution> {
    fence(store, lost).await;
    if let Some(batch) = together(lost) {
        return repeat(store, lost, &batch, writers).await;
    }
    let mut resolutions = Vec::with_capacity(lost.len());
    for unresolved in lost {
        let alone = std::slice::from_mut(unresolved);
        let resolution = match together(alone) {
            Some(batch) => repeat(store, alone, &batch, writers).await.pop(),
            None => None,
        };
        resolutions.push(resolution.unwrap_or(Resolution::Unknown));
    }
    resolutions
}

/// One batch of these writes, if they make one: no two of one entity, and all under guards of one kind or all without.
fn together(lost: &[UnresolvedWrite]) -> Option<WriteBatch> {
    let writes = lost.iter().map(|unresolved| unresolved.write.clone());
    let batch = WriteBatch::new(writes.collect()).ok()?;
    let kind = |unresolved: &UnresolvedWrite| unresolved.guard.map(|(kind, _)| kind);
    let first = lost.first().and_then(kind);
    if lost.iter().any(|unresolved| kind(unresolved) != first) {
        return None;
    }
    let Some(kind) = first else {
        return Some(batch);
    };
    let guards = lost
        .iter()
        .filter_map(|unresolved| unresolved.guard.map(|(_, guard)| guard));
    batch.guarded(kind, guards).ok()
}

/// Forgets the sessions that are surely gone.
async fn fence(store: &dyn DurableStateStore, lost: &mut [UnresolvedWrite]) {
    let mut fences: HashMap<WriterSession, Fence> = HashMap::new();
    for unresolved in lost {
        let mut open = Vec::new();
        for session in std::mem::take(&mut unresolved.sessions) {
            let fence = match fences.get(&session) {
                Some(fence) => *fence,
                None => store.fence(&session).await,
            };
            fences.insert(session, fence);
            if fence == Fence::Open {
                open.push(session);
            }
        }
        unresolved.sessions = open;
    }
}

/// Sends the writes once more, and reads the rows of those that the answer does not decide.
async fn repeat(
    store: &dyn DurableStateStore,
    lost: &mut [UnresolvedWrite],
    batch: &WriteBatch,
    writers: Writers,
) -> Vec<Resolution> {
    let sent = batch.writes().iter().map(|write| &write.persistence_id);
    let mut outcomes: HashMap<_, _> = sent.zip(store.write(batch).await).collect();
    let mut resolutions = Vec::with_capacity(lost.len());
    let (mut unread, mut ids) = (Vec::new(), Vec::new());
    for (place, unresolved) in lost.iter_mut().enumerate() {
        let id = &unresolved.write.persistence_id;
        let outcome = outcomes
            .remove(id)
            .unwrap_or(WriteOutcome::Unknown(UNANSWERED));
        let (step, session) = decision::after_write(outcome);
        unresolved.sessions.extend(session);
        resolutions.push(match step {
            Step::Done(resolution) => resolution,
            Step::Read(repetition) => {
                ids.push(unresolved.write.persistence_id.clone());
                unread.push((place, repetition));
                Resolution::Unknown
            }
        });
    }
    load_in_parts(store, &ids, |index, row| {
        let Some(&(place, repetition)) = unread.get(index) else {
            return;
        };
        if let (Some(unresolved), Some(resolution)) = (lost.get(place), resolutions.get_mut(place))
        {
            let fence = match unresolved.sessions.as_slice() {
                [] => Fence::Closed,
                _ => Fence::Open,
            };
            *resolution = decision::after_read(&unresolved.write, repetition, row, fence, writers);
        }
    })
    .await;
    resolutions
}
