use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::keys::random_bytes;

/// Puts a file that nobody else can read in place, whole or not at all.
///
/// # Errors
/// When it can't be written.
pub fn private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put(path, bytes, 0o600)
}

/// Puts a file that others may read in place, whole or not at all.
///
/// # Errors
/// When it can't be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    put(path, bytes, 0o644)
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let draft = draft_beside(path).map_err(|source| FileError::new(path, source))?;
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| {
        fs::remove_file(&draft).ok();
        FileError::new(path, source)
    })
}

/// Keeps others that ask for the same lock waiting until the file is dropped.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.lock()?;
    Ok(file)
}

/// A name beside `path` that nothing has and that begins with a dot.
pub(super) fn draft_beside(path: &Path) -> io::Result<PathBuf> {
    let mark: [u8; 8] = random_bytes().map_err(io::Error::other)?;
    let mark = u64::from_le_bytes(mark);
    let name = path
        .file_name()
        .ok_or(io::ErrorKind::IsADirectory)?
        .to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{mark:016x}")))
}

/// A file can't be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write {path}: {source}")]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// About the file at `path`.
    pub fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}
