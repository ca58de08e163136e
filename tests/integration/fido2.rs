//! FIDO2 keys: who was there, whether it knew them, whether there are two of a key, who made it.

use std::io::Write;
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Agent, Answer, Authenticator, Ca, Folder, Home, OtherCa, P256, Person, Ran, Request, TOUCHED,
    VERIFIED, bytes, exchange, make_csr, run, tls, wait_until,
};

/// A FIDO2 key without hardware, by which OpenSSH tests itself. It counts nothing: each signature
/// says 305419896.
pub(crate) const SK_PROVIDER: &str = "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so";

/// A home whose patients only those may read who show such a second factor.
pub(crate) fn home_that_demands(factor: &str) -> Home {
    let home = Home::new();
    let policy = home.policy("factor.cedar");
    let text = format!(
        "@id(\"factor\") @advice(\"Use your FIDO2 key.\")
         forbid (principal, action == Action::\"request\", resource == Role::\"patients-read\")
         unless {{ {factor} }};"
    );
    std::fs::write(policy, text).unwrap();
    home
}

/// Has stock `ssh-keygen` make a FIDO2 key for bob, and enrols it.
pub(crate) fn stock_key(ca: &Ca, bob: &Person, name: &str, options: &[&str]) -> String {
    let path = bob.folder.join(name).display().to_string();
    let made = ["-q", "-w", SK_PROVIDER, "-N", "", "-f", &path];
    run("ssh-keygen", options.iter().chain(&made)).ok();
    enrol(ca, &format!("{path}.pub"), &[]).ok();
    path
}

fn enrol(ca: &Ca, public: &str, options: &[&str]) -> Ran {
    let add = ["user", "key", "add", "bob", public];
    ca.admin().hallpass(add.iter().chain(options))
}

/// Enrols a FIDO2 key of which the test knows all.
fn enrol_software(ca: &Ca, bob: &Person, key: &Authenticator) {
    let public = bob.folder.write("software.pub", key.line());
    enrol(ca, public.to_str().unwrap(), &[]).ok();
}

/// Has stock `ssh-keygen` sign a request, with a PIN for where it is asked, and sends it. `hallpass
/// request` asks twice, and sk-dummy does not count.
fn stock(ca: &Ca, bob: &Person, key: &str, request: &Request<'_>, agent: Option<&Agent>) -> Answer {
    let askpass = bob.folder.write("askpass", "#!/bin/sh\necho 1234\n");
    run("chmod", ["+x", askpass.to_str().unwrap()]).ok();
    let message = bob.folder.write("message", request.message());
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-Y", "sign", "-n", "hallpass-request-v1", "-f", key])
        .arg(&message)
        .env_remove("SSH_AUTH_SOCK")
        .env("SSH_SK_PROVIDER", SK_PROVIDER)
        .env("SSH_ASKPASS", askpass)
        .env("SSH_ASKPASS_REQUIRE", "force");
    match agent {
        Some(agent) => agent.run(&mut sign).ok(),
        None => Ran::of(&mut sign).ok(),
    };
    let armored = bob.folder.join("message.sig");
    let text = std::fs::read_to_string(&armored).unwrap();
    std::fs::remove_file(armored).unwrap();
    let signature = text.lines().filter(|line| !line.starts_with('-')).collect();
    let sent = request.bytes_with(&[
        ("Hallpass-Time", request.time.clone()),
        ("Hallpass-Nonce", request.nonce.clone()),
        ("Hallpass-Signature", signature),
    ]);
    exchange(ca, &sent).unwrap()
}

/// `hallpass whoami` by a key of sk-dummy's: one request.
fn stock_whoami(bob: &Person, key: &str) -> Ran {
    let mut who = bob.command();
    who.args(["whoami", "--identity", key])
        .env("SSH_SK_PROVIDER", SK_PROVIDER);
    Ran::of(&mut who)
}

fn newest(ca: &Ca, kind: &str) -> Value {
    let mut entries = ca.home.entries(kind);
    entries.pop().unwrap_or_else(|| panic!("no {kind}"))["event"].take()
}

/// Why the newest request of nobody who is known was refused.
fn newest_code(ca: &Ca) -> String {
    newest(ca, "unauthenticated-refused")["refused"]["code"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The code of what a key says now, after which it is asked who it is.
fn whoami(ca: &Ca, bob: &Person, key: &Authenticator, counter: u32) -> u16 {
    whoami_at(ca, bob, key, counter, 0)
}

fn whoami_at(ca: &Ca, bob: &Person, key: &Authenticator, counter: u32, seconds: i64) -> u16 {
    let request = bob.asks(ca, "GET", "/v1/whoami").at(seconds);
    key.send(ca, &request, TOUCHED, counter).status
}

/// A request for a database's certificate, which changes something and needs one signature.
fn certificate<'a>(ca: &'a Ca, bob: &'a Person) -> Request<'a> {
    make_csr(&bob.folder, "mine", &P256, &[]);
    let csr = std::fs::read_to_string(bob.folder.join("mine.csr")).unwrap();
    let ask =
        json!({"role": "patients-read", "purpose": "incident", "reason": "INC-1", "csr": csr});
    bob.asks(ca, "POST", "/v1/certificates/x509").json(&ask)
}

fn show_bob(ca: &Ca) -> String {
    ca.admin().hallpass(["user", "show", "bob"]).ok()
}

#[test]
fn policy_demands_that_a_key_knew_its_owner() {
    let ca = Ca::on(home_that_demands(
        "context.mfa.verified && context.mfa.age < 120",
    ));
    let bob = ca.enrol("bob", &["on-call"]);
    let denied = |answer: &Answer| {
        let (status, kind, detail) = answer.problem();
        assert_eq!((status, kind.as_str()), (403, "denied"));
        assert_eq!(detail, "policy factor forbids it: Use your FIDO2 key.");
        newest(&ca, "request-refused")
    };
    let refused = denied(&certificate(&ca, &bob).send());
    let told = &refused["decision"]["circumstances"];
    assert_eq!(told["key_type"], "ssh-ed25519");
    assert!(told["mfa"].is_null() && refused["by"]["counter"].is_null());

    for kind in ["ed25519-sk", "ecdsa-sk"] {
        let touched = stock_key(&ca, &bob, &format!("touched-{kind}"), &["-t", kind]);
        let refused = denied(&stock(&ca, &bob, &touched, &certificate(&ca, &bob), None));
        let mfa = &refused["decision"]["circumstances"]["mfa"];
        assert_eq!(
            (&mfa["verified"], &mfa["attested"]),
            (&json!(false), &json!(false))
        );
        assert!(mfa["age"].as_u64().unwrap() < 60, "{mfa}");
        assert_eq!(refused["by"]["counter"], 0x1234_5678);

        let options = ["-t", kind, "-O", "verify-required"];
        let verified = stock_key(&ca, &bob, &format!("verified-{kind}"), &options);
        let answer = stock(&ca, &bob, &verified, &certificate(&ca, &bob), None);
        assert_eq!(answer.status, 200, "{answer:?}");
        let issued = newest(&ca, "certificate-issued");
        let told = &issued["decision"]["circumstances"];
        assert_eq!(told["mfa"]["verified"], true);
        assert!(
            told["key_type"].as_str().unwrap().starts_with("sk-"),
            "{told}"
        );
    }
}

#[test]
fn a_touch_by_way_of_an_agent_is_a_second_factor() {
    let ca = Ca::on(home_that_demands("context.mfa.present"));
    let bob = ca.enrol("bob", &["on-call"]);
    let key = stock_key(&ca, &bob, "touched", &["-t", "ed25519-sk"]);
    let agent = Agent::start();
    agent
        .run(Command::new("ssh-add").args(["-q", "-S", SK_PROVIDER, &key]))
        .ok();
    // The agent alone has it.
    std::fs::remove_file(&key).unwrap();
    let public = format!("{key}.pub");
    let request = certificate(&ca, &bob);
    let answer = stock(&ca, &bob, &public, &request, Some(&agent));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        newest(&ca, "certificate-issued")["by"]["counter"],
        0x1234_5678
    );
}

#[test]
fn a_key_that_stands_still_is_locked_until_an_administrator_says_otherwise() {
    let mut ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = stock_key(&ca, &bob, "dummy", &["-t", "ed25519-sk"]);
    let line = run("ssh-keygen", ["-lf", &format!("{key}.pub")]).ok();
    let fingerprint = line.split(' ').nth(1).unwrap().to_owned();
    let lock = format!("key/{fingerprint}");

    stock_whoami(&bob, &key).ok();
    assert!(!show_bob(&ca).contains("LOCKED"));
    stock_whoami(&bob, &key).fails_with(77, "was not accepted");
    let entry = newest(&ca, "counter-went-back");
    let expected = json!({
        "kind": "counter-went-back", "user": "bob", "fingerprint": fingerprint,
        "counter": 305_419_896, "newest": 305_419_896, "source": "127.0.0.1",
        "refused": {
            "request": "GET /v1/whoami", "code": "counter-went-back",
            "detail": "its key counted to 305419896, after 305419896: there may be two of that key \
                       of bob, which is locked from now on",
        },
    });
    assert_eq!(entry, expected);
    let why = "it counted to 305419896 after 305419896: there may be two of it";
    assert!(
        show_bob(&ca).contains("; LOCKED since "),
        "{}",
        show_bob(&ca)
    );
    assert!(show_bob(&ca).contains(why));
    let locks = ca.admin().hallpass(["lock"]).ok();
    assert!(
        locks.contains(&lock) && locks.contains("the server") && locks.contains(why),
        "{locks}"
    );

    // Neither time nor a restart opens it, and nobody else is shut out.
    for _ in 0..2 {
        stock_whoami(&bob, &key).fails_with(77, "was not accepted");
        assert_eq!(newest_code(&ca), "key-locked");
        assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
        let address = ca.address().to_owned();
        ca = Ca::at(ca.kill(), &address);
    }
    assert_eq!(ca.home.entries("counter-went-back").len(), 1);

    // It may begin to count anew then, and is no better than before.
    ca.admin().hallpass(["unlock", &lock]).ok();
    assert!(!show_bob(&ca).contains("LOCKED"));
    stock_whoami(&bob, &key).ok();
    stock_whoami(&bob, &key).fails_with(77, "was not accepted");
    assert_eq!(ca.home.entries("counter-went-back").len(), 2);

    ca.admin()
        .hallpass(["user", "key", "remove", "bob", &fingerprint])
        .ok();
    assert_eq!(ca.admin().hallpass(["lock"]).ok(), "Nothing is locked.\n");
    ca.admin()
        .hallpass(["unlock", &lock])
        .fails_with(65, "is not locked");
    enrol(&ca, &format!("{key}.pub"), &[]).ok();
    stock_whoami(&bob, &key).ok();
}

#[test]
fn a_copy_of_a_key_shows_when_its_owner_comes_again() {
    for owned in [Authenticator::ed25519(), Authenticator::p256()] {
        let ca = Ca::start();
        let bob = ca.enrol("bob", &["on-call"]);
        enrol_software(&ca, &bob, &owned);
        let ask = |counter| {
            owned
                .send(&ca, &certificate(&ca, &bob), TOUCHED, counter)
                .status
        };
        assert_eq!([ask(4), ask(7)], [200, 200]);
        assert_eq!(newest(&ca, "certificate-issued")["by"]["counter"], 7);
        // Nobody can tell the copy from its owner who signed nothing since.
        assert_eq!(ask(8), 200);
        // Until the owner does. It may be the other way round: neither gets anything any more.
        assert_eq!(ask(8), 401);
        for next in [9, 1000, u32::MAX] {
            assert_eq!(ask(next), 401, "{next}");
        }
        let entry = newest(&ca, "counter-went-back");
        assert_eq!(
            (&entry["counter"], &entry["newest"]),
            (&json!(8), &json!(8))
        );
        assert_eq!(ca.home.entries("certificate-issued").len(), 3);
    }
}

#[test]
fn a_copy_shows_after_a_restart_also_when_its_owner_only_read() {
    let mut ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    assert_eq!(whoami(&ca, &bob, &key, 41), 200);
    assert_eq!(whoami(&ca, &bob, &key, 43), 200);
    let entries = ca.home.log().len();
    ca = Ca::on(ca.kill());
    let started = Instant::now();
    // It may have been on its way when the server went away: refused, and no proof of anything.
    for before in [42, 43] {
        assert_eq!(whoami(&ca, &bob, &key, before), 401);
        assert_eq!(newest_code(&ca), "forgotten");
    }
    // Signed later than that could be.
    wait_until("two seconds have passed", || {
        started.elapsed() > Duration::from_secs(2)
    });
    assert_eq!(whoami_at(&ca, &bob, &key, 42, 59), 401);
    let entry = newest(&ca, "counter-went-back");
    assert_eq!(
        (&entry["counter"], &entry["newest"]),
        (&json!(42), &json!(43))
    );
    assert_eq!(whoami(&ca, &bob, &key, 44), 401);
    assert_eq!(newest_code(&ca), "key-locked");
    assert!(ca.home.log().len() > entries);
}

#[test]
fn what_a_key_counts_is_on_disk_before_hashes_are_answered() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    let on_disk = || {
        let readonly = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let log = rusqlite::Connection::open_with_flags(ca.home.database(), readonly).unwrap();
        let highest = "SELECT max(value) FROM marks WHERE name LIKE 'counter:%'";
        log.query_row(highest, [], |row| row.get::<_, Option<u32>>(0))
            .unwrap()
    };
    let targets = [
        ("/v1/log/checkpoint", 200),
        ("/v1/log/checkpoint/cosigned", 404),
        ("/v1/log/tile/0/000.p/1", 200),
        ("/v1/log/inclusion?index=0&size=1", 200),
        ("/v1/log/inclusion?index=0&size=99999", 404),
        ("/v1/log/consistency?old=1&new=2", 200),
        ("/v1/log/range?first=0&next=1&size=2", 200),
    ];
    for ((target, status), counter) in targets.into_iter().zip(41..) {
        let request = bob.asks(&ca, "GET", target);
        let answer = key.send(&ca, &request, TOUCHED, counter);
        assert_eq!(answer.status, status, "{target}: {answer:?}");
        assert_eq!(on_disk(), Some(counter), "{target}");
    }
}

#[test]
fn requests_that_overtake_each_other_lock_nobody_out() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    for counter in [20, 25, 22, 24, 21, 26] {
        assert_eq!(whoami(&ca, &bob, &key, counter), 200, "{counter}");
    }
    // All at once, and each for itself.
    std::thread::scope(|scope| {
        let asked: Vec<_> = (100..120)
            .map(|counter| {
                (
                    counter,
                    scope.spawn({
                        let (ca, bob, key) = (&ca, &bob, &key);
                        move || whoami(ca, bob, key, counter)
                    }),
                )
            })
            .collect();
        for (counter, asked) in asked {
            assert_eq!(asked.join().unwrap(), 200, "{counter}");
        }
    });
    // But none comes twice.
    assert_eq!(whoami(&ca, &bob, &key, 110), 401);
    assert_eq!(newest(&ca, "counter-went-back")["newest"], 119);
}

#[test]
fn a_key_that_does_not_count_is_taken_for_what_it_is() {
    let mut ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    for _ in 0..2 {
        for _ in 0..3 {
            assert_eq!(whoami(&ca, &bob, &key, 0), 200);
        }
        ca = Ca::on(ca.stop());
    }
    // Once it counts, it can't have never counted.
    assert_eq!(whoami(&ca, &bob, &key, 5), 200);
    assert_eq!(whoami(&ca, &bob, &key, 0), 401);
    assert_eq!(newest(&ca, "counter-went-back")["newest"], 5);
}

#[test]
fn a_captured_request_locks_nobody_out() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = Authenticator::p256();
    enrol_software(&ca, &bob, &key);
    let request = bob.asks(&ca, "GET", "/v1/whoami");
    let captured = bytes(&request, &key.sign(&request, TOUCHED, 9));
    assert_eq!(exchange(&ca, &captured).unwrap().status, 200);
    assert_eq!(whoami(&ca, &bob, &key, 10), 200);
    assert_eq!(exchange(&ca, &captured).unwrap().status, 401);
    assert_eq!(newest_code(&ca), "replayed");
    let late = bob.asks(&ca, "GET", "/v1/whoami").at(-90);
    assert_eq!(key.send(&ca, &late, TOUCHED, 8).status, 401);
    assert_eq!(newest_code(&ca), "clock-skew");
    assert_eq!(whoami(&ca, &bob, &key, 11), 200);
}

#[test]
fn nothing_of_a_signatures_end_can_be_forged() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    for key in [Authenticator::ed25519(), Authenticator::p256()] {
        enrol_software(&ca, &bob, &key);
        let request = bob.asks(&ca, "GET", "/v1/whoami");
        let refused = |answer: &Answer, code: &str| {
            assert_eq!(answer.status, 401, "{answer:?}");
            assert_eq!(newest_code(&ca), code);
        };
        // Nobody was there, whatever else it says.
        for flags in [0, VERIFIED, 0b1111_1010] {
            refused(&key.send(&ca, &request, flags, 7), "bad-signature");
        }
        // Said afterwards.
        let signature = key.sign(&request, TOUCHED, 7);
        let flags = signature.len() - 5;
        for (place, bit) in [(flags, VERIFIED), (flags + 4, 1), (flags + 1, 0x80)] {
            let mut forged = signature.clone();
            forged[place] ^= bit;
            let answer = exchange(&ca, &bytes(&request, &forged)).unwrap();
            refused(&answer, "bad-signature");
        }
        assert!(ca.home.entries("counter-went-back").is_empty());
        assert_eq!(key.send(&ca, &request, TOUCHED, 7).status, 200);
        ca.admin()
            .hallpass(["user", "key", "remove", "bob", &key.fingerprint()])
            .ok();
    }
}

#[test]
fn broken_signatures_harm_nobody() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    for key in [Authenticator::ed25519(), Authenticator::p256()] {
        enrol_software(&ca, &bob, &key);
        let request = bob.asks(&ca, "GET", "/v1/whoami");
        let signature = key.sign(&request, TOUCHED, 7);
        for length in 0..signature.len() {
            let answer = exchange(&ca, &bytes(&request, &signature[..length])).unwrap();
            assert_eq!(answer.status, 401, "{length}");
        }
        // Lengths that promise more than comes, among others. Where one is not looked at, the
        // request is still the one that was signed.
        for place in 0..signature.len() {
            let mut wrong = signature.clone();
            wrong[place] = 0xff;
            let answer = exchange(&ca, &bytes(&request, &wrong)).unwrap();
            assert!([200, 401].contains(&answer.status), "{place}: {answer:?}");
        }
        let huge = [signature.as_slice(), &[0; 1 << 20]].concat();
        // It may not even be read to its end.
        if let Ok(answer) = exchange(&ca, &bytes(&request, &huge)) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
        assert_eq!(whoami(&ca, &bob, &key, 8), 200);
        ca.admin()
            .hallpass(["user", "key", "remove", "bob", &key.fingerprint()])
            .ok();
    }
    assert!(ca.home.entries("counter-went-back").is_empty());
}

#[test]
fn who_hangs_up_at_once_is_found_out_all_the_same() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    assert_eq!(whoami(&ca, &bob, &key, 9), 200);
    // Where it is not even read, there is nothing to find.
    wait_until("the entry", || {
        let request = bob.asks(&ca, "GET", "/v1/whoami");
        let sent = bytes(&request, &key.sign(&request, TOUCHED, 9));
        let mut stream = tls(&ca).unwrap();
        stream.write_all(&sent).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        !ca.home.entries("counter-went-back").is_empty()
    });
}

#[test]
fn a_key_is_locked_by_hand() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    let lock = format!("key/{}", key.fingerprint());
    assert_eq!(
        admin
            .hallpass(["lock", &lock, "--reason", "left in a train"])
            .ok(),
        format!("No request by {lock} is taken any more.\n")
    );
    assert_eq!(whoami(&ca, &bob, &key, 9), 401);
    assert_eq!(newest_code(&ca), "key-locked");
    assert!(show_bob(&ca).contains("by alice: left in a train"));
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    admin.hallpass(["unlock", &lock]).ok();
    assert_eq!(whoami(&ca, &bob, &key, 9), 200);

    // Who locks the key that signs could not unlock it.
    let own = format!("key/{}", admin.key.fingerprint(ssh_key::HashAlg::Sha256));
    admin
        .hallpass(["lock", &own, "--reason", "x"])
        .fails_with(65, "this key signs your requests");
    let nobody = format!("key/{}", Authenticator::ed25519().fingerprint());
    admin
        .hallpass(["lock", &nobody, "--reason", "x"])
        .fails_with(65, "there is no key/");
    // Bob may not.
    bob.hallpass(["lock", &own, "--reason", "x"])
        .fails_with(77, "no policy permits");
}

/// A challenge and an attestation of a key, as files.
fn attest(
    folder: &Folder,
    key: &Authenticator,
    maker: &(std::path::PathBuf, std::path::PathBuf),
) -> [String; 4] {
    let challenge = b"what the CA's people chose";
    let challenge_file = folder.write("challenge", challenge);
    let attestation = folder.write("attestation", key.attestation(challenge, maker));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    [
        "--attestation".to_owned(),
        text(&attestation),
        "--challenge".to_owned(),
        text(&challenge_file),
    ]
}

#[test]
fn policy_demands_that_a_trusted_maker_attests_the_key() {
    let (maker, stranger) = (OtherCa::new(), OtherCa::new());
    let home = home_that_demands("context.mfa.attested");
    std::fs::copy(maker.root(), home.policy("authenticators.pem")).unwrap();
    let settings = home.path().join("hallpass.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let text = text
        .replace("# [fido2]", "[fido2]")
        .replace("# attestation_roots", "attestation_roots");
    std::fs::write(&settings, text).unwrap();
    let ca = Ca::on(home);
    let bob = ca.enrol("bob", &["on-call"]);

    for (by, root) in [(&maker, Some("CN=ca")), (&stranger, None)] {
        let certificate_of_maker = by.certify("authenticator");
        for key in [Authenticator::ed25519(), Authenticator::p256()] {
            let proof = attest(&bob.folder, &key, &certificate_of_maker);
            let proof = proof.each_ref().map(String::as_str);
            let public = bob.folder.write("software.pub", key.line());
            let shown = enrol(&ca, public.to_str().unwrap(), &proof).ok();
            let entry = newest(&ca, "key-enrolled");
            let attestation = &entry["attestation"];
            assert_eq!(attestation["root"].as_str(), root);
            assert_eq!(attestation["subject"], "CN=authenticator");
            assert_eq!(
                attestation["aaguid"],
                "612d6d6f-6465-6c2d-6f66-2d612d6b6579"
            );
            let pem = std::fs::read_to_string(&certificate_of_maker.0).unwrap();
            assert_eq!(attestation["certificate"].as_str(), Some(pem.as_str()));
            let words = match root {
                Some(_) => "CN=authenticator, attested by CN=ca",
                None => "calls itself CN=authenticator, which nobody attests who is trusted here",
            };
            assert!(shown.contains(words), "{shown}");

            let request = certificate(&ca, &bob);
            let answer = key.send(&ca, &request, TOUCHED, 1);
            assert_eq!(
                answer.status,
                if root.is_some() { 200 } else { 403 },
                "{answer:?}"
            );
            ca.admin()
                .hallpass(["user", "key", "remove", "bob", &key.fingerprint()])
                .ok();
        }
    }
    // Nor is a key attested that was enrolled without.
    let key = Authenticator::ed25519();
    enrol_software(&ca, &bob, &key);
    let request = certificate(&ca, &bob);
    assert_eq!(key.send(&ca, &request, TOUCHED | VERIFIED, 1).status, 403);
    // It stays so after a restart.
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.stop(), &address);
    let request = certificate(&ca, &bob);
    assert_eq!(key.send(&ca, &request, TOUCHED, 2).status, 403);
    let enrolled = ca.home.entries("key-enrolled");
    assert!(enrolled.last().unwrap()["event"]["attestation"].is_null());
}

#[test]
fn a_new_user_may_begin_with_an_attested_key() {
    let ca = Ca::start();
    let (maker, folder, key) = (OtherCa::new(), Folder::new(), Authenticator::p256());
    let proof = attest(&folder, &key, &maker.certify("authenticator"));
    let public = folder.write("new.pub", key.line()).display().to_string();
    let add = ["user", "add", "carol", "--ssh-key", &public];
    let words = add.into_iter().chain(proof.iter().map(String::as_str));
    // No root is configured.
    let shown = ca.admin().hallpass(words).ok();
    assert!(
        shown.contains("which nobody attests who is trusted here"),
        "{shown}"
    );
    assert_eq!(
        newest(&ca, "user-enrolled")["attestation"]["subject"],
        "CN=authenticator"
    );
}

#[test]
fn attestations_that_prove_nothing_are_refused() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let maker = OtherCa::new();
    let (by, key) = (maker.certify("authenticator"), Authenticator::ed25519());
    let proof = attest(&bob.folder, &key, &by);
    let [_, attestation, _, challenge] = proof.each_ref().map(String::as_str);
    let public = bob
        .folder
        .write("software.pub", key.line())
        .display()
        .to_string();
    let other = bob
        .folder
        .write("other.pub", Authenticator::ed25519().line())
        .display()
        .to_string();
    let refused = |public: &str, attestation: &str, challenge: &str, words: &str| {
        let proof = ["--attestation", attestation, "--challenge", challenge];
        enrol(&ca, public, &proof).fails_with(65, words);
    };
    refused(&other, attestation, challenge, "it is of another key");
    refused(
        &public,
        attestation,
        &public,
        "its signature does not fit: give the challenge",
    );
    refused(
        &public,
        challenge,
        challenge,
        "it is no attestation as ssh-keygen writes it",
    );
    let fresh = bob.folder.join("fresh").display().to_string();
    run(
        "ssh-keygen",
        ["-q", "-t", "ed25519", "-N", "", "-f", &fresh],
    )
    .ok();
    refused(
        &format!("{fresh}.pub"),
        attestation,
        challenge,
        "the key is no FIDO2 key",
    );
    enrol(&ca, &public, &["--attestation", attestation]).fails_with(64, "--challenge");

    // What sk-dummy says of itself: nothing.
    let dummy = bob.folder.join("dummy").display().to_string();
    let says = bob.folder.join("says").display().to_string();
    let (write, with) = (
        format!("write-attestation={says}"),
        format!("challenge={challenge}"),
    );
    let made = [
        "-q",
        "-t",
        "ed25519-sk",
        "-w",
        SK_PROVIDER,
        "-N",
        "",
        "-f",
        &dummy,
    ];
    run(
        "ssh-keygen",
        made.iter().chain(&["-O", &write, "-O", &with]),
    )
    .ok();
    refused(
        &format!("{dummy}.pub"),
        &says,
        challenge,
        "it holds no certificate",
    );
    assert!(ca.home.entries("key-enrolled").is_empty());

    // And over the API.
    let admin = ca.admin();
    for (attestation, challenge) in [("?", ""), ("", "?"), ("", ""), ("AAAA", "AAAA")] {
        let proof = json!({"attestation": attestation, "challenge": challenge});
        let body = json!({"public_key": key.line().trim_end(), "attestation": proof});
        let request = admin.asks(&ca, "POST", "/v1/users/bob/keys").json(&body);
        assert_eq!(request.send().problem().1, "illegal-request");
    }
}
