//! Bad input, each with exactly what its sender sees.

use std::fs;

use serde_json::{Value, json};
use ssh_key::PrivateKey;

use crate::support::{Answer, Ca, Folder, P256, Person, Request, exchange, make_csr, run};

/// A body of a request for an SSH certificate, proof and all, with changes.
fn ssh(ca: &Ca, person: &Person, changes: Value) -> Answer {
    let mut ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    change(&mut ask, changes);
    person
        .asks(ca, "POST", "/v1/certificates/ssh")
        .ssh(&person.key, ask)
        .send()
}

fn x509(ca: &Ca, person: &Person, csr: &str, changes: Value) -> Answer {
    let mut ask = json!({
        "role": "patients-read", "purpose": "incident", "reason": "INC-1", "csr": csr,
    });
    change(&mut ask, changes);
    person
        .asks(ca, "POST", "/v1/certificates/x509")
        .json(&ask)
        .send()
}

/// Merges; null takes away.
fn change(ask: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else {
        panic!("changes are an object");
    };
    let ask = ask.as_object_mut().unwrap();
    for (name, value) in changes {
        if value == json!("(none)") {
            ask.remove(&name);
        } else {
            ask.insert(name, value);
        }
    }
}

/// Compares all and tells all that differs at once.
#[derive(Default)]
struct Table {
    differing: String,
    rows: usize,
}

impl Table {
    fn row(&mut self, what: &str, said: impl ToString, expected: &str) {
        let said = said.to_string();
        self.rows += 1;
        if said != expected {
            self.differing += &format!("({what:?}, {said:?})\n");
        }
    }

    fn problem(&mut self, what: &str, answer: &Answer, expected: &str) {
        if answer.status == 200 {
            return self.row(what, "granted", expected);
        }
        let (status, kind, detail) = answer.problem();
        self.row(what, format!("{status} {kind}: {detail}"), expected);
    }

    fn end(self, at_least: usize) {
        assert_eq!(self.differing, "");
        assert!(self.rows >= at_least, "{} rows", self.rows);
    }
}

#[test]
fn the_api_says_what_is_wrong_with_a_request_for_a_certificate() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call", "database-support"]);
    let mut table = Table::default();
    for (what, changes, expected) in [
        (
            "unknown field",
            json!({"principals": ["root"]}),
            "400 illegal-request: principals: unknown field `principals`, expected one of `role`, `purpose`, `reason`, `ttl`, `public_key`, `possession`",
        ),
        (
            "wrong type",
            json!({"role": 7}),
            "400 illegal-request: role: invalid type: integer `7`, expected a string",
        ),
        (
            "null",
            json!({"purpose": null}),
            "400 illegal-request: purpose: invalid type: null, expected a string",
        ),
        (
            "missing field",
            json!({"purpose": "(none)"}),
            "400 illegal-request: the body: missing field `purpose`",
        ),
        (
            "empty role",
            json!({"role": ""}),
            "400 illegal-request: role: role name \"\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "role with a newline",
            json!({"role": "server-operator\n"}),
            "400 illegal-request: role: role name \"server-operator\\n\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "role with NUL",
            json!({"role": "server\u{0}operator"}),
            "400 illegal-request: role: role name \"server\\0operator\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "role with a slash",
            json!({"role": "../server-operator"}),
            "400 illegal-request: role: role name \"../server-operator\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "role that is not there",
            json!({"role": "root"}),
            "403 unknown-role: there is no role root: `hallpass role list` shows yours",
        ),
        (
            "purpose with a space",
            json!({"purpose": "incident entry=1"}),
            "400 illegal-request: purpose: purpose \"incident entry=1\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "purpose with an equals sign",
            json!({"purpose": "a=b"}),
            "400 illegal-request: purpose: purpose \"a=b\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "purpose of another role",
            json!({"purpose": "deploy"}),
            "403 wrong-purpose: role server-operator does not serve purpose deploy, but incident, maintenance",
        ),
        (
            "purpose that is long",
            json!({"purpose": "x".repeat(200)}),
            "400 illegal-request: purpose: purpose \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "no reason",
            json!({"reason": "(none)"}),
            "403 reason-missing: role server-operator needs a --reason",
        ),
        (
            "empty reason",
            json!({"reason": ""}),
            "400 illegal-request: reason: reason \"\" is not legal: use 1 to 500 characters on one line, without control characters",
        ),
        (
            "reason with a newline",
            json!({"reason": "a\nb"}),
            "400 illegal-request: reason: reason \"a\\nb\" is not legal: use 1 to 500 characters on one line, without control characters",
        ),
        (
            "reason with an escape sequence",
            json!({"reason": "\u{1b}[2J"}),
            "400 illegal-request: reason: reason \"\\u{1b}[2J\" is not legal: use 1 to 500 characters on one line, without control characters",
        ),
        (
            "reason of 10000 characters",
            json!({"reason": "x".repeat(10_000)}),
            "400 illegal-request: reason: reason \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\" is not legal: use 1 to 500 characters on one line, without control characters",
        ),
        (
            "ttl of nothing",
            json!({"ttl": "0s"}),
            "400 illegal-request: ttl: ttl \"0s\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "ttl below nothing",
            json!({"ttl": "-5m"}),
            "400 illegal-request: ttl: ttl \"-5m\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "ttl over the maximum",
            json!({"ttl": "2h"}),
            "403 ttl-too-long: role server-operator is granted for at most 1h, not 2h",
        ),
        (
            "ttl over what policy permits",
            json!({"purpose": "maintenance", "ttl": "45m"}),
            "403 denied: policy maintenance-is-short forbids it: Maintenance is granted for at most 30 minutes at a time: ask with --ttl 30m or less.",
        ),
        (
            "ttl without a unit",
            json!({"ttl": "600"}),
            "400 illegal-request: ttl: ttl \"600\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "ttl as a number",
            json!({"ttl": 600}),
            "400 illegal-request: ttl: invalid type: integer `600`, expected a string",
        ),
        (
            "ttl with two units",
            json!({"ttl": "1h30m"}),
            "400 illegal-request: ttl: ttl \"1h30m\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "ttl that overflows",
            json!({"ttl": "99999999999999999999h"}),
            "400 illegal-request: ttl: ttl \"99999999999999999999h\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "a database role",
            json!({"role": "patients-read", "reason": "INC-1"}),
            "403 wrong-kind: role patients-read is for postgres: ask for an X.509 certificate (`hallpass psql`)",
        ),
        (
            "a role that policy denies",
            json!({"role": "deploy", "purpose": "deploy"}),
            "403 denied: no policy permits bob role deploy for purpose deploy: `hallpass role list` shows what you may ask for",
        ),
        (
            "no public key",
            json!({"public_key": "hello"}),
            "400 illegal-request: public_key: this is not an OpenSSH public key: give the one line of a .pub file",
        ),
        (
            "a private key",
            json!({"public_key": private_key(&bob)}),
            "400 illegal-request: the body: this is a private key, which must never leave its machine: replace it, and give its .pub file or a certificate request",
        ),
        (
            "a key with options",
            json!({"public_key": format!("command=\"x\" {}", public_key(&bob.key))}),
            "400 illegal-request: public_key: this is not an OpenSSH public key: give the one line of a .pub file",
        ),
        (
            "two keys",
            json!({"public_key": format!("{0}\n{0}", public_key(&bob.key))}),
            "400 illegal-request: public_key: this is not an OpenSSH public key: give the one line of a .pub file",
        ),
        (
            "a certificate for a key",
            json!({"public_key": certificate(&bob)}),
            "400 illegal-request: public_key: this is a certificate: give the plain public key that it certifies",
        ),
        (
            "RSA 1024",
            json!({"public_key": made(&["-t", "rsa", "-b", "1024"])}),
            "400 illegal-request: public_key: this RSA key has 1024 bits: use 2048 to 8192 bits, or better an Ed25519 key",
        ),
        (
            "a DSA key",
            json!({"public_key": DSA}),
            "400 illegal-request: public_key: keys of type ssh-dss are not taken: use Ed25519, ECDSA (P-256, P-384, P-521), RSA from 2048 bits, or a FIDO2 key",
        ),
        (
            "a key type that nobody knows",
            json!({"public_key": "ssh-kyber AAAACXNzaC1reWJlcgAAAAEB"}),
            "400 illegal-request: public_key: this is not an OpenSSH public key: give the one line of a .pub file",
        ),
        (
            "no proof of possession",
            json!({"possession": ""}),
            "403 no-possession: possession: it does not prove that you hold this key for this request: sign the text that docs/api.md gives with the key to be certified",
        ),
        (
            "half a proof",
            json!({"possession": "-----BEGIN SSH SIGNATURE-----\nAAAA"}),
            "403 no-possession: possession: it does not prove that you hold this key for this request: sign the text that docs/api.md gives with the key to be certified",
        ),
    ] {
        table.problem(what, &ssh(&ca, &bob, changes), expected);
    }
    for (what, body, expected) in [
        (
            "no JSON",
            &b"role=deploy"[..],
            "400 illegal-request: the body: send a JSON object",
        ),
        (
            "half of a JSON",
            b"{\"role\": \"deploy\"",
            "400 illegal-request: the body: EOF while parsing an object at line 1 column 17",
        ),
        (
            "no object",
            b"[1, 2]",
            "400 illegal-request: the body: send a JSON object",
        ),
        (
            "no UTF-8",
            b"{\"role\": \"\xff\"}",
            "400 illegal-request: the body: invalid unicode code point at line 1 column 11",
        ),
        (
            "nothing",
            b"",
            "400 illegal-request: the body: send a JSON object",
        ),
        (
            "a field twice",
            b"{\"role\": \"deploy\", \"role\": \"deploy\"}",
            "400 illegal-request: the body: duplicate field `role`",
        ),
        (
            "something after the end",
            b"{}{}",
            "400 illegal-request: the body: missing field `role`",
        ),
    ] {
        let request = bob.asks(&ca, "POST", "/v1/certificates/ssh").body(body);
        table.problem(what, &request.send(), expected);
    }
    let deep = bob
        .asks(&ca, "POST", "/v1/certificates/ssh")
        .body("[".repeat(60_000));
    table.problem(
        "60000 brackets",
        &deep.send(),
        "400 illegal-request: the body: send a JSON object",
    );

    let good = csr(&P256, &[]);
    let mut forged = good.clone();
    // Within the signature, at the end of the DER.
    let at = forged.find("-----END").unwrap() - 12;
    let other = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    for (what, csr, changes, expected) in [
        (
            "a forged CSR",
            forged.as_str(),
            json!({}),
            "400 illegal-request: csr: the request's signature does not fit its key: make the request again",
        ),
        (
            "no CSR",
            "hello",
            json!({}),
            "400 illegal-request: csr: this is not a certificate signing request: give the PEM of a PKCS#10 request (BEGIN CERTIFICATE REQUEST)",
        ),
        (
            "a certificate for a CSR",
            &ca.home.root_pem(),
            json!({}),
            "400 illegal-request: csr: this is not a certificate signing request: give the PEM of a PKCS#10 request (BEGIN CERTIFICATE REQUEST)",
        ),
        (
            "half a CSR",
            &good[..200],
            json!({}),
            "400 illegal-request: csr: this is not a certificate signing request: give the PEM of a PKCS#10 request (BEGIN CERTIFICATE REQUEST)",
        ),
        (
            "two CSRs",
            &format!("{good}{good}"),
            json!({}),
            "400 illegal-request: csr: this is not a certificate signing request: give the PEM of a PKCS#10 request (BEGIN CERTIFICATE REQUEST)",
        ),
        (
            "a CSR with RSA 1024",
            &csr(&["rsa:1024"], &[]),
            json!({}),
            "400 illegal-request: csr: this RSA key has 1024 bits: use 2048 to 8192 bits, or better an Ed25519 key",
        ),
        (
            "a CSR on an odd curve",
            &csr(&["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"], &[]),
            json!({}),
            "400 illegal-request: csr: the request's key or signature algorithm is not taken: use Ed25519, ECDSA P-256 or P-384, or RSA from 2048 bits, signed with SHA-256 or better",
        ),
        (
            "a CSR signed with SHA-1",
            &csr(&["rsa:2048"], &["-sha1"]),
            json!({}),
            "400 illegal-request: csr: the request's key or signature algorithm is not taken: use Ed25519, ECDSA P-256 or P-384, or RSA from 2048 bits, signed with SHA-256 or better",
        ),
        (
            "a CSR of another kind",
            &csr(&["ed448"], &[]),
            json!({}),
            "400 illegal-request: csr: the request's key or signature algorithm is not taken: use Ed25519, ECDSA P-256 or P-384, or RSA from 2048 bits, signed with SHA-256 or better",
        ),
        (
            "a private key",
            &fs::read_to_string(bob.folder.join("key")).unwrap(),
            json!({}),
            "400 illegal-request: the body: this is a private key, which must never leave its machine: replace it, and give its .pub file or a certificate request",
        ),
        (
            "a reason that does not match",
            &good,
            json!({"reason": "because"}),
            "403 reason-missing: role patients-read needs a --reason that matches (INC|SUP)-[0-9]+",
        ),
        (
            "a reason with a ticket in it",
            &good,
            json!({"reason": "see INC-1"}),
            "403 reason-missing: role patients-read needs a --reason that matches (INC|SUP)-[0-9]+",
        ),
        (
            "an SSH role",
            &good,
            json!({"role": "server-operator"}),
            "403 wrong-kind: role server-operator is for ssh: ask for an SSH certificate (`hallpass ssh`)",
        ),
        (
            "a database user of one's own choice",
            &good,
            json!({"user": "postgres"}),
            "400 illegal-request: user: unknown field `user`, expected one of `role`, `purpose`, `reason`, `ttl`, `csr`",
        ),
    ] {
        table.problem(what, &x509(&ca, &bob, csr, changes), expected);
    }
    table.end(60);
    assert!(ca.home.entries("certificate-issued").is_empty());
    assert!(!ca.server_log().contains("panicked"));
}

#[test]
fn the_api_says_what_is_wrong_with_an_administrators_request() {
    let ca = Ca::start();
    let admin = ca.admin();
    let mut table = Table::default();
    let new = public_key(&Person::stranger().key);
    for (what, method, target, body, expected) in [
        (
            "a name with a newline",
            "POST",
            "/v1/users",
            json!({"name": "bob\nroot", "public_key": new, "groups": []}),
            "400 illegal-request: name: user name \"bob\\nroot\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first",
        ),
        (
            "a name with a space",
            "POST",
            "/v1/users",
            json!({"name": "bob role=root", "public_key": new, "groups": []}),
            "400 illegal-request: name: user name \"bob role=root\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first",
        ),
        (
            "a name with a control character",
            "POST",
            "/v1/users",
            json!({"name": "bob\u{7}", "public_key": new, "groups": []}),
            "400 illegal-request: name: user name \"bob\\u{7}\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first",
        ),
        (
            "an empty name",
            "POST",
            "/v1/users",
            json!({"name": "", "public_key": new, "groups": []}),
            "400 illegal-request: name: user name \"\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first",
        ),
        (
            "a name beyond ASCII",
            "POST",
            "/v1/users",
            json!({"name": "b\u{43e}b", "public_key": new, "groups": []}),
            "400 illegal-request: name: user name \"bоb\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first",
        ),
        (
            "a group with a quote",
            "POST",
            "/v1/users",
            json!({"name": "bob", "public_key": new, "groups": ["a\""]}),
            "400 illegal-request: groups[0]: group name \"a\\\"\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "a user that is there",
            "POST",
            "/v1/users",
            json!({"name": "alice", "public_key": new, "groups": []}),
            "409 conflict: user alice is already enrolled: choose another name, or add a key with `hallpass user key add`",
        ),
        (
            "RSA 1024",
            "POST",
            "/v1/users",
            json!({"name": "bob", "public_key": made(&["-t", "rsa", "-b", "1024"]), "groups": []}),
            "400 illegal-request: public_key: this RSA key has 1024 bits: use 2048 to 8192 bits, or better an Ed25519 key",
        ),
        (
            "a user that is not there",
            "GET",
            "/v1/users/nobody",
            json!({}),
            "404 not-found: there is no user \"nobody\": `hallpass user list` shows all",
        ),
        (
            "oneself, to disable",
            "POST",
            "/v1/users/alice/disable",
            json!({}),
            "409 conflict: you can't do this to yourself: leave it to another administrator",
        ),
        (
            "oneself, to remove",
            "DELETE",
            "/v1/users/alice",
            json!({}),
            "409 conflict: you can't do this to yourself: leave it to another administrator",
        ),
        (
            "a key that is not there",
            "DELETE",
            "/v1/users/alice/keys/SHA256:x",
            json!({}),
            "404 not-found: user alice has no such key: `hallpass user show alice`",
        ),
        (
            "a host name with a wildcard",
            "POST",
            "/v1/host-certificates/ssh",
            json!({"subject": new, "names": ["*"]}),
            "400 illegal-request: names[0]: host name \"*\" is not legal: use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address",
        ),
        (
            "a host name with a comma",
            "POST",
            "/v1/host-certificates/ssh",
            json!({"subject": new, "names": ["a,b"]}),
            "400 illegal-request: names[0]: host name \"a,b\" is not legal: use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address",
        ),
        (
            "a host name with a space",
            "POST",
            "/v1/host-certificates/ssh",
            json!({"subject": new, "names": ["a b"]}),
            "400 illegal-request: names[0]: host name \"a b\" is not legal: use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address",
        ),
        (
            "a host name that is an option",
            "POST",
            "/v1/host-certificates/ssh",
            json!({"subject": new, "names": ["-oProxyCommand=x"]}),
            "400 illegal-request: names[0]: host name \"-oProxyCommand=x\" is not legal: use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address",
        ),
        (
            "no host name",
            "POST",
            "/v1/host-certificates/ssh",
            json!({"subject": new, "names": []}),
            "400 illegal-request: names: give 1 to 32 host names",
        ),
        (
            "a host ttl that is too long",
            "POST",
            "/v1/host-certificates/ssh",
            json!({"subject": new, "names": ["a"], "ttl": "91d"}),
            "400 illegal-request: ttl: host ttl \"91d\" is not legal: use a whole number with s, m, h or d, from 1s to 90d, such as 12h or 30d",
        ),
        (
            "an SSH key for TLS",
            "POST",
            "/v1/host-certificates/tls",
            json!({"subject": new, "names": ["a"]}),
            "400 illegal-request: subject: this is not a certificate signing request: give the PEM of a PKCS#10 request (BEGIN CERTIFICATE REQUEST)",
        ),
        (
            "an entry that is not there",
            "GET",
            "/v1/audit/entries/99999",
            json!({}),
            "404 not-found: the log has no entry 99999",
        ),
        (
            "a serial that is not there",
            "GET",
            "/v1/audit/serials/7",
            json!({}),
            "404 not-found: no certificate with serial 7 was issued here",
        ),
        (
            "an entry that is no number",
            "GET",
            "/v1/audit/entries/first",
            json!({}),
            "400 illegal-request: the path: use an entry's index",
        ),
        (
            "a filter that there is not",
            "GET",
            "/v1/audit/entries?usr=bob",
            json!({}),
            "400 illegal-request: the query: usr: unknown field `usr`, expected one of `user`, `role`, `purpose`, `since`, `until`, `serial`, `from`, `limit`",
        ),
        (
            "a time that is none",
            "GET",
            "/v1/audit/entries?since=yesterday",
            json!({}),
            "400 illegal-request: the query: since: time \"yesterday\" is not legal: use RFC 3339, such as 2026-01-31T09:30:00Z",
        ),
        (
            "a page that is too long",
            "GET",
            "/v1/audit/entries?limit=1000000",
            json!({}),
            "400 illegal-request: the query: limit: use 1 to 1000",
        ),
    ] {
        let request: Request<'_> = admin.asks(&ca, method, target);
        let request = if method == "POST" {
            request.json(&body)
        } else {
            request
        };
        table.problem(what, &request.send(), expected);
    }
    table.end(25);
    assert_eq!(ca.home.entries("user-enrolled").len(), 1);
    assert!(
        exchange(
            &ca,
            b"GET /readyz HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n"
        )
        .unwrap()
        .status
            == 200
    );
}

#[test]
fn the_command_line_says_what_is_wrong_and_ends_with_a_code_that_says_it_too() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let mut table = Table::default();
    let file = |name: &str, text: &str| {
        bob.folder.write(name, text);
        name.to_owned()
    };
    file("garbage", "\u{1}\u{2}\u{3} no certificate");
    file("empty", "");
    file("public.pub", &public_key(&bob.key));
    run(
        "ssh-keygen",
        [
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            bob.folder.join("exposed").to_str().unwrap(),
        ],
    )
    .ok();
    let exposed = fs::metadata(bob.folder.join("exposed")).unwrap();
    let mut permissions = exposed.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(bob.folder.join("exposed"), permissions).unwrap();
    for (line, expected) in [
        (
            "request server-operator",
            "64 error: the following required arguments were not provided:\n  --purpose <PURPOSE>",
        ),
        (
            "request server-operator --purpose",
            "64 error: a value is required for '--purpose <PURPOSE>' but none was supplied",
        ),
        (
            "request server-operator --purpose incident --ttl 0",
            "64 error: invalid value '0' for '--ttl <TIME>': ttl \"0\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "request server-operator --purpose incident --ttl -5m",
            "64 error: invalid value '-5m' for '--ttl <TIME>': ttl \"-5m\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "request server-operator --purpose incident --ttl 25h --reason x",
            "64 error: invalid value '25h' for '--ttl <TIME>': ttl \"25h\" is not legal: use a whole number with s, m or h, from 1s to 24h, such as 90s, 15m or 8h",
        ),
        (
            "request server-operator --purpose incident",
            "77 hallpass: role server-operator needs a --reason",
        ),
        (
            "request server-operator --purpose deploy --reason x",
            "77 hallpass: role server-operator does not serve purpose deploy, but incident, maintenance",
        ),
        (
            "request server_operator! --purpose incident",
            "64 error: invalid value 'server_operator!' for '<ROLE>': role name \"server_operator!\" is not legal: use 1 to 48 of a-z, 0-9 and -, with a letter or digit first",
        ),
        (
            "request nothing --purpose incident",
            "77 hallpass: there is no role nothing: `hallpass role list` shows yours",
        ),
        (
            "request deploy --purpose deploy",
            "77 hallpass: no policy permits bob role deploy for purpose deploy: `hallpass role list` shows what you may ask for",
        ),
        (
            "request server-operator --purpose incident --reason x --key exposed",
            "78 hallpass: others can read the private key exposed (its mode is 644): run chmod 600 exposed, and replace the key if others use this machine",
        ),
        (
            "request server-operator --purpose incident --reason x --key missing",
            "66 hallpass: can't read the key missing: No such file or directory (os error 2); name another with --identity or --key",
        ),
        (
            "request server-operator --purpose incident --reason x --key garbage",
            "65 hallpass: garbage: this is not an OpenSSH public key: give the one line of a .pub file",
        ),
        (
            "request patients-read --purpose incident --reason INC-1 --key key",
            "65 hallpass: key is not an unencrypted PKCS#8 private key in PEM (BEGIN PRIVATE KEY) of type ECDSA P-256 or P-384, Ed25519 or RSA: make one with openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256, or leave --key out for a fresh one",
        ),
        (
            "ssh --purpose incident host",
            "64 error: the following required arguments were not provided:\n  --role <ROLE>",
        ),
        (
            "ssh --role server-operator --purpose incident host",
            "77 hallpass: role server-operator needs a --reason",
        ),
        (
            "psql --role server-operator --purpose incident --reason x",
            "77 hallpass: role server-operator is for ssh: ask for an SSH certificate (`hallpass ssh`)",
        ),
        (
            "ssh --role patients-read --purpose incident --reason INC-1 host",
            "77 hallpass: role patients-read is for postgres: ask for an X.509 certificate (`hallpass psql`)",
        ),
        (
            "inspect missing",
            "66 hallpass: missing: No such file or directory (os error 2)",
        ),
        (
            "inspect garbage",
            "65 hallpass: garbage: this is no certificate: give an OpenSSH -cert.pub file, or X.509 in PEM or DER",
        ),
        (
            "inspect empty",
            "65 hallpass: empty: this is no certificate: give an OpenSSH -cert.pub file, or X.509 in PEM or DER",
        ),
        (
            "inspect key",
            "65 hallpass: key: this is a private key: give the certificate, such as the -cert.pub or .crt file",
        ),
        (
            "inspect public.pub",
            "65 hallpass: public.pub: this is a plain public key: give the certificate, such as the -cert.pub file",
        ),
        (
            "connect http://127.0.0.1 --fingerprint SHA256:x",
            "64 error: invalid value 'http://127.0.0.1' for '<URL>': URL \"http://127.0.0.1\" is not legal: use https://HOST:PORT, as `hallpass serve` prints it",
        ),
        (
            "connect https://127.0.0.1:1 --fingerprint SHA256:x",
            "64 error: invalid value 'SHA256:x' for '--fingerprint <SHA256:...>': fingerprint \"SHA256:x\" is not legal: use SHA256:..., as `hallpass init` and `hallpass serve` print it",
        ),
        (
            "connect https://127.0.0.1:1 --fingerprint SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "69 hallpass: can't reach the CA at https://127.0.0.1:1: Connection refused (os error 111); check that it runs and that the address is right",
        ),
        (
            "whoami --identity exposed",
            "78 hallpass: others can read the private key exposed (its mode is 644): run chmod 600 exposed, and replace the key if others use this machine",
        ),
        (
            "whoami --identity missing",
            "66 hallpass: can't read the key missing: No such file or directory (os error 2); name another with --identity or --key",
        ),
        (
            "user add --ssh-key public.pub",
            "64 error: the following required arguments were not provided:\n  <NAME>",
        ),
        (
            "user add Bob! --ssh-key public.pub",
            "64 error: invalid value 'Bob!' for '<NAME>': user name \"Bob!\" is not legal: use 1 to 64 of a-z, 0-9 and . _ @ + -, with a letter or digit first",
        ),
        (
            "user add carol --ssh-key key",
            "65 hallpass: key: this is a private key, which must never leave its machine: replace it, and give its .pub file or a certificate request",
        ),
        (
            "user add carol --ssh-key garbage",
            "65 hallpass: garbage: this is not an OpenSSH public key: give the one line of a .pub file",
        ),
        (
            "host-cert ssh public.pub",
            "64 error: the following required arguments were not provided:\n  --name <HOST>",
        ),
        (
            "host-cert ssh key --name app-1",
            "65 hallpass: key: this is a private key, which stays where it is: give the .pub file or the certificate request",
        ),
        (
            "host-cert ssh public.pub --name *",
            "64 error: invalid value '*' for '--name <HOST>': host name \"*\" is not legal: use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address",
        ),
        (
            "host-cert ssh public.pub --name=-oProxyCommand=x",
            "64 error: invalid value '-oProxyCommand=x' for '--name <HOST>': host name \"-oProxyCommand=x\" is not legal: use a DNS name (labels of a-z, 0-9 and -, not at an edge) or an IP address",
        ),
        (
            "audit list --since yesterday",
            "64 error: invalid value 'yesterday' for '--since <TIME>': time \"yesterday\" is not legal: use RFC 3339, such as 2026-01-31T09:30:00Z",
        ),
        (
            "audit list --serial -1",
            "64 error: unexpected argument '-1' found",
        ),
        (
            "audit show first",
            "64 error: invalid value 'first' for '<SERIAL|ENTRY>': use the decimal number of an entry or of a certificate",
        ),
        (
            "trust everything",
            "64 error: invalid value 'everything' for '<WHAT>'\n  [possible values: ssh-user, ssh-host, x509, ssh-revoked]",
        ),
        (
            "completions powershell",
            "64 error: invalid value 'powershell' for '<SHELL>'\n  [possible values: bash, zsh, fish]",
        ),
        (
            "init --admin alice --passphrase secret",
            "64 error: unexpected argument '--passphrase' found",
        ),
        (
            "frobnicate",
            "64 error: unrecognized subcommand 'frobnicate'",
        ),
    ] {
        let ran = bob.hallpass(line.split(' '));
        // Of clap's, the first paragraph says it; the usage follows.
        let said = match ran.code {
            64 => ran.err.split("\n\n").next().unwrap_or_default(),
            _ => ran.err.trim_end(),
        };
        let said = said.replace(bob.folder.path().to_str().unwrap(), "HOME");
        table.row(line, format!("{} {said}", ran.code), expected);
    }
    table.end(40);
    assert!(
        bob.runtime_files()
            .iter()
            .all(|file| file.extension().is_some_and(|e| e == "lock"))
    );
}

fn public_key(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

fn private_key(person: &Person) -> String {
    fs::read_to_string(person.folder.join("key")).unwrap()
}

/// A certificate of the person's own making.
fn certificate(person: &Person) -> String {
    let path = |name: &str| person.folder.join(name).to_str().unwrap().to_owned();
    run(
        "ssh-keygen",
        [
            "-q",
            "-s",
            &path("key"),
            "-I",
            "mine",
            "-n",
            "root",
            &path("key.pub"),
        ],
    )
    .ok();
    fs::read_to_string(path("key-cert.pub")).unwrap()
}

/// The public line of a new key.
fn made(kind: &[&str]) -> String {
    let folder = Folder::new();
    let key = folder.join("key");
    let rest = ["-q", "-N", "", "-f", key.to_str().unwrap()];
    run("ssh-keygen", kind.iter().chain(&rest)).ok();
    fs::read_to_string(folder.join("key.pub")).unwrap()
}

/// A CSR by OpenSSL.
fn csr(kind: &[&str], options: &[&str]) -> String {
    let folder = Folder::new();
    make_csr(&folder, "x", kind, options);
    fs::read_to_string(folder.join("x.csr")).unwrap()
}

/// `ssh-keygen -t dsa` of an OpenSSH that still made them.
const DSA: &str = "ssh-dss AAAAB3NzaC1kc3MAAACBAK8yqN1bbIjSl5xi8+4+71GHF/EXsxzFT7ChpnWfxlCpASBwtnSUrsVUF1DPfzz5929bREbCgu4+h7MGirR/87tdS22AG9U44DQY/76n9+UQz+/PhtzLJgVDKz9d3gAxC7P0IibLz7/C18IEaDHPvYk78XH+5w/Pwww8KISxZ+zdAAAAFQCqMykk0HQWenIjkIX+budxxL2vOwAAAIBy/HG450+8nSFcmgi+GZPUx/qXXEVCQ5XSognCKvyX8dNGRuM5GRm7abqZtPHIWm3yli6r6LUTLcm/Ur0Y5GRv0pyxWOR776vUh95d2rOj1pjwlrzE89bFahjb3jSUj7M783+BPDha6st1fMs4JqFArNcJePquyIdPMRt6em+2ZAAAAIA0hgxPaoIx8UrB0nhI9LMf4DPAzONZ2blR3xCBPc7/M473CgTy7iesTROB2K2GKkx8eiFO8iazZs/WOuauoyLeIiEVp5T9BT4LevNeNkfMbIICKwG9QMlfQO9SRUekrfu6cxhU13MH8I4bOn0a0Ox3min2fUCqnPWy3BJJLHjTLA==";
