//! A home made again out of a backup.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::backup::{FORMAT, LABEL, SUMS, Summed, folder_of};
use super::home::Home;
use super::{InitError, now};
use crate::audit::{Snapshot, StoreError};
use crate::identity::ReplayGuard;
use crate::keys::{SignError, is_key, random_bytes};
use crate::model::Timestamp;

/// In a folder that stays, where the home is until it is whole.
const DRAFT: &str = ".restore";
/// What else may be there: what file systems begin with, and what keeps others off.
const LOST: &str = "lost+found";
const LOCK: &str = "hallpass.lock";
const CONFIG: &str = "hallpass.toml";

/// What a home was made of.
pub struct Restored {
    /// How many entries the log has.
    pub size: u64,
    /// When the backup was made.
    pub backup: Timestamp,
    /// The files of archived entries that were missing or damaged before the backup was made.
    pub damaged: Vec<StoreError>,
}

impl Home {
    /// Makes the home out of a backup, whole or not at all. A folder that is there must be empty, and
    /// stays.
    ///
    /// # Errors
    /// When there is a home already, or the backup is not what was written.
    pub fn restore(&self, backup: &Path) -> Result<Restored, RestoreError> {
        let folder = self.folder();
        // What a volume is mounted on can't be replaced.
        let stays = fs::symlink_metadata(folder).is_ok();
        if stays && !folder.join(DRAFT).exists() {
            // Before anything is written to a folder that may be somebody else's.
            self.check_empty()?;
        }
        let file = File::open(backup).map_err(|source| RestoreError::Unreadable {
            path: backup.to_owned(),
            source,
        })?;
        let alone = stays.then(|| self.lock()).transpose();
        let _alone = alone.map_err(InitError::from)?;
        let draft = if stays {
            self.check_empty()?;
            Draft::within(folder)?
        } else {
            Draft::beside(folder)?
        };
        let home = Self::new(&draft.0);
        let time = Unpacking {
            backup,
            folder: &draft.0,
            sums: String::new(),
        }
        .run(file)?;

        home.check_whole()
            .map_err(|error| RestoreError::damaged(backup, error))?;
        let keys = home.log_keys();
        let keys = keys.map_err(|_| RestoreError::damaged(backup, "it has no key of the log"))?;
        let expire = ReplayGuard::expiry(now());
        let adopted =
            Snapshot::adopt(&home.database(), &keys, time, expire).map_err(RestoreError::Log)?;
        let put = || {
            for part in [
                home.keys(),
                home.policies(),
                home.archive(),
                draft.0.clone(),
            ] {
                if part.exists() {
                    File::open(part)?.sync_all()?;
                }
            }
            if stays {
                return draft.move_up(folder);
            }
            fs::rename(&draft.0, folder)?;
            File::open(folder_of(folder))?.sync_all()
        };
        put().map_err(|source| RestoreError::File {
            path: folder.to_owned(),
            source,
        })?;
        let damaged = adopted.damaged.iter();
        Ok(Restored {
            size: adopted.size,
            backup: time,
            damaged: damaged
                .filter_map(|archive| archive.check(&self.archive()).err())
                .collect(),
        })
    }

    /// Checks that there is nothing in the folder but what a new volume has, and what a restore left
    /// that did not come far.
    fn check_empty(&self) -> Result<(), RestoreError> {
        let folder = self.folder();
        let occupied = |path| RestoreError::Occupied { path };
        if !folder.is_dir() {
            return Err(occupied(folder.to_owned()));
        }
        let more = || {
            for file in fs::read_dir(folder)? {
                let file = file?;
                if [LOST, LOCK, DRAFT]
                    .iter()
                    .all(|name| file.file_name() != *name)
                {
                    return Ok(Some(file.path()));
                }
            }
            Ok(None)
        };
        let more = more().map_err(|source| RestoreError::File {
            path: folder.to_owned(),
            source,
        })?;
        // What was served had its configuration.
        let unmoved = folder.join(DRAFT).join(CONFIG).exists() && !self.config_path().exists();
        if more.is_some() && unmoved {
            return Err(RestoreError::Interrupted {
                folder: folder.to_owned(),
            });
        }
        self.check_free()?;
        more.map_or(Ok(()), |path| Err(occupied(path)))
    }
}

/// A home that goes unless it gets its name or its place.
struct Draft(PathBuf);

impl Draft {
    /// In a folder that is ours alone, and empty.
    fn within(folder: &Path) -> Result<Self, RestoreError> {
        let path = folder.join(DRAFT);
        let make = || {
            // What a restore left that was killed: nothing of it has its place yet.
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            DirBuilder::new().mode(0o700).create(&path)
        };
        make().map_err(|source| RestoreError::File {
            path: path.clone(),
            source,
        })?;
        Ok(Self(path))
    }

    /// Gives each part its place. The last is `hallpass.toml`, without which nothing is a home.
    fn move_up(&self, folder: &Path) -> io::Result<()> {
        let mut parts = fs::read_dir(&self.0)?
            .map(|part| Ok(part?.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        parts.sort_by_key(|name| name == CONFIG);
        let mut moved = Vec::new();
        let move_all = || {
            for name in parts {
                let place = folder.join(&name);
                if fs::symlink_metadata(&place).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                if name == CONFIG {
                    File::open(folder)?.sync_all()?;
                }
                fs::rename(self.0.join(&name), place)?;
                moved.push(name);
            }
            File::open(folder)?.sync_all()
        };
        move_all().inspect_err(|_| {
            for name in moved.iter().rev() {
                fs::rename(folder.join(name), self.0.join(name)).ok();
            }
        })
    }

    fn beside(folder: &Path) -> Result<Self, RestoreError> {
        let mark = u64::from_be_bytes(random_bytes()?);
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let parent = folder_of(folder);
        let path = parent.join(format!(".{name}.{mark:016x}"));
        let make = || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)?;
            DirBuilder::new().mode(0o700).create(&path)
        };
        make().map_err(|source| RestoreError::File {
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Takes a backup apart.
struct Unpacking<'a> {
    backup: &'a Path,
    folder: &'a Path,
    /// Of what was taken out so far, as [`SUMS`] should have it.
    sums: String,
}

impl Unpacking<'_> {
    /// Gives the time of the backup.
    fn run(mut self, file: File) -> Result<Timestamp, RestoreError> {
        let cut_off = |error: io::Error| self.cut_off(&error);
        let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
        let mut entries = archive.entries().map_err(cut_off)?;
        let first = match entries.next() {
            Some(Ok(first)) if first.path_bytes() == LABEL.as_bytes() => first,
            _ => return Err(self.none()),
        };
        let label = self.text(LABEL, first)?;
        let time = time_of(&label).ok_or_else(|| self.none())?;
        for entry in entries {
            let entry = entry.map_err(|error| self.cut_off(&error))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if entry.header().entry_type() != tar::EntryType::Regular {
                return Err(self.damaged(format!("{name:?} in it is no plain file")));
            }
            if name == SUMS {
                let expected = std::mem::take(&mut self.sums);
                let sums = self.text(SUMS, entry)?;
                return if sums == expected {
                    Ok(time)
                } else {
                    Err(self.damaged(
                        "what is in it is not what was written: the SHA-256 sums do not fit",
                    ))
                };
            }
            let mode = entry.header().mode().unwrap_or(0o600);
            self.unpack(&name, mode, entry)?;
        }
        Err(self.damaged("it is cut off: the sums at its end are missing"))
    }

    /// A small file of a backup, as text.
    fn text(&mut self, name: &str, content: impl Read) -> Result<String, RestoreError> {
        let mut text = String::new();
        let mut content = Summed::new(content.take(1 << 20));
        content
            .read_to_string(&mut text)
            .map_err(|error| self.cut_off(&error))?;
        self.sums += &format!("{}  {name}\n", content.sum());
        Ok(text)
    }

    fn unpack(&mut self, name: &str, mode: u32, content: impl Read) -> Result<(), RestoreError> {
        let place = place(name)
            .ok_or_else(|| self.damaged(format!("{name:?} in it is no part of a home")))?;
        let path = self.folder.join(name);
        let failed = |source| RestoreError::File {
            path: path.clone(),
            source,
        };
        if path.exists() {
            return Err(self.damaged(format!("{name:?} in it stands there twice")));
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            let create = DirBuilder::new().mode(place.folder_mode).create(folder);
            create.map_err(failed)?;
        }
        let mode = if place.private { 0o600 } else { mode & 0o755 };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(failed)?;
        // The umask may have taken from it.
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(failed)?;
        let mut content = Summed::new(content);
        let mut buffer = vec![0; 64 << 10];
        loop {
            // Which of the two failed matters.
            let read = content
                .read(&mut buffer)
                .map_err(|error| self.cut_off(&error))?;
            if read == 0 {
                break;
            }
            io::Write::write_all(&mut file, &buffer[..read]).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        self.sums += &format!("{}  {name}\n", content.sum());
        Ok(())
    }

    fn none(&self) -> RestoreError {
        RestoreError::NoBackup {
            path: self.backup.to_owned(),
        }
    }

    fn cut_off(&self, error: &io::Error) -> RestoreError {
        self.damaged(format!("it is cut off or was changed: {error}"))
    }

    fn damaged(&self, why: impl ToString) -> RestoreError {
        RestoreError::damaged(self.backup, why.to_string())
    }
}

/// Where a file of a home belongs.
struct Place {
    /// Nobody else may read it.
    private: bool,
    folder_mode: u32,
}

/// Nothing but what a backup holds has a place: no path leads out of the home.
fn place(name: &str) -> Option<Place> {
    let (folder, file) = name.split_once('/').unwrap_or(("", name));
    if file.is_empty() || file.starts_with('.') || file.contains(['/', '\0']) {
        return None;
    }
    let place = |private, folder_mode| {
        Some(Place {
            private,
            folder_mode,
        })
    };
    match (folder, file) {
        ("", "hallpass.toml" | "hallpass.db") | ("archive", _) => place(true, 0o700),
        ("keys", _) => place(is_key(Path::new(file)), 0o700),
        ("policies", _) => place(false, 0o755),
        _ => None,
    }
}

/// The time in a backup's label.
fn time_of(label: &str) -> Option<Timestamp> {
    let mut lines = label.lines();
    if lines.next() != Some(FORMAT) {
        return None;
    }
    lines.next()?.strip_prefix("time ")?.parse().ok()
}

/// Why no home was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Something is there already.
    #[error(
        "{path} exists already, and is not overwritten: move it away, or choose another --home"
    )]
    Occupied {
        /// What.
        path: PathBuf,
    },
    /// A restore was killed when some parts had their place.
    #[error(
        "{folder} has a part of a home, of a restore that was interrupted, and .restore the rest; it \
         was never served. Remove all that is in it, and restore again"
    )]
    Interrupted {
        /// The home.
        folder: PathBuf,
    },
    /// A part of a home is there already.
    #[error(transparent)]
    Home(#[from] InitError),
    /// The backup can't be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The backup.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no backup of this version of Hallpass: take one from `hallpass backup`")]
    NoBackup {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {why}; nothing was restored. Take another backup")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log in it does not fit together.
    #[error("the log in the backup: {0}; nothing was restored")]
    Log(StoreError),
    /// The home can't be written.
    #[error("{path}: {source}; nothing was restored")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No name for a draft.
    #[error("the system gave no randomness")]
    Randomness(#[from] SignError),
}

impl RestoreError {
    fn damaged(backup: &Path, why: impl ToString) -> Self {
        Self::Damaged {
            path: backup.to_owned(),
            why: why.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_a_home() {
        for good in [
            "hallpass.db",
            "keys/seal.age",
            "policies/a b.cedar",
            "archive/x.gz",
        ] {
            assert!(place(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "keys/../x",
            "keys/..",
            "keys/",
            "keys/a/b",
            "keys//b",
            ".hallpass",
            "hallpass.db-wal",
            "hallpass.lock",
            "other/x",
            "policies/.hidden",
            "/keys/x",
        ] {
            assert!(place(bad).is_none(), "{bad}");
        }
    }
}
