//! A disk that fails under load: what was released is in the log, the tree never forks, and
//! issuing goes on by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Ca, Home, Person, Received, Volume, run, wait_until};

const CLIENTS: usize = 8;

/// What makes writes and syncs fail, built from its source.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/faults.c");
        let library = format!(
            "{}/faults-{}.so",
            env!("CARGO_TARGET_TMPDIR"),
            std::process::id()
        );
        run(
            "cc",
            ["-shared", "-fPIC", "-O1", "-o", &library, source, "-ldl"],
        )
        .ok();
        library.into()
    })
}

/// Has clients ask while something is done to the server. Gives how many were told that nothing is
/// issued.
fn under_load(ca: &Ca, bob: &Person, received: &Received, act: impl FnOnce()) -> usize {
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    match received.ask(ca, bob) {
                        Some(503) => refused.fetch_add(1, Ordering::Relaxed),
                        Some(_) => 0,
                        None => return,
                    };
                }
            });
        }
        act();
        over.store(true, Ordering::Relaxed);
    });
    refused.into_inner()
}

#[test]
fn failing_writes_and_syncs_lose_nothing_and_fork_nothing() {
    let mut home = Home::new();
    let faults = home.folder.join("faults");
    let bob = {
        let ca = Ca::on(home);
        let bob = ca.enrol("bob", &["on-call"]);
        home = ca.stop();
        bob
    };
    let received = Received::default();
    let mut refused = 0;
    for round in 0..24 {
        fs::write(&faults, "0").unwrap();
        let ca = Ca::with(home, |serve| {
            serve
                .env("LD_PRELOAD", library())
                .env("FAULTS_FILE", &faults);
        });
        refused += under_load(&ca, &bob, &received, || {
            for rate in [0, 20, 200, 1000] {
                fs::write(&faults, rate.to_string()).unwrap();
                std::thread::sleep(Duration::from_millis(60 + round * 7 % 50));
            }
        });
        home = if round % 2 == 0 {
            // In the middle of it.
            ca.kill()
        } else {
            fs::write(&faults, "0").unwrap();
            wait_until("issuing goes on", || received.ask(&ca, &bob) == Some(200));
            ca.stop()
        };
    }
    assert!(refused > 100, "{refused} requests met a fault");
    assert!(received.count() > 100, "{} certificates", received.count());
    let ca = Ca::on(home);
    received.check(&ca.home);
}

#[test]
fn a_database_that_may_not_be_on_disk_keeps_its_write_ahead_log() {
    let home = Home::new();
    let faults = home.folder.join("faults");
    fs::write(&faults, "0").unwrap();
    let ca = Ca::on(home);
    let bob = ca.enrol("bob", &["on-call"]);
    let home = ca.stop();
    let (database, before) = (home.database(), home.folder.join("before"));
    fs::copy(&database, &before).unwrap();
    let ca = Ca::with(home, |serve| {
        serve
            .env("LD_PRELOAD", library())
            .env("FAULTS_FILE", &faults);
    });
    let received = Received::default();
    fs::write(&faults, "1000 database syncs").unwrap();
    let refused = under_load(&ca, &bob, &received, || {
        wait_until("a sync failed", || {
            ca.server_log().contains("may not be on disk")
        });
    });
    assert_eq!(refused, 0, "commits are on disk all the same");
    let (status, health) = ca.readyz();
    assert_eq!((status, &health["status"]), (200, &"degraded".into()));
    let detail = health["detail"].as_str().unwrap();
    assert!(detail.contains("may not be on disk"), "{detail}");
    // Later ones may succeed without having brought anything to disk.
    fs::write(&faults, "0").unwrap();
    for _ in 0..100 {
        assert_eq!(received.ask(&ca, &bob), Some(200));
    }
    let home = ca.stop();
    // Nothing was.
    fs::copy(&before, &database).unwrap();
    let ca = Ca::on(home);
    assert_eq!(ca.readyz().1["status"], "ok");
    received.check(&ca.home);
    assert_eq!(received.ask(&ca, &bob), Some(200));
    received.check(&ca.stop());
}

#[test]
fn a_database_that_can_not_be_written_is_told_of_until_it_can() {
    let home = Home::new();
    let faults = home.folder.join("faults");
    fs::write(&faults, "0").unwrap();
    let ca = Ca::with(home, |serve| {
        serve
            .env("LD_PRELOAD", library())
            .env("FAULTS_FILE", &faults);
    });
    let bob = ca.enrol("bob", &["on-call"]);
    let received = Received::default();
    fs::write(&faults, "1000 database writes").unwrap();
    let refused = under_load(&ca, &bob, &received, || {
        wait_until("the write-ahead log grows", || {
            ca.readyz().1["status"] == "degraded"
        });
        let detail = ca.readyz().1["detail"].to_string();
        assert!(detail.contains("write-ahead log grows"), "{detail}");
        fs::write(&faults, "0").unwrap();
        wait_until("it was brought in", || ca.readyz().1["status"] == "ok");
    });
    assert_eq!(refused, 0, "commits are on disk all the same");
    received.check(&ca.stop());
}

#[test]
fn a_file_system_that_fills_up_under_load_stops_issuing_until_there_is_room() {
    let template = Home::new();
    let bob = {
        let ca = Ca::on(template);
        let bob = ca.enrol("bob", &["on-call"]);
        (ca.stop(), bob)
    };
    let (template, bob) = bob;
    let home = Home::empty();
    let small = Volume::on(home.folder.path(), "3m");
    template.copy_to(&home);
    let filler = home.folder.join("filler");
    fs::write(&filler, vec![0; 600 << 10]).unwrap();

    let ca = Ca::on(home);
    bob.connect(&ca);
    let received = Received::default();
    let refused = under_load(&ca, &bob, &received, || {
        wait_until("it is full", || received.ask(&ca, &bob) == Some(503));
    });
    assert!(refused > 0);
    let issued = received.count();
    assert!(issued > 50, "{issued} certificates");
    // It stays closed, and says why.
    let ran = bob.hallpass([
        "request",
        "server-operator",
        "--purpose",
        "incident",
        "--reason",
        "x",
    ]);
    ran.fails_with(69, "the audit log can't be written: ");

    fs::remove_file(filler).unwrap();
    wait_until("issuing goes on", || received.ask(&ca, &bob) == Some(200));
    received.check(&ca.home);
    let ca = Ca::on(ca.stop());
    received.check(&ca.home);
    drop(ca);
    drop(small);
}
