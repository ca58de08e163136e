//! SIGKILL in the middle of it, again and again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Ca, Home};

const ROUNDS: u64 = 50;
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
    // What clients received: the certificate by its serial.
    let received: Mutex<HashMap<String, String>> = Mutex::default();
    for round in 0..ROUNDS {
        // It starts by itself: nothing is mended in between.
        let ca = Ca::on(home);
        std::thread::scope(|scope| {
            let ca = &ca;
            for _ in 0..CLIENTS {
                scope.spawn(|| ask_until_it_is_gone(ca, &bob, &received));
            }
            // From before the first commit to deep within.
            std::thread::sleep(Duration::from_millis(20 + 9 * round));
            ca.signal(libc::SIGKILL);
        });
        home = ca.kill();
    }
    let ca = Ca::on(home);
    let received = received.into_inner().unwrap();
    assert!(
        received.len() > 500,
        "{} certificates in all",
        received.len()
    );
    let mut logged = HashMap::new();
    for (place, entry) in ca.home.log().iter().enumerate() {
        assert_eq!(entry["index"], place, "no gap, no overlap");
        let certificate = &entry["event"]["certificate"];
        if let Some(serial) = certificate["serial"].as_str() {
            let text = certificate["certificate"].as_str().unwrap().to_owned();
            assert_eq!(
                logged.insert(serial.to_owned(), text),
                None,
                "a serial twice"
            );
        }
    }
    for (serial, certificate) in received {
        assert_eq!(
            logged.get(&serial),
            Some(&certificate),
            "not in the log: {serial}"
        );
    }
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

fn ask_until_it_is_gone(
    ca: &Ca,
    bob: &crate::support::Person,
    received: &Mutex<HashMap<String, String>>,
) {
    loop {
        let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
        let request = bob
            .asks(ca, "POST", "/v1/certificates/ssh")
            .ssh(&bob.key, ask);
        let Ok(answer) = request.try_send() else {
            return;
        };
        // Cut off in the middle of the answer.
        let Ok(body) = serde_json::from_str::<Value>(&answer.body) else {
            return;
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let before = received
            .lock()
            .unwrap()
            .insert(text("serial"), text("certificate"));
        assert_eq!(before, None, "a serial twice");
    }
}
