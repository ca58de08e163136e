//! What a stock sshd refuses. Each certificate but one differs in one thing only from one that
//! opens the door, and is signed by the CA's own key where the CA itself would never sign it.

use std::fs;
use std::time::Duration;

use hallpass::certificate::{SshCa, SshHostGrant, Validity};
use hallpass::client::now;
use hallpass::model::{EntryIndex, KeyId, KeyKind, Serial};
use ssh_key::HashAlg;

use crate::support::{Agent, Ca, Home, Person, Ran, Sshd, Thief, forge_ssh, wait_until};

const HOUR: Duration = Duration::from_secs(3600);

/// Whoever holds the CA's keys.
struct Forger {
    ca: SshCa,
    person: Person,
}

struct Forged {
    principal: &'static str,
    network: &'static str,
    validity: Validity,
}

impl Forger {
    fn with(home: &Home, kind: KeyKind) -> Self {
        Self {
            ca: Thief::of(home).ssh(KeyId::first(kind)),
            person: Person::stranger(),
        }
    }

    fn user(&self, forged: &Forged) -> String {
        let networks = [forged.network];
        let Forged {
            principal,
            validity,
            ..
        } = *forged;
        forge_ssh(&self.ca, &self.person, principal, &networks, validity)
    }

    fn host(&self, validity: Validity) -> String {
        let grant = SshHostGrant {
            subject: self.person.key.public_key().key_data(),
            serial: Serial::new(7).unwrap(),
            entry: EntryIndex(7),
            requester: "mallory",
            names: &["operator".parse().unwrap()],
            validity,
            nonce: [7; 32],
        };
        self.ca.host_certificate(&grant).unwrap()
    }

    /// Offers the key with a certificate. From an agent: given a file, `ssh` itself would hold
    /// back what it takes for useless.
    fn offer(&self, sshd: &Sshd, certificate: &str) -> Ran {
        self.person.folder.write("key-cert.pub", certificate);
        let agent = Agent::start();
        agent.add(&self.person.folder.join("key"));
        agent.run(&mut sshd.ssh::<&str>([]))
    }
}

#[test]
fn expired_early_wrong_principal_address_ca_and_host_certificates() {
    let ca = Ca::start();
    let sshd = Sshd::start(&ca, &["operator"]);
    let forger = Forger::with(&ca.home, KeyKind::SshUser);
    let now = now();
    let good = || Forged {
        principal: "operator",
        network: "127.0.0.0/8",
        validity: Validity {
            after: now.minus(HOUR),
            before: now.plus(HOUR),
        },
    };
    let refused = |certificate: &str, because: &str| {
        let before = sshd.log().len();
        let ran = forger.offer(&sshd, certificate);
        assert_eq!((ran.code, ran.out.as_str()), (255, ""), "{because}");
        assert!(ran.err.contains("Permission denied (publickey)"), "{ran:?}");
        wait_until(because, || sshd.log()[before..].contains(because));
    };

    // The one that opens the door: all that follows is refused for what is different in it.
    assert_eq!(forger.offer(&sshd, &forger.user(&good())).ok(), "in\n");

    let expired = Forged {
        validity: Validity {
            after: now.minus(HOUR),
            before: now.minus(Duration::from_secs(1)),
        },
        ..good()
    };
    refused(&forger.user(&expired), "Certificate invalid: expired");
    let early = Forged {
        validity: Validity {
            after: now.plus(HOUR),
            before: now.plus(HOUR * 2),
        },
        ..good()
    };
    refused(&forger.user(&early), "Certificate invalid: not yet valid");
    let principal = Forged {
        principal: "deploy",
        ..good()
    };
    refused(
        &forger.user(&principal),
        "Certificate does not contain an authorized principal",
    );
    let elsewhere = Forged {
        network: "192.0.2.0/24",
        ..good()
    };
    refused(
        &forger.user(&elsewhere),
        "not from a permitted source address",
    );
    refused(
        &forger.host(good().validity),
        "Certificate invalid: not a user certificate",
    );
    let other = Forger {
        ca: Forger::with(&Home::of_another_ca(), KeyKind::SshUser).ca,
        person: Person::stranger(),
    };
    let ran = other.offer(&sshd, &other.user(&good()));
    assert_eq!((ran.code, ran.out.as_str()), (255, ""));
    assert_unknown_ca(&sshd, &other.ca);
}

/// The newest attempt failed on a certificate of this CA, which sshd took for nobody's.
fn assert_unknown_ca(sshd: &Sshd, ca: &SshCa) {
    let signed_by = format!(
        "CA ED25519 {}",
        ca.public_key().fingerprint(HashAlg::Sha256)
    );
    wait_until("sshd's refusal", || {
        let log = sshd.log();
        let line = log.lines().find(|line| line.contains(&signed_by));
        line.is_some_and(|line| line.starts_with("Failed publickey"))
    });
}

#[test]
fn a_host_certificate_of_the_ca_opens_nothing() {
    let ca = Ca::start();
    let sshd = Sshd::start(&ca, &["operator"]);
    let mallory = Person::stranger();
    let key = mallory.folder.join("key.pub");
    ca.admin()
        .hallpass([
            "host-cert",
            "ssh",
            key.to_str().unwrap(),
            "--name",
            "operator",
        ])
        .ok();
    let certificate = fs::read_to_string(mallory.folder.join("key-cert.pub")).unwrap();
    let forger = Forger {
        ca: Forger::with(&ca.home, KeyKind::SshHost).ca,
        person: mallory,
    };
    let ran = forger.offer(&sshd, &certificate);
    assert_eq!((ran.code, ran.out.as_str()), (255, ""));
    // The host CA is a key of its own, which no sshd takes users' certificates from.
    assert_unknown_ca(&sshd, &forger.ca);
}

#[test]
fn a_certificate_that_was_good_a_moment_ago_is_refused_when_it_has_ended() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    bob.request("server-operator --purpose incident --reason=x --ttl 5s --out access");
    let login = || {
        let key = bob.folder.join("access/server-operator");
        let key = key.to_str().unwrap();
        Ran::of(&mut sshd.ssh(["-i", key, "-o", "IdentitiesOnly=yes"]))
    };
    assert_eq!(login().ok(), "in\n");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(login().code, 255);
    wait_until("sshd's refusal", || {
        sshd.log().contains("Certificate invalid: expired")
    });
}

#[test]
fn a_certificate_bound_to_its_requesters_address_is_useless_elsewhere() {
    let ca = Ca::start();
    let eve = ca.enrol("eve", &["deployers"]);
    let sshd = Sshd::start(&ca, &["deploy"]);
    let login = |from: &str| {
        let asked = [
            "ssh",
            "--role",
            "deploy",
            "--purpose",
            "deploy",
            "--",
            "-b",
            from,
        ];
        let arguments = asked.map(str::to_owned).into_iter().chain(sshd.target());
        eve.hallpass(arguments.chain(["echo in".to_owned()]))
    };
    assert_eq!(login("127.0.0.1").ok(), "in\n");
    let refused = login("127.0.0.2");
    assert_eq!((refused.code, refused.out.as_str()), (255, ""));
    wait_until("sshd's refusal", || {
        sshd.log().contains("not from a permitted source address")
    });
}
