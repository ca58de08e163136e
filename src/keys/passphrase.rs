use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::secret_file::{self, SecretFileError};

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

/// The first line of a file that holds a passphrase, however short.
///
/// # Errors
/// When the file can't be read, or others than its owner can read it.
pub fn first_line(path: &Path) -> Result<Zeroizing<String>, PassphraseError> {
    secret_file::first_line(path).map_err(|error| {
        let path = path.to_owned();
        match error {
            SecretFileError::Unreadable(source) => PassphraseError::Unreadable { path, source },
            SecretFileError::Exposed => PassphraseError::Exposed { path },
        }
    })
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
