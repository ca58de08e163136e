//! `hallpass key import`

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::authority::{Home, ImportError, Incoming, KeyImport, KeyImported};
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::cli::passphrase;
use crate::cli::serve::open_existing_token;
use crate::keys::{ForeignError, ForeignFile, StoreError, protect_memory};
use crate::model::{KeyKind, Reason};

/// Bring in a CA key that was made elsewhere, while the server is stopped
///
/// From an OpenSSH CA: the Ed25519 private key that `ssh-keygen` made. From an X.509 CA: the ECDSA
/// P-256 private key and its certificate in PEM, as openssl and step-ca have them. The key is sealed
/// on its way in and enters the log as staged; with --activate it signs as soon as the server runs
/// again. Hosts and databases that trust it already need no change.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass key import ssh-user ca_key --home /var/lib/hallpass \\
      --activate --reason 'moving over from ssh-keygen'
  hallpass key import x509-issuing intermediate.key --certificate intermediate.crt \\
      --root root.crt --home /var/lib/hallpass
  hallpass key import x509-issuing <(openssl ec -in old.key) --certificate old.crt")]
pub(in crate::cli) struct Args {
    /// What it signs: ssh-user, ssh-host, x509-issuing or x509-root
    kind: KeyKind,
    /// The private key; a pipe will do as well
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The certificate of an X.509 CA in PEM; it may stand in a chain
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The root's certificate in PEM, when this home does not trust it yet; it comes in without its
    /// private key
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Have it sign at once, without waiting for anybody to confirm it
    #[arg(long, requires = "reason")]
    activate: bool,
    /// Why it is activated; it stands in the log
    #[arg(long, value_name = "TEXT", requires = "activate")]
    reason: Option<Reason>,
    /// A file whose first line is the passphrase of the key that is imported; without it, a prompt
    #[arg(long, value_name = "FILE")]
    key_passphrase_file: Option<PathBuf>,
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

pub(super) fn run(args: Args) -> Result<(), Failure> {
    protect_memory();
    let home = Home::new(&args.home.unwrap_or_else(Home::default_folder));
    check_form(args.kind, args.certificate.is_some(), args.root.is_some())?;
    home.check_idle().map_err(failure)?;
    let config = home.config().map_err(Failure::config)?;
    let file = ForeignFile::read(&args.file).map_err(foreign)?;
    let shown = args.file.display();
    if file.is_exposed {
        // Nobody may be reading.
        writeln!(
            std::io::stderr(),
            "hallpass: warning: others can read {shown}: whoever did can sign with this key"
        )
        .ok();
    }
    let passphrase = if file.is_encrypted(args.kind).map_err(foreign)? {
        let named = args.key_passphrase_file.as_deref();
        Some(passphrase::of_key(named, &args.file)?)
    } else {
        None
    };
    let key = file.key(args.kind, passphrase.as_ref()).map_err(foreign)?;
    let import = KeyImport {
        kind: args.kind,
        key: Incoming::Foreign(key),
        certificate: args.certificate.map(read).transpose()?,
        root: args.root.map(read).transpose()?,
        activate: args.reason,
    };
    let opener = passphrase::existing(&args.keys, home.folder())?;
    let token = open_existing_token(config.token, &args.pin)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Failure::internal(error.to_string()))?;
    let imported = runtime
        .block_on(home.import_key(&opener, token, &import))
        .map_err(failure)?;
    warn(&imported);
    if args.json {
        return print_json(&imported);
    }
    let kept = args.file.is_file().then_some(args.file.as_path());
    tell("Imported", &imported, kept)
}

/// What can't be right, before anything is read.
fn check_form(kind: KeyKind, certificate: bool, root: bool) -> Result<(), Failure> {
    let x509 = match kind {
        KeyKind::X509Root | KeyKind::X509Issuing => true,
        KeyKind::SshUser | KeyKind::SshHost => false,
        KeyKind::Log | KeyKind::Witness => return Err(failure(ImportError::Kind(kind))),
    };
    if x509 && !certificate {
        return Err(failure(ImportError::NoCertificate));
    }
    if !x509 && certificate {
        return Err(Failure::data(format!("{kind} has no certificate")));
    }
    if kind != KeyKind::X509Issuing && root {
        return Err(Failure::data(format!("--root does not go with {kind}")));
    }
    Ok(())
}

/// A file of certificates.
pub(super) fn read(path: PathBuf) -> Result<(PathBuf, String), Failure> {
    const LONGEST: u64 = 1 << 20;
    let name = path.display().to_string();
    let no_input = |error| Failure::no_input(format!("{name}: {error}"));
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(no_input)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Failure::data(format!(
            "{name} is longer than 1 MiB: give the CA's certificate alone"
        )));
    }
    // What is no text holds no PEM, and is told so.
    Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Says what will not work with a key, also where only programs read the rest.
pub(super) fn warn(imported: &KeyImported) {
    if imported.no_lists {
        let key = imported.key;
        // Nobody may be reading.
        writeln!(
            std::io::stderr(),
            "hallpass: warning: the certificate of {key} lacks the key usage cRLSign: `hallpass key \
             crl` will not work while it is trusted"
        )
        .ok();
    }
}

/// What came in, and what comes next; `unsealed` is a file that still has the key.
pub(super) fn tell(
    how: &str,
    imported: &KeyImported,
    unsealed: Option<&Path>,
) -> Result<(), Failure> {
    let KeyImported {
        key,
        fingerprint,
        state,
        ..
    } = imported;
    let mut text = format!("{how} as {key}, {state}: {fingerprint}\n");
    if let Some(root) = imported.root {
        text += &format!("Its root is {root} here, without its private key.\n");
    }
    if let Some(issuing) = imported.issuing {
        text += &format!("{issuing} was made under it, and signs.\n");
    }
    if imported.connect_anew {
        text += "Clients of this CA have to run `hallpass connect` again.\n";
    }
    text += "\nNext:\n  1. Start the server.\n";
    if *state == crate::model::KeyState::Staged {
        let first = imported.root.unwrap_or(*key);
        text += &format!("  2. Have it sign:  hallpass key activate {first}\n");
    }
    if let Some(file) = unsealed {
        let file = file.display();
        text += &format!(
            "\n{file} still has the key unsealed: back the home up, then remove the file and its \
             copies.\n"
        );
    }
    print(text)
}

fn foreign(error: ForeignError) -> Failure {
    match error {
        ForeignError::Unreadable { .. } => Failure::no_input(error),
        _ => Failure::data(error),
    }
}

pub(super) fn failure(error: ImportError) -> Failure {
    match error {
        ImportError::Kind(_)
        | ImportError::NotIssued(_)
        | ImportError::NoCertificate
        | ImportError::Certificate { .. }
        | ImportError::Known { .. }
        | ImportError::Keys(StoreError::NoRequest { .. })
        | ImportError::NoStep(_) => Failure::data(error),
        ImportError::Log(_) => Failure::unavailable(error),
        _ => Failure::config(error),
    }
}
