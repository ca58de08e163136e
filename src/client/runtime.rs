use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

use super::held::Held;
use super::{SignedIn, files};
use crate::keys::random_bytes;
use crate::model::{Serial, Timestamp};

/// After this long, a draft belongs to a run that died.
const DRAFT_LIFE: Duration = Duration::from_secs(600);
const DRAFT: &str = ".draft-";
const LOGIN: &str = "login-";

/// The folder where keys and certificates live while they are good: ours alone, in memory where
/// there is such a place.
pub(super) struct Runtime(PathBuf);

impl Runtime {
    /// Makes the folder, or checks the one that is there.
    pub(super) fn open() -> Result<Self, RuntimeError> {
        let path = location();
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(RuntimeError::Unusable { path, source }),
        }
        check(&path)?;
        Ok(Self(path))
    }

    /// Removes what has ended, when there is anything.
    pub(super) fn sweep(now: Timestamp) {
        let path = location();
        if check(&path).is_err() {
            return;
        }
        let old_draft = |folder: &Path| {
            let made = fs::metadata(folder).and_then(|metadata| metadata.modified());
            made.is_ok_and(|made| {
                SystemTime::now()
                    .duration_since(made)
                    .is_ok_and(|age| age > DRAFT_LIFE)
            })
        };
        for folder in Self(path).folders() {
            let name = name(&folder);
            let ended = if is_draft(&name) {
                old_draft(&folder)
            } else if is_login(&name) {
                SignedIn::read(&folder).is_some_and(|signed_in| signed_in.expires <= now)
            } else {
                // What can't be read is not ours to judge.
                is_session(&name)
                    && Held::read(&folder).is_some_and(|held| held.valid_before <= now)
            };
            if ended {
                // Another run may be sweeping too.
                fs::remove_dir_all(folder).ok();
            }
        }
    }

    /// The session folders whose names begin with `id`.
    pub(super) fn sessions(&self, id: &str) -> Vec<PathBuf> {
        let mut folders = self.folders();
        folders.retain(|folder| name(folder).starts_with(id));
        folders
    }

    /// The folder of whoever signed in by way of a configuration, which may not be there.
    pub(super) fn login(&self, config: &Path) -> PathBuf {
        let digest = digest(&SHA256, config.as_os_str().as_bytes());
        let id = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]);
        self.0.join(format!("{LOGIN}{id}"))
    }

    /// Puts a whole draft in the place of what was there.
    pub(super) fn replace(&self, draft: &Path, folder: &Path) -> Result<(), RuntimeError> {
        let replace = || {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(draft, folder)
        };
        replace().map_err(|source| RuntimeError::Unusable {
            path: folder.to_owned(),
            source,
        })
    }

    /// Keeps other runs off the sessions of `id` until the file is dropped.
    pub(super) fn lock(&self, id: &str) -> Result<File, RuntimeError> {
        let path = self.0.join(format!("{id}.lock"));
        files::lock(&path).map_err(|source| RuntimeError::Unusable { path, source })
    }

    /// A new folder that is no session yet.
    pub(super) fn draft(&self) -> Result<PathBuf, RuntimeError> {
        let make = || {
            let mark: [u8; 8] = random_bytes().map_err(io::Error::other)?;
            let draft = self
                .0
                .join(format!("{DRAFT}{:016x}", u64::from_le_bytes(mark)));
            DirBuilder::new().mode(0o700).create(&draft)?;
            Ok(draft)
        };
        make().map_err(|source| RuntimeError::Unusable {
            path: self.0.clone(),
            source,
        })
    }

    /// Makes a whole draft a session.
    pub(super) fn keep(&self, draft: &Path, name: &str) -> Result<PathBuf, RuntimeError> {
        let path = self.0.join(name);
        match fs::rename(draft, &path) {
            Ok(()) => Ok(path),
            Err(source) => Err(RuntimeError::Unusable { path, source }),
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()
    }
}

/// As [`Runtime::draft`] names it.
fn is_draft(name: &str) -> bool {
    name.strip_prefix(DRAFT)
        .is_some_and(|mark| mark.len() == 16 && mark.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// As [`Runtime::login`] names it.
fn is_login(name: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    name.strip_prefix(LOGIN)
        .is_some_and(|id| id.len() == 16 && id.bytes().all(legal))
}

/// As [`Runtime::keep`] names it: what was asked for, and a serial number.
fn is_session(name: &str) -> bool {
    name.split_once('.').is_some_and(|(id, serial)| {
        let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !id.is_empty() && id.bytes().all(legal) && serial.parse::<Serial>().is_ok()
    })
}

fn name(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn location() -> PathBuf {
    let ours = |folder: &PathBuf| {
        fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user())
    };
    // After `su`, it may be somebody else's.
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(ours)
    {
        return folder.join("hallpass");
    }
    let shared = Path::new("/dev/shm");
    let shared = if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    };
    shared.join(format!("hallpass-{}", user()))
}

/// In a place that others can write to, somebody may have been there first.
fn check(path: &Path) -> Result<(), RuntimeError> {
    let metadata = fs::symlink_metadata(path).map_err(|source| RuntimeError::Unusable {
        path: path.to_owned(),
        source,
    })?;
    if metadata.is_dir() && metadata.uid() == user() && metadata.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(RuntimeError::NotPrivate {
            path: path.to_owned(),
        })
    }
}

fn user() -> u32 {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() }
}

/// Why there is no private place.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It can't be made or written to.
    #[error(
        "can't use {path}: {source}; set XDG_RUNTIME_DIR to a folder of yours, such as \
         /run/user/UID"
    )]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not ours alone.
    #[error(
        "{path} is not a folder of yours that is closed to others: remove it, or run chmod 700 on \
         it if it is yours"
    )]
    NotPrivate {
        /// The folder.
        path: PathBuf,
    },
}
