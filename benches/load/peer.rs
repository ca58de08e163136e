//! Another issuer beside Hallpass: the same stretches, each right after that of the other.

use std::env;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::CONNECTIONS;
use crate::client::Hallpass;
use crate::home::Home;
use crate::keygen::Keygen;
use crate::stretch::{self, Cell, Certificates, cores};
use crate::target::{Kind, Target};

/// Who can be set beside Hallpass.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Peer {
    SshKeygen,
}

/// Hallpass's number before that of the peer.
type Pair<T> = [T; 2];

/// What was measured, as a table.
pub(crate) struct Comparison {
    peer: Peer,
    rows: Vec<Row>,
    certificates: Pair<usize>,
}

struct Row {
    kind: Kind,
    connections: usize,
    cells: Pair<Cell>,
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
    pub(crate) fn measure(self, program: PathBuf, seconds: u32) -> Comparison {
        let home = Home::new();
        let server = home.start();
        let signer = home.enrol(&server);
        let hallpass = Hallpass {
            server: &server,
            signer: &signer,
        };
        let mut certificates = [Certificates::default(), Certificates::default()];
        let rows = match self {
            Self::SshKeygen => {
                let keygen = Keygen::new(program, &home);
                alternate(&hallpass, &keygen, &[Kind::Ssh], seconds, &mut certificates)
            }
        };
        server.stop();
        certificates[0].check(&home.issued());
        Comparison {
            peer: self,
            rows,
            certificates: certificates.map(|certificates| certificates.len()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::SshKeygen => "ssh-keygen",
        }
    }

    /// How to get it.
    fn origin(self) -> &'static str {
        match self {
            Self::SshKeygen => "install OpenSSH's client",
        }
    }

    /// What to know about its numbers.
    fn note(self) -> &'static str {
        match self {
            Self::SshKeygen => {
                "ssh-keygen is the hand tool: a process for each certificate, with no proof of \
                 possession, no\npolicy, no network and no log. Its CPU is that of the processes, \
                 without what starting them\ncosts the one that starts them, which is under client CPU."
            }
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
        .map(|(kind, connections)| Row {
            kind,
            connections,
            cells: [
                stretch::run(hallpass, kind, connections, seconds, ours),
                stretch::run(peer, kind, connections, seconds, theirs),
            ],
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
        let [ours, theirs] = self.certificates;
        write!(
            f,
            "\nCertificates: {ours} from Hallpass, all of them and no others in its log; {theirs} from \
             {peer}\n\n{}",
            self.peer.note()
        )
    }
}
