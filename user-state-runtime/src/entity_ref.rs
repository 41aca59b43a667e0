//! The handle to one entity.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use cqrs_es::Aggregate;
use tokio::sync::mpsc;
use user_state_store::{PersistenceId, Revision};

use crate::error::{ExecuteError, RequestError, TellError};
use crate::live_aggregate::LiveAggregate;
use crate::reply::{self, Reply, ReplyTo};
use crate::request::{Message, Request, Versioned};
use crate::running::Running;
use crate::shard::{Mail, ShardMail};

/// A handle to one entity, live or not: the next message brings it to life.
///
/// Cheap to make and to clone. While handles exist, the runtime's shards keep running. Two are equal when they are of the
/// same runtime and the same id.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}", directory.path().join("state.db").display());
/// # let store = user_state_store::connect(&url.parse()?).await?;
/// use user_state_domain::UserCommand;
/// use user_state_runtime::Runtime;
///
/// let runtime = Runtime::for_users(store).start()?;
/// let user = runtime.user(&"mall-user".parse()?);
/// let at = "2026-01-01T09:00:00Z".parse()?;
/// user.tell(UserCommand::UseCart { at })?;
/// assert_eq!(user.execute(UserCommand::Login { at }).await?.get(), 2);
/// assert_eq!(user.state().await?.state.last_cart_used, Some(at));
/// assert_eq!(user.delete().await?.get(), 3, "the empty state is one more revision");
/// assert_eq!(user.state_confirmed().await?.state.last_login, None);
/// assert_eq!(user, runtime.entity(user.persistence_id().clone()));
/// # Ok(())
/// # }
/// ```
pub struct EntityRef<A: Aggregate> {
    runtime: Arc<Running<A>>,
    persistence_id: PersistenceId,
    shard: usize,
}

impl<A: LiveAggregate> EntityRef<A> {
    pub(crate) fn new(runtime: Arc<Running<A>>, persistence_id: PersistenceId) -> Self {
        let shard = runtime.shard_of(&persistence_id);
        Self {
            runtime,
            persistence_id,
            shard,
        }
    }

    /// Whose handle this is.
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.persistence_id
    }

    /// Executes a command. Returns when what it did is durable, with the revision it made; a command that
    /// makes no event returns the current revision.
    ///
    /// # Errors
    /// Three outcomes only: acknowledged, definitely not applied, and [`RequestError::Unknown`].
    ///
    /// # Cancel safety
    /// Dropping the future after its first poll stops the waiting only: the command may still be executed.
    pub async fn execute(&self, command: A::Command) -> Result<Revision, ExecuteError<A>> {
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(error) => return Err(ExecuteError::new(error, Some(command))),
        };
        let (reply, answer) = oneshot::async_channel();
        permit.send(self.mail(Request::Execute(Some(command)), Reply::Execute(reply)));
        // A shard that ends without an answer may have sent the write.
        reply::received(answer.await, || RequestError::Unknown.into())
    }

    /// Hands a command over. Returns when the mailbox has taken it; what becomes of it later is told by the
    /// lifecycle stream and the counters only.
    ///
    /// # Errors
    /// When the mailbox is full or closed; the command comes back.
    pub fn tell(&self, command: A::Command) -> Result<(), TellError<A>> {
        match self.permit() {
            Ok(permit) => {
                permit.send(self.mail(Request::Execute(Some(command)), Reply::Tell));
                Ok(())
            }
            Err(RequestError::Closed) => Err(TellError::Closed(command)),
            Err(_) => Err(TellError::Overloaded(command)),
        }
    }

    /// Reads the state: linearizable, and never one that is not durable. From memory where the entity is live.
    ///
    /// # Errors
    /// When the entity cannot be recovered, or a bound was reached.
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer only.
    pub async fn state(&self) -> Result<Versioned<A>, RequestError> {
        self.ask(Request::Read, Reply::State, RequestError::Closed)
            .await
    }

    /// Reads the state after a look at the database, so that what another writer did meanwhile is seen. Costs a
    /// query.
    ///
    /// # Errors
    /// As [`EntityRef::state`]; where the database cannot be asked, the entity stays as it is.
    ///
    /// # Cancel safety
    /// Dropping the future loses the answer only.
    pub async fn state_confirmed(&self) -> Result<Versioned<A>, RequestError> {
        self.ask(Request::Confirm, Reply::State, RequestError::Closed)
            .await
    }

    /// Deletes the state in the form that is set for the runtime. Returns when that is durable, with the revision: the
    /// next one for the forms that count on, 0 after an erasing delete and where there was nothing to delete.
    ///
    /// Commands before it are made durable first; those behind it run on the empty state.
    ///
    /// # Errors
    /// Three outcomes only: deleted, definitely not deleted, and [`RequestError::Unknown`].
    ///
    /// # Cancel safety
    /// Dropping the future after its first poll stops the waiting only: the state may still be deleted.
    pub async fn delete(&self) -> Result<Revision, RequestError> {
        let at = self.runtime.clock().utc_now();
        self.ask(Request::Delete(at), Reply::Delete, RequestError::Unknown)
            .await
    }

    /// Takes the entity out of memory once everything before is durable. The next message recovers it.
    ///
    /// # Errors
    /// Where an unresolved write is ahead for too long, or a bound was reached. A write before that failed has answered its
    /// own callers; the entity has left with it.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting only.
    pub async fn passivate(&self) -> Result<(), RequestError> {
        self.ask(Request::Passivate, Reply::Passivate, RequestError::Closed)
            .await
    }

    /// Asks and waits; `unanswered` is what it means if no answer comes.
    async fn ask<T>(
        &self,
        request: Request<A>,
        reply_as: impl FnOnce(ReplyTo<T, RequestError>) -> Reply<A>,
        unanswered: RequestError,
    ) -> Result<T, RequestError> {
        let permit = self.permit()?;
        let (reply, answer) = oneshot::async_channel();
        permit.send(self.mail(request, reply_as(reply)));
        reply::received(answer.await, || unanswered)
    }

    /// Room for one request in the mailbox.
    fn permit(&self) -> Result<mpsc::Permit<'_, ShardMail<A>>, RequestError> {
        let permit = self.runtime.mailbox(self.shard).try_reserve();
        permit.map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => {
                self.runtime.counters(self.shard).overloaded(1);
                RequestError::Overloaded
            }
            mpsc::error::TrySendError::Closed(()) => RequestError::Closed,
        })
    }

    fn mail(&self, request: Request<A>, ticket: Reply<A>) -> ShardMail<A> {
        Mail::Request(Message {
            persistence_id: self.persistence_id.clone(),
            accepted_at: self.runtime.clock().now(),
            request,
            ticket,
        })
    }
}

impl<A: Aggregate> Clone for EntityRef<A> {
    fn clone(&self) -> Self {
        Self {
            runtime: Arc::clone(&self.runtime),
            persistence_id: self.persistence_id.clone(),
            shard: self.shard,
        }
    }
}

impl<A: Aggregate> PartialEq for EntityRef<A> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.runtime, &other.runtime) && self.persistence_id == other.persistence_id
    }
}

impl<A: Aggregate> Eq for EntityRef<A> {}

impl<A: Aggregate> Hash for EntityRef<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.runtime).hash(state);
        self.persistence_id.hash(state);
    }
}

impl<A: Aggregate> fmt::Debug for EntityRef<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "EntityRef({}, {:?})",
            A::TYPE,
            self.persistence_id.as_str()
        )
    }
}
