//! `hallpass` as a person runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Agent, Ca, Person, Ran, Sshd, run, wait_until};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn login(sshd: &Sshd, more: &[&str]) -> Vec<String> {
    let prefix = [
        "ssh",
        "--role",
        "server-operator",
        "--purpose",
        "incident",
        "--reason",
        "x",
    ];
    let mut arguments: Vec<String> = prefix
        .iter()
        .chain(more)
        .map(|&word| word.to_owned())
        .collect();
    arguments.push("--".to_owned());
    arguments.extend(sshd.target());
    arguments.push("echo in".to_owned());
    arguments
}

#[test]
fn with_an_agent_the_private_key_is_in_no_file_and_goes_with_the_certificate() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    let agent = Agent::start();
    let ran = agent.run(bob.command().args(login(&sshd, &["--ttl", "6s"])));
    assert_eq!(ran.ok(), "in\n");
    let held = agent.run(Command::new("ssh-add").args(["-L"])).ok();
    assert!(held.contains("ssh-ed25519-cert-v01@openssh.com"), "{held}");
    for file in bob.runtime_files() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("PRIVATE KEY"), "{}", file.display());
        assert!(mode(&file) & 0o077 == 0 || file.extension().is_some_and(|e| e == "pub"));
    }
    wait_until("the agent forgets the key", || {
        agent.lines().contains("no identities")
    });
}

#[test]
fn without_an_agent_the_key_is_0600_in_a_private_folder_until_it_ends() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    bob.hallpass(login(&sshd, &["--ttl", "4s"])).ok();
    let keys = |person: &Person| {
        let mut files = person.runtime_files();
        files
            .retain(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("PRIVATE KEY")));
        files
    };
    let found = keys(&bob);
    assert_eq!(found.len(), 1);
    assert_eq!(mode(&found[0]), 0o600);
    assert_eq!(mode(found[0].parent().unwrap()), 0o700);
    assert_eq!(mode(&bob.folder.join("runtime/hallpass")), 0o700);
    // What has ended is swept away by the next run of any kind.
    std::thread::sleep(std::time::Duration::from_secs(5));
    bob.hallpass(["whoami"]).ok();
    assert!(keys(&bob).is_empty());
}

#[test]
fn the_sweep_takes_nothing_that_is_not_a_session_of_ours() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let runtime = bob.folder.private("runtime/hallpass");
    for name in ["keys", "policies", "a.b", ".draft-x", "request.7"] {
        fs::create_dir(runtime.join(name)).unwrap();
        fs::write(runtime.join(name).join("file"), "precious").unwrap();
    }
    bob.hallpass(["whoami"]).ok();
    for name in ["keys", "policies", "a.b", ".draft-x", "request.7"] {
        assert!(runtime.join(name).join("file").exists(), "{name}");
    }
}

#[test]
fn a_certificate_that_is_still_good_is_used_again_for_the_same_and_only_for_that() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    let agent = Agent::start();
    let issued = || ca.home.entries("certificate-issued").len();
    for with_agent in [false, true] {
        let before = issued();
        let once = |more: &[&str]| {
            let mut command = bob.command();
            command.args(login(&sshd, more));
            let ran = if with_agent {
                agent.run(&mut command)
            } else {
                Ran::of(&mut command)
            };
            ran.ok();
        };
        once(&["--ttl", "11m"]);
        if with_agent {
            // The one in the file is as good as one in the agent.
            assert_eq!(issued(), before);
            continue;
        }
        assert_eq!(issued(), before + 1);
        once(&["--ttl", "11m"]);
        assert_eq!(issued(), before + 1);
        once(&["--ttl", "12m"]);
        assert_eq!(issued(), before + 2);
    }
    // Gone from the agent, it is of no use any more.
    let mut command = bob.command();
    agent
        .run(command.args(login(&sshd, &["--ttl", "13m"])))
        .ok();
    let before = issued();
    agent
        .run(bob.command().args(login(&sshd, &["--ttl", "13m"])))
        .ok();
    assert_eq!(issued(), before);
    agent.run(Command::new("ssh-add").args(["-D"])).ok();
    agent
        .run(bob.command().args(login(&sshd, &["--ttl", "13m"])))
        .ok();
    assert_eq!(issued(), before + 1);
}

#[test]
fn many_runs_at_once_need_one_certificate() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(bob.hallpass(login(&sshd, &[])).ok(), "in\n"));
        }
    });
    assert_eq!(ca.home.entries("certificate-issued").len(), 1);
}

#[test]
fn the_agent_signs_requests_when_it_alone_has_the_key() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let agent = Agent::start();
    let key = bob.folder.join("key");
    agent.add(&key);
    fs::remove_file(&key).unwrap();
    let connect = ["connect", &ca.url, "--fingerprint", &ca.fingerprint];
    agent.run(bob.command().args(connect)).ok();
    assert!(agent.run(bob.command().arg("whoami")).ok().contains("bob"));
    // Without the agent there is nobody to sign.
    let ran = bob.hallpass(["whoami"]);
    assert_eq!(ran.code, 66, "{ran:?}");
    assert!(
        ran.err.contains("needs its private key in the agent"),
        "{ran:?}"
    );
}

#[test]
fn a_fresh_key_and_certificate_are_put_where_they_are_asked_for() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let ssh = bob.request("server-operator --purpose incident --reason=x --ttl 10m --out access");
    assert_eq!(ssh["kind"], "ssh");
    assert_eq!(ssh["good_for"][0], "operator");
    let access = bob.folder.join("access");
    assert_eq!(mode(&access), 0o700);
    assert_eq!(mode(&access.join("server-operator")), 0o600);
    let x509 = bob.request("patients-read --purpose incident --reason=INC-1 --out access");
    assert_eq!(x509["kind"], "x509");
    assert_eq!(mode(&access.join("patients-read.key")), 0o600);
    // Again over our own, but never over anything else.
    bob.request("server-operator --purpose incident --reason=x --ttl 10m --out access");
    fs::remove_file(access.join("server-operator-cert.pub")).unwrap();
    let ran = bob.hallpass([
        "request",
        "server-operator",
        "--purpose",
        "incident",
        "--reason",
        "x",
        "--out",
        "access",
    ]);
    assert_eq!(ran.code, 73, "{ran:?}");
    assert!(
        ran.err
            .contains("is not from an earlier `hallpass request`"),
        "{ran:?}"
    );
}

#[test]
fn inspect_puts_certificates_into_words() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let ssh = bob.request("server-operator --purpose incident --reason=x");
    let x509 = bob.request("patients-read --purpose incident --reason=INC-1");
    for (answer, words) in [
        (
            &ssh,
            [
                "user=bob role=server-operator purpose=incident",
                "operator",
                "permit-pty",
            ],
        ),
        (&x509, ["UID=bob", "patients_read", "purpose=incident"]),
    ] {
        let shown = run(
            env!("CARGO_BIN_EXE_hallpass"),
            ["inspect", answer["certificate"].as_str().unwrap()],
        )
        .ok();
        for word in words {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        assert!(
            shown.contains(answer["serial"].as_str().unwrap()),
            "{shown}"
        );
    }
}

#[test]
fn roles_are_shown_with_their_purposes_and_longest_lifetimes() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let shown = bob.hallpass(["role", "list"]).ok();
    for words in [
        "server-operator",
        "incident (at most 1h)",
        "maintenance (at most 30m)",
        "patients-read",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(
        !shown.contains("database-maintenance") && !shown.contains("support"),
        "{shown}"
    );
    let nobody = ca.enrol("nobody", &[]);
    assert_eq!(
        nobody.hallpass(["role", "list"]).ok(),
        "Policy grants you no role before it knows a reason: ask an administrator for a group.\n"
    );
}

#[test]
fn another_ca_in_the_place_of_the_pinned_one_gets_nothing() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let other = Ca::on(crate::support::Home::of_another_ca());
    let ran = bob.hallpass(["connect", &other.url, "--fingerprint", &ca.fingerprint]);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ran.err.contains("is another CA"), "{ran:?}");
    assert!(ran.err.contains("nothing was sent or kept"), "{ran:?}");
    // And when it takes the address later on.
    let config = bob.folder.join("config/client.toml");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace(&ca.url, &other.url);
    fs::write(&config, text).unwrap();
    let ran = bob.hallpass(["whoami"]);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ran.err.contains("does not prove to be your CA"), "{ran:?}");
    assert!(other.home.entries("unauthenticated-refused").is_empty());
}

#[test]
fn a_certificate_for_another_name_is_not_taken() {
    let home = crate::support::Home::new();
    let ca = Ca::with(home, |serve| {
        serve.env("HALLPASS_NAMES", "ca.example.org");
    });
    let bob = Person::stranger();
    let key = bob.folder.join("key");
    let ran = bob.hallpass([
        "connect",
        &ca.url,
        "--fingerprint",
        &ca.fingerprint,
        "--ssh-key",
        key.to_str().unwrap(),
    ]);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ran.err.contains("127.0.0.1"), "{ran:?}");
}

#[test]
fn host_certificates_are_administrators_to_give_and_logged() {
    let ca = Ca::start();
    let admin = ca.admin();
    let host = Person::stranger();
    let key = host.folder.join("key.pub");
    let sign = [
        "host-cert",
        "ssh",
        key.to_str().unwrap(),
        "--name",
        "app-1",
        "--name",
        "10.0.0.7",
    ];
    admin.hallpass(sign.into_iter().chain(["--ttl", "7d"])).ok();
    let certificate = host.folder.join("key-cert.pub");
    let shown = run("ssh-keygen", ["-L", "-f", certificate.to_str().unwrap()]).ok();
    assert!(shown.contains("host certificate"), "{shown}");
    assert!(
        shown.contains("app-1\n                10.0.0.7\n"),
        "{shown}"
    );
    let entry = ca.home.entries("host-certificate-issued").pop().unwrap();
    assert_eq!(entry["event"]["by"]["requester"], "alice");
    assert_eq!(
        entry["event"]["names"],
        serde_json::json!(["app-1", "10.0.0.7"])
    );
}

#[test]
fn trust_prints_what_hosts_and_databases_take() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let public = |name: &str| fs::read_to_string(ca.home.path().join("keys").join(name)).unwrap();
    assert_eq!(
        bob.hallpass(["trust", "ssh-user"]).ok(),
        public("ssh-user-1.pub")
    );
    assert_eq!(
        bob.hallpass(["trust", "ssh-host"]).ok(),
        format!("@cert-authority * {}", public("ssh-host-1.pub"))
    );
    assert_eq!(
        bob.hallpass(["trust", "x509"]).ok(),
        public("x509-root-1.pem")
    );
}

#[test]
fn completions_and_the_man_page_fit_the_shells_and_man() {
    let nobody = Person::stranger();
    let bash = nobody
        .folder
        .write("bash", nobody.hallpass(["completions", "bash"]).ok());
    run("bash", ["-n", bash.to_str().unwrap()]).ok();
    let script = format!(
        "source {}; COMP_WORDS=(hallpass re); COMP_CWORD=1; _hallpass hallpass re hallpass; echo ${{COMPREPLY[@]}}",
        bash.display()
    );
    assert_eq!(run("bash", ["-c", &script]).ok(), "request restore\n");
    assert!(
        nobody
            .hallpass(["completions", "zsh"])
            .ok()
            .starts_with("#compdef hallpass")
    );
    assert!(
        nobody
            .hallpass(["completions", "fish"])
            .ok()
            .contains("complete -c hallpass")
    );
    let man = nobody.hallpass(["man"]).ok();
    assert!(man.contains(".TH hallpass 1"), "{man}");
    for command in ["init", "serve", "request", "ssh", "psql", "audit"] {
        assert!(man.contains(command), "{command}");
    }
}

#[test]
fn the_log_is_listed_by_who_what_why_and_when() {
    let ca = Ca::start();
    let (bob, eve) = (
        ca.enrol("bob", &["on-call"]),
        ca.enrol("eve", &["deployers"]),
    );
    bob.request("server-operator --purpose incident --reason=x");
    bob.request("patients-read --purpose incident --reason=INC-1");
    eve.request("deploy --purpose deploy");
    let admin = ca.admin();
    let count = |filter: &[&str]| {
        let arguments = ["audit", "list", "--json"].iter().chain(filter);
        admin.hallpass(arguments).ok().lines().count()
    };
    assert_eq!(count(&["--user", "eve"]), 2);
    assert_eq!(count(&["--role", "deploy"]), 1);
    assert_eq!(count(&["--purpose", "incident"]), 2);
    assert_eq!(count(&["--user", "bob", "--role", "patients-read"]), 1);
    assert_eq!(count(&["--until", "2026-01-01T00:00:00Z"]), 0);
    assert_eq!(count(&["--since", "2026-01-01T00:00:00Z"]), count(&[]));
    let table = admin.hallpass(["audit", "list", "--user", "bob"]).ok();
    assert!(table.starts_with("ENTRY"), "{table}");
    assert!(table.contains("INC-1"), "{table}");
}
