//! The handle to one entity.

use std::fmt;
use std::sync::Arc;

use cqrs_es::Aggregate;
use tokio::sync::mpsc;
use user_state_store::{PersistenceId, Revision};

use crate::error::{ExecuteError, RequestError, TellError};
use crate::request::{self, Message, Reply, Request, Versioned};
use crate::runtime::Inner;
use crate::shard::Mail;

/// A handle to one entity, live or not: the next message brings it to life.
///
/// Cheap to make and to clone. While handles exist, the runtime's shards keep running.
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
/// # Ok(())
/// # }
/// ```
pub struct EntityRef<A: Aggregate> {
    runtime: Arc<Inner<A>>,
    persistence_id: PersistenceId,
    shard: usize,
}

/// Why a message did not reach its shard's mailbox.
enum NotSent<A: Aggregate> {
    Full(Request<A>),
    Closed(Request<A>),
}

impl<A> EntityRef<A>
where
    A: Aggregate + 'static,
    A::Command: Send + 'static,
    A::Error: Send + Sync + 'static,
{
    pub(crate) fn new(runtime: Arc<Inner<A>>, persistence_id: PersistenceId) -> Self {
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
    /// Three outcomes only: acknowledged, surely not applied, and [`ExecuteError::Unknown`].
    ///
    /// # Cancel safety
    /// Dropping the future after its first poll stops the waiting only: the command may still be executed.
    pub async fn execute(&self, command: A::Command) -> Result<Revision, ExecuteError<A>> {
        let (reply, answer) = oneshot::async_channel();
        self.send(Request::Execute {
            command: Some(command),
            reply,
        })
        .map_err(NotSent::into_execute)?;
        // A shard that ends without an answer may have sent the write.
        request::received(answer.await, || ExecuteError::Unknown)
    }

    /// Hands a command over. Returns when the mailbox has taken it; what becomes of it later is told by the
    /// lifecycle stream and the counters only.
    ///
    /// # Errors
    /// Where the mailbox is full or closed; the command comes back.
    pub fn tell(&self, command: A::Command) -> Result<(), TellError<A>> {
        self.send(Request::Tell {
            command: Some(command),
        })
        .map_err(NotSent::into_tell)
    }

    /// Reads the state: linearizable, and never one that is not durable. From memory where the entity is live.
    ///
    /// # Errors
    /// Where the entity cannot be recovered, or a bound was reached.
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
    /// Three outcomes only: deleted, surely not deleted, and [`RequestError::Unknown`].
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
        let (reply, answer) = oneshot::async_channel();
        self.send(request(reply))
            .map_err(|not_sent| match not_sent {
                NotSent::Full(_) => RequestError::Overloaded,
                NotSent::Closed(_) => RequestError::Closed,
            })?;
        request::received(answer.await, unanswered)
    }

    fn send(&self, request: Request<A>) -> Result<(), NotSent<A>> {
        let mail = Mail::Request(Message {
            persistence_id: self.persistence_id.clone(),
            accepted_at: self.runtime.clock().now(),
            request,
        });
        match self.runtime.mailbox(self.shard).try_send(mail) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(Mail::Request(message))) => {
                self.runtime.counters(self.shard).overloaded(1);
                Err(NotSent::Full(message.request))
            }
            Err(mpsc::error::TrySendError::Closed(Mail::Request(message))) => {
                Err(NotSent::Closed(message.request))
            }
            Err(_) => unreachable!("a mailbox that takes no mail gives the same mail back"),
        }
    }
}

impl<A: Aggregate> NotSent<A> {
    fn into_execute(self) -> ExecuteError<A> {
        match self {
            Self::Full(Request::Execute {
                command: Some(command),
                ..
            }) => ExecuteError::Overloaded(command),
            Self::Closed(Request::Execute {
                command: Some(command),
                ..
            }) => ExecuteError::Closed(command),
            _ => unreachable!("a command that was not sent comes back"),
        }
    }

    fn into_tell(self) -> TellError<A> {
        match self {
            Self::Full(Request::Tell {
                command: Some(command),
            }) => TellError::Overloaded(command),
            Self::Closed(Request::Tell {
                command: Some(command),
            }) => TellError::Closed(command),
            _ => unreachable!("a command that was not sent comes back"),
        }
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

impl<A: Aggregate> fmt::Debug for EntityRef<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("EntityRef")
            .field(&self.persistence_id)
            .finish()
    }
}
