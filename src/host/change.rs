//! Files that are changed, and given back as they were.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::HostError;
use super::owner::Owner;
use super::settings::State;

/// A file as it should be.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which file.
    pub path: PathBuf,
    /// Its content; none when it should not be there.
    pub content: Option<Vec<u8>>,
    mode: u32,
    /// With whose rights, when not with our own.
    owner: Option<Owner>,
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
            owner: None,
        }
    }

    pub(super) fn gone(path: PathBuf) -> Self {
        Self {
            path,
            content: None,
            mode: 0o644,
            owner: None,
        }
    }

    /// A secret.
    pub(super) fn private(self) -> Self {
        Self {
            mode: 0o600,
            ..self
        }
    }

    /// Of another user, with whose rights alone it is made.
    pub(super) fn of(self, owner: Owner) -> Self {
        Self {
            owner: Some(owner),
            ..self
        }
    }

    /// What it would do.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn what(&self) -> Result<What, HostError> {
        let there = read(&self.path, self.owner)?;
        Ok(match (&there, &self.content) {
            (None, None) => What::Nothing,
            (Some(there), Some(content)) if there.content == *content => What::Nothing,
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
    /// Whose it was; given back with these rights alone when it was changed with them.
    user: u32,
    group: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
}

/// Makes the changes, one file after the other. What was there first is kept. Gives what undoes just
/// these.
pub(super) fn make(state: &State, changes: &[Change]) -> Result<Vec<Undo>, HostError> {
    let mut undo = Vec::new();
    for change in changes {
        if change.what()? == What::Nothing {
            continue;
        }
        keep_first(state, change)?;
        undo.push(Undo {
            path: change.path.clone(),
            there: read(&change.path, change.owner)?,
            owner: change.owner,
        });
        let made = acting(change.owner, || match &change.content {
            Some(content) => {
                let folder = change.path.parent().unwrap_or_else(|| Path::new("/"));
                if !folder.exists() {
                    fs::create_dir_all(folder)?;
                    open_to_all(folder)?;
                }
                let before = fs::metadata(&change.path).ok();
                // What others could read and own before stays so.
                let mode = before.as_ref().map_or(change.mode, |before| {
                    before.mode() & 0o7777 & if change.mode == 0o600 { 0o600 } else { 0o7777 }
                });
                put(&change.path, content, mode, before.as_ref().map(owner_of))
            }
            None => remove(&change.path),
        });
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
    there: Option<There>,
    owner: Option<Owner>,
}

/// Takes changes back, the last one first, as far as that goes.
pub(super) fn undo_all(undo: Vec<Undo>) {
    for Undo { path, there, owner } in undo.into_iter().rev() {
        let undone = acting(owner, || match &there {
            Some(there) => put(&path, &there.content, there.mode, Some(there.owner)),
            None => remove(&path),
        });
        if let Err(error) = undone {
            tracing::error!(?path, %error, "a file could not be given back");
        }
    }
}

fn keep_first(state: &State, change: &Change) -> Result<(), HostError> {
    let folder = state.before();
    let failed = |source| HostError::Io {
        path: folder.clone(),
        source,
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    let kept = kept(state)?;
    if kept.iter().any(|(_, before)| before.path == change.path) {
        return Ok(());
    }
    let number = kept.len();
    let there = read(&change.path, change.owner)?;
    let copy = there.as_ref().map(|_| format!("{number}.file"));
    if let (Some(copy), Some(there)) = (&copy, &there) {
        put(&folder.join(copy), &there.content, 0o600, None).map_err(failed)?;
    }
    let of = |what: fn(&There) -> u32| there.as_ref().map_or(0, what);
    let before = Before {
        path: change.path.clone(),
        copy,
        mode: of(|there| there.mode),
        user: of(|there| there.owner.user),
        group: of(|there| there.owner.group),
        owner: change.owner,
    };
    let text = toml::to_string(&before).map_err(|error| failed(io::Error::other(error)))?;
    let path = folder.join(format!("{number:04}.toml"));
    put(&path, text.as_bytes(), 0o600, None).map_err(failed)
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

/// A line that was put at a file's end. The rest of the file is others' to change meanwhile.
pub(super) struct Line {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Gives those of the files back that `which` picks, as they were before the first change; of one
/// that has a line more, just that is taken away.
pub(super) fn give_back(
    state: &State,
    which: impl Fn(&Path) -> bool,
    line: Option<&Line>,
) -> Result<(), HostError> {
    let kept = kept(state)?.into_iter().rev();
    for (_, before) in kept.filter(|(_, before)| which(&before.path)) {
        let failed = |source| HostError::Io {
            path: before.path.clone(),
            source,
        };
        let Some(copy) = &before.copy else {
            acting(before.owner, || remove(&before.path)).map_err(failed)?;
            // A folder that was made for it, if nothing else is in it.
            if let Some(folder) = before.path.parent()
                && folder.ends_with(super::ssh::PRINCIPALS)
            {
                fs::remove_dir(folder).ok();
            }
            continue;
        };
        let mut content = fs::read(state.before().join(copy)).map_err(failed)?;
        if let Some(line) = line.filter(|line| line.path == before.path)
            && let Some(there) = read(&before.path, before.owner)?
            && there.content != line.behind(&content)
        {
            content = line.gone_from(&there.content);
        }
        let owner = Owner {
            user: before.user,
            group: before.group,
        };
        acting(before.owner, || {
            put(&before.path, &content, before.mode, Some(owner))
        })
        .map_err(failed)?;
    }
    Ok(())
}

impl Line {
    /// A file with the line at its end.
    pub(super) fn behind(&self, content: &[u8]) -> Vec<u8> {
        [content.trim_ascii_end(), b"\n", self.text.as_bytes(), b"\n"].concat()
    }

    /// Whether a file has it.
    pub(super) fn is_in(&self, content: &[u8]) -> bool {
        content
            .split(|byte| *byte == b'\n')
            .any(|line| self.is(line))
    }

    /// A file without it.
    fn gone_from(&self, content: &[u8]) -> Vec<u8> {
        let lines = content.split_inclusive(|byte| *byte == b'\n');
        lines
            .filter(|line| !self.is(line))
            .flatten()
            .copied()
            .collect()
    }

    fn is(&self, line: &[u8]) -> bool {
        line.trim_ascii() == self.text.as_bytes()
    }
}

fn acting<T>(owner: Option<Owner>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match owner {
        Some(owner) => owner.act(work),
        None => work(),
    }
}

/// A file that is there.
struct There {
    content: Vec<u8>,
    mode: u32,
    owner: Owner,
}

fn read(path: &Path, owner: Option<Owner>) -> Result<Option<There>, HostError> {
    let there = acting(owner, || {
        let mut file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(There {
            content,
            mode: metadata.mode() & 0o7777,
            owner: owner_of(&metadata),
        })
    });
    match there {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn owner_of(metadata: &fs::Metadata) -> Owner {
    Owner {
        user: metadata.uid(),
        group: metadata.gid(),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// sshd reads what is in it with the rights of whoever logs in, whatever our umask is.
pub(super) fn open_to_all(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, PermissionsExt::from_mode(0o755))
}

/// Puts a file in place whole or not at all. Where a link is, that stays, and leads to it.
fn put(path: &Path, content: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    let linked = fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink());
    let place = if linked {
        fs::canonicalize(path)?
    } else {
        path.to_owned()
    };
    let path = place.as_path();
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
    let own = owner_of(&file.metadata()?);
    // Only we ourselves can give a file away; with another user's rights, it is that user's.
    // SAFETY: geteuid has no preconditions.
    let ours = own.user == unsafe { libc::geteuid() };
    if let Some(owner) = owner.filter(|owner| ours && *owner != own) {
        // Of the file that was made here, whatever stands at its name by now.
        fchown(&file, Some(owner.user), Some(owner.group))?;
    }
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::File::open(folder)?.sync_all()
}
