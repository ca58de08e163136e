//! When the log can't be written, nothing is issued, health says so, and nothing is lost.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Answer, Ca, Home, Person, fails_when_full, run, wait_until};

fn ask(ca: &Ca, person: &Person) -> Answer {
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    person
        .asks(ca, "POST", "/v1/certificates/ssh")
        .ssh(&person.key, ask)
        .send()
}

/// Nothing is issued, and both the client and health say why.
#[track_caller]
fn assert_closed(ca: &Ca, person: &Person, why: &str) {
    let answer = ask(ca, person);
    let (status, kind, detail) = answer.problem();
    assert_eq!((status, kind.as_str()), (503, "unavailable"), "{detail}");
    assert!(detail.contains(why), "{detail}");
    assert!(answer.head.contains("retry-after: "), "{answer:?}");
    assert!(!answer.body.contains("-cert-v01"), "{answer:?}");
    let (status, health) = ca.readyz();
    assert_eq!((status, &health["status"]), (503, &"unavailable".into()));
    assert!(health["detail"].as_str().unwrap().contains(why), "{health}");
    // Nobody gets past it by another way.
    let ran = person.hallpass([
        "request",
        "server-operator",
        "--purpose",
        "incident",
        "--reason",
        "x",
    ]);
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(
        person
            .runtime_files()
            .iter()
            .all(|file| file.extension().is_some_and(|e| e == "lock"))
    );
}

#[track_caller]
fn assert_open(ca: &Ca, person: &Person) {
    assert_eq!(ask(ca, person).status, 200);
    assert_eq!(ca.readyz().0, 200);
}

#[test]
fn a_deleted_log_stops_issuing_until_it_is_back() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    assert_open(&ca, &bob);
    let (database, aside) = (ca.home.database(), ca.home.folder.join("aside"));
    fs::rename(&database, &aside).unwrap();
    assert_closed(&ca, &bob, "was moved, deleted or replaced");
    fs::rename(&aside, &database).unwrap();
    assert_open(&ca, &bob);
}

#[test]
fn a_replaced_log_is_never_written_to() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let (database, aside) = (ca.home.database(), ca.home.folder.join("aside"));
    fs::rename(&database, &aside).unwrap();
    fs::copy(&aside, &database).unwrap();
    let before = fs::read(&database).unwrap();
    assert_closed(&ca, &bob, "was moved, deleted or replaced");
    assert_eq!(fs::read(&database).unwrap(), before);
}

#[test]
fn a_deleted_write_ahead_log_stops_issuing_and_loses_nothing_that_was_issued() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    assert_open(&ca, &bob);
    let before = ca.home.entries("certificate-issued").len();
    let database = ca.home.database();
    for ending in ["-wal", "-shm"] {
        let mut path = database.clone().into_os_string();
        path.push(ending);
        fs::remove_file(path).unwrap();
    }
    assert_closed(&ca, &bob, "was moved, deleted or replaced");
    // What only the deleted file held was saved when it was missed, even from this.
    let ca = Ca::on(ca.kill());
    assert_eq!(ca.home.entries("certificate-issued").len(), before);
    assert_open(&ca, &bob);
}

#[test]
fn a_copy_that_sqlite_made_commits_as_safely_as_the_original() {
    let home = Home::new();
    let copy = home.folder.join("copy.db");
    let log = rusqlite::Connection::open(home.database()).unwrap();
    log.execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    drop(log);
    fs::rename(&copy, home.database()).unwrap();
    run("chmod", ["600", home.database().to_str().unwrap()]).ok();
    let ca = Ca::on(home);
    let wal = format!("{}-wal", ca.home.database().display());
    assert!(fs::metadata(wal).is_ok_and(|file| file.len() > 0));
}

#[test]
fn a_disk_that_takes_no_more_stops_issuing_until_it_does_again() {
    // A limit on file sizes, put on the running server, fails writes as a full disk does.
    let ca = Ca::with(Home::new(), |serve| {
        fails_when_full(serve);
    });
    let bob = ca.enrol("bob", &["on-call"]);
    assert_open(&ca, &bob);
    let limit = |bytes: &str| {
        let (pid, size) = (ca.pid().to_string(), format!("--fsize={bytes}:unlimited"));
        run("prlimit", ["--pid", &pid, &size]).ok();
    };
    limit("1");
    assert_closed(&ca, &bob, "the audit log can't be written");
    limit("unlimited");
    wait_until("issuing goes on", || ask(&ca, &bob).status == 200);
    assert_open(&ca, &bob);
    // What was reserved meanwhile left no gap and no second use.
    for (place, entry) in ca.home.log().iter().enumerate() {
        assert_eq!(entry["index"], place);
    }
    let home = ca.stop();
    drop(Ca::on(home));
}

#[test]
fn a_log_that_somebody_else_locks_stops_issuing() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let locking = rusqlite::Connection::open(ca.home.database()).unwrap();
    locking.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, kind, _) = ask(&ca, &bob).problem();
    assert_eq!((status, kind.as_str()), (503, "unavailable"));
    locking.execute_batch("ROLLBACK").unwrap();
    wait_until("issuing goes on", || ask(&ca, &bob).status == 200);
}

#[test]
fn a_clock_behind_the_log_stops_issuing_until_somebody_says_that_it_is_right() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let before = ca.home.log().pop().unwrap()["time"].clone();
    // A clock that is a year ahead.
    let ca = Ca::with(ca.stop(), |serve| {
        serve.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1");
        serve.env("FAKETIME", "+365d");
    });
    let newest = ca.home.log().pop().unwrap();
    assert_eq!(newest["event"]["kind"], "server-certificate-issued");
    let ahead: u64 = serial_of(&newest) >> 16;
    let home = ca.stop();
    let (code, message) = crate::support::serve_fails(&home);
    assert_eq!(code, 78, "{message}");
    assert!(
        message.contains("start the server once with --accept-clock"),
        "{message}"
    );

    let ca = Ca::with(home, |serve| {
        serve.arg("--accept-clock");
    });
    assert_open(&ca, &bob);
    assert_eq!(ca.home.entries("clock-corrected").len(), 1);
    // Once is enough, and serials go by the time again.
    let ca = Ca::on(ca.stop());
    assert_open(&ca, &bob);
    let issued = ca.home.entries("certificate-issued").pop().unwrap();
    assert!(serial_of(&issued) >> 16 < ahead, "{issued}");
    // What is asked for by time is found on both sides of the correction.
    let listed = ca.admin().hallpass([
        "audit",
        "list",
        "--json",
        "--since",
        before.as_str().unwrap(),
    ]);
    let kinds: Vec<Value> = listed
        .ok()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"]["kind"].clone())
        .collect();
    assert!(kinds.contains(&"clock-corrected".into()), "{kinds:?}");
    assert_eq!(kinds.last().unwrap(), "certificate-issued", "{kinds:?}");
}

fn serial_of(entry: &Value) -> u64 {
    let serial = &entry["event"]["certificate"]["serial"];
    serial.as_str().unwrap().parse().unwrap()
}
