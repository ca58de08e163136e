use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// Longer first lines are no passphrase.
const LONGEST: u64 = 4096;

/// Why a secret can't be taken from a file.
pub(crate) enum SecretFileError {
    /// It can't be read.
    Unreadable(io::Error),
    /// Others can read it.
    Exposed,
}

impl From<io::Error> for SecretFileError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// The first line of a file that nobody else can read.
pub(crate) fn first_line(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && !super::is_secret(path, &metadata) {
        return Err(SecretFileError::Exposed);
    }
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize));
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}
