//! Goal: each form of deletion leaves what it says, is a barrier between what came before and what comes later, and loses
//! nothing.
//! Method: the three forms on users, present and absent, with writes held around them, and the rows by SQL.

mod support;

use std::sync::Arc;

use support::ledger::{Bank, add, id, ledgers};
use support::{AnyError, Call, Database, TICK, TestResult, cart, execute, key, login, sent, view};
use user_state_domain::{ProductId, UserState};
use user_state_runtime::testkit::{FaultyStore, ManualTime, TestProbe, WriteFault};
use user_state_runtime::{
    ConflictPolicy, EntityRef, FailureReason, LifecycleEvent, RequestError, Runtime,
};
use user_state_store::{DeleteForm, PersistenceId, Revision, StoredValue};

const FORMS: [DeleteForm; 3] = [DeleteForm::Reset, DeleteForm::Marker, DeleteForm::Erase];

struct Users {
    database: Database,
    faulty: Arc<FaultyStore>,
    time: ManualTime,
    runtime: Runtime<UserState>,
}

async fn users(form: DeleteForm) -> Result<Users, AnyError> {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let time = ManualTime::new();
    let runtime = Runtime::for_users(faulty.clone())
        .clock(time.clone())
        .delete_form(form)
        .start()?;
    Ok(Users {
        database,
        faulty,
        time,
        runtime,
    })
}

impl Users {
    fn user(&self) -> EntityRef<UserState> {
        self.runtime.user(&key("u"))
    }

    fn delete(&self) -> Call<Result<Revision, RequestError>> {
        let user = self.user();
        sent(async move { user.delete().await })
    }

    /// What is stored: the revision, and whether it is a delete marker.
    async fn stored(&self) -> Result<Option<(i64, bool)>, AnyError> {
        let store = self.database.store().await?;
        let row = store
            .states()
            .load_one(&PersistenceId::from(&key("u")))
            .await?;
        Ok(row.map(|row| (row.revision.get(), row.value == StoredValue::Deleted)))
    }
}

#[tokio::test]
async fn each_form_leaves_what_it_says_and_the_next_life_starts_empty() -> TestResult {
    for form in FORMS {
        let users = users(form).await?;
        let user = users.user();
        user.execute(login(1)).await?;
        user.execute(view("p", 2)).await?;
        let deleted = user.delete().await?.get();
        let (revision, stored, next) = match form {
            DeleteForm::Reset => (3, Some((3, false)), 4),
            DeleteForm::Marker => (3, Some((3, true)), 4),
            DeleteForm::Erase => (0, None, 1),
        };
        assert_eq!(deleted, revision, "{form:?}");
        assert_eq!(users.stored().await?, stored, "{form:?}");

        let empty = UserState {
            // Classes of a Pekko application have this one non-null.
            last_event_at: (form == DeleteForm::Reset).then(|| users.time.utc_now()),
            ..UserState::default()
        };
        let read = user.state().await?;
        assert_eq!((read.state, read.revision.get()), (empty.clone(), revision));
        user.passivate().await?;
        let recovered = user.state().await?;
        assert_eq!(
            (recovered.state, recovered.revision.get()),
            (empty, revision),
            "{form:?} recovered"
        );
        assert_eq!(user.execute(cart(9)).await?.get(), next, "{form:?}");
        let state = user.state().await?.state;
        assert_eq!((state.last_login, state.recent_products.len()), (None, 0));
        assert_eq!(users.stored().await?, Some((next, false)));
    }
    Ok(())
}

#[tokio::test]
async fn deleting_whoever_was_never_there_writes_nothing_but_a_marker() -> TestResult {
    for (form, revision, stored) in [
        (DeleteForm::Reset, 0, None),
        (DeleteForm::Erase, 0, None),
        (DeleteForm::Marker, 1, Some((1, true))),
    ] {
        let users = users(form).await?;
        assert_eq!(users.user().delete().await?.get(), revision, "{form:?}");
        assert_eq!(users.stored().await?, stored, "{form:?}");
        assert_eq!(users.user().execute(login(1)).await?.get(), revision + 1);
    }
    Ok(())
}

#[tokio::test]
async fn deleting_twice_counts_on_where_something_is_left() -> TestResult {
    for (form, revisions) in [
        (DeleteForm::Reset, [2, 3]),
        (DeleteForm::Marker, [2, 3]),
        (DeleteForm::Erase, [0, 0]),
    ] {
        let users = users(form).await?;
        users.user().execute(login(1)).await?;
        for revision in revisions {
            assert_eq!(users.user().delete().await?.get(), revision, "{form:?}");
            users.user().passivate().await?;
        }
        let empty = users.user().state().await?.state;
        assert_eq!(empty.last_login, None);
    }
    Ok(())
}

#[tokio::test]
async fn a_delete_is_a_barrier_between_earlier_and_later_commands() -> TestResult {
    for (form, deleted, later) in [
        (DeleteForm::Reset, 4, [5, 6]),
        (DeleteForm::Marker, 4, [5, 6]),
        (DeleteForm::Erase, 0, [1, 2]),
    ] {
        let users = users(form).await?;
        let user = users.user();
        user.execute(login(1)).await?;
        let mut probe = TestProbe::new(&users.runtime);
        let held = users.faulty.hold_writes();
        let in_flight = execute(&user, login(2));
        users.faulty.batches_arrived(2).await;
        let gathered = execute(&user, view("gone", 3));
        let delete = users.delete();
        let behind = execute(&user, cart(4));
        let last = execute(&user, view("kept", 5));
        drop(held);

        assert_eq!(in_flight.await?.get(), 2);
        assert_eq!(
            gathered.await?.get(),
            3,
            "{form:?}: durable before the delete"
        );
        assert_eq!(delete.await?.get(), deleted, "{form:?}");
        assert_eq!(behind.await?.get(), later[0], "{form:?}");
        assert_eq!(last.await?.get(), later[1], "{form:?}");
        let state = user.state().await?.state;
        assert_eq!(state.last_login, None);
        let products: Vec<_> = state
            .recent_products
            .iter()
            .map(ProductId::as_str)
            .collect();
        assert_eq!(products, ["kept"]);
        assert_eq!(users.stored().await?, Some((later[1], false)));
        for revision in [2, 3, deleted] {
            let persisted = probe.expect().await?;
            assert!(
                matches!(persisted, LifecycleEvent::Persisted { revision: seen, .. } if seen.get() == revision),
                "{form:?}: {persisted:?}, not {revision}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_marker_is_understood_whatever_the_setting() -> TestResult {
    for form in FORMS {
        let marking = users(DeleteForm::Marker).await?;
        marking.user().execute(login(1)).await?;
        marking.user().delete().await?;
        let reader = Runtime::for_users(marking.database.store().await?)
            .delete_form(form)
            .start()?;
        let user = reader.user(&key("u"));
        let read = user.state().await?;
        assert_eq!((read.state, read.revision.get()), (UserState::default(), 2));
        assert_eq!(user.execute(cart(3)).await?.get(), 3, "{form:?}");
        assert_eq!(marking.stored().await?, Some((3, false)));
    }
    Ok(())
}

#[tokio::test]
async fn a_delete_that_fails_leaves_everything_and_one_whose_answer_is_lost_is_resolved()
-> TestResult {
    for form in FORMS {
        let users = users(form).await?;
        let user = users.user();
        user.execute(login(1)).await?;
        users.faulty.fail_writes(WriteFault::FailBefore, 1);
        let failed = user.delete().await;
        assert!(
            matches!(failed, Err(RequestError::Unavailable(_))),
            "{form:?}"
        );
        let read = user.state().await?;
        assert!(read.state.last_login.is_some() && read.revision.get() == 1);

        let mut probe = TestProbe::new(&users.runtime);
        users.faulty.fail_writes(WriteFault::LoseRequest, 1);
        let resolved = user.delete().await?.get();
        assert_eq!(resolved, if form == DeleteForm::Erase { 0 } else { 2 });
        let lost = probe.expect().await?;
        assert!(matches!(
            lost,
            LifecycleEvent::Failed {
                reason: FailureReason::Unknown,
                ..
            }
        ));
        assert_eq!(user.state().await?.state.last_login, None, "{form:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_delete_that_meets_another_writer_is_made_on_what_that_one_left() -> TestResult {
    for form in FORMS {
        let database = Database::create().await?;
        let faulty = database.faulty().await?;
        let time = ManualTime::new();
        let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
            .conflict_policy(ConflictPolicy::retry_once())
            .delete_form(form)
            .clock(time.clone())
            .start()?;
        let ledger = runtime.entity(id("l"));
        ledger.execute(add(1)).await?;
        let held = faulty.hold_writes();
        let delete = {
            let ledger = ledger.clone();
            sent(async move { ledger.delete().await })
        };
        faulty.batches_arrived(2).await;
        let behind = execute(&ledger, add(5));
        let rival = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
        rival.entity(id("l")).execute(add(100)).await?;
        drop(held);
        let erased = form == DeleteForm::Erase;
        assert_eq!(delete.await?.get(), if erased { 0 } else { 3 }, "{form:?}");
        assert_eq!(behind.await?.get(), if erased { 1 } else { 4 }, "{form:?}");
        time.advance(TICK).await?;
        assert_eq!(ledger.state().await?.state.recent, [5], "{form:?}");
        assert_eq!(database.revisions("Ledger|l").await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn where_the_policy_is_to_fail_a_delete_that_meets_another_writer_deletes_nothing()
-> TestResult {
    let database = Database::create().await?;
    let faulty = database.faulty().await?;
    let runtime = ledgers(faulty.clone(), &Bank::with_rate(1))
        .conflict_policy(ConflictPolicy::fail())
        .start()?;
    let ledger = runtime.entity(id("l"));
    ledger.execute(add(1)).await?;
    let rival = ledgers(database.store().await?, &Bank::with_rate(1)).start()?;
    rival.entity(id("l")).execute(add(100)).await?;

    assert_eq!(ledger.delete().await, Err(RequestError::Conflict));
    let left = ledger.state().await?;
    assert_eq!((left.state.recent, left.revision.get()), (vec![1, 100], 2));
    Ok(())
}
