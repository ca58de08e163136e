//! The load generator behind scripts/bench: starts a real server, has it issue certificates over
//! TLS, and sets what that costs beside the least that the same work can cost. What fails, fails
//! all of it. docs/performance.md says how to read the numbers.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

mod client;
mod connection;
mod floor;
mod grow;
mod home;
mod keygen;
mod peer;
mod policy;
mod process;
mod records;
mod report;
mod server;
mod step_ca;
mod stretch;
mod target;
mod token;

use clap::Parser;

use client::Hallpass;
use home::Home;
use peer::Peer;
use report::{Memory, Report};
use server::Start;
use stretch::Certificates;
use target::Kind;

/// How many ask at a time. The floor is measured for commits of as many.
const CONNECTIONS: [usize; 3] = [1, 8, 32];
/// How often the start is measured.
const STARTS: usize = 5;

#[derive(clap::Parser)]
struct Options {
    /// Print one JSON object on standard output, and the tables on standard error
    #[arg(long)]
    json: bool,
    /// How long each stretch takes, of six, or of twice as many with a peer
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// Measure a log that grows to this many entries instead
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    grow: Option<u64>,
    /// Set another issuer beside Hallpass instead
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["json", "grow"])]
    peer: Option<Peer>,
    /// Keep the CA keys in a PKCS#11 token (SoftHSM) instead of files
    #[arg(long, conflicts_with_all = ["grow", "peer"])]
    token: bool,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    if let Some(largest) = options.grow {
        println!("{}", grow::measure(largest, options.seconds));
        return;
    }
    if let Some(peer) = options.peer {
        let program = peer.program().unwrap_or_else(|missing| {
            eprintln!("error: {missing}");
            std::process::exit(2)
        });
        println!("{}", peer.measure(&program, options.seconds));
        return;
    }
    let report = measure(options.seconds, options.token);
    if options.json {
        eprintln!("\n{report}");
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
}

fn measure(seconds: u32, token: bool) -> Report {
    let home = if token {
        Home::with_token()
    } else {
        Home::new()
    };
    let mut starts: Vec<Start> = (1..STARTS).map(|_| home.start().stop()).collect();
    let server = home.start();
    let idle_kb = server.process.resident_kb();
    let peak = server.process.forget_peak();
    starts.push(server.start);

    let on_call = home.enrol(&server);
    let hallpass = Hallpass {
        server: &server,
        signer: &on_call,
    };
    let mut certificates = Certificates::default();
    let mut issue = |kind| {
        CONNECTIONS.map(|connections| {
            stretch::run(&hallpass, kind, connections, seconds, &mut certificates)
        })
    };
    let [ssh, x509] = [Kind::Ssh, Kind::X509].map(&mut issue);
    let memory = Memory {
        idle_kb,
        peak_kb: server.process.peak_kb(),
        peak,
    };
    server.stop();

    eprintln!("looking for {} certificates in the log", certificates.len());
    let log = home.issued();
    certificates.check(&log);
    let full = home.start().stop();
    eprintln!("measuring the floor");
    let answers = [&ssh, &x509].map(|cells: &[stretch::Cell; 3]| cells[2].answer_bytes);
    let floor = floor::measure(&home, &on_call, &log, answers, CONNECTIONS);
    let decision = policy::measure();
    Report {
        ssh,
        x509,
        floor,
        decision,
        memory,
        start: Start::median(starts),
        full,
        certificates: certificates.len(),
        token,
    }
}
