//! The reading side.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params_from_iter};

use super::{StoreError, StoredHashes, check_format, timestamp};
use crate::audit::proof::{Hashes, ProofError};
use crate::audit::tree::Hash;
use crate::model::{EntryIndex, Purpose, RoleName, Serial, Timestamp, UserName};

/// How many entries a search looks at before it gives back what it has: some 20 ms.
const MOST_LOOKED_AT: usize = 4000;

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

/// What a search found so far.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Entries that match, oldest first, as stored.
    pub entries: Vec<(EntryIndex, String)>,
    /// Where to go on; nothing when the end was reached.
    pub next: Option<EntryIndex>,
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
        })
    }

    /// At most `limit` entries that match. A search for what is rare gives up early and says where
    /// to go on.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn list(&self, filter: &Filter, limit: usize) -> Result<Found, StoreError> {
        let connection = self.connection();
        let Some(from) = first_since(&connection, filter)? else {
            return Ok(Found::default());
        };
        let text = |name: Option<&str>| name.map(str::to_owned);
        let user = text(filter.user.as_ref().map(UserName::as_str));
        let role = text(filter.role.as_ref().map(RoleName::as_str));
        let purpose = text(filter.purpose.as_ref().map(Purpose::as_str));
        let serial = filter.serial.map(|serial| serial.get() as i64);
        // The way in is by what is likely to be rarest; the rest is looked at row by row.
        let (way_in, key) = if let Some(serial) = serial {
            let sql = "SELECT idx FROM entries WHERE serial = ?2 AND idx >= ?1";
            (sql, Some(Value::from(serial)))
        } else if let Some(user) = &user {
            let sql = "SELECT idx FROM entries WHERE requester = ?2 AND idx >= ?1
                 UNION SELECT idx FROM entries WHERE subject = ?2 AND idx >= ?1";
            (sql, Some(Value::from(user.clone())))
        } else if let Some(role) = &role {
            let sql = "SELECT idx FROM entries WHERE role = ?2 AND idx >= ?1";
            (sql, Some(Value::from(role.clone())))
        } else if let Some(purpose) = &purpose {
            let sql = "SELECT idx FROM entries WHERE purpose = ?2 AND idx >= ?1";
            (sql, Some(Value::from(purpose.clone())))
        } else {
            ("SELECT idx FROM entries WHERE idx >= ?1", None)
        };
        let mut indexes = connection.prepare_cached(&format!("{way_in} ORDER BY idx"))?;
        let values = std::iter::once(Value::from(from as i64)).chain(key);
        let mut indexes = indexes.query(params_from_iter(values))?;
        let mut entry = connection.prepare_cached(
            "SELECT time, requester, subject, role, purpose, serial, body
             FROM entries WHERE idx = ?1",
        )?;
        let fits = |row: &Row<'_>| -> Result<bool, rusqlite::Error> {
            let is = |column: usize, wanted: &Option<String>| {
                let Some(wanted) = wanted else {
                    return Ok(true);
                };
                let value = row.get_ref(column)?;
                Ok::<_, rusqlite::Error>(value.as_str_or_null()? == Some(wanted))
            };
            let time = timestamp(row.get(0)?);
            Ok((is(1, &user)? || is(2, &user)?)
                && is(3, &role)?
                && is(4, &purpose)?
                && (serial.is_none() || row.get::<_, Option<i64>>(5)? == serial)
                && filter.since.is_none_or(|since| time >= since)
                && filter.until.is_none_or(|until| time < until))
        };
        let mut found = Found::default();
        let mut looked_at = 0;
        while let Some(row) = indexes.next()? {
            let index: i64 = row.get(0)?;
            if found.entries.len() == limit || looked_at == MOST_LOOKED_AT {
                found.next = Some(EntryIndex(index as u64));
                break;
            }
            looked_at += 1;
            let body = entry.query_row([index], |row| {
                fits(row).and_then(|fits| if fits { row.get(6).map(Some) } else { Ok(None) })
            })?;
            found
                .entries
                .extend(body.map(|body| (EntryIndex(index as u64), body)));
        }
        Ok(found)
    }

    /// The entries from `from` on, at most `limit`, as stored.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn range(&self, from: EntryIndex, limit: usize) -> Result<Vec<String>, StoreError> {
        let connection = self.connection();
        let mut statement = connection
            .prepare_cached("SELECT body FROM entries WHERE idx >= ?1 ORDER BY idx LIMIT ?2")?;
        let rows = statement.query_map([from.0 as i64, limit as i64], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
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
        for place in 0..u64::from(range.width) {
            match stored.at(range.level * 8, range.index * 256 + place)? {
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

/// The first index that can match by its time and the filter's `from`; nothing when there is none.
///
/// Times never go back, but where the clock was corrected: between two such places the first is
/// found by halving.
fn first_since(connection: &Connection, filter: &Filter) -> Result<Option<u64>, StoreError> {
    let Some(since) = filter.since else {
        return Ok(Some(filter.from.0));
    };
    let end: i64 = connection
        .prepare_cached("SELECT coalesce(max(idx) + 1, 0) FROM entries")?
        .query_row([], |row| row.get(0))?;
    let mut corrections = connection.prepare_cached(
        "SELECT idx FROM entries INDEXED BY entries_state
         WHERE kind = 'clock-corrected' AND kind NOT IN
             ('certificate-issued', 'request-refused', 'unauthenticated-refused')
         ORDER BY idx",
    )?;
    let mut bounds = corrections
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<i64>, _>>()?;
    bounds.push(end);
    let mut time_at = connection
        .prepare_cached("SELECT time FROM entries WHERE idx >= ?1 ORDER BY idx LIMIT 1")?;
    let mut start = 0;
    for bound in bounds {
        let (mut before, mut first) = (start, bound);
        while before < first {
            let middle = before.midpoint(first);
            let time: Option<i64> = time_at.query_row([middle], |row| row.get(0)).optional()?;
            if time.is_none_or(|time| timestamp(time) >= since) {
                first = middle;
            } else {
                before = middle + 1;
            }
        }
        let first = first.max(filter.from.0 as i64);
        if first < bound {
            return Ok(Some(first as u64));
        }
        start = bound;
    }
    Ok(None)
}
