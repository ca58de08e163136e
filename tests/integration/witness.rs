//! `hallpass witness`: what it cosigns, and what it does not, whoever asks (C2SP tlog-witness).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::{Answer, Folder, HandLog, Ran, Witness, WitnessHome, independent, run};

/// A log of some entries, and a witness that follows it.
fn log_and_witness(size: u64) -> (HandLog, Witness) {
    let mut log = HandLog::new("example.org/log");
    log.grow(size, "honest");
    let witness = Witness::start("witness.example.org", &[&log.key()]);
    (log, witness)
}

/// The time of the cosignature in an answer, which must be right.
#[track_caller]
fn cosigned(log: &HandLog, size: u64, witness: &WitnessHome, answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    let note = format!("{}{}", log.note(size), answer.body);
    let file = witness.folder.write("cosigned", note);
    let (log, file) = (log.key(), file.to_str().unwrap().to_owned());
    let said = independent(["checkpoint", &file, &log, &witness.key]).ok();
    let (_, time) = said
        .split_once("cosigned by witness.example.org at ")
        .unwrap();
    time.trim().parse().unwrap()
}

#[track_caller]
fn refuses(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.body.contains('\u{2014}'), "{answer:?}");
}

/// 409 with the size that was cosigned last.
#[track_caller]
fn conflicts(answer: &Answer, size: u64) {
    refuses(answer, 409);
    let kind = "content-type: text/x.tlog.size";
    assert!(answer.head.lines().any(|line| line == kind), "{answer:?}");
    assert_eq!(answer.body, format!("{size}\n"));
}

#[test]
fn it_cosigns_a_log_that_grows_and_an_independent_verifier_agrees() {
    let (log, witness) = log_and_witness(300);
    let mut last = 0;
    for (old, new) in [
        (0, 1),
        (1, 1),
        (1, 7),
        (7, 8),
        (8, 64),
        (64, 300),
        (300, 300),
    ] {
        let time = cosigned(&log, new, &witness.home, &witness.add(log.body(old, new)));
        assert!(time >= last);
        last = time;
    }
    // It forgets nothing when it starts again.
    let home = witness.stop();
    assert!(!home.path().join("witness.db-wal").exists());
    let witness = Witness::on(home);
    conflicts(&witness.add(log.body(0, 300)), 300);
    cosigned(&log, 300, &witness.home, &witness.add(log.body(300, 300)));
    assert!(!witness.log().contains("ERROR"), "{}", witness.log());
}

#[test]
fn each_refusal_has_the_status_that_the_specification_gives_it() {
    let (mut log, witness) = log_and_witness(100);
    let stranger = HandLog::new("example.org/other");
    let impostor = {
        let mut impostor = HandLog::new("example.org/log");
        impostor.grow(100, "honest");
        impostor
    };
    refuses(&witness.add(stranger.body(0, 0)), 404);
    refuses(&witness.add(impostor.body(0, 50)), 403);
    // A signature that is another checkpoint's.
    refuses(
        &witness.add(log.body(0, 50).replace("\n50\n", "\n51\n")),
        403,
    );
    // A good signature under a wrong one in the log's own name counts for nothing.
    let unsigned = log.body(0, 50);
    let (unsigned, _) = unsigned.rsplit_once("\n\u{2014}").unwrap();
    refuses(&witness.add(unsigned), 400);
    refuses(
        &witness.add(log.body(0, 50).replace("old 0", "old 51")),
        400,
    );

    // Never cosigned: its size is 0.
    conflicts(&witness.add(log.body(7, 50)), 0);
    cosigned(&log, 50, &witness.home, &witness.add(log.body(0, 50)));
    // An old size too small, too large, and a rollback.
    conflicts(&witness.add(log.body(49, 60)), 50);
    conflicts(&witness.add(log.body(51, 60)), 50);
    conflicts(&witness.add(log.body(20, 40)), 50);
    refuses(&witness.add(log.body(50, 40)), 400);
    conflicts(&witness.add(log.body(0, 50)), 50);

    // No proof, half a proof, one too many, a wrong one, one of another size.
    let (right, stray) = (log.body(50, 60), HandLog::stray_hash());
    let proof = log.proof(50, 60);
    let first = proof.lines().next().unwrap();
    for wrong in [
        right.replace(&proof, ""),
        right.replace(&format!("{first}\n"), ""),
        right.replace(&proof, &format!("{proof}{stray}\n")),
        right.replace(first, &stray.to_string()),
        right.replace(&proof, &log.proof(50, 61)),
        log.body(50, 50).replacen('\n', &format!("\n{stray}\n"), 1),
    ] {
        refuses(&witness.add(&wrong), 422);
    }
    // A first checkpoint has nothing to prove.
    let mut other = Witness::start("witness.example.org", &[&log.key()]);
    let first = log.body(0, 50).replacen('\n', &format!("\n{stray}\n"), 1);
    refuses(&other.add(first), 422);
    other = Witness::on(other.stop());
    cosigned(&log, 3, &other.home, &other.add(log.body(0, 3)));

    // Another history, with the log's own key.
    log.fork(20, 100, "forged");
    conflicts(&witness.add(log.body(50, 50)), 50);
    refuses(&witness.add(log.body(50, 60)), 422);
    conflicts(&witness.add(log.body(0, 60)), 50);
    // From before the fork, and with the honest log's proof.
    log.fork(50, 100, "forged");
    cosigned(&log, 60, &witness.home, &witness.add(log.body(50, 60)));
}

#[test]
fn what_proves_that_a_log_was_rewritten_is_logged_whole() {
    let (mut log, witness) = log_and_witness(60);
    witness.add(log.body(0, 50));
    let honest = log.note(50);
    log.fork(20, 60, "forged");
    // A proof that does not hold is anybody's to send, and hides nothing.
    refuses(&witness.add(log.body(50, 60)), 422);
    refuses(&witness.add(log.body(50, 59)), 422);
    for _ in 0..3 {
        conflicts(&witness.add(log.body(50, 50)), 50);
    }
    let said = witness.log();
    let line = said
        .lines()
        .find(|line| line.contains("THE LOG WAS REWRITTEN"))
        .unwrap();
    assert!(
        line.contains("ERROR") && line.contains("example.org/log"),
        "{line}"
    );
    for note in [honest, log.note(50)] {
        let escaped = format!("{note:?}");
        assert!(
            line.contains(escaped.trim_matches('"')),
            "{line} without {escaped}"
        );
    }
    assert_eq!(said.matches("THE LOG WAS REWRITTEN").count(), 1, "{said}");
    assert_eq!(said.matches("came without a proof").count(), 1, "{said}");
}

#[test]
fn garbage_gets_an_answer_and_nothing_else() {
    let (log, witness) = log_and_witness(100);
    let good = log.body(0, 50);
    let hash = format!("{}\n", HandLog::stray_hash());
    let text = "example.org/log\n18446744073709551615\n";
    let endless = log.sign(&format!("{text}{hash}"));
    let extended = log.sign(&format!("example.org/log\n0\n{hash}more\n"));
    for (body, status) in [
        (String::new(), 400),
        ("\n".to_owned(), 400),
        ("\n\n".to_owned(), 400),
        ("old 0\n\n".to_owned(), 404),
        ("old 0\n\nexample.org/log\n".to_owned(), 400),
        (good.replace("old 0", "old 00"), 400),
        (good.replace("old 0", "old"), 400),
        (good.replace("old 0\n", "old 0\r\n"), 400),
        (
            good.replacen('\n', &format!("\n{}", hash.repeat(64)), 1),
            400,
        ),
        (
            good.replacen('\n', &format!("\n{}", hash.repeat(63)), 1),
            422,
        ),
        (good.replacen('\n', "\nAAAA\n", 1), 400),
        (good.trim_end().to_owned(), 400),
        (format!("{good}\u{2014}"), 400),
        (format!("{good}x"), 400),
        (format!("old 0\n\n{endless}"), 400),
        (format!("old 18446744073709551615\n\n{endless}"), 400),
        // Another root for the empty log.
        (format!("old 0\n\n{extended}"), 409),
    ] {
        refuses(&witness.add(&body), status);
    }
    refuses(&witness.add([0xff; 100]), 400);
    refuses(&witness.add(vec![b'x'; 1 << 20]), 413);
    for cut in (0..good.len()).filter(|cut| good.is_char_boundary(*cut)) {
        let answer = witness.add(&good[..cut]);
        assert!(matches!(answer.status, 400 | 404), "{cut}: {answer:?}");
    }
    for (request, status) in [
        ("GET /add-checkpoint HTTP/1.1\r\nHost: w\r\n\r\n", 405),
        (
            "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n",
            404,
        ),
        ("nonsense\r\n\r\n", 400),
    ] {
        assert_eq!(witness.exchange(request.as_bytes()).unwrap().status, status);
    }
    // Whoever stops in the middle holds nobody up.
    let _open = std::net::TcpStream::connect(witness.address()).unwrap();
    cosigned(&log, 50, &witness.home, &witness.add(&good));
}

#[test]
fn of_two_histories_at_once_one_is_cosigned() {
    let (mut log, witness) = log_and_witness(10);
    witness.add(log.body(0, 10));
    let mut size = 10;
    for round in 0..20 {
        let next = size + 3;
        let bodies: Vec<String> = (0..8)
            .map(|history| {
                let mut other = log.clone();
                other.grow(next, &format!("{round} {history}"));
                other.body(size, next)
            })
            .collect();
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let witness = &witness;
            let threads: Vec<_> = bodies
                .iter()
                .map(|body| scope.spawn(move || witness.add(body)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let won: Vec<usize> = (0..8)
            .filter(|place| answers[*place].status == 200)
            .collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            conflicts(answer, next);
        }
        log.grow(next, &format!("{round} {}", won[0]));
        size = next;
    }
}

#[test]
fn killed_at_any_moment_it_never_cosigns_two_histories() {
    let mut agreed = HandLog::new("example.org/log");
    let mut home = WitnessHome::new("witness.example.org", &[&agreed.key()]);
    // The root that was cosigned, by size.
    let mut seen = HashMap::new();
    for round in 0..20 {
        let witness = Witness::on(home);
        // Whichever it had on record when it was killed, the other has no chance any more.
        let candidates = continued(&agreed);
        let size = agreed.size() + 1;
        let answers = candidates
            .each_ref()
            .map(|log| Ok(witness.add(log.body(size, size))));
        agreed = winner(&candidates, &answers, &mut seen).unwrap_or(agreed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5 + 7 * round));
                witness.signal(libc::SIGKILL);
            });
            loop {
                let candidates = continued(&agreed);
                let size = agreed.size();
                let answers = std::thread::scope(|scope| {
                    let ask = |log: &HandLog| {
                        let body = log.body(size, size + 1);
                        let witness = &witness;
                        scope.spawn(move || witness.try_add(body))
                    };
                    candidates
                        .each_ref()
                        .map(ask)
                        .map(|asking| asking.join().unwrap())
                });
                let winner = winner(&candidates, &answers, &mut seen);
                if answers.iter().any(Result::is_err) {
                    return;
                }
                agreed = winner.expect("one of two wins");
            }
        });
        home = witness.kill();
    }
    assert!(seen.len() > 50, "{} cosignatures", seen.len());
}

/// Two histories that differ in the last entry.
fn continued(agreed: &HandLog) -> [HandLog; 2] {
    ["one", "two"].map(|history| {
        let mut log = agreed.clone();
        log.grow(agreed.size() + 1, history);
        log
    })
}

/// The history that was cosigned; of each size only one ever is.
fn winner(
    candidates: &[HandLog; 2],
    answers: &[io::Result<Answer>; 2],
    seen: &mut HashMap<u64, String>,
) -> Option<HandLog> {
    let mut winner = None;
    for (log, answer) in candidates.iter().zip(answers) {
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            let root = log.note(log.size()).lines().nth(2).unwrap().to_owned();
            let before = seen.insert(log.size(), root.clone());
            assert!(
                before.is_none_or(|before| before == root),
                "two of {}",
                log.size()
            );
            winner = Some(log.clone());
        }
    }
    winner
}

#[test]
fn a_clock_that_was_set_back_does_not_show() {
    let (log, witness) = log_and_witness(10);
    let before = cosigned(&log, 5, &witness.home, &witness.add(log.body(0, 5)));
    let witness = Witness::with(witness.stop(), "127.0.0.1:0", |serve| {
        serve.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1");
        serve.env("FAKETIME", "-2d");
    });
    let after = cosigned(&log, 6, &witness.home, &witness.add(log.body(5, 6)));
    assert!(after >= before, "{after} {before}");
    let again = cosigned(&log, 6, &witness.home, &witness.add(log.body(6, 6)));
    assert!(again >= after);
}

#[test]
fn a_home_is_made_once_and_only_a_whole_one_is_served() {
    let log = HandLog::new("example.org/log");
    let home = WitnessHome::new("witness.example.org", &[&log.key()]);
    let again = WitnessHome::init(&home.folder, "witness.example.org");
    let exists = format!("hallpass: {}", home.path().join("witness.toml").display());
    again.fails(
        78,
        &format!("{exists} exists already: choose another --home"),
    );
    let folder = Folder::new();
    for name in ["", "two words", "a+b"] {
        assert_eq!(WitnessHome::init(&folder, name).code, 64, "{name}");
    }
    let secret = fs::read(home.path().join("keys/witness-1.age")).unwrap();
    assert!(secret.starts_with(b"age-encryption.org/v1"));

    let fails = |words: &str| {
        let ran = Ran::of(&mut home.serve("127.0.0.1:0"));
        assert!(
            ran.code == 78 && ran.err.contains(words),
            "{words}: {ran:?}"
        );
    };
    home.follow(&[]);
    fails("logs is empty");
    home.follow(&[&home.key]);
    fails("is a witness's key");
    home.follow(&["example.org/log+00000000+AAAA"]);
    fails("this is no verifier key");
    home.follow(&[&log.key()]);

    let database = home.path().join("witness.db");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    fails("run chmod 600");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
    let whole = fs::read(&database).unwrap();
    // One that forgot everything would cosign everything.
    fs::remove_file(&database).unwrap();
    fails("make a new witness");
    assert!(!database.exists());
    fs::write(&database, b"nothing of the kind").unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
    fails("is not the database of a witness");
    fs::write(&database, whole).unwrap();
    run(
        "chmod",
        ["666", home.path().join("witness.toml").to_str().unwrap()],
    )
    .ok();
    fails("run chmod go-w");
    run(
        "chmod",
        ["600", home.path().join("witness.toml").to_str().unwrap()],
    )
    .ok();
    Witness::on(home).stop();
}
