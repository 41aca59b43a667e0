//! The one server that the test databases of a process share.
//!
//! Tests run on runtimes of their own, so nothing of this is asynchronous: a URL and a handle to a process.

use std::sync::OnceLock;

use crate::blocking::blocking;
use crate::database::Afterwards;
use crate::docker::DockerServer;
use crate::error::{Attempts, ProvisionError};
use crate::named::DatabaseUrl;
use crate::server::PostgresServer;
use crate::way::Way;

/// Found once and kept until the process ends: another try would only fail more slowly.
static SHARED: OnceLock<Result<Shared, ProvisionError>> = OnceLock::new();

/// Where test databases are created.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) way: Way,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// Somebody's server, by the URL of a database on it.
    Named(DatabaseUrl),
    /// A server that ends with this process.
    Own(PostgresServer),
    /// A container that ends with this process.
    Docker(DockerServer),
}

impl Shared {
    /// The server of this process, started by the first who asks.
    pub(crate) async fn server() -> Result<Self, ProvisionError> {
        blocking(|| SHARED.get_or_init(provision).clone()).await
    }

    /// The URL of a database from which others can be created and dropped.
    pub(crate) fn maintenance_url(&self) -> String {
        match &self.place {
            Place::Named(url) => url.as_str().to_owned(),
            Place::Own(server) => server.url("postgres"),
            Place::Docker(server) => server.url(),
        }
    }

    /// What is to become of a database whose test is over.
    pub(crate) fn afterwards(&self) -> Afterwards {
        match &self.place {
            Place::Named(_) => Afterwards::Drop,
            Place::Own(_) | Place::Docker(_) => Afterwards::Leave,
        }
    }
}

/// Takes the first way that the machine has, or the one that is forced.
fn provision() -> Result<Shared, ProvisionError> {
    let ways = Way::forced()?.map_or(Way::ALL.to_vec(), |way| vec![way]);
    let mut attempts = Attempts::default();
    for way in ways {
        match attempt(way)? {
            Ok(place) => return Ok(Shared { way, place }),
            Err(reason) => attempts.add(way, reason),
        }
    }
    Err(ProvisionError::NoWay(attempts))
}

/// The inner error is why the machine does not have this way; the outer one that it has it, but it does not work.
fn attempt(way: Way) -> Result<Result<Place, Box<str>>, ProvisionError> {
    Ok(match way {
        Way::DatabaseUrl => match DatabaseUrl::from_environment()? {
            Some(url) => Ok(Place::Named(url)),
            None => Err("not set".into()),
        },
        Way::Local | Way::Fetch => PostgresServer::launch(way, &[])?.map(Place::Own),
        Way::Docker => DockerServer::start()?.map(Place::Docker),
    })
}
