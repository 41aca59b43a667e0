//! One outcome per write, whatever happens to the batch.
//!
//! **Problem.** A batch is a statement, and a statement succeeds or fails as a whole. **How.** Writes are grouped by
//! the statement they need. A group that meets a row locked by somebody else is sent again without that row. A group that fails for a value is cut in two and sent again, until the culprit is
//! alone; one that lost against a concurrent transaction is sent again as it is; one whose answer was lost is
//! unknown, all of it.

use std::ops::Range;

use chrono::{DateTime, Utc};

use crate::connect::{PayloadColumn, StoreSettings};
use crate::error::{Cause, DatabaseError, StoreError};
use crate::persistence_id::CHARACTERS_MAX;
use crate::postgres::durable_state::create::{self, Halt, Patience};
use crate::postgres::durable_state::{locked, payload_column, update};
use crate::postgres::error::Failure;
use crate::postgres::session::{Lease, Sessions};
use crate::store::{Change, UnknownOutcome, Write, WriteBatch, WriteOutcome};

/// How often a part of a batch is sent again after a deadlock. One side of a deadlock always goes through, so
/// more than a few in a row mean something else.
const CONTENDED_MAX: u32 = 5;

/// How often a part of a batch is sent again without the rows that were locked. Each time has waited for
/// `lock_timeout`.
const LOCKED_MAX: u32 = 2;

/// What the database said of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is durable, since this time.
    Applied(Option<DateTime<Utc>>),
    /// The stored row is another one.
    Conflict,
}

/// The statement a write needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Update,
    Create,
    Erase,
}

/// Writes a batch. See [`crate::DurableStateStore::write`].
pub(in crate::postgres) async fn write(
    sessions: &Sessions,
    settings: &StoreSettings,
    batch: &WriteBatch,
) -> Vec<WriteOutcome> {
    let writes = batch.writes();
    let mut outcomes: Vec<WriteOutcome> = writes
        .iter()
        .map(|write| match refusal(write, settings) {
            Some(error) => WriteOutcome::NotApplied(error),
            None => WriteOutcome::Conflict,
        })
        .collect();
    for kind in [Kind::Update, Kind::Create, Kind::Erase] {
        let members: Vec<usize> = writes
            .iter()
            .zip(&outcomes)
            .enumerate()
            .filter(|(_, (write, outcome))| {
                Kind::of(write) == kind && *outcome == &WriteOutcome::Conflict
            })
            .map(|(index, _)| index)
            .collect();
        let group: Vec<&Write> = members
            .iter()
            .filter_map(|&index| writes.get(index))
            .collect();
        if group.is_empty() {
            continue;
        }
        let answered = Group::new(sessions, settings.payload_column, kind, &group)
            .run()
            .await;
        for (index, outcome) in members.into_iter().zip(answered) {
            if let Some(slot) = outcomes.get_mut(index) {
                *slot = outcome;
            }
        }
    }
    outcomes
}

impl Kind {
    fn of(write: &Write) -> Self {
        match &write.change {
            Change::Erase => Self::Erase,
            _ if write.expected.is_none() => Self::Create,
            _ => Self::Update,
        }
    }
}

/// Writes of one kind on their way.
struct Group<'batch> {
    sessions: &'batch Sessions,
    payload_column: PayloadColumn,
    kind: Kind,
    writes: &'batch [&'batch Write],
    outcomes: Vec<WriteOutcome>,
}

/// What became of a part that was sent.
enum Sent {
    Answered(Vec<Answer>),
    NotApplied(Failure),
    Unknown(Cause),
}

impl<'batch> Group<'batch> {
    fn new(
        sessions: &'batch Sessions,
        payload_column: PayloadColumn,
        kind: Kind,
        writes: &'batch [&'batch Write],
    ) -> Self {
        Self {
            sessions,
            payload_column,
            kind,
            writes,
            outcomes: vec![WriteOutcome::Conflict; writes.len()],
        }
    }

    /// Sends the group, in parts where it must be, and gives one outcome per write.
    async fn run(mut self) -> Vec<WriteOutcome> {
        let mut parts = vec![(0..self.writes.len(), 0)];
        let mut lease = None;
        while let Some((part, contended)) = parts.pop() {
            let leased = match lease.take() {
                Some(lease) => Ok(lease),
                None => self.sessions.lease().await,
            };
            let mut leased = match leased {
                Ok(leased) => leased,
                Err(failure) => {
                    let error = StoreError::from(failure);
                    self.settle(part, &WriteOutcome::NotApplied(error.clone()));
                    // What cannot get a session now will not get one at once either.
                    for (rest, _) in parts.drain(..) {
                        self.settle(rest, &WriteOutcome::NotApplied(error.clone()));
                    }
                    break;
                }
            };
            let session = leased.identity();
            match self.send(&mut leased, part.clone(), contended).await {
                Sent::Answered(answers) => self.answer(part, answers),
                Sent::Unknown(cause) => {
                    let unknown = UnknownOutcome { session, cause };
                    self.settle(part, &WriteOutcome::Unknown(unknown));
                }
                Sent::NotApplied(Failure::Contended(_)) if contended < CONTENDED_MAX => {
                    parts.push((part, contended + 1));
                }
                Sent::NotApplied(Failure::Refused(_) | Failure::Taken) if part.len() > 1 => {
                    let middle = part.start + part.len() / 2;
                    parts.push((middle..part.end, 0));
                    parts.push((part.start..middle, 0));
                }
                // A row that is just being made cannot be looked for: it is not there yet.
                Sent::NotApplied(Failure::Locked(_))
                    if part.len() > 1 && self.kind == Kind::Create =>
                {
                    let middle = part.start + part.len() / 2;
                    parts.push((middle..part.end, 1));
                    parts.push((part.start..middle, 1));
                }
                Sent::NotApplied(failure @ Failure::Locked(_))
                    if part.len() > 1 && contended < LOCKED_MAX =>
                {
                    let error = StoreError::from(failure);
                    let rest = self.without_locked(&mut leased, part, error).await;
                    parts.extend(rest.into_iter().map(|part| (part, contended + 1)));
                }
                Sent::NotApplied(Failure::Taken) => self.settle(part, &WriteOutcome::Conflict),
                Sent::NotApplied(failure) => {
                    self.settle(part, &WriteOutcome::NotApplied(failure.into()));
                }
            }
            lease = leased.is_usable().then_some(leased);
        }
        self.outcomes
    }

    /// Tells the writes of rows that somebody holds locked, and gives the parts between them.
    async fn without_locked(
        &mut self,
        lease: &mut Lease<'_>,
        part: Range<usize>,
        error: StoreError,
    ) -> Vec<Range<usize>> {
        let writes = self.writes.get(part.clone()).unwrap_or_default();
        let locked = match locked::locked(lease, writes).await {
            Ok(locked) => locked,
            Err(_) => (0..writes.len()).collect(),
        };
        let mut rest = Vec::new();
        let mut start = part.start;
        for (offset, index) in part.clone().enumerate() {
            if locked.contains(&offset) {
                self.settle(index..index + 1, &WriteOutcome::NotApplied(error.clone()));
                rest.push(start..index);
                start = index + 1;
            }
        }
        rest.push(start..part.end);
        rest.retain(|part| !part.is_empty());
        rest
    }

    async fn send(&self, lease: &mut Lease<'_>, part: Range<usize>, again: u32) -> Sent {
        let writes = self.writes.get(part).unwrap_or_default();
        let committed_by_itself = match self.kind {
            Kind::Update => update::update(lease, writes, self.payload_column).await,
            Kind::Erase => update::erase(lease, writes).await,
            Kind::Create => {
                let patience = if again == 0 {
                    Patience::Full
                } else {
                    Patience::Little
                };
                return match create::create(lease, writes, self.payload_column, patience).await {
                    Ok(answers) => Sent::Answered(answers),
                    Err(Halt::NotApplied(failure)) => Sent::NotApplied(failure),
                    Err(Halt::Unknown(failure)) => Sent::Unknown(failure.into()),
                };
            }
        };
        match committed_by_itself {
            Ok(answers) => Sent::Answered(answers),
            Err(Failure::Lost(cause)) => Sent::Unknown(cause),
            Err(failure) => Sent::NotApplied(failure),
        }
    }

    fn answer(&mut self, part: Range<usize>, answers: Vec<Answer>) {
        let slots = self.outcomes.get_mut(part).unwrap_or_default();
        for (slot, answer) in slots.iter_mut().zip(answers) {
            *slot = match answer {
                Answer::Applied(db_timestamp) => WriteOutcome::Applied(db_timestamp),
                Answer::Conflict => WriteOutcome::Conflict,
            };
        }
    }

    fn settle(&mut self, part: Range<usize>, outcome: &WriteOutcome) {
        if let Some(slots) = self.outcomes.get_mut(part) {
            slots.fill(outcome.clone());
        }
    }
}

/// Why a write is not even sent: what is known here to fail would fail its whole batch there.
fn refusal(write: &Write, settings: &StoreSettings) -> Option<StoreError> {
    let Change::Put { payload, tags, .. } = &write.change else {
        return None;
    };
    let too_large = |what, actual, limit| {
        (actual > limit).then_some(StoreError::TooLarge {
            what,
            actual,
            limit,
        })
    };
    let manifest = payload.manifest.as_str();
    // No text has more characters than bytes: nearly none needs to be counted.
    let characters = |text: &str| match text.len() {
        few @ ..=CHARACTERS_MAX => few,
        _ => text.chars().count(),
    };
    // Bytes are compared many at a time, characters are not.
    let has_nul = |text: &str| text.as_bytes().contains(&0);
    let has_nul = has_nul(manifest) || tags.iter().any(has_nul);
    too_large(
        "the payload's number of bytes",
        payload.bytes.len(),
        settings.payload_bytes_max,
    )
    .or_else(|| {
        too_large(
            "the manifest's number of characters",
            characters(manifest),
            CHARACTERS_MAX,
        )
    })
    .or_else(|| {
        // What the server answers to a NUL in a text: character_not_in_repertoire.
        has_nul.then(|| {
            StoreError::Refused(DatabaseError {
                code: "22021".into(),
                severity: "ERROR",
                constraint: None,
            })
        })
    })
    .or_else(|| payload_column::refusal(write, payload, settings))
}
