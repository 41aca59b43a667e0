//! Pekko at work on a database: an actor system, its user actors, its queries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::Serialize;
use serde_json::{Value, json};
use user_state_store::SliceRange;

use crate::case::AnyError;
use crate::database::Database;
use crate::local_time::Instant;
use crate::peer::{Peer, PeerError};
use crate::state::State;

/// How long a look at a feed waits for the next change.
const FEED_LOOK: Duration = Duration::from_millis(500);

/// What an application sets beside where its database is.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Settings in Pekko's configuration language; they override every other.
    pub config: String,
}

/// What an actor does when the store refuses its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum OnWriteFailure {
    /// It ends, as Pekko's actors do unless told otherwise.
    Stop,
    /// It is started anew after some 20 ms, and reads its row again.
    Restart,
}

/// What the application takes for the state of a user that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum EmptyState {
    /// A state without anything in it, as a class whose fields are not null suggests.
    Value,
    /// Null. Such an application reads a deletion marker as what it is.
    Null,
}

/// How an actor is started.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The name the actor has in this test; the persistence id unless set. Two of one persistence id can exist.
    pub actor: Option<String>,
    /// The entity type, where the id is `entityType|entityId`.
    pub type_hint: Option<String>,
    /// What it does when the store refuses its write.
    pub on_write_failure: OnWriteFailure,
    /// What it holds of a user that has no state.
    pub empty_state: EmptyState,
    /// The tag beside its states; none where empty.
    pub tag: String,
}

impl Default for StartOptions {
    /// The plain id, tag `user-state`, ending on a failed write.
    fn default() -> Self {
        Self {
            actor: None,
            type_hint: None,
            on_write_failure: OnWriteFailure::Stop,
            empty_state: EmptyState::Value,
            tag: "user-state".to_owned(),
        }
    }
}

/// What an actor or Pekko's store holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    /// Its revision.
    pub revision: u64,
    /// Its state. An actor without a row has the empty one, with no last event; the store has none.
    pub state: Option<State>,
    /// Last login, cart use and event as the instants that Java takes its local times for.
    pub instants: Option<[Option<Instant>; 3]>,
}

/// A position in a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PekkoOffset {
    /// The time of a change.
    pub timestamp: Instant,
    /// The revisions seen at exactly that time.
    pub seen: BTreeMap<String, u64>,
}

/// A change that a query of Pekko's brought.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PekkoChange {
    /// Whose.
    pub persistence_id: String,
    /// The revision.
    pub revision: u64,
    /// The state; none where it was deleted, or where the query found the change by looking back.
    pub state: Option<State>,
    /// Whether it is told as a deletion.
    pub deleted: bool,
    /// Where a query goes on behind it.
    pub offset: PekkoOffset,
}

/// An actor system on a database, as one process of an application would be.
#[derive(Debug, Clone)]
pub struct PekkoNode {
    peer: Arc<Peer>,
    name: String,
}

impl PekkoNode {
    /// Opens an actor system in this machine on this database.
    ///
    /// # Errors
    /// Where Pekko refuses the settings.
    ///
    /// # Cancel safety
    /// A dropped future can leave an actor system until the machine ends.
    pub async fn open(
        peer: Arc<Peer>,
        database: &Database,
        options: &NodeOptions,
    ) -> Result<Self, AnyError> {
        #[derive(Deserialize)]
        struct Opened {
            node: String,
        }
        let url = database.url()?;
        let host = url.host_str().ok_or("a database without a host")?;
        let arguments = json!({
            "host": host,
            "port": url.port().unwrap_or(5432).to_string(),
            "database": url.path().trim_start_matches('/'),
            "user": url.username(),
            "password": url.password().unwrap_or_default(),
            "config": options.config,
        });
        let Opened { node } = peer.call("open", arguments).await?;
        Ok(Self { peer, name: node })
    }

    /// Starts an actor for `mallId-userId` under the plain id, and waits until it has recovered.
    ///
    /// # Errors
    /// Where it cannot recover.
    ///
    /// # Cancel safety
    /// A dropped future can leave the actor.
    pub async fn start(&self, entity_id: &str) -> Result<PekkoActor, PeerError> {
        self.start_with(entity_id, StartOptions::default()).await
    }

    /// Starts an actor for `mallId-userId`, and waits until it has recovered.
    ///
    /// # Errors
    /// Where it cannot recover.
    ///
    /// # Cancel safety
    /// A dropped future can leave the actor.
    pub async fn start_with(
        &self,
        entity_id: &str,
        options: StartOptions,
    ) -> Result<PekkoActor, PeerError> {
        let persistence_id = match &options.type_hint {
            Some(entity_type) => format!("{entity_type}|{entity_id}"),
            None => entity_id.to_owned(),
        };
        let actor = options.actor.unwrap_or_else(|| persistence_id.clone());
        let arguments = json!({
            "node": self.name,
            "actor": actor,
            "entity_id": entity_id,
            "type_hint": options.type_hint,
            "tag": options.tag,
            "on_write_failure": options.on_write_failure,
            "empty_state": options.empty_state,
        });
        let recovered: Seen = self.peer.call("start", arguments).await?;
        Ok(PekkoActor {
            node: self.clone(),
            name: actor,
            persistence_id,
            recovered,
        })
    }

    /// The row of an id, by a direct call of the plugin's store (`getObject`).
    ///
    /// # Errors
    /// Where Pekko cannot read it.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn load(&self, persistence_id: &str) -> Result<Seen, PeerError> {
        self.call("load", json!({ "persistence_id": persistence_id }))
            .await
    }

    /// Writes a row by a direct call of the plugin's store (`upsertObject`).
    ///
    /// # Errors
    /// Where the store refuses.
    ///
    /// # Cancel safety
    /// A dropped future may have written it.
    pub async fn upsert(
        &self,
        persistence_id: &str,
        revision: u64,
        state: &State,
        tag: &str,
    ) -> Result<(), PeerError> {
        let arguments = json!({
            "persistence_id": persistence_id, "revision": revision, "state": state, "tag": tag,
        });
        self.call("upsert", arguments).await
    }

    /// Deletes by a direct call of the plugin's store (`deleteObject`). What the revision means differs between
    /// versions.
    ///
    /// # Errors
    /// Where the store refuses.
    ///
    /// # Cancel safety
    /// A dropped future may have deleted.
    pub async fn delete_object(
        &self,
        persistence_id: &str,
        revision: u64,
    ) -> Result<(), PeerError> {
        let arguments = json!({ "persistence_id": persistence_id, "revision": revision });
        self.call("delete-object", arguments).await
    }

    /// `currentChangesBySlices` to its end.
    ///
    /// # Errors
    /// Where the query fails.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn current_changes(
        &self,
        entity_type: &str,
        slices: SliceRange,
        from: Option<&PekkoOffset>,
    ) -> Result<Vec<PekkoChange>, PeerError> {
        self.call("current-changes", query(entity_type, slices, from))
            .await
    }

    /// Starts `changesBySlices` under a name.
    ///
    /// # Errors
    /// Where Pekko refuses.
    ///
    /// # Cancel safety
    /// A dropped future can leave the query running.
    pub async fn changes(
        &self,
        name: &str,
        entity_type: &str,
        slices: SliceRange,
        from: Option<&PekkoOffset>,
    ) -> Result<PekkoFeed, PeerError> {
        let mut arguments = query(entity_type, slices, from);
        add(&mut arguments, "feed", name);
        let () = self.call("changes-start", arguments).await?;
        Ok(PekkoFeed {
            node: self.clone(),
            name: name.to_owned(),
        })
    }

    /// `currentPersistenceIds(after, limit)`.
    ///
    /// # Errors
    /// Where the query fails.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn persistence_ids(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<String>, PeerError> {
        self.call("persistence-ids", json!({ "after": after, "limit": limit }))
            .await
    }

    /// `currentPersistenceIds()`, which pages by itself.
    ///
    /// # Errors
    /// Where the query fails.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn all_persistence_ids(&self) -> Result<Vec<String>, PeerError> {
        self.call("persistence-ids", json!({})).await
    }

    /// Ends the actor system in order.
    ///
    /// # Errors
    /// Where it does not end.
    ///
    /// # Cancel safety
    /// It ends all the same.
    pub async fn close(self) -> Result<(), PeerError> {
        self.call("close", json!({})).await
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        command: &str,
        mut arguments: Value,
    ) -> Result<T, PeerError> {
        add(&mut arguments, "node", &self.name);
        self.peer.call(command, arguments).await
    }
}

/// A user's actor.
#[derive(Debug, Clone)]
pub struct PekkoActor {
    node: PekkoNode,
    name: String,
    persistence_id: String,
    recovered: Seen,
}

impl PekkoActor {
    /// Whose actor it is.
    pub fn persistence_id(&self) -> &str {
        &self.persistence_id
    }

    /// What it held when it had recovered.
    pub fn recovered(&self) -> &Seen {
        &self.recovered
    }

    /// The user logged in. What the actor holds when that is durable.
    ///
    /// # Errors
    /// Where the store refuses the write: at once when the actor ends or is started anew by it.
    ///
    /// # Cancel safety
    /// A dropped future may have written.
    pub async fn login(&self, at: DateTime<Utc>) -> Result<Seen, PeerError> {
        self.ask("login", json!({ "at": Instant(at) })).await
    }

    /// The user used the cart.
    ///
    /// # Errors
    /// As [`PekkoActor::login`].
    ///
    /// # Cancel safety
    /// A dropped future may have written.
    pub async fn use_cart(&self, at: DateTime<Utc>) -> Result<Seen, PeerError> {
        self.ask("cart", json!({ "at": Instant(at) })).await
    }

    /// The user viewed a product.
    ///
    /// # Errors
    /// As [`PekkoActor::login`].
    ///
    /// # Cancel safety
    /// A dropped future may have written.
    pub async fn view(&self, product: &str, at: DateTime<Utc>) -> Result<Seen, PeerError> {
        self.ask("view", json!({ "product": product, "at": Instant(at) }))
            .await
    }

    /// The user agreed to marketing, or took the consent back.
    ///
    /// # Errors
    /// As [`PekkoActor::login`].
    ///
    /// # Cancel safety
    /// A dropped future may have written.
    pub async fn opt_in(&self, opt_in: bool, at: DateTime<Utc>) -> Result<Seen, PeerError> {
        self.ask("opt-in", json!({ "opt_in": opt_in, "at": Instant(at) }))
            .await
    }

    /// What the actor holds in memory.
    ///
    /// # Errors
    /// Where it has ended.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer.
    pub async fn get(&self) -> Result<Seen, PeerError> {
        self.ask("get", json!({})).await
    }

    /// `Effect.delete`. Pekko 1.x answers at once and tells nobody whether the store did it.
    ///
    /// # Errors
    /// Where the actor has ended.
    ///
    /// # Cancel safety
    /// A dropped future may have deleted.
    pub async fn delete(&self) -> Result<Seen, PeerError> {
        self.ask("delete", json!({})).await
    }

    /// Ends the actor in order, once what it was doing is done.
    ///
    /// # Errors
    /// Where it had ended.
    ///
    /// # Cancel safety
    /// It ends all the same.
    pub async fn stop(self) -> Result<Seen, PeerError> {
        self.ask("stop", json!({})).await
    }

    async fn ask(&self, command: &str, mut arguments: Value) -> Result<Seen, PeerError> {
        add(&mut arguments, "actor", &self.name);
        self.node.call(command, arguments).await
    }
}

/// A running `changesBySlices`.
#[derive(Debug)]
pub struct PekkoFeed {
    node: PekkoNode,
    name: String,
}

impl PekkoFeed {
    /// What came since the last look, waiting up to half a second for something to come.
    ///
    /// # Errors
    /// Where the query has failed.
    ///
    /// # Cancel safety
    /// A dropped future can lose changes.
    pub async fn take(&self) -> Result<Vec<PekkoChange>, PeerError> {
        let millis_max = u64::try_from(FEED_LOOK.as_millis()).unwrap_or(u64::MAX);
        let arguments = json!({ "feed": self.name, "millis_max": millis_max });
        self.node.call("changes-take", arguments).await
    }

    /// Takes changes until those taken satisfy a condition.
    ///
    /// # Errors
    /// Where the query has failed, or the condition does not come true in time; the error shows what came.
    ///
    /// # Cancel safety
    /// A dropped future can lose changes.
    pub async fn take_until(
        &self,
        within: Duration,
        mut satisfied: impl FnMut(&[PekkoChange]) -> bool,
    ) -> Result<Vec<PekkoChange>, AnyError> {
        let mut taken = Vec::new();
        let taking = async {
            while !satisfied(&taken) {
                taken.extend(self.take().await?);
            }
            Ok::<(), AnyError>(())
        };
        match tokio::time::timeout(within, taking).await {
            Ok(Ok(())) => Ok(taken),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("within {within:?} only this came: {taken:?}").into()),
        }
    }

    /// Ends the query.
    ///
    /// # Errors
    /// Where it has failed.
    ///
    /// # Cancel safety
    /// It ends all the same.
    pub async fn stop(self) -> Result<(), PeerError> {
        self.node
            .call("changes-stop", json!({ "feed": self.name }))
            .await
    }
}

fn query(entity_type: &str, slices: SliceRange, from: Option<&PekkoOffset>) -> Value {
    json!({
        "entity_type": entity_type,
        "min": slices.min().get(),
        "max": slices.max().get(),
        "offset": from,
    })
}

fn add(arguments: &mut Value, field: &str, text: &str) {
    if let Value::Object(fields) = arguments {
        fields.insert(field.to_owned(), text.into());
    }
}
