//! What a command costs on its way, part by part: time, by criterion.
//!
//! ```text
//! cargo bench --manifest-path bench/Cargo.toml --bench parts
//! ```
//!
//! No database: the runtime stands on a store that answers at once. Times move with the machine; for a regression that shows
//! on any machine see `instructions`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot be set up ends with a panic"
)]

use std::hint::black_box;
use std::sync::Arc;

use chrono::DateTime;
use cqrs_es::Aggregate as _;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use tokio::runtime::{Builder, Runtime as Tokio};
use user_state_bench::{InstantStore, sample};
use user_state_domain::{UserEvent, UserState};
use user_state_runtime::{EntityRef, Runtime};
use user_state_store::{Slice, StateMapping as _, UserStateMapping};

/// Callers that are answered together: a full turn of a shard.
const CALLERS: usize = 1_000;

fn serialization(criterion: &mut Criterion) {
    let mapping = UserStateMapping::new();
    let id = sample::persistence_id(1);
    let state = sample::usual_state(DateTime::UNIX_EPOCH);
    let payload = mapping.encode(&id, &state).unwrap();
    let mut group = criterion.benchmark_group("serialization");
    group.bench_function("encode", |bencher| {
        bencher.iter(|| mapping.encode(black_box(&id), black_box(&state)));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| -> Result<UserState, _> {
            mapping.decode(black_box(&id), black_box(&payload))
        });
    });
    group.finish();
}

fn slice(criterion: &mut Criterion) {
    criterion.bench_function("slice", |bencher| {
        bencher.iter(|| Slice::of(black_box("load-user-123456")));
    });
}

fn apply(criterion: &mut Criterion) {
    let mut random = Rng::with_seed(1);
    let at = DateTime::UNIX_EPOCH;
    let event = UserEvent::try_from(sample::command(&mut random, at)).unwrap();
    let state = sample::usual_state(at);
    criterion.bench_function("apply", |bencher| {
        bencher.iter_batched(
            || (state.clone(), event.clone()),
            |(mut state, event)| {
                state.apply(black_box(event));
                state
            },
            BatchSize::SmallInput,
        );
    });
}

/// Live users on one thread, without a database.
fn live(tokio: &Tokio) -> Vec<EntityRef<UserState>> {
    tokio.block_on(async {
        let runtime = Runtime::for_users(Arc::new(InstantStore::new()))
            .start()
            .unwrap();
        let mut users = Vec::new();
        for number in 0..CALLERS {
            let user = runtime.entity(sample::persistence_id(number));
            user.state().await.unwrap();
            users.push(user);
        }
        users
    })
}

fn in_memory(criterion: &mut Criterion) {
    let tokio = Builder::new_current_thread().enable_all().build().unwrap();
    let users = live(&tokio);
    let mut random = Rng::with_seed(1);
    let mut command = move || sample::command(&mut random, DateTime::UNIX_EPOCH);
    let mut group = criterion.benchmark_group("in memory");
    group.bench_function("read", |bencher| {
        bencher.iter(|| tokio.block_on(users[0].state()).unwrap());
    });
    group.bench_function("command", |bencher| {
        bencher.iter(|| tokio.block_on(users[0].execute(command())).unwrap());
    });
    group.throughput(Throughput::Elements(CALLERS.try_into().unwrap()));
    group.bench_function("1000 commands at once", |bencher| {
        bencher.iter(|| {
            let commands = users.iter().map(|user| user.execute(command()));
            let answers = tokio.block_on(futures_util::future::join_all(commands));
            assert!(answers.iter().all(Result::is_ok));
        });
    });
    group.finish();
}

criterion_group!(parts, serialization, slice, apply, in_memory);
criterion_main!(parts);
