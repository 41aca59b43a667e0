//! A way to the server that can be cut or frozen, as networks do.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on until it is told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    incident: watch::Sender<Incident>,
    // Ends the proxy with this value.
    _accepting: JoinSet<()>,
}

/// What happens to the connections there are; new ones work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incident {
    None,
    /// The client sees the connection break; the server sees nothing at all.
    Cut,
    /// Nobody sees anything any more.
    Freeze,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (incident, watching) = watch::channel(Incident::None);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut watching = watching.clone();
                watching.mark_unchanged();
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        pass(client, server, watching).await;
                    }
                });
            }
        });
        Ok(Self {
            address,
            incident,
            _accepting: accepting,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self) {
        self.incident.send_replace(Incident::Cut);
    }

    pub(crate) fn freeze(&self) {
        self.incident.send_replace(Incident::Freeze);
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    mut watching: watch::Receiver<Incident>,
) {
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = watching.changed() => {}
    }
    if *watching.borrow() == Incident::Cut {
        drop(client);
        // Keeps the server's side open until the proxy ends.
        std::future::pending::<()>().await;
    }
    std::future::pending::<()>().await;
}
