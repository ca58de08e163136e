//! `hallpass key csr` and `hallpass key install`

use std::path::PathBuf;

use super::import::{failure, read, tell, warn};
use crate::authority::{Home, ImportError, KeyInstall};
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::cli::passphrase;
use crate::cli::serve::open_existing_token;
use crate::client::write_public;
use crate::keys::protect_memory;
use crate::model::{KeyKind, Reason};

/// Request the certificate of a new issuing CA from a root on another machine
///
/// Makes the key, sealed or in the token as the last one, and prints its request (PKCS#10). Nothing
/// trusts the key before its certificate is installed. While a request waits, it is printed again.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass key csr x509-issuing --out issuing.csr
  openssl x509 -req -in issuing.csr ...           (where the root's key is: docs/rotation.md)
  hallpass key install x509-issuing issuing.crt --root root.crt")]
pub(in crate::cli) struct Csr {
    /// What it will sign: x509-issuing
    kind: KeyKind,
    /// The file; printed when left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Give up a request that waits, and make a new key
    #[arg(long)]
    anew: bool,
    /// The home
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(flatten)]
    keys: passphrase::OpenSource,
    #[command(flatten)]
    pin: passphrase::PinSource,
}

/// Install the certificate that a request was answered with, while the server is stopped
///
/// It must belong to the key that waits, be a CA's, and stand under a root that is trusted or given
/// here. It enters the log as staged; with --activate it signs as soon as the server runs again.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  hallpass key install x509-issuing issuing.crt --root root.crt")]
pub(in crate::cli) struct Install {
    /// What it will sign: x509-issuing
    kind: KeyKind,
    /// The certificate in PEM; it may stand in a chain
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The root's certificate in PEM, when this home does not trust it yet
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Have it sign at once, without waiting for anybody to confirm it
    #[arg(long, requires = "reason")]
    activate: bool,
    /// Why it is activated; it stands in the log
    #[arg(long, value_name = "TEXT", requires = "activate")]
    reason: Option<Reason>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The home
    #[arg(long, env = "HALLPASS_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(flatten)]
    keys: passphrase::OpenSource,
    #[command(flatten)]
    pin: passphrase::PinSource,
}

pub(super) fn csr(args: Csr) -> Result<(), Failure> {
    protect_memory();
    check(args.kind)?;
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    let waiting = home.waiting_request().map_err(failure)?;
    let request = match waiting.filter(|_| !args.anew) {
        Some(request) => request,
        None => {
            let config = home.config().map_err(Failure::config)?;
            let opener = passphrase::existing(&args.keys, home.folder())?;
            let token = open_existing_token(config.token, &args.pin)?;
            home.request_issuing(&opener, token).map_err(failure)?
        }
    };
    match &args.out {
        Some(path) => Ok(write_public(path, request.as_bytes())?),
        None => print(request),
    }
}

pub(super) fn install(args: Install) -> Result<(), Failure> {
    protect_memory();
    check(args.kind)?;
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    home.check_idle().map_err(failure)?;
    let config = home.config().map_err(Failure::config)?;
    let install = KeyInstall {
        certificate: read(args.file)?,
        root: args.root.map(read).transpose()?,
        activate: args.reason,
    };
    let opener = passphrase::existing(&args.keys, home.folder())?;
    let token = open_existing_token(config.token, &args.pin)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Failure::internal(error.to_string()))?;
    let installed = runtime
        .block_on(home.install_issuing(&opener, token, install))
        .map_err(failure)?;
    warn(&installed);
    if args.json {
        return print_json(&installed);
    }
    tell("Installed", &installed, None)
}

/// Only an issuing CA has somebody above it.
fn check(kind: KeyKind) -> Result<(), Failure> {
    match kind {
        KeyKind::X509Issuing => Ok(()),
        kind => Err(failure(ImportError::NotIssued(kind))),
    }
}
