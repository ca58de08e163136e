//! Where `init` and `serve`, also a witness's, get the passphrase and the PIN from. Never from an
//! argument.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::keys::{Passphrase, Pin};

/// The file that systemd's `LoadCredential=hallpass-passphrase:...` makes.
const CREDENTIAL: &str = "hallpass-passphrase";
/// The one that `LoadCredential=hallpass-pin:...` makes.
const PIN_CREDENTIAL: &str = "hallpass-pin";

#[derive(clap::Args)]
pub(super) struct Source {
    /// A file whose first line is the passphrase, readable by its owner alone; without it, the
    /// systemd credential hallpass-passphrase, or a prompt
    #[arg(long, env = "HALLPASS_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(super) struct PinSource {
    /// A file whose first line is the PIN of the PKCS#11 token, readable by its owner alone; without
    /// it, the systemd credential hallpass-pin, or a prompt
    #[arg(long, env = "HALLPASS_PIN_FILE", value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

/// The passphrase of a home that exists.
pub(super) fn existing(source: &Source, home: &Path) -> Result<Passphrase, Failure> {
    if let Some(path) = file(source.passphrase_file.as_ref(), CREDENTIAL) {
        return Passphrase::from_file(&path).map_err(Failure::config);
    }
    let text = prompt(
        &format!("Passphrase of {}: ", home.display()),
        NO_PASSPHRASE,
    )?;
    Passphrase::new(text).map_err(Failure::config)
}

/// A passphrase for a new home, asked for twice.
pub(super) fn new(source: &Source) -> Result<Passphrase, Failure> {
    if let Some(path) = file(source.passphrase_file.as_ref(), CREDENTIAL) {
        return Passphrase::from_file(&path).map_err(Failure::config);
    }
    let first = prompt("New passphrase for the keys: ", NO_PASSPHRASE)?;
    if first.chars().count() < Passphrase::SHORTEST {
        return Passphrase::new(first).map_err(Failure::config);
    }
    if *first != *prompt("The same again: ", NO_PASSPHRASE)? {
        return Err(Failure::config("the two passphrases differ: try again"));
    }
    Passphrase::new(first).map_err(Failure::config)
}

/// The PIN of a token.
pub(super) fn pin(source: &PinSource, token: &str) -> Result<Pin, Failure> {
    if let Some(path) = file(source.pin_file.as_ref(), PIN_CREDENTIAL) {
        return Pin::from_file(&path).map_err(Failure::config);
    }
    let text = prompt(&format!("PIN of the token {token}: "), NO_PIN)?;
    Pin::new(&text).map_err(Failure::config)
}

/// The file that was named, or the systemd credential.
fn file(named: Option<&PathBuf>, credential: &str) -> Option<PathBuf> {
    named.cloned().or_else(|| {
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
        Some(Path::new(&folder).join(credential)).filter(|path| path.exists())
    })
}

const NO_PASSPHRASE: &str =
    "there is no terminal to ask for the passphrase: give --passphrase-file FILE";
const NO_PIN: &str = "there is no terminal to ask for the token's PIN: give --pin-file FILE";

fn prompt(question: &str, no_terminal: &str) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::config(no_terminal));
    }
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|error| Failure::config(format!("can't read what was typed: {error}")))
}
