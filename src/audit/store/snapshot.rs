//! A log as it is at one moment, copied for a backup, and such a copy made a log again.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::schema::check_format;
use super::{ARCHIVE, Reader, Store, StoreError, archives, unreadable};
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

    /// Checks a copy as [`Self::adopt`] will, but for the files of archived entries.
    ///
    /// # Errors
    /// When anything does not fit.
    pub fn check(&self, copy: &Path, log: &[VerifierKey]) -> Result<(), StoreError> {
        let (_store, size) = Self::open(copy, log)?;
        let archived = self.archives.last().map_or(0, |archive| archive.next);
        check_entries(copy, archived..size)
    }

    /// Makes a copy a log again: checks every entry, archived or not, against the tree and that
    /// against the newest checkpoint, and leaves a mark for the entry that says so. Requests signed
    /// before `now` are not taken on it: those that were taken after the backup are not known.
    ///
    /// Files of archived entries may be missing or damaged: the rest of the log is worth having, and
    /// nothing in it goes by them.
    ///
    /// # Errors
    /// When anything else does not fit.
    pub fn adopt(
        database: &Path,
        log: &[VerifierKey],
        backup: Timestamp,
        nonces_expire: Timestamp,
    ) -> Result<Adopted, StoreError> {
        let (store, size) = Self::open(database, log)?;
        let mut damaged = Vec::new();
        let mut archived = 0;
        for archive in archives::all(store.connection())? {
            archived = archive.next;
            if archive.check(&database.with_file_name(ARCHIVE)).is_ok() {
                check_entries(database, archive.first..archive.next)?;
            } else {
                damaged.push(archive);
            }
        }
        check_entries(database, archived..size)?;
        store.mark_restored(size, backup, nonces_expire)?;
        Ok(Adopted { size, damaged })
    }

    /// Opens a copy, of which the tree fits the newest checkpoint, and what state is rebuilt from
    /// fits the tree. Gives its size as well.
    fn open(copy: &Path, log: &[VerifierKey]) -> Result<(Store, u64), StoreError> {
        let store = Store::open(copy)?;
        let end = store.end(log)?;
        store.state(&end, log, Timestamp::default(), |_| {})?;
        Ok((store, end.tree.size()))
    }
}

/// A copy that is a log again.
pub struct Adopted {
    /// How many entries it has.
    pub size: u64,
    /// The files of archived entries that are not what it recorded.
    pub damaged: Vec<Archive>,
}

/// Checks entries against the tree.
fn check_entries(database: &Path, mut range: Range<u64>) -> Result<(), StoreError> {
    let reader = Reader::open(database)?;
    while !range.is_empty() {
        let page = PAGE.min((range.end - range.start) as usize);
        let entries = reader.range(EntryIndex(range.start), page)?;
        for (index, entry) in (range.start..).zip(&entries) {
            if reader.leaf(EntryIndex(index))? != Some(record_hash(entry.as_bytes())) {
                return Err(StoreError::Changed {
                    path: database.to_owned(),
                    why: format!("entry {index} is not what was committed"),
                });
            }
        }
        range.start += entries.len() as u64;
    }
    Ok(())
}
