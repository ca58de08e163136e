//! What is in the database, and what was in it in the version before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Marks the file as Hallpass's ("hall").
const APPLICATION_ID: i32 = 0x6861_6c6c;
const SCHEMA_VERSION: i32 = 5;
/// The schema that [`UPGRADE`] is for.
const UPGRADABLE: i32 = 4;

/// The kinds of entries that only matter for a day: of sessions and approvals.
///
/// Not as a list: for `IN`, SQLite fills a table with the list for each row that is inserted.
macro_rules! of_a_day {
    ($kind:literal) => {
        concat!(
            "(",
            $kind,
            " = 'session-begun' OR ",
            $kind,
            " = 'session-touched' OR ",
            $kind,
            " = 'session-ended' OR ",
            $kind,
            " = 'approval-given')"
        )
    };
}
pub(super) use of_a_day;

/// The kinds of entries that nothing but the log itself keeps, so that they leave the database once
/// they are in a file. Those of a day are among them, and are still read at a start.
macro_rules! passing {
    ($kind:literal) => {
        concat!(
            "(",
            $kind,
            " = 'certificate-issued' OR ",
            $kind,
            " = 'request-refused' OR ",
            $kind,
            " = 'unauthenticated-refused' OR ",
            $crate::audit::store::schema::of_a_day!($kind),
            ")"
        )
    };
}
pub(super) use passing;

/// Whether [`of_a_day`] has that kind.
pub(super) fn is_of_a_day(kind: &str) -> bool {
    matches!(
        kind,
        "session-begun" | "session-touched" | "session-ended" | "approval-given"
    )
}

/// Whether [`passing`] has that kind.
pub(super) fn is_passing(kind: &str) -> bool {
    matches!(
        kind,
        "certificate-issued" | "request-refused" | "unauthenticated-refused"
    ) || is_of_a_day(kind)
}

/// The indexes that were other ones in schema 4.
macro_rules! indexes {
    () => {
        concat!(
            "
-- Of all entries: they are counted by it at each start.
CREATE INDEX entries_requester ON entries (requester);
-- Few entries are of a kind that state is rebuilt from.
CREATE INDEX entries_state ON entries (kind) WHERE NOT ",
            passing!("kind"),
            ";
-- Those that matter for a day.
CREATE INDEX entries_of_a_day ON entries (time) WHERE ",
            of_a_day!("kind"),
            ";"
        )
    };
}

/// Makes a log of schema 4, which had each entry's role and purpose in the columns that are the first's
/// alone now. More than those do no harm.
const UPGRADE: &str = concat!(
    "
DROP INDEX entries_time;
DROP INDEX entries_requester;
DROP INDEX entries_state;
DROP INDEX entries_of_a_day;
ALTER TABLE entries RENAME COLUMN role TO first_role;
ALTER TABLE entries RENAME COLUMN purpose TO first_purpose;
",
    indexes!(),
);

pub(super) const SCHEMA: &str = concat!(
    "
CREATE TABLE entries (
    idx           INTEGER PRIMARY KEY,
    time          INTEGER NOT NULL,
    kind          TEXT NOT NULL,
    requester     TEXT,
    subject       TEXT,
    -- The role and the purpose, if no entry before in the same group of 64 has the same.
    first_role    TEXT,
    first_purpose TEXT,
    serial        INTEGER,
    body          TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_serial ON entries (serial) WHERE serial IS NOT NULL;
CREATE INDEX entries_subject ON entries (subject) WHERE subject IS NOT NULL;
CREATE INDEX entries_role ON entries (first_role) WHERE first_role IS NOT NULL;
CREATE INDEX entries_purpose ON entries (first_purpose) WHERE first_purpose IS NOT NULL;
",
    indexes!(),
    "
-- The hashes that an entry adds to the tree: its own, then those of the subtrees it completes.
CREATE TABLE tree (idx INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- But what is in a file, is not what state is rebuilt from, and is not the first of 256, by which
-- entries are found by their time.
CREATE TRIGGER entries_remain BEFORE DELETE ON entries
    WHEN old.idx >= coalesce((SELECT next FROM archives ORDER BY first DESC LIMIT 1), 0)
        OR old.idx % 256 = 0
        OR NOT ",
    passing!("old.kind"),
    "
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- Files that entries were moved into, and the serial numbers of what is in them alone.
CREATE TABLE archives (
    first  INTEGER PRIMARY KEY,
    next   INTEGER NOT NULL,
    file   TEXT NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;
CREATE TABLE archived_serials (serial INTEGER PRIMARY KEY, idx INTEGER NOT NULL) STRICT;
CREATE TRIGGER archives_stay BEFORE UPDATE ON archives
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER archives_remain BEFORE DELETE ON archives
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER archived_serials_stay BEFORE UPDATE ON archived_serials
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER archived_serials_remain BEFORE DELETE ON archived_serials
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER tree_stays BEFORE UPDATE ON tree
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER tree_remains BEFORE DELETE ON tree
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- Nonces of requests that are young enough to be replayed, in the order in which they are swept.
CREATE TABLE nonces (expires INTEGER, nonce TEXT, PRIMARY KEY (expires, nonce))
    STRICT, WITHOUT ROWID;
-- What there is one of: the newest checkpoint, which entries state is rebuilt from (state), the
-- newest checkpoint that each witness cosigned
-- (cosigned:NAME), when the last certificate of each CA expires (expiry:FINGERPRINT), the highest that
-- each FIDO2 key has counted since an entry enrolled or unlocked it (counter:FINGERPRINT@ENTRY),
-- until when nonces were swept, what a probe wrote.
CREATE TABLE marks (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO marks VALUES ('swept', 0), ('probe', 0);
"
);

/// Makes an empty database a log.
pub(super) fn create(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)
}

/// Makes a log of the version before one of this version, all of it or nothing.
pub(super) fn upgrade(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    if format(connection)? != (APPLICATION_ID, UPGRADABLE) {
        return Ok(());
    }
    tracing::info!("the audit log is of the version before: it is being upgraded");
    let mut upgrade = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(UPGRADE)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()
    };
    upgrade().map_err(|source| StoreError::Upgrade {
        path: path.to_owned(),
        source,
    })
}

/// What is in a database, and how it was made.
type Objects = BTreeMap<String, String>;

const TRIGGER: &str = "trigger ";

fn objects(connection: &Connection) -> Result<Objects, rusqlite::Error> {
    // Without SQLite's own.
    connection
        .prepare(
            "SELECT type || ' ' || name, sql FROM sqlite_schema
             WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// What is in a log's.
fn expected() -> Result<&'static Objects, rusqlite::Error> {
    static EXPECTED: OnceLock<Objects> = OnceLock::new();
    if let Some(expected) = EXPECTED.get() {
        return Ok(expected);
    }
    let connection = Connection::open_in_memory()?;
    create(&connection)?;
    let objects = objects(&connection)?;
    Ok(EXPECTED.get_or_init(|| objects))
}

/// How it was made, without comments and lines: those differ between versions.
fn bare(sql: &str) -> String {
    let code = sql.lines().map(|line| line.split("--").next());
    let words = code.flatten().flat_map(str::split_ascii_whitespace);
    words.collect::<Vec<_>>().join(" ")
}

/// Triggers that are ours by name are not looked at: reading sets off none, and whoever writes
/// [renews](renew_triggers) them. Nor is what others keep beside ours, where it can do nothing to it.
pub(super) fn check_objects(connection: &Connection) -> Result<(), StoreError> {
    let (expected, there) = (expected()?, objects(connection)?);
    let is_trigger = |name: &str| name.starts_with(TRIGGER);
    let acts = |(name, sql): &(&String, &String)| match expected.get(*name) {
        Some(own) => !is_trigger(name) && bare(own) != bare(sql),
        None => {
            let unique = bare(sql).to_ascii_uppercase().starts_with("CREATE UNIQUE");
            is_trigger(name) || unique
        }
    };
    let missing = |(name, _): &(&String, &String)| !is_trigger(name) && !there.contains_key(*name);
    let other = there.iter().find(acts);
    match other.or_else(|| expected.iter().find(missing)) {
        None => Ok(()),
        Some((object, _)) => Err(StoreError::Altered {
            object: object.clone(),
        }),
    }
}

/// Makes the triggers anew, if any is another: with a version they change, and others than ours
/// [are refused](check_format).
pub(super) fn renew_triggers(connection: &mut Connection) -> Result<(), StoreError> {
    let (expected, there) = (expected()?, objects(connection)?);
    let triggers = || {
        expected
            .iter()
            .filter(|(name, _)| name.starts_with(TRIGGER))
    };
    if triggers().all(|(name, sql)| there.get(name) == Some(sql)) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (name, sql) in triggers() {
        transaction.execute_batch(&format!(
            "DROP TRIGGER IF EXISTS {}; {sql}",
            &name[TRIGGER.len()..]
        ))?;
    }
    Ok(transaction.commit()?)
}

/// What kind of database it is, and of which version.
fn format(connection: &Connection) -> Result<(i32, i32), rusqlite::Error> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}

/// Checks that it is a log of this version, in which nothing does what it should not: a trigger could
/// put something else in place of an entry.
pub(super) fn check_format(connection: &Connection) -> Result<(), StoreError> {
    match format(connection)? {
        (APPLICATION_ID, SCHEMA_VERSION) => check_objects(connection),
        (APPLICATION_ID, UPGRADABLE) => Err(StoreError::Older),
        (application, version) => Err(StoreError::Foreign {
            application,
            version,
        }),
    }
}
