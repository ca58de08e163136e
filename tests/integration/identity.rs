//! Who asks: what is accepted, and the attacks on it.

use serde_json::{Value, json};
use ssh_key::PrivateKey;

use crate::support::{Answer, Ca, P256, Person, Ran, Request, Sshd, exchange, make_csr, run};

/// What anybody who is not identified sees, whatever the reason.
fn indistinct(answer: &Answer) -> (u16, Vec<String>, String) {
    let head = answer
        .head
        .lines()
        .filter(|line| !line.starts_with("date: "))
        .map(str::to_owned)
        .collect();
    (answer.status, head, answer.body.clone())
}

/// The code of the newest refusal.
fn newest_code(ca: &Ca) -> String {
    let refusals = ca.home.entries("unauthenticated-refused");
    let newest = refusals.last().expect("a refusal");
    newest["event"]["refused"]["code"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Bob, his good request, and what it would have to look like to an attacker.
fn whoami<'a>(ca: &'a Ca, person: &'a Person) -> Request<'a> {
    person.asks(ca, "GET", "/v1/whoami")
}

#[test]
fn all_refusals_look_the_same_and_the_log_tells_why() {
    // A stranger's refusals are counted from the eleventh in a minute on; here, nine are made.
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let stranger = Person::stranger();
    let disabled = ca.enrol("carol", &[]);
    ca.admin().hallpass(["user", "disable", "carol"]).ok();
    assert_eq!(whoami(&ca, &bob).send().json()["name"], "bob");

    let spent = whoami(&ca, &bob);
    assert_eq!(spent.send().status, 200);
    let unsigned = whoami(&ca, &bob).bytes_with(&[]);
    let good = whoami(&ca, &bob);
    let other = whoami(&ca, &bob);
    let swapped = good.bytes_with(&[
        ("Hallpass-Time", good.time.clone()),
        ("Hallpass-Nonce", good.nonce.clone()),
        ("Hallpass-Signature", other.signature()),
    ]);
    let mut namespace = whoami(&ca, &bob);
    namespace.namespace = "hallpass-possession-v1".to_owned();
    let cases = [
        ("not-signed", unsigned),
        ("bad-signature", swapped),
        ("bad-signature", namespace.bytes()),
        ("clock-skew", whoami(&ca, &bob).at(-75).bytes()),
        ("clock-skew", whoami(&ca, &bob).at(75).bytes()),
        ("unknown-key", whoami(&ca, &stranger).bytes()),
        ("user-disabled", whoami(&ca, &disabled).bytes()),
        ("replayed", spent.bytes()),
    ];
    let mut seen = None;
    for (code, bytes) in cases {
        let answer = exchange(&ca, &bytes).unwrap();
        assert_eq!(newest_code(&ca), code);
        let answer = indistinct(&answer);
        assert_eq!(answer.0, 401, "{code}");
        assert_eq!(
            *seen.get_or_insert_with(|| answer.clone()),
            answer,
            "{code}"
        );
    }
}

#[test]
fn the_signature_covers_all_of_the_request() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let refused = |request: &Request<'_>| {
        let (status, kind, _) = request.send().problem();
        assert_eq!((status, kind.as_str()), (401, "not-accepted"));
        assert_eq!(newest_code(&ca), "bad-signature");
    };
    let mut method = bob.asks(&ca, "POST", "/v1/users/alice/disable");
    method.signed_method = Some("GET".to_owned());
    refused(&method);
    let mut path = bob.asks(&ca, "GET", "/v1/roles");
    path.signed_target = Some("/v1/whoami".to_owned());
    refused(&path);
    let mut query = bob.asks(&ca, "GET", "/v1/audit/entries?user=alice");
    query.signed_target = Some("/v1/audit/entries?user=bob".to_owned());
    refused(&query);
    let ask = |purpose: &str| json!({"role": "server-operator", "purpose": purpose, "reason": "x"});
    let mut body = bob
        .asks(&ca, "POST", "/v1/certificates/ssh")
        .ssh(&bob.key, ask("maintenance"));
    body.signed_body = Some(ask("incident").to_string().into_bytes());
    refused(&body);
    // A request to another CA that the same key is enrolled at.
    let mut audience = bob.asks(&ca, "GET", "/v1/whoami");
    audience.audience = audience
        .audience
        .replace("SHA256:", "SHA256:A")
        .chars()
        .take(50)
        .collect();
    refused(&audience);
    let mut time = bob.asks(&ca, "GET", "/v1/whoami");
    let signature = time.signature();
    time = time.at(1);
    let headers = |nonce: String, time: String| {
        [
            ("Hallpass-Time", time),
            ("Hallpass-Nonce", nonce),
            ("Hallpass-Signature", signature.clone()),
        ]
    };
    let bytes = time.bytes_with(&headers(time.nonce.clone(), time.time.clone()));
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 401);
    assert!(ca.home.entries("certificate-issued").is_empty());
}

#[test]
fn headers_that_are_doubled_or_malformed_sign_nothing() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let good = whoami(&ca, &bob);
    let (time, nonce, signature) = (good.time.clone(), good.nonce.clone(), good.signature());
    let signed = |time: &str, nonce: &str, signature: &str| {
        vec![
            ("Hallpass-Time", time.to_owned()),
            ("Hallpass-Nonce", nonce.to_owned()),
            ("Hallpass-Signature", signature.to_owned()),
        ]
    };
    let mut doubled = signed(&time, &nonce, &signature);
    doubled.push(("Hallpass-Nonce", "B".repeat(24)));
    for headers in [
        doubled,
        signed("yesterday", &nonce, &signature),
        signed(&time, "short", &signature),
        signed(&time, &"A".repeat(65), &signature),
        signed(&time, "../../../../etc/passwd-and-more", &signature),
        signed(&time, &nonce, "not base64!"),
        signed(&time, &nonce, &signature[..40]),
        signed(
            &time,
            &nonce,
            &format!("{}AAAA", &signature[..signature.len() - 4]),
        ),
    ] {
        let (status, kind, _) = exchange(&ca, &good.bytes_with(&headers)).unwrap().problem();
        assert_eq!(
            (status, kind.as_str()),
            (401, "not-accepted"),
            "{headers:?}"
        );
    }
    // Nothing of all that spent the nonce.
    assert_eq!(good.send().status, 200);
}

#[test]
fn a_request_is_good_once_also_across_a_crash() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let bytes = bob
        .asks(&ca, "POST", "/v1/certificates/ssh")
        .ssh(&bob.key, ask)
        .bytes();
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 200);
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 401);
    let ca = Ca::on(ca.kill());
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 401);
    assert_eq!(newest_code(&ca), "replayed");
    assert_eq!(ca.home.entries("certificate-issued").len(), 1);
}

#[test]
fn of_one_request_sent_many_times_at_once_one_is_granted() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let bytes = bob
        .asks(&ca, "POST", "/v1/certificates/ssh")
        .ssh(&bob.key, ask)
        .bytes();
    let granted = std::thread::scope(|scope| {
        let sending: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| exchange(&ca, &bytes).unwrap().status))
            .collect();
        let answers = sending.into_iter().map(|one| one.join().unwrap());
        answers.filter(|status| *status == 200).count()
    });
    assert_eq!(granted, 1);
    assert_eq!(ca.home.entries("certificate-issued").len(), 1);
}

#[test]
fn disabling_and_removing_take_effect_at_once_and_last() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let not_accepted = "hallpass: the request was not accepted: check that your key is enrolled, \
                        your account enabled and your clock right; an administrator finds the \
                        reason in the audit log";
    admin.hallpass(["user", "disable", "bob"]).ok();
    bob.hallpass(["whoami"]).fails(77, not_accepted);
    let ca = Ca::on(ca.stop());
    bob.connect(&ca);
    bob.hallpass(["whoami"]).fails(77, not_accepted);
    let admin = ca.admin();
    admin.hallpass(["user", "enable", "bob"]).ok();
    bob.hallpass(["whoami"]).ok();
    admin.hallpass(["user", "remove", "bob"]).ok();
    bob.hallpass(["whoami"]).fails(77, not_accepted);
    // The name comes back with another key; the old one stays out.
    let new = Person::stranger();
    let key = new.folder.join("key.pub");
    admin
        .hallpass(["user", "add", "bob", "--ssh-key", key.to_str().unwrap()])
        .ok();
    bob.hallpass(["whoami"]).fails(77, not_accepted);
    new.connect(&ca);
    assert!(new.hallpass(["whoami"]).ok().contains("bob"));
}

#[test]
fn a_user_has_as_many_keys_as_are_enrolled_and_not_one_more() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &[]));
    let laptop = Person::stranger();
    laptop.connect(&ca);
    assert_eq!(laptop.hallpass(["whoami"]).code, 77);
    let key = laptop.folder.join("key.pub");
    let key = key.to_str().unwrap();
    admin.hallpass(["user", "key", "add", "bob", key]).ok();
    assert!(laptop.hallpass(["whoami"]).ok().contains("bob"));
    admin
        .hallpass(["user", "add", "carol", "--ssh-key", key])
        .fails(65, &format!(
            "hallpass: key {} is already enrolled for user bob: every user needs a key of their \
             own",
            laptop.key.public_key().fingerprint(ssh_key::HashAlg::Sha256)
        ));
    let fingerprint = bob.key.public_key().fingerprint(ssh_key::HashAlg::Sha256);
    admin
        .hallpass(["user", "key", "remove", "bob", &fingerprint.to_string()])
        .ok();
    assert_eq!(bob.hallpass(["whoami"]).code, 77);
    assert!(laptop.hallpass(["whoami"]).ok().contains("bob"));
}

#[test]
fn only_administrators_administer_and_each_attempt_is_logged() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let key = bob.folder.join("key.pub");
    let key = key.to_str().unwrap();
    for (arguments, action) in [
        (vec!["user", "add", "eve", "--ssh-key", key], "manage-users"),
        (vec!["user", "list"], "manage-users"),
        (vec!["user", "show", "alice"], "manage-users"),
        (vec!["user", "disable", "alice"], "manage-users"),
        (vec!["user", "enable", "alice"], "manage-users"),
        (vec!["user", "remove", "alice"], "manage-users"),
        (vec!["user", "key", "add", "bob", key], "manage-users"),
        (
            vec!["user", "key", "remove", "alice", "SHA256:x"],
            "manage-users",
        ),
        (
            vec!["host-cert", "ssh", key, "--name", "app-1", "--out", "c"],
            "certify-hosts",
        ),
        (vec!["audit", "list"], "read-log"),
        (vec!["audit", "show", "0"], "read-log"),
    ] {
        let before = ca.home.entries("request-refused").len();
        let message = format!("hallpass: no policy permits bob to {action}");
        let ran = bob.hallpass(&arguments);
        assert_eq!(ran.code, 77, "{arguments:?}: {ran:?}");
        assert!(ran.err.starts_with(&message), "{ran:?}");
        let refusals = ca.home.entries("request-refused");
        assert_eq!(refusals.len(), before + 1, "{arguments:?}");
        assert_eq!(refusals[before]["event"]["by"]["requester"], "bob");
    }
    assert_eq!(ca.home.entries("user-enrolled").len(), 2);
}

#[test]
fn the_key_to_be_certified_must_have_signed_this_very_request() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let victim = Person::stranger();
    let ask = || json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let target = "/v1/certificates/ssh";

    // Somebody else's public key, with a proof by one's own.
    let mut forged = ask();
    forged["public_key"] = victim.key.public_key().to_openssh().unwrap().into();
    let request = bob.asks(&ca, "POST", target).ssh(&bob.key, forged);
    let (status, kind, _) = request.send().problem();
    assert_eq!((status, kind.as_str()), (403, "no-possession"));

    // A proof that was seen in another request.
    let seen: Value = {
        let request = bob.asks(&ca, "POST", target).ssh(&victim.key, ask());
        let text = String::from_utf8(request.bytes()).unwrap();
        serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let request = bob.asks(&ca, "POST", target).json(&seen);
    let (status, kind, _) = request.send().problem();
    assert_eq!((status, kind.as_str()), (403, "no-possession"));
    assert!(ca.home.entries("certificate-issued").is_empty());
}

/// A FIDO2 key without hardware, by which OpenSSH tests itself.
const SK_PROVIDER: &str = "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so";

/// The kinds of keys that stock `ssh-keygen` makes and the CA takes.
const KINDS: [&[&str]; 7] = [
    &["-t", "ed25519"],
    &["-t", "ecdsa", "-b", "256"],
    &["-t", "ecdsa", "-b", "384"],
    &["-t", "ecdsa", "-b", "521"],
    &["-t", "rsa", "-b", "2048"],
    &["-t", "rsa", "-b", "4096"],
    &["-t", "ecdsa", "-b", "256", "-m", "PEM"],
];

#[test]
fn every_kind_of_key_signs_requests_is_certified_and_logs_in() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let sshd = Sshd::start(&ca, &["operator"]);
    for (number, kind) in KINDS.iter().enumerate() {
        let key = bob.folder.join(format!("key-{number}"));
        let key = key.to_str().unwrap();
        let rest = ["-q", "-N", "", "-f", key];
        run("ssh-keygen", kind.iter().chain(&rest)).ok();
        admin
            .hallpass(["user", "key", "add", "bob", &format!("{key}.pub")])
            .ok();
        assert!(
            bob.hallpass(["whoami", "--identity", key])
                .ok()
                .contains("bob")
        );
        certified_key_logs_in(&ca, &bob, &sshd, key, None);
    }
}

#[test]
fn fido2_keys_sign_requests_are_certified_and_log_in() {
    let provider = SK_PROVIDER;
    assert!(
        std::path::Path::new(provider).exists(),
        "{provider}; scripts/test installs it"
    );
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let sshd = Sshd::start(&ca, &["operator"]);
    for kind in ["ed25519-sk", "ecdsa-sk"] {
        let key = bob.folder.join(kind);
        let key = key.to_str().unwrap();
        run(
            "ssh-keygen",
            ["-q", "-t", kind, "-w", provider, "-N", "", "-f", key],
        )
        .ok();
        admin
            .hallpass(["user", "key", "add", "bob", &format!("{key}.pub")])
            .ok();
        let mut who = bob.command();
        who.args(["whoami", "--identity", key])
            .env("SSH_SK_PROVIDER", provider);
        assert!(Ran::of(&mut who).ok().contains("bob"));
        certified_key_logs_in(&ca, &bob, &sshd, key, Some(provider));
    }
}

#[test]
fn a_fido2_key_that_nobody_touched_signs_nothing() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &[]));
    let key = bob.folder.join("untouched");
    let key = key.to_str().unwrap();
    let made = [
        "-q",
        "-t",
        "ed25519-sk",
        "-O",
        "no-touch-required",
        "-w",
        SK_PROVIDER,
        "-N",
        "",
        "-f",
        key,
    ];
    run("ssh-keygen", made).ok();
    admin
        .hallpass(["user", "key", "add", "bob", &format!("{key}.pub")])
        .ok();
    let mut who = bob.command();
    who.args(["whoami", "--identity", key])
        .env("SSH_SK_PROVIDER", SK_PROVIDER);
    assert_eq!(Ran::of(&mut who).code, 77);
    assert_eq!(newest_code(&ca), "bad-signature");
}

/// Has a key of one's own certified, and logs in with it.
fn certified_key_logs_in(ca: &Ca, bob: &Person, sshd: &Sshd, key: &str, provider: Option<&str>) {
    let mut request = bob.command();
    request.args([
        "request",
        "server-operator",
        "--purpose",
        "incident",
        "--reason",
        "x",
    ]);
    request.args(["--key", key, "--out", "access", "--json"]);
    request.envs(provider.map(|path| ("SSH_SK_PROVIDER", path)));
    let answer: Value = serde_json::from_str(&Ran::of(&mut request).ok()).unwrap();
    assert_eq!(answer["key"], key);
    let certificate = answer["certificate"].as_str().unwrap().to_owned();
    let provider = format!("SecurityKeyProvider={}", provider.unwrap_or("internal"));
    let certificate = format!("CertificateFile={certificate}");
    let mut ssh = sshd.ssh([
        "-i",
        key,
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        &certificate,
        "-o",
        &provider,
    ]);
    assert_eq!(Ran::of(&mut ssh).ok(), "in\n", "{key}");
    // No copy of the private key was made.
    assert!(!bob.folder.join("access/server-operator").exists());
    let issued = ca.home.entries("certificate-issued").pop().unwrap();
    assert_eq!(issued["index"], answer["entry"]);
}

#[test]
fn openssl_makes_csrs_of_every_kind_that_is_taken() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    for kind in [
        &P256[..],
        &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["ed25519"],
        &["rsa:2048"],
        &["rsa:4096"],
    ] {
        let wishes = [
            "-addext",
            "subjectAltName=DNS:evil",
            "-addext",
            "basicConstraints=CA:TRUE",
        ];
        make_csr(&bob.folder, "mine", kind, &wishes);
        let csr = std::fs::read_to_string(bob.folder.join("mine.csr")).unwrap();
        let ask = json!({
            "role": "patients-read", "purpose": "incident", "reason": "INC-1", "csr": csr,
        });
        let answer = bob
            .asks(&ca, "POST", "/v1/certificates/x509")
            .json(&ask)
            .send();
        let certificate = answer.json()["certificate"].as_str().unwrap().to_owned();
        let file = bob.folder.write("certificate", certificate);
        let shown = run(
            "openssl",
            ["x509", "-noout", "-text", "-in", file.to_str().unwrap()],
        )
        .ok();
        for gone in ["evil", "root", "CA:TRUE"] {
            assert!(!shown.contains(gone), "{gone}: {shown}");
        }
        assert!(
            shown.contains("CA:FALSE") && shown.contains("CN = patients_read"),
            "{shown}"
        );
    }
}

#[test]
fn a_signature_by_hand_with_ssh_keygen_is_accepted() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let mut request = whoami(&ca, &bob);
    request.nonce = "4yQmCPKW1wzQ3sC9b1m0pQ".to_owned();
    // The text of docs/api.md, with the SHA-256 of nothing.
    let message = bob.folder.write(
        "message",
        format!(
            "hallpass-request-v1\naudience {}\nmethod GET\ntarget /v1/whoami\nbody sha256:\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\ntime {}\nnonce {}\n",
            ca.fingerprint, request.time, request.nonce
        ),
    );
    let key = bob.folder.join("key");
    let sign = [
        "-q",
        "-Y",
        "sign",
        "-n",
        "hallpass-request-v1",
        "-f",
        key.to_str().unwrap(),
    ];
    run(
        "ssh-keygen",
        sign.into_iter().chain([message.to_str().unwrap()]),
    )
    .ok();
    let armored = std::fs::read_to_string(bob.folder.join("message.sig")).unwrap();
    let signature: String = armored
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let bytes = request.bytes_with(&[
        ("Hallpass-Time", request.time.clone()),
        ("Hallpass-Nonce", request.nonce.clone()),
        ("Hallpass-Signature", signature),
    ]);
    assert_eq!(exchange(&ca, &bytes).unwrap().json()["name"], "bob");
}

#[test]
fn strangers_cannot_fill_the_disk() {
    let ca = Ca::start();
    let stranger = Person::stranger();
    let key: &PrivateKey = &stranger.key;
    for _ in 0..60 {
        assert_eq!(
            Request::new(&ca, key, "GET", "/v1/whoami").send().status,
            401
        );
    }
    let refusals = ca.home.entries("unauthenticated-refused").len();
    assert!(
        (10..=20).contains(&refusals),
        "{refusals} entries for 60 refusals"
    );
}

#[test]
fn what_a_stranger_writes_is_cut_as_the_log_has_it() {
    let ca = Ca::start();
    let stranger = Person::stranger();
    // Escaped once for those who read it on a terminal, and once more by JSON.
    let target = format!("/v1/whoami?{}", r"\".repeat(2000));
    let request = stranger.asks(&ca, "GET", &target);
    assert_eq!(request.send().status, 401);
    // Of what is no request at all, the answer quotes something.
    let field = json!({ "\u{1}".repeat(2000): 1 });
    let request = stranger.asks(&ca, "POST", "/v1/login").json(&field);
    assert_eq!(request.send().status, 400);
    let lines = ca.home.lines();
    let refusals = lines.iter().filter(|line| line.contains("-refused"));
    let lengths: Vec<usize> = refusals.map(String::len).collect();
    assert_eq!(lengths.len(), 2);
    assert!(lengths.iter().all(|&length| length < 1000), "{lengths:?}");
}
