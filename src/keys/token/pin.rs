use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::keys::secret_file::{SecretFileError, first_line};

/// What opens a token. Zeroized when dropped; it has no `Debug` that shows it.
pub struct Pin(pub(super) SecretString);

impl Pin {
    /// From text. How long it must be is the token's to say.
    ///
    /// # Errors
    /// When it is empty: some tokens count that as a wrong try.
    pub fn new(text: &Zeroizing<String>) -> Result<Self, PinError> {
        if text.is_empty() {
            return Err(PinError::Empty);
        }
        Ok(Self(SecretString::from(text.as_str())))
    }

    /// From the first line of a file.
    ///
    /// # Errors
    /// When the file can't be read, others than its owner can read it, or the line is empty.
    pub fn from_file(path: &Path) -> Result<Self, PinError> {
        let path = || path.to_owned();
        let text = first_line(&path()).map_err(|error| match error {
            SecretFileError::Unreadable(source) => PinError::Unreadable {
                path: path(),
                source,
            },
            SecretFileError::Exposed => PinError::Exposed { path: path() },
        })?;
        Self::new(&text)
    }
}

/// Why there is no usable PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is none.
    #[error("the PIN is empty: give the user PIN that the token was set up with")]
    Empty,
    /// The file can't be read.
    #[error("can't read the PIN file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("others can read the PIN file {path}: run chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
}
