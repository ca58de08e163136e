use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use ssh_key::{HashAlg, LineEnding, PrivateKey};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Ca;

/// A signed request of the API, made from docs/api.md and not from the library, with every part
/// open to forgery.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    ca: &'a Ca,
    key: &'a PrivateKey,
    method: String,
    target: String,
    body: Vec<u8>,
    /// What the signature covers instead of what is sent.
    pub(crate) signed_method: Option<String>,
    pub(crate) signed_target: Option<String>,
    pub(crate) signed_body: Option<Vec<u8>>,
    pub(crate) time: String,
    pub(crate) nonce: String,
    pub(crate) namespace: String,
    pub(crate) audience: String,
}

impl<'a> Request<'a> {
    pub(crate) fn new(ca: &'a Ca, key: &'a PrivateKey, method: &str, target: &str) -> Self {
        let mut nonce = [0; 18];
        SystemRandom::new().fill(&mut nonce).expect("random bytes");
        Self {
            ca,
            key,
            method: method.to_owned(),
            target: target.to_owned(),
            body: Vec::new(),
            signed_method: None,
            signed_target: None,
            signed_body: None,
            time: in_seconds(0),
            nonce: URL_SAFE_NO_PAD.encode(nonce),
            namespace: "hallpass-request-v1".to_owned(),
            audience: ca.fingerprint.clone(),
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// Signed so many seconds from now.
    pub(crate) fn at(mut self, seconds: i64) -> Self {
        self.time = in_seconds(seconds);
        self
    }

    /// The body of a request for an SSH certificate of `subject`, proof included.
    pub(crate) fn ssh(self, subject: &PrivateKey, mut ask: Value) -> Self {
        let requester = self.key.public_key().fingerprint(HashAlg::Sha256);
        let message = format!(
            "hallpass-possession-v1\naudience {}\nrequester {requester}\nnonce {}\n",
            self.audience, self.nonce
        );
        let possession = subject
            .sign(
                "hallpass-possession-v1",
                HashAlg::Sha512,
                message.as_bytes(),
            )
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .expect("a signature");
        let public_key = subject.public_key().to_openssh().expect("a public key");
        let given = ask.as_object_mut().expect("an object");
        given.entry("public_key").or_insert(public_key.into());
        given.entry("possession").or_insert(possession.into());
        self.json(&ask)
    }

    /// What is signed.
    pub(crate) fn message(&self) -> String {
        let body = digest::digest(
            &digest::SHA256,
            self.signed_body.as_deref().unwrap_or(&self.body),
        );
        let hash: String = body
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!(
            "hallpass-request-v1\naudience {}\nmethod {}\ntarget {}\nbody sha256:{hash}\ntime \
             {}\nnonce {}\n",
            self.audience,
            self.signed_method.as_deref().unwrap_or(&self.method),
            self.signed_target.as_deref().unwrap_or(&self.target),
            self.time,
            self.nonce,
        )
    }

    /// The signature header's value.
    pub(crate) fn signature(&self) -> String {
        let pem = self
            .key
            .sign(&self.namespace, HashAlg::Sha512, self.message().as_bytes())
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .expect("a signature");
        pem.lines().filter(|line| !line.starts_with('-')).collect()
    }

    /// The whole HTTP request.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&[
            ("Hallpass-Time", self.time.clone()),
            ("Hallpass-Nonce", self.nonce.clone()),
            ("Hallpass-Signature", self.signature()),
        ])
    }

    /// The same with other headers in place of the three that sign it.
    pub(crate) fn bytes_with(&self, headers: &[(&str, String)]) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.method,
            self.target,
            self.ca.address(),
            self.body.len(),
        );
        if !self.body.is_empty() {
            text.push_str("Content-Type: application/json\r\n");
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend(&self.body);
        bytes
    }

    pub(crate) fn send(&self) -> Answer {
        self.try_send().expect("an answer")
    }

    pub(crate) fn try_send(&self) -> io::Result<Answer> {
        exchange(self.ca, &self.bytes())
    }
}

/// Now and so many seconds, as the API takes it.
fn in_seconds(seconds: i64) -> String {
    let time = OffsetDateTime::from(SystemTime::now()) + time::Duration::seconds(seconds);
    time.replace_nanosecond(0)
        .expect("no fraction")
        .format(&Rfc3339)
        .expect("a time")
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// The same, where it is no text.
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Status, the end of the problem's type, and its detail.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        let kind = text("type");
        let kind = kind.rsplit(':').next().unwrap_or_default().to_owned();
        (self.status, kind, text("detail"))
    }
}

/// A TLS connection to the server that trusts its root alone.
pub(crate) fn tls(ca: &Ca) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    secured(&ca.home.root_pem(), TcpStream::connect(ca.address())?)
}

/// The same from another address of this machine, with little room for what is not read.
pub(crate) fn tls_from(
    ca: &Ca,
    source: &str,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let address = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    socket.set_recv_buffer_size(4096)?;
    socket.bind(&address(&format!("{source}:0"))?.into())?;
    socket.connect(&address(ca.address())?.into())?;
    secured(&ca.home.root_pem(), socket.into())
}

pub(super) fn secured(
    root_pem: &str,
    tcp: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).expect("PEM");
    roots.add(root).expect("a root certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    tcp.set_read_timeout(Some(Duration::from_secs(60)))?;
    tcp.set_write_timeout(Some(Duration::from_secs(60)))?;
    Ok(StreamOwned::new(connection, tcp))
}

/// Sends bytes and reads an answer to its end.
pub(crate) fn exchange(ca: &Ca, bytes: &[u8]) -> io::Result<Answer> {
    exchange_on(&mut tls(ca)?, bytes)
}

pub(super) fn exchange_on(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<Answer> {
    // A server that refuses a body early may have stopped reading.
    let sent = stream.write_all(bytes).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend(&piece[..length]),
            Err(error) if answer.is_empty() => return Err(sent.err().unwrap_or(error)),
            Err(_) => break,
        }
        if let Some(answer) = whole(&answer) {
            return Ok(answer);
        }
    }
    whole(&answer).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

pub(super) fn whole(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 4..]);
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(Some(0), |length| length.trim().parse().ok())?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    (body.len() >= length).then(|| Answer {
        status,
        head: lower,
        body: String::from_utf8_lossy(body).into_owned(),
        bytes: body.to_owned(),
    })
}
