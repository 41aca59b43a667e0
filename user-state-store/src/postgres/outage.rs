//! Saying once that the database is lost, and once that it is back.
//!
//! **Problem.** Each caller learns of its own failure; whoever reads the log of the program learns nothing, or drowns in a
//! line for each. **How.** Calls that fail by their connection are counted. After three in succession there is one warning,
//! and with the next answer of the database one line with what the outage cost. **Guarantees.** A call that is answered
//! while nothing is wrong costs the reading of one flag. A database that comes and goes makes no flood.
//!
//! **Not here.** What the callers are told, and failures that the server itself reports.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Cause, StoreError};
use crate::store::{Settled, WriteOutcome};

/// So many calls in succession fail by their connection before the database is taken for lost: one or two can be old
/// connections.
const FAILURES_MIN: u32 = 3;

/// For so long after an outage the next one is reported only if it lasts.
const CALM: Duration = Duration::from_secs(10);

/// How long such an outage has to last.
const LASTING: Duration = Duration::from_secs(1);

/// Whether the calls of a store reach their database, and the log lines about it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Some call failed and none was answered since.
    is_disturbed: AtomicBool,
    record: Mutex<Record>,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    /// The server answered, whatever it said.
    Answered,
    /// Some of its requests failed by their connection, and this is how the first one did.
    Failed {
        requests: u64,
        unknown_outcomes: u64,
        cause: Cause,
    },
    /// It says nothing of the database.
    Silent,
}

/// What the writes of one call came to, in however many reports.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    failed: u64,
    unknown: u64,
    /// How the first one failed.
    first: Option<Cause>,
    is_answered: bool,
}

/// What to say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notice {
    Lost(Cause),
    Back {
        outage: Duration,
        failed_requests: u64,
        unknown_outcomes: u64,
    },
}

/// The failures since the last answer, and the last outage.
#[derive(Debug, Default)]
struct Record {
    failing: Option<Failing>,
    ended_at: Option<Instant>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    calls: u32,
    failed_requests: u64,
    unknown_outcomes: u64,
    is_reported: bool,
}

impl Outage {
    /// Notes what a reading call for so many ids came to, and hands it back.
    pub(super) fn after_read<T>(
        &self,
        requests: usize,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &answer {
            Ok(_) => self.note(&Call::Answered),
            Err(error) => self.note(&Call::of_error(error, requests)),
        }
        answer
    }

    /// Notes what the writes of a batch came to, all of them.
    pub(super) fn after_write(&self, tally: Tally) {
        self.note(&tally.into_call());
    }

    fn note(&self, call: &Call) {
        let is_undisturbed = !self.is_disturbed.load(Ordering::Relaxed);
        if *call == Call::Silent || (*call == Call::Answered && is_undisturbed) {
            return;
        }
        let notice = self.record.lock().ok().and_then(|mut record| {
            let notice = record.on_call(call, Instant::now());
            let is_disturbed = record.failing.is_some();
            self.is_disturbed.store(is_disturbed, Ordering::Relaxed);
            notice
        });
        match notice {
            None => {}
            Some(Notice::Lost(cause)) => {
                tracing::warn!(%cause, "the database is lost: calls fail by their connection");
            }
            Some(Notice::Back {
                outage,
                failed_requests,
                unknown_outcomes,
            }) => {
                tracing::info!(
                    ?outage,
                    failed_requests,
                    unknown_outcomes,
                    "the database is back"
                );
            }
        }
    }
}

impl Call {
    fn of_error(error: &StoreError, requests: usize) -> Self {
        match error {
            StoreError::Unavailable(cause) if is_of_connection(cause) => Self::Failed {
                requests: u64::try_from(requests).unwrap_or(u64::MAX),
                unknown_outcomes: 0,
                cause: cause.clone(),
            },
            StoreError::Closed | StoreError::TooLarge { .. } => Self::Silent,
            _ => Self::Answered,
        }
    }
}

impl Tally {
    /// Counts the outcomes of one report.
    pub(super) fn add(&self, settled: &[Settled]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Settled { outcome, .. } in settled {
            counts.add(outcome);
        }
    }

    fn into_call(self) -> Call {
        let counts = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        match counts.first {
            Some(cause) => Call::Failed {
                requests: counts.failed,
                unknown_outcomes: counts.unknown,
                cause,
            },
            None if counts.is_answered => Call::Answered,
            None => Call::Silent,
        }
    }
}

impl Counts {
    fn add(&mut self, outcome: &WriteOutcome) {
        let cause = match outcome {
            WriteOutcome::Applied(_) | WriteOutcome::Conflict | WriteOutcome::Fenced => {
                self.is_answered = true;
                return;
            }
            WriteOutcome::NotApplied(StoreError::Unavailable(cause)) if is_of_connection(cause) => {
                self.failed += 1;
                cause
            }
            WriteOutcome::NotApplied(_) => return,
            WriteOutcome::Unknown(lost) => {
                self.unknown += 1;
                &lost.cause
            }
        };
        self.first.get_or_insert_with(|| cause.clone());
    }
}

impl Record {
    fn on_call(&mut self, call: &Call, now: Instant) -> Option<Notice> {
        match call {
            Call::Silent => None,
            Call::Answered => {
                let failing = self.failing.take().filter(|failing| failing.is_reported)?;
                self.ended_at = Some(now);
                Some(Notice::Back {
                    outage: now.saturating_duration_since(failing.since),
                    failed_requests: failing.failed_requests,
                    unknown_outcomes: failing.unknown_outcomes,
                })
            }
            Call::Failed {
                requests,
                unknown_outcomes,
                cause,
            } => {
                let is_calm = self
                    .ended_at
                    .is_none_or(|ended| now.saturating_duration_since(ended) >= CALM);
                let failing = self.failing.get_or_insert(Failing {
                    since: now,
                    calls: 0,
                    failed_requests: 0,
                    unknown_outcomes: 0,
                    is_reported: false,
                });
                failing.calls = failing.calls.saturating_add(1);
                failing.failed_requests = failing.failed_requests.saturating_add(*requests);
                failing.unknown_outcomes =
                    failing.unknown_outcomes.saturating_add(*unknown_outcomes);
                let lasts = now.saturating_duration_since(failing.since) >= LASTING;
                if failing.is_reported || failing.calls < FAILURES_MIN || !(is_calm || lasts) {
                    return None;
                }
                failing.is_reported = true;
                Some(Notice::Lost(cause.clone()))
            }
        }
    }
}

/// Whether there was no answer, as opposed to one that says no.
fn is_of_connection(cause: &Cause) -> bool {
    match cause {
        Cause::Io(_) | Cause::Deadline | Cause::PoolTimeout | Cause::Protocol => true,
        // A session that the server ends, and one that it does not begin.
        Cause::Database(error) => {
            error.severity != "ERROR"
                || error.code.starts_with("08")
                || error.code.starts_with("57P0")
        }
        Cause::Tls | Cause::Session(_) | Cause::FileReplaced | Cause::Fenced | Cause::Other(_) => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DatabaseError;
    use crate::store::UnknownOutcome;

    fn failed(requests: u64, unknown_outcomes: u64) -> Call {
        Call::Failed {
            requests,
            unknown_outcomes,
            cause: Cause::Deadline,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn call(reports: &[Vec<WriteOutcome>]) -> Call {
        let tally = Tally::default();
        for report in reports {
            tally.add(&Settled::in_order(report.clone()));
        }
        tally.into_call()
    }

    const LOST: Option<Notice> = Some(Notice::Lost(Cause::Deadline));

    #[test]
    fn an_outage_is_two_lines_with_what_it_cost() {
        let (mut record, start) = (Record::default(), Instant::now());
        assert_eq!(record.on_call(&failed(1, 0), start), None);
        assert_eq!(record.on_call(&failed(0, 20), start + seconds(1)), None);
        assert_eq!(record.on_call(&failed(5, 2), start + seconds(2)), LOST);
        for second in 3..9 {
            assert_eq!(record.on_call(&failed(1, 0), start + seconds(second)), None);
        }
        assert_eq!(record.on_call(&Call::Silent, start + seconds(9)), None);
        let back = Notice::Back {
            outage: seconds(10),
            failed_requests: 12,
            unknown_outcomes: 22,
        };
        assert_eq!(
            record.on_call(&Call::Answered, start + seconds(10)),
            Some(back)
        );
        assert_eq!(record.on_call(&Call::Answered, start + seconds(11)), None);
    }

    #[test]
    fn two_old_connections_are_no_outage() {
        let (mut record, now) = (Record::default(), Instant::now());
        for _ in 0..10 {
            for call in [failed(1, 0), failed(1, 0), Call::Answered] {
                assert_eq!(record.on_call(&call, now), None);
            }
        }
    }

    #[test]
    fn a_database_that_comes_and_goes_makes_no_flood() {
        let (mut record, start) = (Record::default(), Instant::now());
        let mut notices = 0;
        for millisecond in 0..9_000 {
            let now = start + Duration::from_millis(millisecond);
            let call = if millisecond % 10 == 9 {
                Call::Answered
            } else {
                failed(1, 0)
            };
            notices += usize::from(record.on_call(&call, now).is_some());
        }
        assert_eq!(notices, 2);
        // One that lasts is reported, and so is any later on.
        let later = start + seconds(10);
        assert_eq!(record.on_call(&failed(1, 0), later), None);
        assert_eq!(record.on_call(&failed(1, 0), later), None);
        assert_eq!(record.on_call(&failed(1, 0), later + LASTING), LOST);
        let back = record.on_call(&Call::Answered, later + LASTING);
        assert!(matches!(back, Some(Notice::Back { .. })), "{back:?}");
        let calm = later + LASTING + CALM;
        assert_eq!(record.on_call(&failed(1, 0), calm), None);
        assert_eq!(record.on_call(&failed(1, 0), calm), None);
        assert_eq!(record.on_call(&failed(1, 0), calm), LOST);
    }

    #[test]
    fn what_the_server_says_no_to_is_an_answer() {
        let database = |code: &str, severity| {
            Cause::Database(DatabaseError {
                code: code.into(),
                severity,
                constraint: None,
            })
        };
        for (cause, is_outage) in [
            (Cause::Deadline, true),
            (Cause::Io(std::io::ErrorKind::ConnectionRefused), true),
            (Cause::PoolTimeout, true),
            (database("57P01", "FATAL".into()), true),
            (database("53300", "FATAL".into()), true),
            (database("08006", "ERROR".into()), true),
            (database("57014", "ERROR".into()), false),
            (database("53100", "ERROR".into()), false),
        ] {
            let call = Call::of_error(&StoreError::Unavailable(cause.clone()), 3);
            assert_eq!(
                matches!(call, Call::Failed { requests: 3, .. }),
                is_outage,
                "{cause}"
            );
            assert_eq!(call == Call::Answered, !is_outage, "{cause}");
        }
        assert_eq!(Call::of_error(&StoreError::Closed, 1), Call::Silent);
    }

    #[test]
    fn one_lost_write_of_a_batch_is_a_failure_of_its_connection() {
        let lost = WriteOutcome::Unknown(UnknownOutcome {
            session: None,
            cause: Cause::Deadline,
        });
        let refused = WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Deadline));
        let applied = WriteOutcome::Applied(None);
        let outcomes = vec![applied.clone(), refused, lost.clone(), lost];
        assert_eq!(call(&[outcomes]), failed(1, 2));
        assert_eq!(call(&[vec![applied]]), Call::Answered);
        let closed = WriteOutcome::NotApplied(StoreError::Closed);
        assert_eq!(call(&[vec![closed]]), Call::Silent);
    }

    #[test]
    fn the_reports_of_one_write_call_are_one_call() {
        let lost = || WriteOutcome::NotApplied(StoreError::Unavailable(Cause::Deadline));
        let reports = [
            vec![lost()],
            vec![],
            vec![lost(), WriteOutcome::Conflict],
            vec![lost()],
        ];
        assert_eq!(call(&reports), failed(3, 0));
    }
}
