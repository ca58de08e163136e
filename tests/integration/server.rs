//! The server as a network peer and an operator see it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use hallpass::authority::{self, Authority, Clock, PolicySettings};
use hallpass::http::serve;
use hallpass::keys::Passphrase;
use hallpass::model::HostTtl;
use serde_json::json;
use zeroize::Zeroizing;

use crate::support::{Ca, Home, PASSPHRASE, Ran, exchange, run, tls, wait_until};

fn get(ca: &Ca, path: &str) -> crate::support::Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n");
    exchange(ca, request.as_bytes()).unwrap()
}

#[test]
fn health_trust_and_description_need_no_signature() {
    let ca = Ca::start();
    for path in ["/healthz", "/readyz"] {
        let answer = get(&ca, path);
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (200, &"ok".into()),
            "{path}"
        );
    }
    let trust = get(&ca, "/v1/trust").json();
    let public = |name: &str| fs::read_to_string(ca.home.path().join("keys").join(name)).unwrap();
    assert_eq!(trust["ssh_user"][0], public("ssh-user-1.pub").trim());
    assert_eq!(trust["ssh_host"][0], public("ssh-host-1.pub").trim());
    assert_eq!(trust["x509"][0], public("x509-root-1.pem"));
    let description = get(&ca, "/v1/openapi.json").json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, method) in [
        ("/v1/certificates/ssh", "post"),
        ("/v1/certificates/x509", "post"),
        ("/v1/host-certificates/ssh", "post"),
        ("/v1/host-certificates/tls", "post"),
        ("/v1/users", "get"),
        ("/v1/users", "post"),
        ("/v1/users/{name}", "delete"),
        ("/v1/audit/entries", "get"),
        ("/v1/roles", "get"),
        ("/v1/whoami", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
    ] {
        assert!(
            description["paths"][path][method].is_object(),
            "{method} {path}"
        );
    }
}

#[test]
fn every_error_is_a_problem_that_names_itself() {
    let ca = Ca::start();
    assert_eq!(
        get(&ca, "/v2/anything").problem(),
        (
            404,
            "not-found".to_owned(),
            "there is nothing at this path: /v1/openapi.json lists what there is".to_owned()
        )
    );
    let post =
        b"POST /healthz HTTP/1.1\r\nHost: ca\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (status, kind, _) = exchange(&ca, post).unwrap().problem();
    assert_eq!((status, kind.as_str()), (405, "method-not-allowed"));
    let (status, kind, _) = get(&ca, "/v1/whoami").problem();
    assert_eq!((status, kind.as_str()), (401, "not-accepted"));
}

#[test]
fn what_is_too_large_is_refused_and_the_server_goes_on() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let ten_megabytes = bob
        .asks(&ca, "POST", "/v1/certificates/ssh")
        .body(vec![b' '; 10_000_000]);
    let (status, kind, detail) = ten_megabytes.send().problem();
    assert_eq!((status, kind.as_str()), (413, "too-large"));
    assert_eq!(detail, "the body is larger than 65536 bytes");

    let head = |headers: String| {
        format!("GET /healthz HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n{headers}\r\n")
            .into_bytes()
    };
    for bytes in [
        head(format!("X: {}\r\n", "x".repeat(20_000))),
        head((0..100).map(|n| format!("X{n}: x\r\n")).collect()),
        format!("GET /{} HTTP/1.1\r\nHost: ca\r\n\r\n", "x".repeat(70_000)).into_bytes(),
    ] {
        // Who still writes when the server closes may see a broken connection instead.
        if let Ok(answer) = exchange(&ca, &bytes) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    assert_eq!(get(&ca, "/readyz").status, 200);
}

#[test]
fn noise_on_the_wire_does_no_harm() {
    let ca = Ca::start();
    // Without TLS at all.
    let mut plain = TcpStream::connect(ca.address()).unwrap();
    plain
        .write_all(b"GET /v1/trust HTTP/1.1\r\nHost: ca\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok();
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));
    // Within TLS, no HTTP; HTTP/2 without asking; a request that never ends; two lengths.
    for bytes in [
        &b"\0\x01\x02\xff\xfe garbage\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET \x00 HTTP/1.1\r\nHost: ca\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: ca\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/users HTTP/1.1\r\nHost: ca\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nHost: ca\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET http://elsewhere/v1/users HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n",
        b"GET /v1/users/%00%ff%2e%2e HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n",
        b"GET /v1/audit/serials/99999999999999999999 HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n",
    ] {
        if let Ok(answer) = exchange(&ca, bytes) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    assert_eq!(get(&ca, "/readyz").status, 200);
    assert!(!ca.server_log().contains("panicked"), "{}", ca.server_log());
}

#[test]
fn one_source_can_not_take_all_connections() {
    let ca = Ca::start();
    let idle: Vec<TcpStream> = (0..150)
        .map(|_| TcpStream::connect(ca.address()).unwrap())
        .collect();
    // Another source is served meanwhile.
    let script = format!(
        "exec openssl s_client -connect {} -bind 127.0.0.2:0 -CAfile {} -verify_return_error",
        ca.address(),
        ca.home.path().join("keys/x509-root-1.pem").display()
    );
    let other = run("sh", ["-c", &script]);
    assert!(
        other.out.contains("Verify return code: 0 (ok)"),
        "{other:?}"
    );
    // This one has had its share.
    let mut one_more = TcpStream::connect(ca.address()).unwrap();
    one_more
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    assert_eq!(one_more.read(&mut [0]).unwrap_or_default(), 0);
    drop(idle);
    wait_until("connections to be free again", || {
        tls(&ca).is_ok_and(|mut stream| {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: ca\r\n\r\n")
                .is_ok()
                && stream.read(&mut [0; 16]).is_ok_and(|length| length > 0)
        })
    });
}

#[test]
fn nothing_older_than_tls_1_3_is_spoken() {
    let ca = Ca::start();
    let root = ca.home.path().join("keys/x509-root-1.pem");
    let root = root.to_str().unwrap();
    let with = |version: &str| {
        let arguments = [
            "s_client",
            "-connect",
            ca.address(),
            "-CAfile",
            root,
            version,
        ];
        run(
            "openssl",
            arguments.into_iter().chain(["-verify_return_error"]),
        )
    };
    let modern = with("-tls1_3");
    assert!(
        modern.out.contains("Verify return code: 0 (ok)"),
        "{modern:?}"
    );
    let old = with("-tls1_2");
    assert_ne!(old.code, 0);
    assert!(old.err.contains("alert protocol version"), "{old:?}");
}

#[test]
fn requests_in_flight_finish_when_the_server_is_told_to_stop() {
    let mut ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let bytes = bob
        .asks(&ca, "POST", "/v1/certificates/ssh")
        .ssh(&bob.key, ask)
        .bytes();
    let (begin, end) = bytes.split_at(bytes.len() - 10);
    let mut stream = tls(&ca).unwrap();
    stream.write_all(begin).unwrap();
    stream.flush().unwrap();
    // Let it arrive before the signal does.
    std::thread::sleep(Duration::from_millis(300));
    ca.signal(libc::SIGTERM);
    wait_until("no more connections", || {
        TcpStream::connect(ca.address()).is_err()
    });
    stream.write_all(end).unwrap();
    stream.flush().unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(ca.wait(), Some(0), "{}", ca.server_log());
    let serial: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let issued = ca.home.entries("certificate-issued").pop().unwrap();
    assert_eq!(issued["event"]["certificate"]["serial"], serial["serial"]);
}

#[test]
fn secrets_stay_out_of_sight() {
    let ca = Ca::with(Home::new(), |serve| {
        serve.env("HALLPASS_LOG", "trace");
    });
    let bob = ca.enrol("bob", &["on-call"]);
    bob.request("server-operator --purpose incident --reason=x");
    let process = |name: &str| fs::read(format!("/proc/{}/{name}", ca.pid())).unwrap();
    let seen = [
        ca.server_log().into_bytes(),
        process("cmdline"),
        // Since nobody may look into its memory, root alone may see this.
        fs::read(format!("/proc/{}/environ", ca.pid())).unwrap_or_default(),
    ]
    .concat();
    let seen = String::from_utf8_lossy(&seen);
    for secret in [PASSPHRASE, "PRIVATE KEY", "AGE-SECRET-KEY"] {
        assert!(!seen.contains(secret), "{secret}");
    }
    // Neither a core dump nor another process of the same user gets at its memory.
    let limits = String::from_utf8(process("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let owner = fs::metadata(format!("/proc/{}/maps", ca.pid())).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&owner),
        0,
        "it is dumpable"
    );
    let status = String::from_utf8(process("status")).unwrap();
    let locked = status
        .lines()
        .find(|line| line.starts_with("VmLck:"))
        .unwrap();
    assert_ne!(locked.split_whitespace().nth(1), Some("0"), "{locked}");
}

#[test]
fn the_opened_keys_are_nowhere_on_disk() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    bob.request("patients-read --purpose incident --reason=INC-1");
    // An unsealed private key in any of the usual wrappings.
    let found = Ran::of(
        std::process::Command::new("grep")
            .args(["-rlaE", "PRIVATE KEY|AGE-SECRET-KEY|openssh-key-v1"])
            .arg(ca.home.path()),
    );
    assert_eq!((found.code, found.out.as_str()), (1, ""), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_certificate_renews_itself_without_a_restart() {
    let home = Home::new();
    let passphrase = Passphrase::new(Zeroizing::new(PASSPHRASE.to_owned())).unwrap();
    let opened = Authority::open(
        &authority::Home::new(&home.path()),
        &passphrase,
        None,
        Clock::FitsTheLog,
        PolicySettings::default(),
    )
    .await
    .unwrap()
    .with_names(vec!["127.0.0.1".parse().unwrap()]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let ttl = HostTtl::from_secs(4).unwrap();
    let serving = tokio::spawn(serve(listener, Arc::new(opened), ttl, || {}, async {
        stopped.await.ok();
    }));
    let root = home.path().join("keys/x509-root-1.pem");
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = std::collections::BTreeSet::new();
        // Three lives of a certificate. At no moment does verification fail.
        let end = std::time::Instant::now() + Duration::from_secs(12);
        while std::time::Instant::now() < end {
            let ran = run(
                "openssl",
                [
                    "s_client",
                    "-connect",
                    &address,
                    "-CAfile",
                    root.to_str().unwrap(),
                    "-verify_return_error",
                ],
            );
            assert!(ran.out.contains("Verify return code: 0 (ok)"), "{ran:?}");
            let pem = ran.out.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap();
            let pem = pem.split("-----END").next().unwrap();
            shown.insert(pem.to_owned());
            std::thread::sleep(Duration::from_millis(200));
        }
        shown
    })
    .await
    .unwrap();
    assert!(shown.len() >= 3, "{} certificates", shown.len());
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(home.entries("server-certificate-issued").len() >= shown.len());
}
