//! The server under test, and how long it takes to start.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hallpass::model::KeyKind;

use crate::connection::Connection;
use crate::home::Home;
use crate::process::Process;

/// The longest that a start may take, up to the opening of a file.
const PATIENCE_MS: i32 = 30_000;

/// `hallpass serve`.
pub(crate) struct Server {
    pub(crate) process: Process,
    /// Address and port.
    pub(crate) address: String,
    /// What requests must be addressed to.
    pub(crate) audience: String,
    /// The root certificate in PEM.
    pub(crate) root: Vec<u8>,
    pub(crate) start: Start,
}

/// How long the parts of a start took.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// From the spawn to the passphrase's key derivation.
    pub(crate) before: Duration,
    /// The key derivation.
    pub(crate) derivation: Duration,
    /// From its end to the first good answer of `/readyz`.
    pub(crate) after: Duration,
}

impl Server {
    pub(crate) fn start(home: &Home) -> Self {
        let keys = home.home.keys();
        // The key derivation lies between the opening of the seal and that of the first key.
        let seal = Watch::on(&[keys.join("seal.age")]);
        let first_key = Watch::on(&KeyKind::ALL.map(|kind| home.key_file(kind)));
        let mut serve = home.hallpass("serve");
        serve
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(home.server_log()).expect("a file of our own"));
        let spawned = Instant::now();
        let mut process = Process::spawn(&mut serve);
        let stdout = process.stdout();
        let mut server = Self {
            process,
            address: String::new(),
            audience: String::new(),
            root: fs::read(keys.join("x509-root-1.pem")).expect("the root certificate"),
            start: Start {
                before: Duration::ZERO,
                derivation: Duration::ZERO,
                after: Duration::ZERO,
            },
        };
        let sealed = seal.wait();
        let unsealed = first_key.wait();
        let mut lines = BufReader::new(stdout).lines();
        let mut word = |before: &str| {
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            let word = line.strip_prefix(before);
            word.unwrap_or_else(|| panic!("serve said {line:?}"))
                .to_owned()
        };
        server.address = word("listening on https://");
        server.audience = word("fingerprint ");
        server.connect().exchange(
            format!("GET /readyz HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).as_bytes(),
        );
        server.start = Start {
            before: sealed - spawned,
            derivation: unsealed - sealed,
            after: unsealed.elapsed(),
        };
        server
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.address, &self.root)
    }

    /// Stops it, and tells how it started.
    pub(crate) fn stop(mut self) -> Start {
        self.process.stop();
        self.start
    }
}

impl Start {
    /// The median of each part.
    pub(crate) fn median(starts: Vec<Self>) -> Self {
        let median = |part: fn(&Self) -> Duration| {
            let mut parts: Vec<Duration> = starts.iter().map(part).collect();
            parts.sort_unstable();
            parts[parts.len() / 2]
        };
        Self {
            before: median(|start| start.before),
            derivation: median(|start| start.derivation),
            after: median(|start| start.after),
        }
    }
}

/// Tells when one of some files is opened (inotify(7)).
struct Watch(File);

impl Watch {
    fn on(paths: &[PathBuf]) -> Self {
        // SAFETY: takes no memory of ours.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
        assert_ne!(descriptor, -1, "no inotify");
        for path in paths {
            let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
            // SAFETY: the path ends in a zero and lives through the call.
            let watch =
                unsafe { libc::inotify_add_watch(descriptor, name.as_ptr(), libc::IN_OPEN) };
            assert_ne!(watch, -1, "{} can't be watched", path.display());
        }
        // SAFETY: just made, and nobody else's.
        Self(unsafe { File::from_raw_fd(descriptor) })
    }

    fn wait(self) -> Instant {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure of ours, which lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
        let opened = Instant::now();
        assert_eq!(ready, 1, "the server does not open its keys");
        opened
    }
}
