//! The log's SQLite database: all of the SQL there is.

mod archives;
mod backfill;
mod indexed;
mod reader;
mod schema;
mod search;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod whole;
mod writer;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tlog_tiles::{Error as TreeError, HashReader, split_stored_hash_index};

use super::Entry;
use super::checkpoint::CheckpointError;
use super::tree::Hash;
use crate::keys::SignError;
use crate::model::Timestamp;

pub use backfill::Trouble;
pub(super) use backfill::Troubles;
pub use reader::{Reader, TileRange};
pub use search::{Filter, Found};
pub use snapshot::{Adopted, Snapshot};
pub(super) use state::State;
pub use whole::Database;
pub(super) use writer::{Commit, End, Row, Store};

/// The folder beside the database that archived entries are in.
const ARCHIVE: &str = "archive";

/// Device and inode of the database, its write-ahead log and its shared memory. Commits live in
/// the second until a checkpoint, so that whoever deletes it deletes entries.
type Identity = [(u64, u64); 3];

/// The stored hashes of the log's tree.
pub(super) struct StoredHashes<'a>(pub(super) &'a Connection);

impl StoredHashes<'_> {
    /// The root of the subtree of `2^level` leaves at that place of its level.
    fn at(&self, level: u8, place: u64) -> Result<Option<Hash>, rusqlite::Error> {
        // The last leaf below it completed it.
        let last = place
            .checked_add(1)
            .filter(|next| level < 63 && *next <= (i64::MAX as u64) >> level)
            .map(|next| (next << level) - 1);
        let Some(entry) = last else {
            return Ok(None);
        };
        let hashes: Option<Vec<u8>> = self
            .0
            .prepare_cached("SELECT hashes FROM tree WHERE idx = ?1")?
            .query_row([entry as i64], |row| row.get(0))
            .optional()?;
        let hashes = hashes.unwrap_or_default();
        let (hashes, _) = hashes.as_chunks();
        Ok(hashes.get(usize::from(level)).copied().map(Hash))
    }
}

impl HashReader for StoredHashes<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, TreeError> {
        indexes
            .iter()
            .map(|index| split_stored_hash_index(*index))
            .map(|(level, place)| match self.at(level, place) {
                Ok(Some(hash)) => Ok(hash),
                Ok(None) => Err(TreeError::IndexesNotInTree),
                Err(error) => Err(TreeError::InvalidInput(error.to_string())),
            })
            .collect()
    }
}

/// The newest checkpoint as it is stored.
fn stored_checkpoint(connection: &Connection) -> Result<Option<String>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT value FROM marks WHERE name = 'checkpoint'")?
        .query_row([], |row| row.get(0))
        .optional()
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis as u64)
}

/// An entry out of its text.
pub(super) fn parse(index: i64, body: &str) -> Result<Entry, StoreError> {
    serde_json::from_str(body).map_err(|source| StoreError::Entry { index, source })
}

fn identity(path: &Path) -> Result<Identity, StoreError> {
    let mut identity = Identity::default();
    for (one, ending) in identity.iter_mut().zip(["", "-wal", "-shm"]) {
        let mut path = path.as_os_str().to_owned();
        path.push(ending);
        let metadata = fs::symlink_metadata(&path).map_err(|source| StoreError::File {
            path: path.into(),
            source,
        })?;
        *one = (metadata.dev(), metadata.ino());
    }
    Ok(identity)
}

fn unreadable(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Corrupt {
            path: path.to_owned(),
        },
        _ => error.into(),
    }
}

/// What is wrong with the log's database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read the log.
    #[error("others can open {path}: run chmod 600 {path} and chown it to the server's user")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The file is another one than the one that was opened.
    #[error(
        "{path}, its -wal or its -shm file was moved, deleted or replaced while the server runs: \
         put the right one back, or restart the server"
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// SQLite can't keep a write-ahead log there.
    #[error(
        "{path} can't have a write-ahead log: put the home on a local file system, not on a network's"
    )]
    NoWal {
        /// The file.
        path: PathBuf,
    },
    /// SQLite finds the file damaged.
    #[error("{path} is damaged or no SQLite database: restore it from a backup")]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// The tree is not the one that the checkpoint was signed for.
    #[error(
        "{path} was changed: {why}; nothing is issued on such a log. Keep the file for whoever \
         finds out, see what does not fit with `hallpass audit verify`, and restore a backup"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// No checkpoint of this log's is in it.
    #[error(
        "{path}: the newest checkpoint: {source}; restore keys/ and hallpass.db from the same \
         backup"
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// A file of archived entries is missing or damaged.
    #[error(
        "{path}: {why}; entries {first} to {} of the log are in it: restore it from a backup",
        next - 1
    )]
    Archive {
        /// The file.
        path: PathBuf,
        /// Its first entry.
        first: u64,
        /// The entry behind its last.
        next: u64,
        /// What is wrong.
        why: String,
    },
    /// A file is where entries should be archived in.
    #[error("{path} is there already and holds something else: move it away, and archive again")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// Entries are missing.
    #[error("{path} has a gap: entries are missing from the log; restore it from a backup")]
    Gap {
        /// The file.
        path: PathBuf,
    },
    /// Another program's database, or another version's.
    #[error(
        "this is not an audit log of this version of Hallpass (application id {application:#x}, \
         schema {version}): use the version that wrote it"
    )]
    Foreign {
        /// SQLite's `application_id`.
        application: i32,
        /// SQLite's `user_version`.
        version: i32,
    },
    /// The version before wrote it.
    #[error(
        "this audit log is of the version of Hallpass before this one: start the server, which \
         upgrades it"
    )]
    Older,
    /// The version before wrote it, and it can't be upgraded.
    #[error(
        "{path} is of the version of Hallpass before this one, could not be upgraded and is as it \
         was: {source}"
    )]
    Upgrade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Something in the database is not as it was made.
    #[error(
        "the {object} of the audit log's database is not what Hallpass made: somebody who can write to \
         the file changed what it does. Keep a copy for whoever finds out, restore a backup, and have \
         `hallpass audit verify --home` go through the log"
    )]
    Altered {
        /// What kind of thing, and its name.
        object: String,
    },
    /// An entry can't be read back.
    #[error("entry {index} can't be read: {source}")]
    Entry {
        /// Its index.
        index: i64,
        /// Why.
        source: serde_json::Error,
    },
    /// No checkpoint could be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// SQLite failed.
    #[error("the audit log's database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}
