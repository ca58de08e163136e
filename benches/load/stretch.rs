//! One timed stretch: so many connections, each asking again as soon as it was answered.

use std::collections::HashSet;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hallpass::audit::Event;

use crate::process;
use crate::target::{Kind, Target};

/// What one stretch showed.
pub(crate) struct Cell {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) server_cpu_us: f64,
    /// The length of an answer.
    pub(crate) answer_bytes: usize,
    /// What the clients spent on their side.
    pub(crate) client_cpu_us: f64,
    /// The share of the machine that neither server nor clients had.
    pub(crate) others: f64,
}

/// The certificates that were received from one issuer, by their serial numbers.
#[derive(Default)]
pub(crate) struct Certificates(HashSet<u128>);

impl Certificates {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Checks that Hallpass's log holds these and no others.
    pub(crate) fn check(&self, log: &[Event]) {
        let logged: HashSet<u128> = log
            .iter()
            .filter_map(|event| Some(event.certificate()?.serial.get().into()))
            .collect();
        assert_eq!(log.len(), logged.len(), "a serial number twice in the log");
        let unlogged = self.0.difference(&logged).count();
        assert_eq!(unlogged, 0, "certificates that are not in the log");
        assert_eq!(log.len(), self.0.len(), "entries of certificates");
    }

    fn take(&mut self, serials: impl Iterator<Item = u128>) {
        for serial in serials {
            assert!(self.0.insert(serial), "serial number {serial} twice");
        }
    }
}

pub(crate) fn run<T: Target>(
    target: &T,
    kind: Kind,
    connections: usize,
    seconds: u32,
    certificates: &mut Certificates,
) -> Cell {
    let mut stretch = Stretch::begin(target, kind, connections, certificates);
    stretch.go_on(seconds, certificates);
    stretch.end()
}

/// A stretch that others may come in between of.
pub(crate) struct Stretch<'a, T: Target> {
    target: &'a T,
    kind: Kind,
    subjects: Vec<T::Subject>,
    open: Vec<T::Connection>,
    /// Answers a second when it is warm.
    rate: f64,
    elapsed: Duration,
    spent: Clocks,
    answers: Vec<Answer>,
}

impl<'a, T: Target> Stretch<'a, T> {
    /// Opens the connections, and asks until all is warm.
    pub(crate) fn begin(
        target: &'a T,
        kind: Kind,
        connections: usize,
        certificates: &mut Certificates,
    ) -> Self {
        let subjects: Vec<_> = (0..connections).map(|_| target.subject(kind)).collect();
        let mut open: Vec<_> = (0..connections).map(|_| target.connect()).collect();
        let warm_up = prepare(target, &subjects, 300 + 50 * connections);
        let (elapsed, answers) = drive(target, &mut open, kind, &warm_up);
        certificates.take(answers.iter().map(|answer| answer.serial));
        eprintln!("{} at {connections} connections", kind.name());
        Self {
            target,
            kind,
            subjects,
            open,
            rate: warm_up.len() as f64 / elapsed.as_secs_f64(),
            elapsed: Duration::ZERO,
            spent: Clocks::default(),
            answers: Vec::new(),
        }
    }

    /// Asks for so long.
    pub(crate) fn go_on(&mut self, seconds: u32, certificates: &mut Certificates) {
        // Signed ahead: the time on a request may be up to 60 s off. The rate grows a bit when warm.
        let requests = prepare(
            self.target,
            &self.subjects,
            (self.rate * f64::from(seconds) * 1.1) as usize,
        );
        let before = Clocks::read(self.target);
        let (elapsed, answers) = drive(self.target, &mut self.open, self.kind, &requests);
        self.spent += Clocks::read(self.target).since(before);
        self.elapsed += elapsed;
        certificates.take(answers.iter().map(|answer| answer.serial));
        self.answers.extend(answers);
    }

    pub(crate) fn end(self) -> Cell {
        let Self {
            spent,
            elapsed,
            answers,
            ..
        } = self;
        let mut latencies: Vec<Duration> = answers.iter().map(|answer| answer.latency).collect();
        latencies.sort_unstable();
        // The nearest rank.
        let percentile = |share: f64| {
            let rank = (latencies.len() as f64 * share).ceil() as usize;
            latencies[rank.saturating_sub(1)].as_secs_f64() * 1e3
        };
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / answers.len() as f64;
        let others = spent.machine.saturating_sub(spent.server + spent.clients);
        Cell {
            per_second: answers.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: percentile(0.50),
            p99_ms: percentile(0.99),
            server_cpu_us: each(spent.server),
            answer_bytes: answers[0].bytes,
            client_cpu_us: each(spent.clients),
            others: others.as_secs_f64() / (elapsed.as_secs_f64() * cores() as f64),
        }
    }
}

/// What was spent so far, and by whom.
#[derive(Default)]
struct Clocks {
    server: Duration,
    clients: Duration,
    /// By everything that runs.
    machine: Duration,
}

impl Clocks {
    fn read(target: &impl Target) -> Self {
        Self {
            server: target.cpu(),
            clients: process::cpu(std::process::id()),
            machine: process::machine_cpu(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            server: self.server - before.server,
            clients: self.clients - before.clients,
            machine: self.machine - before.machine,
        }
    }
}

impl AddAssign for Clocks {
    fn add_assign(&mut self, more: Self) {
        self.server += more.server;
        self.clients += more.clients;
        self.machine += more.machine;
    }
}

/// Makes requests with all cores.
fn prepare<T: Target>(target: &T, subjects: &[T::Subject], count: usize) -> Vec<T::Request> {
    let cores = cores();
    let part = |core: usize| {
        let numbers = (core..count).step_by(cores);
        numbers
            .map(|number| target.request(&subjects[number % subjects.len()]))
            .collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let part = &part;
        let parts: Vec<_> = (0..cores)
            .map(|core| scope.spawn(move || part(core)))
            .collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().expect("requests"))
            .collect()
    })
}

struct Answer {
    latency: Duration,
    serial: u128,
    bytes: usize,
}

/// Sends each request once, over whichever connection is free.
fn drive<T: Target>(
    target: &T,
    connections: &mut [T::Connection],
    kind: Kind,
    requests: &[T::Request],
) -> (Duration, Vec<Answer>) {
    let next = AtomicUsize::new(0);
    let ask = |connection: &mut T::Connection| {
        let mut answers = Vec::new();
        while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let sent = Instant::now();
            let answer = target.exchange(connection, request);
            let latency = sent.elapsed();
            let (serial, bytes) = (target.serial(kind, answer), answer.len());
            answers.push(Answer {
                latency,
                serial,
                bytes,
            });
        }
        answers
    };
    let begin = Instant::now();
    let answers = thread::scope(|scope| {
        let ask = &ask;
        let clients: Vec<_> = connections
            .iter_mut()
            .map(|connection| scope.spawn(move || ask(connection)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("answers"))
            .collect()
    });
    (begin.elapsed(), answers)
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
