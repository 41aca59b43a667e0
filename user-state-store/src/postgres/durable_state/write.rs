//! One outcome per write, whatever happens to the batch.
//!
//! Writes are grouped by the statement they need. Groups do not wait for each other: each has a session of its own, and what
//! one has settled is reported while another is still at work. What becomes of a group is in `group.rs`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
use crate::store::{
    Change, Companion, CompanionValue, Early, Settled, Write, WriteBatch, WriteOutcome,
};

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
    pub(super) batch: &'batch WriteBatch,
    pub(super) sessions: &'batch Sessions,
    pub(super) desk: &'batch Desk,
    pub(super) settings: &'batch StoreSettings,
    pub(super) reports: &'batch Reports<'batch>,
    unknown: &'batch AtomicUsize,
}

/// What is said of a batch while some of it is open.
pub(super) struct Reports<'batch> {
    early: &'batch Early<'batch>,
    /// How many groups neither wait for somebody else nor have come to their end.
    at_work: AtomicUsize,
    said_wait: AtomicBool,
}

/// Writes a batch. See [`crate::DurableStateStore::write_early`].
pub(in crate::postgres) async fn write(
    sessions: &Sessions,
    desk: &Desk,
    settings: &StoreSettings,
    batch: &WriteBatch,
    early: &Early<'_>,
) -> Vec<Settled> {
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
    let count = groups
        .iter()
        .filter(|(_, members)| !members.is_empty())
        .count();
    let (reports, unknown) = (Reports::new(early, count), AtomicUsize::new(0));
    let writing = Writing {
        batch,
        sessions,
        desk,
        settings,
        reports: &reports,
        unknown: &unknown,
    };
    let mut groups = groups
        .into_iter()
        .filter(|(_, members)| !members.is_empty());
    let run = |(kind, members), settled| Group::new(writing, kind, settled).run(members);
    let settled = match (groups.next(), groups.next()) {
        (None, _) => refused,
        (Some(only), None) => run(only, refused).await,
        (Some(first), second) => {
            let others = second.into_iter().chain(groups);
            let others = others.map(|group| run(group, Vec::new()));
            let groups = std::iter::once(run(first, refused)).chain(others);
            together(groups.collect(), &reports).await
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
    reports: &Reports<'_>,
) -> Vec<Settled> {
    let mut last = Vec::new();
    while let Some(settled) = groups.next().await {
        if groups.is_empty() {
            last = settled;
        } else {
            reports.settled(settled);
            reports.say_if_all_wait();
        }
    }
    last
}

impl<'batch> Reports<'batch> {
    fn new(early: &'batch Early<'batch>, groups: usize) -> Self {
        Self {
            early,
            at_work: AtomicUsize::new(groups),
            said_wait: AtomicBool::new(false),
        }
    }

    /// Reports these while others are open.
    pub(super) fn settled(&self, settled: Vec<Settled>) {
        if !settled.is_empty() {
            (self.early)(settled);
        }
    }

    /// A group waits for somebody else, or has come to its end.
    pub(super) fn pause(&self) {
        self.at_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// Says once that whatever is open waits for somebody else, when that is so.
    pub(super) fn say_if_all_wait(&self) {
        if self.at_work.load(Ordering::Relaxed) == 0
            && !self.said_wait.swap(true, Ordering::Relaxed)
        {
            (self.early)(Vec::new());
        }
    }
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
    if write.companions.iter().any(has_nul) {
        return Some(not_in_repertoire());
    }
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
        "the payload's number of bytes".into(),
        payload.bytes.len(),
        settings.payload_bytes_max,
    )
    .or_else(|| {
        too_large(
            "the manifest's number of characters".into(),
            characters(manifest),
            CHARACTERS_MAX,
        )
    })
    .or_else(|| has_nul.then(not_in_repertoire))
    .or_else(|| payload_column::refusal(write, payload, settings))
}

fn has_nul(companion: &Companion) -> bool {
    companion
        .values()
        .iter()
        .any(|value| matches!(value, CompanionValue::Text(text) if text.as_bytes().contains(&0)))
}

/// What the server answers to a NUL in a text.
fn not_in_repertoire() -> StoreError {
    StoreError::Refused(DatabaseError {
        code: "22021".into(),
        severity: "ERROR".into(),
        constraint: None,
    })
}
