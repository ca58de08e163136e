use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::model::Endpoint;
use crate::outbound::{RootsError, roots};

/// For a connection, and again for TLS on it.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long without a sign that the peer has what was sent to it, it is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Where to connect.
pub(super) struct Peer {
    pub(super) endpoint: Endpoint,
}

/// Where to connect, and how to know who is there.
pub(super) struct TlsPeer {
    peer: Peer,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Peer {
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let Endpoint { host, port } = &self.endpoint;
        let stream = within(TcpStream::connect((host.as_str(), *port))).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_user_timeout(Some(SILENCE))?;
        let keepalive = TcpKeepalive::new()
            .with_time(SILENCE)
            .with_interval(SILENCE / 3);
        socket.set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }
}

impl TlsPeer {
    /// Whoever shows a certificate for that host under one of the roots.
    pub(super) fn new(endpoint: Endpoint, ca_file: Option<&Path>) -> Result<Self, PeerError> {
        let mut trusted = RootCertStore::empty();
        // The system may have some that rustls does not take.
        let (some, _) = trusted.add_parsable_certificates(roots(ca_file)?);
        if some == 0 {
            return Err(PeerError::NoRoots);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self {
            name: ServerName::try_from(endpoint.host.to_string())?,
            connector: TlsConnector::from(Arc::new(config)),
            peer: Peer { endpoint },
        })
    }

    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        self.peer.connect().await
    }

    /// TLS over a connection. Nothing is sent to anybody who is not the right one.
    pub(super) async fn secure<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        within(self.connector.connect(self.name.clone(), stream)).await
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(late()))
}

/// Why nobody can be known.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There are no root certificates.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// None of them can be used.
    #[error("none of the root certificates can be used")]
    NoRoots,
    /// The host's name can't stand on a certificate.
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    /// rustls does not take it.
    #[error("TLS can't be set up: {0}")]
    Rustls(#[from] rustls::Error),
}
