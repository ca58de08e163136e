//! Changes of who is enrolled: with others at the same moment, and broken off in the middle.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Ca, Person, assert_none_while_locked, tls};

fn public_key(person: &Person) -> String {
    person.key.public_key().to_openssh().unwrap()
}

/// Sends a request and goes away without waiting for the answer.
fn send_and_break_off(ca: &Ca, bytes: &[u8]) {
    let mut stream = tls(ca).unwrap();
    stream.write_all(bytes).unwrap();
    stream.flush().unwrap();
}

#[test]
fn a_change_whose_client_went_away_is_in_force_when_it_is_in_the_log() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    for round in 0..20 {
        let disable = admin.asks(&ca, "POST", "/v1/users/bob/disable");
        send_and_break_off(&ca, &disable.bytes());
        let logged = || ca.home.entries("user-disabled").len();
        // It may also have gone away before it was heard.
        std::thread::sleep(Duration::from_millis(30));
        let shown = admin.asks(&ca, "GET", "/v1/users/bob").send().json();
        assert_eq!(
            shown["enabled"],
            logged() <= round,
            "{round}: log and memory differ"
        );
        if logged() <= round {
            admin.hallpass(["user", "disable", "bob"]).ok();
        }
        assert_eq!(bob.hallpass(["whoami"]).code, 77);
        admin.hallpass(["user", "enable", "bob"]).ok();
    }
    // An enrolment that nobody heard of is one all the same: the name is taken. Where it is
    // broken off is left to chance until one gets through.
    let ask = |name: &str, person: &Person| json!({"name": name, "public_key": public_key(person), "groups": []});
    let (name, first) = (0..200)
        .find_map(|attempt| {
            let (name, first) = (format!("carol-{attempt}"), Person::stranger());
            let enrol = admin.asks(&ca, "POST", "/v1/users");
            let mut stream = tls(&ca).unwrap();
            stream
                .write_all(&enrol.json(&ask(&name, &first)).bytes())
                .unwrap();
            stream.flush().unwrap();
            std::thread::sleep(Duration::from_micros(100 * attempt));
            drop(stream);
            std::thread::sleep(Duration::from_millis(20));
            let enrolled = ca.home.entries("user-enrolled");
            let made = enrolled
                .iter()
                .any(|entry| entry["event"]["user"] == name.as_str());
            made.then_some((name, first))
        })
        .unwrap();
    let second = Person::stranger();
    let again = admin
        .asks(&ca, "POST", "/v1/users")
        .json(&ask(&name, &second));
    assert_eq!(again.send().status, 409);
    let ca = Ca::on(ca.kill());
    first.connect(&ca);
    assert!(first.hallpass(["whoami"]).ok().contains(&name));
}

#[test]
fn nothing_is_issued_to_a_user_after_the_entry_that_disables_them() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let ask =
                        json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
                    let request = bob.asks(&ca, "POST", "/v1/certificates/ssh");
                    request.ssh(&bob.key, ask).send();
                }
            });
        }
        for _ in 0..10 {
            for change in ["disable", "enable"] {
                let target = format!("/v1/users/bob/{change}");
                assert_eq!(admin.asks(&ca, "POST", &target).send().status, 200);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut enabled = true;
    let mut issued = 0;
    for entry in ca.home.log() {
        match entry["event"]["kind"].as_str().unwrap() {
            "user-disabled" => enabled = false,
            "user-enabled" => enabled = true,
            "certificate-issued" => {
                assert!(enabled, "issued while disabled: {entry}");
                issued += 1;
            }
            _ => {}
        }
    }
    assert!(issued > 10, "{issued} certificates");
}

#[test]
fn two_administrators_who_disable_each_other_leave_one() {
    let ca = Ca::start();
    let (alice, root) = (ca.admin(), ca.enrol("root2", &["administrators"]));
    for round in 0..10 {
        let statuses = std::thread::scope(|scope| {
            let one = scope.spawn(|| {
                alice
                    .asks(&ca, "POST", "/v1/users/root2/disable")
                    .send()
                    .status
            });
            let two = scope.spawn(|| {
                root.asks(&ca, "POST", "/v1/users/alice/disable")
                    .send()
                    .status
            });
            [one.join().unwrap(), two.join().unwrap()]
        });
        let mut sorted = statuses;
        sorted.sort_unstable();
        assert_eq!(sorted, [200, 401], "{round}");
        let (winner, loser) = if statuses[0] == 200 {
            (&alice, "root2")
        } else {
            (&root, "alice")
        };
        winner.hallpass(["user", "enable", loser]).ok();
    }
}

#[test]
fn a_locked_administrator_administers_nothing() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["administrators"]));
    let carol = ca.enrol("carol", &["on-call"]);
    // Or nobody might be left who unlocks.
    alice
        .hallpass(["lock", "user/alice", "--reason", "x"])
        .fails_with(65, "leave it to another administrator");
    let lock = ["lock", "user/alice", "--reason", "laptop stolen"];
    bob.hallpass(lock).ok();
    let before = ca.home.log().len();
    for line in [
        "user list",
        "user add mallory --ssh-key key.pub --group administrators",
        "user disable bob",
        "session list --all",
        "host-cert ssh key.pub --name app-1",
        "host invite app-1 --ssh",
        "key list",
        "key rotate ssh-user",
        "audit list",
        "audit archive --before 2199-01-01T00:00:00Z",
        "policy reload",
        "lock user/bob --reason x",
        "unlock user/alice",
    ] {
        let ran = alice.hallpass(line.split(' '));
        ran.fails_with(77, "user/alice is locked since ");
        ran.fails_with(77, "by bob: laptop stolen");
    }
    for entry in &ca.home.log()[before..] {
        assert_eq!(entry["event"]["refused"]["code"], "locked", "{entry}");
    }
    assert!(alice.hallpass(["whoami"]).ok().contains("alice"));

    // Without bob, whoever owns the CA's machine lets carol do it.
    let carols = "permit (principal == User::\"carol\", action == Action::\"lock\", \
                  resource == Authority::\"hallpass\");";
    std::fs::write(ca.home.policy("recovery.cedar"), carols).unwrap();
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.stop(), &address);
    alice.hallpass(["user", "list"]).fails_with(77, "is locked");
    carol.hallpass(["unlock", "user/alice"]).ok();
    alice.hallpass(["user", "list"]).ok();
    drop(ca);
}

#[test]
fn nothing_is_done_by_an_administrator_after_the_entry_that_locks_them() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["administrators"]));
    assert_none_while_locked(&ca, &bob, "user/alice", || {
        let ask = json!({"subject": public_key(&alice), "names": ["app-1"]});
        let request = alice.asks(&ca, "POST", "/v1/host-certificates/ssh");
        request.json(&ask).send();
    });
}

#[test]
fn of_two_enrolments_of_one_name_or_key_at_once_one_is_made() {
    let ca = Ca::start();
    let admin = ca.admin();
    for round in 0..10 {
        let (one, two) = (Person::stranger(), Person::stranger());
        let same_name = [("x", &one), ("x", &two)];
        let same_key = [("x", &one), ("y", &one)];
        let pair = if round % 2 == 0 { same_name } else { same_key };
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let (ca, admin) = (&ca, &admin);
            let asking: Vec<_> = pair
                .into_iter()
                .map(|(name, person)| {
                    let name = format!("{name}{round}");
                    let ask = json!({"name": name, "public_key": public_key(person), "groups": []});
                    scope
                        .spawn(move || admin.asks(ca, "POST", "/v1/users").json(&ask).send().status)
                })
                .collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(
            statuses.contains(&200) && statuses.contains(&409),
            "{statuses:?}"
        );
    }
}

#[test]
fn what_a_requester_writes_is_cut_and_a_private_key_never_logged() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let post = |body: String| {
        bob.asks(&ca, "POST", "/v1/certificates/ssh")
            .body(body)
            .send()
    };
    let long = post(json!({"A".repeat(60_000): 1}).to_string());
    assert_eq!(long.status, 400);
    let key = std::fs::read_to_string(bob.folder.join("key")).unwrap();
    let (status, _, detail) = post(json!({"role": key}).to_string()).problem();
    assert_eq!(status, 400);
    assert!(detail.contains("must never leave its machine"), "{detail}");
    assert!(!detail.contains("OPENSSH"), "{detail}");
    // The words alone are no key.
    let (status, _, detail) = post(json!({"role": "PRIVATE KEY"}).to_string()).problem();
    assert_eq!(status, 400);
    assert!(detail.starts_with("role: "), "{detail}");
    // And in a path, with what would turn a terminal over.
    bob.asks(&ca, "GET", &format!("/v1/users/{}", "x".repeat(5000)))
        .send();
    let secret = key.lines().nth(1).unwrap();
    for entry in ca.home.log() {
        let text = Value::to_string(&entry);
        assert!(
            text.len() < 5000 || entry["event"]["kind"] == "policy-loaded",
            "{text}"
        );
        assert!(!text.contains(secret));
    }
    assert!(!ca.server_log().contains(secret));
}
