//! What one connection learnt about the others.
//!
//! **Problem.** After a change of a table, a failover or a restart every connection is unfit, and each finds out by a call
//! that fails. **How.** Counters: whoever finds out first raises one, and connections proven before that are closed, or
//! proven again, before their next call. Nobody keeps a list of connections.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one store.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Raised by a session that was unfit: other sessions are closed.
    unfit: AtomicU64,
    /// Raised where a session met a server that takes no writes: connections of reads are closed.
    demoted: AtomicU64,
    /// Raised by a connection that was lost: all others are proven again.
    lost: AtomicU64,
}

/// The counters when a connection was proven, read before the proof began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    unfit: u64,
    demoted: u64,
    lost: u64,
}

impl Doubts {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            unfit: self.unfit.load(Ordering::Acquire),
            demoted: self.demoted.load(Ordering::Acquire),
            lost: self.lost.load(Ordering::Acquire),
        }
    }

    /// A session of this mark was unfit.
    pub(super) fn unfit(&self, mark: Mark) {
        raise(&self.unfit, mark.unfit);
    }

    /// A session of this mark met a server that takes no writes.
    pub(super) fn demoted(&self, mark: Mark) {
        raise(&self.demoted, mark.demoted);
    }

    /// A connection of this mark was lost.
    pub(super) fn lost(&self, mark: Mark) {
        raise(&self.lost, mark.lost);
    }

    /// Whether a session of this mark has to be closed.
    pub(super) fn closes_session(&self, mark: Mark) -> bool {
        self.unfit.load(Ordering::Acquire) != mark.unfit
    }

    /// Whether a connection of reads with this mark has to be closed.
    pub(super) fn closes_reading(&self, mark: Mark) -> bool {
        self.demoted.load(Ordering::Acquire) != mark.demoted
    }

    /// Whether a connection of this mark has to be proven again.
    pub(super) fn asks_for_proof(&self, mark: Mark) -> bool {
        self.lost.load(Ordering::Acquire) != mark.lost
    }
}

/// Only the first of those with one mark raises the counter: the others found out the same, and what was opened since
/// then stays.
fn raise(counter: &AtomicU64, mark: u64) {
    let next = mark.wrapping_add(1);
    let raised = counter.compare_exchange(mark, next, Ordering::AcqRel, Ordering::Acquire);
    if raised.is_ok() {
        tracing::debug!("the connections opened so far are in doubt");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_find_out_at_once_is_counted_once() {
        let doubts = Doubts::default();
        let old = doubts.mark();
        doubts.unfit(old);
        let new = doubts.mark();
        doubts.unfit(old);
        assert!(doubts.closes_session(old));
        assert!(
            !doubts.closes_session(new),
            "it was opened after the change"
        );
    }

    #[test]
    fn each_doubt_concerns_its_own_connections() {
        let doubts = Doubts::default();
        let mark = doubts.mark();
        let asked = |doubts: &Doubts| {
            (
                doubts.closes_session(mark),
                doubts.closes_reading(mark),
                doubts.asks_for_proof(mark),
            )
        };
        doubts.unfit(mark);
        assert_eq!(asked(&doubts), (true, false, false));
        doubts.demoted(mark);
        assert_eq!(asked(&doubts), (true, true, false));
        doubts.lost(mark);
        assert_eq!(asked(&doubts), (true, true, true));
    }
}
