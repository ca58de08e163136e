//! Reading a whole database to verify it: also one that nobody should trust.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row};

use super::indexed::Indexed;
use super::schema::check_format;
use super::{Reader, StoreError, archives, stored_checkpoint, unreadable};
use crate::audit::verify::{Beside, Columns, Entries, Stored, Wrong};
use crate::model::EntryIndex;

/// A log's database, opened for reading by several threads. What it holds is not believed.
pub struct Database {
    path: PathBuf,
    /// Connections that no thread uses.
    idle: Mutex<Vec<Connection>>,
    indexed: Indexed,
}

impl Database {
    /// Opens a database beside the server that may be writing to it.
    ///
    /// # Errors
    /// When it can't be opened or is no log.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Self {
            path: path.to_owned(),
            idle: Mutex::default(),
            indexed: Indexed::default(),
        };
        let connection = database.connect()?;
        database.give_back(connection);
        Ok(database)
    }

    /// The signed note of the newest checkpoint, as it is stored.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn newest(&self) -> Result<Option<String>, StoreError> {
        let connection = self.connect()?;
        let note = stored_checkpoint(&connection).map_err(|error| unreadable(&self.path, error))?;
        self.give_back(connection);
        Ok(note)
    }

    /// The index of the last entry or hash that is stored.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn last(&self) -> Result<Option<u64>, StoreError> {
        let connection = self.connect()?;
        let last: Option<i64> = connection
            .query_row(
                "SELECT max(last) FROM (SELECT max(idx) AS last FROM entries
                 UNION ALL SELECT max(idx) FROM tree)",
                [],
                |row| row.get(0),
            )
            .map_err(|error| unreadable(&self.path, error))?;
        self.give_back(connection);
        Ok(last.map(|last| last as u64))
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        // Each is used by one thread at a time.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)
            .map_err(|error| unreadable(&self.path, error))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // All of it is read once, from front to back.
        connection.pragma_update(None, "mmap_size", 1_i64 << 40)?;
        check_format(&connection)?;
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
}

impl Entries for Database {
    fn read(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&Stored<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let connection = self.connect()?;
        let unreadable = |error| Wrong::Store(unreadable(&self.path, error));
        let archived = archives::end(&connection).map_err(unreadable)?;
        let (archived, rest) = (
            range.start..range.end.min(archived),
            range.start.max(archived)..range.end,
        );
        if !archived.is_empty() {
            self.read_archived(&connection, archived, each)?;
        }
        if !rest.is_empty() {
            self.read_rows(&connection, rest, each)?;
        }
        self.give_back(connection);
        Ok(())
    }

    fn check_indexes(&self, size: u64) -> Result<(), Wrong> {
        let connection = self.connect()?;
        let checked = self.indexed.check(&connection, size);
        checked.map_err(|error| Wrong::Store(unreadable(&self.path, error)))?
    }
}

impl Database {
    /// Entries that are in the database, with their hashes beside them.
    fn read_rows(
        &self,
        connection: &Connection,
        range: Range<u64>,
        each: &mut dyn FnMut(&Stored<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let unreadable = |error| Wrong::Store(unreadable(&self.path, error));
        let bounds = [range.start as i64, range.end as i64];
        let mut entries = connection
            .prepare_cached(&format!(
                "{ENTRIES} WHERE idx >= ?1 AND idx < ?2 ORDER BY idx"
            ))
            .map_err(unreadable)?;
        let mut entries = entries.query(bounds).map_err(unreadable)?;
        let mut nodes = connection.prepare_cached(NODES).map_err(unreadable)?;
        let mut nodes = nodes.query(bounds).map_err(unreadable)?;
        let mut indexed = self.indexed.read(&range);
        for index in range {
            let missing = Wrong::Missing { index };
            let Some(entry) = entries.next().map_err(unreadable)? else {
                return Err(missing);
            };
            let Some(node) = nodes.next().map_err(unreadable)? else {
                return Err(missing);
            };
            let place: i64 = node.get(0).map_err(unreadable)?;
            let stored = stored(entry).map_err(unreadable)?;
            let hashes = hashes(node, stored.index.0 as i64 == place).map_err(unreadable)?;
            indexed.take(stored.index.0, &stored.columns);
            each(&Stored {
                beside: Some(Beside {
                    columns: Some(stored.columns),
                    hashes,
                }),
                index: stored.index,
                body: stored.body,
            })?;
        }
        indexed.end();
        Ok(())
    }

    /// Entries that are in a file, of which some are in the database as well.
    fn read_archived(
        &self,
        connection: &Connection,
        range: Range<u64>,
        each: &mut dyn FnMut(&Stored<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let unreadable = |error| Wrong::Store(unreadable(&self.path, error));
        let limit = (range.end - range.start) as usize;
        let bodies = Reader::open(&self.path)?.range(EntryIndex(range.start), limit)?;
        let mut kept = connection
            .prepare_cached(&format!("{ENTRIES} WHERE idx = ?1"))
            .map_err(unreadable)?;
        let mut nodes = connection.prepare_cached(NODES).map_err(unreadable)?;
        let mut indexed = self.indexed.read(&range);
        for (index, body) in range.zip(&bodies) {
            let mut kept = kept.query([index as i64]).map_err(unreadable)?;
            let kept = kept.next().map_err(unreadable)?;
            let kept = kept.map(stored).transpose().map_err(unreadable)?;
            if kept.as_ref().is_some_and(|kept| kept.body != body) {
                return Err(Wrong::Entry {
                    index,
                    why: "the archive and the database have it differently".to_owned(),
                });
            }
            let columns = match &kept {
                Some(kept) => Some(kept.columns),
                None => Columns::of_archived(body),
            };
            if let Some(columns) = columns {
                indexed.take(index, &columns);
            }
            let bounds = [index as i64, index as i64 + 1];
            let mut node = nodes.query(bounds).map_err(unreadable)?;
            let Some(node) = node.next().map_err(unreadable)? else {
                return Err(Wrong::Missing { index });
            };
            each(&Stored {
                index: EntryIndex(index),
                body,
                beside: Some(Beside {
                    columns: kept.map(|kept| kept.columns),
                    hashes: hashes(node, true).map_err(unreadable)?,
                }),
            })?;
        }
        indexed.end();
        Ok(())
    }
}

const ENTRIES: &str =
    "SELECT idx, time, kind, requester, subject, first_role, first_purpose, serial, body
     FROM entries";
const NODES: &str = "SELECT idx, hashes FROM tree WHERE idx >= ?1 AND idx < ?2 ORDER BY idx";

/// What the row of an entry holds.
struct StoredRow<'a> {
    index: EntryIndex,
    body: &'a str,
    columns: Columns<'a>,
}

fn stored<'a>(entry: &'a Row<'_>) -> Result<StoredRow<'a>, rusqlite::Error> {
    let text = |column: usize| Ok::<_, rusqlite::Error>(entry.get_ref(column)?.as_str_or_null()?);
    Ok(StoredRow {
        index: EntryIndex(entry.get::<_, i64>(0)? as u64),
        body: entry.get_ref(8)?.as_str()?,
        columns: Columns {
            time: entry.get::<_, i64>(1)? as u64,
            kind: text(2)?.unwrap_or_default(),
            requester: text(3)?,
            subject: text(4)?,
            first_role: text(5)?,
            first_purpose: text(6)?,
            serial: entry.get::<_, Option<i64>>(7)?.map(|serial| serial as u64),
        },
    })
}

/// The hashes of a row; of one that is missing there are none.
fn hashes<'a>(node: &'a Row<'_>, there: bool) -> Result<&'a [u8], rusqlite::Error> {
    if there {
        Ok(node.get_ref(1)?.as_blob()?)
    } else {
        Ok(&[])
    }
}
