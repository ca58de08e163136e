use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::digest;

use super::cedar::place;
use super::{Engine, Invariant, Roles};
use crate::keys::is_ours_to_change;

/// The file of what must hold.
const INVARIANTS: &str = "invariants.toml";

/// A policy set: the roles and the policies of one folder, checked as a whole.
pub struct PolicySet {
    /// The roles.
    pub roles: Roles,
    /// What decides.
    pub engine: Engine,
    /// What must hold for whatever the policies permit.
    pub invariants: Vec<Invariant>,
    /// `sha256:` and the hex digest over all files: names a set in the log.
    pub digest: String,
    /// The files as they were read.
    pub files: BTreeMap<String, String>,
}

impl PolicySet {
    const LARGEST_FILE: u64 = 4 << 20;

    /// Reads `roles.toml`, `invariants.toml` where there is one, and every `*.cedar` of a folder.
    ///
    /// # Errors
    /// When a file is missing, can be changed by others, or does not check.
    pub fn load(folder: &Path) -> Result<Self, PolicyError> {
        check_writers(folder)?;
        let files = Self::read(folder)?;
        for name in files.keys() {
            check_writers(&folder.join(name))?;
        }
        Self::from_files(files, folder)
    }

    /// The files of a folder that make up a policy set.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn read(folder: &Path) -> Result<BTreeMap<String, String>, PolicyError> {
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
        Ok(files)
    }

    /// From the text of its files, of which `folder` is told in errors.
    ///
    /// # Errors
    /// When they do not check.
    pub fn from_files(files: BTreeMap<String, String>, folder: &Path) -> Result<Self, PolicyError> {
        Self::parse(files, folder).map_err(|mut errors| errors.swap_remove(0))
    }

    /// The same with all that is wrong, also with [roles among themselves](Self::check_roles).
    ///
    /// # Errors
    /// Of all files, in the order of their names.
    pub fn check(files: BTreeMap<String, String>, folder: &Path) -> Result<Self, Vec<PolicyError>> {
        let policy = Self::parse(files, folder)?;
        match policy.shared_principals(folder) {
            errors if errors.is_empty() => Ok(policy),
            errors => Err(errors),
        }
    }

    /// Checks that hosts let nobody in by a role that is not meant for them. It is not asked of a set that
    /// was in force before versions asked it.
    ///
    /// # Errors
    /// Names two roles.
    pub fn check_roles(&self, folder: &Path) -> Result<(), PolicyError> {
        match self.shared_principals(folder).into_iter().next() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn shared_principals(&self, folder: &Path) -> Vec<PolicyError> {
        let (path, text) = (folder.join("roles.toml"), self.files.get("roles.toml"));
        let text = text.map(String::as_str).unwrap_or_default();
        let shared = self.roles.shared_principals().into_iter();
        shared
            .map(|error| place(&path, text, error.offset(text), error.to_string()))
            .collect()
    }

    fn parse(files: BTreeMap<String, String>, folder: &Path) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        let path = folder.join("roles.toml");
        let roles = match files.get("roles.toml") {
            Some(text) => Roles::parse(text)
                .map_err(|wrong| {
                    let placed = wrong.into_iter().map(|error| {
                        let offset = error.offset(text);
                        place(&path, text, offset, error.to_string())
                    });
                    errors.extend(placed);
                })
                .ok(),
            None => {
                let source = std::io::ErrorKind::NotFound.into();
                errors.push(PolicyError::File { path, source });
                None
            }
        };
        let policies = files
            .iter()
            .filter(|(name, _)| name.ends_with(".cedar"))
            .map(|(name, text)| (folder.join(name), text.as_str()));
        let engine = Engine::new(policies, roles.as_ref())
            .map_err(|wrong| errors.extend(wrong))
            .ok();
        let invariants = match files.get(INVARIANTS) {
            Some(text) => Invariant::parse(&folder.join(INVARIANTS), text)
                .map_err(|wrong| errors.extend(wrong))
                .ok(),
            None => Some(Vec::new()),
        };
        let (Some(roles), Some(engine), Some(invariants)) = (roles, engine, invariants) else {
            return Err(errors);
        };
        let digest = digest_of(&files);
        Ok(Self {
            roles,
            engine,
            invariants,
            digest,
            files,
        })
    }
}

impl PolicySet {
    /// The file of a policy with an `@id`, and its line, counted from 1.
    pub fn place_of(&self, id: &str) -> Option<(&str, usize)> {
        let written = format!("@id({id:?})");
        self.files.iter().find_map(|(file, text)| {
            let line = text.lines().position(|line| line.trim() == written)?;
            Some((file.as_str(), line + 1))
        })
    }

    /// The line of `roles.toml` in which a role begins, counted from 1.
    pub fn line_of_role(&self, name: &str) -> Option<usize> {
        let heads = [format!("[ssh.{name}]"), format!("[database.{name}]")];
        let mut lines = self.files.get("roles.toml")?.lines();
        let line = lines.position(|line| heads.iter().any(|head| line.trim() == head))?;
        Some(line + 1)
    }
}

/// What tells whether a folder's policies are others, or others can change them, without reading
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Owner and mode of the folder. When it changed is left out: editors make files in it that are
    /// no policies.
    folder: (u32, u32),
    files: BTreeMap<String, FileStamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Owner and mode included.
    changed: (i64, i64),
}

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
                let stamp = FileStamp {
                    inode: metadata.ino(),
                    length: metadata.len(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    changed: (metadata.ctime(), metadata.ctime_nsec()),
                };
                files.insert(name, stamp);
            }
        }
        let metadata = fs::metadata(folder)?;
        Ok(Self {
            folder: (metadata.uid(), metadata.mode()),
            files,
        })
    }
}

fn is_policy(name: &str) -> bool {
    ["roles.toml", INVARIANTS].contains(&name) || name.ends_with(".cedar")
}

/// SHA-256 over name and text of each file, each preceded by its length in 8 bytes, big-endian.
fn digest_of(files: &BTreeMap<String, String>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in files.iter().flat_map(|(name, text)| [name, text]) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = base16ct::lower::encode_string(context.finish().as_ref());
    format!("sha256:{digest}")
}

fn read(path: &Path) -> Result<String, PolicyError> {
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
    /// A file does not parse, or speaks of what there is not.
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
    /// An invariant does not hold, or can't be proven.
    #[error("{message}")]
    Unproven {
        /// Which, and why.
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
