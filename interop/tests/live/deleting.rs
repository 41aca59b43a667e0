//! Goal: what one side deletes is deleted for the other, in each form of deletion and each released way of Pekko's, or the
//! difference is known; and the other side goes on.
//! Method: a user that a live Pekko actor and a live entity of ours both hold is deleted by one of them. Then everybody
//! looks: the live one, a newly recovered one, the stores, the queries; and commands are given to both sides. Where a
//! released plugin does other than one would think, the test says what it does. A trigger tells when a deletion of Pekko's
//! is over, since Pekko 1.x tells nobody.

use user_state_domain::UserState;
use user_state_interop::{
    AnyError, Case, EmptyState, Live, PekkoNode, Profile, Seen, StartOptions, State, TestResult,
};
use user_state_runtime::Runtime;
use user_state_store::{DeleteForm, SliceRange, StoredValue};

use crate::live::user::{
    Held, NOTHING, assert_ended, assert_holds, assert_restarted, login, named, only_row, products,
    read, restarting, revisions, second, view,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "a_reset_is_the_empty_state_for_pekko_and_refuses_the_write_of_a_live_actor",
            reset,
        ),
        Case::live(
            "a_marker_is_a_null_state_for_pekko_1_and_refuses_the_write_of_a_live_actor",
            marker,
        ),
        Case::live(
            "a_marker_is_no_state_for_an_application_of_pekko_1_that_has_null_for_none",
            marker_where_null_is_expected,
        ),
        Case::live(
            "an_erased_user_is_new_to_pekko_but_a_live_actor_of_plugin_1_2_0_brings_it_back",
            erase,
        ),
        Case::live(
            "a_deletion_that_met_a_newer_state_of_pekko_is_made_again_on_that_state",
            deletion_conflicts,
        ),
        Case::live(
            "a_deletion_of_what_pekko_has_removed_already_is_no_error",
            deletion_of_nothing,
        ),
        Case::live(
            "an_effect_delete_of_plugin_1_1_0_leaves_the_row_and_of_1_2_0_removes_it_and_we_go_on",
            effect_delete,
        ),
        Case::live(
            "a_state_that_pekko_writes_behind_its_effect_delete_is_continued_here",
            effect_delete_then_write,
        ),
        Case::live(
            "a_direct_delete_names_the_current_revision_on_plugin_1_1_0_and_the_next_one_on_1_2_0",
            delete_object,
        ),
    ]
}

/// A runtime that deletes in this form.
async fn deleting(live: &Live, form: DeleteForm) -> Result<Runtime<UserState>, AnyError> {
    let store = live.store().await?;
    Ok(Runtime::for_users(store).delete_form(form).start()?)
}

/// What `currentChangesBySlices` tells of an id, each with its revision.
async fn changes(pekko: &PekkoNode, id: &str) -> Result<Vec<(u64, Option<State>, bool)>, AnyError> {
    let changes = pekko.current_changes("", SliceRange::ALL, None).await?;
    Ok(changes
        .into_iter()
        .filter(|change| change.persistence_id == id)
        .map(|change| (change.revision, change.state, change.deleted))
        .collect())
}

async fn is_listed(pekko: &PekkoNode, id: &str) -> Result<bool, AnyError> {
    let listed = pekko.all_persistence_ids().await?;
    Ok(listed.iter().any(|listed| listed == id))
}

async fn reset(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = deleting(&live, DeleteForm::Reset).await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    let (key, id) = (&held.key, held.id());
    assert_eq!(held.user.delete().await?.get(), 3);
    let emptied = held.user.state().await?.state;
    let at = emptied.last_event_at.ok_or("a reset has its time")?;
    assert_eq!(emptied, UserState::emptied(at));

    assert_holds(&pekko.load(id).await?, 3, key, &emptied);
    assert!(is_listed(&pekko, id).await?);
    let told = changes(&pekko, id).await?;
    assert_eq!(told, [(3, Some(State::of(key, &emptied)), false)]);
    let fresh = pekko.start_with("mall-user", named("fresh")).await?;
    assert_holds(fresh.recovered(), 3, key, &emptied);
    fresh.stop().await?;

    assert_restarted(held.actor.login(second(5)).await, 3);
    assert_holds(&held.actor.get().await?, 3, key, &emptied);
    let mut expected = emptied;
    expected.last_login = Some(second(5));
    assert_holds(&held.actor.login(second(5)).await?, 4, key, &expected);

    assert_eq!(held.user.execute(view("new", 6)).await?.get(), 5);
    let continued = held.user.state().await?.state;
    assert_eq!(continued.last_login, Some(second(5)));
    assert_eq!(products(&continued), ["new"]);
    assert_eq!(revisions(&live, id).await?, [5]);
    Ok(())
}

/// Pekko 1.x knows no markers: it reads a state that is there and null. An application that does not expect one fails on
/// its next command, and harms nothing by it.
async fn marker(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = deleting(&live, DeleteForm::Marker).await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    let id = held.id();
    assert_eq!(held.user.delete().await?.get(), 3);
    assert_eq!(held.user.state().await?.state, UserState::default());

    let null = Seen {
        revision: 3,
        state: None,
        instants: None,
    };
    assert_eq!(pekko.load(id).await?, null);
    assert!(is_listed(&pekko, id).await?);
    assert_eq!(changes(&pekko, id).await?, [(3, None, false)]);
    let fresh = pekko.start_with("mall-user", named("fresh")).await?;
    assert_eq!(fresh.recovered(), &null);
    assert_ended(fresh.login(second(5)).await, "NullPointerException");

    assert_restarted(held.actor.login(second(5)).await, 3);
    assert_eq!(held.actor.get().await?, null);
    assert_ended(held.actor.login(second(5)).await, "NullPointerException");
    let stored = read(&live, held.user.persistence_id()).await??;
    let stored = stored.ok_or("the marker should be there")?;
    assert_eq!(
        (stored.revision.get(), stored.value),
        (3, StoredValue::Deleted)
    );

    assert_eq!(held.user.execute(view("new", 6)).await?.get(), 4);
    let continued = held.user.state().await?.state;
    assert_eq!(products(&continued), ["new"]);
    assert_eq!(continued.last_login, None);
    let fresh = pekko.start_with("mall-user", named("later")).await?;
    assert_holds(fresh.recovered(), 4, &held.key, &continued);
    assert_eq!(revisions(&live, id).await?, [4]);
    Ok(())
}

async fn marker_where_null_is_expected(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = deleting(&live, DeleteForm::Marker).await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    let expecting_null = |actor| StartOptions {
        actor: Some(String::from(actor)),
        empty_state: EmptyState::Null,
        ..restarting()
    };
    let actor = pekko
        .start_with("mall-user", expecting_null("live"))
        .await?;
    assert_holds(actor.recovered(), 2, &held.key, &held.state);
    assert_eq!(held.user.delete().await?.get(), 3);

    let fresh = pekko
        .start_with("mall-user", expecting_null("fresh"))
        .await?;
    let recovered = fresh.recovered();
    assert_eq!((recovered.revision, &recovered.state), (3, &None));
    assert_restarted(actor.login(second(5)).await, 3);
    let expected = UserState {
        last_login: Some(second(5)),
        last_event_at: Some(second(5)),
        ..UserState::default()
    };
    assert_holds(&actor.login(second(5)).await?, 4, &held.key, &expected);
    assert_eq!(held.user.execute(view("new", 6)).await?.get(), 5);
    let continued = held.user.state().await?.state;
    assert_eq!(continued.last_login, Some(second(5)));
    assert_eq!(products(&continued), ["new"]);
    assert_eq!(revisions(&live, held.id()).await?, [5]);
    Ok(())
}

async fn erase(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = deleting(&live, DeleteForm::Erase).await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    let (key, id) = (&held.key, held.id());
    assert_eq!(held.user.delete().await?.get(), 0);

    let nothing = Seen {
        revision: NOTHING,
        state: None,
        instants: None,
    };
    assert_eq!(pekko.load(id).await?, nothing);
    assert!(!is_listed(&pekko, id).await?);
    assert!(changes(&pekko, id).await?.is_empty());
    let fresh = pekko.start_with("mall-user", named("fresh")).await?;
    assert_holds(fresh.recovered(), NOTHING, key, &UserState::default());
    fresh.stop().await?;

    let mut expected = UserState::default();
    let revision = match live.profile() {
        Profile::Pekko11 => {
            assert_restarted(held.actor.login(second(5)).await, NOTHING);
            1
        }
        Profile::PekkoNewest => {
            expected = held.state.clone();
            3
        }
    };
    expected.last_login = Some(second(5));
    expected.last_event_at = Some(second(5));
    let written = held.actor.login(second(5)).await?;
    assert_holds(&written, revision, key, &expected);

    let next = i64::try_from(revision)? + 1;
    assert_eq!(held.user.execute(view("new", 6)).await?.get(), next);
    assert_eq!(runtime.stats().conflicts, 1);
    let continued = held.user.state().await?.state;
    assert_eq!(continued.last_login, Some(second(5)));
    match live.profile() {
        Profile::Pekko11 => assert_eq!(products(&continued), ["new"]),
        Profile::PekkoNewest => assert_eq!(products(&continued), ["new", "old"]),
    }
    assert_eq!(revisions(&live, id).await?, [next]);
    Ok(())
}

async fn deletion_conflicts(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    for (name, form, left) in [
        ("mall-reset", DeleteForm::Reset, vec![4]),
        ("mall-marker", DeleteForm::Marker, vec![4]),
        ("mall-erase", DeleteForm::Erase, vec![]),
    ] {
        let runtime = deleting(&live, form).await?;
        let held = Held::make(name, &runtime, &pekko).await?;
        assert_eq!(held.actor.view("theirs", second(3)).await?.revision, 3);
        let revision = left.first().copied().unwrap_or_default();
        assert_eq!(held.user.delete().await?.get(), revision, "{form:?}");
        assert_eq!(runtime.stats().conflicts, 1);
        let deleted = held.user.state_confirmed().await?;
        assert_eq!(deleted.revision.get(), revision);
        assert_eq!(products(&deleted.state), [""; 0]);
        assert_eq!(revisions(&live, held.id()).await?, left);
    }
    Ok(())
}

/// By a direct call, which does so in both versions.
async fn removed_by_pekko(live: &Live, pekko: &PekkoNode, id: &str) -> TestResult {
    let revision = match live.profile() {
        Profile::Pekko11 => 2,
        Profile::PekkoNewest => 3,
    };
    pekko.delete_object(id, revision).await?;
    assert_eq!(revisions(live, id).await?, [0; 0]);
    Ok(())
}

async fn deletion_of_nothing(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    for (name, form, left) in [
        ("mall-reset", DeleteForm::Reset, vec![]),
        ("mall-marker", DeleteForm::Marker, vec![1]),
        ("mall-erase", DeleteForm::Erase, vec![]),
    ] {
        let runtime = deleting(&live, form).await?;
        let held = Held::make(name, &runtime, &pekko).await?;
        removed_by_pekko(&live, &pekko, held.id()).await?;
        let revision = left.first().copied().unwrap_or_default();
        assert_eq!(held.user.delete().await?.get(), revision, "{form:?}");
        assert_eq!(revisions(&live, held.id()).await?, left);
        let next = held.user.execute(view("new", 6)).await?;
        assert_eq!(next.get(), revision + 1);
        assert_eq!(products(&held.user.state().await?.state), ["new"]);
    }
    Ok(())
}

/// Whether a row was there is told by the trigger: Pekko's actor holds the empty state at revision 3 in either case.
async fn effect_delete(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut deletions = live.database.deletions().await?;
    let unaware = Held::make("mall-unaware", &runtime, &pekko).await?;
    let confirmed = Held::make("mall-confirmed", &runtime, &pekko).await?;
    let mut removed = Vec::new();
    for held in [&unaware, &confirmed] {
        let answer = held.actor.delete().await?;
        assert_holds(&answer, 3, &held.key, &UserState::default());
        removed.push(deletions.next().await?);
    }

    let (gone, revision, state) = match live.profile() {
        Profile::Pekko11 => (0, 2, None),
        Profile::PekkoNewest => (1, 0, Some(UserState::default())),
    };
    assert_eq!(removed, [gone, gone]);
    let recovered = live.runtime().await?;
    for held in [&unaware, &confirmed] {
        let left = state.as_ref().unwrap_or(&held.state);
        let stored = read(&live, held.user.persistence_id()).await??;
        assert_eq!(stored.map_or(0, |stored| stored.revision.get()), revision);
        let newly = recovered.user(&held.key).state().await?;
        assert_eq!((newly.revision.get(), &newly.state), (revision, left));
        // What is live here is read from memory, until somebody asks the database.
        assert_eq!(held.user.state().await?.state, held.state);
    }
    let left = state.as_ref().unwrap_or(&confirmed.state);
    let seen = confirmed.user.state_confirmed().await?;
    assert_eq!((seen.revision.get(), &seen.state), (revision, left));

    for held in [&unaware, &confirmed] {
        assert_eq!(held.user.execute(view("new", 6)).await?.get(), revision + 1);
        let continued = held.user.state().await?.state;
        match live.profile() {
            Profile::Pekko11 => assert_eq!(products(&continued), ["new", "old"]),
            Profile::PekkoNewest => assert_eq!(products(&continued), ["new"]),
        }
        let row = only_row(&live, held.id()).await?;
        assert_eq!(row.revision, revision + 1);
    }
    Ok(())
}

/// Plugin 1.1.0 refuses the actor's next write, and the old state is back. Plugin 1.2.0 inserts the first row of the id at
/// revision 4, which a reader has to expect.
async fn effect_delete_then_write(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut deletions = live.database.deletions().await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    held.actor.delete().await?;
    deletions.next().await?;
    let (revision, expected) = match live.profile() {
        Profile::Pekko11 => {
            assert_restarted(held.actor.view("theirs", second(5)).await, 2);
            assert_holds(&held.actor.get().await?, 2, &held.key, &held.state);
            (3, vec!["theirs", "old"])
        }
        Profile::PekkoNewest => (4, vec!["theirs"]),
    };
    let written = held.actor.view("theirs", second(5)).await?;
    assert_eq!(written.revision, revision);

    let revision = i64::try_from(revision)?;
    let newly = live.runtime().await?.user(&held.key).state().await?;
    assert_eq!(newly.revision.get(), revision);
    assert_eq!(products(&newly.state), expected);
    assert_eq!(held.user.execute(login(7)).await?.get(), revision + 1);
    assert_eq!(runtime.stats().conflicts, 1);
    let continued = held.user.state().await?.state;
    assert_eq!(products(&continued), expected);
    assert_eq!(continued.last_login, Some(second(7)));
    assert_eq!(revisions(&live, held.id()).await?, [revision + 1]);
    Ok(())
}

/// The row is at revision 2. Whom it was refused to is told by an exception; our live entity goes on in any case.
async fn delete_object(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let (deleting, exception) = match live.profile() {
        Profile::Pekko11 => (
            [false, true, false],
            "org.apache.pekko.persistence.state.exception.DeleteRevisionException",
        ),
        Profile::PekkoNewest => ([true, false, true], "java.lang.IllegalStateException"),
    };
    for (revision, deletes) in [0, 2, 3].into_iter().zip(deleting) {
        let held = Held::make(&format!("mall-{revision}"), &runtime, &pekko).await?;
        let answer = pekko.delete_object(held.id(), revision).await;
        let (next, expected) = if deletes {
            answer?;
            assert_eq!(revisions(&live, held.id()).await?, [0; 0]);
            (1, vec!["new"])
        } else {
            let error = answer.unwrap_err();
            assert_eq!(error.refusal().unwrap().class, exception);
            assert_eq!(revisions(&live, held.id()).await?, [2]);
            (3, vec!["new", "old"])
        };
        assert_eq!(held.user.execute(view("new", 6)).await?.get(), next);
        let continued = held.user.state().await?.state;
        assert_eq!(products(&continued), expected, "revision {revision}");

        // An actor that still holds revision 2 is told, and goes on behind us.
        let answer = held.actor.login(second(7)).await;
        assert_restarted(answer, u64::try_from(next)?);
        assert_holds(
            &held.actor.get().await?,
            u64::try_from(next)?,
            &held.key,
            &continued,
        );
        held.actor.stop().await?;
    }
    Ok(())
}
