//! Goal: `verify-full` accepts the server that a trusted authority vouches for, and nobody else; what falls short is
//! refused with an error that says so.
//! Method: in front of the real server stands one that ends TLS with certificates of the test's own authorities.

#![cfg(feature = "postgres")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use support::{Database, Outcome, load};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use user_state_store::{ConnectOptions, OpenError, TlsMode, connect};

/// How many bytes the request for TLS has (PostgreSQL's documentation, "Message Formats", `SSLRequest`).
const TLS_REQUEST_BYTES: usize = 8;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority, and its certificate in a file.
struct Trusted {
    authority: Authority,
    root_certificate: PathBuf,
    _directory: TempDir,
}

impl Trusted {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let authority = authority()?;
        let directory = tempfile::tempdir()?;
        let root_certificate = directory.path().join("root.pem");
        std::fs::write(&root_certificate, authority.pem())?;
        Ok(Self {
            authority,
            root_certificate,
            _directory: directory,
        })
    }
}

fn authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

/// A server's certificate for this host, valid until the end of this year.
fn certificate(
    authority: &Authority,
    host: &str,
    last_year: i32,
) -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(last_year, 12, 31);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der())?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A front of the database's server; without an acceptor one that knows no TLS.
struct Front {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Front {
    async fn of(
        database: &Database,
        acceptor: Option<TlsAcceptor>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let server = database.address()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, server, acceptor.clone()));
            }
        });
        Ok(Self {
            address,
            _serving: serving,
        })
    }
}

/// Ends quietly where a side goes away, as these tests provoke.
async fn pass(mut client: TcpStream, server: SocketAddr, acceptor: Option<TlsAcceptor>) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let mut request = [0; TLS_REQUEST_BYTES];
    if client.read_exact(&mut request).await.is_err() {
        return;
    }
    let answer: &[u8] = if acceptor.is_some() { b"S" } else { b"N" };
    if client.write_all(answer).await.is_err() {
        return;
    }
    match acceptor {
        Some(acceptor) => {
            if let Ok(mut client) = acceptor.accept(client).await {
                drop(copy_bidirectional(&mut client, &mut server).await);
            }
        }
        None => drop(copy_bidirectional(&mut client, &mut server).await),
    }
}

fn options(
    database: &Database,
    front: &Front,
    trusted: &Trusted,
) -> Result<ConnectOptions, OpenError> {
    let mut options = ConnectOptions::parse(&database.url_at(front.address))?;
    options.tls_mode = Some(TlsMode::VerifyFull);
    options.root_certificate = Some(trusted.root_certificate.clone());
    Ok(options)
}

#[tokio::test]
async fn the_server_that_a_trusted_authority_vouches_for_is_accepted() -> Outcome {
    let database = Database::migrated().await?;
    let trusted = Trusted::new()?;
    let acceptor = certificate(&trusted.authority, "127.0.0.1", 4000)?;
    let front = Front::of(&database, Some(acceptor)).await?;
    let store = connect(&options(&database, &front, &trusted)?).await?;
    assert_eq!(load(store.states().as_ref(), "a").await?, None);
    Ok(())
}

#[tokio::test]
async fn every_other_server_is_refused() -> Outcome {
    let database = Database::migrated().await?;
    let trusted = Trusted::new()?;
    let stranger = authority()?;
    let others = [
        (
            "wrong host",
            Some(certificate(&trusted.authority, "db.example", 4000)?),
        ),
        (
            "expired",
            Some(certificate(&trusted.authority, "127.0.0.1", 2001)?),
        ),
        (
            "unknown authority",
            Some(certificate(&stranger, "127.0.0.1", 4000)?),
        ),
        ("no tls", None),
    ];
    for (defect, acceptor) in others {
        let front = Front::of(&database, acceptor).await?;
        let refused = connect(&options(&database, &front, &trusted)?).await.err();
        assert_eq!(refused, Some(OpenError::TlsRefused), "{defect}");
    }
    Ok(())
}

#[tokio::test]
async fn without_the_authoritys_certificate_its_server_is_refused() -> Outcome {
    let database = Database::migrated().await?;
    let trusted = Trusted::new()?;
    let acceptor = certificate(&trusted.authority, "127.0.0.1", 4000)?;
    let front = Front::of(&database, Some(acceptor)).await?;
    let mut options = options(&database, &front, &trusted)?;
    options.root_certificate = None;
    assert_eq!(connect(&options).await.err(), Some(OpenError::TlsRefused));
    Ok(())
}

#[tokio::test]
async fn a_root_certificate_that_cannot_be_read_is_refused() -> Outcome {
    let database = Database::migrated().await?;
    let mut options = ConnectOptions::parse(database.url())?;
    options.root_certificate = Some(PathBuf::from("no-such-file.pem"));
    assert!(matches!(
        connect(&options).await.err(),
        Some(OpenError::InvalidOption {
            option: "root_certificate",
            ..
        })
    ));
    Ok(())
}

#[tokio::test]
async fn a_trusted_authority_is_not_enough_without_the_name_of_the_host() -> Outcome {
    let database = Database::migrated().await?;
    let trusted = Trusted::new()?;
    for (host, accepted) in [("127.0.0.1", true), ("db.example", false)] {
        let acceptor = certificate(&trusted.authority, host, 4000)?;
        let front = Front::of(&database, Some(acceptor)).await?;
        let mut options = options(&database, &front, &trusted)?;
        options.tls_mode = Some(TlsMode::VerifyCa);
        let opened = connect(&options).await.map(drop);
        assert_eq!(opened.is_ok(), accepted, "{host}: {opened:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_of_the_url_that_cannot_be_used_is_named() -> Outcome {
    let database = Database::migrated().await?;
    let trusted = Trusted::new()?;
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String, std::io::Error> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let good = trusted.root_certificate.display().to_string();
    let key = KeyPair::generate()?.serialize_pem();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let encrypted = file("encrypted.pem", &encrypted)?;
    let garbage = file("garbage.pem", "no certificate")?;
    for (parameters, named) in [
        ("sslrootcert=/no/such/file".to_owned(), "sslrootcert"),
        (format!("sslrootcert={garbage}"), "sslrootcert"),
        (format!("sslcert={good}"), "sslcert"),
        (format!("sslcert={good}&sslkey=/no/such/file"), "sslkey"),
        (format!("sslcert={good}&sslkey={encrypted}"), "sslkey"),
        (format!("sslcert={garbage}&sslkey={encrypted}"), "sslcert"),
        ("sslrootcert=system&sslmode=require".to_owned(), "sslmode"),
    ] {
        let url = format!("{}?{parameters}", database.url());
        let refused = connect(&url.parse()?).await.err();
        assert!(
            matches!(refused, Some(OpenError::InvalidOption { option, .. }) if option == named),
            "{parameters}: {refused:?}"
        );
    }
    Ok(())
}
