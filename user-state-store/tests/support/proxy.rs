//! A way to the server that can be cut or frozen, as networks do.

use std::net::SocketAddr;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on until it is told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    incident: watch::Sender<Incident>,
    requests: Arc<AtomicU64>,
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
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut watching = watching.clone();
                watching.mark_unchanged();
                let counter = Arc::clone(&counter);
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        pass(client, server, watching, &counter).await;
                    }
                });
            }
        });
        Ok(Self {
            address,
            incident,
            requests,
            _accepting: accepting,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often clients sent something so far: small statements are sent at once, so about how many there were.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
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
    requests: &AtomicU64,
) {
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            _ = async {
                tokio::join!(
                    copy(from_client, to_server, || { requests.fetch_add(1, Ordering::Relaxed); }),
                    copy(from_server, to_client, || ()),
                )
            } => return,
            _ = watching.changed() => {}
        }
    }
    if *watching.borrow() == Incident::Cut {
        drop(client);
        // Keeps the server's side open until the proxy ends.
        std::future::pending::<()>().await;
    }
    std::future::pending::<()>().await;
}

/// Passes on what comes, piece by piece, until either side ends.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    piece: impl Fn(),
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        piece();
        to.write_all(&bytes[..count]).await?;
    }
}
