//! The server under test, and what the operating system says of it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hallpass::keys::KeyKind;

use crate::client::Connection;
use crate::home::Home;

/// The longest that a start may take, up to the opening of a file.
const PATIENCE_MS: i32 = 30_000;
/// Columns of `/proc/stat`.
const IDLE: usize = 3;
const WAITING: usize = 4;

/// `hallpass serve`. Killed at the end, however that comes.
pub(crate) struct Server {
    process: Child,
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

/// What a peak of memory tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peak {
    /// The peak under load.
    Load,
    /// The peak since the start: the key derivation's 128 MiB.
    Derivation,
}

impl Server {
    pub(crate) fn start(home: &Home) -> Self {
        let keys = home.home.keys();
        // The key derivation lies between the opening of the seal and that of the first key.
        let seal = Watch::on(&[keys.join("seal.age")]);
        let first_key = Watch::on(&KeyKind::ALL.map(|kind| keys.join(format!("{kind}-1.age"))));
        let mut serve = home.hallpass("serve");
        serve
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(home.server_log()).expect("a file of our own"));
        // SAFETY: prctl takes no memory of ours, and is a mere system call.
        unsafe {
            serve.pre_exec(|| {
                // It ends with us also when we are killed.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let spawned = Instant::now();
        let mut process = serve.spawn().expect("hallpass");
        let stdout = process.stdout.take().expect("a pipe");
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
        Connection::open(&server).exchange(
            format!("GET /readyz HTTP/1.1\r\nhost: {}\r\n\r\n", server.address).as_bytes(),
        );
        server.start = Start {
            before: sealed - spawned,
            derivation: unsealed - sealed,
            after: unsealed.elapsed(),
        };
        server
    }

    /// Stops it as an operator would; it must end well.
    pub(crate) fn stop(mut self) -> Start {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.process.wait().expect("our own child");
        assert!(status.success(), "serve ended with {status}");
        self.start
    }

    /// What it has spent on all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.process.id())
    }

    /// What it holds in memory now.
    pub(crate) fn resident_kb(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it has held since [`Self::forget_peak`].
    pub(crate) fn peak_kb(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Begins to look for the peak anew, where that is permitted (proc(5), `clear_refs`): for root
    /// alone, since the server keeps others off its memory.
    pub(crate) fn forget_peak(&self) -> Peak {
        match fs::write(self.proc("clear_refs"), "5") {
            Ok(()) => Peak::Load,
            Err(_) => Peak::Derivation,
        }
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("a server that runs");
        let mut words = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line of proc(5)")
            .split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok());
        number.expect("a number of kB")
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.process.id().to_string())
            .join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
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

/// What a process has spent on all its threads, those that have ended included: the scheduler's
/// own account, user and system time together.
pub(crate) fn cpu(process: u32) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let process = i32::try_from(process).expect("a process id");
    // SAFETY: each writes one value of ours, which lives through the call.
    let done = unsafe {
        libc::clock_getcpuclockid(process, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    assert!(done, "process {process} has no clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What the whole machine has spent: all that is neither idle nor waits for a disk (proc(5),
/// `stat`), the time that a hypervisor withheld included.
pub(crate) fn machine_cpu() -> Duration {
    // SAFETY: sysconf has no preconditions.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let stat = fs::read_to_string("/proc/stat").expect("the kernel's statistics");
    let all = stat.lines().next().expect("a line for all cores");
    let ticks: u64 = all
        .split_whitespace()
        .skip(1)
        .take(8)
        .enumerate()
        .filter(|(place, _)| ![IDLE, WAITING].contains(place))
        .map(|(_, ticks)| ticks.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64)
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
