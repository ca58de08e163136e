//! Jobs and services whose platform vouches for them with a token.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::{
    Agent, Ca, Home, Person, Ran, Request, Sshd, exchange, home_with, serve_fails,
};

const GITHUB: &str = "https://token.actions.githubusercontent.com";
const AUDIENCE: &str = "https://ca.example.org:8443";

/// Who signs tokens as a platform does. Nobody but the platform could be the real one.
pub(crate) struct Platform {
    key: EcdsaKeyPair,
    count: AtomicU64,
}

impl Platform {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self {
            key,
            count: AtomicU64::default(),
        }
    }

    /// Its keys as it publishes them.
    fn jwks(&self) -> String {
        let point = &self.key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "x": x, "y": y}]}).to_string()
    }

    /// A home that believes it, with these tables.
    pub(crate) fn home(&self, tables: &str) -> Home {
        let home = home_with(tables);
        fs::write(home.path().join("platform.jwks"), self.jwks()).unwrap();
        home
    }

    /// A token of a job of GitHub's, with some claims changed.
    pub(crate) fn github(&self, changed: &Value) -> String {
        let mut claims = json!({
            "iss": GITHUB,
            "aud": AUDIENCE,
            "sub": "repo:clinic/web:ref:refs/heads/main",
            "repository": "clinic/web",
            "ref": "refs/heads/main",
            "environment": "production",
        });
        for (name, value) in changed.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.token(claims)
    }

    fn token(&self, mut claims: Value) -> String {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let all = claims.as_object_mut().unwrap();
        all.entry("iat").or_insert(json!(now));
        all.entry("exp").or_insert(json!(now + 300));
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        all.entry("jti").or_insert(json!(count));
        all.retain(|_, value| !value.is_null());
        let header = json!({"alg": "ES256", "kid": "one", "typ": "JWT"});
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The table of a job of GitHub's that deploys.
pub(crate) fn deploy_web() -> String {
    table(
        "deploy-web",
        "github",
        "claims = { repository = \"clinic/web\", ref = [\"refs/heads/main\", \"refs/heads/release\"] }\n\
         groups = [\"robots\"]",
    )
}

fn table(name: &str, platform: &str, more: &str) -> String {
    format!(
        "\n[[workload]]\nname = \"{name}\"\nplatform = \"{platform}\"\naudience = \"{AUDIENCE}\"\n\
         jwks_file = \"platform.jwks\"\n{more}\n"
    )
}

/// `hallpass workload login` with that token in the environment, as GitLab gives it.
pub(crate) fn login(job: &Person, token: &str) -> Ran {
    let mut command = job.command();
    command
        .args(["workload", "login"])
        .env("HALLPASS_ID_TOKEN", token);
    Ran::of(&mut command)
}

fn newest(ca: &Ca, kind: &str) -> Value {
    let mut entries = ca.home.entries(kind);
    entries.pop().unwrap_or_else(|| panic!("no {kind}"))["event"].take()
}

fn newest_code(ca: &Ca) -> String {
    let refused = newest(ca, "unauthenticated-refused");
    refused["refused"]["code"].as_str().unwrap().to_owned()
}

/// A machine that is connected to the CA and has no key that lasts.
pub(crate) fn runner(ca: &Ca) -> Person {
    let job = Person::stranger();
    job.connect(ca);
    job
}

/// Lets workloads in that are in the group robots.
fn permit(home: &Home) {
    let policy = "@id(\"jobs\")\n\
         permit (principal is Workload in Group::\"robots\", action == Action::\"request\", \
         resource == Role::\"deploy\")\n\
         when { principal.provider == \"github\" && principal has ref && principal.ref like \
         \"refs/heads/*\" && context.method == \"github\" };";
    fs::write(home.policy("jobs.cedar"), policy).unwrap();
}

#[test]
fn a_job_deploys_with_its_platforms_token_and_stock_ssh() {
    let platform = Platform::new();
    let home = platform.home(&deploy_web());
    permit(&home);
    let ca = Ca::on(home);
    let sshd = Sshd::start(&ca, &["deploy"]);
    let job = runner(&ca);
    let said = login(&job, &platform.github(&json!({}))).ok();
    assert!(
        said.starts_with("Signed in as deploy-web: with github, until"),
        "{said}"
    );
    let whoami = job.hallpass(["whoami"]).ok();
    assert!(
        whoami.contains("deploy-web") && whoami.contains("robots"),
        "{whoami}"
    );

    let ssh = "ssh --role deploy --purpose deploy --";
    let arguments = ssh.split(' ').map(str::to_owned).chain(sshd.target());
    let arguments = arguments.chain(["echo hello".to_owned()]);
    assert_eq!(job.hallpass(arguments).ok(), "hello\n");

    let begun = newest(&ca, "session-begun");
    assert_eq!(begun["user"], "deploy-web");
    let account = json!({"provider": "github", "subject": "repo:clinic/web:ref:refs/heads/main"});
    assert_eq!(begun["account"], account);
    let attributes = json!({
        "provider": "github", "repository": "clinic/web", "ref": "refs/heads/main",
        "environment": "production",
    });
    assert_eq!(begun["workload"], attributes);
    let issued = newest(&ca, "certificate-issued");
    assert_eq!(issued["by"]["requester"], "deploy-web");
    assert_eq!(issued["by"]["method"], "github");
    assert_eq!(issued["decision"]["policies"], json!(["jobs"]));
    assert_eq!(issued["decision"]["circumstances"]["workload"], attributes);
    // It is no user, and lasts a quarter of an hour.
    let users = ca.admin().hallpass(["user", "list"]).ok();
    assert!(!users.contains("deploy-web"), "{users}");
    let sessions = ca.admin().hallpass(["session", "list", "--all"]).ok();
    assert!(sessions.contains("deploy-web"), "{sessions}");

    // What it asked is explained by the log, as with people.
    let entries = ca.home.entries("certificate-issued");
    let index = entries.last().unwrap()["index"].to_string();
    let explained = ca
        .admin()
        .hallpass(["policy", "explain", "--entry", &index])
        .ok();
    assert!(explained.contains("jobs"), "{explained}");

    job.hallpass(["logout"]).ok();
    assert_eq!(newest(&ca, "session-ended")["user"], "deploy-web");
}

#[test]
fn a_token_is_good_once_also_after_a_restart() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let (one, two) = (runner(&ca), runner(&ca));
    let token = platform.github(&json!({}));
    login(&one, &token).ok();
    login(&two, &token).fails_with(77, "is good once");
    assert_eq!(newest_code(&ca), "token-replayed");
    // An ECDSA signature can be written in another way.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut other = URL_SAFE_NO_PAD.decode(signature).unwrap();
    negate(&mut other[32..]);
    let other = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(other));
    login(&two, &other).fails_with(77, "is good once");

    let address = ca.address().to_owned();
    let _ca = Ca::at(ca.stop(), &address);
    login(&two, &token).fails_with(77, "is good once");
    // The first still works.
    assert!(one.hallpass(["whoami"]).ok().contains("deploy-web"));
    login(&two, &platform.github(&json!({}))).ok();
}

#[test]
fn a_session_stays_over_that_ended_with_its_table() {
    let platform = Platform::new();
    let table = |more: &str| table("deploy-web", "github", &format!("life = \"8h\"\n{more}"));
    let main = table(
        "claims = { repository = \"clinic/web\", ref = \"refs/heads/main\" }\n\
         groups = [\"robots\", \"deployers\"]",
    );
    let narrowed = [
        String::new(),
        table("claims = { repository = \"clinic/web\" }\ngroups = [\"robots\"]"),
        table(
            "claims = { repository = \"clinic/web\", ref = \"refs/heads/release\" }\ngroups = [\"robots\", \"deployers\"]",
        ),
    ];
    let home = platform.home("");
    let config = home.path().join("hallpass.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}{main}")).unwrap();
    let mut ca = Ca::on(home);
    let address = ca.address().to_owned();
    let restart = |ca: Ca, tables: &str| {
        let home = ca.stop();
        fs::write(&config, format!("{text}{tables}")).unwrap();
        Ca::at(home, &address)
    };
    for (times, tables) in narrowed.iter().enumerate() {
        let job = runner(&ca);
        login(&job, &platform.github(&json!({}))).ok();
        // Wider tables end nothing.
        ca = restart(ca, &(deploy_web().replace("robots", "others") + &main));
        assert!(job.hallpass(["whoami"]).ok().contains("deploy-web"));
        assert_eq!(ca.home.entries("session-ended").len(), times);

        ca = restart(ca, tables);
        job.hallpass(["whoami"]).fails_with(77, "was not accepted");
        let ended = newest(&ca, "session-ended");
        assert_eq!(
            (&ended["user"], &ended["by"]),
            (&json!("deploy-web"), &Value::Null)
        );
        ca = restart(ca, &main);
        job.hallpass(["whoami"]).fails_with(77, "was not accepted");
        assert_eq!(ca.home.entries("session-ended").len(), times + 1);
    }
    let home = ca.home.path().display().to_string();
    ca.admin()
        .hallpass(["audit", "verify", "--home", &home])
        .ok();
}

/// The order of P-256 less the number, with which the signature verifies as well.
fn negate(number: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut borrow = 0;
    for (digit, order) in number.iter_mut().zip(ORDER).rev() {
        let difference = i16::from(order) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        *digit = difference.rem_euclid(256) as u8;
    }
}

#[test]
fn a_used_token_stays_used_as_long_as_clocks_may_differ() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let token = platform.github(&json!({"exp": now + 2}));
    login(&runner(&ca), &token).ok();
    std::thread::sleep(std::time::Duration::from_secs(4));
    // Whatever is remembered is looked through when a session begins.
    login(&runner(&ca), &platform.github(&json!({}))).ok();
    login(&runner(&ca), &token).fails_with(77, "is good once");
}

#[test]
fn a_platform_that_is_silent_keeps_no_others_out() {
    let platform = Platform::new();
    let port = crate::support::free_port();
    let spiffe = format!(
        "\n[[workload]]\nname = \"reports\"\nplatform = \"spiffe\"\naudience = \"{AUDIENCE}\"\n\
         jwks_url = \"http://127.0.0.1:{port}/keys\"\n\
         claims = {{ sub = \"spiffe://clinic.example/reports\" }}\n"
    );
    let ca = Ca::on(platform.home(&(spiffe + &deploy_web())));
    login(&runner(&ca), &platform.github(&json!({}))).ok();
    let svid = json!({"aud": [AUDIENCE], "sub": "spiffe://clinic.example/reports"});
    login(&runner(&ca), &platform.token(svid)).fails_with(69, "can't be fetched");
}

#[test]
fn a_clean_machine_connects_and_needs_no_key() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = Person::newcomer(&ca);
    login(&job, &platform.github(&json!({}))).ok();
    assert!(job.hallpass(["whoami"]).ok().contains("deploy-web"));
}

#[test]
fn an_administrator_stops_a_workload() {
    let platform = Platform::new();
    let home = platform.home(&deploy_web());
    permit(&home);
    let ca = Ca::on(home);
    let (job, admin) = (runner(&ca), ca.admin());
    login(&job, &platform.github(&json!({}))).ok();
    let ask = ["request", "deploy", "--purpose", "deploy"];
    job.hallpass(ask).ok();
    // The key of a session is not locked, but ended.
    let key = job.session_key().fingerprint(ssh_key::HashAlg::Sha256);
    admin
        .hallpass(["lock", &format!("key/{key}"), "--reason", "x"])
        .fails_with(65, "hallpass session end");
    admin
        .hallpass(["lock", "user/deploy-web", "--reason", "stolen runner"])
        .ok();
    job.forget_issued();
    job.hallpass(ask).fails_with(77, "stolen runner");
    login(&job, &platform.github(&json!({}))).ok();
    job.hallpass(ask).fails_with(77, "stolen runner");
    // Nor does somebody take its name.
    let folder = crate::support::Folder::new();
    let public = folder.write(
        "x.pub",
        Person::stranger().key.public_key().to_openssh().unwrap(),
    );
    admin
        .hallpass([
            "user",
            "add",
            "deploy-web",
            "--ssh-key",
            public.to_str().unwrap(),
        ])
        .fails_with(65, "a workload is called deploy-web");
}

#[test]
fn tokens_of_others_let_nobody_in() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let refused = |token: &str, words: &str, code: &str| {
        login(&job, token).fails_with(77, words);
        assert_eq!(newest_code(&ca), code, "{words}");
    };
    let with = |claims: Value| platform.github(&claims);
    refused(
        &with(json!({"repository": "mallory/web"})),
        "no [[workload]] fits",
        "unknown-workload",
    );
    refused(
        &with(json!({"repository": "clinic/web2"})),
        "no [[workload]] fits",
        "unknown-workload",
    );
    refused(
        &with(json!({"repository": ["clinic/web"]})),
        "no [[workload]] fits",
        "unknown-workload",
    );
    refused(
        &with(json!({"repository": null})),
        "no [[workload]] fits",
        "unknown-workload",
    );
    refused(
        &with(json!({"ref": "refs/pull/1/merge"})),
        "no [[workload]] fits",
        "unknown-workload",
    );
    refused(
        &with(json!({"iss": "https://mallory.example"})),
        "token's issuer",
        "unknown-workload",
    );
    refused(
        &with(json!({"iss": null})),
        "token's issuer",
        "unknown-workload",
    );
    refused(
        &with(json!({"aud": "https://other.example"})),
        "another audience",
        "token-audience",
    );
    assert!(ca.home.entries("session-begun").is_empty());

    // No more than ten refusals of a source are listed in a minute.
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    let refused = |token: &str, words: &str, code: &str| {
        login(&job, token).fails_with(77, words);
        assert_eq!(newest_code(&ca), code, "{words}");
    };
    refused(&with(json!({"exp": now - 600})), "expired", "token-expired");
    refused(
        &with(json!({"iat": now + 600})),
        "from the future",
        "token-from-the-future",
    );
    refused(
        &with(json!({"iat": null})),
        "lacks the claim iat",
        "token-claim",
    );
    refused(
        &with(json!({"exp": null})),
        "lacks the claim exp",
        "token-claim",
    );
    refused(
        &with(json!({"exp": now + 90_000})),
        "more than a day",
        "token-too-long",
    );
    refused(
        &Platform::new().github(&json!({})),
        "not by the issuer's key",
        "token-signature",
    );
    refused("x", "no JSON Web Token", "illegal-token");
    // Each was shown by a key that then signs for nobody.
    assert!(ca.home.entries("session-begun").is_empty());
    // One that lives long is taken as long as it is no more than a day.
    login(&job, &with(json!({"exp": now + 80_000}))).ok();
}

#[test]
fn each_platform_says_who_it_is_in_its_own_way() {
    let platform = Platform::new();
    let tables = [
        table(
            "pipeline",
            "gitlab",
            "claims = { project_path = \"clinic/web\" }",
        ),
        table(
            "backup",
            "kubernetes",
            "issuer = \"https://cluster.example\"\nlife = \"5m\"\n\
             claims = { \"/kubernetes.io/namespace\" = \"clinic\", \
             \"/kubernetes.io/serviceaccount/name\" = \"backup\" }",
        ),
        table(
            "reports",
            "spiffe",
            "claims = { sub = \"spiffe://clinic.example/reports\" }",
        ),
    ];
    let ca = Ca::on(platform.home(&tables.concat()));
    let job = runner(&ca);
    let check = |claims: Value, name: &str, attributes: Value| {
        login(&job, &platform.token(claims)).ok();
        let begun = newest(&ca, "session-begun");
        assert_eq!(
            (&begun["user"], &begun["workload"]),
            (&json!(name), &attributes)
        );
    };
    check(
        json!({"iss": "https://gitlab.com", "aud": AUDIENCE, "ref": "main",
               "project_path": "clinic/web", "sub": "project_path:clinic/web:ref:main"}),
        "pipeline",
        json!({"provider": "gitlab", "repository": "clinic/web", "ref": "main"}),
    );
    check(
        json!({"iss": "https://cluster.example", "aud": [AUDIENCE],
               "sub": "system:serviceaccount:clinic:backup",
               "kubernetes.io": {"namespace": "clinic", "serviceaccount": {"name": "backup"}}}),
        "backup",
        json!({"provider": "kubernetes", "namespace": "clinic", "service_account": "backup"}),
    );
    check(
        json!({"aud": [AUDIENCE], "sub": "spiffe://clinic.example/reports"}),
        "reports",
        json!({"provider": "spiffe", "spiffe_id": "spiffe://clinic.example/reports"}),
    );
    let other = json!({"aud": [AUDIENCE], "sub": "spiffe://clinic.example/reports/x"});
    login(&job, &platform.token(other)).fails_with(77, "no [[workload]] fits");
}

#[test]
fn tables_that_would_let_in_anybody_are_refused_at_the_start() {
    let platform = Platform::new();
    let github = |more: &str| table("deploy-web", "github", more);
    for (table, words) in [
        (
            github("claims = { ref = \"refs/heads/main\" }"),
            "anybody on that platform",
        ),
        (github("claims = {}"), "anybody on that platform"),
        (
            github("claims = { job_workflow_ref = \"a/b/.github/workflows/x.yml@main\" }"),
            "anybody on that platform",
        ),
        (github("claims = { repository = \"\" }"), "it is empty"),
        (github("claims = { repository = [] }"), "it is empty"),
        (github(""), "missing field `claims`"),
        (
            github("claims = { repository = \"a/b\" }\njwks_url = \"https://x.example\""),
            "jwks_url or jwks_file, not both",
        ),
        (
            table("backup", "kubernetes", "claims = { sub = \"x\" }"),
            "issuer: say whose tokens",
        ),
        (
            table("Backup", "spiffe", "claims = { sub = \"x\" }"),
            "user name",
        ),
        (
            table("backup", "jenkins", "claims = { sub = \"x\" }"),
            "unknown variant",
        ),
    ] {
        let (code, why) = serve_fails(&platform.home(&table));
        assert!(code == 78 && why.contains(words), "{table}: {why}");
    }
    let home = platform.home(&deploy_web());
    let keys = home.path().join("platform.jwks");
    fs::write(&keys, "{}").unwrap();
    let (code, why) = serve_fails(&home);
    assert!(code == 78 && why.contains("platform.jwks"), "{why}");
    fs::write(&keys, platform.jwks()).unwrap();
    let mut open = Command::new("chmod");
    Ran::of(open.args(["0666"]).arg(&keys)).ok();
    let (code, why) = serve_fails(&home);
    assert!(code == 78 && why.contains("others can change it"), "{why}");
}

#[test]
fn a_workload_and_a_user_never_share_a_name_and_a_session_ends_with_the_log_that_knows_it() {
    let platform = Platform::new();
    let tables = table("bob", "github", "claims = { repository = \"clinic/web\" }");
    let ca = Ca::on(platform.home(&tables));
    let job = runner(&ca);
    login(&job, &platform.github(&json!({}))).ok();
    // When the table is gone, so is its session; and then the name is free.
    let address = ca.address().to_owned();
    let home = ca.stop();
    let path = home.path().join("hallpass.toml");
    let with = fs::read_to_string(&path).unwrap();
    fs::write(&path, with.replace(&tables, "")).unwrap();
    let ca = Ca::at(home, &address);
    assert_eq!(job.hallpass(["whoami"]).code, 77);
    ca.enrol("bob", &[]);
    let home = ca.stop();
    fs::write(&path, with).unwrap();
    let ca = Ca::at(home, &address);
    login(&job, &platform.github(&json!({}))).fails_with(77, "a user of the workload's name");
    assert_eq!(newest_code(&ca), "name-in-use");
}

/// Has the log grow to that many entries.
fn grow_to(ca: &Ca, entries: u64) {
    let admin = ca.admin();
    let ask = json!({"role": "none", "purpose": "none", "public_key": "", "possession": ""});
    let size = || ca.home.lines().len() as u64;
    for _ in size()..entries {
        let ask = admin.asks(ca, "POST", "/v1/certificates/ssh").json(&ask);
        assert_eq!(ask.send().status, 403);
    }
    assert_eq!(size(), entries);
}

#[test]
fn a_session_whose_end_is_archived_stays_over() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    // Of archived entries, each 256th stays in the database.
    grow_to(&ca, 256);
    login(&job, &platform.github(&json!({}))).ok();
    assert_eq!(
        ca.home.entries("session-begun").pop().unwrap()["index"],
        256
    );
    let key = job.session_key();
    job.hallpass(["logout"]).ok();
    // The newest 1000 are never archived.
    grow_to(&ca, 1600);
    // Nor is what comes after the last certificate: the server gets one when it starts.
    let address = ca.address().to_owned();
    let ca = Ca::at(ca.stop(), &address);
    let archive = ["audit", "archive", "--before", "2199-01-01T00:00:00Z"];
    ca.admin().hallpass(archive).ok();
    let kinds: Vec<String> = {
        let database = rusqlite::Connection::open(ca.home.database()).unwrap();
        let mut kinds = database
            .prepare("SELECT kind FROM entries WHERE kind LIKE 'session-%'")
            .unwrap();
        let kinds = kinds.query_map([], |row| row.get(0)).unwrap();
        kinds.collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(kinds, ["session-begun"]);
    let ca = Ca::at(ca.stop(), &address);
    let whoami = Request::new(&ca, &key, "GET", "/v1/whoami").send();
    assert_eq!(whoami.status, 401);
    assert_eq!(newest_code(&ca), "unknown-key");
}

#[test]
fn after_a_restore_no_session_and_no_earlier_token_counts() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    let used = platform.github(&json!({}));
    let admin = ca.admin();
    let backup = admin.folder.join("backup");
    login(&job, &platform.github(&json!({}))).ok();
    let home_folder = ca.home.path();
    let mut take = crate::support::program();
    take.args(["backup", backup.to_str().unwrap(), "--home"])
        .arg(&home_folder);
    Ran::of(&mut take).ok();
    login(&runner(&ca), &used).ok();
    let address = ca.address().to_owned();
    let home = ca.stop();
    let other = Home::unmade();
    let mut restore = crate::support::program();
    restore
        .args(["restore", backup.to_str().unwrap(), "--home"])
        .arg(other.path());
    Ran::of(&mut restore).ok();
    // What hallpass.toml names beside the home's own files is not in a backup.
    fs::write(other.path().join("platform.jwks"), platform.jwks()).unwrap();
    drop(home);
    let ca = Ca::at(other, &address);
    assert_eq!(job.hallpass(["whoami"]).code, 77);
    login(&runner(&ca), &used).fails_with(77, "is forgotten");
    assert_eq!(newest_code(&ca), "token-forgotten");
    // One that was made with a clock as far ahead as is let pass could have been used before as well.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    login(&job, &platform.github(&json!({}))).fails_with(77, "in a minute");
    login(&job, &platform.github(&json!({"iat": now + 60}))).ok();
}

#[test]
fn programs_that_are_started_have_no_token() {
    let platform = Platform::new();
    let home = platform.home(&deploy_web());
    permit(&home);
    let ca = Ca::on(home);
    let job = runner(&ca);
    let token = platform.github(&json!({}));
    login(&job, &token).ok();
    // A stand-in for ssh tells what it was given.
    let bin = job.folder.private("bin");
    let seen = job.folder.join("seen");
    let script = format!("#!/bin/sh\nenv > '{}'\n", seen.display());
    let fake = bin.join("ssh");
    fs::write(&fake, script).unwrap();
    Ran::of(Command::new("chmod").arg("+x").arg(&fake)).ok();
    let path = std::env::var("PATH").unwrap();
    let mut ssh = job.command();
    ssh.args("ssh --role deploy --purpose deploy -- host".split(' '))
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HALLPASS_ID_TOKEN", &token)
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:1/")
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a-secret-of-githubs");
    Ran::of(&mut ssh).ok();
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("PATH="), "{seen}");
    assert!(
        !seen.contains(&token) && !seen.contains("a-secret-of-githubs"),
        "{seen}"
    );
}

#[test]
fn a_job_without_a_token_is_told_where_tokens_come_from() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    job.hallpass(["workload", "login"])
        .fails_with(66, "id-token: write");
    job.hallpass(["workload", "login", "--token-file", "none"])
        .fails_with(66, "none");
    let file = job
        .folder
        .write("token", platform.github(&json!({})) + "\n");
    job.hallpass(["workload", "login", "--token-file", file.to_str().unwrap()])
        .ok();
    // From a CA that lets none in.
    let other = Ca::start();
    let job = runner(&other);
    login(&job, &platform.github(&json!({}))).fails_with(77, "has no [[workload]]");
}

#[test]
fn githubs_own_way_to_a_token_works() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/token?api-version=2",
        listener.local_addr().unwrap()
    );
    let token = platform.github(&json!({}));
    let github = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        let body = json!({ "value": token }).to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        String::from_utf8_lossy(&request[..length]).to_lowercase()
    });
    let mut command = job.command();
    command
        .args(["workload", "login", "--audience", AUDIENCE])
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "bearer-of-githubs");
    Ran::of(&mut command).ok();
    let asked = github.join().unwrap();
    assert!(
        asked.contains("audience=https%3a%2f%2fca.example.org%3a8443"),
        "{asked}"
    );
    assert!(
        asked.contains("authorization: bearer bearer-of-githubs"),
        "{asked}"
    );
    // It goes to nobody in the clear.
    let mut command = job.command();
    command
        .args(["workload", "login"])
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", "http://192.0.2.1/")
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "bearer-of-githubs");
    Ran::of(&mut command).fails_with(66, "not one of HTTPS");
}

#[test]
fn a_captured_login_is_worth_nothing_to_another_key() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = Person::stranger();
    let token = platform.github(&json!({}));
    let request = job.asks(&ca, "POST", "/v1/login/workload");
    let bytes = request.json(&json!({ "token": token })).bytes();
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 200);
    // Sent again, and with another key in its place.
    assert_eq!(exchange(&ca, &bytes).unwrap().status, 401);
    let thief = runner(&ca);
    login(&thief, &token).fails_with(77, "is good once");
    // A token in the place of a session is none.
    let other = Request::new(&ca, &thief.key, "GET", "/v1/whoami").send();
    assert_eq!(other.status, 401);
    assert_eq!(ca.home.entries("session-begun").len(), 1);
}

#[test]
fn with_an_agent_the_key_of_a_job_is_in_it() {
    let platform = Platform::new();
    let ca = Ca::on(platform.home(&deploy_web()));
    let job = runner(&ca);
    let agent = Agent::start();
    let mut command = job.command();
    command
        .args(["workload", "login"])
        .env("HALLPASS_ID_TOKEN", platform.github(&json!({})));
    agent.run(&mut command).ok();
    assert!(agent.lines().contains("hallpass login"));
    let mut whoami = job.command();
    let said = agent.run(whoami.arg("whoami")).ok();
    assert!(said.contains("deploy-web"), "{said}");
}
