//! `hallpass connect`

use std::path::PathBuf;

use super::failure::Failure;
use super::output::{Facts, print};
use crate::client::{self, Pin, ServerUrl};

/// Connect this account to a CA
///
/// Takes the CA for real only when its root certificate has the given fingerprint, and keeps that
/// certificate for all later runs.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass connect https://ca.example.org:8443 --fingerprint SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRk\
m5NMpJWZG3hSuFU")]
pub(super) struct Args {
    /// Where the CA answers: https://HOST:PORT
    url: ServerUrl,
    /// The fingerprint of the CA's root certificate, from its administrator
    #[arg(long, value_name = "SHA256:...")]
    fingerprint: Pin,
    /// The SSH key to sign requests with: a private key, or a .pub file whose private key is in
    /// the agent. Left out: the agent's first key, else ~/.ssh/id_ed25519, id_ecdsa or id_rsa
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let connected = client::connect(args.url.clone(), args.fingerprint, args.ssh_key.as_deref())?;
    let mut facts = Facts::new();
    let next = match &connected.key {
        Some(key) => {
            facts.add("signs with", key.path().display());
            facts.add("", key.fingerprint());
            "hallpass whoami; hallpass role list"
        }
        None if connected.ways.providers.is_empty() => "hallpass workload login",
        None => "hallpass login",
    };
    facts.add("kept in", connected.folder.path().display());
    facts.add("known hosts", connected.folder.known_hosts().display());
    print(format!(
        "Connected to {}.\n\n{facts}\nNext: {next}\n",
        args.url
    ))
}
