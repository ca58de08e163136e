//! What TLS 1.3 costs the server for one request and its answer, with no sockets: the request's
//! records opened, the answer's made.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Two ends that have shaken hands.
pub(crate) struct Ends {
    client: ClientConnection,
    server: ServerConnection,
}

impl Ends {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
            .expect("a certificate");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut ends = Self {
            client: ClientConnection::new(Arc::new(client), name).expect("TLS"),
            server: ServerConnection::new(Arc::new(server)).expect("TLS"),
        };
        while ends.client.is_handshaking() || ends.server.is_handshaking() {
            let mut wire = Vec::new();
            ends.client.write_tls(&mut wire).expect("memory");
            ends.receive(&wire);
            let mut wire = Vec::new();
            ends.server.write_tls(&mut wire).expect("memory");
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                ends.client.read_tls(&mut wire).expect("memory");
                ends.client.process_new_packets().expect("TLS");
            }
        }
        ends
    }

    /// The records of a request, as they come over the wire.
    pub(crate) fn seal(&mut self, request: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.client.writer().write_all(request).expect("memory");
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).expect("memory");
        }
        wire
    }

    /// What the server does with them, and with an answer of that length.
    pub(crate) fn serve(&mut self, request: &[u8], answer: &[u8], scratch: &mut Vec<u8>) {
        self.receive(request);
        scratch.resize(request.len(), 0);
        let length = self.server.reader().read(scratch).expect("a request");
        assert_ne!(length, 0, "a request");
        scratch.clear();
        self.server.writer().write_all(answer).expect("memory");
        while self.server.wants_write() {
            self.server.write_tls(scratch).expect("memory");
        }
    }

    fn receive(&mut self, mut wire: &[u8]) {
        while !wire.is_empty() {
            self.server.read_tls(&mut wire).expect("memory");
            self.server.process_new_packets().expect("TLS");
        }
    }
}
