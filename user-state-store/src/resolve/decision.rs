//! What the answer to a repeated write, and the row behind it, say of the lost write.

use super::likeness::is_alike;
use super::{Resolution, Writers};
use crate::error::{Cause, StoreError};
use crate::revision::Revision;
use crate::store::{
    Change, Fence, LoadedRow, StoredState, StoredValue, Write, WriteOutcome, WriterSession,
};

/// A lost session may still apply the write, so a row that could change is no answer.
const OPEN_SESSION: StoreError = StoreError::Unavailable(Cause::other(
    "a session that lost its client may still be writing, or waits for a standby",
));

/// The row is where the write expects it, and yet the repetition conflicted: somebody is writing just now.
const MOVING: StoreError =
    StoreError::Unavailable(Cause::other("the row changed while its write was resolved"));

/// What to do after the repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it is decided.
    Done(Resolution),
    /// Read the row.
    Read(Repetition),
}

/// How a repetition failed that leaves the answer to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    /// The row was not as expected.
    Conflicted,
    /// The database refuses this write, whenever it is sent.
    Refused,
}

/// How a row stands to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// As the write expects it: the write has not been applied.
    Before,
    /// As the write leaves it.
    After,
    /// Where only another write can have brought it from the expected revision.
    Beside,
    /// Where it says nothing of the write: it may have been applied and overtaken.
    Elsewhere,
}

/// The step after the repetition, and the session that may be running the repetition itself.
pub(super) fn after_write(outcome: WriteOutcome) -> (Step, Option<WriterSession>) {
    match outcome {
        WriteOutcome::Applied(db_timestamp) => {
            (Step::Done(Resolution::Applied(db_timestamp)), None)
        }
        WriteOutcome::Conflict => (Step::Read(Repetition::Conflicted), None),
        WriteOutcome::NotApplied(
            StoreError::Refused(_) | StoreError::TooLarge { .. } | StoreError::Unencodable { .. },
        )
        // What it changes nothing under proves nothing: the row does.
        | WriteOutcome::Fenced => (Step::Read(Repetition::Refused), None),
        WriteOutcome::NotApplied(error) => (Step::Done(Resolution::Unresolved(error)), None),
        WriteOutcome::Unknown(outcome) => {
            let error = StoreError::OutcomeUnknown(outcome.cause);
            (Step::Done(Resolution::Unresolved(error)), outcome.session)
        }
    }
}

/// The answer that the row gives. `fence` tells whether all sessions that sent the write are gone.
pub(super) fn after_read(
    write: &Write,
    repetition: Repetition,
    row: LoadedRow,
    fence: Fence,
    writers: Writers,
) -> Resolution {
    let row = match row {
        Ok(row) => row,
        Err(
            error
            @ (StoreError::Unavailable(_) | StoreError::Misconfigured(_) | StoreError::Closed),
        ) => return Resolution::Unresolved(error),
        // A row that cannot be read says nothing, and will not until somebody repairs it.
        Err(_) => return Resolution::Unknown,
    };
    let db_timestamp = row.as_ref().map(|row| row.db_timestamp);
    // What a companion requires does not come back.
    let is_final = repetition == Repetition::Refused || write.companions.have_requirements();
    match (standing(write, repetition, row.as_ref()), fence, writers) {
        (Standing::Before, Fence::Closed, _) if is_final => Resolution::NotApplied,
        (Standing::Before, Fence::Open, _) if is_final => Resolution::Unresolved(OPEN_SESSION),
        (Standing::Before, _, _) => Resolution::Unresolved(MOVING),
        (Standing::After, Fence::Closed, Writers::Sole) => Resolution::Applied(db_timestamp),
        (Standing::After, Fence::Open, Writers::Sole) => Resolution::Unresolved(OPEN_SESSION),
        (Standing::Beside, _, _) => Resolution::NotApplied,
        // After: someone else may have written the very same. Two marks are always equal, and so are two resets.
        (Standing::After, _, Writers::Shared) | (Standing::Elsewhere, _, _) => Resolution::Unknown,
    }
}

fn standing(write: &Write, repetition: Repetition, row: Option<&StoredState>) -> Standing {
    let Some(row) = row else {
        return match (&write.change, repetition) {
            (Change::Erase, _) => Standing::After,
            (_, Repetition::Refused) if write.expected.is_none() => Standing::Before,
            // Something was there and was erased, perhaps what this write made.
            _ => Standing::Elsewhere,
        };
    };
    let new_revision = write.new_revision();
    if row.revision == write.expected {
        match write.expected_at {
            // Removed and made again, perhaps behind this write.
            Some(at) if at != row.db_timestamp => Standing::Elsewhere,
            _ => Standing::Before,
        }
    } else if new_revision == Revision::NONE
        || row.revision < write.expected
        || row.revision > new_revision
    {
        Standing::Elsewhere
    } else if row.revision == new_revision && is_result(&write.change, row) {
        Standing::After
    } else {
        Standing::Beside
    }
}

/// Whether the row holds what the change stores.
fn is_result(change: &Change, row: &StoredState) -> bool {
    match (change, &row.value) {
        (Change::Put { payload, tags, .. }, StoredValue::State(stored)) => {
            is_alike(payload, stored) && *tags == row.tags
        }
        (Change::Mark, StoredValue::Deleted) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::error::{DatabaseError, DecodeError};
    use crate::payload::{Manifest, Payload, SerializerId};
    use crate::persistence_id::PersistenceId;
    use crate::store::{Companion, CompanionKind, CompanionSql, UnknownOutcome};
    use crate::tags::Tags;

    const FENCES: [Fence; 2] = [Fence::Closed, Fence::Open];
    const WRITERS: [Writers; 2] = [Writers::Sole, Writers::Shared];
    const REPETITIONS: [Repetition; 2] = [Repetition::Conflicted, Repetition::Refused];

    fn revision(number: i64) -> Revision {
        Revision::new(number).unwrap()
    }

    fn payload(bytes: &[u8]) -> Payload {
        Payload {
            serializer_id: SerializerId::JACKSON_JSON,
            manifest: Manifest::new("State"),
            bytes: bytes.to_vec(),
        }
    }

    fn write(expected: i64, change: Change) -> Write {
        let id = PersistenceId::unique("mall-user").unwrap();
        Write::new(id, revision(expected), change)
    }

    fn put(expected: i64, new: i64) -> Write {
        write(
            expected,
            Change::Put {
                revision: revision(new),
                payload: payload(b"ours"),
                tags: Tags::one("tag"),
            },
        )
    }

    fn row(number: i64, value: StoredValue) -> StoredState {
        let persistence_id = PersistenceId::unique("mall-user").unwrap();
        StoredState {
            slice: persistence_id.slice(),
            entity_type: "".into(),
            persistence_id,
            revision: revision(number),
            db_timestamp: DateTime::UNIX_EPOCH,
            value,
            tags: Tags::one("tag"),
        }
    }

    fn state(number: i64, bytes: &[u8]) -> StoredState {
        row(number, StoredValue::State(payload(bytes)))
    }

    /// The answers for one row, in the order closed and sole, closed and shared, open and sole, open and shared.
    fn answers(
        write: &Write,
        repetition: Repetition,
        row: Option<&StoredState>,
    ) -> [Resolution; 4] {
        let mut answers = FENCES.into_iter().flat_map(|fence| {
            WRITERS.map(|writers| after_read(write, repetition, Ok(row.cloned()), fence, writers))
        });
        std::array::from_fn(|_| answers.next().unwrap())
    }

    /// The same answer whatever the fence and the writers.
    #[track_caller]
    fn always(write: &Write, row: Option<&StoredState>, resolution: &Resolution) {
        for repetition in REPETITIONS {
            for answer in answers(write, repetition, row) {
                assert_eq!(&answer, resolution, "{repetition:?}, {write:?}, {row:?}");
            }
        }
    }

    /// The answers for a row that is as the write leaves it.
    fn as_written(row: Option<&StoredState>) -> [Resolution; 4] {
        [
            Resolution::Applied(row.map(|row| row.db_timestamp)),
            Resolution::Unknown,
            Resolution::Unresolved(OPEN_SESSION),
            Resolution::Unknown,
        ]
    }

    #[test]
    fn a_repetition_that_hits_is_the_write() {
        for at in [None, DateTime::from_timestamp_micros(7)] {
            let applied = Step::Done(Resolution::Applied(at));
            assert_eq!(after_write(WriteOutcome::Applied(at)), (applied, None));
        }
    }

    #[test]
    fn a_repetition_that_conflicts_or_is_refused_leaves_the_answer_to_the_row() {
        let refusal = DatabaseError {
            code: "22021".into(),
            severity: "ERROR".into(),
            constraint: None,
        };
        let (what, actual, limit) = ("the payload in bytes", 2, 1);
        let outcomes = [
            (WriteOutcome::Conflict, Repetition::Conflicted),
            (
                WriteOutcome::NotApplied(StoreError::Refused(refusal)),
                Repetition::Refused,
            ),
            (
                WriteOutcome::NotApplied(StoreError::TooLarge {
                    what: what.into(),
                    actual,
                    limit,
                }),
                Repetition::Refused,
            ),
        ];
        for (outcome, repetition) in outcomes {
            assert_eq!(after_write(outcome), (Step::Read(repetition), None));
        }
    }

    #[test]
    fn a_repetition_without_an_answer_is_unresolved_and_its_session_is_remembered() {
        let session = WriterSession {
            process_id: 7,
            started_at_micros: Some(8),
        };
        let lost = UnknownOutcome {
            session: Some(session),
            cause: Cause::Deadline,
        };
        let unresolved = Resolution::Unresolved(StoreError::OutcomeUnknown(Cause::Deadline));
        assert_eq!(
            after_write(WriteOutcome::Unknown(lost)),
            (Step::Done(unresolved), Some(session))
        );
    }

    #[test]
    fn a_repetition_that_could_not_be_sent_is_unresolved() {
        for error in [
            StoreError::Unavailable(Cause::PoolTimeout),
            StoreError::Misconfigured(Cause::Tls),
            StoreError::Closed,
        ] {
            assert_eq!(
                after_write(WriteOutcome::NotApplied(error.clone())),
                (Step::Done(Resolution::Unresolved(error)), None)
            );
        }
    }

    #[test]
    fn the_row_as_written_is_ours_only_where_nobody_else_writes_and_no_session_is_left() {
        for repetition in REPETITIONS {
            let mark = write(4, Change::Mark);
            let marked = row(5, StoredValue::Deleted);
            assert_eq!(
                answers(&mark, repetition, Some(&marked)),
                as_written(Some(&marked))
            );
            for (expected, new) in [(0, 1), (4, 5), (4, 9)] {
                let stored = StoredState {
                    db_timestamp: DateTime::from_timestamp_micros(new).unwrap(),
                    ..state(new, b"ours")
                };
                let answers = answers(&put(expected, new), repetition, Some(&stored));
                assert_eq!(answers, as_written(Some(&stored)));
            }
            let erase = write(4, Change::Erase);
            assert_eq!(answers(&erase, repetition, None), as_written(None));
        }
    }

    #[test]
    fn another_row_at_or_below_our_revision_is_someone_elses_write() {
        let not_applied = Resolution::NotApplied;
        always(&put(4, 5), Some(&state(5, b"theirs")), &not_applied);
        always(
            &put(4, 5),
            Some(&row(5, StoredValue::Deleted)),
            &not_applied,
        );
        always(&put(0, 1), Some(&state(1, b"theirs")), &not_applied);
        always(&put(4, 9), Some(&state(6, b"ours")), &not_applied);
        always(
            &write(4, Change::Mark),
            Some(&state(5, b"theirs")),
            &not_applied,
        );
        always(
            &write(0, Change::Mark),
            Some(&state(1, b"theirs")),
            &not_applied,
        );
        let other_manifest = Payload {
            manifest: Manifest::new("Other"),
            ..payload(b"ours")
        };
        let other_serializer = Payload {
            serializer_id: SerializerId::JACKSON_CBOR,
            ..payload(b"ours")
        };
        for stored in [other_manifest, other_serializer] {
            let stored = row(5, StoredValue::State(stored));
            always(&put(4, 5), Some(&stored), &not_applied);
        }
        let other_tags = StoredState {
            tags: Tags::NONE,
            ..state(5, b"ours")
        };
        always(&put(4, 5), Some(&other_tags), &not_applied);
    }

    #[test]
    fn a_row_beyond_ours_or_below_the_expected_one_or_gone_tells_nothing() {
        let unknown = Resolution::Unknown;
        for change in [put(4, 5), write(4, Change::Mark)] {
            always(&change, Some(&state(6, b"theirs")), &unknown);
            always(&change, Some(&state(3, b"theirs")), &unknown);
            always(&change, None, &unknown);
        }
        always(&put(0, 1), Some(&state(2, b"theirs")), &unknown);
        let erase = write(4, Change::Erase);
        for number in [1, 3, 5, 9] {
            always(&erase, Some(&state(number, b"theirs")), &unknown);
        }
    }

    #[test]
    fn a_row_as_expected_after_a_conflict_is_tried_again() {
        let moving = Resolution::Unresolved(MOVING);
        for write in [put(4, 5), write(4, Change::Mark), write(4, Change::Erase)] {
            let stored = state(4, b"before");
            let answers = answers(&write, Repetition::Conflicted, Some(&stored));
            assert_eq!(answers, std::array::from_fn(|_| moving.clone()));
        }
    }

    #[test]
    fn a_row_as_expected_after_a_conflict_over_a_companion_is_decided_once_its_sessions_are_gone() {
        static TOKEN: CompanionKind = CompanionKind::new(
            &[],
            CompanionSql::new("").requiring("false"),
            CompanionSql::new("").requiring("false"),
        );
        let mut write = put(4, 5);
        write.companions.push(Companion::new(&TOKEN, []).unwrap());
        let stored = state(4, b"before");
        let (closed, open) = (Resolution::NotApplied, Resolution::Unresolved(OPEN_SESSION));
        assert_eq!(
            answers(&write, Repetition::Conflicted, Some(&stored)),
            [closed.clone(), closed, open.clone(), open]
        );
        let applied = state(5, b"ours");
        assert!(matches!(
            answers(&write, Repetition::Conflicted, Some(&applied)),
            [Resolution::Applied(_), ..]
        ));
    }

    #[test]
    fn a_row_made_again_at_the_expected_revision_tells_nothing() {
        for change in [put(4, 5), write(4, Change::Mark), write(4, Change::Erase)] {
            let known = |at| {
                let at = DateTime::from_timestamp_micros(at);
                change.clone().expected_at(at)
            };
            let stored = state(4, b"again");
            always(&known(1), Some(&stored), &Resolution::Unknown);
            let answers = answers(&known(0), Repetition::Conflicted, Some(&stored));
            let moving = Resolution::Unresolved(MOVING);
            assert_eq!(answers, std::array::from_fn(|_| moving.clone()));
        }
    }

    #[test]
    fn a_creation_that_conflicted_and_finds_no_row_is_unknown() {
        for write in [put(0, 1), write(0, Change::Mark)] {
            let answers = answers(&write, Repetition::Conflicted, None);
            assert_eq!(answers, std::array::from_fn(|_| Resolution::Unknown));
        }
    }

    #[test]
    fn a_refused_write_was_not_applied_once_no_session_can_apply_it() {
        let open = Resolution::Unresolved(OPEN_SESSION);
        let expected = [
            Resolution::NotApplied,
            Resolution::NotApplied,
            open.clone(),
            open,
        ];
        let stored = state(4, b"before");
        for (write, row) in [
            (put(4, 5), Some(&stored)),
            (write(4, Change::Mark), Some(&stored)),
            (write(4, Change::Erase), Some(&stored)),
            (put(0, 1), None),
            (write(0, Change::Mark), None),
        ] {
            assert_eq!(answers(&write, Repetition::Refused, row), expected);
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_tells_nothing_and_one_that_did_not_come_is_asked_for_again() {
        let corrupt = StoreError::Corrupt {
            persistence_id: PersistenceId::unique("mall-user").unwrap(),
            serializer_id: SerializerId::NULL,
            manifest: Manifest::new(""),
            reason: DecodeError::TooLarge { limit: 1 },
        };
        for repetition in REPETITIONS {
            for fence in FENCES {
                for writers in WRITERS {
                    let row = Err(corrupt.clone());
                    let answer = after_read(&put(4, 5), repetition, row, fence, writers);
                    assert_eq!(answer, Resolution::Unknown);
                    let unavailable = StoreError::Unavailable(Cause::Deadline);
                    let row = Err(unavailable.clone());
                    let answer = after_read(&put(4, 5), repetition, row, fence, writers);
                    assert_eq!(answer, Resolution::Unresolved(unavailable));
                }
            }
        }
    }
}
