//! The key of the log itself changes, and everybody who follows the old one follows the new.

use std::fs;
use std::path::Path;

use hallpass::model::{KeyId, KeyKind};
use rusqlite::Connection;

use crate::support::{
    Ca, Home, Host, Person, Ran, Thief, Witness, serve_fails, short_lived, wait_until,
};

const NAME: &str = "witness.example.org";

fn key(admin: &Person, line: &str) -> Ran {
    admin.hallpass(["key"].into_iter().chain(line.split(' ')))
}

fn login(person: &Person) -> Ran {
    let ask = "request server-operator --purpose incident --reason x";
    person.hallpass(ask.split(' '))
}

/// The numbers of the log's keys that signed a note.
fn signed_by(home: &Home, note: &str) -> Vec<u32> {
    (1..5)
        .filter(|number| {
            let path = home.path().join(format!("keys/log-{number}.vkey"));
            let Ok(key) = fs::read_to_string(path) else {
                return false;
            };
            let key: hallpass::audit::VerifierKey = key.parse().unwrap();
            hallpass::audit::Checkpoint::open(note, &key).is_ok()
        })
        .collect()
}

fn checkpoint(admin: &Person) -> String {
    admin.hallpass(["audit", "checkpoint"]).ok()
}

fn known(person: &Person) -> Vec<String> {
    let out = person.hallpass(["audit", "key", "--all"]).ok();
    out.lines().map(str::to_owned).collect()
}

fn log_key(home: &Home, number: u32) -> String {
    let path = home.path().join(format!("keys/log-{number}.vkey"));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn client_toml(folder: &Path) -> String {
    fs::read_to_string(folder.join("client.toml")).unwrap()
}

fn verify(person: &Person, more: &[&str]) -> Ran {
    person.hallpass(["audit", "verify"].iter().chain(more))
}

#[test]
fn a_log_key_is_rotated_and_everybody_follows_by_themselves() {
    let home = short_lived("6s", "6s");
    let witness = Witness::start(NAME, &[&home.log_key()]);
    home.ask(&witness.url, &witness.home.key);
    let ca = Ca::on(home);
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    login(&bob).ok();
    let begin = admin.folder.write("begin", checkpoint(&admin));
    let proof = admin.folder.join("proof");
    let out = ["audit", "prove", "0", "--out", proof.to_str().unwrap()];
    admin.hallpass(out).ok();

    key(&admin, "rotate log").ok();
    assert_eq!(signed_by(&ca.home, &checkpoint(&admin)), [1, 2]);
    let waits = key(&admin, "activate log-2");
    let new = log_key(&ca.home, 2);
    for what in [
        "for the last who asked for a certificate before it was staged",
        "for host app-1 to confirm that it trusts it",
        &format!("for witness {NAME} to cosign what it signs: its operator adds {new} to logs"),
    ] {
        assert!(waits.err.contains(what), "{what}: {waits:?}");
    }
    login(&bob).ok();
    assert_eq!(known(&bob), [log_key(&ca.home, 1), new.clone()]);
    host.sync().ok();
    // The witness's operator does what is asked.
    let address = witness.address().to_owned();
    let witness_home = witness.stop();
    witness_home.follow(&[&log_key(&ca.home, 1), &new]);
    let witness = Witness::at(witness_home, &address);
    wait_until("that all know it", || {
        login(&bob).ok();
        key(&admin, "activate log-2").code == 0
    });
    assert_eq!(signed_by(&ca.home, &checkpoint(&admin)), [1, 2]);
    login(&bob).ok();
    assert_eq!(known(&bob), [new.clone(), log_key(&ca.home, 1)]);

    let waits = key(&admin, "retire log-1");
    assert!(
        waits
            .err
            .contains("for host app-1 to confirm that it trusts the key that signs now"),
        "{waits:?}"
    );
    host.sync().ok();
    wait_until("that nobody needs the old one", || {
        login(&bob).ok();
        key(&admin, "retire log-1").code == 0
    });
    assert_eq!(signed_by(&ca.home, &checkpoint(&admin)), [2]);
    login(&bob).ok();
    host.sync().ok();
    assert_eq!(known(&bob), std::slice::from_ref(&new));
    for folder in [bob.folder.join("config"), host.folder.join("state")] {
        let text = client_toml(&folder);
        assert!(text.contains(&format!("log_key = {new:?}")), "{text}");
        assert!(!text.contains("log_keys = "), "{text}");
    }

    // What was proven by the old key stays proven, and the whole log verifies under either.
    let proven = admin
        .hallpass(["audit", "verify-proof", proof.to_str().unwrap()])
        .ok();
    assert!(
        proven.contains("Signed by a key that was the log's before."),
        "{proven}"
    );
    let path = ca.home.path().display().to_string();
    let old = log_key(&ca.home, 1);
    wait_until("cosignatures under the new key", || {
        let last = (ca.home.log().len() - 1).to_string();
        let prove = ["audit", "prove", &last, "--witness", &witness.home.key];
        admin.hallpass(prove).code == 0
    });
    for more in [
        &[][..],
        &["--since", begin.to_str().unwrap()],
        &["--witness", &witness.home.key],
        &["--key", &new],
        &["--key", &old],
        &["--home", &path],
        &["--home", &path, "--key", &new],
        &["--home", &path, "--key", &old],
        &["--home", &path, "--since", begin.to_str().unwrap()],
    ] {
        let verified = verify(&admin, more).ok();
        assert!(verified.starts_with("Verified: "), "{more:?}: {verified}");
    }
    let other = Home::of_another_ca().log_key();
    let refused = verify(&admin, &["--home", &path, "--key", &other]);
    assert_eq!(refused.code, 76, "{refused:?}");
}

/// Rotates the log's key without waiting for anybody.
fn rotate(admin: &Person, old: u32) {
    key(admin, "rotate log").ok();
    key(admin, &format!("activate log-{} --force x", old + 1)).ok();
    key(admin, &format!("retire log-{old} --force x")).ok();
}

#[test]
fn whoever_has_the_retired_key_is_not_believed() {
    let home = Home::new();
    let ca = Ca::on(home);
    let address = ca.address().to_owned();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    login(&bob).ok();
    // The CA as it was, with its old key of the log and all others, is in somebody else's hands.
    let home = ca.stop();
    let stolen = home.copy();
    let ca = Ca::at(home, &address);
    key(&admin, "rotate log").ok();
    login(&bob).ok();
    host.sync().ok();
    key(&admin, "activate log-2 --force x").ok();
    login(&bob).ok();
    host.sync().ok();
    key(&admin, "retire log-1 --force x").ok();
    login(&bob).ok();
    host.sync().ok();
    let home = ca.stop();

    let before = client_toml(&bob.folder.join("config"));
    let path = stolen.path().display().to_string();
    let thief = Ca::at(stolen, &address);
    bob.forget_certificates();
    let refused = login(&bob);
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused.err.contains(&format!(
            "the log's key {} did not sign it",
            log_key(&home, 2)
        )),
        "{refused:?}"
    );
    let refused = host.sync();
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused.err.contains("is not signed by its log's key"),
        "{refused:?}"
    );
    // Nor does it help to have the old key name another.
    let thief_admin = thief.admin();
    key(&thief_admin, "rotate log").ok();
    key(&thief_admin, "activate log-2 --force x").ok();
    for _ in 0..2 {
        assert_eq!(login(&bob).code, 76);
        assert_eq!(host.sync().code, 76);
    }
    assert_eq!(client_toml(&bob.folder.join("config")), before);
    let refused = verify(&admin, &["--home", &path, "--key", &log_key(&home, 2)]);
    assert_eq!(refused.code, 76, "{refused:?}");
    drop(thief);
    let ca = Ca::at(home, &address);
    login(&bob).ok();
    host.sync().ok();
    drop(ca);
}

#[test]
fn a_log_key_rotation_outlives_a_kill_at_each_step() {
    let mut ca = Ca::start();
    let address = ca.address().to_owned();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    for (line, signs) in [
        ("rotate log", &[1, 2][..]),
        ("cancel log-2", &[1]),
        ("rotate log", &[1, 3]),
        ("activate log-3 --force x", &[1, 3]),
        ("rotate log", &[1, 3, 4]),
        ("retire log-1 --force x", &[3, 4]),
        ("activate log-4 --force x", &[3, 4]),
        ("retire log-3 --force x", &[4]),
    ] {
        key(&admin, line).ok();
        assert_eq!(signed_by(&ca.home, &checkpoint(&admin)), signs, "{line}");
        let home = ca.kill();
        ca = Ca::at(home, &address);
        assert_eq!(signed_by(&ca.home, &checkpoint(&admin)), signs, "{line}");
        login(&bob).ok();
    }
    let path = ca.home.path().display().to_string();
    for number in [1, 3, 4] {
        verify(
            &admin,
            &["--home", &path, "--key", &log_key(&ca.home, number)],
        )
        .ok();
    }
    // One that was given up never was the log's.
    let refused = verify(&admin, &["--home", &path, "--key", &log_key(&ca.home, 2)]);
    assert_eq!(refused.code, 76, "{refused:?}");
    // What a crash left before it was logged is in nobody's way.
    let home = ca.stop();
    let keys = home.path().join("keys");
    for ending in ["age", "vkey"] {
        let to = keys.join(format!("log-5.{ending}"));
        fs::copy(keys.join(format!("log-1.{ending}")), to).unwrap();
    }
    let ca = Ca::at(home, &address);
    login(&bob).ok();
    key(&admin, "rotate log").ok();
    assert_ne!(log_key(&ca.home, 5), log_key(&ca.home, 1));
    login(&bob).ok();
}

#[test]
fn a_revoked_log_key_proves_nothing_any_more() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let host = Host::with_sshd("app-1");
    host.take_in(&ca, &[]);
    login(&bob).ok();
    let before = ca.home.copy();
    admin
        .hallpass(["key", "revoke", "log-1", "--reason", "tape lost"])
        .ok();
    let entry = ca.home.entries("ca-key-revoked").pop().unwrap();
    assert_eq!(entry["event"]["successors"][0]["key"], "log-2");

    bob.forget_certificates();
    let refused = login(&bob);
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused
            .err
            .contains("the log's key was revoked, run `hallpass connect` again"),
        "{refused:?}"
    );
    let refused = host.sync();
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused.err.contains("hallpass host sync --log-key KEY"),
        "{refused:?}"
    );

    bob.connect(&ca);
    login(&bob).ok();
    assert_eq!(known(&bob), [log_key(&ca.home, 2)]);
    let told = |key: &str| Ran::of(host.command("sync").args(["--log-key", key]));
    let other = Home::of_another_ca().log_key();
    let refused = told(&other);
    assert!(
        refused.err.contains("and the CA's log is hallpass/"),
        "{refused:?}"
    );
    assert_eq!(host.sync().code, 76);
    told(&log_key(&ca.home, 2)).ok();
    host.sync().ok();
    let refused = told(&log_key(&ca.home, 1));
    assert_eq!(refused.code, 76, "the old key: {refused:?}");
    told(&log_key(&ca.home, 2)).ok();

    let path = ca.home.path().display().to_string();
    verify(&admin, &["--home", &path]).ok();
    verify(&admin, &["--home", &path, "--key", &log_key(&ca.home, 2)]).ok();
    let refused = verify(&admin, &["--home", &path, "--key", &log_key(&ca.home, 1)]);
    assert_eq!(refused.code, 76, "{refused:?}");
    assert!(
        refused
            .err
            .contains("the one before was revoked, or this is a forgery"),
        "{refused:?}"
    );

    // The thief goes on with the log from before: nobody who connected anew believes it.
    let address = ca.address().to_owned();
    let home = ca.stop();
    let thief = Ca::at(before, &address);
    bob.forget_certificates();
    assert_eq!(login(&bob).code, 76);
    assert_eq!(host.sync().code, 76);
    drop(thief);
    let ca = Ca::at(home, &address);
    login(&bob).ok();
    drop(ca);
}

#[test]
fn a_log_that_another_key_than_its_own_signed_is_not_opened() {
    let ca = Ca::start();
    rotate(&ca.admin(), 1);
    let home = ca.stop();
    let path = home.path().display().to_string();
    let elsewhere = Home::of_another_ca();
    let (own, other) = (Thief::of(&home), Thief::of(&elsewhere));
    let sign = |thief: &Thief, number| {
        let kind = KeyKind::Log;
        let log = Connection::open(home.database()).unwrap();
        let note: String = log
            .query_row(
                "SELECT value FROM marks WHERE name = 'checkpoint'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let (text, _) = note.rsplit_once("\n\n").unwrap();
        let (forged, key) = thief.note(KeyId { kind, number }, &format!("{text}\n"));
        log.execute(
            "UPDATE marks SET value = ?1 WHERE name = 'checkpoint'",
            [forged],
        )
        .unwrap();
        key
    };
    let is_refused = |what: &str| {
        let (code, said) = serve_fails(&home);
        assert_eq!(code, 78, "{what}: {said}");
        assert!(
            said.contains("is not signed by log-2, which the log says signs it"),
            "{what}: {said}"
        );
        let refused = Ran::of(crate::support::program().args(["audit", "verify", "--home", &path]));
        assert_eq!(refused.code, 76, "{what}: {refused:?}");
        assert!(
            refused
                .err
                .contains("is signed by no key that the log had then"),
            "{what}: {refused:?}"
        );
    };
    sign(&own, 1);
    is_refused("the retired key");
    let key = sign(&other, 1);
    let put = home.path().join("keys/log-3.vkey");
    fs::write(&put, format!("{key}\n")).unwrap();
    is_refused("a key that the log never introduced");
    fs::remove_file(put).unwrap();
    sign(&own, 2);
    drop(Ca::on(home));
}
