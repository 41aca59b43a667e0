//! A pooler in session mode as the store sees it: it looks at the start of each session, and passes the rest on.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The start-up parameters that pgbouncer knows.
const KNOWN: [&str; 7] = [
    "application_name",
    "client_encoding",
    "database",
    "datestyle",
    "standard_conforming_strings",
    "timezone",
    "user",
];

const SSL_REQUEST: u32 = 80_877_103;

/// What becomes of a start-up parameter that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The session is refused with 08P01, as pgbouncer does by default.
    Refused,
    /// It is left out, as pgbouncer's `ignore_startup_parameters` says.
    Dropped,
}

/// Where new sessions go.
#[derive(Debug, Clone)]
struct Rules {
    unknown: Unknown,
    server: SocketAddr,
    database: Option<String>,
}

/// Takes sessions until it is dropped; those there are end with it.
pub(crate) struct Pooler {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
    _accepting: JoinSet<()>,
}

impl Pooler {
    pub(crate) async fn to(server: SocketAddr, unknown: Unknown) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (rules, reading) = watch::channel(Rules {
            unknown,
            server,
            database: None,
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let rules = reading.borrow().clone();
                sessions.spawn(async move { drop(session(client, rules).await) });
            }
        });
        Ok(Self {
            address,
            rules,
            _accepting: accepting,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on new sessions reach this database, whichever they ask for; the others stay where they are.
    pub(crate) fn lead_to(&self, server: SocketAddr, database: &str) {
        self.rules.send_modify(|rules| {
            rules.server = server;
            rules.database = Some(database.to_owned());
        });
    }
}

async fn session(mut client: TcpStream, rules: Rules) -> std::io::Result<()> {
    let (mut version, mut parameters) = start(&mut client).await?;
    if version == SSL_REQUEST {
        client.write_all(b"N").await?;
        (version, parameters) = start(&mut client).await?;
    }
    let is_known = |name: &str| KNOWN.contains(&&*name.to_ascii_lowercase());
    if rules.unknown == Unknown::Refused && !parameters.iter().all(|(name, _)| is_known(name)) {
        return refuse(&mut client).await;
    }
    parameters.retain(|(name, _)| is_known(name));
    if let Some(database) = rules.database {
        parameters.retain(|(name, _)| name != "database");
        parameters.push(("database".to_owned(), database));
    }
    let mut body = version.to_be_bytes().to_vec();
    for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).map_err(|_| Error::from(ErrorKind::InvalidData))?;
    let mut server = TcpStream::connect(rules.server).await?;
    server.write_all(&length.to_be_bytes()).await?;
    server.write_all(&body).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The version, and the parameters, of the first message of a session.
async fn start(client: &mut TcpStream) -> std::io::Result<(u32, Vec<(String, String)>)> {
    let invalid = || Error::from(ErrorKind::InvalidData);
    let length = client.read_u32().await?;
    let version = client.read_u32().await?;
    let rest = usize::try_from(length)
        .ok()
        .and_then(|it| it.checked_sub(8));
    let mut body = vec![0; rest.ok_or_else(invalid)?];
    client.read_exact(&mut body).await?;
    let body = String::from_utf8(body).map_err(|_| invalid())?;
    let texts: Vec<&str> = body.split_terminator('\0').collect();
    let pairs = texts.chunks_exact(2).filter_map(|pair| match pair {
        [name, value] => Some(((*name).to_owned(), (*value).to_owned())),
        _ => None,
    });
    Ok((version, pairs.collect()))
}

async fn refuse(client: &mut TcpStream) -> std::io::Result<()> {
    let fields = b"SFATAL\0C08P01\0Munsupported startup parameter\0\0";
    client.write_all(b"E").await?;
    let length = u32::try_from(fields.len() + 4).unwrap_or_default();
    client.write_all(&length.to_be_bytes()).await?;
    client.write_all(fields).await?;
    client.shutdown().await
}
