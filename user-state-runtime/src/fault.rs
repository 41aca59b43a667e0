//! Faults that tests plant at the decision points of entities and shards, to show that the simulation
//! finds them. Outside of tests there are none, and the questions cost nothing.

/// A wrong decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "faults are planted in tests only")
)]
pub(crate) enum Fault {
    /// A command is answered before its revision is durable.
    AnswerBeforeDurable,
    /// A second write is cut while one is in flight.
    SecondWriteInFlight,
    /// A read is answered from a state that is not durable.
    DirtyRead,
    /// Requests that wait are forgotten when their entity leaves.
    LostStash,
    /// A creation takes more than one command.
    CreationBeyondFirst,
    /// A conflict is taken as applied.
    ConflictAsApplied,
    /// A lost answer is taken as a refusal.
    UnknownAsRefused,
    /// A barrier does not wait for the requests ahead of it.
    LeakyBarrier,
    /// An entity takes one request more than its limit.
    LimitOffByOne,
    /// The time at which callers of an unresolved write are told is forgotten.
    ForgottenTimer,
    /// Outcomes that were reported early are reported again.
    EarlyAnswerTwice,
    /// A batch is cut and never sent.
    DroppedWrite,
    /// An entity leaves although it has a write in flight.
    LeavesInFlight,
    /// A command that waits for a reload overtakes those that are handled again.
    ReorderedRetry,
    /// A confirmed read is answered from memory.
    ConfirmedFromMemory,
    /// A batch that has landed goes on taking a turn.
    TurnNeverEnds,
}

#[cfg(not(test))]
#[inline]
pub(crate) const fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

#[cfg(test)]
pub(crate) fn is_planted() -> bool {
    PLANTED.get().is_some()
}

/// Plants a fault in this thread, or none.
#[cfg(test)]
pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}
