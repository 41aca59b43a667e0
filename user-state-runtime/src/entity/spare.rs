//! Room for work that entities gave back when they had none left, for the next ones that have any.

use super::Work;
use crate::effects::Effects;

/// How many are kept: about as many entities as have work while two full batches are in flight.
const KEPT_MAX: usize = 1_024;

/// The most requests and answers for which one keeps its room.
const ROOM_MAX: usize = 16;

/// What a shard's idle entities gave back.
pub(crate) struct Spare<E: Effects>(Vec<Box<Work<E>>>);

impl<E: Effects> Spare<E> {
    pub(super) fn take(&mut self) -> Box<Work<E>> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes back what has nothing in it.
    pub(super) fn give(&mut self, mut work: Box<Work<E>>) {
        let answers = work.held.capacity().max(work.sent.capacity());
        let room = answers.max(work.waiting.capacity());
        if self.0.len() < KEPT_MAX && room <= ROOM_MAX {
            work.leaving = false;
            self.0.push(work);
        }
    }
}

impl<E: Effects> Default for Spare<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
