//! Every CA key is rotated all the way round while people log in all the time and the CA is killed at
//! every step.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hallpass::certificate::Validity;
use hallpass::client::now;
use hallpass::model::{KeyId, KeyKind};
use serde_json::Value;

use crate::support::{
    Agent, Ca, Host, Person, Ran, Thief, client_key, forge_client, forge_ssh, short_lived,
    wait_until,
};

const CLIENTS: usize = 20;
/// What `hallpass` ends with when the CA does not answer: that is no login that failed.
const NO_CA: i32 = 69;

#[test]
fn no_login_fails_and_afterwards_no_old_key_opens_anything() {
    let ca = Ca::on(short_lived("25s", "25s"));
    let address = ca.address().to_owned();
    let admin = ca.admin();
    let people: Vec<Person> = (0..CLIENTS)
        .map(|number| ca.enrol(&format!("user-{number}"), &["on-call"]))
        .collect();
    let servers = ["app-1", "app-2", "app-3"].map(Host::with_sshd);
    let database = Host::with_postgres("db-1");
    for host in servers.iter().chain([&database]) {
        host.take_in(&ca, &["--ttl", "24s"]);
    }
    let _watching: Vec<_> = servers.iter().chain([&database]).map(Host::watch).collect();

    let (done, logins) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    let ca = Mutex::new(Some(ca));
    std::thread::scope(|scope| {
        for (number, person) in people.iter().enumerate() {
            let host = servers.get(number % 4).unwrap_or(&database);
            let (done, logins, failures) = (&done, &logins, &failures);
            scope.spawn(move || {
                let mut certified = Instant::now();
                while !done.load(Ordering::Relaxed) {
                    // On a busy machine, a login must not outlive its certificate.
                    if certified.elapsed() > Duration::from_secs(10) {
                        person.forget_certificates();
                        certified = Instant::now();
                    }
                    let ran = login(person, host);
                    if ran.code == 0 {
                        logins.fetch_add(1, Ordering::Relaxed);
                    } else if ran.code != NO_CA {
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("{}: {ran:?}", host.name));
                    }
                    std::thread::sleep(Duration::from_millis(2500));
                }
            });
        }
        let rotated: Vec<bool> = [
            &["ssh-user"][..],
            &["ssh-host"],
            &["x509-issuing", "x509-root"],
            &["log"],
        ]
        .map(|kinds| {
            let (ca, address, admin) = (&ca, &address, &admin);
            scope.spawn(move || kinds.iter().all(|kind| rotate(ca, address, admin, kind)))
        })
        .into_iter()
        .map(|rotation| rotation.join().unwrap_or(false))
        .collect();
        std::thread::sleep(Duration::from_secs(2));
        // Whatever happened: nobody would wait for clients that never end.
        done.store(true, Ordering::Relaxed);
        assert_eq!(rotated, [true; 4], "rotations that ended");
    });
    let ca = ca.into_inner().unwrap().unwrap();
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} logins failed, first: {}",
        failures.len(),
        logins.load(Ordering::Relaxed) + failures.len(),
        failures[0]
    );
    let logins = logins.into_inner();
    assert!(logins > 5 * CLIENTS, "{logins} logins");

    let states = admin.hallpass(["key", "list"]).ok();
    assert_eq!(states.matches("  active").count(), 5, "{states}");
    assert!(
        !states.contains("retiring") && !states.contains("staged"),
        "{states}"
    );
    let (bob, thief) = (&people[0], Thief::of(&ca.home));
    for (id, is_active) in keys(&admin, KeyKind::SshUser) {
        for host in &servers {
            let tried = try_ssh(&thief, id, host);
            assert_eq!(tried.code == 0, is_active, "{id}: {tried:?}");
        }
    }
    // The last step may be later than what bob holds.
    bob.forget_certificates();
    assert_eq!(login(bob, &servers[0]).code, 0);
    let known = fs::read_to_string(bob.folder.join("config/known_hosts")).unwrap();
    assert_eq!(known.lines().count(), 1, "the new key alone: {known}");
    for (id, is_active) in keys(&admin, KeyKind::X509Issuing) {
        let tried = try_psql(&thief, id, &database);
        assert_eq!(tried.code == 0, is_active, "{id}: {tried:?}");
    }
    let verified = admin.hallpass([
        "audit",
        "verify",
        "--home",
        ca.home.path().to_str().unwrap(),
    ]);
    verified.ok();
    let signs = keys(&admin, KeyKind::Log).pop().unwrap().0;
    let new = fs::read_to_string(ca.home.path().join(format!("keys/{signs}.vkey"))).unwrap();
    for (name, folder) in [
        ("a person", bob.folder.join("config")),
        ("a host", servers[0].folder.join("state")),
    ] {
        wait_until(
            &format!("{name} to know the new key of the log alone"),
            || {
                let known = fs::read_to_string(folder.join("client.toml")).unwrap();
                let signs = format!("log_key = {:?}", new.trim());
                known.contains(&signs) && !known.contains("log_keys = ")
            },
        );
    }
}

fn login(person: &Person, host: &Host) -> Ran {
    let (ask, target) = match (&host.sshd, &host.postgres) {
        (Some(sshd), _) => (
            "ssh --role server-operator --purpose incident --reason x --",
            [&sshd.target()[..], &["true".to_owned()]].concat(),
        ),
        (None, Some(postgres)) => (
            "psql --role patients-read --purpose incident --reason INC-1 --",
            [
                &postgres.target()[..],
                &["-XAtqc", "SELECT name FROM records"].map(str::to_owned),
            ]
            .concat(),
        ),
        (None, None) => unreachable!("a host has something"),
    };
    person.hallpass(ask.split(' ').map(str::to_owned).chain(target))
}

/// All keys of a kind, and whether each signs.
fn keys(admin: &Person, kind: KeyKind) -> Vec<(KeyId, bool)> {
    let out = admin.hallpass(["key", "list", "--all", "--json"]).ok();
    let keys = out.lines().map(|line| {
        let key: Value = serde_json::from_str(line).unwrap();
        let id: KeyId = key["key"].as_str().unwrap().parse().unwrap();
        (id, key["state"] == "active")
    });
    let of_kind: Vec<_> = keys.filter(|(id, _)| id.kind == kind).collect();
    assert!(of_kind.len() > 1, "{out}");
    of_kind
}

/// Follows a rotation to its end. After each step the CA is killed and started again, and the
/// rotation taken up again.
fn rotate(ca: &Mutex<Option<Ca>>, address: &str, admin: &Person, kind: &str) -> bool {
    let restart = || {
        let mut ca = ca.lock().unwrap();
        let home = ca.take().unwrap().kill();
        *ca = Some(Ca::at(home, address));
    };
    let until = Instant::now() + Duration::from_secs(400);
    while Instant::now() < until {
        let mut follow = admin
            .command()
            .args(["key", "rotate", kind, "--follow"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
        let mut retired = false;
        for line in lines.map_while(Result::ok) {
            // A word about what it waits for is no step.
            if line.contains(" is staged: ") || line.contains(" is active: ") {
                restart();
            }
            retired |= line.starts_with(kind) && line.contains(" is retired: ");
        }
        if follow.wait().unwrap().success() && retired {
            restart();
            return true;
        }
        // The CA may be on its way up again.
        std::thread::sleep(Duration::from_millis(200));
    }
    false
}

/// Tries a user certificate by one of the CA's keys.
fn try_ssh(thief: &Thief, id: KeyId, host: &Host) -> Ran {
    let person = Person::stranger();
    let certificate = forge_ssh(&thief.ssh(id), &person, "operator", &[], an_hour());
    person.folder.write("key-cert.pub", certificate);
    let agent = Agent::start();
    agent.add(&person.folder.join("key"));
    agent.run(&mut host.sshd.as_ref().unwrap().ssh::<&str>([]))
}

/// Tries a client certificate by one of the CA's keys.
fn try_psql(thief: &Thief, id: KeyId, host: &Host) -> Ran {
    let folder = client_key();
    let certificate = forge_client(&thief.issuing(id), &folder, "patients_read", an_hour());
    let postgres = host.postgres.as_ref().unwrap();
    let root = postgres.folder.join("data/hallpass_root.pem");
    let root = folder.write("root", fs::read(root).unwrap());
    let key = folder.join("client.key");
    postgres.psql("patients_read", &certificate, &key, &root)
}

fn an_hour() -> Validity {
    Validity::person(now(), "1h".parse().unwrap())
}
