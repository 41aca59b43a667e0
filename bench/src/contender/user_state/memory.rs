//! What a live user weighs.
//!
//! Resident memory of a process that does nothing else, before and after: what the operating system is asked for,
//! the allocator's own losses included. A counting allocator would be exact but slow down every other figure of this
//! program, whose allocator it would be.

use std::sync::Arc;

use user_state_domain::UserState;
use user_state_runtime::Runtime;

use crate::contender::user_state::room_for;
use crate::exit::{Failure, with_causes};
use crate::instant_store::InstantStore;
use crate::load::Measured;
use crate::memory;
use crate::sample;
use crate::statistics;

/// How many users come to life at once: few, so that nothing big is left of their messages.
const AT_ONCE: usize = 64;

/// A runtime whose users come from a store that answers at once.
pub(super) fn runtime_of(
    users: usize,
    clock: impl user_state_runtime::Clock,
) -> Result<Runtime<UserState>, Failure> {
    Runtime::for_users(Arc::new(InstantStore::new()))
        .settings(room_for(users))
        .clock(clock)
        .start()
        .map_err(|error| Failure::new(1, with_causes(&error)))
}

/// Brings these users to life. Handles are not kept: an idle user has none.
pub(super) async fn bring_to_life(
    runtime: &Runtime<UserState>,
    users: std::ops::Range<usize>,
) -> Result<(), Failure> {
    use futures_util::{StreamExt as _, TryStreamExt as _, stream};

    stream::iter(users)
        .map(|number| {
            let user = runtime.entity(sample::persistence_id(number));
            async move { user.state().await }
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await
        .map_err(|error| Failure::unavailable(&error))
}

pub(super) async fn measure(users: usize) -> Result<Measured, Failure> {
    let runtime = runtime_of(users, user_state_runtime::SystemClock::new())?;
    // One user beforehand, so that what exists once is there.
    bring_to_life(&runtime, users..users + 1).await?;
    let before = resident_bytes()?;
    bring_to_life(&runtime, 0..users).await?;
    let after = resident_bytes()?;
    let live = runtime.stats().live;
    if live != u64::try_from(users + 1).unwrap_or(u64::MAX) {
        return Err(Failure::new(1, format!("{live} users are live")));
    }
    let measured = Measured::default();
    let bytes = statistics::float(after.saturating_sub(before));
    Ok(measured.with("bytes_per_user", bytes / statistics::float(live - 1)))
}

/// The resident memory of this process.
pub(crate) fn resident_bytes() -> Result<u64, Failure> {
    memory::resident_bytes().ok_or_else(|| {
        Failure::unavailable(&std::io::Error::other(
            "this system does not tell how much memory a process has",
        ))
    })
}
