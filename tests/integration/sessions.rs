//! What a login leaves behind: a key that signs for somebody for a while, and who ends that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Agent, Browser, Ca, Login, PATIENTS, Person, Provider, Ran, Request, clinic, exchange,
    home_with, is_refused, run, seconds_between, session_fingerprint, sign_in, wait_until,
};

#[test]
fn logout_ends_the_session_at_once_and_for_good() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let begun = ca.home.newest("session-begun");
    // A thief had all the files.
    let key = bob.session_key();
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let whoami = || Request::new(&ca, &key, "GET", "/v1/whoami").send().status;
    let certificate = || {
        let request = Request::new(&ca, &key, "POST", "/v1/certificates/ssh");
        request.ssh(&key, ask.clone()).send().status
    };
    assert_eq!((whoami(), certificate()), (200, 200));

    bob.hallpass(["logout"]).ok();
    let ended = ca.home.newest("session-ended");
    assert_eq!(ended["user"], "bob");
    assert_eq!(ended["fingerprint"], session_fingerprint(&begun));
    assert_eq!(ended["by"]["requester"], "bob");
    assert!(bob.session_files().is_empty());
    bob.hallpass(["whoami"])
        .fails_with(77, "run `hallpass login`");
    bob.hallpass(["logout"]).fails_with(77, "not signed in");
    assert_eq!((whoami(), certificate()), (401, 401));

    let address = ca.address().to_owned();
    let ca = Ca::at(ca.kill(), &address);
    let again = Request::new(&ca, &key, "GET", "/v1/whoami");
    assert_eq!(again.send().status, 401);
    assert_eq!(ca.home.entries("certificate-issued").len(), 1);
}

#[test]
fn a_session_goes_on_after_the_server_was_killed() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.kill(), &address);
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    bob.hallpass(PATIENTS).ok();
    assert_eq!(
        ca.home.newest("certificate-issued")["by"]["method"],
        "clinic"
    );
}

#[test]
fn a_session_lasts_as_long_as_the_ca_says_and_then_its_key_is_worth_nothing() {
    let provider = Provider::start();
    let table = provider.table("clinic", "");
    let ca = Ca::on(home_with(&format!("\n[sessions]\nlife = \"8s\"\n{table}")));
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let signed_in = Instant::now();
    let key = bob.session_key();
    let whoami = || Request::new(&ca, &key, "GET", "/v1/whoami").send().status;
    assert_eq!(whoami(), 200);
    let entry = ca.home.entries("session-begun").pop().unwrap();
    assert_eq!(
        seconds_between(&entry["time"], &entry["event"]["expires"]),
        8
    );
    std::thread::sleep(Duration::from_secs(9).saturating_sub(signed_in.elapsed()));
    assert_eq!(whoami(), 401);
    bob.hallpass(["whoami"])
        .fails_with(77, "your session as bob is over");
    assert!(bob.session_files().is_empty());
}

#[test]
fn the_key_is_in_the_agent_for_as_long_as_the_session_where_there_is_one() {
    let provider = Provider::start();
    let table = provider.table("clinic", "");
    let ca = Ca::on(home_with(&format!("\n[sessions]\nlife = \"15s\"\n{table}")));
    let bob = Person::newcomer(&ca);
    let agent = Agent::start();
    let browser = Browser::of("bob");
    let mut command = bob.command();
    agent.lend(&mut command);
    Login::begin_with(command, &browser, &[]).ends().ok();
    let signed_in = Instant::now();
    for file in bob.runtime_files() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "{}", file.display());
    }
    let begun = ca.home.newest("session-begun");
    let blob = begun["public_key"].as_str().unwrap();
    assert!(agent.lines().contains(blob), "{}", agent.lines());
    assert!(agent.run(bob.command().arg("whoami")).ok().contains("bob"));
    // The file of the session without the key in the agent.
    bob.hallpass(["whoami"])
        .fails_with(77, "run `hallpass login`");
    wait_until("the agent forgets the key", || {
        !agent.lines().contains(blob)
    });
    assert!(signed_in.elapsed() < Duration::from_secs(30));

    // Logging out takes it from the agent before its time.
    let ca = Ca::on(home_with(&table));
    let bob = Person::newcomer(&ca);
    let browser = Browser::of("bob");
    let mut command = bob.command();
    agent.lend(&mut command);
    Login::begin_with(command, &browser, &[]).ends().ok();
    let blob = ca.home.newest("session-begun")["public_key"].take();
    assert!(agent.lines().contains(blob.as_str().unwrap()));
    agent.run(bob.command().arg("logout")).ok();
    assert!(!agent.lines().contains(blob.as_str().unwrap()));
}

#[test]
fn without_an_agent_the_key_is_0600_in_a_private_folder() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (key, _) = bob.session_key_file();
    assert!(key.starts_with(bob.folder.join("runtime")));
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(key.parent().unwrap()), 0o700);
    for file in bob.session_files() {
        assert_eq!(mode(&file) & 0o077, 0, "{}", file.display());
    }
}

#[test]
fn all_files_of_a_session_but_the_key_are_worth_nothing() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let (key, _) = bob.session_key_file();
    let thief = Person::newcomer(&ca);
    let home = thief.folder.private("runtime/hallpass");
    let place = home.join(key.parent().unwrap().file_name().unwrap());
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    for from in bob.session_files() {
        if from != key {
            fs::copy(&from, place.join(from.file_name().unwrap())).unwrap();
        }
    }
    let whoami = || {
        let mut command = thief.command();
        // The session belongs to bob's configuration, which is as good as public.
        command.env("HALLPASS_CONFIG", bob.folder.join("config"));
        Ran::of(command.arg("whoami"))
    };
    whoami().fails_with(77, "your session as bob is over");
    // With a key of one's own put in the place of the missing one, it is a stranger's.
    let own = thief.folder.join("own");
    let line = ["-q", "-t", "ed25519", "-N", "", "-f", own.to_str().unwrap()];
    run("ssh-keygen", line).ok();
    fs::copy(&own, place.join("key")).unwrap();
    whoami().fails_with(66, "made no signature");
    fs::copy(own.with_extension("pub"), place.join("key.pub")).unwrap();
    whoami().fails_with(77, "was not accepted");
    assert_eq!(ca.home.newest_code(), "unknown-key");
    // And the real one still works.
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
}

#[test]
fn a_captured_request_is_worth_nothing() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let key = bob.session_key();
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let request = Request::new(&ca, &key, "POST", "/v1/certificates/ssh").ssh(&key, ask);
    let bytes = request.bytes();
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 200);
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 401);
    assert_eq!(ca.home.newest_code(), "replayed");
    // Nor with anything in it changed.
    let mut other = Request::new(&ca, &key, "GET", "/v1/roles");
    other.signed_target = Some("/v1/whoami".to_owned());
    assert_eq!(other.send().status, 401);
    assert_eq!(ca.home.newest_code(), "bad-signature");
    assert_eq!(ca.home.entries("certificate-issued").len(), 1);
}

#[test]
fn administrators_see_and_end_sessions_and_nobody_else_does() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    provider.account("eve", json!({"claims": {"groups": ["deployers"]}}));
    let (bob, eve, admin) = (Person::newcomer(&ca), Person::newcomer(&ca), ca.admin());
    sign_in(&eve, "eve", &[]);
    let eves = session_fingerprint(&ca.home.newest("session-begun"));
    sign_in(&bob, "bob", &[]);
    let bobs = session_fingerprint(&ca.home.newest("session-begun"));

    let listed = |person: &Person, options: &[&str]| {
        let list = ["session", "list", "--json"].iter().chain(options);
        let text = person.hallpass(list).ok();
        let sessions = text.lines().map(|line| {
            let session: Value = serde_json::from_str(line).unwrap();
            session["fingerprint"].as_str().unwrap().to_owned()
        });
        sessions.collect::<Vec<_>>()
    };
    assert_eq!(listed(&bob, &[]), [bobs.as_str()]);
    assert_eq!(listed(&eve, &[]), [eves.as_str()]);
    assert_eq!(listed(&admin, &["--all"]), [bobs.as_str(), eves.as_str()]);
    let table = admin.hallpass(["session", "list", "--all"]).ok();
    assert!(table.contains(&bobs) && table.contains("clinic"), "{table}");
    eve.hallpass(["session", "list", "--all"])
        .fails_with(77, "no policy permits eve");
    eve.hallpass(["session", "end", &bobs])
        .fails_with(77, "no policy permits eve");
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));

    admin.hallpass(["session", "end", &bobs]).ok();
    bob.hallpass(["whoami"]).fails_with(77, "was not accepted");
    let ended = ca.home.newest("session-ended");
    assert_eq!(
        (&ended["user"], &ended["by"]["requester"]),
        (&json!("bob"), &json!("alice"))
    );
    assert_eq!(listed(&admin, &["--all"]), [eves.as_str()]);
    admin
        .hallpass(["session", "end", &bobs])
        .fails_with(65, "no such session");
    // One's own, from elsewhere.
    eve.hallpass(["session", "end", &eves]).ok();
    eve.hallpass(["whoami"]).fails_with(77, "was not accepted");
    sign_in(&bob, "bob", &[]);
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
}

#[test]
fn who_is_disabled_or_removed_is_out_at_once_and_does_not_sign_in_again() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let (bob, admin) = (Person::newcomer(&ca), ca.admin());
    sign_in(&bob, "bob", &[]);
    admin.hallpass(["user", "disable", "bob"]).ok();
    bob.hallpass(["whoami"]).fails_with(77, "was not accepted");
    is_refused(&ca, &bob, "bob", "user bob is disabled");
    assert_eq!(ca.home.newest_code(), "user-disabled");
    admin.hallpass(["user", "enable", "bob"]).ok();
    sign_in(&bob, "bob", &[]);
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));

    admin.hallpass(["user", "remove", "bob"]).ok();
    bob.hallpass(["whoami"]).fails_with(77, "was not accepted");
    // Or removing somebody would change nothing.
    is_refused(&ca, &bob, "bob", "removed");
    assert_eq!(ca.home.newest_code(), "account-removed");
}
