//! What a command costs on its way, part by part: instructions, counted by Valgrind, and so the same on a busy machine.
//!
//! ```text
//! cargo install gungraun-runner --version 0.20.0
//! cargo bench --manifest-path bench/Cargo.toml --bench instructions
//! ```
//!
//! Needs Valgrind. Every run is compared with the one before it. What is set up beforehand is not counted.

#![allow(missing_docs, reason = "gungraun's macros make public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up ends with a panic"
)]

use std::hint::black_box;
use std::sync::Arc;

use chrono::DateTime;
use cqrs_es::Aggregate as _;
use gungraun::{library_benchmark, library_benchmark_group, main};
use tokio::runtime::{Builder, Runtime as Tokio};
use user_state_bench::{InstantStore, sample};
use user_state_domain::{ProductId, UserCommand, UserEvent, UserState};
use user_state_runtime::{EntityRef, Runtime, Settings};
use user_state_store::{
    EncodeError, Payload, PersistenceId, Slice, StateMapping as _, UserStateMapping,
};

/// Commands that are answered together, each of another user.
const TOGETHER: usize = 100;

type User = (UserStateMapping, PersistenceId, UserState);

fn user() -> User {
    let state = sample::usual_state(DateTime::UNIX_EPOCH);
    (UserStateMapping::new(), sample::persistence_id(1), state)
}

fn stored() -> (UserStateMapping, PersistenceId, Payload) {
    let (mapping, id, state) = user();
    let payload = mapping.encode(&id, &state).unwrap();
    (mapping, id, payload)
}

fn viewed() -> (UserState, UserEvent) {
    let (_, _, state) = user();
    let product_id = ProductId::new("product-7");
    let at = DateTime::UNIX_EPOCH;
    (state, UserEvent::ProductViewed { product_id, at })
}

/// Live users on one thread and one shard, without a database.
fn live() -> (Tokio, Vec<EntityRef<UserState>>) {
    let tokio = Builder::new_current_thread().enable_all().build().unwrap();
    let users = tokio.block_on(async {
        // As many shards as the machine has cores would be as many results.
        let settings = Settings::default().shards(1);
        let store = Arc::new(InstantStore::new());
        let runtime = Runtime::for_users(store)
            .settings(settings)
            .start()
            .unwrap();
        let mut users = Vec::new();
        for number in 0..TOGETHER {
            let user = runtime.entity(sample::persistence_id(number));
            // What is made once is made here.
            user.execute(view()).await.unwrap();
            users.push(user);
        }
        users
    });
    (tokio, users)
}

fn view() -> UserCommand {
    UserCommand::ViewProduct {
        product_id: ProductId::new("product-7"),
        at: DateTime::UNIX_EPOCH,
    }
}

#[library_benchmark(setup = user)]
#[bench::usual()]
fn encode((mapping, id, state): User) -> Result<Payload, EncodeError> {
    black_box(mapping.encode(black_box(&id), black_box(&state)))
}

#[library_benchmark(setup = stored)]
#[bench::usual()]
fn decode((mapping, id, payload): (UserStateMapping, PersistenceId, Payload)) -> UserState {
    black_box(mapping.decode(black_box(&id), black_box(&payload))).unwrap()
}

#[library_benchmark]
fn slice() -> Slice {
    black_box(Slice::of(black_box("load-user-123456")))
}

#[library_benchmark(setup = viewed)]
#[bench::view()]
fn apply((mut state, event): (UserState, UserEvent)) -> UserState {
    state.apply(black_box(event));
    black_box(state)
}

// From the caller through mailbox, shard, batch and store, and back.
#[library_benchmark(setup = live)]
#[bench::alone()]
fn command(
    (tokio, users): (Tokio, Vec<EntityRef<UserState>>),
) -> (Tokio, Vec<EntityRef<UserState>>) {
    tokio.block_on(users[0].execute(view())).unwrap();
    // Given back, so that the end of the runtime is not counted.
    (tokio, users)
}

// The same a hundred times at once: what a command costs where load makes the batches.
#[library_benchmark(setup = live)]
#[bench::hundred()]
fn commands(
    (tokio, users): (Tokio, Vec<EntityRef<UserState>>),
) -> (Tokio, Vec<EntityRef<UserState>>) {
    let commands = users.iter().map(|user| user.execute(view()));
    let answers = tokio.block_on(futures_util::future::join_all(commands));
    assert!(answers.iter().all(Result::is_ok));
    (tokio, users)
}

#[library_benchmark(setup = live)]
#[bench::live()]
fn read((tokio, users): (Tokio, Vec<EntityRef<UserState>>)) -> (Tokio, Vec<EntityRef<UserState>>) {
    black_box(tokio.block_on(users[0].state())).unwrap();
    (tokio, users)
}

library_benchmark_group!(name = parts, benchmarks = [encode, decode, slice, apply]);
library_benchmark_group!(name = in_memory, benchmarks = [command, commands, read]);
main!(library_benchmark_groups = parts, in_memory);
