//! People who sign in with an OpenID provider: a real one, in a real browser, and then with stock ssh
//! and psql.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ssh_key::{HashAlg, PublicKey};

use crate::support::{
    Agent, Browser, CLIENT_SECRET, Ca, Home, Login, OtherCa, Person, Postgres, Provider, Ran,
    Request, Sshd, exchange, home_with, parameter, serve_fails, visit, wait_until,
};

const SSH: [&str; 8] = [
    "ssh",
    "--role",
    "server-operator",
    "--purpose",
    "incident",
    "--reason",
    "ward 3 can't log in",
    "--",
];
const PSQL: [&str; 8] = [
    "psql",
    "--role",
    "patients-read",
    "--purpose",
    "incident",
    "--reason",
    "INC-4711",
    "--",
];
const PATIENTS: [&str; 6] = [
    "request",
    "patients-read",
    "--purpose",
    "incident",
    "--reason",
    "INC-4711",
];

/// A CA where people sign in with that provider, as `clinic`.
fn clinic(provider: &Provider) -> Ca {
    Ca::on(home_with(&provider.table("clinic", "")))
}

/// Signs in in a real browser as that user; what `hallpass login` printed.
#[track_caller]
fn sign_in(person: &Person, user: &str, options: &[&str]) -> String {
    let browser = Browser::of(user);
    let said = Login::begin(person, &browser, options).ends().ok();
    assert!(browser.page().contains("Signed in"), "{}", browser.page());
    said
}

/// Does so where it is to come to nothing.
#[track_caller]
fn is_refused(ca: &Ca, person: &Person, user: &str, words: &str) {
    let before = ca.home.entries("session-begun").len();
    let browser = Browser::of(user);
    Login::begin(person, &browser, &[])
        .ends()
        .fails_with(77, words);
    assert!(
        browser.page().contains("Not signed in"),
        "{}",
        browser.page()
    );
    assert_eq!(ca.home.entries("session-begun").len(), before);
}

fn newest(ca: &Ca, kind: &str) -> Value {
    let mut entries = ca.home.entries(kind);
    entries.pop().unwrap_or_else(|| panic!("no {kind}"))["event"].take()
}

/// Why the newest login came to nothing, for programs that read the log.
fn newest_code(ca: &Ca) -> String {
    let refused = newest(ca, "unauthenticated-refused");
    refused["refused"]["code"].as_str().unwrap().to_owned()
}

fn fingerprint(begun: &Value) -> String {
    let line = begun["public_key"].as_str().unwrap();
    let key = PublicKey::from_openssh(line).unwrap();
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn seconds_between(begin: &Value, end: &Value) -> i64 {
    let seconds = |time: &Value| {
        let time = time.as_str().unwrap();
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(time, format)
            .unwrap()
            .unix_timestamp()
    };
    seconds(end) - seconds(begin)
}

fn ssh(person: &Person, sshd: &Sshd) -> Ran {
    let arguments = SSH.map(str::to_owned).into_iter().chain(sshd.target());
    person.hallpass(arguments.chain(["echo hello".to_owned()]))
}

fn psql(person: &Person, postgres: &Postgres) -> Ran {
    let arguments = PSQL.map(str::to_owned).into_iter().chain(postgres.target());
    person.hallpass(arguments.chain(["-XAtc", "SELECT name FROM records"].map(str::to_owned)))
}

/// Checks that both stock programs let bob in, and that it stands in the log on what ground.
fn bob_gets_in(ca: &Ca, bob: &Person, sshd: &Sshd, postgres: &Postgres) {
    assert_eq!(ssh(bob, sshd).ok(), "hello\n");
    let entry = ca.home.entries("certificate-issued").pop().unwrap();
    let named = format!(
        "ID user=bob role=server-operator purpose=incident entry={} ",
        entry["index"]
    );
    wait_until("sshd's log line", || sshd.log().contains(&named));
    assert_eq!(psql(bob, postgres).ok(), "ward 3\n");
    wait_until("PostgreSQL's log line", || {
        postgres
            .log()
            .contains("identity=\"CN=patients_read,UID=bob,")
    });
    let begun = newest(ca, "session-begun");
    for entry in ca.home.entries("certificate-issued") {
        let event = &entry["event"];
        assert_eq!(event["by"]["requester"], "bob");
        assert_eq!(event["by"]["method"], "clinic");
        assert_eq!(event["by"]["fingerprint"], fingerprint(&begun));
        let told = &event["decision"]["circumstances"];
        assert_eq!(told["method"], "clinic");
        assert_eq!(told["groups"], json!(["on-call"]));
        assert_eq!(told["key_type"], "ssh-ed25519");
    }
}

#[test]
fn whoever_signs_in_in_a_browser_gets_in_by_ssh_and_psql_with_no_enrolled_key() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let (sshd, postgres) = (Sshd::start(&ca, &["operator"]), Postgres::start(&ca));
    let bob = Person::newcomer(&ca);
    bob.hallpass(["whoami"])
        .fails_with(77, "run `hallpass login`");

    let said = sign_in(&bob, "bob", &[]);
    assert!(said.starts_with("Signed in as bob"), "{said}");
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    bob_gets_in(&ca, &bob, &sshd, &postgres);

    let linked = newest(&ca, "user-linked");
    let account = json!({"provider": "clinic", "subject": "subject-of-bob"});
    assert_eq!(
        (&linked["user"], &linked["account"]),
        (&json!("bob"), &account)
    );
    assert!(linked["by"].is_null(), "{linked}");
    let entry = ca.home.entries("session-begun").pop().unwrap();
    let begun = &entry["event"];
    assert_eq!(
        (&begun["user"], &begun["account"]),
        (&json!("bob"), &account)
    );
    assert_eq!(begun["groups"], json!(["on-call"]));
    assert_eq!(begun["source"], "127.0.0.1");
    assert!(begun["mfa"].is_null(), "{begun}");
    let lasts = seconds_between(&entry["time"], &begun["expires"]);
    assert!((3590..=3600).contains(&lasts), "{lasts}");
    let shown = ca.admin().hallpass(["user", "show", "bob"]).ok();
    assert!(shown.contains("clinic subject-of-bob"), "{shown}");
}

#[test]
fn whoever_signs_in_on_another_device_gets_in_by_ssh_and_psql() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let (sshd, postgres) = (Sshd::start(&ca, &["operator"]), Postgres::start(&ca));
    let bob = Person::newcomer(&ca);
    let mut login = Login::by_hand(&bob, &["--device"]);
    let (url, code) = login.device(&provider);
    // Nobody has signed in yet.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!login.is_over(), "{}", login.said());
    assert!(ca.home.entries("session-begun").is_empty());
    let browser = Browser::of("bob");
    browser.open(&url, &code);
    assert!(browser.page().contains("signed in"), "{}", browser.page());
    let said = login.ends().ok();
    assert!(said.starts_with("Signed in as bob"), "{said}");
    bob_gets_in(&ca, &bob, &sshd, &postgres);
}

#[test]
fn over_ssh_one_signs_in_on_another_device_without_being_told() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    let mut command = bob.command();
    command.env("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22");
    let mut login = Login::by_hand_with(command, &[]);
    let (url, code) = login.device(&provider);
    assert!(!code.is_empty());
    // Whoever is asked there may say no.
    let browser = Browser::refusing("bob");
    browser.open(&url, &code);
    browser.page();
    login.ends().fails_with(77, "access_denied");
    assert_eq!(newest_code(&ca), "provider-refused");
    assert!(ca.home.entries("session-begun").is_empty());
}

#[test]
fn whoever_refuses_in_the_browser_is_not_signed_in() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    let browser = Browser::refusing("bob");
    Login::begin(&bob, &browser, &[])
        .ends()
        .fails_with(77, "access_denied: the person said no");
    assert!(browser.page().contains("Not signed in"));
    assert!(ca.home.entries("session-begun").is_empty());
    assert!(bob.session_files().is_empty());
    bob.hallpass(["whoami"])
        .fails_with(77, "run `hallpass login`");
}

#[test]
fn where_no_browser_opens_the_address_is_shown() {
    let liar = Provider::liar();
    let ca = clinic(&liar);
    let bob = Person::newcomer(&ca);
    let absent = Browser::of("bob");
    fs::remove_file(absent.program()).unwrap();
    let login = Login::begin(&bob, &absent, &[]);
    let url = || {
        let said = login.said();
        let mut words = said.split_whitespace().map(str::to_owned);
        words.find(|word| word.starts_with(&liar.issuer))
    };
    wait_until("an address", || url().is_some());
    // As whoever copies it into a browser by hand.
    let back = visit(&url().unwrap()).unwrap().location.unwrap();
    assert_eq!(visit(&back).unwrap().status, 200);
    login.ends().ok();
}

#[test]
fn no_code_and_no_token_is_kept_or_logged_anywhere() {
    let provider = Provider::start();
    let home = home_with(&provider.table("clinic", ""));
    let ca = Ca::with(home, |serve| {
        serve.env("HALLPASS_LOG", "trace");
    });
    let bob = Person::newcomer(&ca);
    let mut login = Login::by_hand(&bob, &[]);
    let caught = Browser::caught("bob");
    caught.open(&login.url(), "");
    let back = caught.page();
    assert_eq!(visit(&back).unwrap().status, 200);
    let ran = login.ends();
    let code = parameter(&back, "code");
    assert!(code.len() > 20);
    let mut texts = vec![ran.out + &ran.err, ca.server_log()];
    texts.extend(ca.home.lines());
    let mut files = bob.runtime_files();
    files.extend([bob.folder.join("config/client.toml"), ca.home.database()]);
    let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    texts.extend(files.into_iter().map(read));
    for text in texts {
        // How the provider's tokens begin: {"alg": in base64.
        for secret in [code.as_str(), "eyJhbGciOi"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

/// Whether bob gets patients' data where policy demands that of the second factor, and the decision.
fn reads_patients(ca: &Ca, bob: &Person) -> (bool, Value) {
    let ran = bob.hallpass(PATIENTS);
    if ran.code == 0 {
        return (true, newest(ca, "certificate-issued")["decision"].take());
    }
    ran.fails_with(77, "Use a second factor.");
    (false, newest(ca, "request-refused")["decision"].take())
}

/// A home with that in its hallpass.toml, whose patients only those may read of whom that holds.
fn home_that_demands(factor: &str, tables: &str) -> Home {
    let home = home_with(tables);
    let text = format!(
        "@id(\"factor\") @advice(\"Use a second factor.\")
         forbid (principal, action == Action::\"request\", resource == Role::\"patients-read\")
         unless {{ {factor} }};"
    );
    fs::write(home.policy("factor.cedar"), text).unwrap();
    home
}

#[test]
fn groups_and_the_second_factor_reach_policy_and_the_log() {
    let provider = Provider::start();
    let table = provider.table(
        "clinic",
        "mfa_amr = [\"otp\", \"hwk\"]\nmfa_acr = [\"loa2\"]",
    );
    let demand = "context.method == \"clinic\" && context.mfa.verified && context.mfa.age < 3600";
    let ca = Ca::on(home_that_demands(demand, &table));
    let bob = Person::newcomer(&ca);
    for (change, is_factor, gets_it) in [
        (json!({"amr": ["pwd"]}), false, false),
        (json!({"amr": ["pwd", "otp"]}), true, true),
        (
            json!({"amr": ["pwd", "otp"], "authenticated": 7200}),
            true,
            false,
        ),
        (
            json!({"amr": ["pwd"], "acr": "loa1", "authenticated": 0}),
            false,
            false,
        ),
        (json!({"amr": ["pwd"], "acr": "loa2"}), true, true),
        // The browser shows the second factor, and the groups are others.
        (json!({"claims": {"groups": ["deployers"]}}), true, false),
    ] {
        let groups = change["claims"]["groups"].as_array().cloned();
        provider.account("bob", change.clone());
        sign_in(&bob, "bob", &[]);
        let begun = newest(&ca, "session-begun");
        assert_eq!(!begun["mfa"].is_null(), is_factor, "{change}: {begun}");
        if groups.is_some() {
            assert_eq!(begun["groups"], json!(["deployers"]));
            bob.hallpass(PATIENTS)
                .fails_with(77, "no policy permits bob");
            continue;
        }
        let (got, decision) = reads_patients(&ca, &bob);
        assert_eq!(got, gets_it, "{change}: {decision}");
        let mfa = &decision["circumstances"]["mfa"];
        assert_eq!(!mfa.is_null(), is_factor, "{change}: {decision}");
    }
}

#[test]
fn only_groups_that_were_given_a_name_count_where_any_was() {
    let provider = Provider::start();
    let names =
        "groups_claim = \"roles\"\n[provider.group_names]\n\"Clinic On-Call\" = \"on-call\"";
    let ca = Ca::on(home_with(&provider.table("clinic", names)));
    let bob = Person::newcomer(&ca);
    let roles = json!(["Clinic On-Call", "administrators", "Everybody"]);
    provider.account(
        "bob",
        json!({"claims": {"roles": roles, "groups": ["deployers"]}}),
    );
    sign_in(&bob, "bob", &[]);
    assert_eq!(newest(&ca, "session-begun")["groups"], json!(["on-call"]));
    bob.hallpass(PATIENTS).ok();
    bob.hallpass(["user", "list"])
        .fails_with(77, "no policy permits bob");
}

#[test]
fn logout_ends_the_session_at_once_and_for_good() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    let begun = newest(&ca, "session-begun");
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
    let ended = newest(&ca, "session-ended");
    assert_eq!(ended["user"], "bob");
    assert_eq!(ended["fingerprint"], fingerprint(&begun));
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
    assert_eq!(newest(&ca, "certificate-issued")["by"]["method"], "clinic");
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
        .fails_with(77, "is over: run `hallpass login`");
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
    let begun = newest(&ca, "session-begun");
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
    let blob = newest(&ca, "session-begun")["public_key"].take();
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
    for from in bob.session_files() {
        // The thief's own folder is for the thief's own configuration: take over both.
        let place = from.strip_prefix(bob.folder.path()).unwrap();
        let to = thief.folder.join(place);
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(to.parent().unwrap()).unwrap();
        if from != key {
            fs::copy(&from, to).unwrap();
        }
    }
    let mut whoami = thief.command();
    // What was taken belongs to the configuration of bob's.
    whoami.env("HALLPASS_CONFIG", bob.folder.join("config"));
    let ran = Ran::of(whoami.arg("whoami"));
    ran.fails_with(77, "run `hallpass login`");
    // With a key of one's own put in the place of the missing one, it is a stranger's.
    let own = thief.folder.join("own");
    let line = ["-q", "-t", "ed25519", "-N", "", "-f", own.to_str().unwrap()];
    crate::support::run("ssh-keygen", line).ok();
    let to = thief
        .folder
        .join(key.strip_prefix(bob.folder.path()).unwrap());
    fs::copy(&own, &to).unwrap();
    let mut whoami = thief.command();
    whoami.env("HALLPASS_CONFIG", bob.folder.join("config"));
    Ran::of(whoami.arg("whoami")).fails_with(66, "made no signature");
    fs::copy(own.with_extension("pub"), to.with_extension("pub")).unwrap();
    let mut whoami = thief.command();
    whoami.env("HALLPASS_CONFIG", bob.folder.join("config"));
    Ran::of(whoami.arg("whoami")).fails_with(77, "was not accepted");
    assert_eq!(newest_code(&ca), "unknown-key");
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
    assert_eq!(newest_code(&ca), "replayed");
    // Nor with anything in it changed.
    let mut other = Request::new(&ca, &key, "GET", "/v1/roles");
    other.signed_target = Some("/v1/whoami".to_owned());
    assert_eq!(other.send().status, 401);
    assert_eq!(newest_code(&ca), "bad-signature");
    assert_eq!(ca.home.entries("certificate-issued").len(), 1);
}

#[test]
fn administrators_see_and_end_sessions_and_nobody_else_does() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    provider.account("eve", json!({"claims": {"groups": ["deployers"]}}));
    let (bob, eve, admin) = (Person::newcomer(&ca), Person::newcomer(&ca), ca.admin());
    sign_in(&eve, "eve", &[]);
    let eves = fingerprint(&newest(&ca, "session-begun"));
    sign_in(&bob, "bob", &[]);
    let bobs = fingerprint(&newest(&ca, "session-begun"));

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
    let ended = newest(&ca, "session-ended");
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
    assert_eq!(newest_code(&ca), "user-disabled");
    admin.hallpass(["user", "enable", "bob"]).ok();
    sign_in(&bob, "bob", &[]);
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));

    admin.hallpass(["user", "remove", "bob"]).ok();
    bob.hallpass(["whoami"]).fails_with(77, "was not accepted");
    // Or removing somebody would change nothing.
    is_refused(&ca, &bob, "bob", "removed");
    assert_eq!(newest_code(&ca), "account-removed");
}

#[test]
fn a_provider_that_is_down_keeps_nobody_from_other_ways() {
    let (provider, mut vendors) = (Provider::start(), Provider::start());
    let tables = provider.table("clinic", "") + &vendors.table("vendors", "");
    // The CA starts without it.
    vendors.end();
    let ca = Ca::on(home_with(&tables));
    let (bob, carol) = (Person::newcomer(&ca), ca.enrol("carol", &["on-call"]));
    let which = Login::by_hand(&bob, &[]).ends();
    assert!(which.code != 0, "{which:?}");
    assert!(
        which.err.contains("clinic") && which.err.contains("vendors"),
        "{which:?}"
    );

    let down = Login::by_hand(&bob, &["--provider", "vendors"]).ends();
    down.fails_with(69, "the provider vendors can't be reached");
    assert!(down.err.contains("another provider"), "{down:?}");
    sign_in(&bob, "bob", &["--provider", "clinic"]);
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    assert!(carol.hallpass(["whoami"]).ok().contains("carol"));

    // It comes back, and then goes while somebody is at it.
    vendors.start_again();
    let dora = Person::newcomer(&ca);
    vendors.account("dora", json!({}));
    sign_in(&dora, "dora", &["--provider", "vendors"]);
    assert_eq!(
        newest(&ca, "session-begun")["account"]["provider"],
        "vendors"
    );
    let mut login = Login::by_hand(&dora, &["--provider", "vendors"]);
    let caught = Browser::caught("dora");
    caught.open(&login.url(), "");
    let back = caught.page();
    vendors.end();
    assert!(visit(&back).unwrap().text.contains("Not signed in"));
    login
        .ends()
        .fails_with(69, "the provider vendors can't be reached");
    // What began before goes on.
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    assert!(dora.hallpass(["whoami"]).ok().contains("dora"));
}

#[test]
fn a_name_is_one_persons_alone_until_an_administrator_links_the_account() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let admin = ca.admin();
    let link = |what: &'static str, name: &'static str, subject: &'static str| {
        [
            "user",
            what,
            name,
            "--provider",
            "clinic",
            "--subject",
            subject,
        ]
    };

    // Alice is enrolled with a key: anybody could be called alice at the provider.
    let alice = Person::newcomer(&ca);
    is_refused(
        &ca,
        &alice,
        "alice",
        "hallpass user link alice --provider clinic",
    );
    assert_eq!(newest_code(&ca), "name-in-use");
    admin
        .hallpass(link("link", "alice", "subject-of-alice"))
        .ok();
    let linked = newest(&ca, "user-linked");
    assert_eq!(linked["by"]["requester"], "alice");
    sign_in(&alice, "alice", &[]);
    alice.hallpass(["user", "list"]).ok();

    // Others who are called so there are not she.
    for (account, name) in [("mallory", "alice"), ("trudy", "Alice")] {
        provider.account(account, json!({"claims": {"preferred_username": name}}));
        let other = Person::newcomer(&ca);
        is_refused(&ca, &other, account, "user link alice");
    }

    // Bob is whoever came first with that name, and stays so by whatever name.
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    provider.account("robert", json!({"claims": {"preferred_username": "bob"}}));
    is_refused(&ca, &Person::newcomer(&ca), "robert", "user link bob");
    provider.account("bob", json!({"claims": {"preferred_username": "alice"}}));
    sign_in(&bob, "bob", &[]);
    assert_eq!(newest(&ca, "session-begun")["user"], "bob");
    bob.hallpass(["user", "list"])
        .fails_with(77, "no policy permits bob");

    // An account is one user's.
    assert_ne!(
        admin.hallpass(link("link", "bob", "subject-of-alice")).code,
        0
    );
    admin
        .hallpass(link("link", "bob", "subject-of-robert"))
        .ok();
    let robert = Person::newcomer(&ca);
    sign_in(&robert, "robert", &[]);
    assert!(robert.hallpass(["whoami"]).ok().contains("bob"));

    // Taken away, it is out at once, and comes back only by an administrator's word.
    admin
        .hallpass(link("unlink", "bob", "subject-of-robert"))
        .ok();
    assert_eq!(newest(&ca, "user-unlinked")["user"], "bob");
    robert
        .hallpass(["whoami"])
        .fails_with(77, "was not accepted");
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    provider.account(
        "robert",
        json!({"claims": {"preferred_username": "robert"}}),
    );
    is_refused(&ca, &robert, "robert", "taken away");
    assert_eq!(newest_code(&ca), "account-removed");
    // Only an administrator links.
    bob.hallpass(link("link", "bob", "subject-of-robert"))
        .fails_with(77, "no policy permits bob");
}

#[test]
fn the_same_subject_at_another_provider_is_somebody_else() {
    let (provider, liar) = (Provider::start(), Provider::liar());
    let tables = provider.table("clinic", "") + &liar.table("vendors", "");
    let ca = Ca::on(home_with(&tables));
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &["--provider", "clinic"]);
    // The liar takes everybody for bob, with bob's very subject.
    let mallory = Person::newcomer(&ca);
    let mut login = Login::by_hand(&mallory, &["--provider", "vendors"]);
    let back = visit(&login.url()).unwrap().location.unwrap();
    visit(&back).unwrap();
    login.ends().fails_with(77, "user link bob");
    assert_eq!(newest_code(&ca), "name-in-use");
    assert_eq!(ca.home.entries("session-begun").len(), 1);
}

#[test]
fn a_provider_rotates_its_keys_and_may_use_others_than_rsa() {
    let provider = Provider::start();
    let ca = clinic(&provider);
    let bob = Person::newcomer(&ca);
    sign_in(&bob, "bob", &[]);
    provider.tell(&json!({"rotate": true}));
    sign_in(&bob, "bob", &[]);
    provider.tell(&json!({"algorithm": "ES256"}));
    sign_in(&bob, "bob", &[]);
    assert_eq!(ca.home.entries("session-begun").len(), 3);
}

#[test]
fn a_client_with_a_secret_shows_it_to_the_provider_and_to_nobody_else() {
    let provider = Provider::start();
    let line = "client_secret_file = \"clinic.secret\"";
    let home = home_with(&provider.table_for("hallpass-confidential", "clinic", line));
    let path = home.path().join("clinic.secret");
    let write = |secret: &str, mode: u32| {
        fs::write(&path, format!("{secret}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let (code, why) = serve_fails(&home);
    assert!(code == 78 && why.contains("clinic.secret"), "{why}");
    write(CLIENT_SECRET, 0o644);
    let (code, why) = serve_fails(&home);
    assert!(code == 78 && why.contains("chmod 600"), "{why}");
    write("wrong", 0o600);
    let ca = Ca::with(home, |serve| {
        serve.env("HALLPASS_LOG", "trace");
    });
    let bob = Person::newcomer(&ca);
    let login = Login::begin(&bob, &Browser::of("bob"), &[]).ends();
    assert_ne!(login.code, 0);
    assert!(login.err.contains("invalid_client"), "{login:?}");
    assert!(ca.home.entries("session-begun").is_empty());
    // The right one counts without a restart.
    write(CLIENT_SECRET, 0o600);
    sign_in(&bob, "bob", &[]);
    let texts = [ca.server_log(), ca.home.lines().concat(), login.err];
    assert!(texts.iter().all(|text| !text.contains(CLIENT_SECRET)));
}

#[test]
fn a_provider_is_known_by_its_certificate() {
    let other = OtherCa::new();
    let provider = Provider::over_tls(&other.certify("localhost"));
    let ca = Ca::on(home_with(&provider.table("clinic", "")));
    let bob = Person::newcomer(&ca);
    Login::by_hand(&bob, &[])
        .ends()
        .fails_with(69, "the provider clinic can't be reached");

    let home = home_with(&provider.table("clinic", "ca_file = \"clinic.pem\""));
    fs::copy(other.root(), home.path().join("clinic.pem")).unwrap();
    let ca = Ca::on(home);
    let bob = Person::newcomer(&ca);
    let browser = Browser::trusting("bob");
    Login::begin(&bob, &browser, &[]).ends().ok();
    assert!(browser.page().contains("Signed in"));
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
}

#[test]
fn tables_that_are_not_right_are_refused_at_the_start() {
    let liar = Provider::liar();
    let good = liar.table("clinic", "");
    for (table, words) in [
        (good.repeat(2), "clinic"),
        (liar.table("ssh-key", ""), "ssh-key"),
        (liar.table("clinic", "secret = \"x\""), "secret"),
        (liar.table("clinic", "preset = \"nobody\""), "nobody"),
        (liar.table("clinic", "max_age = \"soon\""), "soon"),
        (
            liar.table("clinic", "ca_file = \"absent.pem\""),
            "absent.pem",
        ),
        (good.replace("127.0.0.1", "provider.example.org"), "issuer"),
        (good.replace("http://", "ftp://"), "issuer"),
        (format!("\n[sessions]\nlife = \"0s\"\n{good}"), "0s"),
        (format!("\n[sessions]\nlife = \"90d\"\n{good}"), "90d"),
    ] {
        let (code, why) = serve_fails(&home_with(&table));
        assert!(code == 78 && why.contains(words), "{table}: {code} {why}");
    }
}

#[test]
fn where_nobody_signs_in_login_says_so() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let ran = bob.hallpass(["login"]);
    assert!(ran.code != 0 && ran.err.contains("[[provider]]"), "{ran:?}");
    // And nobody is connected without a key, since there would be none ever.
    let stranger = Person::stranger();
    let connect = ["connect", &ca.url, "--fingerprint", &ca.fingerprint];
    assert_ne!(stranger.hallpass(connect).code, 0);
}
