//! What policy grants only when somebody else agrees.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Answer, Ca, Folder, Home, Person, Provider, Ran, Request, Sshd, exchange, home_with,
    wait_until, while_asked,
};
use crate::touch::sign_in;
use crate::workloads::{Platform, deploy_web, login, runner};

/// The starter policies, in which vendors get in at any time and without a second factor, for two
/// purposes.
fn starter() -> Home {
    eased(Home::new())
}

fn eased(home: Home) -> Home {
    let day =
        "when { context.time.weekday <= 5 && context.time.hour >= 7 && context.time.hour < 19 }";
    home.edit_policy("access.cedar", day, "");
    let factor = "context.purpose == \"support\" && context.mfa.verified";
    home.edit_policy("access.cedar", factor, "context.ttl > 0");
    let console = "force_command = \"/usr/local/bin/vendor-console\"";
    home.edit_policy(
        "roles.toml",
        console,
        "force_command = \"echo the console\"",
    );
    let both = "purposes = [\"support\", \"incident\"]";
    home.edit_policy("roles.toml", "purposes = [\"support\"]", both);
    home
}

/// The same with one more policy.
fn with(policy: &str) -> Home {
    let home = starter();
    fs::write(home.policy("more.cedar"), policy).unwrap();
    home
}

/// A vendor's request.
fn visit() -> Value {
    json!({"role": "vendor-support", "purpose": "support", "reason": "SUP-8", "ttl": "10m"})
}

/// Asks for a certificate, and checks that policy explains what becomes of it.
fn ask(ca: &Ca, person: &Person, ask: &Value) -> Answer {
    let explained = person.asks(ca, "POST", "/v1/policy/explain").json(ask);
    let explained = explained.send().json();
    let request = person.asks(ca, "POST", "/v1/certificates/ssh");
    let answer = request.ssh(&person.key, ask.clone()).send();
    let told = answer.status == 200;
    assert_eq!(explained["allowed"], told, "{explained} {answer:?}");
    answer
}

/// The number that somebody is told who needs approval.
#[track_caller]
fn number(answer: &Answer) -> u64 {
    let (status, code, detail) = answer.problem();
    assert_eq!((status, code.as_str()), (403, "needs-approval"), "{detail}");
    let (_, after) = detail.split_once("`hallpass approval give ").unwrap();
    let (number, next) = after.split_once('`').unwrap();
    assert_eq!(next, ", then ask again");
    number.parse().unwrap()
}

fn giving<'a>(ca: &'a Ca, person: &'a Person, entry: u64) -> Request<'a> {
    person.asks(ca, "POST", &format!("/v1/approvals/{entry}"))
}

fn give(ca: &Ca, person: &Person, entry: u64) -> Answer {
    giving(ca, person, entry).send()
}

#[track_caller]
fn gives(ca: &Ca, person: &Person, entry: u64) -> Value {
    let answer = give(ca, person, entry);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) -> String {
    let (is_status, is_code, detail) = answer.problem();
    assert_eq!((is_status, is_code.as_str()), (status, code), "{detail}");
    detail
}

fn waiting(ca: &Ca, person: &Person) -> Vec<Value> {
    let answer = person.asks(ca, "GET", "/v1/approvals").send();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().as_array().unwrap().clone()
}

fn explain(person: &Person, entry: &Value) -> Ran {
    let entry = entry.to_string();
    person.hallpass(["policy", "explain", "--entry", &entry])
}

fn newest(ca: &Ca, kind: &str) -> Value {
    let mut entries = ca.home.entries(kind);
    entries.pop().unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn a_vendor_gets_in_once_somebody_else_approves_it() {
    let ca = Ca::on(starter());
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["vendor"]);
    let ssh = || {
        let ssh = "ssh --role vendor-support --purpose support --reason SUP-8 --";
        let arguments = ssh.split(' ').map(str::to_owned).chain(sshd.target());
        vera.hallpass(arguments.chain(["anything".to_owned()]))
    };
    let roles = vera.hallpass(["role", "list"]).ok();
    assert!(
        roles.contains("support (at most 1h, needs approval)"),
        "{roles}"
    );

    let asked = ssh();
    let entry = newest(&ca, "request-refused");
    let number = entry["index"].to_string();
    asked.fails_with(
        77,
        &format!(
            "role vendor-support needs 1 approval for this: somebody who may runs `hallpass \
             approval give {number}`, then ask again"
        ),
    );
    let event = &entry["event"];
    assert_eq!(event["refused"]["code"], "needs-approval");
    assert_eq!(event["request"]["reason"], "SUP-8");
    assert_eq!(
        event["decision"]["policies"],
        json!(["vendors-need-approval"])
    );

    for person in [&alice, &vera] {
        let list = person.hallpass(["approval", "list"]).ok();
        for word in [&number, "vera", "vendor-support", "30m", "SUP-8"] {
            assert!(list.contains(word), "{word}: {list}");
        }
    }
    let none = bob.hallpass(["approval", "list"]).ok();
    assert_eq!(none, "Nothing waits for your approval.\n");
    let said = alice.hallpass(["approval", "give", &number]).ok();
    assert!(said.starts_with("Approved vendor-support for support, 30m, by vera until "));
    assert!(said.ends_with(": vera may ask again.\n"), "{said}");
    let given = newest(&ca, "approval-given");
    let event = &given["event"];
    assert_eq!(event["entry"].to_string(), number);
    assert_eq!(event["requester"], "vera");
    assert_eq!(event["by"]["requester"], "alice");
    assert_eq!(event["request"], entry["event"]["request"]);
    assert_eq!(
        event["decision"]["policies"],
        json!(["administrators-let-vendors-in"])
    );

    assert_eq!(ssh().ok(), "the console\n");
    let issued = newest(&ca, "certificate-issued");
    let decision = &issued["event"]["decision"];
    assert_eq!(decision["circumstances"]["approvals"], 1);
    // It waits no longer, and the log explains all of it.
    assert!(waiting(&ca, &alice).is_empty());
    let explained = explain(&alice, &entry["index"]);
    assert_eq!(explained.code, 1);
    for words in [
        "it needs 1 approval",
        "The log has it refused, by vendors-need-approval.",
    ] {
        assert!(explained.out.contains(words), "{words}: {explained:?}");
    }
    let explained = explain(&alice, &given["index"]).ok();
    let words = "The log has it permitted, by administrators-let-vendors-in.";
    assert!(explained.contains(words), "{explained}");
    let explained = explain(&alice, &issued["index"]).ok();
    for words in [
        "approved by 1",
        "The log has it permitted, by vendors-support-their-systems.",
    ] {
        assert!(explained.contains(words), "{words}: {explained}");
    }
    // What the policies would have said is what they said.
    let policies = ca.home.path().join("policies");
    let simulate = ["policy", "simulate", policies.to_str().unwrap()];
    let simulated = alice.hallpass(simulate).ok();
    assert_eq!(simulated, "0 of 2 requests would be decided otherwise.\n");
    let shown = alice.hallpass(["audit", "list", "--user", "vera"]).ok();
    assert!(shown.contains("approval-given"), "{shown}");

    let explained = |approvals: &str| {
        let line =
            "policy explain --role vendor-support --purpose support --reason SUP-9 --approvals";
        vera.hallpass(line.split(' ').chain([approvals])).code
    };
    assert_eq!((explained("0"), explained("1")), (1, 0));
}

#[test]
fn nobody_approves_what_they_may_not() {
    let platform = Platform::new();
    let home = eased(platform.home(&deploy_web()));
    // As wide as a policy can be.
    let wide = "@id(\"anybody\") permit (principal, action == Action::\"approve\", resource);";
    fs::write(home.policy("more.cedar"), wide).unwrap();
    let ca = Ca::on(home);
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors", "administrators"]));
    let job = runner(&ca);
    login(&job, &platform.github(&json!({}))).ok();
    let number = number(&ask(&ca, &vera, &visit()));

    refused(&give(&ca, &vera, number), 403, "own-request");
    let refusal = newest(&ca, "request-refused");
    assert_eq!(refusal["event"]["refused"]["code"], "own-request");
    let key = job.session_key();
    let approve = format!("/v1/approvals/{number}");
    let by_job = Request::new(&ca, &key, "POST", &approve).send();
    refused(&by_job, 403, "not-a-person");
    let list = Request::new(&ca, &key, "GET", "/v1/approvals").send();
    assert_eq!(list.json(), json!([]));

    // Without the right, nothing of it is told.
    fs::remove_file(ca.home.policy("more.cedar")).unwrap();
    alice.hallpass(["policy", "reload"]).ok();
    let bob = ca.enrol("bob", &["on-call"]);
    let detail = refused(&give(&ca, &bob, number), 403, "denied");
    assert_eq!(detail, format!("no policy permits bob to approve {number}"));
    assert!(waiting(&ca, &bob).is_empty());
    let refusal = newest(&ca, "request-refused");
    assert_eq!(refusal["event"]["decision"]["approves"], "vera");
    let explained = explain(&alice, &refusal["index"]);
    assert_eq!(explained.code, 1);
    assert!(
        explained
            .out
            .contains("The log has it refused, by no policy."),
        "{explained:?}"
    );

    // Not what waits for nobody.
    let denied = refusal["index"].as_u64().unwrap();
    for entry in [0, denied, 999_999, u64::MAX >> 1] {
        refused(&give(&ca, &alice, entry), 404, "not-found");
    }
    for entry in ["x", "-1", "99999999999999999999", "1%2F2", "%00"] {
        let approve = format!("/v1/approvals/{entry}");
        let answer = alice.asks(&ca, "POST", &approve).send();
        assert_eq!(answer.status, 400, "{entry}: {answer:?}");
    }
    assert!(ca.home.entries("approval-given").is_empty());
    // Who is locked approves nothing, and nothing is approved for whom or what is locked.
    let adam = ca.enrol("adam", &["administrators"]);
    for target in ["user/adam", "user/vera", "role/vendor-support"] {
        alice.hallpass(["lock", target, "--reason", "x"]).ok();
        refused(&give(&ca, &adam, number), 403, "locked");
        alice.hallpass(["unlock", target]).ok();
    }
    // Nor for another of the same name.
    alice.hallpass(["user", "remove", "vera"]).ok();
    refused(&give(&ca, &adam, number), 404, "not-found");
    let vera = ca.enrol("vera", &["vendors"]);
    refused(&give(&ca, &adam, number), 404, "not-found");
    assert!(ca.home.entries("approval-given").is_empty());
    gives(&ca, &adam, self::number(&ask(&ca, &vera, &visit())));
}

#[test]
fn an_approval_counts_for_exactly_what_was_asked() {
    let everything = "@id(\"more\") permit (principal in Group::\"vendors\", action == \
         Action::\"request\", resource == Role::\"deploy\");";
    let ca = Ca::on(with(everything));
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let olaf = ca.enrol("olaf", &["vendors"]);
    let first = number(&ask(&ca, &vera, &visit()));
    // Of the same asked again, the newest number counts.
    let second = number(&ask(&ca, &vera, &visit()));
    assert!(second > first);
    refused(&give(&ca, &alice, first), 404, "not-found");
    let given = gives(&ca, &alice, second);
    assert_eq!(given["request"]["approved_by"], json!(["alice"]));
    assert_eq!(given["entry"], newest(&ca, "approval-given")["index"]);

    for (name, value) in [
        ("ttl", json!("9m")),
        ("ttl", json!("11m")),
        ("reason", json!("SUP-9")),
        ("purpose", json!("incident")),
    ] {
        let mut other = visit();
        other[name] = value;
        number(&ask(&ca, &vera, &other));
    }
    let deploy = json!({"role": "deploy", "purpose": "deploy", "ttl": "10m"});
    number(&ask(&ca, &vera, &deploy));
    number(&ask(&ca, &olaf, &visit()));
    assert_eq!(waiting(&ca, &olaf).len(), 1);
    for _ in 0..2 {
        assert_eq!(ask(&ca, &vera, &visit()).status, 200);
    }
    assert_eq!(ca.home.entries("certificate-issued").len(), 2);

    // For as long as the certificate may live.
    let mut short = visit();
    short["ttl"] = json!("3s");
    gives(&ca, &alice, number(&ask(&ca, &vera, &short)));
    assert_eq!(ask(&ca, &vera, &short).status, 200);
    std::thread::sleep(Duration::from_millis(3500));
    number(&ask(&ca, &vera, &short));
    assert_eq!(ask(&ca, &vera, &visit()).status, 200);
}

#[test]
fn a_restart_keeps_approvals_and_forgets_what_waits() {
    let ca = Ca::on(starter());
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    gives(&ca, &alice, number(&ask(&ca, &vera, &visit())));
    let mut other = visit();
    other["reason"] = json!("SUP-9");
    let waits = number(&ask(&ca, &vera, &other));
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.kill(), &address);
    assert_eq!(ask(&ca, &vera, &visit()).status, 200);
    let detail = refused(&give(&ca, &alice, waits), 404, "not-found");
    assert!(
        detail.contains("whoever asks again gets a new number"),
        "{detail}"
    );
    let again = number(&ask(&ca, &vera, &other));
    gives(&ca, &alice, again);
    assert_eq!(ask(&ca, &vera, &other).status, 200);

    // Once its entry is in a file, it still counts.
    let archive = ["audit", "archive", "--before", "2199-01-01T00:00:00Z"];
    alice.hallpass(archive).ok();
    assert_eq!(ask(&ca, &vera, &other).status, 200);
    alice.hallpass(["audit", "verify"]).ok();
    let path = ca.home.path().display().to_string();
    alice.hallpass(["audit", "verify", "--home", &path]).ok();
}

#[test]
fn an_approval_ends_with_whoever_gave_it() {
    let mut ca = Ca::on(starter());
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let adam = ca.enrol("adam", &["administrators"]);
    let key = adam.key.public_key().fingerprint(ssh_key::HashAlg::Sha256);
    let lock = format!("key/{key}");
    let other = Person::stranger();
    let public = other.folder.join("key.pub").display().to_string();
    alice.hallpass(["user", "key", "add", "adam", &public]).ok();
    // What is done, what undoes it, and whether the approval counts again then.
    let ends: [(&[&str], &[&str], bool); 4] = [
        (
            &["user", "disable", "adam"],
            &["user", "enable", "adam"],
            false,
        ),
        (&["lock", &lock, "--reason", "x"], &["unlock", &lock], false),
        (
            &["user", "key", "remove", "adam", &key.to_string()],
            &[
                "user",
                "key",
                "add",
                "adam",
                &adam.folder.join("key.pub").display().to_string(),
            ],
            false,
        ),
        (
            &["lock", "user/adam", "--reason", "x"],
            &["unlock", "user/adam"],
            true,
        ),
    ];
    for (end, undo, counts_again) in ends {
        gives(&ca, &adam, number(&ask(&ca, &vera, &visit())));
        assert_eq!(ask(&ca, &vera, &visit()).status, 200);
        alice.hallpass(end).ok();
        number(&ask(&ca, &vera, &visit()));
        // Also for a server that reads it out of the log.
        let address = ca.address().to_owned();
        ca = Ca::at(ca.stop(), &address);
        number(&ask(&ca, &vera, &visit()));
        alice.hallpass(undo).ok();
        assert_eq!(
            ask(&ca, &vera, &visit()).status == 200,
            counts_again,
            "{end:?}"
        );
    }
    // And with whom it was for.
    alice.hallpass(["user", "remove", "vera"]).ok();
    let public = vera.folder.join("key.pub").display().to_string();
    let add = [
        "user",
        "add",
        "vera",
        "--ssh-key",
        &public,
        "--group",
        "vendors",
    ];
    alice.hallpass(add).ok();
    number(&ask(&ca, &vera, &visit()));
}

#[test]
fn an_approval_that_ends_after_the_decision_counts_for_nothing() {
    let ca = Ca::on(starter());
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let adam = ca.enrol("adam", &["administrators"]);
    gives(&ca, &adam, number(&ask(&ca, &vera, &visit())));
    let asks = || {
        let request = vera.asks(&ca, "POST", "/v1/certificates/ssh");
        let answer = request.ssh(&vera.key, visit()).send();
        if answer.status != 200 {
            let (status, code, _) = answer.problem();
            assert_eq!(status, 403, "{answer:?}");
            let known = ["needs-approval", "approval-ended"].contains(&code.as_str());
            assert!(known, "{answer:?}");
        }
        true
    };
    // Until it has happened between a decision and its place in the log.
    let ended = || {
        let mut refused = ca.home.entries("request-refused");
        refused.retain(|entry| entry["event"]["refused"]["code"] == "approval-ended");
        refused.pop()
    };
    while_asked(6, asks, || {
        wait_until("an approval to end in that moment", || {
            for _ in 0..10 {
                let lock = json!({"target": "user/adam", "reason": "x"});
                let lock = alice.asks(&ca, "POST", "/v1/locks").json(&lock);
                assert_eq!(lock.send().status, 200);
                let unlock = alice.asks(&ca, "DELETE", "/v1/locks/user/adam");
                assert_eq!(unlock.send().status, 204);
                std::thread::sleep(Duration::from_millis(10));
            }
            ended().is_some()
        });
    });
    let entry = ended().unwrap();
    assert_eq!(entry["event"]["request"]["role"], "vendor-support");
    assert_eq!(entry["event"]["decision"]["circumstances"]["approvals"], 1);
    let (mut locked, mut issued) = (false, 0);
    for entry in ca.home.log() {
        match entry["event"]["kind"].as_str().unwrap() {
            "locked" => locked = true,
            "unlocked" => locked = false,
            "certificate-issued" => {
                assert!(!locked, "issued while nothing approves it: {entry}");
                issued += 1;
            }
            _ => {}
        }
    }
    assert!(issued > 0);
}

#[test]
fn what_a_session_approved_outlives_a_logout_and_not_its_end_by_another_key() {
    let liar = Provider::liar();
    let home = eased(home_with(&liar.table("clinic", "")));
    let bob = "@id(\"bob\") permit (principal == User::\"bob\", action == Action::\"approve\", \
               resource) when { context.requester == \"vera\" && context.method == \"clinic\" };";
    fs::write(home.policy("more.cedar"), bob).unwrap();
    let ca = Ca::on(home);
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let olaf = ca.enrol("olaf", &["vendors"]);
    let bob = Person::newcomer(&ca);
    let approve = |ask: &Value| {
        sign_in(&bob);
        let number = number(&self::ask(&ca, &vera, ask)).to_string();
        bob.hallpass(["approval", "give", &number]).ok();
        assert_eq!(self::ask(&ca, &vera, ask).status, 200);
    };
    approve(&visit());
    bob.hallpass(["logout"]).ok();
    assert_eq!(ask(&ca, &vera, &visit()).status, 200);

    let mut other = visit();
    other["reason"] = json!("SUP-9");
    approve(&other);
    // Not for whom policy does not say.
    let olafs = number(&ask(&ca, &olaf, &visit())).to_string();
    let refused = bob.hallpass(["approval", "give", &olafs]);
    refused.fails_with(77, "no policy permits bob to approve");
    let key = newest(&ca, "approval-given")["event"]["by"]["fingerprint"].clone();
    alice
        .hallpass(["session", "end", key.as_str().unwrap()])
        .ok();
    number(&ask(&ca, &vera, &other));
    // Nor when it is their own, ended from elsewhere: a thief may have had it.
    approve(&other);
    let stolen = newest(&ca, "approval-given")["event"]["by"]["fingerprint"].clone();
    let elsewhere = Person::newcomer(&ca);
    sign_in(&elsewhere);
    elsewhere
        .hallpass(["session", "end", stolen.as_str().unwrap()])
        .ok();
    let ended = newest(&ca, "session-ended");
    assert_eq!(ended["event"]["by"]["requester"], "bob");
    number(&ask(&ca, &vera, &other));
    assert_eq!(ask(&ca, &vera, &visit()).status, 200);
    // What an account approved ends with it.
    let subject = newest(&ca, "session-begun")["event"]["account"]["subject"].clone();
    let unlink = ["user", "unlink", "bob", "--provider", "clinic", "--subject"];
    let unlink = unlink.into_iter().chain([subject.as_str().unwrap()]);
    alice.hallpass(unlink).ok();
    number(&ask(&ca, &vera, &visit()));
}

#[test]
fn where_two_must_approve_one_who_does_twice_is_one() {
    let two = "@id(\"two\") forbid (principal, action == Action::\"request\", resource == \
         Role::\"vendor-support\") when { context.approvals < 2 };";
    let ca = Ca::on(with(two));
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let adam = ca.enrol("adam", &["administrators"]);
    let asked = ask(&ca, &vera, &visit());
    let detail = asked.problem().2;
    assert!(
        detail.starts_with("role vendor-support needs 2 approvals for this: "),
        "{detail}"
    );
    let first = number(&asked);
    for _ in 0..2 {
        let given = gives(&ca, &alice, first);
        assert_eq!(given["request"]["approved_by"], json!(["alice"]));
    }
    let asked = ask(&ca, &vera, &visit());
    let detail = asked.problem().2;
    assert!(
        detail.starts_with("role vendor-support needs 2 approvals for this and has 1: "),
        "{detail}"
    );
    let said = adam.hallpass(["approval", "give", &number(&asked).to_string()]);
    assert!(said.ok().ends_with(": vera may ask again.\n"));
    assert_eq!(ask(&ca, &vera, &visit()).status, 200);
    // One of them is gone again.
    alice.hallpass(["user", "disable", "adam"]).ok();
    number(&ask(&ca, &vera, &visit()));

    // What needs three waits for nobody.
    fs::write(ca.home.policy("more.cedar"), two.replace("< 2", "< 3")).unwrap();
    alice.hallpass(["policy", "reload"]).ok();
    let detail = refused(&ask(&ca, &vera, &visit()), 403, "denied");
    assert!(detail.contains("policy two"), "{detail}");
}

#[test]
fn a_captured_approval_is_good_once() {
    let ca = Ca::on(starter());
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    let first = number(&ask(&ca, &vera, &visit()));
    let captured = giving(&ca, &alice, first).bytes();
    assert_eq!(exchange(&ca, &captured).unwrap().status, 200);
    assert_eq!(exchange(&ca, &captured).unwrap().status, 401);
    // Turned to another request, or another's.
    let mut other = visit();
    other["reason"] = json!("SUP-9");
    let second = number(&ask(&ca, &vera, &other));
    let mut turned = giving(&ca, &alice, second);
    turned.signed_target = Some(format!("/v1/approvals/{first}"));
    assert_eq!(turned.send().status, 401);
    assert_eq!(ca.home.entries("approval-given").len(), 1);
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.kill(), &address);
    assert_eq!(exchange(&ca, &captured).unwrap().status, 401);
}

#[test]
fn a_restored_backup_has_forgotten_what_was_approved() {
    let ca = Ca::on(starter());
    let (alice, vera) = (ca.admin(), ca.enrol("vera", &["vendors"]));
    gives(&ca, &alice, number(&ask(&ca, &vera, &visit())));
    let (folder, address) = (Folder::new(), ca.address().to_owned());
    let file = folder.join("backup.tar.gz").display().to_string();
    let home = ca.stop();
    let place = home.path().display().to_string();
    let run = |arguments: [&str; 4]| Ran::of(crate::support::program().args(arguments)).ok();
    run(["backup", &file, "--home", &place]);
    fs::remove_dir_all(home.path()).unwrap();
    run(["restore", &file, "--home", &place]);
    let ca = Ca::at(home, &address);
    number(&ask(&ca, &vera, &visit()));
}
