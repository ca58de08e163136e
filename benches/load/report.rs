//! What was measured, as tables for people and as JSON for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::CONNECTIONS;
use crate::floor::{Floor, Parts};
use crate::policy::{Decision, PEOPLE, POLICIES};
use crate::process::Peak;
use crate::server::Start;
use crate::stretch::{Cell, cores};

pub(crate) struct Report {
    /// One for each number of connections.
    pub(crate) ssh: [Cell; 3],
    pub(crate) x509: [Cell; 3],
    pub(crate) floor: Floor,
    pub(crate) decision: Decision,
    pub(crate) memory: Memory,
    /// On a fresh home.
    pub(crate) start: Start,
    /// On the log of this run.
    pub(crate) full: Start,
    /// How many certificates were received and found in the log.
    pub(crate) certificates: usize,
    /// Whether the CA keys were in a token.
    pub(crate) token: bool,
}

pub(crate) struct Memory {
    pub(crate) idle_kb: u64,
    pub(crate) peak_kb: u64,
    pub(crate) peak: Peak,
}

impl Report {
    /// The same for programs; docs/performance.md has the meaning of each number.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(&Json {
            ssh: Cells::new(&self.ssh),
            x509: Cells::new(&self.x509),
            floor: JsonFloor {
                ssh_us: rounded(self.floor.ssh.least()),
                x509_us: rounded(self.floor.x509.least()),
            },
            decision_us: rounded(self.decision.next),
            peak_rss_kb: self.memory.peak_kb,
            start_ms: rounded(millis(self.start.after)),
            token: self.token,
        })
        .expect("numbers")
    }

    fn rows(&self) -> [(&'static str, &[Cell; 3], &Parts); 2] {
        [
            ("ssh", &self.ssh, &self.floor.ssh),
            ("x509", &self.x509, &self.floor.x509),
        ]
    }

    fn issuing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = cores();
        writeln!(
            f,
            "Issuing (server and clients share {cores} cores; CPU and floor in us per certificate)"
        )?;
        writeln!(
            f,
            "kind  connections  per second   p50 ms   p99 ms  server CPU    floor  ratio  \
             client CPU  others"
        )?;
        for (kind, cells, parts) in self.rows() {
            for ((cell, connections), floor) in cells.iter().zip(CONNECTIONS).zip(parts.sums()) {
                writeln!(
                    f,
                    "{kind:<4}  {connections:>11}  {:>10.1}  {:>7.2}  {:>7.2}  {:>10.1}  \
                     {floor:>7.1}  {:>5.2}  {:>10.1}  {:>5.0}%",
                    cell.per_second,
                    cell.p50_ms,
                    cell.p99_ms,
                    cell.server_cpu_us,
                    cell.server_cpu_us / floor,
                    cell.client_cpu_us,
                    cell.others * 100.0,
                )?;
            }
        }
        Ok(())
    }

    fn floor(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Floor (CPU us per certificate, one at a time, in process)"
        )?;
        let commits: String = CONNECTIONS
            .iter()
            .map(|together| format!("  {:>11}", format!("commit of {together}")))
            .collect();
        writeln!(
            f,
            "kind  {:>7}  {:>7}  {:>7}  {:>7}{commits}",
            "tls", "verify", "decide", "sign"
        )?;
        for (kind, _, parts) in self.rows() {
            let commits: String = parts
                .commit
                .iter()
                .map(|commit| format!("  {commit:>11.1}"))
                .collect();
            writeln!(
                f,
                "{kind:<4}  {:>7.1}  {:>7.1}  {:>7.1}  {:>7.1}{commits}",
                parts.tls, parts.verify, parts.decide, parts.sign
            )?;
        }
        writeln!(
            f,
            "A commit of 1 takes {:.2} ms in all: the rest is the disk.",
            millis(self.floor.commit)
        )
    }

    fn starts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Start (ms; ready counts from the end of the key derivation, and excludes the columns \
             to its left)\n{:<28}  program, policies, log  key derivation  ready",
            "on"
        )?;
        for (log, start) in [
            ("an empty log".to_owned(), self.start),
            (
                format!("a log of {} certificates", self.certificates),
                self.full,
            ),
        ] {
            writeln!(
                f,
                "{log:<28}  {:>22.1}  {:>14.0}  {:>5.1}",
                millis(start.before),
                millis(start.derivation),
                millis(start.after),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.token {
            writeln!(f, "CA keys in a PKCS#11 token (SoftHSM)\n")?;
        }
        self.issuing(f)?;
        writeln!(f)?;
        self.floor(f)?;
        let Decision { first, next } = self.decision;
        writeln!(
            f,
            "\nA decision among {POLICIES} policies, asked by {PEOPLE} people: {next:.1} us of CPU, \
             each one's first {first:.1} us"
        )?;
        let Memory {
            idle_kb,
            peak_kb,
            peak,
        } = self.memory;
        let peak = match peak {
            Peak::Load => "peak under load",
            Peak::Derivation => "peak, the passphrase's key derivation included,",
        };
        writeln!(f, "\nMemory: {idle_kb} kB when idle, {peak} {peak_kb} kB")?;
        writeln!(f)?;
        self.starts(f)?;
        let certificates = self.certificates;
        write!(
            f,
            "\nLog: {certificates} certificates received, and these are the ones in the log"
        )
    }
}

#[derive(Serialize)]
struct Json {
    ssh: Cells,
    x509: Cells,
    floor: JsonFloor,
    decision_us: f64,
    peak_rss_kb: u64,
    start_ms: f64,
    /// Only there when CA keys were in a token.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    token: bool,
}

/// By the number of connections.
#[derive(Serialize)]
struct Cells {
    #[serde(rename = "1")]
    one: JsonCell,
    #[serde(rename = "8")]
    eight: JsonCell,
    #[serde(rename = "32")]
    many: JsonCell,
}

impl Cells {
    fn new(cells: &[Cell; 3]) -> Self {
        let [one, eight, many] = cells.each_ref().map(|cell| JsonCell {
            per_second: rounded(cell.per_second),
            p50_ms: rounded(cell.p50_ms),
            p99_ms: rounded(cell.p99_ms),
            server_cpu_us: rounded(cell.server_cpu_us),
        });
        Self { one, eight, many }
    }
}

#[derive(Serialize)]
struct JsonCell {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    server_cpu_us: f64,
}

#[derive(Serialize)]
struct JsonFloor {
    ssh_us: f64,
    x509_us: f64,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// To a thousandth: more would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
