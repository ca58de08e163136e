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
    /// Makes the home out of a backup, whole or not at all.
    ///
    /// # Errors
    /// When there is a home already, or the backup is not what was written.
    pub fn restore(&self, backup: &Path) -> Result<Restored, RestoreError> {
        self.check_free()?;
        let folder = self.folder();
        let occupied = fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
        if occupied || (fs::symlink_metadata(folder).is_ok() && !folder.is_dir()) {
            return Err(RestoreError::Occupied {
                path: folder.to_owned(),
            });
        }
        let file = File::open(backup).map_err(|source| RestoreError::Unreadable {
            path: backup.to_owned(),
            source,
        })?;
        let draft = Draft::beside(folder)?;
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
            // An empty folder gives way.
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
}

/// A home that goes unless it gets its name.
struct Draft(PathBuf);

impl Draft {
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
    #[error("{path} exists already, and is not overwritten: choose another --home")]
    Occupied {
        /// The folder.
        path: PathBuf,
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
