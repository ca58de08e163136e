//! Files that are changed, and given back as they were.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::HostError;
use super::settings::State;

/// A file as it should be.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which file.
    pub path: PathBuf,
    /// Its content; none when it should not be there.
    pub content: Option<Vec<u8>>,
    mode: u32,
    /// Whose it should be: its folder's owner's.
    as_its_folder: bool,
}

/// What a change does to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing: it is there as it should be.
    Nothing,
    /// It is new.
    New,
    /// It is another.
    Changed,
    /// It goes.
    Gone,
}

impl Change {
    pub(super) fn public(path: PathBuf, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path,
            content: Some(content.into()),
            mode: 0o644,
            as_its_folder: false,
        }
    }

    pub(super) fn gone(path: PathBuf) -> Self {
        Self {
            path,
            content: None,
            mode: 0o644,
            as_its_folder: false,
        }
    }

    /// A secret.
    pub(super) fn private(self) -> Self {
        Self {
            mode: 0o600,
            ..self
        }
    }

    /// For a program that runs as the folder's owner.
    pub(super) fn owned_as_its_folder(self) -> Self {
        Self {
            as_its_folder: true,
            ..self
        }
    }

    /// What it would do.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn what(&self) -> Result<What, HostError> {
        let there = read(&self.path)?;
        Ok(match (&there, &self.content) {
            (None, None) => What::Nothing,
            (Some(there), Some(content)) if there == content => What::Nothing,
            (None, Some(_)) => What::New,
            (Some(_), Some(_)) => What::Changed,
            (Some(_), None) => What::Gone,
        })
    }
}

/// What was in a place before the first change.
#[derive(Serialize, Deserialize)]
struct Before {
    path: PathBuf,
    /// The copy of it; none when nothing was there.
    copy: Option<String>,
    mode: u32,
    user: u32,
    group: u32,
}

/// Makes the changes, one file after the other. What was there first is kept. Gives what undoes just
/// these.
pub(super) fn make(state: &State, changes: &[Change]) -> Result<Vec<Undo>, HostError> {
    let mut undo = Vec::new();
    for change in changes {
        if change.what()? == What::Nothing {
            continue;
        }
        keep_first(state, &change.path)?;
        undo.push(Undo {
            path: change.path.clone(),
            content: read(&change.path)?,
            metadata: fs::metadata(&change.path).ok(),
        });
        let made = match &change.content {
            Some(content) => {
                let folder = change.path.parent().unwrap_or_else(|| Path::new("/"));
                let made = fs::create_dir_all(folder);
                made.and_then(|()| {
                    let owner = change.as_its_folder.then(|| fs::metadata(folder));
                    let owner = owner.transpose()?.map(|owner| (owner.uid(), owner.gid()));
                    let before = fs::metadata(&change.path).ok();
                    // What others could read and own before stays so.
                    let mode = before.as_ref().map_or(change.mode, |before| {
                        before.mode() & 0o7777 & if change.mode == 0o600 { 0o600 } else { 0o7777 }
                    });
                    let owner = owner.or_else(|| before.map(|before| (before.uid(), before.gid())));
                    put(&change.path, content, mode, owner)
                })
            }
            None => remove(&change.path),
        };
        if let Err(source) = made {
            undo_all(undo);
            return Err(HostError::Io {
                path: change.path.clone(),
                source,
            });
        }
    }
    Ok(undo)
}

/// One change that can be taken back.
pub(super) struct Undo {
    path: PathBuf,
    content: Option<Vec<u8>>,
    metadata: Option<fs::Metadata>,
}

/// Takes changes back, the last one first, as far as that goes.
pub(super) fn undo_all(undo: Vec<Undo>) {
    for Undo {
        path,
        content,
        metadata,
    } in undo.into_iter().rev()
    {
        let undone = match (content, metadata) {
            (Some(content), Some(metadata)) => put(
                &path,
                &content,
                metadata.mode() & 0o7777,
                Some((metadata.uid(), metadata.gid())),
            ),
            _ => remove(&path),
        };
        if let Err(error) = undone {
            tracing::error!(?path, %error, "a file could not be given back");
        }
    }
}

fn keep_first(state: &State, path: &Path) -> Result<(), HostError> {
    let folder = state.before();
    let failed = |source| HostError::Io {
        path: folder.clone(),
        source,
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    let kept = kept(state)?;
    if kept.iter().any(|(_, before)| before.path == path) {
        return Ok(());
    }
    let number = kept.len();
    let there = read(path)?;
    let copy = there.as_ref().map(|_| format!("{number}.file"));
    if let (Some(copy), Some(there)) = (&copy, &there) {
        put(&folder.join(copy), there, 0o600, None).map_err(failed)?;
    }
    let metadata = fs::metadata(path).ok();
    let of = |what: fn(&fs::Metadata) -> u32| metadata.as_ref().map_or(0, what);
    let before = Before {
        path: path.to_owned(),
        copy,
        mode: of(|metadata| metadata.mode() & 0o7777),
        user: of(MetadataExt::uid),
        group: of(MetadataExt::gid),
    };
    let text = toml::to_string(&before).map_err(|error| failed(io::Error::other(error)))?;
    put(
        &folder.join(format!("{number:04}.toml")),
        text.as_bytes(),
        0o600,
        None,
    )
    .map_err(failed)
}

fn kept(state: &State) -> Result<Vec<(PathBuf, Before)>, HostError> {
    let folder = state.before();
    let mut kept = Vec::new();
    let files = match fs::read_dir(&folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
        Err(source) => {
            return Err(HostError::Io {
                path: folder,
                source,
            });
        }
    };
    let mut paths: Vec<PathBuf> = files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|source| HostError::Io {
            path: path.clone(),
            source,
        })?;
        let before = toml::from_str(&text).map_err(|error| HostError::Illegal {
            path: path.clone(),
            why: error.to_string(),
        })?;
        kept.push((path, before));
    }
    Ok(kept)
}

/// The files that were changed.
pub(super) fn changed(state: &State) -> Result<Vec<PathBuf>, HostError> {
    Ok(kept(state)?
        .into_iter()
        .map(|(_, before)| before.path)
        .collect())
}

/// Gives every file back as it was before the first change.
pub(super) fn give_back(state: &State) -> Result<(), HostError> {
    for (_, before) in kept(state)?.into_iter().rev() {
        let failed = |source| HostError::Io {
            path: before.path.clone(),
            source,
        };
        match &before.copy {
            Some(copy) => {
                let content = fs::read(state.before().join(copy)).map_err(failed)?;
                let owner = Some((before.user, before.group));
                put(&before.path, &content, before.mode, owner).map_err(failed)?;
            }
            None => {
                remove(&before.path).map_err(failed)?;
                // A folder that was made for it, if nothing else is in it.
                if let Some(folder) = before.path.parent()
                    && folder.ends_with(super::ssh::PRINCIPALS)
                {
                    fs::remove_dir(folder).ok();
                }
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, HostError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts a file in place whole or not at all.
fn put(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".hallpass-new");
    let draft = PathBuf::from(draft);
    remove(&draft)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    let own = file.metadata()?;
    if let Some((user, group)) = owner.filter(|owner| *owner != (own.uid(), own.gid())) {
        chown(&draft, Some(user), Some(group))?;
    }
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::File::open(folder)?.sync_all()
}
