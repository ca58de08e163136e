//! What state is rebuilt from at a start, and how a start knows that none of it is missing.
//!
//! The database finds those few among all entries by an index and a column, and whoever can write to the
//! file can have them pass over one: the lock of a stolen key, say. So the log's key signs how many
//! there are up to a place, and a hash of them all. What comes after that place is read entry by
//! entry, and is what the newest checkpoint was signed for.

use ring::digest::{SHA256, digest};
use rusqlite::{OptionalExtension, Row as Found};

use super::schema::{is_of_a_day, is_passing, of_a_day, passing};
use super::writer::{End, Store};
use super::{StoreError, StoredHashes, archives, parse, unreadable};
use crate::audit::Entry;
use crate::audit::archive::Archive;
use crate::audit::checkpoint::{Checkpoint, VerifierKey};
use crate::audit::proof::Hashes;
use crate::audit::signers::LogSigners;
use crate::audit::tree::{Frontier, Hash, record_hash};
use crate::keys::SignError;
use crate::model::Timestamp;

/// After how many entries it is signed again. A start reads that many, in some milliseconds.
const EVERY: u64 = 1024;
/// From how many on a start says that it reads them.
const MANY: u64 = 100_000;

/// Which entries of a log state is rebuilt from: how many there are, and a hash of them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::audit) struct State {
    count: u64,
    hash: [u8; 32],
    /// Up to which entry the database has that signed.
    signed: u64,
}

impl State {
    /// Takes in the next entry of the log.
    pub(in crate::audit) fn take(&mut self, index: u64, kind: &str, leaf: Hash) {
        if is_passing(kind) {
            return;
        }
        self.count += 1;
        let taken = [&self.hash[..], &index.to_be_bytes(), &leaf.0].concat();
        self.hash = digest(&SHA256, &taken)
            .as_ref()
            .try_into()
            .expect("SHA-256 gives 32 bytes");
    }

    /// What is to be kept of it after the entries of that tree, when it is time for that or others
    /// sign now.
    pub(in crate::audit) fn mark(
        &mut self,
        tree: &Frontier,
        signers: &LogSigners,
        others: bool,
    ) -> Result<Option<String>, SignError> {
        let size = tree.size();
        if !others && size - self.signed < EVERY {
            return Ok(None);
        }
        self.signed = size;
        let statement = self.statement(size, tree.root());
        let note = signers.sign_statement(&statement)?;
        Ok(Some(format!("{statement}\n{note}")))
    }

    fn statement(&self, size: u64, root: Hash) -> String {
        let Self { count, hash, .. } = self;
        let hash = Hash(*hash);
        format!("hallpass state entries\n{size}\n{root}\n{count}\n{hash}\n")
    }
}

/// The [`State`] after some entries, as the log's keys signed it.
struct Mark {
    size: u64,
    root: Hash,
    statement: String,
}

impl Mark {
    /// Reads one, when each of those keys signed it that signed the newest checkpoint: at least one,
    /// or that would not have been opened. One that is missing or is not so only makes a start read
    /// more.
    fn read(text: &str, newest: &Checkpoint, keys: &[VerifierKey]) -> Option<Self> {
        let end = text.find("\n\n")? + 1;
        let (statement, note) = (&text[..end], &text[end + 1..]);
        let signed = keys
            .iter()
            .filter(|key| newest.is_signed_by(key) == Ok(true))
            .all(|key| key.signed_statement(statement, note));
        let mut lines = statement.lines().skip(1);
        let size = lines.next()?.parse().ok()?;
        let root = Hash::parse_hash(lines.next()?).ok()?;
        signed.then(|| Self {
            size,
            root,
            statement: statement.to_owned(),
        })
    }
}

/// What was found so far.
struct Finding<F> {
    each: F,
    state: State,
    mark: Option<Mark>,
    /// Those that are kept for good although they are archived.
    kept: Vec<u64>,
    /// What the log says of files of archived entries, and how many of theirs are kept.
    archives: Vec<(Archive, u64)>,
}

impl<F: FnMut(Entry)> Finding<F> {
    fn take(&mut self, entry: Entry, leaf: Hash) {
        let index = entry.index.0;
        self.state.take(index, entry.event.kind(), leaf);
        if entry.event.is_believed_when_proven() {
            self.kept.push(index);
        }
        self.archives.extend(Archive::of(&entry.event));
        (self.each)(entry);
    }

    /// Compares what was found with what was signed once all is taken in front of that entry.
    fn compare(&mut self, index: u64) -> Result<(), String> {
        let Some(mark) = self.mark.take_if(|mark| mark.size <= index) else {
            return Ok(());
        };
        if mark.statement == self.state.statement(mark.size, mark.root) {
            self.state.signed = mark.size;
            return Ok(());
        }
        Err(format!(
            "among its first {} entries it finds {} that say who may do what, and they are not those \
             that the log's key signed for",
            mark.size, self.state.count
        ))
    }
}

impl Store {
    /// Gives the entries that state is rebuilt from, in order; those that matter for a day since some
    /// time, as far as none of them is archived: some of those may be gone. The log's keys are known,
    /// any of which may have signed.
    pub(in crate::audit) fn state(
        &self,
        end: &End,
        keys: &[VerifierKey],
        since: Timestamp,
        each: impl FnMut(Entry),
    ) -> Result<State, StoreError> {
        let Some(checkpoint) = &end.checkpoint else {
            return Ok(State::default());
        };
        let mut mark = self.state_mark(checkpoint, keys)?;
        if let Some(Mark { size, .. }) = mark
            && size > checkpoint.size
        {
            return Err(self.changed(format!(
                "it has {} entries, and the log's key has signed for {size}",
                checkpoint.size
            )));
        }
        mark.take_if(|mark| !self.has(mark, checkpoint));
        let signed = mark.as_ref().map_or(0, |mark| mark.size);
        let archived = archives::end(self.connection()).map_err(|error| self.unreadable(error))?;
        let mut finding = Finding {
            each,
            state: State::default(),
            mark,
            kept: Vec::new(),
            archives: Vec::new(),
        };
        // Of what is archived, the log says itself how many entries are kept.
        let from = signed.max(archived);
        self.find(checkpoint, signed, from, since, &mut finding)?;
        self.read_all(checkpoint, from, since, &mut finding)?;
        self.check_archives(&finding.archives, &finding.kept)?;
        Ok(finding.state)
    }

    fn state_mark(
        &self,
        newest: &Checkpoint,
        keys: &[VerifierKey],
    ) -> Result<Option<Mark>, StoreError> {
        let text: Option<Option<String>> = self
            .connection()
            .query_row("SELECT value FROM marks WHERE name = 'state'", [], |row| {
                Ok(row.get_ref(0)?.as_str().ok().map(str::to_owned))
            })
            .optional()
            .map_err(|error| self.unreadable(error))?;
        let text = text.flatten();
        Ok(text.and_then(|text| Mark::read(&text, newest, keys)))
    }

    /// Whether this log had that root: of what was put back to an old copy once, there is another
    /// history that the same key signed.
    fn has(&self, mark: &Mark, newest: &Checkpoint) -> bool {
        let ends = ((mark.size, mark.root), (newest.size, newest.root));
        Hashes::of_consistency(mark.size, newest.size, &StoredHashes(self.connection()))
            .and_then(|hashes| hashes.check_consistency(ends.0, ends.1))
            .is_ok()
    }

    /// Finds those in front of an entry by the indexes. Those that nobody signed for, and those that
    /// matter for a day, are proven to be in the tree of `checkpoint`, as far as they say who may do
    /// what: whoever can write to the file must not be able to enrol themselves.
    fn find(
        &self,
        checkpoint: &Checkpoint,
        signed: u64,
        before: u64,
        since: Timestamp,
        finding: &mut Finding<impl FnMut(Entry)>,
    ) -> Result<(), StoreError> {
        let mut statement = self.connection().prepare(concat!(
            "SELECT idx, kind, body FROM entries INDEXED BY entries_state WHERE NOT ",
            passing!("kind"),
            " AND idx < ?2
             UNION ALL
             SELECT idx, kind, body FROM entries INDEXED BY entries_of_a_day WHERE ",
            of_a_day!("kind"),
            " AND time >= ?1 AND idx < ?2
                 AND idx >= coalesce((SELECT next FROM archives ORDER BY first DESC LIMIT 1), 0)
             ORDER BY idx"
        ))?;
        let mut rows = statement.query([since.as_millis() as i64, before as i64])?;
        while let Some(row) = rows.next().map_err(|error| self.unreadable(error))? {
            let (entry, body) = self.entry(row)?;
            let index = entry.index.0;
            finding.compare(index).map_err(|why| self.changed(why))?;
            let is_signed = index < signed && !is_passing(entry.event.kind());
            if !is_signed && entry.event.must_be_proven() {
                self.prove(index, &body, checkpoint)?;
            }
            finding.take(entry, record_hash(body.as_bytes()));
        }
        finding.compare(before).map_err(|why| self.changed(why))
    }

    /// Reads all from an entry on, and checks that they are what the checkpoint was signed for.
    fn read_all(
        &self,
        checkpoint: &Checkpoint,
        from: u64,
        since: Timestamp,
        finding: &mut Finding<impl FnMut(Entry)>,
    ) -> Result<(), StoreError> {
        let many = checkpoint.size.saturating_sub(from);
        if many >= MANY {
            tracing::info!(
                entries = many,
                "reading the audit log entry by entry, as nothing is signed yet of which of them say \
                 who may do what: this start takes longer"
            );
        }
        let mut tree = Frontier::read(from, &StoredHashes(self.connection()))
            .map_err(|error| self.changed(format!("hashes of its tree are missing: {error}")))?;
        let mut statement = self
            .connection()
            .prepare("SELECT idx, kind, body FROM entries WHERE idx >= ?1 ORDER BY idx")?;
        let mut rows = statement.query([from as i64])?;
        while let Some(row) = rows.next().map_err(|error| self.unreadable(error))? {
            let (entry, body) = self.entry(row)?;
            if entry.index.0 != tree.size() {
                return Err(self.changed(format!("entry {} is missing", tree.size())));
            }
            let leaf = record_hash(body.as_bytes());
            tree.append(leaf);
            let kind = entry.event.kind();
            if !is_passing(kind) || is_of_a_day(kind) && entry.time >= since {
                finding.take(entry, leaf);
            }
        }
        if tree.root() != checkpoint.root {
            return Err(self.first_changed(from)?);
        }
        Ok(())
    }

    /// Names the first entry from one on that is not what its hash in the tree is of.
    fn first_changed(&self, from: u64) -> Result<StoreError, StoreError> {
        let mut statement = self
            .connection()
            .prepare("SELECT idx, body FROM entries WHERE idx >= ?1 ORDER BY idx")?;
        let mut rows = statement.query([from as i64])?;
        while let Some(row) = rows.next().map_err(|error| self.unreadable(error))? {
            let (index, body): (i64, String) = (row.get(0)?, row.get(1)?);
            let leaf = StoredHashes(self.connection()).at(0, index as u64)?;
            if leaf != Some(record_hash(body.as_bytes())) {
                return Ok(self.changed(format!("entry {index} is not what was committed")));
            }
        }
        Ok(self.changed(format!(
            "its entries from {from} on are not those that the newest checkpoint was signed for"
        )))
    }

    /// An entry, of which the database must think that it is of the kind that it is.
    fn entry(&self, row: &Found<'_>) -> Result<(Entry, String), StoreError> {
        let (index, kind, body): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let entry = parse(index, &body)?;
        if entry.index.0 != index as u64 {
            return Err(self.changed(format!("entry {index} is not what was committed")));
        }
        if entry.event.kind() != kind {
            return Err(self.changed(format!(
                "entry {index} stands in it as {kind}, and is {}",
                entry.event.kind()
            )));
        }
        Ok((entry, body))
    }

    fn prove(&self, index: u64, body: &str, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let stored = StoredHashes(self.connection());
        let Checkpoint { size, root, .. } = *checkpoint;
        tlog_tiles::prove_record(size, index, &stored)
            .and_then(|proof| {
                let leaf = record_hash(body.as_bytes());
                tlog_tiles::check_record(&proof, size, root, index, leaf)
            })
            .map_err(|_| self.changed(format!("entry {index} is not what was committed")))
    }

    /// Checks that what is archived is what the log says, and that of it nothing is missing that
    /// says who may do what.
    fn check_archives(&self, logged: &[(Archive, u64)], kept: &[u64]) -> Result<(), StoreError> {
        let recorded = archives::all(self.connection())?;
        if !recorded
            .iter()
            .eq(logged.iter().map(|(archive, _)| archive))
        {
            let why = "other files of archived entries are recorded than the log has entries of";
            return Err(self.changed(why.to_owned()));
        }
        let mut end = 0;
        for (archive, count) in logged {
            let found = kept
                .iter()
                .filter(|index| (archive.first..archive.next).contains(index))
                .count() as u64;
            if archive.first != end || found != *count {
                return Err(self.changed(format!(
                    "of the entries that are archived in {}, {count} should have been kept, and \
                     {found} are there",
                    archive.file
                )));
            }
            end = archive.next;
        }
        Ok(())
    }

    fn unreadable(&self, error: rusqlite::Error) -> StoreError {
        unreadable(self.path(), error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rusqlite::Connection;
    use tokio::runtime::Runtime;
    use tokio::task::JoinSet;

    use super::*;
    use crate::audit::{Event, Log, NoteKind, NoteSigner, Refused};
    use crate::keys::Signer;

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    /// A log of its own, and what signs it.
    struct Home {
        folder: PathBuf,
        signer: NoteSigner,
    }

    impl Home {
        fn new(name: &str) -> Self {
            let name = format!("hallpass-state-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::remove_dir_all(&folder).ok();
            fs::create_dir(&folder).unwrap();
            let home = Self {
                folder,
                signer: signer(),
            };
            let log = Log::create(&home.database(), home.signer.clone()).unwrap();
            log.close();
            home
        }

        fn database(&self) -> PathBuf {
            self.folder.join("log.db")
        }

        fn sql(&self, sql: &str) {
            let log = Connection::open(self.database()).unwrap();
            log.execute_batch(sql).unwrap();
        }

        /// What state a start finds: the numbers of the users.
        fn found(&self) -> Result<Vec<u64>, String> {
            self.found_by(&[self.signer.verifier().clone()])
        }

        fn found_by(&self, keys: &[VerifierKey]) -> Result<Vec<u64>, String> {
            let mut found = Vec::new();
            let each = |entry: Entry| {
                let user = entry.event.subject().unwrap().to_string();
                found.push(user["user".len()..].parse().unwrap());
            };
            Log::open(&self.database(), keys, now(), each)
                .map(|_| found)
                .map_err(|error| error.to_string())
        }

        fn mark(&self) -> Option<String> {
            let log = Connection::open(self.database()).unwrap();
            let find = "SELECT value FROM marks WHERE name = 'state'";
            log.query_row(find, [], |row| row.get(0))
                .optional()
                .unwrap()
        }

        fn set_mark(&self, mark: &str) {
            let log = Connection::open(self.database()).unwrap();
            let set = "INSERT OR REPLACE INTO marks VALUES ('state', ?1)";
            log.execute(set, [mark]).unwrap();
        }

        /// Has the index by which state is found pass over an entry.
        fn pass_over(&self, index: u64) {
            let log = Connection::open(self.database()).unwrap();
            let find = "SELECT sql FROM sqlite_schema WHERE name = 'entries_state'";
            let sql: String = log.query_row(find, [], |row| row.get(0)).unwrap();
            log.execute_batch(&format!(
                "DROP INDEX entries_state; {sql} AND idx <> {index}; PRAGMA writable_schema = ON"
            ))
            .unwrap();
            let restore = "UPDATE sqlite_schema SET sql = ?1 WHERE name = 'entries_state'";
            assert_eq!(log.execute(restore, [sql]), Ok(1));
        }

        /// Opens the log and writes entries on; those of these numbers enrol somebody.
        fn write(&self, entries: u64, enrolling: &[u64]) {
            let key = self.signer.verifier();
            let opened = Log::open(&self.database(), key, now(), |_| {}).unwrap();
            let log = opened.start(self.signer.clone(), |_| {}).unwrap();
            Runtime::new().unwrap().block_on(async {
                let mut tasks = JoinSet::new();
                for _ in 0..entries {
                    let slot = log.reserve(now()).unwrap();
                    let number = slot.index().0;
                    let event = if enrolling.contains(&number) {
                        enrolled(number)
                    } else {
                        refused()
                    };
                    tasks.spawn(slot.commit(event, None));
                    // Not more than may wait for the disk.
                    if number % 256 == 255 {
                        while let Some(done) = tasks.join_next().await {
                            done.unwrap().unwrap();
                        }
                    }
                }
                for done in tasks.join_all().await {
                    done.unwrap();
                }
            });
            log.close();
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    fn signer() -> NoteSigner {
        NoteSigner::new("log", NoteKind::Checkpoint, Signer::throwaway()).unwrap()
    }

    fn enrolled(number: u64) -> Event {
        Event::UserEnrolled {
            user: format!("user{number}").parse().unwrap(),
            groups: Vec::new(),
            public_key: String::new(),
            attestation: None,
            by: None,
        }
    }

    fn refused() -> Event {
        Event::UnauthenticatedRefused {
            source: [192, 0, 2, 7].into(),
            fingerprint: None,
            host: None,
            refused: Refused {
                request: "POST /v1".to_owned(),
                code: "unknown".to_owned(),
                detail: "x".to_owned(),
            },
            unlisted: 0,
        }
    }

    const BEGIN: &str = "was changed: ";

    #[test]
    fn all_state_is_found_with_what_is_signed_and_without() {
        let home = Home::new("found");
        let enrolling = [0, 3, 1022, 1023, 1024, 1025, 2047, 2600, 2999];
        let mut marks = Vec::new();
        for _ in 0..30 {
            home.write(100, &enrolling);
            marks.push(home.mark());
            let written = 100 * marks.len() as u64;
            let there = enrolling.iter().copied().filter(|number| *number < written);
            assert_eq!(home.found(), Ok(there.collect()));
        }
        marks.dedup();
        let sizes: Vec<&str> = marks
            .iter()
            .map(|mark| {
                mark.as_deref()
                    .map_or("0", |mark| mark.lines().nth(1).unwrap())
            })
            .collect();
        let sizes: Vec<u64> = sizes.iter().map(|size| size.parse().unwrap()).collect();
        assert_eq!(sizes.len(), 3);
        assert!((1024..1536).contains(&sizes[1]) && sizes[2] >= sizes[1] + 1024);

        home.sql("DELETE FROM marks WHERE name = 'state'");
        assert_eq!(home.found(), Ok(enrolling.to_vec()));
        for unreadable in ["", "x", "\n\n", "hallpass state entries\n9\n\n"] {
            home.set_mark(unreadable);
            assert_eq!(home.found(), Ok(enrolling.to_vec()), "{unreadable:?}");
        }
        home.sql("UPDATE marks SET value = x'80' WHERE name = 'state'");
        assert_eq!(home.found(), Ok(enrolling.to_vec()));
        home.write(1, &[]);
        assert_eq!(
            home.mark().unwrap().lines().nth(1),
            Some("3001"),
            "signed at once when nothing was"
        );
        assert_eq!(home.found(), Ok(enrolling.to_vec()));
    }

    #[test]
    fn an_index_that_passes_over_state_is_noticed() {
        let home = Home::new("index");
        home.write(1500, &[5, 10, 1490]);
        home.pass_over(1490);
        // It is not asked for the newest.
        assert_eq!(home.found(), Ok(vec![5, 10, 1490]));
        home.sql("REINDEX");
        home.pass_over(10);
        let refused = home.found().unwrap_err();
        assert!(
            refused.contains(BEGIN) && refused.contains("it finds 1 that say"),
            "{refused}"
        );
        home.sql("REINDEX");
        assert_eq!(home.found(), Ok(vec![5, 10, 1490]));
    }

    #[test]
    fn state_that_stands_as_something_else_is_noticed() {
        let hide = |index: u64| {
            format!(
                "DROP TRIGGER entries_stay;
                 UPDATE entries SET kind = 'unauthenticated-refused' WHERE idx = {index}"
            )
        };
        let home = Home::new("kind");
        home.write(1500, &[5, 10, 1490]);
        home.sql(&hide(10));
        let refused = home.found().unwrap_err();
        assert!(refused.contains("it finds 1 that say"), "{refused}");

        let home = Home::new("newest-kind");
        home.write(100, &[5, 10]);
        home.sql(&hide(10));
        let refused = home.found().unwrap_err();
        let why = "entry 10 stands in it as unauthenticated-refused, and is user-enrolled";
        assert!(refused.contains(why), "{refused}");
    }

    #[test]
    fn an_entry_after_what_is_signed_must_be_what_was_committed() {
        let home = Home::new("newest");
        home.write(1500, &[5]);
        let change = |from: &str, to: &str| {
            home.sql(&format!(
                "DROP TRIGGER IF EXISTS entries_stay;
                 UPDATE entries SET body = replace(body, '{from}', '{to}') WHERE idx = 1490"
            ));
        };
        change("192.0.2.7", "192.0.2.8");
        let refused = home.found().unwrap_err();
        assert!(
            refused.contains("entry 1490 is not what was committed"),
            "{refused}"
        );
        change("192.0.2.8", "192.0.2.7");
        assert_eq!(home.found(), Ok(vec![5]));
        // With its hash, too.
        change("192.0.2.7", "192.0.2.8");
        let log = Connection::open(home.database()).unwrap();
        let find = "SELECT body FROM entries WHERE idx = 1490";
        let body: String = log.query_row(find, [], |row| row.get(0)).unwrap();
        let leaf = record_hash(body.as_bytes()).0;
        log.execute_batch("DROP TRIGGER tree_stays").unwrap();
        log.execute("UPDATE tree SET hashes = ?1 WHERE idx = 1490", [leaf])
            .unwrap();
        let refused = home.found().unwrap_err();
        assert!(
            refused.contains("are not those that the newest checkpoint was signed for"),
            "{refused}"
        );
    }

    #[test]
    fn what_was_signed_before_hides_nothing_that_came_later() {
        let home = Home::new("before");
        home.write(1100, &[5]);
        let before = home.mark().unwrap();
        home.write(1500, &[1200, 2599]);
        assert_ne!(home.mark().unwrap(), before);
        home.set_mark(&before);
        home.pass_over(1200);
        assert_eq!(home.found(), Ok(vec![5, 1200, 2599]));
        home.pass_over(5);
        assert!(home.found().is_err());
    }

    #[test]
    fn more_signed_than_there_is_is_noticed() {
        let home = Home::new("more");
        home.write(10, &[5]);
        let before = fs::read(home.database()).unwrap();
        home.write(1500, &[]);
        let mark = home.mark().unwrap();
        fs::write(home.database(), before).unwrap();
        assert_eq!(home.found(), Ok(vec![5]));
        home.set_mark(&mark);
        let refused = home.found().unwrap_err();
        assert!(
            refused.contains("it has 10 entries, and the log's key has signed"),
            "{refused}"
        );
    }

    #[test]
    fn what_another_key_signed_counts_for_nothing() {
        let home = Home::new("key");
        home.write(1500, &[5, 10]);
        home.pass_over(10);
        let planted = signer();
        let keys = [planted.verifier().clone(), home.signer.verifier().clone()];
        let mut state = State::default();
        let log = Connection::open(home.database()).unwrap();
        let find = "SELECT body FROM entries WHERE idx = 5";
        let body: String = log.query_row(find, [], |row| row.get(0)).unwrap();
        state.take(5, "user-enrolled", record_hash(body.as_bytes()));
        let tree = Frontier::read(1500, &StoredHashes(&log)).unwrap();
        let mark = |signers| state.clone().mark(&tree, &signers, true).unwrap().unwrap();
        home.set_mark(&mark(planted.clone().into()));
        assert_eq!(home.found_by(&keys), Ok(vec![5, 10]));
        // Nobody but the log can: that it is this that counts, the log's own key shows.
        home.set_mark(&mark(home.signer.clone().into()));
        assert_eq!(home.found_by(&keys), Ok(vec![5]));
    }

    #[test]
    fn what_was_signed_in_another_history_counts_for_nothing() {
        let home = Home::new("history");
        home.write(10, &[5]);
        let before = fs::read(home.database()).unwrap();
        home.write(1500, &[]);
        let mark = home.mark().unwrap();
        fs::write(home.database(), before).unwrap();
        home.write(1500, &[20]);
        home.set_mark(&mark);
        home.pass_over(20);
        assert_eq!(home.found(), Ok(vec![5, 20]));
    }
}
