//! The handle to one entity.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use cqrs_es::Aggregate;
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;
use user_state_store::{PersistenceId, Revision};

use crate::error::{ExecuteError, RequestError, TellError};
use crate::request::{self, Message, Reply, Request, Versioned};
use crate::running::Running;
use crate::shard::Mail;

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

/// Why a mailbox takes nothing.
enum NoRoom {
    Full,
    Closed,
}

impl<A> EntityRef<A>
where
    A: Aggregate + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
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
    /// Three outcomes only: acknowledged, definitely not applied, and [`ExecuteError::Unknown`].
    ///
    /// # Cancel safety
    /// Dropping the future after its first poll stops the waiting only: the command may still be executed.
    pub async fn execute(&self, command: A::Command) -> Result<Revision, ExecuteError<A>> {
        let answer = match self.room() {
            Ok(room) => {
                let (reply, answer) = oneshot::async_channel();
                let command = Some(command);
                room.send(self.mail(Request::Execute { command, reply }));
                answer
            }
            Err(NoRoom::Full) => return Err(ExecuteError::Overloaded(command)),
            Err(NoRoom::Closed) => return Err(ExecuteError::Closed(command)),
        };
        // A shard that ends without an answer may have sent the write.
        request::received(answer.await, || ExecuteError::Unknown)
    }

    /// Hands a command over. Returns when the mailbox has taken it; what becomes of it later is told by the
    /// lifecycle stream and the counters only.
    ///
    /// # Errors
    /// When the mailbox is full or closed; the command comes back.
    pub fn tell(&self, command: A::Command) -> Result<(), TellError<A>> {
        match self.room() {
            Ok(room) => {
                let command = Some(command);
                room.send(self.mail(Request::Tell { command }));
                Ok(())
            }
            Err(NoRoom::Full) => Err(TellError::Overloaded(command)),
            Err(NoRoom::Closed) => Err(TellError::Closed(command)),
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
        self.ask(|reply| Request::Read { reply }).await
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
        self.ask(|reply| Request::Confirm { reply }).await
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
        self.ask_or(
            || RequestError::Unknown,
            |reply| Request::Delete { at, reply },
        )
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
        self.ask(|reply| Request::Passivate { reply }).await
    }

    fn ask<T>(
        &self,
        request: impl FnOnce(Reply<T, RequestError>) -> Request<A>,
    ) -> impl Future<Output = Result<T, RequestError>> {
        self.ask_or(|| RequestError::Closed, request)
    }

    async fn ask_or<T>(
        &self,
        unanswered: impl FnOnce() -> RequestError,
        request: impl FnOnce(Reply<T, RequestError>) -> Request<A>,
    ) -> Result<T, RequestError> {
        let answer = match self.room() {
            Ok(room) => {
                let (reply, answer) = oneshot::async_channel();
                room.send(self.mail(request(reply)));
                answer
            }
            Err(NoRoom::Full) => return Err(RequestError::Overloaded),
            Err(NoRoom::Closed) => return Err(RequestError::Closed),
        };
        request::received(answer.await, unanswered)
    }

    /// A place in the shard's mailbox.
    fn room(&self) -> Result<Permit<'_, Mail<A>>, NoRoom> {
        let mailbox = self.runtime.mailbox(self.shard);
        mailbox.try_reserve().map_err(|refused| match refused {
            TrySendError::Full(()) => {
                self.runtime.counters(self.shard).overloaded(1);
                NoRoom::Full
            }
            TrySendError::Closed(()) => NoRoom::Closed,
        })
    }

    fn mail(&self, request: Request<A>) -> Mail<A> {
        Mail::Request(Message {
            persistence_id: self.persistence_id.clone(),
            accepted_at: self.runtime.clock().now(),
            request,
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
