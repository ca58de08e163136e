//! A home in one file, taken while a server works on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest;

use super::home::{Home, HomeError};
use super::now;
use crate::audit::{Snapshot, StoreError};
use crate::keys::{SignError, random_bytes};
use crate::model::Timestamp;

/// The first file in each backup, and the first line in it.
pub(super) const LABEL: &str = "hallpass-backup";
pub(super) const FORMAT: &str = "hallpass-backup/v1";
/// The last file in each backup: what `sha256sum -c` reads.
pub(super) const SUMS: &str = "SHA256SUMS";

/// What was backed up.
pub struct BackedUp {
    /// How many entries the log had.
    pub size: u64,
    /// When.
    pub time: Timestamp,
    /// What of the home is not what it was, so that the backup is not either, in words.
    pub damage: Vec<String>,
}

impl Home {
    /// Writes all that a home is into one file: configuration, policies, sealed keys, the log as it
    /// is at this moment and its archived entries. Of a damaged home, a backup that says so is better
    /// than none.
    ///
    /// # Errors
    /// When the file is there already or can't be written, or a part can't be read. Then nothing
    /// stays of it.
    pub fn back_up(&self, file: &Path) -> Result<BackedUp, BackupError> {
        self.check_whole()?;
        let occupied = || BackupError::Occupied {
            path: file.to_owned(),
        };
        if fs::symlink_metadata(file).is_ok() {
            return Err(occupied());
        }
        let time = now();
        let copy = Draft::beside(file, ".db")?;
        // The log first: the files that it names are there.
        let snapshot = Snapshot::take(&self.database(), &copy.path)?;
        let mut damage = Vec::new();
        damage.extend(self.check_copy(&snapshot, &copy.path)?);
        let draft = Draft::beside(file, "")?;
        let failed = |source| BackupError::File {
            path: draft.path.clone(),
            source,
        };
        let mut backup = Writer::new(&draft.file);
        let label = format!(
            "{FORMAT}\ntime {time}\nentries {}\nversion {}\n",
            snapshot.size,
            env!("CARGO_PKG_VERSION")
        );
        backup.add_text(LABEL, &label).map_err(failed)?;
        backup.add_file("hallpass.toml", &self.config_path())?;
        for folder in ["policies", "keys"] {
            for path in files_in(&self.folder().join(folder))? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                backup.add_file(&format!("{folder}/{name}"), &path)?;
            }
        }
        for archive in &snapshot.archives {
            let path = self.archive().join(&archive.file);
            if let Err(error) = archive.check(&self.archive()) {
                damage.push(error.to_string());
                let read =
                    File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
                if read.is_err() {
                    continue;
                }
            }
            backup.add_file(&format!("archive/{}", archive.file), &path)?;
        }
        backup.add_file("hallpass.db", &copy.path)?;
        backup.finish().map_err(failed)?;
        if fs::symlink_metadata(file).is_ok() {
            return Err(occupied());
        }
        let put = || {
            draft.file.sync_all()?;
            fs::rename(&draft.path, file)?;
            File::open(folder_of(file))?.sync_all()
        };
        put().map_err(|source| BackupError::File {
            path: file.to_owned(),
            source,
        })?;
        Ok(BackedUp {
            size: snapshot.size,
            time,
            damage,
        })
    }

    /// Whether the copy of the log can be restored: what of it does not fit, in words.
    fn check_copy(&self, snapshot: &Snapshot, copy: &Path) -> Result<Option<String>, StoreError> {
        let keys = match self.log_keys() {
            Ok(keys) => keys,
            Err(error) => return Ok(Some(error.to_string())),
        };
        match snapshot.check(copy, &keys) {
            Ok(()) => Ok(None),
            Err(error @ (StoreError::File { .. } | StoreError::Sqlite(_))) => Err(error),
            Err(error) => {
                // The copy goes; what it is of has the same.
                let (copy, database) = (copy.to_string_lossy(), self.database());
                let error = error.to_string();
                Ok(Some(error.replace(&*copy, &database.to_string_lossy())))
            }
        }
    }
}

/// The files of a folder in order, but those that begin with a dot.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let list = || {
        let mut files = Vec::new();
        for file in fs::read_dir(folder)? {
            let file = file?;
            let hidden = file.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && file.path().is_file() {
                files.push(file.path());
            }
        }
        files.sort();
        Ok(files)
    };
    list().map_err(|source| BackupError::File {
        path: folder.to_owned(),
        source,
    })
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Writes a backup: gzip around tar (POSIX ustar).
struct Writer<'a> {
    tar: tar::Builder<GzEncoder<BufWriter<&'a File>>>,
    sums: String,
    time: u64,
}

impl<'a> Writer<'a> {
    fn new(file: &'a File) -> Self {
        let gzip = GzEncoder::new(BufWriter::new(file), Compression::default());
        Self {
            tar: tar::Builder::new(gzip),
            sums: String::new(),
            time: now().as_secs(),
        }
    }

    fn add_text(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.add(name, 0o600, text.len() as u64, text.as_bytes())
    }

    fn add_file(&mut self, name: &str, path: &Path) -> Result<(), BackupError> {
        let mut add = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            let mode = metadata.mode() & 0o777;
            self.add(name, mode, metadata.len(), file)
        };
        add().map_err(|source| BackupError::File {
            path: path.to_owned(),
            source,
        })
    }

    fn add(&mut self, name: &str, mode: u32, length: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(length);
        header.set_mode(mode);
        header.set_mtime(self.time);
        let mut content = Summed::new(content.take(length));
        self.tar.append_data(&mut header, name, &mut content)?;
        if content.length != length {
            // Its size stands in front of it already.
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.sums += &format!("{}  {name}\n", content.sum());
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        let sums = std::mem::take(&mut self.sums);
        self.add_text(SUMS, &sums)?;
        self.tar.into_inner()?.finish()?.flush()
    }
}

/// Reads and sums up what was read.
pub(super) struct Summed<R> {
    inner: R,
    digest: digest::Context,
    pub(super) length: u64,
}

impl<R: Read> Summed<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            digest: digest::Context::new(&digest::SHA256),
            length: 0,
        }
    }

    /// The SHA-256 in hexadecimal.
    pub(super) fn sum(self) -> String {
        base16ct::lower::encode_string(self.digest.finish().as_ref())
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.length += read as u64;
        Ok(read)
    }
}

/// A file that nobody else can read and that goes unless it gets another name.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn beside(file: &Path, ending: &str) -> Result<Self, BackupError> {
        let mark = u64::from_be_bytes(random_bytes()?);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path = folder_of(file).join(format!(".{name}.{mark:016x}{ending}"));
        let draft = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| BackupError::File {
                path: file.to_owned(),
                source,
            })?;
        Ok(Self { path, file: draft })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What SQLite puts beside it goes with it, unless the disk was full.
        for ending in ["", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(ending);
            fs::remove_file(path).ok();
        }
    }
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file is there already.
    #[error("{path} exists already, and is not overwritten: choose another name")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The log can't be copied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No name for a draft.
    #[error("the system gave no randomness")]
    Randomness(#[from] SignError),
}
