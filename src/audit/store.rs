//! The log's SQLite database: all of the SQL there is.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params, params_from_iter};

use super::Entry;
use crate::keys::is_private;
use crate::model::{EntryIndex, Purpose, RoleName, Serial, Timestamp, UserName};

/// Marks the file as Hallpass's ("hall").
const APPLICATION_ID: i32 = 0x6861_6c6c;
const SCHEMA_VERSION: i32 = 1;
/// No request's nonce, but until when nonces were swept. Shorter than any nonce.
const SWEPT: &str = "swept";

const SCHEMA: &str = "
CREATE TABLE entries (
    idx       INTEGER PRIMARY KEY,
    time      INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    requester TEXT,
    subject   TEXT,
    role      TEXT,
    purpose   TEXT,
    serial    INTEGER,
    body      TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_serial ON entries (serial) WHERE serial IS NOT NULL;
CREATE INDEX entries_time ON entries (time);
CREATE INDEX entries_requester ON entries (requester) WHERE requester IS NOT NULL;
CREATE INDEX entries_subject ON entries (subject) WHERE subject IS NOT NULL;
CREATE INDEX entries_role ON entries (role) WHERE role IS NOT NULL;
CREATE INDEX entries_purpose ON entries (purpose) WHERE purpose IS NOT NULL;
-- Few entries are of a kind that state is rebuilt from.
CREATE INDEX entries_state ON entries (kind)
    WHERE kind NOT IN ('certificate-issued', 'request-refused', 'unauthenticated-refused');
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER entries_remain BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- Nonces of requests that are young enough to be replayed.
CREATE TABLE nonces (nonce TEXT PRIMARY KEY, expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX nonces_expires ON nonces (expires);
";

/// The writing side. There is one, behind the log's writer thread.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    /// The files that were opened.
    identity: Identity,
}

/// Device and inode of the database, its write-ahead log and its shared memory. Commits live in
/// the second until a checkpoint, so that whoever deletes it deletes entries.
type Identity = [(u64, u64); 3];

/// An entry with what the indexes need, serialized ahead of the writer.
pub(super) struct Row {
    pub(super) index: EntryIndex,
    time: Timestamp,
    kind: &'static str,
    requester: Option<String>,
    subject: Option<String>,
    role: Option<String>,
    purpose: Option<String>,
    serial: Option<Serial>,
    body: String,
}

impl Row {
    pub(super) fn new(entry: &Entry) -> Result<Self, serde_json::Error> {
        let request = entry.event.request();
        Ok(Self {
            index: entry.index,
            time: entry.time,
            kind: entry.event.kind(),
            requester: entry.event.requester().map(UserName::to_string),
            subject: entry.event.subject().map(UserName::to_string),
            role: request.map(|asked| asked.role.to_string()),
            purpose: request.map(|asked| asked.purpose.to_string()),
            serial: entry
                .event
                .certificate()
                .map(|certificate| certificate.serial),
            body: serde_json::to_string(entry)?,
        })
    }
}

/// Where the log ends.
pub(super) struct End {
    pub(super) length: u64,
    pub(super) last_time: Timestamp,
    pub(super) last_serial: u64,
}

impl Store {
    /// Makes an empty log in a file that must not exist.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::File {
                path: path.to_owned(),
                source,
            })?;
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        Self::set_up(connection, path)
    }

    /// Opens a log and checks that it is one.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let metadata = fs::metadata(path).map_err(|source| StoreError::File {
            path: path.to_owned(),
            source,
        })?;
        if !is_private(&metadata) {
            return Err(StoreError::Exposed {
                path: path.to_owned(),
            });
        }
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(|error| unreadable(path, error))?;
        check_format(&connection).map_err(|error| match error {
            StoreError::Sqlite(error) => unreadable(path, error),
            other => other,
        })?;
        Self::set_up(connection, path)
    }

    fn set_up(connection: Connection, path: &Path) -> Result<Self, StoreError> {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        // Asked for at each opening: a copy that SQLite made has lost it, and with it the promise
        // of what a commit means.
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::NoWal {
                path: path.to_owned(),
            });
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Makes the files that a commit needs.
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self {
            identity: identity(path)?,
            connection,
            path: path.to_owned(),
        })
    }

    /// Checks the pages and that entries follow each other without a gap.
    pub(super) fn end(&self) -> Result<End, StoreError> {
        let read = || -> Result<End, rusqlite::Error> {
            let (count, last): (i64, Option<i64>) =
                self.connection
                    .query_row("SELECT count(*), max(idx) FROM entries", [], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })?;
            if last.map_or(0, |last| last + 1) != count {
                return Err(rusqlite::Error::IntegralValueOutOfRange(1, count));
            }
            let last_time: Option<i64> = self
                .connection
                .query_row("SELECT time FROM entries WHERE idx = ?1", [last], |row| {
                    row.get(0)
                })
                .optional()?;
            // Not the highest: that may be from a clock which was ahead, and was corrected.
            let last_serial: Option<i64> = self
                .connection
                .query_row(
                    "SELECT serial FROM entries WHERE serial IS NOT NULL
                     ORDER BY idx DESC LIMIT 1",
                    [],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(End {
                length: count as u64,
                last_time: Timestamp::from_millis(last_time.unwrap_or(0) as u64),
                last_serial: last_serial.unwrap_or(0) as u64,
            })
        };
        read().map_err(|error| match error {
            rusqlite::Error::IntegralValueOutOfRange(..) => StoreError::Gap {
                path: self.path.clone(),
            },
            error => unreadable(&self.path, error),
        })
    }

    /// The entries that state is rebuilt from, in order.
    pub(super) fn state_entries(&self, mut each: impl FnMut(Entry)) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT idx, body FROM entries INDEXED BY entries_state
             WHERE kind NOT IN ('certificate-issued', 'request-refused', 'unauthenticated-refused')
             ORDER BY idx",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next().map_err(|error| unreadable(&self.path, error))? {
            each(parse(row.get(0)?, &row.get::<_, String>(1)?)?);
        }
        Ok(())
    }

    /// The nonces that have not expired at `now`.
    pub(super) fn nonces(&self, now: Timestamp) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT nonce, expires FROM nonces WHERE expires >= ?1 AND nonce <> ?2")?;
        let rows = statement.query_map(params![now.as_millis() as i64, SWEPT], |row| {
            Ok((row.get(0)?, timestamp(row.get(1)?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// When the last nonce expired that is not among [`Self::nonces`] any more. After `now`, when
    /// a clock that was ahead has swept away some that count.
    pub(super) fn forgotten(&self, now: Timestamp) -> Result<Timestamp, StoreError> {
        let latest: Option<i64> = self.connection.query_row(
            "SELECT max(expires) FROM nonces WHERE expires < ?1 OR nonce = ?2",
            params![now.as_millis() as i64, SWEPT],
            |row| row.get(0),
        )?;
        Ok(timestamp(latest.unwrap_or_default()))
    }

    /// Commits rows and nonces in one transaction; the first row goes to index `next`. When it
    /// returns, they are on disk. `sweep` has nonces that expired before it deleted; `probe` has
    /// it tried whether an entry could be written.
    pub(super) fn commit(
        &mut self,
        next: u64,
        rows: &[Row],
        nonces: &[(String, Timestamp)],
        sweep: Option<Timestamp>,
        probe: bool,
    ) -> Result<(), StoreError> {
        self.check_files()?;
        let mut transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let last: Option<i64> = transaction
            .prepare_cached("SELECT max(idx) FROM entries")?
            .query_row([], |row| row.get(0))?;
        if last.map_or(0, |last| last as u64 + 1) != next {
            return Err(StoreError::Gap {
                path: self.path.clone(),
            });
        }
        if probe {
            let savepoint = transaction.savepoint()?;
            savepoint
                .prepare_cached(
                    "INSERT INTO entries (idx, time, kind, body) VALUES (?1, 0, 'probe', '')",
                )?
                .execute([next as i64])?;
            drop(savepoint);
            // Of a transaction that changes nothing, nothing would be written.
            transaction
                .prepare_cached(
                    "INSERT INTO nonces (nonce, expires) VALUES ('probe', 0)
                     ON CONFLICT (nonce) DO UPDATE SET expires = 1 - expires",
                )?
                .execute([])?;
        }
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO entries
                 (idx, time, kind, requester, subject, role, purpose, serial, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for row in rows {
                insert.execute(params![
                    row.index.0 as i64,
                    row.time.as_millis() as i64,
                    row.kind,
                    row.requester,
                    row.subject,
                    row.role,
                    row.purpose,
                    row.serial.map(|serial| serial.get() as i64),
                    row.body,
                ])?;
            }
            let mut insert = transaction
                .prepare_cached("INSERT OR REPLACE INTO nonces (nonce, expires) VALUES (?1, ?2)")?;
            for (nonce, expires) in nonces {
                insert.execute(params![nonce, expires.as_millis() as i64])?;
            }
            if let Some(before) = sweep {
                let before = before.as_millis() as i64;
                transaction.execute("DELETE FROM nonces WHERE expires < ?1", [before])?;
                transaction.execute(
                    "INSERT OR REPLACE INTO nonces (nonce, expires) VALUES (?1, ?2)",
                    params![SWEPT, before],
                )?;
            }
        }
        transaction.commit()?;
        // What was deleted in the middle took the commit with it.
        self.check_files()
    }

    fn check_files(&self) -> Result<(), StoreError> {
        if identity(&self.path).ok() == Some(self.identity) {
            return Ok(());
        }
        // Commits that only a deleted write-ahead log has are saved while we still have it open.
        if let Err(error) = self.checkpoint() {
            tracing::error!(%error, "entries may be lost");
        }
        Err(StoreError::Replaced {
            path: self.path.clone(),
        })
    }

    /// Brings what is in the write-ahead log into the database.
    fn checkpoint(&self) -> Result<(), rusqlite::Error> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))
    }
}

/// The reading side: its own connection, never in the writer's way.
pub struct Reader {
    connection: Mutex<Connection>,
}

/// Which entries to list. All that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Who asked, or whom it was done to.
    pub user: Option<UserName>,
    /// The role asked for.
    pub role: Option<RoleName>,
    /// The purpose asked for.
    pub purpose: Option<Purpose>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// The certificate's serial number.
    pub serial: Option<Serial>,
    /// From this index on.
    pub from: EntryIndex,
}

impl Reader {
    /// Opens a log for reading.
    ///
    /// # Errors
    /// When it can't be opened or is none.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        check_format(&connection)?;
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    /// At most `limit` entries that match, oldest first, as stored.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn list(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<(EntryIndex, String)>, StoreError> {
        let mut sql = String::from("SELECT idx, body FROM entries WHERE idx >= ?");
        let mut values = vec![Value::from(filter.from.0 as i64)];
        let mut add = |condition: &str, value: Option<Value>| {
            if let Some(value) = value {
                sql.push_str(condition);
                values.push(value);
            }
        };
        let text = |text: &str| Value::from(text.to_owned());
        let millis = |time: Timestamp| Value::from(time.as_millis() as i64);
        let user = filter.user.as_ref().map(|name| text(name.as_str()));
        add(" AND (requester = ?", user.clone());
        add(" OR subject = ?)", user);
        add(
            " AND role = ?",
            filter.role.as_ref().map(|name| text(name.as_str())),
        );
        add(
            " AND purpose = ?",
            filter.purpose.as_ref().map(|name| text(name.as_str())),
        );
        add(" AND time >= ?", filter.since.map(millis));
        add(" AND time < ?", filter.until.map(millis));
        add(
            " AND serial = ?",
            filter.serial.map(|serial| Value::from(serial.get() as i64)),
        );
        sql.push_str(" ORDER BY idx LIMIT ?");
        values.push(Value::from(limit as i64));

        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(values), |row| {
            Ok((EntryIndex(row.get::<_, i64>(0)? as u64), row.get(1)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis as u64)
}

fn parse(index: i64, body: &str) -> Result<Entry, StoreError> {
    serde_json::from_str(body).map_err(|source| StoreError::Entry { index, source })
}

fn check_format(connection: &Connection) -> Result<(), StoreError> {
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if application != APPLICATION_ID || version != SCHEMA_VERSION {
        return Err(StoreError::Foreign {
            application,
            version,
        });
    }
    Ok(())
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
    /// An entry can't be read back.
    #[error("entry {index} can't be read: {source}")]
    Entry {
        /// Its index.
        index: i64,
        /// Why.
        source: serde_json::Error,
    },
    /// SQLite failed.
    #[error("the audit log's database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}
