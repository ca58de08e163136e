use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::digest;

use super::{Engine, Roles, RolesError};
use crate::keys::is_ours_to_change;

/// A policy set: the roles and the policies of one folder, checked as a whole.
pub struct PolicySet {
    /// The roles.
    pub roles: Roles,
    /// What decides.
    pub engine: Engine,
    /// `sha256:` and the hex digest over all files: names a set in the log.
    pub digest: String,
    /// The files as they were read.
    pub files: BTreeMap<String, String>,
}

impl PolicySet {
    const LARGEST_FILE: u64 = 4 << 20;

    /// Reads `roles.toml` and every `*.cedar` of a folder.
    ///
    /// # Errors
    /// When a file is missing, can be changed by others, or does not check.
    pub fn load(folder: &Path) -> Result<Self, PolicyError> {
        check_writers(folder)?;
        let mut files = BTreeMap::new();
        let failed = |source| PolicyError::File {
            path: folder.to_owned(),
            source,
        };
        for file in fs::read_dir(folder).map_err(failed)? {
            let path = file.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if !is_policy(name) {
                continue;
            }
            files.insert(name.to_owned(), read(&path)?);
        }
        Self::from_files(files, folder)
    }

    /// From the text of its files, of which `folder` is told in errors.
    ///
    /// # Errors
    /// When they do not check.
    pub fn from_files(files: BTreeMap<String, String>, folder: &Path) -> Result<Self, PolicyError> {
        let path = folder.join("roles.toml");
        let Some(roles) = files.get("roles.toml") else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(PolicyError::File { path, source });
        };
        let roles = Roles::parse(roles).map_err(|source| PolicyError::Roles { path, source })?;
        let policies = files
            .iter()
            .filter(|(name, _)| name.ends_with(".cedar"))
            .map(|(name, text)| (folder.join(name), text.as_str()));
        let engine = Engine::new(policies)?;
        let digest = digest_of(&files);
        Ok(Self {
            roles,
            engine,
            digest,
            files,
        })
    }
}

/// What tells whether a folder's policies are others without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(BTreeMap<String, (u64, i64, i64, u64)>);

impl Stamp {
    /// Of the files that [`PolicySet::load`] would read.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn of(folder: &Path) -> std::io::Result<Self> {
        let mut files = BTreeMap::new();
        for file in fs::read_dir(folder)? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            if is_policy(&name) {
                // Also through links, as configuration management lays them.
                let metadata = fs::metadata(file.path())?;
                let changed = (
                    metadata.len(),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                    metadata.ino(),
                );
                files.insert(name, changed);
            }
        }
        Ok(Self(files))
    }
}

fn is_policy(name: &str) -> bool {
    name == "roles.toml" || name.ends_with(".cedar")
}

/// SHA-256 over name and text of each file, each preceded by its length in 8 bytes, big-endian.
fn digest_of(files: &BTreeMap<String, String>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in files.iter().flat_map(|(name, text)| [name, text]) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn read(path: &Path) -> Result<String, PolicyError> {
    check_writers(path)?;
    let failed = |source| PolicyError::File {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(failed)?.len() > PolicySet::LARGEST_FILE {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Who can change a policy can grant anything.
fn check_writers(path: &Path) -> Result<(), PolicyError> {
    let metadata = fs::metadata(path).map_err(|source| PolicyError::File {
        path: path.to_owned(),
        source,
    })?;
    if !is_ours_to_change(&metadata) {
        return Err(PolicyError::Writable {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// What is wrong with a policy set.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can change a file.
    #[error(
        "others can change {path}: run chmod go-w {path} and chown it to the server's user or root"
    )]
    Writable {
        /// The file or folder.
        path: PathBuf,
    },
    /// `roles.toml` does not check.
    #[error("{path}: {source}")]
    Roles {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RolesError,
    },
    /// A policy is not Cedar, or speaks of what the schema does not have.
    #[error("{path}:{line}:{column}: {message}")]
    Cedar {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// Why, with a hint where there is one.
        message: String,
    },
    /// Two policies share an id.
    #[error("{path}: there is another policy with @id(\"{id}\"): give each its own")]
    Twice {
        /// The file of the second.
        path: PathBuf,
        /// The id.
        id: String,
    },
}
