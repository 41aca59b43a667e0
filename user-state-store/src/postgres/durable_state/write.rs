//! One outcome per write, whatever happens to the batch.
//!
//! Writes are grouped by the statement they need. Groups do not wait for each other: each has a session of its own, and what
//! one has settled is reported while another is still at work. What becomes of a group is in `group.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::connect::StoreSettings;
use crate::error::{DatabaseError, StoreError};
use crate::persistence_id::CHARACTERS_MAX;
use crate::postgres::durable_state::desk::Desk;
use crate::postgres::durable_state::group::Group;
use crate::postgres::durable_state::payload_column;
use crate::postgres::session::Sessions;
use crate::store::{Change, Early, Settled, Write, WriteBatch, WriteOutcome};

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
pub(super) enum Kind {
    Update,
    Create,
    Erase,
}

/// What the groups of a batch share.
#[derive(Clone, Copy)]
pub(super) struct Writing<'batch> {
    pub(super) sessions: &'batch Sessions,
    pub(super) desk: &'batch Desk,
    pub(super) settings: &'batch StoreSettings,
    pub(super) early: &'batch Early<'batch>,
    unknown: &'batch AtomicUsize,
}

/// Writes a batch. See [`crate::DurableStateStore::write_early`].
pub(in crate::postgres) async fn write(
    sessions: &Sessions,
    desk: &Desk,
    settings: &StoreSettings,
    batch: &WriteBatch,
    early: &Early<'_>,
) -> Vec<Settled> {
    let unknown = AtomicUsize::new(0);
    let writing = Writing {
        sessions,
        desk,
        settings,
        early,
        unknown: &unknown,
    };
    let writes = batch.writes();
    let mut refused = Vec::new();
    let mut groups = [Kind::Update, Kind::Create, Kind::Erase].map(|kind| (kind, Vec::new()));
    for (index, write) in writes.iter().enumerate() {
        if let Some(error) = refusal(write, settings) {
            let outcome = WriteOutcome::NotApplied(error);
            refused.push(Settled { index, outcome });
            continue;
        }
        let kind = Kind::of(write);
        for (of, members) in &mut groups {
            if *of == kind {
                if members.is_empty() {
                    members.reserve(writes.len() - index);
                }
                members.push(index);
            }
        }
    }
    let mut groups = groups
        .into_iter()
        .filter(|(_, members)| !members.is_empty());
    let run = |(kind, members)| Group::new(writing, kind, writes).run(members);
    let settled = match (groups.next(), groups.next()) {
        (None, _) => refused,
        (Some(only), None) if refused.is_empty() => run(only).await,
        (first, second) => {
            if !refused.is_empty() {
                early(refused);
            }
            let groups = first.into_iter().chain(second).chain(groups).map(run);
            together(groups.collect(), early).await
        }
    };
    match unknown.into_inner() {
        0 => {}
        unknown => tracing::warn!(
            unknown,
            writes = writes.len(),
            "the answer to writes was lost, and with it whether they were applied"
        ),
    }
    settled
}

/// Runs groups at once. What one of them has settled is reported while others are still at work.
async fn together(
    mut groups: FuturesUnordered<impl Future<Output = Vec<Settled>>>,
    early: &Early<'_>,
) -> Vec<Settled> {
    let mut last = Vec::new();
    while let Some(settled) = groups.next().await {
        if groups.is_empty() {
            last = settled;
        } else if !settled.is_empty() {
            early(settled);
        }
    }
    last
}

impl Writing<'_> {
    /// The answer to so many writes was lost.
    pub(super) fn count_unknown(self, writes: usize) {
        self.unknown.fetch_add(writes, Ordering::Relaxed);
    }
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
