//! What the scenarios give to either side, and what they look at afterwards.

use chrono::{DateTime, TimeDelta, Utc};
use user_state_domain::{ProductId, UserCommand, UserKey, UserState};
use user_state_interop::{
    AnyError, Live, OnWriteFailure, PeerError, PekkoActor, PekkoNode, Row, Seen, StartOptions,
    State,
};
use user_state_runtime::{EntityRef, Runtime};
use user_state_store::{LoadedRow, PersistenceId};

/// The empty state of an actor that found no row, and everything that was never written.
pub(crate) const NOTHING: u64 = 0;

/// The class of the exception that tells of an actor started anew after a refused write.
pub(crate) const RESTARTED: &str = "com.example.interop.live.ActorRestarted";

/// This many seconds after the start of 2026.
pub(crate) fn second(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600 + seconds)
}

pub(crate) fn login(seconds: i64) -> UserCommand {
    UserCommand::Login {
        at: second(seconds),
    }
}

pub(crate) fn view(product: &str, seconds: i64) -> UserCommand {
    UserCommand::ViewProduct {
        product_id: ProductId::new(product),
        at: second(seconds),
    }
}

/// The same command, asked of Pekko.
pub(crate) async fn ask(actor: &PekkoActor, command: &UserCommand) -> Result<Seen, PeerError> {
    match command {
        UserCommand::Login { at } => actor.login(*at).await,
        UserCommand::UseCart { at } => actor.use_cart(*at).await,
        UserCommand::ViewProduct { product_id, at } => actor.view(product_id.as_str(), *at).await,
        UserCommand::SetMarketingOptIn { opt_in, at } => actor.opt_in(*opt_in, *at).await,
    }
}

/// Pekko holds this state at this revision. For an application whose zone is UTC.
#[track_caller]
pub(crate) fn assert_holds(seen: &Seen, revision: u64, key: &UserKey, state: &UserState) {
    assert_eq!(
        (seen.revision, seen.state.as_ref()),
        (revision, Some(&State::of(key, state)))
    );
}

/// The store refused the actor's write, the actor was started anew and read its row again, at this revision.
#[track_caller]
pub(crate) fn assert_restarted(answer: Result<Seen, PeerError>, revision: u64) {
    let error = answer.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.class, RESTARTED, "{refusal}");
    let end = format!("started anew at revision {revision}");
    assert!(refusal.message.ends_with(&end), "{refusal}");
}

/// The actor ended with this exception.
#[track_caller]
pub(crate) fn assert_ended(answer: Result<Seen, PeerError>, exception: &str) {
    let error = answer.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.class, "com.example.interop.live.ActorEnded");
    assert!(refusal.message.contains(exception), "{refusal}");
}

/// A further actor of the same user, as a second process or a failed passivation leaves one.
pub(crate) fn named(actor: &str) -> StartOptions {
    StartOptions {
        actor: Some(actor.to_owned()),
        ..StartOptions::default()
    }
}

/// An actor that is started anew when the store refuses its write.
pub(crate) fn restarting() -> StartOptions {
    StartOptions {
        on_write_failure: OnWriteFailure::Restart,
        ..StartOptions::default()
    }
}

/// A user at revision 2 that a live entity and a live Pekko actor both hold.
pub(crate) struct Held {
    pub(crate) key: UserKey,
    pub(crate) user: EntityRef<UserState>,
    pub(crate) actor: PekkoActor,
    pub(crate) state: UserState,
}

impl Held {
    /// Written by us, read by Pekko.
    pub(crate) async fn make(
        name: &str,
        runtime: &Runtime<UserState>,
        pekko: &PekkoNode,
    ) -> Result<Self, AnyError> {
        let key: UserKey = name.parse()?;
        let user = runtime.user(&key);
        user.execute(login(1)).await?;
        assert_eq!(user.execute(view("old", 2)).await?.get(), 2);
        let state = user.state().await?.state;
        let actor = pekko.start_with(name, restarting()).await?;
        assert_holds(actor.recovered(), 2, &key, &state);
        Ok(Self {
            key,
            user,
            actor,
            state,
        })
    }

    pub(crate) fn id(&self) -> &str {
        self.user.persistence_id().as_str()
    }
}

/// What our store reads of an id.
pub(crate) async fn read(live: &Live, id: &PersistenceId) -> Result<LoadedRow, AnyError> {
    Ok(live.store().await?.states().load_one(id).await)
}

/// The only row of an id.
pub(crate) async fn only_row(live: &Live, id: &str) -> Result<Row, AnyError> {
    let mut rows = live.database.rows(id).await?;
    match (rows.pop(), rows.len()) {
        (Some(row), 0) => Ok(row),
        (_, others) => Err(format!("{id} should have one row and has {others} others").into()),
    }
}

/// The revisions of an id's rows.
pub(crate) async fn revisions(live: &Live, id: &str) -> Result<Vec<i64>, AnyError> {
    let rows = live.database.rows(id).await?;
    Ok(rows.iter().map(|row| row.revision).collect())
}

/// The products of a state of ours.
pub(crate) fn products(state: &UserState) -> Vec<&str> {
    let products = state.recent_products.iter();
    products.map(ProductId::as_str).collect()
}
