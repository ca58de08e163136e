//! CA keys that change while people log in.

use std::fs;

use serde_json::Value;

use crate::support::{Ca, Person, Postgres, Ran, Sshd, short_lived, under_load, wait_until};

/// The states of a kind's keys, by number.
fn states(admin: &Person, kind: &str) -> Vec<String> {
    let out = admin.hallpass(["key", "list", "--all", "--json"]).ok();
    out.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|key| {
            let (of, _) = key["key"].as_str().unwrap().rsplit_once('-').unwrap();
            of == kind
        })
        .map(|key| key["state"].as_str().unwrap().to_owned())
        .collect()
}

fn key(admin: &Person, line: &str) -> Ran {
    admin.hallpass(["key"].into_iter().chain(line.split(' ')))
}

fn login(bob: &Person, sshd: &Sshd) -> Ran {
    let ask = "ssh --role server-operator --purpose incident --reason x --";
    let target = sshd.target();
    let arguments = ask.split(' ').map(str::to_owned).chain(target);
    bob.hallpass(arguments.chain(["echo in".to_owned()]))
}

fn select(bob: &Person, postgres: &Postgres) -> Ran {
    let ask = "psql --role patients-read --purpose incident --reason INC-1 --";
    let target = postgres.target();
    let arguments = ask.split(' ').map(str::to_owned).chain(target);
    let query = ["-XAtqc", "SELECT name FROM records"].map(str::to_owned);
    bob.hallpass(arguments.chain(query))
}

/// What an administrator does by hand on the host: the new bundle, and nothing else.
fn trust_anew(admin: &Person, sshd: &Sshd) {
    let trusted = admin.hallpass(["trust", "ssh-user"]).ok();
    sshd.folder.write("hallpass_user_ca.pub", trusted);
}

fn newest_ca(ca: &Ca) -> String {
    let entry = ca.home.entries("certificate-issued").pop().unwrap();
    let ca = &entry["event"]["certificate"]["ca"];
    ca.as_str().unwrap().to_owned()
}

#[test]
fn a_user_ca_key_is_rotated_step_by_step_and_no_login_fails() {
    let ca = Ca::on(short_lived("12s", "12s"));
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let sshd = Sshd::start(&ca, &["operator"]);
    assert_eq!(login(&bob, &sshd).ok(), "in\n");
    let old = newest_ca(&ca);

    let staged = key(&admin, "rotate ssh-user").ok();
    assert!(
        staged.contains("ssh-user-2") && staged.contains("staged"),
        "{staged}"
    );
    assert_eq!(
        admin.hallpass(["trust", "ssh-user"]).ok().lines().count(),
        2
    );
    let again = key(&admin, "rotate ssh-user");
    assert_eq!(again.code, 65, "{again:?}");
    assert!(
        again.err.contains(
            "key ssh-user-2 is staged already: `hallpass key activate ssh-user-2` goes on with it"
        ),
        "{again:?}"
    );
    trust_anew(&admin, &sshd);
    assert_eq!(login(&bob, &sshd).ok(), "in\n");
    assert_eq!(newest_ca(&ca), old, "it does not sign yet");

    let too_early = key(&admin, "retire ssh-user-1");
    assert!(
        too_early.err.contains("key ssh-user-1 is active"),
        "{too_early:?}"
    );
    key(&admin, "activate ssh-user-2").ok();
    assert_eq!(states(&admin, "ssh-user"), ["retiring", "active"]);
    // The certificate of the old key that is still held opens the door as well.
    assert_eq!(login(&bob, &sshd).ok(), "in\n");
    let carol = ca.enrol("carol", &["on-call"]);
    assert_eq!(login(&carol, &sshd).ok(), "in\n");
    assert_ne!(newest_ca(&ca), old);

    let waits = key(&admin, "retire ssh-user-1");
    assert_eq!(waits.code, 65, "{waits:?}");
    assert!(
        waits.err.contains("key ssh-user-1 waits: until ")
            && waits
                .err
                .contains("for the last certificate that it signed to expire"),
        "{waits:?}"
    );
    wait_until("the last certificate's end", || {
        key(&admin, "retire ssh-user-1").code == 0
    });
    assert_eq!(states(&admin, "ssh-user"), ["retired", "active"]);
    trust_anew(&admin, &sshd);
    assert_eq!(login(&bob, &sshd).ok(), "in\n");
    assert_eq!(
        admin.hallpass(["trust", "ssh-user"]).ok().lines().count(),
        1
    );
    let verified = admin.hallpass([
        "audit",
        "verify",
        "--home",
        ca.home.path().to_str().unwrap(),
    ]);
    assert!(
        verified.ok().contains("certificates"),
        "both keys' certificates"
    );
}

#[test]
fn where_a_rotation_stands_outlives_a_kill_and_a_stop() {
    let mut ca = Ca::start();
    let address = ca.address().to_owned();
    let admin = ca.admin();
    let mut done = vec!["active"];
    for (line, after) in [
        ("rotate ssh-user", vec!["active", "staged"]),
        ("activate ssh-user-2", vec!["retiring", "active"]),
        ("rotate ssh-user", vec!["retiring", "active", "staged"]),
        ("cancel ssh-user-3", vec!["retiring", "active", "cancelled"]),
        ("retire ssh-user-1", vec!["retired", "active", "cancelled"]),
        (
            "rotate ssh-user",
            vec!["retired", "active", "cancelled", "staged"],
        ),
    ] {
        assert_eq!(states(&admin, "ssh-user"), done);
        key(&admin, line).ok();
        assert_eq!(states(&admin, "ssh-user"), after, "{line}");
        let home = if after.len() % 2 == 0 {
            ca.kill()
        } else {
            ca.stop()
        };
        ca = Ca::at(home, &address);
        done = after;
    }
    assert_eq!(states(&admin, "ssh-user"), done);
    // What a crash left behind before it was logged is in nobody's way.
    let home = ca.stop();
    let keys = home.path().join("keys");
    for ending in ["age", "pub"] {
        let (from, to) = (
            format!("ssh-host-1.{ending}"),
            format!("ssh-host-2.{ending}"),
        );
        std::fs::copy(keys.join(from), keys.join(to)).unwrap();
    }
    let ca = Ca::at(home, &address);
    key(&admin, "rotate ssh-host").ok();
    assert_eq!(states(&admin, "ssh-host"), ["active", "staged"]);
    let new = std::fs::read_to_string(keys.join("ssh-host-2.pub")).unwrap();
    assert_ne!(
        new,
        std::fs::read_to_string(keys.join("ssh-host-1.pub")).unwrap()
    );
    drop(ca);
}

#[test]
fn only_who_may_manages_keys() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call", "auditors"]);
    for line in [
        "list",
        "rotate ssh-user",
        "activate ssh-user-1",
        "retire ssh-user-1",
        "cancel ssh-user-1",
        "revoke ssh-user-1 --reason x",
    ] {
        let ran = key(&bob, line);
        assert_eq!(ran.code, 77, "{line}: {ran:?}");
        assert!(
            ran.err.contains("no policy permits bob to manage-keys"),
            "{ran:?}"
        );
    }
    assert_eq!(states(&ca.admin(), "ssh-user"), ["active"]);
}

#[test]
fn a_root_is_rotated_and_clients_and_databases_follow() {
    let ca = Ca::on(short_lived("12s", "12s"));
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let late = ca.enrol("late", &["on-call"]);
    let postgres = Postgres::start(&ca);
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");

    key(&admin, "rotate x509-root").ok();
    let waits = key(&admin, "activate x509-root-2");
    assert!(
        waits
            .err
            .contains("for the last who asked for a certificate before it was staged"),
        "{waits:?}"
    );
    postgres.trust(&admin.hallpass(["trust", "x509"]).ok());
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");
    let old_pin = pin(&bob);
    wait_until("that all know it", || {
        key(&admin, "activate x509-root-2").code == 0
    });
    assert_eq!(states(&admin, "x509-root"), ["retiring", "active"]);
    assert_eq!(states(&admin, "x509-issuing"), ["retiring", "active"]);
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");
    assert_ne!(pin(&bob), old_pin);
    // Who has not asked since before the rotation recognises the server by the old root.
    assert!(late.hallpass(["whoami"]).ok().contains("late"));

    let waits = key(&admin, "retire x509-root-1");
    assert!(
        waits
            .err
            .contains("for x509-issuing-1, which stands under it, to be retired"),
        "{waits:?}"
    );
    postgres.certify(&admin);
    std::thread::sleep(std::time::Duration::from_secs(12));
    // The database's old certificate would be good for a month.
    key(&admin, "retire x509-issuing-1 --force replaced").ok();
    key(&admin, "retire x509-root-1").ok();
    assert!(late.hallpass(["whoami"]).ok().contains("late"), "still");
    postgres.trust(&admin.hallpass(["trust", "x509"]).ok());
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
}

fn pin(person: &Person) -> String {
    let text = std::fs::read_to_string(person.folder.join("config/client.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("fingerprint"));
    line.unwrap().to_owned()
}

#[test]
fn a_revoked_key_is_gone_at_once_and_what_it_signed_is_listed() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let sshd = Sshd::start(&ca, &["operator"]);
    assert_eq!(login(&bob, &sshd).ok(), "in\n");
    let old = newest_ca(&ca);
    let no_reason = key(&admin, "revoke ssh-user-1");
    assert_eq!(no_reason.code, 64, "{no_reason:?}");
    let ran = admin.hallpass(["key", "revoke", "ssh-user-1", "--reason", "tape lost"]);
    let said = ran.ok();
    assert!(said.contains("revoked") && said.contains("bob"), "{said}");
    assert!(said.contains("user=bob role=server-operator"), "{said}");
    assert_eq!(states(&admin, "ssh-user"), ["revoked", "active"]);
    assert_eq!(
        admin.hallpass(["trust", "ssh-user"]).ok().lines().count(),
        1
    );
    trust_anew(&admin, &sshd);
    let refused = login(&bob, &sshd);
    assert_ne!(refused.code, 0, "the certificate that bob holds");
    let carol = ca.enrol("carol", &["on-call"]);
    assert_eq!(login(&carol, &sshd).ok(), "in\n");
    assert_ne!(newest_ca(&ca), old);
    let entry = ca.home.entries("ca-key-revoked").pop().unwrap();
    assert_eq!(entry["event"]["reason"], "tape lost");
    assert_eq!(entry["event"]["by"]["requester"], "alice");
}

#[test]
fn a_whole_rotation_is_driven_by_one_command() {
    let ca = Ca::on(short_lived("3s", "4s"));
    let admin = ca.admin();
    let followed = key(&admin, "rotate ssh-user --follow").ok();
    assert_eq!(
        followed,
        "ssh-user-2 is staged: it is trusted from now on\n\
         ssh-user-2 is active: it signs from now on\n\
         ssh-user-1 is retired: nobody needs it any more\n"
    );
    // Taken up again from wherever it stands.
    key(&admin, "rotate ssh-user").ok();
    let followed = key(&admin, "rotate ssh-user --follow").ok();
    assert!(
        followed.starts_with("ssh-user-3 is staged already\n"),
        "{followed}"
    );
    key(&admin, "rotate ssh-user").ok();
    key(&admin, "activate ssh-user-4").ok();
    let followed = key(&admin, "rotate ssh-user --follow").ok();
    assert_eq!(
        followed,
        "ssh-user-3 is retired: nobody needs it any more\n"
    );
    assert_eq!(
        states(&admin, "ssh-user"),
        ["retired", "retired", "retired", "active"]
    );
}

#[test]
fn a_rotation_that_is_driven_outlasts_a_restart_of_the_ca() {
    let ca = Ca::on(short_lived("15s", "15s"));
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    bob.request("server-operator --purpose incident --reason x");
    let said = admin.folder.join("said");
    let mut follow = admin
        .command()
        .args(["key", "rotate", "ssh-user", "--follow"])
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let says = |words: &str| fs::read_to_string(&said).unwrap().contains(words);
    wait_until("the old key's last certificate", || {
        says("ssh-user-1 waits until")
    });
    let address = ca.address().to_owned();
    let home = ca.stop();
    wait_until("word of the CA", || {
        says("ssh-user-1 waits: can't reach the CA")
    });
    let ca = Ca::at(home, &address);
    assert!(follow.wait().unwrap().success());
    assert!(says("ssh-user-1 is retired: nobody needs it any more"));
    assert_eq!(states(&admin, "ssh-user"), ["retired", "active"]);
    drop(ca);
}

#[test]
fn what_is_locked_is_issued_to_nobody_from_the_lock_on() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let carol = ca.enrol("carol", &["on-call"]);
    let ask = |person: &Person| {
        let ask = "request server-operator --purpose incident --reason x --json";
        person.hallpass(ask.split(' '))
    };
    ask(&bob).ok();
    let lock =
        |target: &str| admin.hallpass(["lock", target, "--reason", "build server taken over"]);
    for (target, shut) in [("role/server-operator", true), ("user/bob", false)] {
        lock(target).ok();
        let refused = ask(&bob);
        assert_eq!(refused.code, 77, "{refused:?}");
        let words = format!("{target} is locked since ");
        assert!(
            refused.err.contains(&words) && refused.err.contains("build server taken over"),
            "{refused:?}"
        );
        assert_eq!(ask(&carol).code == 0, !shut, "{target}");
        let again = lock(target);
        assert_eq!(again.code, 65, "{again:?}");
        assert!(admin.hallpass(["lock"]).ok().contains(target));
        admin.hallpass(["unlock", target]).ok();
        ask(&bob).ok();
        let twice = admin.hallpass(["unlock", target]);
        assert!(twice.err.contains("is not locked"), "{twice:?}");
    }
    assert_eq!(admin.hallpass(["lock"]).ok(), "Nothing is locked.\n");
    let nobody = lock("role/nothing");
    assert!(
        nobody.err.contains("there is no role/nothing"),
        "{nobody:?}"
    );
    assert_eq!(
        bob.hallpass(["lock", "role/deploy", "--reason", "x"]).code,
        77
    );
    let refused = ca.home.entries("request-refused");
    let locked = refused
        .iter()
        .filter(|entry| entry["event"]["refused"]["code"] == "locked");
    assert_eq!(locked.count(), 3);
    // A lock outlives a restart.
    lock("user/bob").ok();
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.kill(), &address);
    assert_eq!(ask(&bob).code, 77);
    drop(ca);
}

#[test]
fn nothing_of_a_revoked_key_is_in_the_log_after_it_was_revoked() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    for number in 1..=5 {
        under_load(&ca, &bob, || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            let key = format!("ssh-user-{number}");
            admin
                .hallpass(["key", "revoke", &key, "--reason", "x"])
                .ok();
            std::thread::sleep(std::time::Duration::from_millis(300));
        });
    }
    let (mut current, mut issued) = (None, 0);
    for entry in ca.home.log() {
        let event = &entry["event"];
        match event["kind"].as_str().unwrap() {
            "ca-key-revoked" => current = None,
            "certificate-issued" => {
                let ca = event["certificate"]["ca"].as_str().unwrap().to_owned();
                let signs = current.get_or_insert_with(|| ca.clone());
                assert_eq!(*signs, ca, "{entry}");
                issued += 1;
            }
            _ => {}
        }
    }
    let cas: std::collections::BTreeSet<String> = ca
        .home
        .entries("certificate-issued")
        .iter()
        .map(|entry| entry["event"]["certificate"]["ca"].to_string())
        .collect();
    assert!(
        cas.len() >= 5 && issued > 50,
        "{} keys, {issued} certificates",
        cas.len()
    );
}
