//! `hallpass host-cert`

use std::fs;
use std::path::{Path, PathBuf};

use super::ClientArgs;
use super::failure::Failure;
use super::output::{Facts, both, print, print_json};
use crate::client::{History, write_public};
use crate::model::{CertificateAnswer, HostCertificateRequest, HostName, HostTtl};

/// Certify hosts' SSH keys and databases' TLS keys
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Ssh(Ssh),
    Tls(Tls),
}

/// Certify a host's SSH key
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass host-cert ssh ssh_host_ed25519_key.pub --name app-1 --name app-1.example.org")]
pub(super) struct Ssh {
    /// The host's public key; the certificate is put beside it as FILE-cert.pub
    #[arg(value_name = "FILE.pub")]
    file: PathBuf,
    #[command(flatten)]
    host: Host,
}

/// Certify a TLS server's key, such as a database's
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / \\
      -keyout server.key -out server.csr
  hallpass host-cert tls server.csr --name db-1.example.org")]
pub(super) struct Tls {
    /// A PKCS#10 request in PEM; certificate and chain are put beside it as .crt
    #[arg(value_name = "CSR")]
    file: PathBuf,
    #[command(flatten)]
    host: Host,
}

#[derive(clap::Args)]
struct Host {
    /// A name or address that clients reach it by
    #[arg(long = "name", value_name = "HOST", required = true)]
    names: Vec<HostName>,
    /// How long the certificate shall live, up to 90d; 30d if left out
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    ttl: Option<HostTtl>,
    /// Where to put the certificate
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Ssh(Ssh { file, host }) => {
            let usual = beside(&file, "pub", "-cert.pub");
            certify("/v1/host-certificates/ssh", &file, usual, host)
        }
        Command::Tls(Tls { file, host }) => {
            let usual = file.with_extension("crt");
            certify("/v1/host-certificates/tls", &file, usual, host)
        }
    }
}

/// `path` with `ending` in place of its extension, when that is the one expected, else after it.
fn beside(path: &Path, extension: &str, ending: &str) -> PathBuf {
    let stem = if path.extension().is_some_and(|found| found == extension) {
        path.with_extension("")
    } else {
        path.to_owned()
    };
    let mut name = stem.into_os_string();
    name.push(ending);
    name.into()
}

fn certify(target: &str, file: &Path, usual: PathBuf, host: Host) -> Result<(), Failure> {
    let subject = fs::read_to_string(file)
        .map_err(|error| Failure::no_input(format!("{}: {error}", file.display())))?;
    if subject.contains("PRIVATE KEY") {
        let file = file.display();
        return Err(Failure::data(format!(
            "{file}: this is a private key, which stays where it is: give the .pub file or the \
             certificate request"
        )));
    }
    let out = host.out.unwrap_or(usual);
    check_replaceable(&out)?;
    let (folder, api) = host.client.open()?;
    let body = HostCertificateRequest {
        subject,
        names: host.names,
        ttl: host.ttl,
    };
    let answer: CertificateAnswer = api.post(target, &body)?;
    History::new(&folder, &api).check_receipt(&answer)?;
    write_public(
        &out,
        format!("{}\n", answer.certificate.trim_end()).as_bytes(),
    )?;
    if host.json {
        return print_json(&serde_json::json!({
            "entry": answer.entry,
            "serial": answer.serial,
            "valid_after": answer.valid_after,
            "valid_before": answer.valid_before,
            "good_for": answer.good_for,
            "certificate": out,
        }));
    }
    let mut facts = Facts::new();
    facts.add("good for", answer.good_for.join(", "));
    facts.add("ends", both(answer.valid_before));
    facts.add("entry", answer.entry);
    facts.add("serial", answer.serial);
    facts.add("certificate", out.display());
    print(facts.to_string())
}

/// Only an older certificate may be replaced: a typo must not cost a key.
fn check_replaceable(path: &Path) -> Result<(), Failure> {
    let is_certificate = |text: &str| {
        let ssh = text
            .split(' ')
            .next()
            .is_some_and(|kind| kind.contains("-cert-v01@"));
        ssh || text.trim_start().starts_with("-----BEGIN CERTIFICATE-----")
    };
    match fs::read_to_string(path) {
        Ok(text) if is_certificate(&text) && !text.contains("PRIVATE KEY") => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(Failure::output(format!(
            "{} exists and is no certificate: name another file with --out",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_go_where_ssh_looks_for_them() {
        for (file, certificate) in [
            (
                "/etc/ssh/ssh_host_ed25519_key.pub",
                "/etc/ssh/ssh_host_ed25519_key-cert.pub",
            ),
            ("key", "key-cert.pub"),
            ("a.b.pub", "a.b-cert.pub"),
        ] {
            assert_eq!(
                beside(Path::new(file), "pub", "-cert.pub"),
                Path::new(certificate)
            );
        }
    }
}
