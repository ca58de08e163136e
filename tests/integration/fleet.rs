//! What the CA certifies for hosts, and when it stops.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use ssh_key::{HashAlg, PrivateKey};

use crate::support::{
    Answer, Ca, Folder, P256, Person, Ran, Request, assert_none_while_locked, make_csr, program,
};

/// The token of an invitation.
#[track_caller]
fn invited(ca: &Ca, admin: &Person, ask: &Value) -> Value {
    let answer = admin.asks(ca, "POST", "/v1/hosts").json(ask).send();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["token"].take()
}

/// Joins with the key of a host, of which the CA sees no more than that.
fn join(ca: &Ca, key: &PrivateKey, token: &Value) -> Answer {
    let request = Request::new(ca, key, "POST", "/v1/host/join");
    request.json(&json!({ "token": token })).send()
}

/// A host that was invited and has joined.
#[track_caller]
fn joined(ca: &Ca, admin: &Person, ask: &Value) -> Person {
    let host = Person::stranger();
    let answer = join(ca, &host.key, &invited(ca, admin, ask));
    assert_eq!(answer.status, 200, "{answer:?}");
    host
}

fn renew<'a>(ca: &'a Ca, key: &'a PrivateKey) -> Request<'a> {
    let subject = key.public_key().to_openssh().unwrap();
    let request = Request::new(ca, key, "POST", "/v1/host/certificates/ssh");
    request.json(&json!({ "subject": subject }))
}

fn renew_tls(ca: &Ca, host: &Person) -> Answer {
    let request = host.asks(ca, "POST", "/v1/host/certificates/tls");
    request.json(&json!({ "subject": csr(host) })).send()
}

fn csr(person: &Person) -> String {
    make_csr(&person.folder, "server", &P256, &[]);
    std::fs::read_to_string(person.folder.join("server.csr")).unwrap()
}

/// Has an administrator ask for a host's certificate, `ssh` or `tls`.
fn certify(ca: &Ca, admin: &Person, kind: &str, name: &str) -> Answer {
    let subject = match kind {
        "ssh" => admin.key.public_key().to_openssh().unwrap(),
        _ => csr(admin),
    };
    let request = admin.asks(ca, "POST", &format!("/v1/host-certificates/{kind}"));
    let ask = json!({"subject": subject, "names": ["app-99", name]});
    request.json(&ask).send()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, words: &str) {
    let (is, _, detail) = answer.problem();
    assert!(is == status && detail.contains(words), "{is}: {detail}");
}

#[test]
fn nobody_is_certified_under_the_cas_own_name() {
    let database = json!({"host": "db-9", "names": ["db-9", "ca.example.org"], "database": true});
    let ca = Ca::start();
    let (admin, host) = (ca.admin(), joined(&ca, &ca.admin(), &database));
    assert_eq!(renew_tls(&ca, &host).status, 200);

    // It gets the name of a database that is there already.
    let ca = Ca::with(ca.stop(), |serve| {
        let names = "127.0.0.1,localhost,ca.example.org,192.0.2.9,2001:db8::7";
        serve.env("HALLPASS_NAMES", names);
    });
    let issued = ca.home.entries("host-certificate-issued").len();
    for name in [
        "ca.example.org",
        "192.0.2.9",
        "::ffff:192.0.2.9",
        "2001:db8::7",
        "2001:DB8:0:0:0:0:0:7",
    ] {
        let own = format!("{name} is the CA's own name");
        refused(&certify(&ca, &admin, "tls", name), 409, &own);
        let ask = json!({"host": "db-1", "names": ["db-1", name], "database": true, "ssh": true});
        let invite = admin.asks(&ca, "POST", "/v1/hosts").json(&ask);
        refused(&invite.send(), 409, &own);
    }
    let own = "ca.example.org is the CA's own name";
    refused(&renew_tls(&ca, &host), 409, own);
    assert_eq!(ca.home.entries("host-certificate-issued").len(), issued);
    assert_eq!(ca.home.entries("host-certificate-renewed").len(), 1);

    // The machine's sshd is no CA to anybody, and others are called otherwise.
    assert_eq!(certify(&ca, &admin, "ssh", "ca.example.org").status, 200);
    let ask = json!({"host": "ca-1", "names": ["ca.example.org"], "ssh": true});
    let host = joined(&ca, &admin, &ask);
    assert_eq!(renew(&ca, &host.key).send().status, 200);
    for name in ["ca2.example.org", "localhost", "127.0.0.1", "::1"] {
        assert_eq!(certify(&ca, &admin, "tls", name).status, 200, "{name}");
    }
}

#[test]
fn nothing_is_certified_for_a_host_after_the_entry_that_ends_its_key() {
    let ca = Ca::start();
    let admin = ca.admin();
    let wide = json!({"host": "app-1", "names": ["app-1", "app-2"], "ssh": true});
    let narrow = json!({"host": "app-1", "ssh": true});
    let keys: Vec<PrivateKey> = (0..12).map(|_| Person::stranger().key).collect();
    let current = Mutex::new(keys[0].clone());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let key = current.lock().unwrap().clone();
                    renew(&ca, &key).send();
                }
            });
        }
        for (round, key) in keys.iter().enumerate() {
            assert_eq!(join(&ca, key, &invited(&ca, &admin, &wide)).status, 200);
            *current.lock().unwrap() = key.clone();
            std::thread::sleep(Duration::from_millis(60));
            let token = invited(&ca, &admin, &narrow);
            std::thread::sleep(Duration::from_millis(60));
            let ended = match round % 3 {
                // By the next round's key, that is.
                0 => continue,
                1 => admin.asks(&ca, "DELETE", "/v1/hosts/app-1"),
                _ => Request::new(&ca, key, "DELETE", "/v1/host"),
            };
            assert_eq!(ended.send().status, 204);
            // Its token went with it.
            assert_eq!(join(&ca, key, &token).status, 401);
        }
        done.store(true, Ordering::Relaxed);
    });
    let (mut names, mut key, mut renewed) = (Value::Null, None, 0);
    for entry in ca.home.log() {
        let event = &entry["event"];
        match event["kind"].as_str().unwrap() {
            "host-invited" => names = event["profile"]["names"].clone(),
            "host-joined" => {
                let line = event["public_key"].as_str().unwrap();
                let joined: ssh_key::PublicKey = line.parse().unwrap();
                key = Some(joined.fingerprint(HashAlg::Sha256).to_string());
            }
            "host-removed" => key = None,
            "host-certificate-renewed" => {
                let by = event["by"]["fingerprint"].as_str();
                assert_eq!(key.as_deref(), by, "by a key that is no host's: {entry}");
                assert_eq!(event["names"], names, "for names of before: {entry}");
                renewed += 1;
            }
            _ => {}
        }
    }
    assert!(renewed > 20, "{renewed} certificates");
}

#[test]
fn nothing_is_certified_under_a_locked_hosts_names() {
    let ca = Ca::start();
    let admin = ca.admin();
    let names = json!(["app-9.example.org", "10.0.0.9"]);
    let ask = json!({"host": "app-9", "names": names, "ssh": true, "database": true});
    let host = joined(&ca, &admin, &ask);
    let other = json!({"host": "app-10", "names": ["app-10", "10.0.0.9"], "ssh": true});
    let other = joined(&ca, &admin, &other);
    assert_eq!(renew(&ca, &other.key).send().status, 200);
    let lock = ["lock", "host/app-9", "--reason", "under investigation"];
    admin.hallpass(lock).ok();
    let words = "host/app-9 is locked since ";
    let shut = |ca: &Ca| {
        for name in ["app-9", "app-9.example.org", "10.0.0.9"] {
            for kind in ["ssh", "tls"] {
                refused(&certify(ca, &admin, kind, name), 403, words);
            }
        }
        let ask = json!({"host": "app-11", "names": ["10.0.0.9"], "ssh": true});
        let invite = admin.asks(ca, "POST", "/v1/hosts").json(&ask);
        refused(&invite.send(), 403, words);
        // What shares a name with it is no part of what happened.
        assert_eq!(renew(ca, &other.key).send().status, 200);
    };
    shut(&ca);
    refused(&renew(&ca, &host.key).send(), 403, words);
    refused(&renew_tls(&ca, &host), 403, words);
    let logged = ca.home.newest("request-refused");
    assert_eq!(logged["refused"]["code"], "locked");
    assert_eq!(certify(&ca, &admin, "tls", "app-12").status, 200);

    // Neither another invitation nor its removal opens them, nor a restart.
    let narrow = json!({"host": "app-9", "ssh": true});
    let token = invited(&ca, &admin, &narrow);
    shut(&ca);
    let again = Person::stranger();
    assert_eq!(join(&ca, &again.key, &token).status, 200);
    refused(&renew(&ca, &again.key).send(), 403, words);
    admin.hallpass(["host", "remove", "app-9"]).ok();
    shut(&ca);
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.stop(), &address);
    shut(&ca);
    admin.hallpass(["unlock", "host/app-9"]).ok();
    assert_eq!(certify(&ca, &admin, "tls", "10.0.0.9").status, 200);
    assert_eq!(renew(&ca, &other.key).send().status, 200);
}

#[test]
fn nothing_is_certified_under_a_name_after_the_entry_that_locks_its_host() {
    let ca = Ca::start();
    let admin = ca.admin();
    let ask = json!({"host": "app-9", "names": ["10.0.0.9"], "ssh": true});
    joined(&ca, &admin, &ask);
    assert_none_while_locked(&ca, &admin, "host/app-9", || {
        certify(&ca, &admin, "ssh", "10.0.0.9");
    });
}

#[test]
fn what_a_host_is_refused_stands_in_the_log() {
    let ca = Ca::start();
    let admin = ca.admin();
    let host = joined(&ca, &admin, &json!({"host": "app-1", "ssh": true}));
    let key = host.key.public_key().fingerprint(HashAlg::Sha256);
    let logged = |host: Value, target: &str, code: &str| {
        let entry = ca.home.newest("unauthenticated-refused");
        assert_eq!(entry["host"], host, "{entry}");
        assert_eq!(entry["fingerprint"], key.to_string(), "{entry}");
        assert_eq!(entry["refused"]["request"], target, "{entry}");
        assert_eq!(entry["refused"]["code"], code, "{entry}");
        assert_eq!(entry["unlisted"], 0, "{entry}");
    };
    // It may have the tree's hashes, and no entry.
    let newest = host.asks(&ca, "GET", "/v1/log/checkpoint").send();
    assert_eq!(newest.status, 200, "{newest:?}");
    for target in ["/v1/audit/entries", "/v1/log/tile/entries/000.p/1"] {
        assert_eq!(host.asks(&ca, "GET", target).send().status, 401);
        logged(Value::Null, &format!("GET {target}"), "unknown-key");
    }
    let (ssh, tls) = ("/v1/host/certificates/ssh", "/v1/host/certificates/tls");
    let (ssh, tls) = (format!("POST {ssh}"), format!("POST {tls}"));
    let words = "app-1 was not invited with --postgres";
    refused(&renew_tls(&ca, &host), 403, words);
    logged(json!("app-1"), &tls, "not-invited");
    let request = host.asks(&ca, "POST", "/v1/host/certificates/ssh");
    let illegal = request.json(&json!({"subject": "x"})).send();
    refused(&illegal, 400, "subject: ");
    logged(json!("app-1"), &ssh, "illegal-request");
    let request = host.asks(&ca, "POST", "/v1/host/confirm");
    let unheard = request.json(&json!({"trust": 9999})).send();
    refused(&unheard, 400, "there is no such version yet");
    logged(json!("app-1"), "POST /v1/host/confirm", "illegal-request");
    let lock = ["lock", "host/app-1", "--reason", "x"];
    admin.hallpass(lock).ok();
    refused(&renew(&ca, &host.key).send(), 403, "host/app-1 is locked");
    logged(json!("app-1"), &ssh, "locked");
    let listed = admin.hallpass(["audit", "list"]).ok();
    assert!(listed.contains("(host app-1) (from 127.0.0.1)"), "{listed}");
    let database = json!({"host": "db-1", "names": ["db-1", "ca.example.org"], "database": true});
    let own = joined(&ca, &admin, &database);

    // Then it is nobody's key any more.
    admin.hallpass(["host", "remove", "app-1"]).ok();
    assert_eq!(renew(&ca, &host.key).send().status, 401);
    logged(Value::Null, &ssh, "unknown-key");

    // Nor does somebody join with the key of another unnoticed.
    let token = invited(&ca, &admin, &json!({"host": "app-2", "ssh": true}));
    let taken = join(&ca, &admin.key, &token);
    let (status, code, _) = taken.problem();
    assert_eq!(status, 409, "{taken:?}");
    let entry = ca.home.newest("unauthenticated-refused");
    let admins = admin.key.public_key().fingerprint(HashAlg::Sha256);
    assert_eq!(entry["fingerprint"], admins.to_string());
    assert_eq!(entry["refused"]["code"], code);

    // What was right when it was invited.
    let ca = Ca::with(ca.stop(), |serve| {
        serve.env("HALLPASS_NAMES", "127.0.0.1,ca.example.org");
    });
    refused(&renew_tls(&ca, &own), 409, "is the CA's own name");
    let entry = ca.home.newest("unauthenticated-refused");
    assert_eq!(entry["host"], "db-1");
    assert_eq!(entry["refused"]["code"], "conflict");
    let home = ca.home.path().display().to_string();
    admin.hallpass(["audit", "verify", "--home", &home]).ok();
}

#[test]
fn a_host_that_is_refused_again_and_again_does_not_fill_the_log_and_hides_no_other() {
    let ca = Ca::start();
    let admin = ca.admin();
    let [one, other] =
        ["app-1", "app-2"].map(|name| joined(&ca, &admin, &json!({"host": name, "ssh": true})));
    let confirm = |host: &Person| {
        let request = host.asks(&ca, "POST", "/v1/host/confirm");
        let answer = request.json(&json!({"trust": 9999})).send();
        refused(&answer, 400, "there is no such version yet");
    };
    let began = std::time::Instant::now();
    (0..30).for_each(|_| confirm(&one));
    let minutes = 1 + began.elapsed().as_secs() as usize / 60;
    let listed = |name: &str| {
        let mut entries = ca.home.entries("unauthenticated-refused");
        entries.retain(|entry| entry["event"]["host"] == name);
        entries
    };
    let flood = listed("app-1").len();
    assert!((10..=10 * minutes).contains(&flood), "{flood}");
    // From the same address.
    confirm(&other);
    let others = listed("app-2");
    assert_eq!(others.len(), 1);
    assert_eq!(others[0]["event"]["unlisted"], 0);
}

#[test]
fn an_invitation_ends_with_whoever_gave_it() {
    let mut ca = Ca::start();
    let (alice, adam) = (ca.admin(), ca.enrol("adam", &["administrators"]));
    let key = adam.key.public_key().fingerprint(HashAlg::Sha256);
    let lock = format!("key/{key}");
    let public = adam.folder.join("key.pub").display().to_string();
    let spare = Person::stranger();
    let spare = spare.folder.join("key.pub").display().to_string();
    alice.hallpass(["user", "key", "add", "adam", &spare]).ok();
    let group = "administrators";
    // What is done, what undoes it, and whether the invitation is good again then.
    let ends: [(&[&str], &[&str], bool); 5] = [
        (
            &["lock", "user/adam", "--reason", "x"],
            &["unlock", "user/adam"],
            true,
        ),
        (
            &["user", "disable", "adam"],
            &["user", "enable", "adam"],
            false,
        ),
        (&["lock", &lock, "--reason", "x"], &["unlock", &lock], false),
        (
            &["user", "key", "remove", "adam", &key.to_string()],
            &["user", "key", "add", "adam", &public],
            false,
        ),
        (
            &["user", "remove", "adam"],
            &[
                "user",
                "add",
                "adam",
                "--ssh-key",
                &public,
                "--group",
                group,
            ],
            false,
        ),
    ];
    for (round, (end, undo, good_again)) in ends.into_iter().enumerate() {
        let host = Person::stranger();
        let ask = json!({"host": format!("app-{round}"), "ssh": true});
        let token = invited(&ca, &adam, &ask);
        alice.hallpass(end).ok();
        assert_eq!(join(&ca, &host.key, &token).status, 401, "{end:?}");
        assert_eq!(ca.home.newest_code(), "not-invited");
        // Also for a server that reads it out of the log.
        let address = ca.address().to_owned();
        ca = Ca::at(ca.stop(), &address);
        assert_eq!(join(&ca, &host.key, &token).status, 401, "{end:?}");
        alice.hallpass(undo).ok();
        let good = join(&ca, &host.key, &token).status == 200;
        assert_eq!(good, good_again, "{end:?}");
    }
}

#[test]
fn a_restored_backup_has_forgotten_who_was_invited() {
    let ca = Ca::start();
    let admin = ca.admin();
    let token = invited(&ca, &admin, &json!({"host": "app-1", "ssh": true}));
    let (folder, address) = (Folder::new(), ca.address().to_owned());
    let file = folder.join("backup.tar.gz").display().to_string();
    let home = ca.stop();
    let place = home.path().display().to_string();
    let run = |arguments: [&str; 4]| Ran::of(program().args(arguments)).ok();
    run(["backup", &file, "--home", &place]);
    std::fs::remove_dir_all(home.path()).unwrap();
    run(["restore", &file, "--home", &place]);
    let ca = Ca::at(home, &address);
    // Somebody may have joined by it since.
    let host = Person::stranger();
    assert_eq!(join(&ca, &host.key, &token).status, 401);
    assert_eq!(ca.home.newest_code(), "not-invited");
}
