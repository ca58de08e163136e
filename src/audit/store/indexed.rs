//! Whether the indexes have of each entry what they should. Whoever can write to the file can take an
//! entry out of an index and leave it where it is: then no search finds it any more, and no start if
//! that index is for those.

use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::archives;
use super::schema::{is_of_a_day, is_passing, of_a_day, passing};
use crate::audit::archive::PIECE;
use crate::audit::verify::{Columns, Wrong};

/// How many entries are compared at once: archives end where such a block does.
const BLOCK: u64 = PIECE;

/// An index of entries, in the order of [`keys`].
struct Index {
    name: &'static str,
    column: &'static str,
    /// Of which entries it is.
    condition: &'static str,
    /// What has the rest of an archive's entries, where something has.
    archived: &'static str,
    /// Whether none of what it is of is missing when entries are in an archive.
    stays: bool,
}

const INDEXES: [Index; 7] = [
    index("entries_requester", "requester", "TRUE"),
    index("entries_subject", "subject", "subject IS NOT NULL"),
    index("entries_role", "first_role", "first_role IS NOT NULL"),
    index(
        "entries_purpose",
        "first_purpose",
        "first_purpose IS NOT NULL",
    ),
    Index {
        archived: "UNION ALL SELECT idx, serial FROM archived_serials",
        stays: true,
        ..index("entries_serial", "serial", "serial IS NOT NULL")
    },
    index("entries_of_a_day", "time", of_a_day!("kind")),
    Index {
        stays: true,
        ..index("entries_state", "kind", concat!("NOT ", passing!("kind")))
    },
];

const fn index(name: &'static str, column: &'static str, condition: &'static str) -> Index {
    Index {
        name,
        column,
        condition,
        archived: "",
        stays: false,
    }
}

/// By what an index has an entry.
#[derive(Clone, Copy)]
enum Key<'a> {
    Nothing,
    Number(i64),
    Text(&'a [u8]),
}

impl Hash for Key<'_> {
    /// In one piece: it is done for some keys of each entry. What an index has is all numbers or all
    /// text, in which no byte is 255.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match self {
            Self::Nothing => hasher.write_u8(255),
            Self::Number(number) => hasher.write_i64(*number),
            Self::Text(text) => hasher.write(text),
        }
    }
}

/// By what each of the indexes should have an entry that has these columns.
fn keys<'a>(columns: &Columns<'a>) -> [Option<Key<'a>>; INDEXES.len()] {
    let text = |text: &'a str| Key::Text(text.as_bytes());
    let number = |number: u64| Key::Number(number as i64);
    [
        Some(columns.requester.map_or(Key::Nothing, text)),
        columns.subject.map(text),
        columns.first_role.map(text),
        columns.first_purpose.map(text),
        columns.serial.map(number),
        is_of_a_day(columns.kind).then(|| number(columns.time)),
        (!is_passing(columns.kind)).then(|| text(columns.kind)),
    ]
}

/// For each block of entries and each index a sum over what it has of them, with a hash that nobody
/// knows in advance. In whatever order it is added up, another set of entries has another sum.
struct Sums<'a> {
    hasher: &'a RandomState,
    /// The block of the first.
    first: u64,
    sums: Vec<[u64; INDEXES.len()]>,
}

impl<'a> Sums<'a> {
    /// For the entries of a range.
    fn over(hasher: &'a RandomState, range: &Range<u64>) -> Self {
        let first = range.start / BLOCK;
        let blocks = range.end.div_ceil(BLOCK) - first;
        Self {
            hasher,
            first,
            sums: vec![Default::default(); blocks as usize],
        }
    }

    fn add(&mut self, which: usize, entry: u64, key: Key<'_>) {
        let block = (entry / BLOCK).checked_sub(self.first);
        if let Some(sums) = block.and_then(|block| self.sums.get_mut(block as usize)) {
            let mut hasher = self.hasher.build_hasher();
            hasher.write_u64(entry);
            key.hash(&mut hasher);
            sums[which] = sums[which].wrapping_add(hasher.finish());
        }
    }
}

/// What the indexes should have, as far as entries were read.
#[derive(Default)]
pub(super) struct Indexed {
    hasher: RandomState,
    sums: Mutex<Vec<[u64; INDEXES.len()]>>,
}

/// A range of entries while it is read.
pub(super) struct Reading<'a> {
    indexed: &'a Indexed,
    sums: Sums<'a>,
}

impl Indexed {
    /// Begins with a range, which begins at a block's first entry.
    pub(super) fn read(&self, range: &Range<u64>) -> Reading<'_> {
        Reading {
            indexed: self,
            sums: Sums::over(&self.hasher, range),
        }
    }

    /// Holds all entries of a log of that size, which were read, against the indexes.
    pub(super) fn check(
        &self,
        connection: &Connection,
        size: u64,
    ) -> Result<Result<(), Wrong>, rusqlite::Error> {
        // All of it at one moment: somebody may be archiving.
        let moment = connection.unchecked_transaction()?;
        let archived = archives::end(&moment)?;
        let mut there = Sums::over(&self.hasher, &(0..size));
        for (which, index) in INDEXES.iter().enumerate() {
            let Index {
                name,
                column,
                condition,
                archived,
                ..
            } = index;
            // The index alone is read.
            let mut rows = moment.prepare(&format!(
                "SELECT idx, {column} FROM entries INDEXED BY {name} WHERE {condition} {archived}"
            ))?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let entry = row.get::<_, i64>(0)? as u64;
                if entry < size {
                    let key = match row.get_ref(1)? {
                        ValueRef::Integer(number) => Key::Number(number),
                        ValueRef::Text(text) => Key::Text(text),
                        _ => Key::Nothing,
                    };
                    there.add(which, entry, key);
                }
            }
        }
        let should = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for (block, (should, there)) in should.iter().zip(&there.sums).enumerate() {
            let first = block as u64 * BLOCK;
            for (index, (should, there)) in INDEXES.iter().zip(should.iter().zip(there)) {
                if should != there && (index.stays || first >= archived) {
                    let last = size.min(first + BLOCK) - 1;
                    let name = index.name;
                    return Ok(Err(Wrong::Index { name, first, last }));
                }
            }
        }
        Ok(Ok(()))
    }
}

impl Reading<'_> {
    pub(super) fn take(&mut self, entry: u64, columns: &Columns<'_>) {
        for (which, key) in keys(columns).into_iter().enumerate() {
            if let Some(key) = key {
                self.sums.add(which, entry, key);
            }
        }
    }

    /// Takes in what was read, in place of what was read of the same before.
    pub(super) fn end(self) {
        let mut all = self
            .indexed
            .sums
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (first, end) = (
            self.sums.first as usize,
            self.sums.first as usize + self.sums.sums.len(),
        );
        if all.len() < end {
            all.resize(end, Default::default());
        }
        all[first..end].copy_from_slice(&self.sums.sums);
    }
}
