//! Room for work that entities gave back when they had none left, for the next ones that have any.

use std::cell::RefCell;

use cqrs_es::Aggregate;

use super::Work;

/// How many are kept: about as many entities as have work while two full batches are on their way.
const KEPT_MAX: usize = 1_024;

/// The most requests and answers for which one keeps its room.
const ROOM_MAX: usize = 16;

/// What a shard's idle entities gave back.
pub(crate) struct SpareWork<A: Aggregate>(RefCell<Vec<Box<Work<A>>>>);

impl<A: Aggregate> SpareWork<A> {
    pub(super) fn take(&self) -> Box<Work<A>> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back what has nothing in it.
    pub(super) fn give(&self, mut work: Box<Work<A>>) {
        let mut kept = self.0.borrow_mut();
        let answers = work.gathered.capacity().max(work.sent.capacity());
        let room = answers.max(work.waiting.capacity());
        if kept.len() < KEPT_MAX && room <= ROOM_MAX {
            work.leaving = false;
            kept.push(work);
        }
    }
}

impl<A: Aggregate> Default for SpareWork<A> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}
