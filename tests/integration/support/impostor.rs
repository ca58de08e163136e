use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::raw::{exchange_on, secured};
use super::{Ca, Folder, P256, make_csr};

/// Stands between people and a CA, which they take it for. It can't sign what the CA signs.
pub(crate) struct Impostor {
    pub(crate) url: String,
}

impl Impostor {
    /// Gives out what `change` makes of each answer's body, with the request's first line at hand.
    pub(crate) fn of(
        ca: &Ca,
        change: impl Fn(&str, String) -> String + Send + Sync + 'static,
    ) -> Self {
        let folder = Folder::new();
        make_csr(&folder, "server", &P256, &[]);
        let request = folder.join("server.csr");
        let request = request.to_str().expect("a plain path");
        ca.admin()
            .hallpass(["host-cert", "tls", request, "--name", "localhost"])
            .ok();
        let chain = CertificateDer::pem_file_iter(folder.join("server.crt"))
            .and_then(Iterator::collect)
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (address, root) = (ca.address().to_owned(), ca.home.root_pem());
        let change = Arc::new(change);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(Arc::clone(&config)).expect("TLS");
                let mut stream = StreamOwned::new(connection, stream);
                let (address, root, change) = (address.clone(), root.clone(), Arc::clone(&change));
                // One that waits holds no other up.
                std::thread::spawn(move || {
                    let request = read_request(&mut stream);
                    let Some((line, rest)) = request.split_once("\r\n") else {
                        return;
                    };
                    let tcp = TcpStream::connect(address).expect("the CA");
                    let asked = format!("{line}\r\nConnection: close\r\n{rest}");
                    let answer = secured(&root, tcp)
                        .and_then(|mut tls| exchange_on(&mut tls, asked.as_bytes()))
                        .expect("an answer");
                    let body = change(line, answer.body);
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {length}",
                        answer.status
                    );
                    // Whoever asked is tested, and may break off.
                    write!(stream, "{head}\r\n\r\n{body}").ok();
                    stream.conn.send_close_notify();
                    stream.flush().ok();
                });
            }
        });
        Self {
            url: format!("https://localhost:{port}"),
        }
    }
}

/// Reads a whole request.
pub(crate) fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece).unwrap_or_default();
        request.extend(&piece[..length]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let mut lines = head.lines();
            let expected = lines.find_map(|line| line.strip_prefix("content-length: "));
            expected.is_none_or(|expected| body.len() >= expected.parse().expect("a length"))
        });
        if whole || length == 0 {
            return String::from_utf8_lossy(&request).into_owned();
        }
    }
}
