//! What was moved out of the database into files.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::schema::passing;
use crate::audit::archive::{Archive, PIECE};

/// How many places of archived entries are cleared in one transaction: some milliseconds.
const CLEARED_AT_ONCE: i64 = 512;

/// The file that holds an entry, when it is archived.
pub(super) fn holding(
    connection: &Connection,
    index: u64,
) -> Result<Option<Archive>, rusqlite::Error> {
    let archive = connection
        .prepare_cached(
            "SELECT first, next, file, sha256 FROM archives WHERE first <= ?1
             ORDER BY first DESC LIMIT 1",
        )?
        .query_row([index as i64], archive)
        .optional()?;
    Ok(archive.filter(|archive| index < archive.next))
}

/// All files, in order.
pub(super) fn all(connection: &Connection) -> Result<Vec<Archive>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT first, next, file, sha256 FROM archives ORDER BY first")?
        .query_map([], archive)?
        .collect()
}

/// Where the archived part of the log ends.
pub(super) fn end(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let end: i64 = connection
        .prepare_cached("SELECT coalesce(max(next), 0) FROM archives")?
        .query_row([], |row| row.get(0))?;
    Ok(end as u64)
}

fn archive(row: &Row<'_>) -> Result<Archive, rusqlite::Error> {
    let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
    Ok(Archive {
        first: number(0)?,
        next: number(1)?,
        file: row.get(2)?,
        sha256: row.get(3)?,
    })
}

/// Records a file. From then on, its entries may be deleted.
pub(super) fn record(
    transaction: &Transaction<'_>,
    archive: &Archive,
) -> Result<(), rusqlite::Error> {
    transaction.execute(
        "INSERT INTO archives (first, next, file, sha256) VALUES (?1, ?2, ?3, ?4)",
        params![
            archive.first as i64,
            archive.next as i64,
            archive.file,
            archive.sha256
        ],
    )?;
    Ok(())
}

/// Before which place archived entries were deleted.
pub(super) fn cleared(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let cleared: i64 = connection
        .prepare_cached("SELECT coalesce((SELECT value FROM marks WHERE name = 'cleared'), 0)")?
        .query_row([], |row| row.get(0))?;
    Ok(cleared as u64)
}

/// Deletes some entries before a place that are archived, and says whether there are more. Kept are
/// those that state is rebuilt from, and the first of each piece, by which times are found.
pub(super) fn clear(transaction: &Transaction<'_>, before: u64) -> Result<bool, rusqlite::Error> {
    let cleared = cleared(transaction)? as i64;
    let end = end(transaction)?.min(before) as i64;
    let next = end.min(cleared + CLEARED_AT_ONCE);
    if next <= cleared {
        return Ok(false);
    }
    debug_assert_eq!(PIECE, 256, "the schema's triggers say so too");
    transaction.execute(
        concat!(
            "INSERT INTO archived_serials SELECT serial, idx FROM entries
             WHERE idx >= ?1 AND idx < ?2 AND idx % 256 <> 0 AND serial IS NOT NULL
                 AND ",
            passing!("kind")
        ),
        [cleared, next],
    )?;
    transaction.execute(
        concat!(
            "DELETE FROM entries
             WHERE idx >= ?1 AND idx < ?2 AND idx % 256 <> 0
                 AND ",
            passing!("kind")
        ),
        [cleared, next],
    )?;
    transaction.execute(
        "INSERT OR REPLACE INTO marks VALUES ('cleared', ?1)",
        [next],
    )?;
    Ok(next < end)
}
