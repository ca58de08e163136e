//! A CA and its witnesses: one honest one is enough to notice a log that was rewritten.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{
    Answer, Ca, Home, Person, Ran, Witness, WitnessHome, independent, read_request, serve_fails,
    wait_until,
};

const NAME: &str = "witness.example.org";

/// A CA with witnesses of these names.
fn ca_with<const N: usize>(names: [&str; N]) -> (Ca, [Witness; N]) {
    let home = Home::new();
    let witnesses = names.map(|name| {
        let witness = Witness::start(name, &[&home.log_key()]);
        home.ask(&witness.url, &witness.home.key);
        witness
    });
    (Ca::on(home), witnesses)
}

fn size(note: &str) -> u64 {
    note.lines().nth(1).unwrap().parse().unwrap()
}

fn newest(ca: &Ca, admin: &Person) -> u64 {
    size(&admin.asks(ca, "GET", "/v1/log/checkpoint").send().body)
}

fn cosigned(ca: &Ca, admin: &Person, witnesses: &str) -> Answer {
    let target = format!("/v1/log/checkpoint/cosigned?witness={witnesses}");
    admin.asks(ca, "GET", &target).send()
}

/// Waits until the witnesses have cosigned everything. Gives the note.
#[track_caller]
fn await_cosigned(ca: &Ca, admin: &Person, witnesses: &str) -> String {
    let end = newest(ca, admin);
    wait_until("cosignatures", || {
        let answer = cosigned(ca, admin, witnesses);
        answer.status == 200 && size(&answer.body) >= end
    });
    cosigned(ca, admin, witnesses).body
}

/// Makes an entry: somebody is enrolled. Gives its index.
fn enrol(ca: &Ca, admin: &Person) -> String {
    let name = format!("user-{}", newest(ca, admin));
    ca.enrol(&name, &[]);
    (newest(ca, admin) - 1).to_string()
}

#[test]
fn an_entry_is_proven_by_what_witnesses_cosigned() {
    let (ca, [one, two]) = ca_with([NAME, "second.example.org"]);
    let admin = ca.admin();
    ca.enrol("bob", &["on-call"]);
    let note = await_cosigned(&ca, &admin, &format!("{NAME}+second.example.org"));
    assert_eq!(note.matches('\u{2014}').count(), 3, "{note}");
    let entry = (size(&note) - 1).to_string();
    let file = admin.folder.join("proof");
    let file = file.to_str().unwrap();
    let second = two.home.key.clone();
    let (first, second, log) = (&one.home.key, &second, ca.home.log_key());
    let both = ["--witness", first, "--witness", second];
    let prove = |entry: &str, witnesses: &[&str]| {
        let arguments = ["audit", "prove", entry, "--out", file];
        admin.hallpass(arguments.iter().chain(witnesses))
    };
    prove(&entry, &both).ok();
    // Neither the CA nor the witnesses are needed any more.
    let said = admin
        .hallpass(["audit", "verify-proof", file].iter().chain(&both))
        .ok();
    assert!(said.contains(&format!("Cosigned by {NAME} at ")), "{said}");
    independent(["inclusion", file, &log, first, second]).ok();

    // The whole log is verified with them, from the CA and from its database.
    let home = ca.home.path();
    let here = ["audit", "verify", "--home", home.to_str().unwrap()];
    for verify in [&here[..2], &here] {
        let said = admin.hallpass(verify.iter().chain(&both)).ok();
        assert_eq!(said.matches("Cosigned by ").count(), 2, "{said}");
    }

    // Without a witness, or with one more that is not this CA's.
    prove(&entry, &[]).ok();
    let ran = admin.hallpass(["audit", "verify-proof", file, "--witness", first]);
    assert!(
        ran.code == 76 && ran.err.contains("did not cosign"),
        "{ran:?}"
    );
    let other = WitnessHome::new("other.example.org", &[&log]);
    let ran = prove(&entry, &["--witness", &other.key]);
    assert!(
        ran.err.contains("has no witness other.example.org; it has"),
        "{ran:?}"
    );
    // One who only took the name, and the log itself.
    let thief = WitnessHome::new(NAME, &[&log]);
    let ran = prove(&entry, &["--witness", &thief.key]);
    assert!(
        ran.code == 76 && ran.err.contains("did not cosign"),
        "{ran:?}"
    );
    for verify in [&here[..2], &here] {
        let ran = admin.hallpass(verify.iter().chain(&["--witness", thief.key.as_str()]));
        ran.fails_with(76, "is not cosigned by this key");
    }
    let ran = admin.hallpass(["audit", "verify-proof", file, "--witness", &log]);
    assert!(ran.code == 76 && ran.err.contains("is a log's"), "{ran:?}");

    // An entry that only one of them has seen is proven by that one.
    two.stop();
    let entry = enrol(&ca, &admin);
    await_cosigned(&ca, &admin, NAME);
    prove(&entry, &["--witness", first]).ok();
    let ran = prove(&entry, &both);
    let words = format!("entry {entry} is newer than what {NAME} and second.example.org cosigned");
    assert!(ran.code == 65 && ran.err.contains(&words), "{ran:?}");
    assert!(ran.err.contains("try again in a moment"), "{ran:?}");
}

#[test]
fn cosignatures_outlive_restarts_and_a_witness_catches_up() {
    let (ca, [witness]) = ca_with([NAME]);
    let admin = ca.admin();
    let before = await_cosigned(&ca, &admin, NAME);
    let address = witness.address().to_owned();
    let home = witness.kill();
    let log = ca.server_log();
    enrol(&ca, &admin);
    wait_until("a warning", || {
        ca.server_log()[log.len()..].contains("does not cosign the log")
    });
    // What was cosigned is still there after a restart without the witness.
    let ca = Ca::on(ca.stop());
    admin.connect(&ca);
    assert_eq!(cosigned(&ca, &admin, NAME).body, before);
    assert!(newest(&ca, &admin) > size(&before));
    let ca = Ca::on(ca.kill());
    admin.connect(&ca);
    assert_eq!(cosigned(&ca, &admin, NAME).body, before);
    let witness = Witness::at(home, &address);
    let after = await_cosigned(&ca, &admin, NAME);
    assert!(size(&after) > size(&before));
    assert!(!witness.log().contains("ERROR"));
    // One line for as long as it was gone, whatever the number of attempts.
    let said = ca.server_log();
    let warnings = said.matches("does not cosign the log").count();
    assert!(warnings <= 3, "one for each start: {said}");
    assert!(said.contains("the witness cosigns the log"), "{said}");
    assert!(said.contains("behind="), "{said}");
}

#[test]
fn a_log_that_was_rewritten_is_cosigned_by_nobody_who_saw_the_other() {
    let (ca, [witness]) = ca_with([NAME]);
    let admin = ca.admin();
    await_cosigned(&ca, &admin, NAME);
    // Whoever owns the machine keeps a copy,
    let home = ca.stop();
    let copy = home.folder.join("copy.db");
    fs::copy(home.database(), &copy).unwrap();
    let ca = Ca::on(home);
    admin.connect(&ca);
    for _ in 0..3 {
        enrol(&ca, &admin);
    }
    let honest = await_cosigned(&ca, &admin, NAME);
    // puts it back, and has the CA write another history, with all the real keys.
    let home = ca.stop();
    fs::copy(&copy, home.database()).unwrap();
    let before = fs::read_to_string(home.folder.join("serve.log")).unwrap();
    let ca = Ca::on(home);
    let forger = ca.admin();
    wait_until("the alarm", || {
        ca.server_log().contains("THE LOG WAS REWRITTEN")
    });
    let mut entry = String::new();
    while newest(&ca, &forger) <= size(&honest) + 1 {
        entry = enrol(&ca, &forger);
    }
    wait_until("the witness's evidence", || {
        witness
            .log()
            .contains("came without a proof that it continues")
            || witness.log().contains("THE LOG WAS REWRITTEN")
    });
    let evidence = witness.log();
    let line = evidence
        .lines()
        .find(|line| line.contains("ERROR"))
        .unwrap();
    let origin = honest.lines().next().unwrap();
    let root = honest.lines().nth(2).unwrap();
    assert!(line.contains(origin) && line.contains(root), "{line}");
    // The CA's own log says how far behind it is.
    let said = ca.server_log();
    let line = said[before.len()..]
        .lines()
        .find(|line| line.contains("REWRITTEN"))
        .unwrap();
    assert!(line.contains("ERROR") && line.contains(NAME), "{line}");
    assert!(line.contains("behind="), "{line}");

    // Whoever verifies the whole log with the witness, a quarter of an hour later, is told.
    let ran = verify_in("+15m", &ca.home, &forger, &witness.home.key);
    ran.fails_with(76, "has not cosigned what the log has from entry ");

    // Nothing of the new history is proven to whoever trusts the witness,
    let ran = forger.hallpass(["audit", "prove", &entry, "--witness", &witness.home.key]);
    assert!(
        ran.code == 65 && ran.err.contains("is newer than what"),
        "{ran:?}"
    );
    assert!(size(&cosigned(&ca, &forger, NAME).body) < size(&honest));
    // also when the honest history's cosignature is held against it.
    let file = admin.folder.write("honest", &honest);
    independent([
        "checkpoint",
        file.to_str().unwrap(),
        &ca.home.log_key(),
        &witness.home.key,
    ])
    .ok();
}

/// Verifies a log with a witness some time from now.
fn verify_in(time: &str, home: &Home, person: &Person, witness: &str) -> Ran {
    Ran::of(
        person
            .command()
            .args(["audit", "verify", "--no-certificates", "--home"])
            .arg(home.path())
            .args(["--witness", witness])
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1")
            .env("FAKETIME", time),
    )
}

#[test]
fn an_entry_from_the_future_does_not_excuse_a_witness() {
    let (ca, [witness]) = ca_with([NAME]);
    let admin = ca.admin();
    await_cosigned(&ca, &admin, NAME);
    let key = witness.stop().key.clone();
    // A clock that is a year ahead.
    let ca = Ca::with(ca.stop(), |serve| {
        serve.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1");
        serve.env("FAKETIME", "+365d");
    });
    let home = ca.stop();
    for time in ["+0", "+1d"] {
        let ran = verify_in(time, &home, &admin, &key);
        ran.fails_with(76, "has not cosigned what the log has from entry ");
        ran.fails_with(76, "is ahead of this machine's clock");
    }
    // As any other, once its time has come.
    verify_in("+365d", &home, &admin, &key).ok();
    let ran = verify_in("+366d", &home, &admin, &key);
    ran.fails_with(76, "has not cosigned what the log has from entry ");

    let ca = Ca::with(home, |serve| {
        serve.arg("--accept-clock");
    });
    let home = ca.stop();
    verify_in("+0", &home, &admin, &key).ok();
    let ran = verify_in("+15m", &home, &admin, &key);
    ran.fails_with(76, "has not cosigned what the log has from entry ");
}

#[test]
fn a_cosignature_by_another_key_does_not_count() {
    let home = Home::new();
    let witness = Witness::start(NAME, &[&home.log_key()]);
    let thief = WitnessHome::new(NAME, &[]);
    home.ask(&witness.url, &thief.key);
    let stranger = Witness::start("stranger.example.org", &[&Home::of_another_ca().log_key()]);
    home.ask(&stranger.url, &stranger.home.key);
    let ca = Ca::on(home);
    let admin = ca.admin();
    wait_until("both warnings", || {
        let said = ca.server_log();
        said.contains("its cosignature is not by its key")
            && said.contains("does not follow this log")
    });
    let (status, kind, detail) = cosigned(&ca, &admin, NAME).problem();
    assert_eq!((status, kind.as_str()), (404, "not-found"));
    assert!(detail.contains("no checkpoint is cosigned by"), "{detail}");
    let (status, _, detail) = cosigned(&ca, &admin, "nobody").problem();
    assert!(
        status == 404 && detail.contains("has no witness nobody"),
        "{detail}"
    );
    let strange = admin.asks(&ca, "GET", "/v1/log/checkpoint/cosigned?witnes=x");
    assert_eq!(strange.send().status, 400);
    assert_eq!(
        enrol(&ca, &admin).parse::<u64>().unwrap() + 1,
        newest(&ca, &admin)
    );
}

#[test]
fn a_ca_without_witnesses_says_so() {
    let ca = Ca::start();
    let admin = ca.admin();
    let (status, _, detail) = cosigned(&ca, &admin, "").problem();
    assert!(
        status == 404 && detail.contains("has no witnesses"),
        "{detail}"
    );
    let key = WitnessHome::new(NAME, &[]).key;
    let ran = admin.hallpass(["audit", "prove", "0", "--witness", &key]);
    assert!(
        ran.code == 65 && ran.err.contains("has no witnesses"),
        "{ran:?}"
    );
    // Nobody unknown gets any of it.
    let stranger = Person::stranger();
    assert_eq!(cosigned(&ca, &stranger, NAME).status, 401);
}

#[test]
fn a_witness_that_never_answers_holds_nothing_up() {
    let home = Home::new();
    // Connections are made, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    home.ask(&url, &WitnessHome::new(NAME, &[]).key);
    let ca = Ca::on(home);
    let admin = ca.admin();
    let (mut asking, _) = silent.accept().unwrap();
    asking.read_exact(&mut [0; 4]).unwrap();
    for _ in 0..5 {
        enrol(&ca, &admin);
    }
    let begun = Instant::now();
    ca.stop();
    // It would wait for another ten seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

/// Answers each request with the next of these, and tells when it came.
fn scripted(answers: Vec<Vec<u8>>) -> (String, mpsc::Receiver<(Instant, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers.into_iter().cycle() {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream);
            if sender.send((Instant::now(), request)).is_err() {
                return;
            }
            stream.write_all(&answer).ok();
        }
    });
    (url, receiver)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}

#[test]
fn a_witness_that_answers_nonsense_is_asked_slowly_and_believed_in_nothing() {
    let home = Home::new();
    let (url, requests) = scripted(vec![
        answer("409 Conflict", "1\n"),
        answer("409 Conflict", "2\n"),
        answer("409 Conflict", "1\n"),
        answer("409 Conflict", "2\n"),
        answer("409 Conflict", "18446744073709551615\n"),
        answer("409 Conflict", "-1\n"),
        answer(
            "200 OK",
            "\u{2014} witness.example.org AAAAAAAA\n\u{2014} x\n\n\n\u{7}",
        ),
        answer("200 OK", &"x".repeat(100_000)),
        answer("500 Internal Server Error", "\u{1b}[31m a\nforged line\n"),
        b"nonsense".to_vec(),
    ]);
    home.ask(&url, &WitnessHome::new(NAME, &[]).key);
    let ca = Ca::on(home);
    let admin = ca.admin();
    let mut last: Option<Instant> = None;
    for place in 0..6 {
        let (when, request) = requests.recv_timeout(Duration::from_secs(60)).unwrap();
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        // The size that it told last, while it was one that the log has.
        let old = ["0", "1", "2", "1", "2", "2"][place];
        assert!(body.starts_with(&format!("old {old}\n")), "{place}: {body}");
        if let Some(last) = last {
            assert!(
                when - last > Duration::from_millis(900),
                "{:?}",
                when - last
            );
        }
        last = Some(when);
    }
    enrol(&ca, &admin);
    assert_eq!(cosigned(&ca, &admin, NAME).status, 404);
    let said = ca.server_log();
    assert!(said.contains("it has cosigned another size"), "{said}");
    assert!(
        said.contains("it cosigned 18446744073709551615 entries"),
        "{said}"
    );
    assert!(
        !said.contains('\u{1b}') && !said.contains("\nforged"),
        "{said}"
    );
}

#[test]
fn a_witness_behind_tls_is_known_by_its_root() {
    let home = Home::new();
    let log = home.log_key();
    let witness = Witness::start(NAME, &[&log]);
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let url = behind_tls(&witness, &made);
    home.ask(&url, &witness.home.key);
    // Nobody vouches for it.
    let ca = Ca::on(home);
    wait_until("a warning", || {
        ca.server_log().contains("it can't be reached")
    });
    let home = ca.stop();
    let config = home.path().join("hallpass.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}ca_file = \"witness.pem\"\n")).unwrap();
    let (code, message) = serve_fails(&home);
    let missing = Path::new("witness.pem").display().to_string();
    assert!(code == 78 && message.contains(&missing), "{message}");
    fs::write(home.path().join("witness.pem"), made.cert.pem()).unwrap();
    let ca = Ca::on(home);
    await_cosigned(&ca, &ca.admin(), NAME);
}

/// Passes requests on to a witness, as a reverse proxy does.
fn behind_tls(witness: &Witness, made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let target = witness.address().to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let request = read_request(&mut stream);
            if request.is_empty() {
                continue;
            }
            let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            let mut behind = TcpStream::connect(&target).unwrap();
            behind.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            behind.read_to_end(&mut answer).unwrap();
            stream.write_all(&answer).ok();
            stream.conn.send_close_notify();
            stream.flush().ok();
        }
    });
    url
}

#[test]
fn witnesses_that_can_t_be_meant_stop_the_server() {
    let key = WitnessHome::new(NAME, &[]).key;
    let starts = |lines: &[(&str, &str)], words: &str| {
        let home = Home::new();
        for (url, key) in lines {
            home.ask(url, key);
        }
        let (code, message) = serve_fails(&home);
        assert!(code == 78 && message.contains(words), "{words}: {message}");
    };
    let url = "http://127.0.0.1:8444";
    starts(&[(url, &Home::new().log_key())], "this is a log's key");
    starts(&[(url, "nonsense")], "this is no verifier key");
    starts(&[("127.0.0.1:8444", &key)], "use http://HOST:PORT");
    starts(
        &[(url, &key), (url, &key)],
        &format!("two witnesses have the name {NAME}"),
    );
}
