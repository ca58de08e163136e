//! The witness's SQLite database: all of its SQL.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use crate::audit::{Checkpoint, Frontier, Hash};
use crate::keys::{SignError, is_private};

/// Marks the file as a Hallpass witness's ("hwit").
const APPLICATION_ID: i32 = 0x6877_6974;
const SCHEMA_VERSION: i32 = 1;

/// The triggers hold what a witness stands for, whatever else goes wrong.
const SCHEMA: &str = "
CREATE TABLE logs (
    origin TEXT PRIMARY KEY,
    size   INTEGER NOT NULL,
    root   BLOB NOT NULL,
    time   INTEGER NOT NULL,
    note   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER logs_grow BEFORE UPDATE ON logs
    WHEN new.origin <> old.origin OR new.size < old.size OR new.time < old.time
        OR (new.size = old.size AND new.root <> old.root)
    BEGIN SELECT RAISE(ABORT, 'a witness cosigns no log that shrinks or changes'); END;
CREATE TRIGGER logs_remain BEFORE DELETE ON logs
    BEGIN SELECT RAISE(ABORT, 'a witness forgets nothing'); END;
";

/// What the witness cosigned.
pub(super) struct Store {
    connection: Connection,
}

/// What was cosigned last for a log.
#[derive(Debug, PartialEq)]
pub(super) struct Latest {
    pub(super) size: u64,
    pub(super) root: Hash,
    /// When, in seconds since 1970.
    pub(super) time: u64,
    /// The signed note; empty when nothing was cosigned yet.
    pub(super) note: String,
}

/// A look at what was cosigned during which nobody else cosigns.
pub(super) struct Turn<'a>(Transaction<'a>);

impl Store {
    /// Makes an empty store in a file that must not exist.
    pub(super) fn create(path: &Path) -> Result<Self, WitnessStoreError> {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| WitnessStoreError::File {
                path: path.to_owned(),
                source,
            })?;
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Self::set_up(connection, path)
    }

    /// Opens a store. One that is missing is never made anew: a witness that forgot what it
    /// cosigned would cosign anything.
    pub(super) fn open(path: &Path) -> Result<Self, WitnessStoreError> {
        let metadata = fs::metadata(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => WitnessStoreError::Missing {
                path: path.to_owned(),
            },
            _ => WitnessStoreError::File {
                path: path.to_owned(),
                source,
            },
        })?;
        if !is_private(&metadata) {
            return Err(WitnessStoreError::Exposed {
                path: path.to_owned(),
            });
        }
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let foreign = || WitnessStoreError::Foreign {
            path: path.to_owned(),
        };
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        // A file that is no database at all shows here.
        let application = pragma("application_id").map_err(|_| foreign())?;
        if application != APPLICATION_ID || pragma("user_version")? != SCHEMA_VERSION {
            return Err(foreign());
        }
        Self::set_up(connection, path)
    }

    fn set_up(connection: Connection, path: &Path) -> Result<Self, WitnessStoreError> {
        connection.busy_timeout(Duration::from_secs(5))?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(WitnessStoreError::NoWal {
                path: path.to_owned(),
            });
        }
        // A cosignature that left the house must not be forgotten in a power failure.
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self { connection })
    }

    /// Keeps everybody else out, another process on the same file included, until the turn ends.
    pub(super) fn turn(&mut self) -> Result<Turn<'_>, WitnessStoreError> {
        let behavior = TransactionBehavior::Immediate;
        Ok(Turn(self.connection.transaction_with_behavior(behavior)?))
    }
}

impl Turn<'_> {
    /// What was cosigned last for a log: its beginning, when nothing was.
    pub(super) fn latest(&self, origin: &str) -> Result<Latest, WitnessStoreError> {
        let found = self
            .0
            .prepare_cached("SELECT size, root, time, note FROM logs WHERE origin = ?1")?
            .query_row([origin], |row| {
                Ok(Latest {
                    size: row.get::<_, i64>(0)? as u64,
                    root: Hash(row.get(1)?),
                    time: row.get::<_, i64>(2)? as u64,
                    note: row.get(3)?,
                })
            })
            .optional()?;
        Ok(found.unwrap_or_else(|| Latest {
            size: 0,
            root: Frontier::default().root(),
            time: 0,
            note: String::new(),
        }))
    }

    /// Makes a checkpoint the last that was cosigned. When it returns, that is on disk.
    pub(super) fn keep(
        self,
        origin: &str,
        checkpoint: &Checkpoint,
        time: u64,
    ) -> Result<(), WitnessStoreError> {
        self.0
            .prepare_cached(
                "INSERT INTO logs (origin, size, root, time, note) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (origin) DO UPDATE SET size = ?2, root = ?3, time = ?4, note = ?5",
            )?
            .execute(params![
                origin,
                checkpoint.size as i64,
                checkpoint.root.0,
                time as i64,
                checkpoint.note(),
            ])?;
        Ok(self.0.commit()?)
    }
}

/// What is wrong with the witness's database.
#[derive(Debug, thiserror::Error)]
pub enum WitnessStoreError {
    /// The file is gone.
    #[error(
        "{path} is missing: it holds what this witness cosigned, and without it the witness could \
         be made to cosign another history; make a new witness, with a new key"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can get at it.
    #[error("others can open {path}: run chmod 600 {path} and chown it to the server's user")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is not the database of a witness of this version of Hallpass, or is damaged")]
    Foreign {
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
    /// No cosignature could be made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// SQLite failed.
    #[error("the witness's database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}
