//! Brings the write-ahead log into the database. SQLite calls that a checkpoint; it has nothing to do
//! with those of the tree.

use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags, ffi};

use super::StoreError;

/// After how many pages, of 4 KiB, they are brought into the database. Little at a time: a commit's
/// fsync waits for what else is on its way to the disk.
const EVERY: u32 = 512;
/// From how many pages on the file is written from the start again, for which commits must wait a
/// moment.
const LONGEST: u32 = 4096;

/// A thread that brings the write-ahead log into the database while commits go on. SQLite by itself
/// would have one of the commits do that, and whoever waits for it wait for another fsync.
///
/// What was committed is safe in either file. When it fails, the log grows, and it is tried again
/// after the next pages; but when a sync fails, nobody knows any more what of the database is on disk,
/// whatever later syncs say (fsync(2)), and the log is kept for the next start to bring in again.
pub(super) struct Backfill {
    shared: Arc<Shared>,
    /// How many pages there were when the thread was last woken.
    woken_at: u32,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is wrong with the log's database while entries can be written all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It will be tried again.
    #[error(
        "the audit log's write-ahead log grows: it can't be brought into the database, which is \
         tried again and again: {0}"
    )]
    Growing(String),
    /// It stays like that until the server is started again.
    #[error(
        "what the audit log's database has may not be on disk: its write-ahead log has it as well, \
         and is kept and grows until the server is started again; see to the disk first: {0}"
    )]
    Uncertain(String),
}

/// Tells what is wrong with the database of a log, for as long as it is open.
#[derive(Clone)]
pub(in crate::audit) struct Troubles(Arc<Shared>);

impl Troubles {
    /// What is wrong now.
    pub(in crate::audit) fn now(&self) -> Option<Trouble> {
        self.0.trouble().clone()
    }
}

#[derive(Default)]
struct Shared {
    /// How many pages the write-ahead log has since the last commit.
    pages: AtomicU32,
    /// Held by commits, and by the thread while there may be none.
    committing: Mutex<()>,
    trouble: Mutex<Option<Trouble>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.committing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }
}

impl Backfill {
    /// Begins to, for all that this connection commits.
    pub(super) fn start(writer: &mut Connection, path: &Path) -> Result<Self, StoreError> {
        let shared = Arc::<Shared>::default();
        let counted = Arc::clone(&shared);
        // In place of SQLite's own hook, by which a commit would do it.
        writer.wal_hook(Some(move |_: &mut Wal, pages| {
            counted.pages.store(pages as u32, Ordering::Relaxed);
            Ok(())
        }))?;
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Opens the files now, when they are the writer's.
        connection.query_row("SELECT count(*) FROM marks", [], |_| Ok(()))?;
        let (wake, woken) = sync_channel(1);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit-log-files".to_owned())
            .spawn(move || run(&connection, &of_thread, &woken))
            .map_err(|source| StoreError::File {
                path: "a thread".into(),
                source,
            })?;
        Ok(Self {
            shared,
            woken_at: 0,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// To be held during a commit.
    pub(super) fn commit(&self) -> MutexGuard<'_, ()> {
        self.shared.lock()
    }

    /// To be called after a commit.
    pub(super) fn committed(&mut self) {
        let pages = self.shared.pages();
        // The file is written from the start again.
        if pages < self.woken_at {
            self.woken_at = 0;
        }
        if pages >= self.woken_at + EVERY
            && let Some(wake) = &self.wake
            && wake.try_send(()).is_ok()
        {
            self.woken_at = pages;
        }
    }

    /// What tells how it fares.
    pub(super) fn troubles(&self) -> Troubles {
        Troubles(Arc::clone(&self.shared))
    }

    /// Ends it, and says whether what it brought in is on disk.
    pub(super) fn end(&mut self) -> bool {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            thread.join().ok();
        }
        !matches!(*self.shared.trouble(), Some(Trouble::Uncertain(_)))
    }
}

impl Drop for Backfill {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(connection: &Connection, shared: &Shared, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let trouble = bring_in(connection, shared).err();
        shared.trouble().clone_from(&trouble);
        if let Some(trouble) = trouble {
            tracing::error!("{trouble}");
            if let Trouble::Uncertain(_) = trouble {
                return;
            }
        }
    }
}

/// Brings in what there is while commits add more, and when there is much, then the rest without any:
/// only when nothing is left is the file written from the start again. Then SQLite syncs the
/// database, too; done before, that does not keep commits waiting for long.
fn bring_in(connection: &Connection, shared: &Shared) -> Result<(), Trouble> {
    let growing = |error: rusqlite::Error| Trouble::Growing(error.to_string());
    fill(connection).map_err(growing)?;
    sync(connection).map_err(|error| Trouble::Uncertain(error.to_string()))?;
    if shared.pages() < LONGEST {
        return Ok(());
    }
    let _no_commits = shared.lock();
    fill(connection).map_err(growing)
}

fn fill(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Brings to disk what was written to the database. By the file that SQLite has: to open and close
/// another would let go of the locks of all connections that this process has to the database
/// (fcntl(2)).
fn sync(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the connection is open and this thread's alone. What SQLite gives is the file of its
    // database, which lives as long as the connection and whose methods take it.
    let code = unsafe {
        let code = ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        );
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        match methods.and_then(|methods| methods.xSync) {
            Some(sync) if code == ffi::SQLITE_OK => sync(file, ffi::SQLITE_SYNC_NORMAL),
            _ => ffi::SQLITE_MISUSE,
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    struct Log {
        backfill: Backfill,
        writer: Connection,
        folder: PathBuf,
    }

    impl Log {
        fn new(name: &str) -> Self {
            let name = format!("hallpass-backfill-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            // What a test left that was killed.
            fs::remove_dir_all(&folder).ok();
            fs::create_dir(&folder).unwrap();
            let mut writer = Connection::open(folder.join("log.db")).unwrap();
            writer
                .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE marks (value BLOB)")
                .unwrap();
            Self {
                backfill: Backfill::start(&mut writer, &folder.join("log.db")).unwrap(),
                writer,
                folder,
            }
        }

        /// Commits some 40 pages, and gives how many are in the write-ahead log.
        fn commit(&mut self) -> u32 {
            let committing = self.backfill.commit();
            self.writer
                .execute("INSERT INTO marks VALUES (zeroblob(160000))", [])
                .unwrap();
            drop(committing);
            self.backfill.committed();
            self.backfill.shared.pages()
        }

        /// Commits until the write-ahead log is written from the start again.
        fn until_begun_anew(&mut self) {
            let mut before = 0;
            loop {
                let pages = self.commit();
                if pages < before {
                    return;
                }
                assert!(pages < 100 * LONGEST, "it grows without end");
                before = pages;
            }
        }

        fn reader(&self) -> Connection {
            Connection::open(self.folder.join("log.db")).unwrap()
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    #[test]
    fn the_write_ahead_log_begins_anew_under_commits_that_never_pause() {
        let mut log = Log::new("anew");
        for _ in 0..5 {
            log.until_begun_anew();
        }
    }

    #[test]
    fn it_waits_for_those_who_read_and_goes_on_after_them() {
        let mut log = Log::new("readers");
        log.commit();
        let reader = log.reader();
        reader.execute_batch("BEGIN").unwrap();
        let count = |connection: &Connection| -> i64 {
            connection
                .query_row("SELECT count(*) FROM marks", [], |row| row.get(0))
                .unwrap()
        };
        assert_eq!(count(&reader), 1);
        let mut before = 1;
        while before < 3 * LONGEST {
            let pages = log.commit();
            assert!(pages > before, "written over what is read");
            before = pages;
        }
        assert_eq!(count(&reader), 1, "it reads what there was when it began");
        reader.execute_batch("COMMIT").unwrap();
        log.until_begun_anew();
        // Each of them is still there.
        assert!(count(&reader) > i64::from(3 * LONGEST / 41));
    }

    #[test]
    fn what_was_brought_in_is_in_the_database_alone() {
        let mut log = Log::new("alone");
        let pages = std::iter::repeat_with(|| log.commit()).take(20).last();
        assert!(pages.is_some_and(|pages| pages > EVERY));
        // Two at a time would leave it to each other.
        assert!(log.backfill.end());
        log.backfill.shared.pages.store(LONGEST, Ordering::Relaxed);
        let other = log.reader();
        bring_in(&other, &log.backfill.shared).unwrap();
        let copy = log.folder.join("copy.db");
        fs::copy(log.folder.join("log.db"), &copy).unwrap();
        let count: i64 = Connection::open(&copy)
            .unwrap()
            .query_row("SELECT count(*) FROM marks", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 20);
    }
}
