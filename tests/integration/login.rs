//! People who sign in with an OpenID provider: a real one, in a real browser, and then with stock ssh
//! and psql.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Browser, CLIENT_SECRET, Ca, Home, Login, OtherCa, PATIENTS, Person, Postgres, Provider, Ran,
    Scene, Sshd, clinic, free_port, home_with, is_refused, parameter, seconds_between, serve_fails,
    session_fingerprint, sign_in, visit, wait_until,
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
    let begun = ca.home.newest("session-begun");
    for entry in ca.home.entries("certificate-issued") {
        let event = &entry["event"];
        assert_eq!(event["by"]["requester"], "bob");
        assert_eq!(event["by"]["method"], "clinic");
        assert_eq!(event["by"]["fingerprint"], session_fingerprint(&begun));
        let told = &event["decision"]["circumstances"];
        assert_eq!(told["method"], "clinic");
        assert_eq!(told["groups"], json!(["on-call"]));
        assert_eq!(told["key_type"], "ssh-ed25519");
    }
}

#[test]
fn the_browser_comes_back_to_the_port_that_the_provider_was_told() {
    let port = free_port();
    let scene = Scene::with(&format!("redirect_port = {port}"));
    let told = format!("http%3A%2F%2F127.0.0.1%3A{port}%2Fcallback");
    let mut first = Login::by_hand(&scene.bob, &[]);
    let url = first.url();
    assert_eq!(parameter(&url, "redirect_uri"), told);
    // Somebody else signs in at the same time.
    let second = Login::by_hand(&scene.bob, &[]).ends();
    second.fails_with(
        69,
        &format!("port {port} on this machine can't be listened on"),
    );
    let back = visit(&url).unwrap().location.unwrap();
    visit(&back).unwrap();
    first.ends().ok();
    // No other port will do.
    let other = json!({"redirect": "http://127.0.0.1:1/callback"});
    let stranger = Person::stranger();
    let ask = stranger.asks(&scene.ca, "POST", "/v1/login").json(&other);
    let (status, _, detail) = ask.send().problem();
    assert!(
        status == 400 && detail.contains(&port.to_string()),
        "{detail}"
    );
}

#[test]
fn what_entra_id_says_of_a_second_factor_counts_where_it_is_asked_for() {
    let scene = Scene::with("mfa_acr = [\"c1\"]");
    for (claims, counts) in [
        (json!({"acrs": ["c1", "c2"]}), true),
        (json!({"acr": "c1"}), true),
        (json!({"acrs": ["c2"], "acr": "c2"}), false),
    ] {
        scene.takes(&json!({ "claims": claims }));
        let begun = scene.ca.home.newest("session-begun");
        assert_eq!(!begun["mfa"].is_null(), counts, "{claims}: {begun}");
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

    let linked = ca.home.newest("user-linked");
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
    assert_eq!(ca.home.newest_code(), "provider-refused");
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
        return (
            true,
            ca.home.newest("certificate-issued")["decision"].take(),
        );
    }
    ran.fails_with(77, "Use a second factor.");
    (false, ca.home.newest("request-refused")["decision"].take())
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
        let begun = ca.home.newest("session-begun");
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
    assert_eq!(
        ca.home.newest("session-begun")["groups"],
        json!(["on-call"])
    );
    bob.hallpass(PATIENTS).ok();
    bob.hallpass(["user", "list"])
        .fails_with(77, "no policy permits bob");
}

#[test]
fn a_session_stays_over_whose_groups_its_provider_does_not_give_any_more() {
    let provider = Provider::start();
    let home = home_with("");
    let config = home.path().join("hallpass.toml");
    let text = fs::read_to_string(&config).unwrap();
    let tables = |names: &str| {
        let more = format!("groups_claim = \"roles\"\n[provider.group_names]\n{names}");
        fs::write(
            &config,
            format!("{text}{}", provider.table("clinic", &more)),
        )
        .unwrap();
    };
    let (call, deploy) = ("Call = \"on-call\"\n", "Deploy = \"deployers\"\n");
    tables(&format!("{call}{deploy}"));
    let mut ca = Ca::on(home);
    let address = ca.address().to_owned();
    let [bob, carol] =
        [("bob", ["Call", "Deploy"]), ("carol", ["Call", "Other"])].map(|(name, roles)| {
            let person = Person::newcomer(&ca);
            provider.account(name, json!({"claims": {"roles": roles}}));
            sign_in(&person, name, &[]);
            person
        });
    for names in [call.to_owned(), format!("{call}{deploy}")] {
        tables(&names);
        ca = Ca::at(ca.stop(), &address);
        let ended = ca.home.entries("session-ended");
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0]["event"]["user"], "bob");
        bob.hallpass(["whoami"]).fails_with(77, "was not accepted");
        assert!(carol.hallpass(["whoami"]).ok().contains("on-call"));
    }
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
    assert_eq!(ca.home.newest_code(), "name-in-use");
    admin
        .hallpass(link("link", "alice", "subject-of-alice"))
        .ok();
    let linked = ca.home.newest("user-linked");
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
    assert_eq!(ca.home.newest("session-begun")["user"], "bob");
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
    assert_eq!(ca.home.newest("user-unlinked")["user"], "bob");
    robert
        .hallpass(["whoami"])
        .fails_with(77, "was not accepted");
    assert!(bob.hallpass(["whoami"]).ok().contains("bob"));
    provider.account(
        "robert",
        json!({"claims": {"preferred_username": "robert"}}),
    );
    is_refused(&ca, &robert, "robert", "taken away");
    assert_eq!(ca.home.newest_code(), "account-removed");
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
    assert_eq!(ca.home.newest_code(), "name-in-use");
    assert_eq!(ca.home.entries("session-begun").len(), 1);
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
    // One that gave no answer is left alone for some seconds.
    wait_until("the provider is asked again", || {
        let mut login = Login::by_hand(&dora, &["--provider", "vendors"]);
        login.try_url().is_some()
    });
    sign_in(&dora, "dora", &["--provider", "vendors"]);
    assert_eq!(
        ca.home.newest("session-begun")["account"]["provider"],
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
