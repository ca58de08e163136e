//! A log as it is at one moment, copied for a backup, and such a copy made a log again.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::schema::check_format;
use super::{Reader, Store, StoreError, archives, unreadable};
use crate::audit::archive::Archive;
use crate::audit::{VerifierKey, record_hash};
use crate::model::{EntryIndex, Timestamp};

/// How many entries are checked at once.
const PAGE: usize = 256;

/// What a copy holds.
pub struct Snapshot {
    /// How many entries the log has.
    pub size: u64,
    /// The files of archived entries that belong to it.
    pub archives: Vec<Archive>,
}

impl Snapshot {
    /// Copies a log into an empty file while others read and write it.
    ///
    /// # Errors
    /// When it can't be read or the copy can't be written.
    pub fn take(database: &Path, into: &Path) -> Result<Self, StoreError> {
        let unreadable = |error| unreadable(database, error);
        let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(unreadable)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        check_format(&connection)?;
        let target = into.to_str().ok_or_else(|| StoreError::File {
            path: into.to_owned(),
            source: std::io::ErrorKind::InvalidFilename.into(),
        })?;
        connection
            .execute("VACUUM INTO ?1", [target])
            .map_err(unreadable)?;
        let copy = Connection::open_with_flags(into, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let size: i64 =
            copy.query_row("SELECT coalesce(max(idx) + 1, 0) FROM entries", [], |row| {
                row.get(0)
            })?;
        Ok(Self {
            size: size as u64,
            archives: archives::all(&copy)?,
        })
    }

    /// Makes a copy a log again: checks every entry, archived or not, against the tree and that
    /// against the newest checkpoint, and leaves a mark for the entry that says so. Requests signed
    /// before `now` are not taken on it: those that were taken after the backup are not known.
    ///
    /// # Errors
    /// When anything does not fit.
    pub fn adopt(
        database: &Path,
        log: &[VerifierKey],
        backup: Timestamp,
        nonces_expire: Timestamp,
    ) -> Result<u64, StoreError> {
        let store = Store::open(database)?;
        let end = store.end(log)?;
        store.state_entries(end.checkpoint.as_ref(), Timestamp::default(), |_| {})?;
        let size = end.tree.size();
        let reader = Reader::open(database)?;
        let mut at = 0;
        while at < size {
            let entries = reader.range(EntryIndex(at), PAGE)?;
            for entry in &entries {
                if reader.leaf(EntryIndex(at))? != Some(record_hash(entry.as_bytes())) {
                    return Err(StoreError::Changed {
                        path: database.to_owned(),
                        why: format!("entry {at} is not what was committed"),
                    });
                }
                at += 1;
            }
        }
        drop(reader);
        store.mark_restored(size, backup, nonces_expire)?;
        Ok(size)
    }
}
