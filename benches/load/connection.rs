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

    /// Sends a request and gives the answer's body. No answer but 200 and 201 is good.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).expect("a request sent");
        self.stream.flush().expect("a request sent");
        self.answer.clear();
        let mut piece = [0; 16 * 1024];
        let body = loop {
            let length = self.stream.read(&mut piece).expect("an answer");
            assert_ne!(length, 0, "the connection broke off");
            self.answer.extend(&piece[..length]);
            if let Some(body) = body(&mut self.answer) {
                break body;
            }
        };
        assert!(
            self.answer.starts_with(b"HTTP/1.1 200 ") || self.answer.starts_with(b"HTTP/1.1 201 "),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
        &self.answer[body..]
    }
}

/// A request as it goes over the wire.
pub(crate) fn post(path: &str, body: &[u8], headers: &[(&str, &str)]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\n\
         host: localhost\r\n\
         content-type: application/json\r\n\
         content-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    [request.as_bytes(), body].concat()
}

/// Where the body of an answer begins, once all of it is there. One in chunks is put together.
fn body(answer: &mut Vec<u8>) -> Option<usize> {
    let start = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..start]).expect("a head in ASCII");
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then_some(value)
        })
    };
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().expect("a length");
        return (answer.len() >= start + length).then_some(start);
    }
    assert_eq!(header("transfer-encoding"), Some("chunked"), "{head}");
    let whole = unchunk(&answer[start..])?;
    answer.truncate(start);
    answer.extend(whole);
    Some(start)
}

/// The chunks without what is between them, once the last is there (RFC 9112, section 7.1).
fn unchunk(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n")?;
        let length = std::str::from_utf8(&chunks[..end]).expect("a length");
        let length = usize::from_str_radix(length, 16).expect("a length");
        let (chunk, rest) = chunks[end + 2..].split_at_checked(length)?;
        chunks = rest.strip_prefix(b"\r\n")?;
        if length == 0 {
            return Some(whole);
        }
        whole.extend(chunk);
    }
}
