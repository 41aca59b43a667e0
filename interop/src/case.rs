//! A case: a promise with a name, and what it is given.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use user_state_domain::UserState;
use user_state_runtime::Runtime;
use user_state_store::Store;

use crate::database::Database;
use crate::node::{NodeOptions, PekkoNode};
use crate::peer::{Peer, PeerOptions, StateClass};
use crate::profile::Profile;
use crate::serialization::SerializationPeer;
use crate::suite::Machines;

/// Whatever goes wrong in a case.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// How a case ends.
pub type TestResult = Result<(), AnyError>;

/// A case under way, on the thread that began it.
pub(crate) type Running = Pin<Box<dyn Future<Output = TestResult>>>;

/// A named case, run once for each profile.
pub struct Case {
    pub(crate) name: &'static str,
    pub(crate) body: Body,
}

/// What a case does, by what it needs.
pub(crate) enum Body {
    Serialization(Box<dyn Fn(Serialization) -> Running + Send + Sync>),
    Live(Box<dyn Fn(Live) -> Running + Send + Sync>),
}

impl Case {
    /// A case of Pekko's serialization and ids: no plugin, no database. The name is a sentence with underscores.
    pub fn serialization<F, R>(name: &'static str, body: F) -> Self
    where
        F: Fn(Serialization) -> R + Send + Sync + 'static,
        R: Future<Output = TestResult> + 'static,
    {
        Self {
            name,
            body: Body::Serialization(Box::new(move |given| Box::pin(body(given)))),
        }
    }

    /// A case of both on one database. The name is a sentence with underscores.
    pub fn live<F, R>(name: &'static str, body: F) -> Self
    where
        F: Fn(Live) -> R + Send + Sync + 'static,
        R: Future<Output = TestResult> + 'static,
    {
        Self {
            name,
            body: Body::Live(Box::new(move |given| Box::pin(body(given)))),
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Case")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a case of serialization is given.
#[derive(Debug)]
pub struct Serialization {
    pub(crate) machines: Arc<Machines>,
}

impl Serialization {
    /// Which versions of Pekko these are.
    pub fn profile(&self) -> Profile {
        self.machines.profile()
    }

    /// The machine with this class of states, which all cases of a profile share. Started by the first that asks.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn peer(&self, class: StateClass) -> Result<SerializationPeer, AnyError> {
        Ok(SerializationPeer::new(self.machines.serialization(class)?))
    }
}

/// What a live case is given: Pekko, and an empty database of its own with the tables in it.
#[derive(Debug)]
pub struct Live {
    pub(crate) machines: Arc<Machines>,
    /// The database.
    pub database: Database,
}

impl Live {
    /// Which versions of Pekko these are.
    pub fn profile(&self) -> Profile {
        self.machines.profile()
    }

    /// A new actor system of Pekko's on the database, with the plugin's defaults, in UTC.
    ///
    /// # Errors
    /// Where it cannot be started.
    ///
    /// # Cancel safety
    /// A dropped future can leave an actor system until the machine ends.
    pub async fn pekko(&self) -> Result<PekkoNode, AnyError> {
        self.pekko_with(&NodeOptions::default()).await
    }

    /// A new actor system of Pekko's on the database, set up otherwise.
    ///
    /// # Errors
    /// Where it cannot be started.
    ///
    /// # Cancel safety
    /// A dropped future can leave an actor system until the machine ends.
    pub async fn pekko_with(&self, options: &NodeOptions) -> Result<PekkoNode, AnyError> {
        PekkoNode::open(self.machines.live()?, &self.database, options).await
    }

    /// A Java virtual machine of the case's own: in another zone, or to be killed. Open systems in it by
    /// [`PekkoNode::open`].
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn own_peer(&self, options: &PeerOptions) -> Result<Arc<Peer>, AnyError> {
        self.machines.own_live(options)
    }

    /// A store of ours on the database, as another process would have it.
    ///
    /// # Errors
    /// Where it cannot be opened.
    ///
    /// # Cancel safety
    /// A dropped future closes what was opened.
    pub async fn store(&self) -> Result<Store, AnyError> {
        self.database.store().await
    }

    /// A runtime of users on a store of its own, set up as it is by default.
    ///
    /// # Errors
    /// Where the store cannot be opened.
    ///
    /// # Cancel safety
    /// A dropped future closes what was opened.
    pub async fn runtime(&self) -> Result<Runtime<UserState>, AnyError> {
        Ok(Runtime::for_users(self.store().await?).start()?)
    }
}
