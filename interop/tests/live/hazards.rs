//! Goal: of two writers that hold old knowledge, the one that can be refused is refused, and nothing is lost silently; what no
//! writer can prevent is known exactly, and where a unique index helps, it is shown.
//! Method: each hazard of mixing released versions of Pekko's plugin with another writer is brought about step by step:
//! actors keep their knowledge while the row changes under them. A trigger tells when a deletion of Pekko's is over, another
//! holds up an insert where two have to overlap.
//!
//! Not here: what a hard deletion does to the offsets of projections (there is no projection module, here or in the Pekko
//! application), and plugin 1.0.0, which is not among the profiles.

use sqlx::Connection as _;
use user_state_domain::{UserKey, UserState};
use user_state_interop::{AnyError, Case, Live, PekkoActor, Profile, TestResult};
use user_state_runtime::{EntityRef, ExecuteError, RequestError, Runtime};
use user_state_store::{DeleteForm, SliceRange, StoreError};

use crate::live::user::{
    Held, NOTHING, assert_holds, assert_restarted, login, only_row, products, read, restarting,
    revisions, second, view,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::live(
            "a_user_made_again_after_an_erase_is_overwritten_by_an_actor_that_holds_the_same_revision",
            stale_actor_meets_its_revision,
        ),
        Case::live(
            "a_user_made_again_after_a_reset_is_not_overwritten_by_any_actor",
            stale_actor_meets_a_reset,
        ),
        Case::live(
            "a_user_that_pekko_removed_and_made_again_at_our_revision_is_not_overwritten_from_here",
            stale_entity_meets_its_revision,
        ),
        Case::live(
            "our_first_write_of_a_user_that_pekko_made_meanwhile_becomes_the_next_one",
            our_creation_comes_late,
        ),
        Case::live(
            "pekkos_first_write_of_a_user_that_we_moved_on_makes_a_second_row_that_nobody_here_guesses_about",
            pekkos_creation_comes_late,
        ),
        Case::live(
            "with_the_unique_index_pekkos_first_write_of_a_user_that_we_moved_on_is_refused",
            pekkos_creation_comes_late_to_the_index,
        ),
        Case::live(
            "an_insert_of_plugin_1_2_0_above_revision_1_and_our_creation_at_once_make_two_rows",
            |live| creations_overlap(live, Index::Absent),
        ),
        Case::live(
            "with_the_unique_index_an_insert_of_plugin_1_2_0_beside_our_creation_is_refused",
            |live| creations_overlap(live, Index::Present),
        ),
        Case::live(
            "an_effect_delete_of_plugin_1_1_0_by_a_stale_actor_removes_our_newer_row",
            stale_delete,
        ),
        Case::live(
            "an_actor_behind_its_effect_delete_overwrites_the_row_that_we_brought_to_its_revision",
            phantom_revision,
        ),
        Case::live(
            "an_actor_of_plugin_1_2_0_that_deletes_beside_our_newer_row_overwrites_it_by_its_next_write",
            phantom_of_a_stale_delete,
        ),
        Case::live(
            "a_command_right_behind_an_effect_delete_of_pekko_can_bring_the_deleted_state_back",
            write_overtakes_effect_delete,
        ),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Index {
    Absent,
    Present,
}

async fn erasing(live: &Live) -> Result<Runtime<UserState>, AnyError> {
    let store = live.store().await?;
    let runtime = Runtime::for_users(store).delete_form(DeleteForm::Erase);
    Ok(runtime.start()?)
}

/// Pekko's writers compare revisions and nothing else, and after an erase they are used again. The unique index is there,
/// and has nothing to say, since there is one row only.
async fn stale_actor_meets_its_revision(live: Live) -> TestResult {
    live.database.create_unique_index().await?;
    let pekko = live.pekko().await?;
    let runtime = erasing(&live).await?;
    for revision in [1, 2] {
        let name = format!("mall-{revision}");
        let user = runtime.user(&name.parse()?);
        for number in 1..=revision {
            user.execute(view("old", number)).await?;
        }
        let actor = pekko.start_with(&name, restarting()).await?;

        assert_eq!(user.delete().await?.get(), 0);
        for number in 1..=revision {
            assert_eq!(user.execute(view("new", number)).await?.get(), number);
        }
        let written = actor.login(second(3)).await?;
        assert_eq!(i64::try_from(written.revision)?, revision + 1);

        let seen = user.state_confirmed().await?;
        assert_eq!(seen.revision.get(), revision + 1);
        assert_eq!(products(&seen.state), ["old"], "our view is lost");
        let next = user.execute(view("newer", 4)).await?;
        assert_eq!(next.get(), revision + 2);
        assert_eq!(revisions(&live, &name).await?, [revision + 2]);
    }
    Ok(())
}

async fn stale_actor_meets_a_reset(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let key: UserKey = "mall-user".parse()?;
    let user = runtime.user(&key);
    user.execute(view("old", 1)).await?;
    let actor = pekko.start_with("mall-user", restarting()).await?;
    assert_eq!(user.delete().await?.get(), 2);
    assert_eq!(user.execute(view("new", 2)).await?.get(), 3);

    assert_restarted(actor.login(second(3)).await, 3);
    let written = actor.login(second(3)).await?;
    let seen = user.state_confirmed().await?;
    assert_holds(&written, 4, &key, &seen.state);
    assert_eq!(products(&seen.state), ["new"]);
    assert_eq!(seen.state.last_login, Some(second(3)));
    Ok(())
}

/// The other way round a write from here is refused: it compares the time of the row that it knew, too.
async fn stale_entity_meets_its_revision(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let user = runtime.user(&"mall-user".parse()?);
    user.execute(view("old", 1)).await?;
    let revision = match live.profile() {
        Profile::Pekko11 => 1,
        Profile::PekkoNewest => 2,
    };
    pekko.delete_object("mall-user", revision).await?;
    let actor = pekko.start_with("mall-user", restarting()).await?;
    assert_eq!(actor.recovered().revision, NOTHING);
    assert_eq!(actor.view("new", second(2)).await?.revision, 1);

    assert_eq!(user.execute(login(3)).await?.get(), 2);
    assert_eq!(runtime.stats().conflicts, 1);
    let seen = user.state_confirmed().await?;
    assert_eq!(products(&seen.state), ["new"], "our login is on theirs");
    assert_eq!(seen.state.last_login, Some(second(3)));
    assert_restarted(actor.login(second(4)).await, 2);
    assert_eq!(revisions(&live, "mall-user").await?, [2]);
    Ok(())
}

/// However far the other side's row is, a creation of ours never stands beside it: no index needed.
async fn our_creation_comes_late(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut conflicts = 0;
    for theirs in [1, 2, 5] {
        let name = format!("mall-{theirs}");
        let key: UserKey = name.parse()?;
        let user = runtime.user(&key);
        assert_eq!(user.state().await?.revision.get(), 0);
        let actor = pekko.start_with(&name, restarting()).await?;
        for number in 1..=theirs {
            actor.view("theirs", second(number)).await?;
        }
        assert_eq!(user.execute(login(9)).await?.get(), theirs + 1);
        conflicts += 1;
        assert_eq!(runtime.stats().conflicts, conflicts);
        let seen = user.state().await?.state;
        assert_eq!(products(&seen), ["theirs"]);
        assert_eq!(seen.last_login, Some(second(9)));
        assert_eq!(revisions(&live, &name).await?, [theirs + 1]);
        let next = u64::try_from(theirs)? + 1;
        assert_restarted(actor.use_cart(second(10)).await, next);
        assert_holds(&actor.get().await?, next, &key, &seen);
    }
    Ok(())
}

/// An actor that found nothing, and a user that we have brought to revision 2 since.
async fn with_nothing_in_mind(
    live: &Live,
    runtime: &Runtime<UserState>,
) -> Result<(PekkoActor, EntityRef<UserState>), AnyError> {
    let pekko = live.pekko().await?;
    let actor = pekko.start_with("mall-user", restarting()).await?;
    assert_eq!(actor.recovered().revision, NOTHING);
    let user = runtime.user(&"mall-user".parse()?);
    user.execute(login(1)).await?;
    assert_eq!(user.execute(view("ours", 2)).await?.get(), 2);
    Ok((actor, user))
}

/// Whoever recovers the user here gets an error that names both rows, until an operator has removed the wrong one.
async fn pekkos_creation_comes_late(live: Live) -> TestResult {
    let runtime = live.runtime().await?;
    let (actor, user) = with_nothing_in_mind(&live, &runtime).await?;
    assert_eq!(actor.view("theirs", second(3)).await?.revision, 1);
    assert_eq!(revisions(&live, "mall-user").await?, [1, 2]);
    // A live entity goes on in its own row until it has to look.
    assert_eq!(user.execute(login(4)).await?.get(), 3);
    assert_doubled(&live, &user, 1, 3).await?;
    let pekko = live.pekko().await?;
    let guessed = pekko.load("mall-user").await?;
    assert!([1, 3].contains(&guessed.revision), "Pekko takes either");
    let told = pekko.current_changes("", SliceRange::ALL, None).await?;
    let told: Vec<u64> = told.iter().map(|change| change.revision).collect();
    assert_eq!(told, [1, 3]);

    let remove = "DELETE FROM durable_state WHERE persistence_id = 'mall-user' AND revision = 1";
    live.database.execute(remove).await?;
    let newly = live.runtime().await?.user(&"mall-user".parse()?);
    assert_eq!(newly.execute(login(5)).await?.get(), 4);
    assert_eq!(products(&newly.state().await?.state), ["ours"]);
    assert_eq!(user.execute(login(6)).await?.get(), 5, "and here too");
    Ok(())
}

/// Two rows of the user are refused here by the store, and by runtimes that have to recover it, and stay as they are.
async fn assert_doubled(
    live: &Live,
    user: &EntityRef<UserState>,
    lower: i64,
    higher: i64,
) -> TestResult {
    let doubled = |error: &StoreError| {
        matches!(error, StoreError::DuplicateRows { lower: l, higher: h, .. }
            if (l.get(), h.get()) == (lower, higher))
    };
    let before = live.database.rows("mall-user").await?;
    let error = read(live, user.persistence_id()).await?.unwrap_err();
    assert!(doubled(&error), "{error}");
    let newly = live.runtime().await?.entity(user.persistence_id().clone());
    match newly.execute(login(9)).await {
        Err(ExecuteError::Failed(RequestError::Unreadable(error))) => {
            assert!(doubled(&error), "{error}");
        }
        other => panic!("{other:?}"),
    }
    match newly.delete().await {
        Err(RequestError::Unreadable(error)) => assert!(doubled(&error), "{error}"),
        other => panic!("{other:?}"),
    }
    match user.state_confirmed().await {
        Err(RequestError::Unreadable(error)) => assert!(doubled(&error), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(live.database.rows("mall-user").await?, before);
    Ok(())
}

async fn pekkos_creation_comes_late_to_the_index(live: Live) -> TestResult {
    live.database.create_unique_index().await?;
    let runtime = live.runtime().await?;
    let (actor, user) = with_nothing_in_mind(&live, &runtime).await?;
    let ours = user.state().await?.state;
    assert_restarted(actor.view("theirs", second(3)).await, 2);
    assert_holds(&actor.get().await?, 2, &"mall-user".parse()?, &ours);
    assert_eq!(actor.view("theirs", second(3)).await?.revision, 3);

    assert_eq!(user.execute(login(4)).await?.get(), 4);
    assert_eq!(runtime.stats().conflicts, 1);
    assert_eq!(products(&user.state().await?.state), ["theirs", "ours"]);
    assert_eq!(revisions(&live, "mall-user").await?, [4]);
    Ok(())
}

/// Plugin 1.2.0 looks for a row, finds none, and inserts at revision 3; our creation at revision 1 comes between. Plugin
/// 1.1.0 has no such insert and is refused by the look.
async fn creations_overlap(live: Live, index: Index) -> TestResult {
    if index == Index::Present {
        live.database.create_unique_index().await?;
    }
    let pekko = live.pekko().await?;
    let runtime = erasing(&live).await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    assert_eq!(held.user.delete().await?.get(), 0);
    if live.profile() == Profile::Pekko11 {
        assert_restarted(held.actor.login(second(5)).await, NOTHING);
        assert_eq!(held.user.execute(view("new", 6)).await?.get(), 1);
        assert_eq!(revisions(&live, held.id()).await?, [1]);
        return Ok(());
    }

    let mut inserts = live.database.hold_late_inserts().await?;
    let ours = async {
        inserts.arrived().await?;
        let created = held.user.execute(view("new", 6)).await?;
        inserts.release().await?;
        Ok::<i64, AnyError>(created.get())
    };
    let (theirs, ours) = tokio::join!(held.actor.login(second(5)), ours);
    assert_eq!(ours?, 1);
    match index {
        Index::Absent => {
            assert_eq!(theirs?.revision, 3);
            assert_eq!(revisions(&live, held.id()).await?, [1, 3]);
            assert_doubled(&live, &held.user, 1, 3).await?;
        }
        Index::Present => {
            assert_restarted(theirs, 1);
            let created = held.user.state().await?.state;
            assert_eq!(products(&created), ["new"]);
            assert_holds(&held.actor.get().await?, 1, &held.key, &created);
            assert_eq!(held.actor.login(second(5)).await?.revision, 2);
            assert_eq!(held.user.execute(login(7)).await?.get(), 3);
            assert_eq!(revisions(&live, held.id()).await?, [3]);
        }
    }
    Ok(())
}

/// The actor holds revision n and deletes, which core passes on as n + 1. Plugin 1.1.0 takes that for the revision of the
/// row, and it is: ours. Plugin 1.2.0 looks for n and finds nothing.
async fn stale_delete(live: Live) -> TestResult {
    live.database.create_unique_index().await?;
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut deletions = live.database.deletions().await?;
    let known = Held::make("mall-known", &runtime, &pekko).await?;
    assert_eq!(known.user.execute(view("new", 3)).await?.get(), 3);
    let unknown: UserKey = "mall-unknown".parse()?;
    let unaware = pekko.start_with("mall-unknown", restarting()).await?;
    let unknown = runtime.user(&unknown);
    assert_eq!(unknown.execute(view("new", 3)).await?.get(), 1);

    for (actor, user) in [(&known.actor, &known.user), (&unaware, &unknown)] {
        let before = user.state().await?;
        actor.delete().await?;
        let removed = deletions.next().await?;
        let (gone, next) = match live.profile() {
            Profile::Pekko11 => (1, 1),
            Profile::PekkoNewest => (0, before.revision.get() + 1),
        };
        assert_eq!(removed, gone);
        assert_eq!(user.execute(login(4)).await?.get(), next);
        let seen = user.state().await?.state;
        assert_eq!(seen.last_login, Some(second(4)));
        match live.profile() {
            Profile::Pekko11 => assert_eq!(products(&seen), [""; 0]),
            Profile::PekkoNewest => assert_eq!(products(&seen), products(&before.state)),
        }
        only_row(&live, user.persistence_id().as_str()).await?;
    }
    Ok(())
}

/// Core 1.x counts its deletion as a revision, which no row has. A row that we bring to that revision is the one that the
/// actor thinks it wrote.
async fn phantom_revision(live: Live) -> TestResult {
    live.database.create_unique_index().await?;
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut deletions = live.database.deletions().await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    assert_eq!(held.actor.delete().await?.revision, 3);
    deletions.next().await?;
    let first = match live.profile() {
        Profile::Pekko11 => 3,
        Profile::PekkoNewest => 1,
    };
    for revision in first..=3 {
        assert_eq!(held.user.execute(view("new", 4)).await?.get(), revision);
    }

    let written = held.actor.login(second(5)).await?;
    let expected = UserState {
        last_login: Some(second(5)),
        last_event_at: Some(second(5)),
        ..UserState::default()
    };
    assert_holds(&written, 4, &held.key, &expected);
    let conflicts = runtime.stats().conflicts;
    assert_eq!(held.user.execute(view("newer", 6)).await?.get(), 5);
    assert_eq!(runtime.stats().conflicts, conflicts + 1);
    let seen = held.user.state().await?.state;
    assert_eq!(products(&seen), ["newer"], "our view before is lost");
    assert_eq!(seen.last_login, Some(second(5)));
    assert_eq!(revisions(&live, held.id()).await?, [5]);
    Ok(())
}

/// The deletion hit nothing and nobody is told, yet the actor counts it: our row is at just the revision that it thinks is
/// its own. Plugin 1.1.0 has removed our row by the deletion already, and refuses the write.
async fn phantom_of_a_stale_delete(live: Live) -> TestResult {
    live.database.create_unique_index().await?;
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut deletions = live.database.deletions().await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    assert_eq!(held.user.execute(view("new", 3)).await?.get(), 3);
    assert_eq!(held.actor.delete().await?.revision, 3);
    deletions.next().await?;

    let answer = held.actor.login(second(5)).await;
    let revision = match live.profile() {
        Profile::Pekko11 => {
            assert_restarted(answer, NOTHING);
            held.actor.login(second(5)).await?.revision
        }
        Profile::PekkoNewest => answer?.revision,
    };
    let seen = held.user.state_confirmed().await?;
    assert_eq!(u64::try_from(seen.revision.get())?, revision);
    assert_eq!(products(&seen.state), [""; 0], "our view is lost");
    match live.profile() {
        Profile::Pekko11 => assert_eq!(revision, 1),
        Profile::PekkoNewest => assert_eq!(revision, 4),
    }
    only_row(&live, held.id()).await?;
    Ok(())
}

/// Core 1.x does not wait for its deletion. Here the row is locked, so that the next write surely overtakes the deletion:
/// it is refused in both versions, the actor is started anew while the old row is still there, and holds it from then on.
/// Plugin 1.1.0 keeps the row anyway; plugin 1.2.0 removes it and inserts it again with the actor's next write.
async fn write_overtakes_effect_delete(live: Live) -> TestResult {
    let pekko = live.pekko().await?;
    let runtime = live.runtime().await?;
    let mut deletions = live.database.deletions().await?;
    let held = Held::make("mall-user", &runtime, &pekko).await?;
    let mut lock = live.database.connection().await?;
    let mut locked = lock.begin().await?;
    let lock_row = "SELECT 1 FROM durable_state WHERE persistence_id = $1 FOR UPDATE";
    let query = sqlx::query(lock_row).bind(held.id());
    query.fetch_one(&mut *locked).await?;

    held.actor.delete().await?;
    assert_restarted(held.actor.login(second(5)).await, 2);
    assert_holds(&held.actor.get().await?, 2, &held.key, &held.state);
    locked.rollback().await?;
    let removed = deletions.next().await?;
    assert_eq!(removed, u64::from(live.profile() == Profile::PekkoNewest));
    assert_eq!(held.actor.login(second(5)).await?.revision, 3);

    assert_eq!(held.user.execute(view("new", 6)).await?.get(), 4);
    assert_eq!(products(&held.user.state().await?.state), ["new", "old"]);
    assert_eq!(revisions(&live, held.id()).await?, [4]);
    Ok(())
}
