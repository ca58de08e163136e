//! `hallpass trust`

use super::ClientArgs;
use super::failure::Failure;
use super::output::{clean, print};

/// Print what hosts and databases must trust
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass trust ssh-user > /etc/ssh/hallpass_user_ca.pub    (sshd: TrustedUserCAKeys)
  hallpass trust ssh-host >> ~/.ssh/known_hosts
  hallpass trust x509 > root.crt                             (PostgreSQL: ssl_ca_file)")]
pub(super) struct Args {
    /// What to print
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The keys that sign users' SSH certificates, for sshd's TrustedUserCAKeys
    SshUser,
    /// The keys that sign hosts' SSH certificates, as lines for known_hosts
    SshHost,
    /// The root certificates in PEM, for ssl_ca_file and sslrootcert
    X509,
    /// Revoked keys that signed users' SSH certificates, for sshd's RevokedKeys
    SshRevoked,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (_, api) = args.client.open()?;
    let trust = api.trust()?;
    let lines: Vec<String> = match args.what {
        What::SshUser => trust.ssh_user,
        What::SshHost => trust
            .ssh_host
            .iter()
            .map(|key| format!("@cert-authority * {key}"))
            .collect(),
        What::X509 => trust
            .x509
            .iter()
            .flat_map(|pem| pem.lines())
            .map(str::to_owned)
            .collect(),
        What::SshRevoked => trust.ssh_revoked,
    };
    print(
        lines
            .iter()
            .map(|line| format!("{}\n", clean(line.trim_end())))
            .collect::<String>(),
    )
}
