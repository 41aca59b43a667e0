//! Goal: a user's whole life - events, idleness, recovery - on a real PostgreSQL.
//! Method: commands through `EntityRef`, manual time, a probe on the lifecycle stream, and a second runtime
//! where a restart is meant.

mod support;

use std::time::Duration;

use support::{Database, TestResult, cart, key, login, opt_in, second, view};
use tokio::task::JoinSet;
use user_state_domain::{ProductId, UserState};
use user_state_runtime::testkit::{ManualTime, TestProbe};
use user_state_runtime::{LifecycleEvent, PassivationReason, Runtime};
use user_state_store::Revision;

const IDLE: Duration = Duration::from_mins(30);
const ALMOST_IDLE: Duration = Duration::from_secs(30 * 60 - 1);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_last_login_cart_products_and_opt_in_are_kept() -> TestResult {
    let database = Database::create().await?;
    let runtime = Runtime::for_users(database.store().await?).start()?;
    let user = runtime.user(&key("u"));

    user.execute(login(1)).await?;
    user.execute(cart(2)).await?;
    for (product, at) in [("a", 3), ("b", 4), ("a", 5), ("c", 6), ("d", 7)] {
        user.execute(view(product, at)).await?;
    }
    user.execute(opt_in(true, 8)).await?;

    let read = user.state().await?;
    assert_eq!(read.revision.get(), 8, "each command is a revision");
    assert_eq!(read.state.last_login, Some(second(1)));
    assert_eq!(read.state.last_cart_used, Some(second(2)));
    let products: Vec<_> = read
        .state
        .recent_products
        .iter()
        .map(ProductId::as_str)
        .collect();
    assert_eq!(
        products,
        ["d", "c", "a"],
        "three, newest first, no duplicates"
    );
    assert!(read.state.marketing_opt_in);
    assert_eq!(read.state.last_event_at, Some(second(8)));

    user.execute(opt_in(false, 9)).await?;
    assert!(!user.state().await?.state.marketing_opt_in);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_users_at_once_keep_their_own_states_across_a_restart() -> TestResult {
    let database = Database::create().await?;
    let runtime = Runtime::for_users(database.store().await?).start()?;
    let mut users = JoinSet::new();
    for number in 0..10 {
        let user = runtime.user(&key(&format!("u{number}")));
        users.spawn(async move {
            for command in [
                login(number),
                cart(number + 1),
                view(&format!("first of {number}"), number + 2),
                view(&format!("second of {number}"), number + 3),
                opt_in(true, number + 4),
                opt_in(number % 2 == 0, number + 5),
            ] {
                user.execute(command).await?;
            }
            let read = user.state().await?;
            assert_eq!(read.revision.get(), 6);
            assert_eq!(read.state.last_login, Some(second(number)));
            assert_eq!(read.state.marketing_opt_in, number % 2 == 0);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((number, read))
        });
    }
    let before: Vec<_> = users
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    runtime.shutdown().await?;

    let restarted = Runtime::for_users(database.store().await?).start()?;
    for (number, read) in before {
        let recovered = restarted.user(&key(&format!("u{number}"))).state().await?;
        assert_eq!(recovered, read);
    }
    Ok(())
}

#[tokio::test]
async fn half_an_hour_without_a_message_passivates_and_the_next_message_recovers() -> TestResult {
    let database = Database::create().await?;
    let time = ManualTime::new();
    let runtime = Runtime::for_users(database.store().await?)
        .clock(time.clone())
        .start()?;
    let user = runtime.user(&key("u"));
    let id = user.persistence_id().clone();
    user.execute(login(1)).await?;
    let before = user.state().await?;
    let mut probe = TestProbe::of(&runtime, id.clone());

    time.advance(ALMOST_IDLE).await?;
    probe.expect_none()?;
    assert_eq!(runtime.stats().live, 1, "29 minutes 59 seconds: live");

    time.advance(SECOND).await?;
    let passivated = LifecycleEvent::Passivated {
        persistence_id: id.clone(),
        revision: Revision::FIRST,
        reason: PassivationReason::Idle,
    };
    assert_eq!(probe.expect().await?, passivated);
    assert_eq!(
        runtime.stats().live,
        0,
        "30 minutes: no live entity is left"
    );

    assert_eq!(user.state().await?, before);
    let recovered = LifecycleEvent::Recovered {
        persistence_id: id,
        revision: Revision::FIRST,
    };
    assert_eq!(probe.expect().await?, recovered);
    Ok(())
}

#[tokio::test]
async fn every_message_renews_the_half_hour_a_read_too() -> TestResult {
    let database = Database::create().await?;
    let time = ManualTime::new();
    let runtime = Runtime::for_users(database.store().await?)
        .clock(time.clone())
        .start()?;
    let (reader, writer, idle) = (key("reader"), key("writer"), key("idle"));
    for user in [&reader, &writer, &idle] {
        runtime.user(user).execute(login(1)).await?;
    }
    let mut probe = TestProbe::new(&runtime);

    time.advance(ALMOST_IDLE).await?;
    runtime.user(&reader).state().await?;
    runtime.user(&writer).tell(cart(2))?;
    time.advance(SECOND).await?;
    assert_eq!(runtime.stats().live, 2, "only the idle one has left");

    time.advance(Duration::from_secs(30 * 60 - 2)).await?;
    assert_eq!(
        runtime.stats().live,
        2,
        "both have the whole half hour again"
    );
    time.advance(SECOND).await?;
    assert_eq!(runtime.stats().live, 0);

    let left = async |probe: &mut TestProbe, user| {
        let id = runtime.user(user).persistence_id().clone();
        probe
            .expect_where(move |event| {
                matches!(event, LifecycleEvent::Passivated { persistence_id, .. } if *persistence_id == id)
            })
            .await
    };
    left(&mut probe, &idle).await?;
    Ok(())
}

#[tokio::test]
async fn an_entity_due_with_a_write_under_way_is_flushed_before_it_leaves() -> TestResult {
    let database = Database::create().await?;
    let time = ManualTime::new();
    let runtime = Runtime::for_users(database.store().await?)
        .clock(time.clone())
        .start()?;
    let user = runtime.user(&key("u"));
    for second in 0..100 {
        user.tell(login(second))?;
    }
    time.advance(IDLE).await?;
    assert_eq!(runtime.stats().live, 0);

    let restarted = Runtime::for_users(database.store().await?).start()?;
    let read = restarted.user(&key("u")).state().await?;
    assert_eq!(read.revision.get(), 100);
    assert_eq!(read.state.last_login, Some(second(99)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_race_with_passivation_are_all_answered() -> TestResult {
    let database = Database::create().await?;
    let time = ManualTime::new();
    let runtime = Runtime::for_users(database.store().await?)
        .clock(time.clone())
        .start()?;
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let user = runtime.user(&key(&format!("u{}", caller % 2)));
        callers.spawn(async move {
            for turn in 0..50_i64 {
                match (caller + turn) % 3 {
                    0 => drop(user.state().await?),
                    1 => user.passivate().await?,
                    _ => {}
                }
                user.execute(login(turn)).await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    while !callers.is_empty() {
        time.advance(IDLE).await?;
        while let Some(caller) = callers.try_join_next() {
            caller??;
        }
    }
    time.advance(IDLE).await?;

    let stats = runtime.stats();
    assert_eq!(stats.live, 0);
    assert_eq!(
        stats.recovered, stats.passivated,
        "whoever came to life has left"
    );
    for user in ["u0", "u1"] {
        assert_eq!(runtime.user(&key(user)).state().await?.revision.get(), 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_user_who_was_never_seen_has_the_empty_state_at_revision_0() -> TestResult {
    let database = Database::create().await?;
    let runtime = Runtime::for_users(database.store().await?).start()?;
    let read = runtime.user(&key("nobody")).state().await?;
    assert_eq!(
        (read.state, read.revision),
        (UserState::default(), Revision::NONE)
    );
    Ok(())
}
