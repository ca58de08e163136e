//! An exchange that costs little: one write and, mostly, one read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// For an answer. The server gives up earlier.
const PATIENCE: Duration = Duration::from_secs(60);

/// A TLS 1.3 connection that is kept alive.
pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    answer: Vec<u8>,
}

impl Connection {
    /// `root` is the root certificate in PEM.
    pub(crate) fn open(address: &str, root: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(root).expect("PEM");
        roots.add(root).expect("a root certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let connection = ClientConnection::new(Arc::new(config), name).expect("TLS");
        let tcp = TcpStream::connect(address).expect("a connection");
        tcp.set_nodelay(true).expect("a socket");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            stream: StreamOwned::new(connection, tcp),
            answer: Vec::new(),
        }
    }

    /// Sends a request and gives the answer's body. No answer but 200 is good.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).expect("a request sent");
        self.stream.flush().expect("a request sent");
        self.answer.clear();
        let mut piece = [0; 16 * 1024];
        let body = loop {
            let length = self.stream.read(&mut piece).expect("an answer");
            assert_ne!(length, 0, "the connection broke off");
            self.answer.extend(&piece[..length]);
            if let Some(body) = body(&self.answer) {
                break body;
            }
        };
        assert!(
            self.answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
        &self.answer[body..]
    }
}

/// Where the body of an answer begins, once all of it is there.
fn body(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).expect("a head in ASCII");
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok())
        .expect("a length");
    (answer.len() >= end + 4 + length).then_some(end + 4)
}
