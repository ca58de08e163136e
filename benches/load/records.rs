//! What a request over TLS 1.3 costs the server at the least: its bytes read from a loopback socket,
//! its records opened, the answer's made and written. No HTTP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::process;

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

    /// What it costs the thread that serves, over a loopback socket, to read each of these requests
    /// and to answer it.
    pub(crate) fn serve(self, requests: &[Vec<u8>], answer: &[u8]) -> Duration {
        let Self { client, server } = self;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        thread::scope(|scope| {
            scope.spawn(move || {
                let socket = TcpStream::connect(address).expect("the server");
                let mut tls = StreamOwned::new(client, plain(socket));
                let mut taken = vec![0; answer.len()];
                let mut ask = |request: Option<&Vec<u8>>, answered: bool| {
                    if let Some(request) = request {
                        tls.write_all(request).expect("a server that reads");
                        tls.flush().expect("a server that reads");
                    }
                    if answered {
                        tls.read_exact(&mut taken).expect("an answer");
                    }
                };
                // One ahead, so that the server finds its next request there, as under load.
                ask(requests.first(), false);
                for next in 1..=requests.len() {
                    ask(requests.get(next), true);
                }
            });
            let (socket, _) = listener.accept().expect("a client");
            let mut tls = StreamOwned::new(server, plain(socket));
            let mut taken = Vec::new();
            let begin = process::thread_cpu();
            for request in requests {
                taken.resize(request.len(), 0);
                tls.read_exact(&mut taken).expect("a request");
                tls.write_all(answer).expect("a client that reads");
                tls.flush().expect("a client that reads");
            }
            process::thread_cpu() - begin
        })
    }

    fn receive(&mut self, mut wire: &[u8]) {
        while !wire.is_empty() {
            self.server.read_tls(&mut wire).expect("memory");
            self.server.process_new_packets().expect("TLS");
        }
    }
}

/// Without waiting for more to send, as the server has it.
fn plain(socket: TcpStream) -> TcpStream {
    socket.set_nodelay(true).expect("a socket");
    socket
}
