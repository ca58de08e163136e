//! Another issuer beside Hallpass: the same stretches, second by second in turn.

use std::env;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::CONNECTIONS;
use crate::client::Hallpass;
use crate::home::Home;
use crate::keygen::Keygen;
use crate::process::{Peak, Process};
use crate::step_ca::StepCa;
use crate::stretch::{Cell, Certificates, Stretch, cores};
use crate::target::{Kind, Target};

/// Who can be set beside Hallpass.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Peer {
    StepCa,
    SshKeygen,
}

/// Hallpass's number before that of the peer.
type Pair<T> = [T; 2];

/// What was measured, as a table.
pub(crate) struct Comparison {
    peer: Peer,
    /// As it says itself.
    version: Option<String>,
    rows: Vec<Row>,
    /// Of those that stay from one certificate to the next.
    memory: Option<Pair<Memory>>,
    certificates: Pair<usize>,
}

struct Row {
    kind: Kind,
    connections: usize,
    cells: Pair<Cell>,
}

/// In kB.
struct Memory {
    idle: u64,
    peak: u64,
    /// At the end, without the files that are mapped.
    anonymous: u64,
    counted: Peak,
}

impl Peer {
    /// Its program, looked for as a shell does.
    pub(crate) fn program(self) -> Result<PathBuf, String> {
        let name = self.name();
        let folders = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&folders)
            .map(|folder| folder.join(name))
            .find(|path| {
                path.metadata()
                    .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
            })
            .ok_or_else(|| format!("no program {name} in PATH: {}", self.origin()))
    }

    /// Measures both. `program` is the peer's.
    pub(crate) fn measure(self, program: &Path, seconds: u32) -> Comparison {
        let home = Home::new();
        let server = home.start();
        let signer = home.enrol(&server);
        let hallpass = Hallpass {
            server: &server,
            signer: &signer,
        };
        let mut certificates = [Certificates::default(), Certificates::default()];
        let (version, rows, memory) = match self {
            Self::StepCa => {
                let mut step_ca = StepCa::start(program, &home);
                let idle = [&server.process, &step_ca.process].map(Idle::see);
                let kinds = [Kind::Ssh, Kind::X509];
                let rows = alternate(&hallpass, &step_ca, &kinds, seconds, &mut certificates);
                let memory = idle.map(Idle::after);
                step_ca.process.stop();
                (Some(step_ca.version.clone()), rows, Some(memory))
            }
            Self::SshKeygen => {
                let keygen = Keygen::new(program, &home);
                let rows = alternate(&hallpass, &keygen, &[Kind::Ssh], seconds, &mut certificates);
                (None, rows, None)
            }
        };
        server.stop();
        certificates[0].check(&home.issued());
        Comparison {
            peer: self,
            version,
            rows,
            memory,
            certificates: certificates.map(|certificates| certificates.len()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::StepCa => "step-ca",
            Self::SshKeygen => "ssh-keygen",
        }
    }

    /// How to get it.
    fn origin(self) -> &'static str {
        match self {
            Self::StepCa => {
                "take a release of https://github.com/smallstep/certificates, or build one from \
                 Debian's golang-github-smallstep-certificates-dev (docs/performance.md)"
            }
            Self::SshKeygen => "install OpenSSH's client",
        }
    }

    /// What to know about its numbers.
    fn note(self) -> &'static str {
        match self {
            Self::StepCa => {
                "step-ca is set up as by step ca init --ssh: ECDSA P-256 keys, a text log in a file, \
                 and on the\nsame disk the database badgerv2, synced, with each token and each \
                 certificate. It asks for no\nproof that an SSH key is held, and has no log that \
                 shows what was changed or left out."
            }
            Self::SshKeygen => {
                "ssh-keygen is the hand tool: a process for each certificate, with no proof of \
                 possession, no\npolicy, no network and no log. Its CPU is that of the processes, \
                 without what starting them\ncosts the one that starts them, which is under client CPU."
            }
        }
    }
}

/// A process before anything was asked of it.
struct Idle<'a> {
    process: &'a Process,
    resident_kb: u64,
    counted: Peak,
}

impl<'a> Idle<'a> {
    fn see(process: &'a Process) -> Self {
        Self {
            process,
            resident_kb: process.resident_kb(),
            counted: process.forget_peak(),
        }
    }

    fn after(self) -> Memory {
        Memory {
            idle: self.resident_kb,
            peak: self.process.peak_kb(),
            anonymous: self.process.anonymous_kb(),
            counted: self.counted,
        }
    }
}

fn alternate(
    hallpass: &Hallpass<'_>,
    peer: &impl Target,
    kinds: &[Kind],
    seconds: u32,
    [ours, theirs]: &mut Pair<Certificates>,
) -> Vec<Row> {
    let each = |kind: &Kind| CONNECTIONS.map(|connections| (*kind, connections));
    kinds
        .iter()
        .flat_map(each)
        .map(|(kind, connections)| {
            let mut our = Stretch::begin(hallpass, kind, connections, ours);
            let mut their = Stretch::begin(peer, kind, connections, theirs);
            // A second each in turn: how fast the machine is changes within a few.
            for _ in 0..seconds {
                our.go_on(1, ours);
                their.go_on(1, theirs);
            }
            Row {
                kind,
                connections,
                cells: [our.end(), their.end()],
            }
        })
        .collect()
}

impl Comparison {
    fn issuing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "kind  connections  {:<10}  per second   p50 ms   p99 ms  server CPU  client CPU  \
             others",
            "by"
        )?;
        for Row {
            kind,
            connections,
            cells: [ours, theirs],
        } in &self.rows
        {
            let kind = kind.name();
            for (by, cell) in [("hallpass", ours), (self.peer.name(), theirs)] {
                writeln!(
                    f,
                    "{kind:<4}  {connections:>11}  {by:<10}  {:>10.1}  {:>7.2}  {:>7.2}  \
                     {:>10.1}  {:>10.1}  {:>5.0}%",
                    cell.per_second,
                    cell.p50_ms,
                    cell.p99_ms,
                    cell.server_cpu_us,
                    cell.client_cpu_us,
                    cell.others * 100.0,
                )?;
            }
            let ratio = |number: fn(&Cell) -> f64| number(theirs) / number(ours);
            writeln!(
                f,
                "{kind:<4}  {connections:>11}  {:<10}  {:>10.2}  {:>7.2}  {:>7.2}  {:>10.2}",
                "ratio",
                ratio(|cell| cell.per_second),
                ratio(|cell| cell.p50_ms),
                ratio(|cell| cell.p99_ms),
                ratio(|cell| cell.server_cpu_us),
            )?;
        }
        Ok(())
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>, memory: &Pair<Memory>) -> fmt::Result {
        writeln!(f, "\nMemory (kB)  when idle     peak  anonymous at the end")?;
        let [ours, theirs] = memory;
        for (by, memory) in [("hallpass", ours), (self.peer.name(), theirs)] {
            let Memory {
                idle,
                peak,
                anonymous,
                counted,
            } = memory;
            let counted = match counted {
                Peak::Load => "",
                Peak::Derivation => "  (peak since the start: the key derivation's)",
            };
            writeln!(
                f,
                "{by:<11}  {idle:>9}  {peak:>7}  {anonymous:>20}{counted}"
            )?;
        }
        let ratio = |number: fn(&Memory) -> u64| number(theirs) as f64 / number(ours) as f64;
        writeln!(
            f,
            "{:<11}  {:>9.2}  {:>7.2}  {:>20.2}",
            "ratio",
            ratio(|memory| memory.idle),
            ratio(|memory| memory.peak),
            ratio(|memory| memory.anonymous),
        )
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.name();
        let cores = cores();
        writeln!(
            f,
            "Hallpass and {peer} in turn (each shares {cores} cores with its clients; CPU in us per \
             certificate;\nratio: how many times Hallpass's number {peer}'s is)"
        )?;
        self.issuing(f)?;
        if let Some(memory) = &self.memory {
            self.memory(f, memory)?;
        }
        if let Some(version) = &self.version {
            writeln!(f, "\n{peer} is {version}")?;
        }
        let [ours, theirs] = self.certificates;
        write!(
            f,
            "\nCertificates: {ours} from Hallpass, all of them and no others in its log; {theirs} from \
             {peer}\n\n{}",
            self.peer.note()
        )
    }
}
