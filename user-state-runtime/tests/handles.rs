//! Goal: handles are values: they can be compared, kept in sets and printed, and printing one shows no more than its name.
//! Method: handles of two runtimes on one SQLite file; the `Debug` form of everything public that holds a runtime's parts.

use std::collections::HashSet;
use std::error::Error;

use user_state_domain::UserState;
use user_state_runtime::testkit::{FaultyStore, ManualTime, TestProbe};
use user_state_runtime::{Runtime, Settings, StartError, SystemClock, TimeSource};
use user_state_store::{PersistenceId, Store};

type TestResult = Result<(), Box<dyn Error>>;

async fn store(directory: &tempfile::TempDir) -> Result<Store, Box<dyn Error>> {
    let url = format!(
        "sqlite:{}",
        directory.path().join("secret-place.db").display()
    );
    Ok(user_state_store::connect(&url.parse()?).await?)
}

fn id(name: &str) -> Result<PersistenceId, Box<dyn Error>> {
    Ok(PersistenceId::unique(name)?)
}

#[tokio::test]
#[expect(
    clippy::mutable_key_type,
    reason = "a handle's hash goes by its runtime's address and its id, which do not change"
)]
async fn handles_are_equal_when_they_are_of_one_entity_of_one_runtime() -> TestResult {
    let directory = tempfile::tempdir()?;
    let store = store(&directory).await?;
    let runtime = Runtime::for_users(store.clone()).start()?;
    let other = Runtime::for_users(store).start()?;
    let user = runtime.entity(id("mall-user")?);
    assert_eq!(user, user.clone());
    assert_eq!(user, runtime.clone().entity(id("mall-user")?));
    assert_ne!(user, runtime.entity(id("mall-other")?));
    assert_ne!(user, other.entity(id("mall-user")?));

    let handles = HashSet::from([
        user.clone(),
        runtime.entity(id("mall-user")?),
        runtime.entity(id("mall-other")?),
        other.entity(id("mall-user")?),
    ]);
    assert_eq!(handles.len(), 3);
    assert!(handles.contains(&user));
    Ok(())
}

#[tokio::test]
async fn a_debug_form_is_one_short_line_without_the_place_of_the_database() -> TestResult {
    let directory = tempfile::tempdir()?;
    let store = store(&directory).await?;
    let time = ManualTime::new();
    let builder = Runtime::for_users(store.clone())
        .clock(time.clone())
        .settings(Settings::default().shards(2));
    let unstarted = format!("{builder:?}");
    let runtime = builder.start()?;
    let user = runtime.entity(id("mall-user")?);
    user.state().await?;

    assert_eq!(
        format!("{runtime:?}"),
        "Runtime(UserState, 1 live in 2 shards)"
    );
    assert_eq!(format!("{user:?}"), r#"EntityRef(UserState, "mall-user")"#);
    assert_eq!(unstarted, "RuntimeBuilder(UserState, Reset, RetryOnce)");
    assert_eq!(format!("{:?}", runtime.lifecycle()), "Lifecycle");
    assert_eq!(format!("{:?}", SystemClock::new()), "SystemClock");
    assert_eq!(format!("{time:?}"), "ManualTime(2000-01-01 00:00:00 UTC)");
    let source = TimeSource::from(time);
    assert_eq!(
        format!("{source:?}"),
        "TimeSource(ManualTime(2000-01-01 00:00:00 UTC))"
    );

    let faulty = FaultyStore::new(store);
    let others = [
        format!("{faulty:?}"),
        format!("{:?}", faulty.hold_writes()),
        format!("{:?}", faulty.hold_loads()),
        format!("{:?}", TestProbe::new(&runtime)),
        format!("{:?}", TestProbe::of(&runtime, id("mall-user")?)),
    ];
    for debug in others {
        assert!(
            !debug.contains("secret-place") && debug.len() < 120,
            "{debug}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_setting_out_of_its_range_keeps_a_runtime_from_starting() -> TestResult {
    let directory = tempfile::tempdir()?;
    let store = store(&directory).await?;
    let start = |settings| {
        Runtime::<UserState>::for_users(store.clone())
            .settings(settings)
            .start()
    };
    let refused = start(Settings::default().batch_rows_max(501)).unwrap_err();
    assert!(
        matches!(&refused, StartError::InvalidSetting(invalid) if invalid.setting == "batch_rows_max"),
        "{refused:?}"
    );
    assert_eq!(
        refused.to_string(),
        "batch_rows_max is 501, it must be between 1 and 500"
    );
    let refused = start(Settings::default().shards(129)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "shards is 129, it must be between 1 and 128"
    );
    start(Settings::default().shards(128))?.shutdown().await?;
    Ok(())
}
