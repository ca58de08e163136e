use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::free_port;

/// What a receiver of ours does with a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes it.
    Take,
    /// Answers this status, with these header lines.
    Refuse(&'static str),
    /// Ends the connection without an answer, before it has read anything.
    HangUp,
    /// Takes it, and ends the connection without an answer.
    TakeAndHangUp,
    /// Never answers.
    Stare,
}

/// A post's body, as docs/log.md has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    entries: Vec<Box<RawValue>>,
    checkpoint: String,
}

/// A post that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) head: String,
    pub(crate) entries: Vec<String>,
    pub(crate) checkpoint: String,
}

/// A receiver of posts. There is no stock one: what it does is up to whoever runs it.
pub(crate) struct Webhook {
    pub(crate) port: u16,
    manners: Arc<dyn Fn(usize) -> Manner + Send + Sync>,
    tls: Option<Arc<ServerConfig>>,
    posts: Arc<Mutex<Vec<Post>>>,
    attempts: Arc<Mutex<usize>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Webhook {
    /// One that meets each attempt, by its number, in that manner.
    pub(crate) fn start(manners: impl Fn(usize) -> Manner + Send + Sync + 'static) -> Self {
        Self::new(None, manners)
    }

    /// The same over TLS.
    pub(crate) fn over_tls(
        (certificate, key): &(impl AsRef<Path>, impl AsRef<Path>),
        manners: impl Fn(usize) -> Manner + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::from_pem_file(certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a certificate and its key");
        Self::new(Some(Arc::new(config)), manners)
    }

    fn new(
        tls: Option<Arc<ServerConfig>>,
        manners: impl Fn(usize) -> Manner + Send + Sync + 'static,
    ) -> Self {
        let mut webhook = Self {
            port: free_port(),
            manners: Arc::new(manners),
            tls,
            posts: Arc::default(),
            attempts: Arc::default(),
            running: None,
        };
        webhook.start_again();
        webhook
    }

    pub(crate) fn start_again(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("a free port");
        let ended = Arc::new(AtomicBool::new(false));
        let (posts, attempts) = (Arc::clone(&self.posts), Arc::clone(&self.attempts));
        let (manners, tls) = (Arc::clone(&self.manners), self.tls.clone());
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            // What it stares at, until it ends.
            let mut open = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_read_timeout(Some(Duration::from_secs(20))).ok();
                let number = {
                    let mut attempts = attempts.lock().expect("no panic");
                    *attempts += 1;
                    *attempts - 1
                };
                match manners(number) {
                    Manner::HangUp => {}
                    Manner::Stare => open.push(stream),
                    manner => {
                        let outcome = match &tls {
                            None => meet(stream, manner, &posts),
                            Some(config) => ServerConnection::new(Arc::clone(config))
                                .map_err(io::Error::other)
                                .and_then(|tls| {
                                    meet(StreamOwned::new(tls, stream), manner, &posts)
                                }),
                        };
                        // Who sends is tested, and may break off.
                        outcome.ok();
                    }
                }
            }
        });
        self.running = Some((ended, thread));
    }

    /// Ends it; nobody listens on its port.
    pub(crate) fn end(&mut self) {
        if let Some((ended, thread)) = self.running.take() {
            ended.store(true, Ordering::SeqCst);
            TcpStream::connect(("127.0.0.1", self.port)).ok();
            thread.join().expect("no panic");
        }
    }

    pub(crate) fn attempts(&self) -> usize {
        *self.attempts.lock().expect("no panic")
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.posts.lock().expect("no panic").clone()
    }

    /// All entries that were taken, in the order in which they came.
    pub(crate) fn entries(&self) -> Vec<String> {
        self.posts()
            .into_iter()
            .flat_map(|post| post.entries)
            .collect()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.end();
    }
}

fn meet(stream: impl Read + Write, manner: Manner, posts: &Mutex<Vec<Post>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if let Manner::Take | Manner::TakeAndHangUp = manner {
        let body: Body = serde_json::from_slice(&body)?;
        let entries = body.entries.iter().map(|entry| entry.get().to_owned());
        posts.lock().expect("no panic").push(Post {
            head,
            entries: entries.collect(),
            checkpoint: body.checkpoint,
        });
    }
    let answer = match manner {
        Manner::Take => "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        Manner::Refuse(status) => format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"),
        _ => return Ok(()),
    };
    let stream = stream.get_mut();
    stream.write_all(answer.as_bytes())?;
    stream.flush()
}
