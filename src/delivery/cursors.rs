//! How far each delivery has come, kept in `delivery.db` in the home: all of its SQL.
//!
//! The file is not the log's, so that the log's one writer never waits for it. What it loses is
//! sent again, and nothing more: a commit need not be on disk at once.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::audit::Hash;
use crate::keys::is_private;
use crate::model::DeliveryName;

/// Marks the file as Hallpass's ("hald").
const APPLICATION_ID: i32 = 0x6861_6c64;
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
-- The first entry that is not delivered for good, and the hash of the one before it.
CREATE TABLE cursors (
    delivery TEXT PRIMARY KEY,
    next     INTEGER NOT NULL,
    last     BLOB NOT NULL
) STRICT, WITHOUT ROWID;
";

/// The cursors of all deliveries. Cheap to use: a commit is not waited for until it is on disk.
pub(super) struct Cursors(Mutex<Connection>);

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cursor {
    /// The first entry that is not delivered for good.
    pub(super) next: u64,
    /// The hash of the entry before it, by which another log is noticed.
    pub(super) last: Hash,
}

impl Cursors {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, CursorError> {
        let of_file = |source| CursorError::File {
            path: path.to_owned(),
            source,
        };
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !is_private(&fs::metadata(path).map_err(of_file)?) {
                    return Err(CursorError::Exposed {
                        path: path.to_owned(),
                    });
                }
            }
            made => {
                made.map_err(of_file)?;
            }
        }
        let connection = connect(path).map_err(|source| CursorError::Sqlite {
            path: path.to_owned(),
            source,
        })?;
        connection
            .map(|connection| Self(Mutex::new(connection)))
            .ok_or_else(|| CursorError::Foreign {
                path: path.to_owned(),
            })
    }

    /// How far a delivery has come; nothing when it is new.
    pub(super) fn of(&self, name: &DeliveryName) -> Result<Option<Cursor>, rusqlite::Error> {
        self.connection()
            .prepare_cached("SELECT next, last FROM cursors WHERE delivery = ?1")?
            .query_row([name.as_str()], |row| {
                let next: i64 = row.get(0)?;
                Ok(Cursor {
                    next: next as u64,
                    last: Hash(row.get(1)?),
                })
            })
            .optional()
    }

    /// Keeps how far a delivery has come.
    pub(super) fn set(&self, name: &DeliveryName, cursor: &Cursor) -> Result<(), rusqlite::Error> {
        self.connection()
            .prepare_cached("INSERT OR REPLACE INTO cursors VALUES (?1, ?2, ?3)")?
            .execute(params![name.as_str(), cursor.next as i64, cursor.last.0])?;
        Ok(())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing when the file is another program's or another version's.
fn connect(path: &Path) -> Result<Option<Connection>, rusqlite::Error> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let transaction = connection.transaction()?;
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get(0));
    let (application, version): (i32, i32) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, tables) == (0, 0, 0) {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    } else if (application, version) != (APPLICATION_ID, SCHEMA_VERSION) {
        return Ok(None);
    }
    transaction.commit()?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(Some(connection))
}

/// Why it is not known how far the deliveries have come.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The file can't be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can change it.
    #[error("others can open {path}: run chmod 600 {path} and chown it to the server's user")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error(
        "{path} was not written by this version of Hallpass: use the version that wrote it, or \
         remove it, and all entries are delivered again"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error(
        "{path}: {source}; without it, all entries are delivered again: remove it if it is damaged"
    )]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}
