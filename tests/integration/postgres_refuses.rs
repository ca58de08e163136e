//! What a stock PostgreSQL refuses. Each certificate but one differs in one thing only from one
//! that opens the door.

use std::path::PathBuf;
use std::time::Duration;

use hallpass::certificate::{IssuingCa, Validity};
use hallpass::client::now;
use hallpass::model::{KeyId, KeyKind};

use crate::support::{
    Ca, Folder, Home, Postgres, Ran, Thief, client_key, forge_client, wait_until,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Whoever holds the CA's keys, with a key to certify.
struct Forger {
    ca: IssuingCa,
    folder: Folder,
}

impl Forger {
    fn with(home: &Home) -> Self {
        Self {
            ca: Thief::of(home).issuing(KeyId::first(KeyKind::X509Issuing)),
            folder: client_key(),
        }
    }

    fn certificate(&self, user: &str, validity: Validity) -> PathBuf {
        forge_client(&self.ca, &self.folder, user, validity)
    }
}

#[test]
fn expired_early_wrong_user_wrong_ca_and_server_certificates() {
    let ca = Ca::start();
    let postgres = Postgres::start(&ca);
    let forger = Forger::with(&ca.home);
    let root = ca.home.path().join("keys/x509-root-1.pem");
    let key = forger.folder.join("client.key");
    let now = now();
    let good = Validity {
        after: now.minus(HOUR),
        before: now.plus(HOUR),
    };
    // PostgreSQL 15 logs that a certificate was refused; which check refused it, the TLS alert
    // tells the client.
    let refused = |ran: &Ran, alert: &str, logged: &str| {
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.contains(alert), "{alert}: {ran:?}");
        wait_until(logged, || postgres.log().contains(logged));
    };
    let not_verified = "could not accept SSL connection: certificate verify failed";
    let psql = |certificate: &PathBuf| postgres.psql("patients_read", certificate, &key, &root);

    // The one that opens the door.
    let certificate = forger.certificate("patients_read", good);
    assert_eq!(psql(&certificate).ok(), "ward 3\n");

    let expired = Validity {
        before: now.minus(Duration::from_secs(1)),
        ..good
    };
    let certificate = forger.certificate("patients_read", expired);
    refused(&psql(&certificate), "certificate expired", not_verified);

    let early = Validity {
        after: now.plus(HOUR),
        before: now.plus(HOUR * 2),
    };
    let certificate = forger.certificate("patients_read", early);
    refused(&psql(&certificate), "bad certificate", not_verified);

    let certificate = forger.certificate("maintenance", good);
    refused(
        &psql(&certificate),
        "certificate authentication failed for user \"patients_read\"",
        "provided user name (patients_read) and authenticated user name (maintenance) do not match",
    );

    let other = Forger::with(&Home::of_another_ca());
    let certificate = other.certificate("patients_read", good);
    let ran = postgres.psql(
        "patients_read",
        &certificate,
        &other.folder.join("client.key"),
        &root,
    );
    refused(&ran, "unknown ca", not_verified);

    // A server's certificate whose CN is the database user.
    let csr = forger.folder.join("client.csr");
    let arguments = [
        "host-cert",
        "tls",
        csr.to_str().unwrap(),
        "--name",
        "maintenance",
    ];
    ca.admin().hallpass(arguments).ok();
    let certificate = forger.folder.join("client.crt");
    let ran = postgres.psql("maintenance", &certificate, &key, &root);
    refused(&ran, "alert", not_verified);

    // And none at all.
    let none = PathBuf::from("/nowhere");
    let ran = postgres.psql("patients_read", &none, &none, &root);
    refused(
        &ran,
        "requires a valid client certificate",
        "requires a valid client certificate",
    );
}

#[test]
fn a_certificate_that_was_good_a_moment_ago_is_refused_when_it_has_ended() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let postgres = Postgres::start(&ca);
    bob.request("patients-read --purpose incident --reason=INC-7 --ttl 5s --out access");
    let file = |name: &str| bob.folder.join("access").join(name);
    let login = || {
        postgres.psql(
            "patients_read",
            &file("patients-read.crt"),
            &file("patients-read.key"),
            &file("root.crt"),
        )
    };
    assert_eq!(login().ok(), "ward 3\n");
    std::thread::sleep(Duration::from_secs(6));
    let refused = login();
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("certificate expired"), "{refused:?}");
}
