//! Where commands get the passphrase and the PIN from, or what else opens the keys. Never from an
//! argument.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::clean;
use crate::keys::{AgeIdentity, Opener, Passphrase, Pin, Way, first_line, ways};

/// The file that systemd's `LoadCredential=hallpass-passphrase:...` makes.
const CREDENTIAL: &str = "hallpass-passphrase";
/// The one for an age identity file.
const IDENTITY_CREDENTIAL: &str = "hallpass-age-identity";
/// The one for the PIN of a token.
const PIN_CREDENTIAL: &str = "hallpass-pin";

#[derive(clap::Args)]
pub(super) struct Source {
    /// A file whose first line is the passphrase, readable by its owner alone; without it, the
    /// systemd credential hallpass-passphrase, or a prompt
    #[arg(long, env = "HALLPASS_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// What opens the keys of a home that exists.
#[derive(clap::Args)]
pub(super) struct OpenSource {
    #[command(flatten)]
    passphrase: Source,
    /// Open the keys with this file of age identities instead of the passphrase, when `hallpass key
    /// reseal --add-identity` added its recipient; also the systemd credential hallpass-age-identity
    #[arg(long, env = "HALLPASS_AGE_IDENTITY", value_name = "FILE")]
    age_identity: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(super) struct PinSource {
    /// A file whose first line is the PIN of the PKCS#11 token, readable by its owner alone; without
    /// it, the systemd credential hallpass-pin, or a prompt
    #[arg(long, env = "HALLPASS_PIN_FILE", value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

/// What opens a home that exists. What was named comes before what systemd hands over.
pub(super) fn existing(source: &OpenSource, home: &Path) -> Result<Opener, Failure> {
    let identity = |path: &Path| {
        AgeIdentity::from_file(path, Console)
            .map(Opener::Identity)
            .map_err(Failure::config)
    };
    let named = &source.passphrase.passphrase_file;
    if let Some(path) = &source.age_identity {
        return identity(path);
    }
    if named.is_none()
        && let Some(path) = credential(IDENTITY_CREDENTIAL)
    {
        return identity(&path);
    }
    if let Some(path) = file(named.as_ref(), CREDENTIAL) {
        let passphrase = Passphrase::from_file(&path);
        return passphrase.map(Opener::Passphrase).map_err(Failure::config);
    }
    let ways = ways(&home.join("keys")).unwrap_or_default();
    if !ways.is_empty() && !ways.contains(&Way::Passphrase) {
        return Err(Failure::config(format!(
            "no passphrase opens {}: give --age-identity FILE",
            home.display()
        )));
    }
    let text = prompt(&format!("Passphrase of {}: ", home.display()))?;
    let passphrase = Passphrase::new(text);
    passphrase.map(Opener::Passphrase).map_err(Failure::config)
}

/// A passphrase for a new home, asked for twice.
pub(super) fn new(source: &Source) -> Result<Passphrase, Failure> {
    new_in(file(source.passphrase_file.as_ref(), CREDENTIAL).as_deref())
}

/// A new passphrase, out of a file or asked for twice.
pub(super) fn new_in(file: Option<&Path>) -> Result<Passphrase, Failure> {
    if let Some(path) = file {
        return Passphrase::from_file(path).map_err(Failure::config);
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

/// The PIN of a token.
pub(super) fn pin(source: &PinSource, token: &str) -> Result<Pin, Failure> {
    if let Some(path) = file(source.pin_file.as_ref(), PIN_CREDENTIAL) {
        return Pin::from_file(&path).map_err(Failure::config);
    }
    let text = ask(
        &format!("PIN of the token {token}: "),
        "there is no terminal to ask for the token's PIN: give --pin-file FILE",
    )?;
    Pin::new(&text).map_err(Failure::config)
}

/// The file that was named, or the systemd credential.
fn file(named: Option<&PathBuf>, name: &str) -> Option<PathBuf> {
    named.cloned().or_else(|| credential(name))
}

fn credential(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(Path::new(&folder).join(name)).filter(|path| path.exists())
}

/// The passphrase of a private key that was made elsewhere, which may be short.
pub(super) fn of_key(file: Option<&Path>, key: &Path) -> Result<Zeroizing<String>, Failure> {
    match file {
        Some(path) => first_line(path).map_err(Failure::config),
        None => ask(
            &format!("Passphrase of {}: ", key.display()),
            "there is no terminal to ask for the key's own passphrase: give \
             --key-passphrase-file FILE",
        ),
    }
}

fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    ask(
        question,
        "there is no terminal to ask for the passphrase: give --passphrase-file FILE",
    )
}

fn ask(question: &str, otherwise: &str) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::config(otherwise));
    }
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|error| Failure::config(format!("can't read what was typed: {error}")))
}

/// How an age plugin talks to who runs the command.
#[derive(Clone, Copy)]
pub(super) struct Console;

impl age::Callbacks for Console {
    fn display_message(&self, message: &str) {
        // Nobody may be reading.
        writeln!(std::io::stderr(), "{}", clean(message)).ok();
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let no = no.unwrap_or("no");
        let answer = self.request_public_string(&format!("{message} ({yes} or {no})"))?;
        Some(answer == yes)
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        self.display_message(description);
        std::io::stdin().lock().lines().next()?.ok()
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        let answer = prompt(&format!("{}: ", clean(description))).ok()?;
        Some(SecretString::from(answer.as_str()))
    }
}
