//! Finding entries by what they say.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::passing;
use super::{StoreError, parse, timestamp};
use crate::audit::Entry;
use crate::audit::firsts::GROUP;
use crate::model::{EntryIndex, Purpose, RoleName, Serial, Timestamp, UserName};

/// How many entries a search looks at before it gives back what it has: some 5 ms, if they are in memory.
const MOST_LOOKED_AT: usize = 4000;

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

impl Filter {
    fn is_in_time(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Whether all names are in an entry's text at all: much cheaper to tell than what they are.
    fn may_fit(&self, body: &str) -> bool {
        let has = |name: Option<&str>| name.is_none_or(|name| body.contains(name));
        // None of them has a character that JSON escapes.
        has(self.user.as_ref().map(UserName::as_str))
            && has(self.role.as_ref().map(RoleName::as_str))
            && has(self.purpose.as_ref().map(Purpose::as_str))
    }

    pub(super) fn fits(&self, entry: &Entry) -> bool {
        let event = &entry.event;
        let request = event.request();
        let certificate = event.certificate();
        let user = self.user.as_ref();
        (user.is_none() || event.requester() == user || event.subject() == user)
            && self
                .role
                .as_ref()
                .is_none_or(|role| request.is_some_and(|asked| asked.role == *role))
            && self
                .purpose
                .as_ref()
                .is_none_or(|purpose| request.is_some_and(|asked| asked.purpose == *purpose))
            && self.serial.is_none_or(|serial| {
                certificate.is_some_and(|certificate| certificate.serial == serial)
            })
            && self.is_in_time(entry.time)
    }
}

/// What a search found so far.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Entries that match, oldest first, as stored.
    pub entries: Vec<(EntryIndex, String)>,
    /// Where to go on; nothing when the end was reached.
    pub next: Option<EntryIndex>,
}

/// A search for a page of entries that match.
pub(super) struct Search<'a> {
    filter: &'a Filter,
    limit: usize,
    looked_at: usize,
    pub(super) found: Found,
}

impl<'a> Search<'a> {
    pub(super) fn new(filter: &'a Filter, limit: usize) -> Self {
        Self {
            filter,
            limit,
            looked_at: 0,
            found: Found::default(),
        }
    }

    /// Whether it has given up or found enough.
    pub(super) fn is_over(&self) -> bool {
        self.found.next.is_some()
    }

    /// Takes in an entry that matches. When it was enough before, the search is over.
    pub(super) fn look_at(&mut self, index: u64, body: &str) -> Result<(), StoreError> {
        let at = EntryIndex(index);
        if self.found.entries.len() == self.limit || self.looked_at == MOST_LOOKED_AT {
            self.found.next = Some(at);
            return Ok(());
        }
        self.looked_at += 1;
        if self.filter.may_fit(body) && self.filter.fits(&parse(index as i64, body)?) {
            self.found.entries.push((at, body.to_owned()));
        }
        Ok(())
    }

    /// Goes through the entries of a window that are not archived.
    pub(super) fn in_table(
        &mut self,
        connection: &Connection,
        window: Range<u64>,
    ) -> Result<(), StoreError> {
        // The way in is by what is likely to be rarest: an index leads to the places where that is.
        let (way_in, length, name) = match self.filter {
            Filter {
                user: Some(user), ..
            } => {
                let sql = "SELECT idx FROM entries WHERE requester = ?3 AND idx >= ?1 AND idx < ?2
                     UNION SELECT idx FROM entries WHERE subject = ?3 AND idx >= ?1 AND idx < ?2
                     ORDER BY idx";
                (sql, 1, user.as_str())
            }
            Filter {
                role: Some(role), ..
            } => {
                let sql = "SELECT idx FROM entries WHERE first_role = ?3 AND idx >= ?1 AND idx < ?2
                     ORDER BY idx";
                (sql, GROUP, role.as_str())
            }
            Filter {
                purpose: Some(purpose),
                ..
            } => {
                let sql = "SELECT idx FROM entries
                     WHERE first_purpose = ?3 AND idx >= ?1 AND idx < ?2 ORDER BY idx";
                (sql, GROUP, purpose.as_str())
            }
            _ => return self.through(connection, window),
        };
        let begin = window.start - window.start % length;
        let mut places = connection.prepare_cached(way_in)?;
        let mut places = places.query(params![begin as i64, window.end as i64, name])?;
        let mut next = window.start;
        while !self.is_over()
            && let Some(row) = places.next()?
        {
            // Behind the first of a group that has the name, others of the group may have it. An older
            // version has put those into the index, too.
            let place = row.get::<_, i64>(0)? as u64;
            let end = window.end.min(place - place % length + length);
            if next < end {
                self.through(connection, place.max(next)..end)?;
                next = end;
            }
        }
        Ok(())
    }

    /// Looks at each entry of a range that is not archived.
    fn through(&mut self, connection: &Connection, range: Range<u64>) -> Result<(), StoreError> {
        let mut rows = connection.prepare_cached(
            "SELECT idx, body FROM entries WHERE idx >= ?1 AND idx < ?2 ORDER BY idx",
        )?;
        let mut rows = rows.query([range.start as i64, range.end as i64])?;
        while !self.is_over()
            && let Some(row) = rows.next()?
        {
            let body = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            self.look_at(row.get::<_, i64>(0)? as u64, body)?;
        }
        Ok(())
    }
}

/// The indexes that can match by their time and from `from` on: windows without overlap, in order.
///
/// Times never go back, but where the clock was corrected: between two such places both ends are
/// found by halving.
pub(super) fn windows(
    connection: &Connection,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    from: u64,
) -> Result<Vec<Range<u64>>, StoreError> {
    let end: i64 = connection
        .prepare_cached("SELECT coalesce(max(idx) + 1, 0) FROM entries")?
        .query_row([], |row| row.get(0))?;
    let mut corrections = connection.prepare_cached(concat!(
        "SELECT idx FROM entries INDEXED BY entries_state
         WHERE kind = 'clock-corrected' AND NOT ",
        passing!("kind"),
        " ORDER BY idx"
    ))?;
    let mut bounds = corrections
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<i64>, _>>()?;
    bounds.push(end);
    let mut next_row =
        connection.prepare_cached("SELECT min(idx) FROM entries WHERE idx >= ?1 AND idx < ?2")?;
    let mut windows = Vec::new();
    let mut start = 0;
    for bound in bounds {
        let first = match since {
            Some(since) => first_at(connection, since, start, bound)?,
            None => start,
        };
        let next = match until {
            // Of archived entries, those in front of the first in the table may be before it.
            Some(until) => {
                let behind = first_at(connection, until, start, bound)?;
                let next: Option<i64> = next_row.query_row([behind, bound], |row| row.get(0))?;
                next.unwrap_or(bound)
            }
            None => bound,
        };
        let first = first.max(i64::try_from(from).unwrap_or(i64::MAX));
        if first < next {
            windows.push(first as u64..next as u64);
        }
        start = bound;
    }
    Ok(windows)
}

/// Behind the last of the indexes from `start` to before `end` whose entry is in the table and
/// before `time`. Within them, times must not go back.
fn first_at(
    connection: &Connection,
    time: Timestamp,
    start: i64,
    end: i64,
) -> Result<i64, StoreError> {
    let mut time_at = connection.prepare_cached(
        "SELECT time FROM entries WHERE idx >= ?1 AND idx < ?2 ORDER BY idx LIMIT 1",
    )?;
    let (mut before, mut first) = (start, end);
    while before < first {
        let middle = before.midpoint(first);
        let found: Option<i64> = time_at
            .query_row([middle, end], |row| row.get(0))
            .optional()?;
        if found.is_none_or(|found| timestamp(found) >= time) {
            first = middle;
        } else {
            before = middle + 1;
        }
    }
    Ok(first)
}
