//! Whoever changes the log is found out, and what was changed is named.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use hallpass::audit::{Frontier, record_hash};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{
    Ca, Folder, Home, Host, Impostor, P256, Person, Ran, make_csr, run, serve_fails,
};

const ASK: [&str; 6] = [
    "request",
    "server-operator",
    "--purpose",
    "incident",
    "--reason",
    "x",
];

/// A log of some entries, whose server has stopped, and one of the people in it.
fn log() -> (Home, Person) {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call", "database-support"]);
    for _ in 0..3 {
        ask(&bob).ok();
        bob.hallpass([
            "request",
            "patients-read",
            "--purpose",
            "incident",
            "--reason",
            "INC-1",
        ])
        .ok();
    }
    (ca.stop(), bob)
}

fn ask(person: &Person) -> Ran {
    person.hallpass(ASK)
}

fn verify(person: &Person, home: &Home) -> Ran {
    let path = home.path();
    person.hallpass(["audit", "verify", "--home", path.to_str().unwrap()])
}

/// The database with nothing in it that stops a thief.
fn opened(path: &Path) -> Connection {
    let log = Connection::open(path).unwrap();
    log.execute_batch(
        "DROP TRIGGER IF EXISTS entries_stay; DROP TRIGGER IF EXISTS entries_remain;
         DROP TRIGGER IF EXISTS tree_stays; DROP TRIGGER IF EXISTS tree_remains;",
    )
    .unwrap();
    log
}

/// Makes the stored tree fit the entries again, as far as it can be done without the log's key.
fn mend_tree(log: &Connection) {
    let mut tree = Frontier::default();
    let bodies: Vec<String> = log
        .prepare("SELECT body FROM entries ORDER BY idx")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    log.execute("DELETE FROM tree", []).unwrap();
    for (index, body) in bodies.iter().enumerate() {
        let hashes = tree.append(record_hash(body.as_bytes()));
        let hashes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        log.execute("INSERT INTO tree VALUES (?, ?)", (index as i64, hashes))
            .unwrap();
    }
}

const REPLACE: &str = "UPDATE entries SET body = replace(body, '\"bob\"', '\"eve\"')";
const SWAP: &str = "CREATE TEMP TABLE two AS SELECT * FROM entries WHERE idx IN (10, 12);
    UPDATE entries SET body = (SELECT body FROM two WHERE two.idx = 22 - entries.idx)
    WHERE idx IN (10, 12)";

type Tamper = (&'static str, fn(&Connection), &'static str);

const TAMPERED: [Tamper; 16] = [
    (
        "one word of an entry",
        |log| {
            log.execute_batch(&format!("{REPLACE} WHERE idx = 11"))
                .unwrap();
        },
        "entry 11 does not fit: it is not what was committed: its hash is another",
    ),
    (
        "one bit of an entry",
        |log| {
            log.execute_batch("UPDATE entries SET body = replace(body, '-', '/') WHERE idx = 9")
                .unwrap();
        },
        "entry 9 does not fit: it can't be read: ",
    ),
    (
        "an entry and its hash",
        |log| {
            log.execute_batch(&format!("{REPLACE} WHERE idx = 12"))
                .unwrap();
            let body: String = log
                .query_row("SELECT body FROM entries WHERE idx = 12", [], |row| {
                    row.get(0)
                })
                .unwrap();
            log.execute(
                "UPDATE tree SET hashes = CAST(? || substr(hashes, 33) AS BLOB) WHERE idx = 12",
                [record_hash(body.as_bytes()).0],
            )
            .unwrap();
            log.execute_batch("UPDATE entries SET requester = 'eve' WHERE idx = 12")
                .unwrap();
        },
        "entry 13 does not fit: the hashes of the tree above it are not what they were",
    ),
    (
        "an entry and all hashes",
        |log| {
            log.execute_batch(&format!(
                "{REPLACE} WHERE idx = 12; UPDATE entries SET requester = 'eve' WHERE idx = 12"
            ))
            .unwrap();
            mend_tree(log);
        },
        "entries are not those that the newest checkpoint was signed for: some were changed",
    ),
    (
        "a copy that is searched",
        |log| {
            log.execute_batch("UPDATE entries SET requester = 'eve' WHERE idx = 12")
                .unwrap();
        },
        "entry 12 does not fit: what is searched is not what it says",
    ),
    (
        "a role, so that a search does not find it",
        |log| {
            let changed = log.execute("UPDATE entries SET first_role = NULL", []);
            assert!(changed.unwrap() > 0);
        },
        "does not fit: what is searched is not what it says",
    ),
    (
        "a purpose that it was not for",
        |log| {
            let second = "UPDATE entries SET first_purpose = 'deploy'
                WHERE first_purpose IS NULL AND kind = 'certificate-issued'";
            assert!(log.execute(second, []).unwrap() > 0);
        },
        "does not fit: what is searched is not what it says",
    ),
    (
        "a kind, so that it is passed over at the start",
        |log| {
            log.execute_batch(
                "UPDATE entries SET kind = 'request-refused' WHERE kind = 'user-enrolled'",
            )
            .unwrap();
        },
        "does not fit: what is searched is not what it says",
    ),
    (
        "two entries swapped",
        |log| log.execute_batch(SWAP).unwrap(),
        "entry 10 does not fit: it is not what was committed",
    ),
    (
        "two entries swapped, and the tree made to fit",
        |log| {
            log.execute_batch(SWAP).unwrap();
            mend_tree(log);
        },
        "entry 10 does not fit: ",
    ),
    (
        "the last entry deleted",
        |log| {
            log.execute_batch("DELETE FROM entries WHERE idx = (SELECT max(idx) FROM entries)")
                .unwrap();
        },
        "is missing",
    ),
    (
        "the last entry deleted with its hashes",
        |log| {
            log.execute_batch(
                "DELETE FROM entries WHERE idx = (SELECT max(idx) FROM entries);
                 DELETE FROM tree WHERE idx = (SELECT max(idx) FROM tree)",
            )
            .unwrap();
        },
        "is missing",
    ),
    (
        "one deleted in the middle",
        |log| {
            log.execute_batch("DELETE FROM entries WHERE idx = 10")
                .unwrap();
        },
        "entry 10 is missing",
    ),
    (
        "one deleted in the middle, and the rest moved up",
        |log| {
            log.execute_batch(
                "DELETE FROM entries WHERE idx = 10;
                 UPDATE entries SET idx = idx - 1 WHERE idx > 10",
            )
            .unwrap();
            mend_tree(log);
        },
        "entry 10 does not fit: it says that it is entry 11",
    ),
    (
        "an entry that nobody signed for",
        |log| {
            log.execute_batch(
                "INSERT INTO entries (idx, time, kind, body)
                 SELECT max(idx) + 1, max(time), 'request-failed', '{}' FROM entries",
            )
            .unwrap();
        },
        "on that no checkpoint was signed for",
    ),
    (
        "a checkpoint of other entries",
        |log| {
            log.execute_batch(
                "UPDATE marks SET value = replace(value, char(10) || '1', char(10) || '2')
                 WHERE name = 'checkpoint'",
            )
            .unwrap();
        },
        "the newest checkpoint: the signature in the name of hallpass/",
    ),
];

/// A verification that has the database open and waits for what is written to the pipe: the
/// checkpoint that the log should continue.
fn verification_that_waits(person: &Person, home: &Home, folder: &Folder) -> (Child, File) {
    let since = folder.join("since");
    run("mkfifo", [&since]).ok();
    let verifying = person
        .command()
        .args(["audit", "verify", "--home"])
        .arg(home.path())
        .arg("--since")
        .arg(&since)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Opened when the other side opens it.
    let pipe = File::options().write(true).open(&since).unwrap();
    (verifying, pipe)
}

#[test]
fn a_database_that_is_cut_off_while_it_is_verified_does_not_verify() {
    let (home, person) = log();
    let checkpoint: String = Connection::open(home.database())
        .unwrap()
        .query_row(
            "SELECT value FROM marks WHERE name = 'checkpoint'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let folder = Folder::new();
    let (verifying, mut pipe) = verification_that_waits(&person, &home, &folder);
    let database = File::options().write(true).open(home.database()).unwrap();
    database.set_len(4096).unwrap();
    pipe.write_all(checkpoint.as_bytes()).unwrap();
    drop(pipe);
    let ran = Ran::from(verifying.wait_with_output().unwrap());
    ran.fails_with(76, "THE LOG DOES NOT VERIFY: ");
    ran.fails_with(76, " is damaged or no SQLite database");
}

/// Cut off while a page of it is read, it ends the process with this signal (mmap(2)).
#[test]
fn a_mapped_page_that_can_not_be_read_is_explained() {
    let (home, person) = log();
    let folder = Folder::new();
    let (verifying, _pipe) = verification_that_waits(&person, &home, &folder);
    let pid = i32::try_from(verifying.id()).unwrap();
    // SAFETY: it is our own child, and was not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGBUS) }, 0);
    let ran = Ran::from(verifying.wait_with_output().unwrap());
    ran.fails_with(66, "hallpass: a part of the database can't be read: ");
}

#[test]
fn verify_names_what_was_changed() {
    let (home, bob) = log();
    let good = verify(&bob, &home).ok();
    assert!(good.starts_with("Verified: all "), "{good}");
    assert!(good.contains(" with 7 certificates"), "{good}");
    let mut missed = String::new();
    for (what, tamper, expected) in TAMPERED {
        let home = home.copy();
        let log = opened(&home.database());
        tamper(&log);
        drop(log);
        let ran = verify(&bob, &home);
        if ran.code != 76 || !ran.err.contains(expected) {
            missed += &format!("{what}: {ran:?}\n");
        }
    }
    assert_eq!(missed, "");
}

/// Has an index hold other entries, which nothing in its definition tells afterwards.
fn remake(log: &Connection, name: &str, condition: &str) {
    let find = "SELECT sql FROM sqlite_schema WHERE name = ?";
    let sql: String = log.query_row(find, [name], |row| row.get(0)).unwrap();
    let (made, _) = sql.split_once(" WHERE ").unwrap_or((&sql, ""));
    log.execute_batch(&format!(
        "DROP INDEX {name}; {made} WHERE {condition}; PRAGMA writable_schema = ON"
    ))
    .unwrap();
    let restored = log.execute(
        "UPDATE sqlite_schema SET sql = ? WHERE name = ?",
        [&*sql, name],
    );
    assert_eq!(restored, Ok(1));
}

#[test]
fn a_lock_that_the_database_passes_over_holds() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    alice
        .hallpass(["lock", "user/bob", "--reason", "stolen laptop"])
        .ok();
    let address = ca.address().to_owned();
    let home = ca.stop();
    remake(
        &opened(&home.database()),
        "entries_state",
        "kind <> 'locked'",
    );
    let ca = Ca::at(home, &address);
    ask(&bob).fails_with(77, "stolen laptop");
    let home = ca.stop();
    // As something else, it is not even started on.
    let log = opened(&home.database());
    log.execute_batch("REINDEX").unwrap();
    let changed = log.execute(
        "UPDATE entries SET kind = 'certificate-issued' WHERE kind = 'locked'",
        [],
    );
    assert_eq!(changed, Ok(1));
    drop(log);
    let (code, message) = serve_fails(&home);
    assert_eq!(code, 78, "{message}");
    assert!(
        message.contains("stands in it as certificate-issued, and is locked"),
        "{message}"
    );

    // Of what is old, a start only reads what it finds.
    let home = Home::with_history();
    let disabled = "kind <> 'user-disabled'";
    remake(&opened(&home.database()), "entries_state", disabled);
    let (code, message) = serve_fails(&home);
    assert_eq!(code, 78, "{message}");
    assert!(
        message.contains("that say who may do what, and they are not those"),
        "{message}"
    );
}

#[test]
fn an_index_that_has_something_else_is_named() {
    let (home, bob) = log();
    let indexes: Vec<(String, String)> = Connection::open(home.database())
        .unwrap()
        .prepare(
            "SELECT name, sql FROM sqlite_schema
             WHERE type = 'index' AND tbl_name = 'entries' AND sql IS NOT NULL",
        )
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(indexes.len(), 7);
    for (name, sql) in indexes {
        let home = home.copy();
        let log = opened(&home.database());
        let (_, condition) = sql.split_once(" WHERE ").unwrap_or((&sql, "TRUE"));
        let find = format!("SELECT max(idx) FROM entries WHERE {condition}");
        let found: Option<i64> = log.query_row(&find, [], |row| row.get(0)).unwrap();
        let other = match found {
            Some(found) => format!("({condition}) AND idx <> {found}"),
            None => "idx = 5".to_owned(),
        };
        remake(&log, &name, &other);
        drop(log);
        let named = format!("the index {name} of the database has something else of entries 0 to ");
        verify(&bob, &home).fails_with(76, &named);
        let log = Connection::open(home.database()).unwrap();
        log.execute_batch("REINDEX").unwrap();
        drop(log);
        verify(&bob, &home).ok();
    }
}

/// A certificate of bob's, and something else in the log in its place.
const IN_ITS_PLACE: &str = "
    CREATE TRIGGER other BEFORE INSERT ON entries WHEN new.requester = 'bob'
    BEGIN
        INSERT INTO entries (idx, time, kind, body)
            SELECT new.idx, new.time, kind, body FROM entries WHERE idx = 1;
        SELECT RAISE(IGNORE);
    END";

#[test]
fn nothing_in_the_database_acts_in_place_of_the_server() {
    let (home, bob) = log();
    for (sql, object) in [
        (IN_ITS_PLACE, "trigger other"),
        (
            "CREATE UNIQUE INDEX other ON entries (time, kind, idx)",
            "index other",
        ),
        ("DROP INDEX entries_subject", "index entries_subject"),
        (
            "ALTER TABLE tree ADD COLUMN other INTEGER CHECK (idx < 999)",
            "table tree",
        ),
    ] {
        let home = home.copy();
        let log = Connection::open(home.database()).unwrap();
        log.execute_batch(sql).unwrap();
        drop(log);
        let named = format!("the {object} of the audit log's database is not what Hallpass made");
        let (code, message) = serve_fails(&home);
        assert_eq!(code, 78, "{message}");
        assert!(message.contains(&named), "{message}");
        verify(&bob, &home).fails_with(76, &named);
    }
    // Its own triggers are put in order: they only keep from mistakes. What replication or reports
    // keep beside the log does nothing to it.
    let log = opened(&home.database());
    log.execute_batch("CREATE TABLE a (b); CREATE INDEX c ON entries (time); ANALYZE; VACUUM")
        .unwrap();
    log.execute_batch(&IN_ITS_PLACE.replace("other", "tree_stays"))
        .unwrap();
    drop(log);
    let ca = Ca::on(home);
    bob.connect(&ca);
    ask(&bob).ok();
    let log = Connection::open(ca.home.database()).unwrap();
    for sql in ["UPDATE tree SET hashes = x'00'", "DELETE FROM entries"] {
        let error = log.execute(sql, []).unwrap_err().to_string();
        assert!(error.contains("append-only"), "{sql}: {error}");
    }
    // Nor does what is put there while it serves.
    log.execute_batch(IN_ITS_PLACE).unwrap();
    drop(log);
    let issued = ca.home.entries("certificate-issued").len();
    ask(&bob).ok();
    assert_eq!(ca.home.entries("certificate-issued").len(), issued + 1);
    let home = ca.stop();
    let log = Connection::open(home.database()).unwrap();
    log.execute_batch("DROP TRIGGER other").unwrap();
    drop(log);
    verify(&bob, &home).ok();
}

#[test]
fn sqlite_itself_refuses_to_change_or_delete() {
    let home = Home::new();
    let log = Connection::open(home.database()).unwrap();
    for sql in [
        "UPDATE entries SET body = '' WHERE idx = 0",
        "DELETE FROM entries WHERE idx = 0",
        "UPDATE tree SET hashes = x'' WHERE idx = 0",
        "DELETE FROM tree WHERE idx = 0",
    ] {
        let error = log.execute(sql, []).unwrap_err().to_string();
        assert!(
            error.contains("the audit log is append-only"),
            "{sql}: {error}"
        );
    }
}

#[test]
fn any_changed_byte_of_an_entry_in_the_file_is_found() {
    let (home, bob) = log();
    let log = Connection::open(home.database()).unwrap();
    let body: String = log
        .query_row("SELECT body FROM entries WHERE idx = 12", [], |row| {
            row.get(0)
        })
        .unwrap();
    drop(log);
    let file = fs::read(home.database()).unwrap();
    let whole = |bytes: &&[u8]| *bytes == body.as_bytes();
    let place = file
        .windows(body.len())
        .position(|bytes| whole(&bytes))
        .unwrap();
    for offset in [0, 17, body.len() / 2, body.len() - 1] {
        let home = home.copy();
        let mut file = file.clone();
        file[place + offset] ^= 1;
        fs::write(home.database(), file).unwrap();
        let ran = verify(&bob, &home);
        assert_eq!(ran.code, 76, "{ran:?}");
        assert!(ran.err.contains("entry 12 does not fit"), "{ran:?}");
    }
}

#[test]
fn an_old_log_put_back_is_noticed_by_a_client() {
    let (home, bob) = log();
    let old = home.copy();
    let ca = Ca::on(home);
    bob.connect(&ca);
    ask(&bob).ok();
    ask(&bob).ok();
    ca.stop();
    let ca = Ca::on(old);
    let ran = ask_at(&bob, &ca);
    assert_rewritten(&bob, &ran);
}

#[test]
fn a_fork_that_the_real_key_signed_is_noticed_by_a_client_and_by_an_auditor() {
    let (home, bob) = log();
    let fork = home.copy();
    let ca = Ca::on(home);
    bob.connect(&ca);
    ask(&bob).ok();
    let auditor = ca.admin();
    let seen = auditor.folder.join("seen");
    fs::write(&seen, auditor.hallpass(["audit", "checkpoint"]).ok()).unwrap();
    ca.stop();

    // The same key signs another history, which is longer.
    let ca = Ca::on(fork);
    let eve = ca.enrol("eve", &["on-call"]);
    for _ in 0..4 {
        ask(&eve).ok();
    }
    let ran = ask_at(&bob, &ca);
    assert_rewritten(&bob, &ran);
    // It is not forgotten by asking again.
    let ran = ask_at(&bob, &ca);
    assert_eq!(ran.code, 76, "{ran:?}");

    // In itself the fork is sound; only what was seen before tells.
    let auditor = ca.admin();
    auditor.hallpass(["audit", "verify"]).ok();
    let since = ["audit", "verify", "--since", seen.to_str().unwrap()];
    let ran = auditor.hallpass(since);
    assert_eq!(ran.code, 76, "{ran:?}");
    assert!(ran.err.contains("the log was rewritten since"), "{ran:?}");

    // Who knows that it is right begins anew.
    bob.connect(&ca);
    ask(&bob).ok();
    eve.hallpass(["audit", "verify"]).fails_with(77, "read-log");
}

/// Has somebody ask by way of an impostor that holds back the proof that the log continues what was
/// seen. Gives what is asked, and what has the proof come.
fn ask_slowly(person: &Person, ca: &Ca) -> (Child, mpsc::Sender<()>) {
    let (held, holds) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let impostor = Impostor::of(ca, move |line, body| {
        if line.starts_with("GET /v1/log/consistency") {
            held.send(()).ok();
            released.lock().unwrap().recv().ok();
        }
        body
    });
    move_to(&person.folder.join("config"), &impostor.url);
    let mut command = person.command();
    command.args(ASK).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let asking = command.spawn().unwrap();
    let holds = holds.recv_timeout(Duration::from_secs(60));
    holds.expect("it asks for a proof");
    (asking, release)
}

fn seen(person: &Person) -> u64 {
    let note = fs::read_to_string(person.folder.join("config/log.checkpoint")).unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn of_two_checkpoints_at_once_the_newer_is_kept() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    ask(&bob).ok();
    let first = seen(&bob);
    let (asking, release) = ask_slowly(&bob, &ca);
    ask_at(&bob, &ca).ok();
    let newest = seen(&bob);
    assert!(newest > first + 1, "{first} {newest}");
    release.send(()).unwrap();
    // Held against the newer one.
    release.send(()).unwrap();
    Ran::from(asking.wait_with_output().unwrap()).ok();
    assert_eq!(seen(&bob), newest);
}

#[test]
fn of_two_histories_at_once_one_is_noticed() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    ask(&bob).ok();
    let home = ca.stop();
    let (ca, fork) = (Ca::on(home.copy()), Ca::on(home));
    let (asking, release) = ask_slowly(&bob, &ca);
    ask_at(&bob, &fork).ok();
    release.send(()).unwrap();
    release.send(()).unwrap();
    let ran = asking.wait_with_output().unwrap().into();
    assert_rewritten(&bob, &ran);
}

/// Asks a server that took the place of another.
fn ask_at(person: &Person, ca: &Ca) -> Ran {
    move_to(&person.folder.join("config"), &ca.url);
    ask(person)
}

/// Has a client with that configuration take another server for the CA.
fn move_to(config: &Path, url: &str) {
    let config = config.join("client.toml");
    let text = fs::read_to_string(&config).unwrap();
    let moved = format!("url = \"{url}\"");
    let url = text
        .lines()
        .find(|line| line.starts_with("url = "))
        .unwrap();
    fs::write(&config, text.replace(url, &moved)).unwrap();
}

#[track_caller]
fn assert_rewritten(person: &Person, ran: &Ran) {
    assert_noticed(&person.folder.join("config"), ran);
}

#[track_caller]
fn assert_noticed(config: &Path, ran: &Ran) {
    assert_eq!(ran.code, 76, "{ran:?}");
    assert!(
        ran.err.contains("THE CA'S AUDIT LOG WAS CHANGED"),
        "{ran:?}"
    );
    let is_evidence = |name: &str| name.starts_with("log-changed-");
    let files = fs::read_dir(config).unwrap().flatten();
    let kept: Vec<_> = files
        .filter(|file| is_evidence(&file.file_name().to_string_lossy()))
        .collect();
    assert_eq!(kept.len(), 1, "the evidence, once: {kept:?}");
    let kept = fs::read_to_string(kept[0].path()).unwrap();
    assert_eq!(kept.matches("\u{2014} hallpass/").count(), 2, "{kept}");
}

type Lie = fn(&mut Value, &Value);

/// What is said of a certificate in place of the truth, given what is said of another, and how that
/// shows. The first is none.
const LIES: [(&str, Lie); 6] = [
    ("", |_, _| {}),
    ("does not record this certificate", |said, others| {
        said["entry"] = others["entry"].clone();
        said["receipt"] = others["receipt"].clone();
    }),
    ("does not record this certificate", |said, others| {
        said["serial"] = others["serial"].clone();
    }),
    ("the receipt does not have the entry", |said, _| {
        said["receipt"].as_object_mut().unwrap().remove("body");
    }),
    ("this is not what the log has", |said, _| {
        let body = said["receipt"]["body"].as_str().unwrap();
        let other = body.replace("127.0.0.1", "127.0.0.2");
        assert_ne!(other, body);
        said["receipt"]["body"] = other.into();
    }),
    ("this is not what the log has", |said, _| {
        said["entry"] = 0.into();
    }),
];

/// Somebody in the CA's place who tells one of the lies of each certificate, and which.
fn liar(ca: &Ca) -> (Impostor, Arc<AtomicUsize>) {
    // Whatever else is in the log has receipts as good as anybody's.
    let eve = ca.enrol("eve", &["on-call", "database-support"]);
    let ask_for = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let request = eve.asks(ca, "POST", "/v1/certificates/ssh");
    let others = request.ssh(&eve.key, ask_for).send().json();
    let told = Arc::new(AtomicUsize::new(0));
    let lie = Arc::clone(&told);
    let impostor = Impostor::of(ca, move |line, body| {
        if !line.starts_with("POST ") || !line.contains("certificates/") {
            return body;
        }
        let mut said = serde_json::from_str(&body).unwrap();
        LIES[lie.load(Ordering::SeqCst)].1(&mut said, &others);
        said.to_string()
    });
    (impostor, told)
}

const UNPROVEN: &str = "the CA does not prove that the certificate is its";

#[test]
fn a_receipt_is_of_the_certificate_that_it_comes_with() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call", "database-support"]);
    let (impostor, told) = liar(&ca);
    move_to(&bob.folder.join("config"), &impostor.url);
    for role in ["server-operator", "patients-read"] {
        for (number, (words, _)) in LIES.iter().enumerate() {
            told.store(number, Ordering::SeqCst);
            let line = [
                "request",
                role,
                "--purpose",
                "incident",
                "--reason",
                "INC-1",
            ];
            let ran = bob.hallpass(line);
            if number == 0 {
                ran.ok();
            } else {
                ran.fails_with(76, UNPROVEN);
                ran.fails_with(76, words);
            }
        }
    }
}

#[test]
fn an_administrator_is_given_no_hosts_certificate_that_the_log_does_not_have() {
    let ca = Ca::start();
    let (impostor, told) = liar(&ca);
    let admin = ca.admin();
    move_to(&admin.folder.join("config"), &impostor.url);
    make_csr(&admin.folder, "server", &P256, &[]);
    let key = admin.key.public_key().to_openssh().unwrap();
    admin.folder.write("host.pub", &key);
    for (kind, file, certificate) in [
        ("ssh", "host.pub", "host-cert.pub"),
        ("tls", "server.csr", "server.crt"),
    ] {
        let file = admin.folder.join(file);
        let certificate = admin.folder.join(certificate);
        for (number, (words, _)) in LIES.iter().enumerate().rev() {
            told.store(number, Ordering::SeqCst);
            let file = file.to_str().unwrap();
            let ran = admin.hallpass(["host-cert", kind, file, "--name", "app-9"]);
            if number == 0 {
                ran.ok();
            } else {
                ran.fails_with(76, UNPROVEN);
                ran.fails_with(76, words);
            }
            assert_eq!(certificate.exists(), number == 0, "{words}");
        }
    }
}

/// What a host shows to whoever connects to it.
fn shown(host: &Host) -> [Vec<u8>; 2] {
    let sshd = host.sshd.as_ref().unwrap().folder.path();
    let postgres = host.postgres.as_ref().unwrap().folder.path();
    [
        sshd.join("ssh_host_ed25519_key-cert.pub"),
        postgres.join("data/hallpass_server.crt"),
    ]
    .map(|path| fs::read(path).unwrap())
}

/// A life of which half is over at once, since it begins a minute early.
const RENEWED_AT_ONCE: [&str; 2] = ["--ttl", "60s"];

#[test]
fn a_host_takes_no_certificate_that_the_log_does_not_have() {
    let ca = Ca::start();
    let host = Host::with_both("app-1");
    host.take_in(&ca, &RENEWED_AT_ONCE);
    let (impostor, told) = liar(&ca);
    move_to(&host.folder.join("state"), &impostor.url);
    for (number, (words, _)) in LIES.iter().enumerate().rev() {
        told.store(number, Ordering::SeqCst);
        let before = shown(&host);
        let ran = host.sync();
        if number == 0 {
            ran.ok();
            let after = shown(&host);
            assert!(after[0] != before[0] && after[1] != before[1]);
            continue;
        }
        assert_eq!(ran.code, 76, "{ran:?}");
        for words in [UNPROVEN, words] {
            assert_eq!(
                ran.err.matches(words).count(),
                2,
                "sshd's and PostgreSQL's: {ran:?}"
            );
        }
        assert!(ran.err.contains("keeps the one that it has"), "{ran:?}");
        assert_eq!(shown(&host), before, "{words}");
    }
}

#[test]
fn a_log_that_was_rewritten_is_noticed_by_a_host() {
    let ca = Ca::start();
    let address = ca.address().to_owned();
    let host = Host::with_both("app-1");
    host.take_in(&ca, &RENEWED_AT_ONCE);
    let home = ca.stop();
    let fork = home.copy();
    let ca = Ca::at(home, &address);
    host.sync().ok();
    ca.stop();

    // The same key signs another history, which is longer.
    let ca = Ca::at(fork, &address);
    let eve = ca.enrol("eve", &["on-call"]);
    for _ in 0..6 {
        ask(&eve).ok();
    }
    let revoke = ["key", "revoke", "ssh-user-1", "--reason", "x"];
    ca.admin().hallpass(revoke).ok();
    let before = shown(&host);
    let renewed = || ca.home.entries("host-certificate-renewed").len();
    let were = renewed();
    for _ in 0..2 {
        let ran = host.sync();
        assert_noticed(&host.folder.join("state"), &ran);
        assert!(
            ran.err
                .contains("a host runs `hallpass host sync --log-key KEY`"),
            "{ran:?}"
        );
    }
    assert_eq!(shown(&host), before);
    // However often a host tries, the log has nothing of it.
    assert_eq!(renewed(), were);
    // What is not to be trusted any more is not held up.
    let sshd = host.sshd.as_ref().unwrap();
    let revoked = fs::read_to_string(sshd.folder.join("hallpass_revoked_keys")).unwrap();
    assert_eq!(revoked, ca.admin().hallpass(["trust", "ssh-revoked"]).ok());

    // Who knows that it is right begins anew.
    let key = ca.home.log_key();
    Ran::of(host.command("sync").args(["--log-key", &key])).ok();
    assert_eq!(renewed(), were + 2);
    host.sync().ok();
}

#[test]
fn a_proof_holds_without_the_ca_and_for_nothing_else() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let held = bob.request("server-operator --purpose incident --reason x");
    let alice = ca.admin();
    let serial = held["serial"].as_str().unwrap();
    let path = alice.folder.join("proof.tlog-proof");
    let path = path.to_str().unwrap();
    alice
        .hallpass(["audit", "prove", serial, "--out", path])
        .ok();
    // It says who asked, from where and why.
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let key = alice.hallpass(["audit", "key"]).ok();
    drop(ca);

    // Somebody who knows the key alone.
    let stranger = Person::stranger();
    let check = |key: &str| stranger.hallpass(["audit", "verify-proof", path, "--key", key.trim()]);
    let proven = check(&key).ok();
    assert!(proven.starts_with("Proven: entry "), "{proven}");
    assert!(
        proven.contains("requester") && proven.contains("bob"),
        "{proven}"
    );

    let another = Home::of_another_ca();
    let another = fs::read_to_string(another.path().join("keys/log-1.vkey")).unwrap();
    check(&another).fails_with(76, "it is of the log hallpass/");
    check("hallpass/x+00000000+AQ==").fails_with(64, "this is no verifier key");

    let proof = fs::read_to_string(path).unwrap();
    let extra = proof.lines().nth(1).unwrap();
    let other = extra.replace("extra ey", "extra fy");
    let index = proof.lines().nth(2).unwrap();
    let hash = proof.lines().nth(3).unwrap();
    for (changed, code, words) in [
        (
            proof.replace(extra, &other),
            76,
            "this is not what the log has",
        ),
        (
            proof.replace(index, "index 1"),
            76,
            "this is not what the log has",
        ),
        (
            proof.replace(&format!("{hash}\n"), ""),
            76,
            "this is not what the log has",
        ),
        (
            proof.replace(index, "index 99999"),
            76,
            "entries that the log does not have",
        ),
        (proof.replace(index, "index -1"), 65, "it is no proof"),
        (proof.replace("@v1", "@v2"), 65, "it is no proof"),
        (proof[..proof.len() / 2].to_owned(), 65, "it is no proof"),
        (String::new(), 65, "it is no proof"),
    ] {
        fs::write(path, changed).unwrap();
        check(&key).fails_with(code, words);
    }
}
