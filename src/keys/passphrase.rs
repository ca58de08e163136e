use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// What opens the CA keys. Zeroized when dropped; it has no `Debug` that shows it.
pub struct Passphrase(SecretString);

impl Passphrase {
    /// The shortest that is taken, in characters.
    pub const SHORTEST: usize = 12;

    /// From text, checked for its length.
    ///
    /// # Errors
    /// When it is shorter than [`Self::SHORTEST`] characters.
    pub fn new(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        if text.chars().count() < Self::SHORTEST {
            return Err(PassphraseError::TooShort);
        }
        Ok(Self(SecretString::from(text.as_str())))
    }

    /// From the first line of a file.
    ///
    /// # Errors
    /// When the file can't be read, others than its owner can read it, or the line is too short.
    pub fn from_file(path: &Path) -> Result<Self, PassphraseError> {
        Self::new(first_line(path)?)
    }

    pub(super) fn secret(&self) -> SecretString {
        SecretString::from(self.0.expose_secret())
    }
}

/// The first line of a file that holds a secret.
///
/// # Errors
/// When the file can't be read, or others than its owner can read it.
pub fn first_line(path: &Path) -> Result<Zeroizing<String>, PassphraseError> {
    const LONGEST_FILE: u64 = 4096;
    let unreadable = |source| PassphraseError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_file() && !super::is_private(&metadata) {
        return Err(PassphraseError::Exposed {
            path: path.to_owned(),
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(LONGEST_FILE as usize));
    file.take(LONGEST_FILE)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let line = text.lines().next().unwrap_or_default();
    Ok(Zeroizing::new(line.to_owned()))
}

/// Why there is no usable passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// Too short to protect anything.
    #[error(
        "the passphrase is shorter than {} characters: use a longer one, such as five random words",
        Passphrase::SHORTEST
    )]
    TooShort,
    /// The file can't be read.
    #[error("can't read the passphrase file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("others can read the passphrase file {path}: run chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
}
