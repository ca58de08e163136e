//! The writing side: one transaction for all that waits.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::backfill::{Backfill, Troubles};
use super::schema;
use super::{
    Identity, StoreError, StoredHashes, archives, identity, stored_checkpoint, timestamp,
    unreadable,
};
use crate::audit::archive::Archive;
use crate::audit::checkpoint::{Checkpoint, VerifierKey};
use crate::audit::firsts::Firsts;
use crate::audit::tree::{Frontier, Hash, record_hash};
use crate::audit::{Entry, Event, LogError, Spent};
use crate::keys::is_private;
use crate::model::{EntryIndex, Serial, Timestamp, UserName};

/// How much of the database is kept in memory, in KiB. The index by requester alone has a page for
/// each that entries are added to.
const CACHE: i64 = 16 * 1024;
/// The length of an entry in a tile has two bytes (C2SP tlog-tiles).
const LARGEST_ENTRY: usize = 65_535;

/// The writing side. There is one, behind the log's writer thread.
pub(in crate::audit) struct Store {
    backfill: Backfill,
    connection: Connection,
    path: PathBuf,
    /// The files that were opened.
    identity: Identity,
    /// Of the group of the next entry; nothing when that is still to be read.
    firsts: Option<Firsts>,
}

/// An entry with what the indexes need, serialized and hashed ahead of the writer.
pub(in crate::audit) struct Row {
    pub(in crate::audit) index: EntryIndex,
    pub(in crate::audit) leaf: Hash,
    time: Timestamp,
    pub(in crate::audit) kind: &'static str,
    requester: Option<String>,
    subject: Option<String>,
    role: Option<String>,
    purpose: Option<String>,
    serial: Option<Serial>,
    /// The CA that signed its certificate, and until when that is good.
    expiry: Option<(String, Timestamp)>,
    pub(in crate::audit) body: String,
    /// The file whose entries may be deleted from then on.
    archive: Option<Box<Archive>>,
    /// It says that the log was restored, which nobody need say again.
    says_restored: bool,
}

impl Row {
    pub(in crate::audit) fn new(entry: &Entry) -> Result<Self, LogError> {
        let request = entry.event.request();
        let certificate = entry.event.certificate();
        let body =
            serde_json::to_string(entry).map_err(|error| LogError::Illegal(error.to_string()))?;
        if body.len() > LARGEST_ENTRY {
            return Err(LogError::Illegal(format!(
                "its entry would have {} bytes, and {LARGEST_ENTRY} is the most",
                body.len()
            )));
        }
        Ok(Self {
            index: entry.index,
            leaf: record_hash(body.as_bytes()),
            time: entry.time,
            kind: entry.event.kind(),
            requester: entry.event.requester().map(UserName::to_string),
            subject: entry.event.subject().map(UserName::to_string),
            role: request.map(|asked| asked.role.to_string()),
            purpose: request.map(|asked| asked.purpose.to_string()),
            serial: certificate.map(|certificate| certificate.serial),
            // The server's own is renewed whenever the keys change: nobody waits for it.
            expiry: certificate
                .filter(|_| !matches!(entry.event, Event::ServerCertificateIssued { .. }))
                .map(|certificate| (certificate.ca.clone(), certificate.valid_before)),
            body,
            archive: Archive::of(&entry.event).map(|(archive, _)| Box::new(archive)),
            says_restored: matches!(entry.event, Event::LogRestored { .. }),
        })
    }
}

/// What is committed together.
pub(in crate::audit) struct Commit<'a> {
    /// Entries that follow each other, the first of them at `next`.
    pub(in crate::audit) rows: &'a [Row],
    pub(in crate::audit) next: u64,
    /// The hashes that each row adds to the tree.
    pub(in crate::audit) hashes: &'a [Vec<Hash>],
    /// The checkpoint before, by which another's hand in the file is noticed.
    pub(in crate::audit) before: Option<&'a Checkpoint>,
    /// The checkpoint after.
    pub(in crate::audit) after: Option<&'a Checkpoint>,
    /// What a start knows by which entries state is rebuilt from, when it is signed again.
    pub(in crate::audit) state: Option<&'a str>,
    /// What the requests behind it have spent.
    pub(in crate::audit) spent: &'a [Spent],
    /// Nonces that expired before it are deleted.
    pub(in crate::audit) sweep: Option<Timestamp>,
    /// Checkpoints that witnesses cosigned: the witness's name and the note.
    pub(in crate::audit) cosigned: &'a [(String, String)],
    /// It is tried whether an entry could be written.
    pub(in crate::audit) probe: bool,
}

/// Where the log ends.
pub(in crate::audit) struct End {
    pub(in crate::audit) tree: Frontier,
    pub(in crate::audit) checkpoint: Option<Checkpoint>,
    pub(in crate::audit) last_time: Timestamp,
    pub(in crate::audit) last_serial: u64,
}

impl Store {
    /// Makes an empty log in a file that must not exist.
    pub(in crate::audit) fn create(path: &Path) -> Result<Self, StoreError> {
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
        schema::create(&connection)?;
        Self::set_up(connection, path)
    }

    /// Opens a log and checks that it is one.
    pub(in crate::audit) fn open(path: &Path) -> Result<Self, StoreError> {
        let metadata = fs::metadata(path).map_err(|source| StoreError::File {
            path: path.to_owned(),
            source,
        })?;
        if !is_private(&metadata) {
            return Err(StoreError::Exposed {
                path: path.to_owned(),
            });
        }
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(|error| unreadable(path, error))?;
        schema::upgrade(&mut connection, path)
            .and_then(|()| schema::check_format(&connection))
            .and_then(|()| schema::renew_triggers(&mut connection))
            .map_err(|error| match error {
                StoreError::Sqlite(error) => unreadable(path, error),
                other => other,
            })?;
        Self::set_up(connection, path)
    }

    fn set_up(mut connection: Connection, path: &Path) -> Result<Self, StoreError> {
        connection.busy_timeout(Duration::from_secs(5))?;
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
        set_triggers(&connection, false)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.pragma_update(None, "cache_size", -CACHE)?;
        Ok(Self {
            backfill: Backfill::start(&mut connection, path)?,
            identity: identity(path)?,
            connection,
            path: path.to_owned(),
            firsts: None,
        })
    }

    /// Reads where the log ends, and checks that entries follow each other without a gap and that
    /// the tree is the one that the newest checkpoint was signed for.
    pub(in crate::audit) fn end(&self, log: &[VerifierKey]) -> Result<End, StoreError> {
        let unreadable = |error| unreadable(&self.path, error);
        let length = self.length()?;
        let checkpoint = stored_checkpoint(&self.connection)
            .map_err(unreadable)?
            .map(|note| Checkpoint::open(&note, log))
            .transpose()
            .map_err(|source| StoreError::Checkpoint {
                path: self.path.clone(),
                source,
            })?;
        let signed = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        if signed != length {
            return Err(self.changed(format!(
                "it has {length} entries, and the newest checkpoint was signed for {signed}"
            )));
        }
        let tree = Frontier::read(length, &StoredHashes(&self.connection))
            .map_err(|error| self.changed(format!("hashes of its tree are missing: {error}")))?;
        if let Some(checkpoint) = &checkpoint
            && checkpoint.root != tree.root()
        {
            return Err(self.changed(
                "the hashes of its tree are not those that the newest checkpoint was signed for"
                    .to_owned(),
            ));
        }
        let last_time: Option<i64> = self
            .connection
            .query_row(
                "SELECT time FROM entries ORDER BY idx DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(unreadable)?;
        // Not the highest: that may be from a clock which was ahead, and was corrected.
        let last_serial: Option<i64> = self
            .connection
            .query_row(
                "SELECT serial FROM entries WHERE serial IS NOT NULL ORDER BY idx DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(unreadable)?;
        Ok(End {
            tree,
            checkpoint,
            last_time: timestamp(last_time.unwrap_or(0)),
            last_serial: last_serial.unwrap_or(0) as u64,
        })
    }

    /// How many entries there are, of which none may be missing that is not archived.
    fn length(&self) -> Result<u64, StoreError> {
        let unreadable = |error| unreadable(&self.path, error);
        let archived = archives::end(&self.connection).map_err(unreadable)?;
        // Counted without a condition, SQLite counts by the pages of the index by requester and reads
        // no entry; of what is archived, few are in the table.
        let ask = |sql, bound: &[i64]| {
            self.connection
                .query_row(sql, rusqlite::params_from_iter(bound), |row| row.get(0))
                .map_err(unreadable)
        };
        let all: Option<i64> = ask("SELECT count(*) FROM entries", &[])?;
        let kept = ask(
            "SELECT count(*) FROM entries WHERE idx < ?1",
            &[archived as i64],
        )?;
        let last = ask("SELECT max(idx) FROM entries", &[])?;
        let count = all.unwrap_or(0) - kept.unwrap_or(0);
        let length = archived + count as u64;
        if last.map_or(0, |last| last as u64 + 1) != length {
            return Err(StoreError::Gap {
                path: self.path.clone(),
            });
        }
        Ok(length)
    }

    /// Deletes some of the entries before a place that are archived, and says whether there are more.
    pub(in crate::audit) fn clear(&mut self, before: u64) -> Result<bool, StoreError> {
        self.check_files()?;
        set_triggers(&self.connection, true)?;
        let cleared = (|| {
            let transaction = self
                .connection
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            // Now the triggers act, ours and whatever somebody has added.
            schema::check_objects(&transaction)?;
            let more = archives::clear(&transaction, before)?;
            transaction.commit()?;
            Ok(more)
        })();
        set_triggers(&self.connection, false)?;
        cleared
    }

    /// To read what it has.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Says in the database that it was restored, until an entry does.
    pub(in crate::audit) fn mark_restored(
        &self,
        size: u64,
        backup: Timestamp,
        nonces_expire: Timestamp,
    ) -> Result<(), StoreError> {
        let mut mark = self
            .connection
            .prepare("INSERT OR REPLACE INTO marks VALUES (?1, ?2)")?;
        for (name, value) in [
            ("restored-size", size),
            ("restored-backup", backup.as_millis()),
            ("swept", nonces_expire.as_millis()),
        ] {
            mark.execute(params![name, value as i64])?;
        }
        Ok(())
    }

    /// How many entries the backup had that this log was restored from, and when it was made, when
    /// no entry says so yet.
    pub(in crate::audit) fn restored(&self) -> Result<Option<(u64, Timestamp)>, StoreError> {
        let mark = |name: &str| {
            self.connection
                .query_row("SELECT value FROM marks WHERE name = ?1", [name], |row| {
                    row.get::<_, i64>(0)
                })
                .optional()
        };
        let (size, time) = (mark("restored-size")?, mark("restored-backup")?);
        Ok(size
            .zip(time)
            .map(|(size, time)| (size as u64, timestamp(time))))
    }

    /// When the last certificate of each CA expires, by the CA's fingerprint.
    pub(in crate::audit) fn last_expiries(
        &self,
    ) -> Result<BTreeMap<String, Timestamp>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT substr(name, length('expiry:') + 1), value FROM marks
             WHERE name LIKE 'expiry:%'",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, timestamp(row.get(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The highest that each FIDO2 key has counted.
    pub(in crate::audit) fn counters(&self) -> Result<BTreeMap<String, u32>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT substr(name, length('counter:') + 1), value FROM marks
             WHERE name LIKE 'counter:%'",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn changed(&self, why: String) -> StoreError {
        StoreError::Changed {
            path: self.path.clone(),
            why,
        }
    }

    /// The nonces that have not expired at `now`.
    pub(in crate::audit) fn nonces(
        &self,
        now: Timestamp,
    ) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT nonce, expires FROM nonces WHERE expires >= ?1")?;
        let rows = statement.query_map([now.as_millis() as i64], |row| {
            Ok((row.get(0)?, timestamp(row.get(1)?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// When the last nonce expired that is not among [`Self::nonces`] any more. After `now`, when
    /// a clock that was ahead has swept away some that count.
    pub(in crate::audit) fn forgotten(&self, now: Timestamp) -> Result<Timestamp, StoreError> {
        let latest: i64 = self.connection.query_row(
            "SELECT max(value, coalesce((SELECT max(expires) FROM nonces WHERE expires < ?1), 0))
             FROM marks WHERE name = 'swept'",
            [now.as_millis() as i64],
            |row| row.get(0),
        )?;
        Ok(timestamp(latest))
    }

    /// Commits all of it in one transaction, or nothing. When it returns, it is on disk.
    pub(in crate::audit) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        self.check_files()?;
        let committing = self.backfill.commit();
        let mut transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let last: Option<i64> = transaction
            .prepare_cached("SELECT max(idx) FROM entries")?
            .query_row([], |row| row.get(0))?;
        if last.map_or(0, |last| last as u64 + 1) != commit.next {
            return Err(StoreError::Gap {
                path: self.path.clone(),
            });
        }
        if commit.probe {
            probe(&mut transaction, commit.next)?;
        }
        // What fails leaves none behind.
        let mut firsts = match self.firsts.take() {
            Some(firsts) => firsts,
            None => firsts_before(&transaction, commit.next)?,
        };
        insert(&transaction, commit, &mut firsts)?;
        if let Some(after) = commit.after {
            let stored = stored_checkpoint(&transaction)?;
            if stored.as_deref() != commit.before.map(Checkpoint::note) {
                return Err(StoreError::Changed {
                    path: self.path.clone(),
                    why: "somebody else wrote a checkpoint to it".to_owned(),
                });
            }
            transaction
                .prepare_cached("INSERT OR REPLACE INTO marks VALUES ('checkpoint', ?1)")?
                .execute([after.note()])?;
        }
        if let Some(state) = commit.state {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO marks VALUES ('state', ?1)")?
                .execute([state])?;
        }
        transaction.commit()?;
        self.firsts = Some(firsts);
        drop(committing);
        self.backfill.committed();
        // What was deleted in the middle took the commit with it.
        self.check_files()
    }

    /// What tells of trouble in which entries can be written all the same.
    pub(in crate::audit) fn troubles(&self) -> Troubles {
        self.backfill.troubles()
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

impl Drop for Store {
    fn drop(&mut self) {
        if !self.backfill.end() {
            // The last connection that is closed would bring in the rest and delete the file.
            let keep = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            if let Err(error) = self.connection.set_db_config(keep, true) {
                tracing::error!(%error, "the audit log's write-ahead log can't be kept");
            }
        }
    }
}

/// Tries whether an entry could be written, and has something written in any case.
fn probe(transaction: &mut Transaction<'_>, next: u64) -> Result<(), rusqlite::Error> {
    let savepoint = transaction.savepoint()?;
    savepoint
        .prepare_cached("INSERT INTO entries (idx, time, kind, body) VALUES (?1, 0, 'probe', '')")?
        .execute([next as i64])?;
    drop(savepoint);
    // Of a transaction that changes nothing, nothing would be written.
    transaction
        .prepare_cached("UPDATE marks SET value = 1 - value WHERE name = 'probe'")?
        .execute([])?;
    Ok(())
}

/// What comes first in the group of an entry, before it.
fn firsts_before(transaction: &Transaction<'_>, next: u64) -> Result<Firsts, rusqlite::Error> {
    let mut firsts = Firsts::default();
    let mut known = transaction.prepare(
        "SELECT idx, first_role, first_purpose FROM entries WHERE idx >= ?1 ORDER BY idx",
    )?;
    let mut known = known.query([Firsts::begin(next) as i64])?;
    while let Some(row) = known.next()? {
        let name = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str_or_null()?);
        firsts.of(row.get::<_, i64>(0)? as u64, name(1)?, name(2)?);
    }
    Ok(firsts)
}

/// A row that SQLite ignores is no error to it.
fn inserted(rows: usize) -> Result<(), rusqlite::Error> {
    match rows {
        1 => Ok(()),
        other => Err(rusqlite::Error::StatementChangedRows(other)),
    }
}

/// The triggers keep entries from being changed or deleted, by us too. What inserts sets off none, so
/// that what somebody adds while we write does nothing.
fn set_triggers(connection: &Connection, on: bool) -> Result<(), rusqlite::Error> {
    let triggers = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    connection.set_db_config(triggers, on).map(drop)
}

fn insert(
    transaction: &Transaction<'_>,
    commit: &Commit<'_>,
    firsts: &mut Firsts,
) -> Result<(), rusqlite::Error> {
    let mut entry = transaction.prepare_cached(
        "INSERT INTO entries
         (idx, time, kind, requester, subject, first_role, first_purpose, serial, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let mut node = transaction.prepare_cached("INSERT INTO tree (idx, hashes) VALUES (?1, ?2)")?;
    for (row, hashes) in commit.rows.iter().zip(commit.hashes) {
        let (role, purpose) = (row.role.as_deref(), row.purpose.as_deref());
        let [first_role, first_purpose] = firsts.of(row.index.0, role, purpose);
        let entries = entry.execute(params![
            row.index.0 as i64,
            row.time.as_millis() as i64,
            row.kind,
            row.requester,
            row.subject,
            first_role,
            first_purpose,
            row.serial.map(|serial| serial.get() as i64),
            row.body,
        ])?;
        inserted(entries)?;
        if let Some(archive) = &row.archive {
            archives::record(transaction, archive)?;
        }
        if row.says_restored {
            transaction.execute("DELETE FROM marks WHERE name LIKE 'restored-%'", [])?;
        }
        let hashes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        inserted(node.execute(params![row.index.0 as i64, hashes])?)?;
    }
    let mut insert = transaction
        .prepare_cached("INSERT OR REPLACE INTO nonces (expires, nonce) VALUES (?1, ?2)")?;
    let mut mark = transaction.prepare_cached(
        "INSERT INTO marks VALUES ('counter:' || ?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
    )?;
    for spent in commit.spent {
        insert.execute(params![spent.expires.as_millis() as i64, spent.nonce])?;
        if let Some(counter) = &spent.counter {
            mark.execute(params![counter.of, counter.value])?;
        }
    }
    let mut last_expiries: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for (ca, expires) in commit.rows.iter().filter_map(|row| row.expiry.as_ref()) {
        let last = last_expiries.entry(ca).or_default();
        *last = (*last).max(*expires);
    }
    let mut mark = transaction.prepare_cached(
        "INSERT INTO marks VALUES ('expiry:' || ?1, ?2)
         ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
    )?;
    for (ca, expires) in last_expiries {
        mark.execute(params![ca, expires.as_millis() as i64])?;
    }
    let mut mark = transaction
        .prepare_cached("INSERT OR REPLACE INTO marks VALUES ('cosigned:' || ?1, ?2)")?;
    for (witness, note) in commit.cosigned {
        mark.execute([witness, note])?;
    }
    if let Some(before) = commit.sweep {
        let before = before.as_millis() as i64;
        transaction.execute("DELETE FROM nonces WHERE expires < ?1", [before])?;
        transaction.execute("UPDATE marks SET value = ?1 WHERE name = 'swept'", [before])?;
    }
    Ok(())
}
