//! SIGKILL in the middle of it, again and again.

use std::time::Duration;

use serde_json::json;

use crate::support::{Ca, Home, Received};

const ROUNDS: u64 = 200;
const CLIENTS: usize = 32;

#[test]
fn every_certificate_that_anybody_received_is_in_the_log() {
    let mut home = Home::new();
    let bob = {
        let ca = Ca::on(home);
        let bob = ca.enrol("bob", &["on-call"]);
        home = ca.stop();
        bob
    };
    let received = Received::default();
    for round in 0..ROUNDS {
        // It starts by itself: nothing is mended in between.
        let ca = Ca::on(home);
        std::thread::scope(|scope| {
            let ca = &ca;
            for _ in 0..CLIENTS {
                scope.spawn(|| while received.ask(ca, &bob).is_some() {});
            }
            // From before the first commit to deep within.
            std::thread::sleep(Duration::from_millis(10 + round * 37 % 190));
            ca.signal(libc::SIGKILL);
        });
        home = ca.kill();
    }
    let ca = Ca::on(home);
    assert!(received.count() > 500, "{} certificates", received.count());
    received.check(&ca.home);
}

#[test]
fn a_restored_backup_gives_out_no_serial_again() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let issue = |ca: &Ca| {
        let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
        let request = bob.asks(ca, "POST", "/v1/certificates/ssh");
        let answer = request.ssh(&bob.key, ask).send().json();
        answer["serial"].as_str().unwrap().to_owned()
    };
    let backup = ca.home.folder.join("backup.db");
    let log = rusqlite::Connection::open(ca.home.database()).unwrap();
    log.execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    drop(log);
    let mut serials: std::collections::HashSet<String> = (0..50).map(|_| issue(&ca)).collect();
    let home = ca.stop();
    // Left behind, it would be taken for the backup's.
    let wal = format!("{}-wal", home.database().display());
    assert!(!std::path::Path::new(&wal).exists());
    std::fs::rename(backup, home.database()).unwrap();
    crate::support::run("chmod", ["600", home.database().to_str().unwrap()]).ok();
    let ca = Ca::on(home);
    for _ in 0..50 {
        assert!(serials.insert(issue(&ca)), "a serial twice");
    }
}
