//! Policies that are loaded while people ask, and decisions that explain themselves.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Ca, Home, Person, Ran, issue, run, serve_fails, wait_until};

const DEPLOYERS: &str = "principal in Group::\"deployers\"";
const ON_CALL: &str = "principal in Group::\"on-call\"";

fn policy(person: &Person, line: &str) -> Ran {
    person.hallpass(["policy"].into_iter().chain(line.split(' ')))
}

fn deploy(person: &Person) -> i32 {
    let out = person.folder.join("out");
    let ran = person.hallpass([
        "request".as_ref(),
        "deploy".as_ref(),
        "--purpose".as_ref(),
        "deploy".as_ref(),
        "--out".as_ref(),
        out.as_os_str(),
    ]);
    fs::remove_dir_all(out).ok();
    ran.code
}

fn in_force(ca: &Ca) -> String {
    let loaded = ca.home.entries("policy-loaded").pop().unwrap();
    loaded["event"]["policy_set"].as_str().unwrap().to_owned()
}

#[test]
fn an_administrator_loads_other_policies_without_a_restart() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let first = in_force(&ca);
    assert_eq!(deploy(&bob), 77);
    assert!(policy(&admin, "reload").ok().contains("in force already"));

    ca.home.edit_policy("access.cedar", DEPLOYERS, ON_CALL);
    let loaded = policy(&admin, "reload").ok();
    let second = in_force(&ca);
    assert_ne!(first, second);
    assert!(loaded.contains(&second), "{loaded}");
    let entry = ca.home.entries("policy-loaded").pop().unwrap();
    assert_eq!(entry["event"]["by"]["requester"], "alice");
    assert_eq!(deploy(&bob), 0);

    // Nobody else may, and it is logged.
    let refused = policy(&bob, "reload");
    refused.fails_with(77, "no policy permits bob to manage-policy");
    let refused = ca.home.entries("request-refused").pop().unwrap();
    assert_eq!(refused["event"]["decision"]["action"], "manage-policy");

    // Back to what the log has the text of already: it is not logged twice.
    let texts = ca.home.entries("policy-text").len();
    ca.home
        .edit_policy("access.cedar", ON_CALL, "principal in Group::\"nobody\"");
    let text = fs::read_to_string(ca.home.policy("access.cedar")).unwrap();
    fs::write(
        ca.home.policy("access.cedar"),
        text.replacen("principal in Group::\"nobody\"", ON_CALL, 1)
            .replace(
                &format!(
                    "{ON_CALL},\n  action == Action::\"request\",\n  resource == Role::\"deploy\""
                ),
                &format!(
                    "{DEPLOYERS},\n  action == Action::\"request\",\n  resource == Role::\"deploy\""
                ),
            ),
    )
    .unwrap();
    policy(&admin, "reload").ok();
    assert_eq!(in_force(&ca), first);
    assert_eq!(ca.home.entries("policy-text").len(), texts);
    assert_eq!(deploy(&bob), 77);

    // A restart finds what was in force last, and logs no load.
    let loads = ca.home.entries("policy-loaded").len();
    let ca = Ca::on(ca.stop());
    assert_eq!(ca.home.entries("policy-loaded").len(), loads);
}

#[test]
fn of_policies_that_do_not_check_nothing_is_loaded() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let first = in_force(&ca);
    // The roles alone would be fine.
    ca.home
        .edit_policy("roles.toml", "max_ttl = \"1h\"", "max_ttl = \"2h\"");
    ca.home
        .edit_policy("access.cedar", "context.ttl > 1800", "context.tll > 1800");
    let refused = policy(&admin, "reload");
    refused.fails_with(65, "access.cedar:91:44: ");
    assert!(
        refused.err.contains("the old ones stay in force"),
        "{refused:?}"
    );
    ca.signal(libc::SIGHUP);
    wait_until("the server to say so", || {
        ca.server_log().contains("the policies were not loaded")
    });
    assert_eq!(in_force(&ca), first);
    assert!(issue(&ca, &bob));
    let long = policy(
        &bob,
        "explain --role server-operator --purpose incident --reason x --ttl 2h",
    );
    assert_eq!(long.code, 1);
    assert!(long.out.contains("at most 1h"), "{long:?}");

    // Others may not write them.
    ca.home
        .edit_policy("access.cedar", "context.tll > 1800", "context.ttl > 1800");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(ca.home.policy("access.cedar"), mode).unwrap();
    policy(&admin, "reload").fails_with(65, "others can change");
    assert_eq!(in_force(&ca), first);
}

#[test]
fn policies_are_loaded_when_their_files_change_and_at_sighup() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    ca.home.edit_policy("access.cedar", DEPLOYERS, ON_CALL);
    wait_until("the files to be seen", || deploy(&bob) == 0);
    let loaded = ca.home.entries("policy-loaded").pop().unwrap();
    assert_eq!(loaded["event"]["by"], Value::Null);

    ca.home.edit_policy(
        "access.cedar",
        "// Who may have which role",
        "forbid (principal, action == Action::\"request\", resource == Role::\"deploy\");\n// Who",
    );
    ca.signal(libc::SIGHUP);
    wait_until("the hangup", || deploy(&bob) == 77);
}

#[test]
fn policies_that_were_not_loaded_are_tried_again_and_told_of_meanwhile() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let not_loaded = || {
        let log = ca.server_log();
        log.matches("ERROR the policies were not loaded").count()
    };
    let access = ca.home.policy("access.cedar");
    let original = fs::read_to_string(&access).unwrap();
    let set_mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&access, mode).unwrap();
    };

    // The log can't be written when they change.
    let (database, aside) = (ca.home.database(), ca.home.folder.join("aside"));
    fs::rename(&database, &aside).unwrap();
    ca.home.edit_policy("access.cedar", DEPLOYERS, ON_CALL);
    wait_until("the server to try", || not_loaded() == 1);
    fs::rename(&aside, &database).unwrap();
    wait_until("it to try again", || deploy(&bob) == 0);

    // Others can change what is in force, and then what is not yet.
    wait_until("health again", || ca.readyz().1["status"] == "ok");
    set_mode(0o666);
    let told = || {
        let (status, health) = ca.readyz();
        assert_eq!(status, 200, "{health}");
        health["status"] == "degraded"
    };
    wait_until("health to say so", told);
    let detail = ca.readyz().1["detail"].to_string();
    assert!(detail.contains("policy reload"), "{detail}");
    assert!(ca.server_log().contains("run chmod go-w"));
    fs::write(&access, original).unwrap();
    // Long enough for several tries, of which the log need not be full.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(not_loaded(), 2);
    assert!(told());
    let loads = ca.home.entries("policy-loaded").len();
    set_mode(0o644);
    wait_until("the mode to be seen", || !told());
    assert_eq!(ca.home.entries("policy-loaded").len(), loads + 1);
    assert_eq!(deploy(&bob), 77);
}

#[test]
fn roles_that_share_a_principal_stay_in_force_where_they_were_and_come_into_force_nowhere() {
    let share = |home: &Home| {
        let (own, others) = ("principals = [\"deploy\"]", "principals = [\"operator\"]");
        home.edit_policy("roles.toml", own, others);
    };
    let shared = "operator is also in [ssh.deploy], which has other hosts";
    let refuses = |home: &Home| {
        let (code, error) = serve_fails(home);
        assert!(code == 78 && error.contains(shared), "{code}: {error}");
    };
    let home = Home::new();
    share(&home);
    refuses(&home);
    // A version that did not look put them in force.
    home.put_policies_in_force();
    let ca = Ca::on(home);
    let bob = ca.enrol("bob", &["on-call"]);
    assert!(issue(&ca, &bob));
    let status = |wanted: &str| {
        wait_until(wanted, || {
            let (status, health) = ca.readyz();
            status == 200 && health["status"] == wanted
        });
    };
    status("degraded");
    assert!(ca.server_log().contains(shared), "{}", ca.server_log());
    // Others of the kind don't take their place, not even at a start.
    let ttl = "max_ttl = \"1h\"";
    ca.home.edit_policy("roles.toml", ttl, "max_ttl = \"50m\"");
    policy(&ca.admin(), "reload").fails_with(65, shared);
    let home = ca.stop();
    refuses(&home);
    home.edit_policy("roles.toml", "max_ttl = \"50m\"", ttl);
    let ca = Ca::on(home);
    let status = |wanted: &str| wait_until(wanted, || ca.readyz().1["status"] == wanted);
    status("degraded");
    // Once sound ones are in force, they are not taken back.
    let (own, others) = ("principals = [\"deploy\"]", "principals = [\"operator\"]");
    let deploy = format!("restart its service\"\n{others}");
    let mended = format!("restart its service\"\n{own}");
    ca.home.edit_policy("roles.toml", &deploy, &mended);
    status("ok");
    let home = ca.stop();
    share(&home);
    refuses(&home);
}

#[test]
fn reloading_drops_no_request() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(issue(&ca, &bob));
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        for round in 0..10 {
            let (from, to) = (format!("{}m", 50 + round), format!("{}m", 51 + round));
            let from = if round == 0 { "1h" } else { &from };
            ca.home.edit_policy(
                "roles.toml",
                &format!("max_ttl = \"{from}\""),
                &format!("max_ttl = \"{to}\""),
            );
            let reloaded = policy(&admin, "reload").code;
            if reloaded != 0 {
                done.store(true, Ordering::Relaxed);
            }
            assert_eq!(reloaded, 0);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 32);
    let sets: std::collections::BTreeSet<String> = ca
        .home
        .entries("certificate-issued")
        .iter()
        .map(|entry| entry["event"]["decision"]["policy_set"].to_string())
        .collect();
    assert!(sets.len() > 2, "{sets:?}");
}

#[test]
fn what_explain_says_is_what_issue_does() {
    let ca = Ca::start();
    ca.home.edit_policy(
        "access.cedar",
        "// Who may have which role",
        "@id(\"urgent\") @advice(\"Say INC- and a number.\")\n\
         permit (principal in Group::\"deployers\", action == Action::\"request\", resource)\n\
         when { context has reason && context.reason like \"INC-*\" && context.ttl < 1000 }\n\
         unless { context.mfa.verified || context.key_type != \"ssh-ed25519\" };\n// Who",
    );
    policy(&ca.admin(), "reload").ok();
    let people = [
        ca.enrol("carol", &["on-call"]),
        ca.enrol("dave", &["deployers", "database-support"]),
        ca.enrol("erin", &[]),
    ];
    let mut permitted = 0;
    for person in &people {
        for role in ["server-operator", "deploy", "none"] {
            for purpose in ["incident", "maintenance", "deploy"] {
                for (reason, ttl) in [
                    (None, "10m"),
                    (Some("INC-1"), "20m"),
                    (Some("x"), "61m"),
                    (Some("INC-2"), "16m"),
                ] {
                    let ask =
                        json!({"role": role, "purpose": purpose, "reason": reason, "ttl": ttl});
                    let explained = person.asks(&ca, "POST", "/v1/policy/explain");
                    let explained = explained.json(&ask).send().json();
                    let request = person.asks(&ca, "POST", "/v1/certificates/ssh");
                    let issued = request.ssh(&person.key, ask.clone()).send();
                    assert_eq!(
                        explained["allowed"],
                        issued.status == 200,
                        "{ask} {explained}"
                    );
                    permitted += usize::from(issued.status == 200);
                    let Some(entry) = (issued.status == 200).then(|| issued.json()) else {
                        continue;
                    };
                    // And it decided by the same policies.
                    let shown = policy(
                        &ca.admin(),
                        &format!("explain --json --entry {}", entry["entry"]),
                    );
                    let shown: Value = serde_json::from_str(&shown.ok()).unwrap();
                    assert_eq!(shown["policies"], explained["policies"], "{ask}");
                    let decided: Vec<&Value> = shown["policies"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter(|policy| policy["decides"] == true)
                        .map(|policy| &policy["id"])
                        .collect();
                    assert_eq!(json!(decided), shown["logged"]["policies"]);
                }
            }
        }
    }
    assert!(permitted > 4, "{permitted}");
}

#[test]
fn a_role_that_is_granted_for_some_reasons_is_had_though_it_is_not_listed() {
    let home = Home::new();
    home.edit_policy(
        "access.cedar",
        r#"["incident", "support"].contains(context.purpose)"#,
        r#"context has reason && context.reason like "SUP-*""#,
    );
    let ca = Ca::on(home);
    let dora = ca.enrol("dora", &["database-support"]);
    let listed = dora.hallpass(["role", "list"]).ok();
    assert!(!listed.contains("patients-read"), "{listed}");

    let got = dora.request("patients-read --purpose support --reason SUP-7");
    assert_eq!(got["kind"], "x509");
    let key = dora.folder.join("own.pem").display().to_string();
    let curve = "ec_paramgen_curve:P-256";
    let options = ["-algorithm", "EC", "-pkeyopt", curve, "-out", &key];
    run("openssl", ["genpkey"].iter().chain(&options)).ok();
    run("chmod", ["600", &key]).ok();
    let line = format!("patients-read --purpose support --reason SUP-7 --key {key}");
    assert_eq!(dora.request(&line)["kind"], "x509");

    let request = "request patients-read --purpose support --reason INC-7";
    let refused = dora.hallpass(request.split(' '));
    refused.fails_with(77, "no policy permits dora");
}

#[test]
fn a_refused_person_learns_which_condition_failed() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let own = policy(
        &bob,
        "explain --role patients-read --purpose support --reason SUP-1",
    );
    assert_eq!(own.code, 1);
    for line in [
        "Refused: no policy permits it.",
        "on-call-reads-patients-in-incidents would permit it, but does not apply",
        "  no   when { context.purpose == \"incident\" }",
        "database-support-reads-patients would permit it, but does not apply",
        "  no   principal in Group::\"database-support\"",
        "  yes  when { [\"incident\", \"support\"].contains(context.purpose) }",
    ] {
        assert!(own.out.lines().any(|is| is == line), "{line}\n{}", own.out);
    }
    // What it would be for others, and of others, is for those who may know.
    policy(&bob, "explain --user alice --action read-log").fails_with(77, "manage-policy");
    policy(&bob, "explain --group administrators --action read-log")
        .fails_with(77, "manage-policy");
    let other = policy(
        &admin,
        "explain --user bob --role server-operator --purpose maintenance --reason x --ttl 31m",
    );
    assert_eq!(other.code, 1);
    assert!(
        other.out.contains("policy maintenance-is-short forbids it"),
        "{other:?}"
    );
    let none = policy(
        &admin,
        "explain --user nobody --role deploy --purpose deploy",
    );
    none.fails_with(65, "there is no user nobody");
    let supposed = policy(
        &admin,
        "explain --user nobody --group deployers --role deploy --purpose deploy",
    );
    assert!(supposed.ok().starts_with("Permitted."));
    policy(&admin, "explain --action fly").fails_with(65, "use one of manage-users");
    assert_eq!(policy(&bob, "explain --action read-log").code, 1);
    // Looking leaves no trace but for those who looked where they may not.
    assert_eq!(ca.home.entries("request-refused").len(), 2);
}

#[test]
fn what_was_loaded_and_replaced_since_the_start_is_explained_too() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    for (from, to) in [
        (DEPLOYERS, ON_CALL),
        (ON_CALL, "principal in Group::\"nobody\""),
    ] {
        let before = in_force(&ca);
        ca.home.edit_policy("access.cedar", from, to);
        policy(&admin, "reload").ok();
        assert_ne!(in_force(&ca), before);
        deploy(&bob);
    }
    let issued = ca.home.entries("certificate-issued").pop().unwrap();
    let issued = issued["index"].to_string();
    let explained = policy(&admin, &format!("explain --entry {issued}")).ok();
    assert!(
        explained.contains("The log has it permitted, by deployers-deploy."),
        "{explained}"
    );
    // A set that comes again is not logged again.
    let texts = ca.home.entries("policy-text").len();
    ca.home
        .edit_policy("access.cedar", "principal in Group::\"nobody\"", ON_CALL);
    policy(&admin, "reload").ok();
    assert_eq!(ca.home.entries("policy-text").len(), texts);
}

#[test]
fn an_old_decision_is_explained_with_the_policies_of_its_day() {
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    assert!(issue(&ca, &bob));
    let entry = ca.home.entries("certificate-issued").pop().unwrap()["index"].clone();
    ca.home.edit_policy(
        "access.cedar",
        "[\"incident\", \"maintenance\"]",
        "[\"maintenance\"]",
    );
    policy(&admin, "reload").ok();
    assert!(!issue(&ca, &bob));
    let refused = ca.home.entries("request-refused").pop().unwrap()["index"].clone();
    let ca = Ca::on(ca.stop());
    admin.reconnect(&ca, &admin);
    for (entry, code, line) in [
        (
            &entry,
            0,
            "The log has it permitted, by on-call-operates-servers.",
        ),
        (&refused, 1, "The log has it refused, by no policy."),
    ] {
        let explained = policy(&admin, &format!("explain --entry {entry}"));
        assert_eq!(explained.code, code, "{explained:?}");
        assert!(explained.out.lines().any(|is| is == line), "{explained:?}");
    }
    policy(&admin, "explain --entry 0").fails_with(65, "holds no decision");
    policy(&admin, "explain --entry 999999").fails_with(65, "the log has no entry 999999");
}
