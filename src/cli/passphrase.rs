//! Where `init` and `serve`, also a witness's, get the passphrase from. Never from an argument.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::keys::Passphrase;

/// The file that systemd's `LoadCredential=hallpass-passphrase:...` makes.
const CREDENTIAL: &str = "hallpass-passphrase";

#[derive(clap::Args)]
pub(super) struct Source {
    /// A file whose first line is the passphrase, readable by its owner alone; without it, the
    /// systemd credential hallpass-passphrase, or a prompt
    #[arg(long, env = "HALLPASS_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// The passphrase of a home that exists.
pub(super) fn existing(source: &Source, home: &Path) -> Result<Passphrase, Failure> {
    if let Some(path) = file(source) {
        return Passphrase::from_file(&path).map_err(Failure::config);
    }
    let text = prompt(&format!("Passphrase of {}: ", home.display()))?;
    Passphrase::new(text).map_err(Failure::config)
}

/// A passphrase for a new home, asked for twice.
pub(super) fn new(source: &Source) -> Result<Passphrase, Failure> {
    if let Some(path) = file(source) {
        return Passphrase::from_file(&path).map_err(Failure::config);
    }
    let first = prompt("New passphrase for the keys: ")?;
    if first.chars().count() < Passphrase::SHORTEST {
        return Passphrase::new(first).map_err(Failure::config);
    }
    if *first != *prompt("The same again: ")? {
        return Err(Failure::config("the two passphrases differ: try again"));
    }
    Passphrase::new(first).map_err(Failure::config)
}

fn file(source: &Source) -> Option<PathBuf> {
    source.passphrase_file.clone().or_else(|| {
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
        Some(Path::new(&folder).join(CREDENTIAL)).filter(|path| path.exists())
    })
}

fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::config(
            "there is no terminal to ask for the passphrase: give --passphrase-file FILE",
        ));
    }
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|error| Failure::config(format!("can't read the passphrase: {error}")))
}
