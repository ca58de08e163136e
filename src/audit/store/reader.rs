//! The reading side.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::schema::check_format;
use super::search::{Filter, Found, Search, windows};
use super::{ARCHIVE, StoreError, StoredHashes, archives, parse};
use crate::audit::archive::{self, Archive, ArchiveFile, PIECE};
use crate::audit::proof::{Hashes, ProofError};
use crate::audit::range::Stretch;
use crate::audit::tree::{Hash, record_hash};
use crate::model::{EntryIndex, Serial, Timestamp};

/// The newest entries are never archived.
const NEWEST: u64 = 1000;
/// How many files of archived entries are kept open.
const MOST_FILES: usize = 8;

/// The reading side: its own connection, never in the writer's way.
pub struct Reader {
    connection: Mutex<Connection>,
    path: PathBuf,
    /// Where archived entries are.
    folder: PathBuf,
    /// The files of archived entries that were read last.
    files: Mutex<Vec<Arc<ArchiveFile>>>,
}

/// Hashes of a level that stand side by side: a tile of C2SP tlog-tiles, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileRange {
    /// The level of the tiles: each is 8 levels of the tree high.
    pub level: u8,
    /// Which tile of the level.
    pub index: u64,
    /// How many hashes, 1 to 256.
    pub width: u16,
}

impl Reader {
    /// Opens a log for reading.
    ///
    /// # Errors
    /// When it can't be opened or is none.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        check_format(&connection)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self {
            connection: Mutex::new(connection),
            path: path.to_owned(),
            folder: path.with_file_name(ARCHIVE),
            files: Mutex::default(),
        })
    }

    /// At most `limit` entries that match, also of those that are archived. A search for what is
    /// rare gives up early and says where to go on.
    ///
    /// # Errors
    /// When the database or a file of archived entries can't be read.
    pub fn list(&self, filter: &Filter, limit: usize) -> Result<Found, StoreError> {
        if let Some(serial) = filter.serial {
            return self.of_serial(filter, serial, limit);
        }
        let mut search = Search::new(filter, limit);
        let mut from = filter.from.0;
        loop {
            let (archive, window) = {
                let connection = self.connection();
                // Of one moment: what is not in a file yet is still in the table.
                let snapshot = connection.unchecked_transaction()?;
                let windows = windows(&snapshot, filter.since, filter.until, from)?;
                let Some(window) = windows.first().cloned() else {
                    return Ok(search.found);
                };
                match archives::holding(&snapshot, window.start)? {
                    Some(archive) => (archive, window),
                    None => {
                        for window in windows {
                            search.in_table(&snapshot, window)?;
                        }
                        return Ok(search.found);
                    }
                }
            };
            let (first, piece) = match self.piece(&archive, window.start) {
                // What was found in front of it is good. Whoever goes on is told.
                Err(StoreError::Archive { .. }) if !search.found.entries.is_empty() => {
                    search.found.next = Some(EntryIndex(window.start));
                    return Ok(search.found);
                }
                piece => piece?,
            };
            // Beyond its end, another window may begin.
            from = window.end.min(first + piece.len() as u64);
            for (index, body) in (first..).zip(piece) {
                if !window.contains(&index) {
                    continue;
                }
                search.look_at(index, &body)?;
                if search.is_over() {
                    return Ok(search.found);
                }
            }
        }
    }

    /// The one entry whose certificate has that serial, if the rest of the filter fits.
    fn of_serial(
        &self,
        filter: &Filter,
        serial: Serial,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let index: Option<i64> = self
            .connection()
            .prepare_cached(
                "SELECT idx FROM entries WHERE serial = ?1
                 UNION ALL SELECT idx FROM archived_serials WHERE serial = ?1",
            )?
            .query_row([serial.get() as i64], |row| row.get(0))
            .optional()?;
        let Some(index) = index else {
            return Ok(Found::default());
        };
        let mut found = Found::default();
        for body in self.range(EntryIndex(index as u64), limit.min(1))? {
            if filter.from.0 <= index as u64 && filter.fits(&parse(index, &body)?) {
                found.entries.push((EntryIndex(index as u64), body));
            }
        }
        Ok(found)
    }

    /// The entries from `from` on, at most `limit`, as stored, one after the other whether they are
    /// archived or not.
    ///
    /// # Errors
    /// When the database or a file of archived entries can't be read, or an entry is missing.
    pub fn range(&self, from: EntryIndex, limit: usize) -> Result<Vec<String>, StoreError> {
        let mut entries = Vec::new();
        while entries.len() < limit {
            let at = from.0 + entries.len() as u64;
            let room = limit - entries.len();
            let archive = {
                let connection = self.connection();
                let snapshot = connection.unchecked_transaction()?;
                match archives::holding(&snapshot, at)? {
                    Some(archive) => archive,
                    None => {
                        entries.extend(self.rows(&snapshot, at, room)?);
                        break;
                    }
                }
            };
            let (first, piece) = self.piece(&archive, at)?;
            entries.extend(piece.into_iter().skip((at - first) as usize).take(room));
        }
        Ok(entries)
    }

    /// Entries that are not archived, of which none may be missing.
    fn rows(
        &self,
        connection: &Connection,
        from: u64,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let mut statement = connection.prepare_cached(
            "SELECT idx, body FROM entries WHERE idx >= ?1 ORDER BY idx LIMIT ?2",
        )?;
        let mut rows = statement.query([from as i64, limit as i64])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(0)? as u64 != from + entries.len() as u64 {
                return Err(StoreError::Gap {
                    path: self.path.clone(),
                });
            }
            entries.push(row.get(1)?);
        }
        Ok(entries)
    }

    /// The 256 archived entries that the entry `at` is among, each of them what the tree says, with
    /// the index of the first.
    fn piece(&self, archive: &Archive, at: u64) -> Result<(u64, Vec<String>), StoreError> {
        let file = self.archive_file(archive)?;
        let (first, entries) = file.piece(at)?;
        let connection = self.connection();
        let stored = StoredHashes(&connection);
        for (index, entry) in (first..).zip(&entries) {
            if stored.at(0, index)? != Some(record_hash(entry.as_bytes())) {
                return Err(file.damaged(&format!("entry {index} in it was changed")));
            }
        }
        Ok((first, entries))
    }

    fn archive_file(&self, archive: &Archive) -> Result<Arc<ArchiveFile>, StoreError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.iter().find(|file| file.archive == *archive) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(ArchiveFile::open(&self.folder, archive)?);
        if files.len() == MOST_FILES {
            files.remove(0);
        }
        files.push(Arc::clone(&file));
        Ok(file)
    }

    /// The folder of the archived entries.
    pub(in crate::audit) fn archive_folder(&self) -> &Path {
        &self.folder
    }

    /// The entries from before that time that the next archived file takes: neither the newest nor
    /// the last certificate, which the next start goes by.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn archivable(&self, before: Timestamp) -> Result<Option<(u64, u64)>, StoreError> {
        let connection = self.connection();
        let snapshot = connection.unchecked_transaction()?;
        let (end, last_serial): (i64, i64) = snapshot.query_row(
            "SELECT coalesce(max(idx) + 1, 0), coalesce(
                 (SELECT idx FROM entries WHERE serial IS NOT NULL ORDER BY idx DESC LIMIT 1), 0)
             FROM entries",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let archived = archives::end(&snapshot)?;
        let newer = windows(&snapshot, Some(before), None, archived)?;
        let older = newer.first().map_or(end as u64, |window| window.start);
        let limit = older
            .min((end as u64).saturating_sub(NEWEST))
            .min(last_serial as u64);
        Ok(archive::plan(archived, limit))
    }

    /// Before which place archived entries may be deleted, if there are any left: the files that have
    /// them are read again and are what the log recorded.
    ///
    /// # Errors
    /// When such a file is missing or was changed, so that the database may have the only copy, or
    /// when the database can't be read.
    pub fn clearable(&self) -> Result<Option<u64>, StoreError> {
        let (files, cleared) = {
            let connection = self.connection();
            (archives::all(&connection)?, archives::cleared(&connection)?)
        };
        let left = files.iter().filter(|archive| archive.next > cleared);
        let mut before = None;
        for archive in left {
            ArchiveFile::open(&self.folder, archive)?;
            before = Some(archive.next);
        }
        Ok(before)
    }

    /// The files of archived entries that are not where they should be.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn missing_archives(&self) -> Result<Vec<PathBuf>, StoreError> {
        let files = archives::all(&self.connection())?;
        let paths = files.iter().map(|archive| self.folder.join(&archive.file));
        Ok(paths.filter(|path| !path.is_file()).collect())
    }

    /// Where the entries of a time stand: all of them, and between the first and the last no others
    /// but where the clock was corrected.
    ///
    /// # Errors
    /// When the database or a file of archived entries can't be read.
    pub fn span(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<(u64, u64), StoreError> {
        let windows = windows(&self.connection(), since, until, 0)?;
        // Among archived entries, the table has only every 256th: the ends are looked at closely.
        for (place, window) in windows.iter().enumerate() {
            let first = self.first_since(window, since)?;
            if first == window.end {
                continue;
            }
            for window in windows[place..].iter().rev() {
                let next = self.last_before(first.max(window.start)..window.end, until)?;
                if next > window.start.max(first) {
                    return Ok((first, next));
                }
            }
        }
        Ok((0, 0))
    }

    /// The first of a window that is not before `since`; its end when there is none.
    fn first_since(
        &self,
        window: &Range<u64>,
        since: Option<Timestamp>,
    ) -> Result<u64, StoreError> {
        let mut first = window.start;
        let Some(since) = since else {
            return Ok(first);
        };
        while first < window.end {
            let times = self.times(first, window.end)?;
            let before = times.iter().take_while(|time| **time < since).count();
            first += before as u64;
            if before < times.len() || times.is_empty() {
                break;
            }
        }
        Ok(first)
    }

    /// Behind the last of a window that is before `until`; its start when there is none.
    fn last_before(&self, window: Range<u64>, until: Option<Timestamp>) -> Result<u64, StoreError> {
        let mut next = window.end;
        let Some(until) = until else {
            return Ok(next);
        };
        while next > window.start {
            let from = window.start.max(next.saturating_sub(PIECE));
            let times = self.times(from, next)?;
            let behind = times.iter().rev().take_while(|time| **time >= until);
            let behind = behind.count();
            next -= behind as u64;
            if behind < times.len() || times.is_empty() {
                break;
            }
        }
        Ok(next)
    }

    /// The times of the next 256 entries, or of fewer where they end before `next`.
    fn times(&self, first: u64, next: u64) -> Result<Vec<Timestamp>, StoreError> {
        let bodies = self.range(EntryIndex(first), PIECE.min(next - first) as usize)?;
        (first as i64..)
            .zip(bodies)
            .map(|(index, body)| Ok(parse(index, &body)?.time))
            .collect()
    }

    /// Proves that an entry is in the log of that size.
    ///
    /// # Errors
    /// When it is not, or the database can't be read.
    pub fn inclusion(&self, index: EntryIndex, size: u64) -> Result<Hashes, ProofError> {
        Hashes::of_inclusion(index, size, &StoredHashes(&self.connection()))
    }

    /// Proves that the log of one size begins with the log of the other.
    ///
    /// # Errors
    /// When the log is not that long, or the database can't be read.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Hashes, ProofError> {
        Hashes::of_consistency(old, new, &StoredHashes(&self.connection()))
    }

    /// Proves that entries are all that the log has from one to before another.
    ///
    /// # Errors
    /// When the log is not that long, or the database can't be read.
    pub fn around(&self, stretch: Stretch) -> Result<Hashes, ProofError> {
        stretch.prove(&StoredHashes(&self.connection()))
    }

    /// The hash of an entry, when there is one at that place.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn leaf(&self, index: EntryIndex) -> Result<Option<Hash>, StoreError> {
        Ok(StoredHashes(&self.connection()).at(0, index.0)?)
    }

    /// The hashes of a tile; nothing when the log does not have all of them.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn tile(&self, range: TileRange) -> Result<Option<Vec<u8>>, StoreError> {
        let connection = self.connection();
        let stored = StoredHashes(&connection);
        let mut hashes = Vec::with_capacity(usize::from(range.width) * 32);
        // No log is that long.
        let Some(first) = range.index.checked_mul(256) else {
            return Ok(None);
        };
        for place in first..first.saturating_add(range.width.into()) {
            match stored.at(range.level * 8, place)? {
                Some(hash) => hashes.extend_from_slice(&hash.0),
                None => return Ok(None),
            }
        }
        Ok(Some(hashes))
    }

    /// The note of the newest checkpoint that a witness cosigned, as it was kept.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn cosigned(&self, witness: &str) -> Result<Option<String>, StoreError> {
        Ok(self
            .connection()
            .prepare_cached("SELECT value FROM marks WHERE name = 'cosigned:' || ?1")?
            .query_row([witness], |row| row.get(0))
            .optional()?)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
