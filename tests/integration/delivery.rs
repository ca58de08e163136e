//! The log, delivered by the server itself: to a stock rsyslogd over TLS, and to webhooks.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{
    Ca, Home, Manner, OtherCa, Rsyslog, Webhook, issue, run, serve_fails, under_load, wait_until,
};
use hallpass::audit::{Checkpoint, VerifierKey};
use regex::Regex;

/// A home with more in its configuration.
fn home_with(tables: &str) -> Home {
    let home = Home::new();
    add(&home, tables);
    home
}

fn add(home: &Home, tables: &str) {
    let path = home.path().join("hallpass.toml");
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    writeln!(file, "{tables}").unwrap();
}

fn syslog(port: u16, ca: &OtherCa) -> String {
    let ca_file = ca.root();
    format!("[[deliver]]\nname = \"siem\"\nsyslog = \"localhost:{port}\"\nca_file = {ca_file:?}\n")
}

fn webhook(port: u16) -> String {
    format!("[[deliver]]\nname = \"hook\"\nwebhook = \"http://127.0.0.1:{port}/in?key=hidden\"\n")
}

/// How far a delivery has come for good.
fn cursor(home: &Home, name: &str) -> u64 {
    let database = rusqlite::Connection::open(home.path().join("delivery.db")).unwrap();
    let sql = "SELECT coalesce(max(next), 0) FROM cursors WHERE delivery = ?1";
    let next: i64 = database.query_row(sql, [name], |row| row.get(0)).unwrap();
    next as u64
}

/// Checks what a receiver that drops repeats has: every entry, once and in order.
#[track_caller]
fn assert_whole(received: &[(usize, String)], log: &[String]) {
    let mut next = 0;
    for (index, entry) in received {
        assert_eq!(entry, &log[*index], "entry {index}");
        assert!(*index <= next, "entry {index} where {next} should be");
        next = next.max(index + 1);
    }
    assert_eq!(next, log.len());
}

/// Takes messages apart, by docs/log.md.
fn messages(received: &[String]) -> Vec<(usize, String)> {
    let pattern = Regex::new(
        "^<(109|108)>1 ([0-9T:.-]+Z) ([!-~]+) hallpass - ([a-z-]+) \\[hallpass@32473 \
         index=\"([0-9]+)\" log=\"hallpass/[0-9a-f]{16}\"\\] \u{feff}(\\{.*\\})$",
    )
    .unwrap();
    let parse = |line: &String| {
        let parts = pattern.captures(line).unwrap_or_else(|| panic!("{line}"));
        let entry: serde_json::Value = serde_json::from_str(&parts[6]).unwrap();
        let kind = entry["event"]["kind"].as_str().unwrap();
        assert_eq!(kind, &parts[4]);
        assert_eq!(entry["time"], parts[2]);
        assert_eq!(&parts[1] == "108", kind.ends_with("-refused"));
        assert_eq!(entry["index"].to_string(), parts[5]);
        (parts[5].parse().unwrap(), parts[6].to_owned())
    };
    received.iter().map(parse).collect()
}

fn indexed(entries: Vec<String>) -> Vec<(usize, String)> {
    let index = |entry: &str| {
        let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
        entry["index"].as_u64().unwrap() as usize
    };
    entries
        .into_iter()
        .map(|entry| (index(&entry), entry))
        .collect()
}

#[test]
fn rsyslog_gets_every_entry_in_order_whatever_dies() {
    let others = OtherCa::new();
    let mut rsyslog = Rsyslog::start(&others, "localhost");
    let mut ca = Ca::on(home_with(&syslog(rsyslog.port, &others)));
    let bob = ca.enrol("bob", &["on-call"]);
    // A refusal, which is a warning.
    bob.hallpass(["audit", "list"]);
    let load = |ca: &Ca, rsyslog: &Rsyslog| {
        let before = rsyslog.received().len();
        wait_until("messages", || rsyslog.received().len() > before + 100);
        assert!(ca.server_log().contains("listening"));
    };
    under_load(&ca, &bob, || {
        load(&ca, &rsyslog);
        // Its kernel takes what it never sees.
        rsyslog.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_secs(2));
        rsyslog.end(libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(500));
        rsyslog.start_again();
        load(&ca, &rsyslog);
        rsyslog.end(libc::SIGTERM);
        rsyslog.start_again();
        load(&ca, &rsyslog);
    });
    wait_until("entries to be delivered for good", || {
        cursor(&ca.home, "siem") > 0
    });
    let delivered = cursor(&ca.home, "siem");
    under_load(&ca, &bob, || {
        load(&ca, &rsyslog);
        ca.signal(libc::SIGKILL);
    });
    let before = rsyslog.received().len();
    ca = Ca::on(ca.kill());
    under_load(&ca, &bob, || {
        wait_until("messages", || rsyslog.received().len() > before + 100);
    });
    let log = ca.home.lines();
    wait_until("the last entry", || {
        let last = rsyslog.received().pop().unwrap_or_default();
        last.ends_with(&log[log.len() - 1])
    });
    let received = messages(&rsyslog.received());
    assert_whole(&received, &log);
    // It went on from where it was, and not from the beginning.
    let again = &received[before.min(received.len())..];
    assert!(again.iter().all(|(index, _)| *index as u64 >= delivered));
    let said = ca.server_log();
    assert!(
        said.contains("the log is not delivered: trying again"),
        "{said}"
    );
}

#[test]
fn nothing_is_sent_to_whoever_is_not_the_receiver() {
    let (others, strangers) = (OtherCa::new(), OtherCa::new());
    let wrong_name = Rsyslog::start(&others, "elsewhere.example.org");
    let wrong_ca = Rsyslog::start(&strangers, "localhost");
    let tables =
        syslog(wrong_name.port, &others) + &syslog(wrong_ca.port, &others).replace("siem", "other");
    let ca = Ca::on(home_with(&tables));
    let said = |name: &str| {
        let log = ca.server_log();
        let mut lines = log.lines().filter(|line| line.contains("is not delivered"));
        lines
            .find(|line| line.contains(name))
            .unwrap_or_default()
            .to_owned()
    };
    wait_until("a word of both", || {
        !said("delivery=siem").is_empty() && !said("delivery=other").is_empty()
    });
    let of = |name: &str, words: &str| {
        let said = said(name);
        assert!(said.contains(words) && said.contains(" waiting="), "{said}");
    };
    of(
        "delivery=siem",
        "certificate not valid for name \\\"localhost\\\"",
    );
    of("delivery=other", "invalid peer certificate: ");
    // Tried again, and said once.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(ca.server_log().matches("is not delivered").count(), 2);
    assert!(wrong_name.received().is_empty() && wrong_ca.received().is_empty());
    assert_eq!(
        (cursor(&ca.home, "siem"), cursor(&ca.home, "other")),
        (0, 0)
    );
}

#[test]
fn a_webhook_gets_every_entry_in_order_whatever_it_does() {
    const TOKEN: &str = "dGhlIHRva2Vu.very-secret";
    let manners = |attempt: usize| match attempt % 9 {
        _ if attempt > 20 => Manner::Take,
        1 => Manner::Refuse("500 Internal Server Error"),
        2 | 5 => Manner::HangUp,
        4 => Manner::TakeAndHangUp,
        6 => Manner::Refuse("503 Service Unavailable\r\nRetry-After: 1"),
        7 => Manner::Refuse("302 Found\r\nLocation: /elsewhere"),
        _ if attempt == 12 => Manner::Stare,
        _ => Manner::Take,
    };
    let mut receiver = Webhook::start(manners);
    let home = home_with(&(webhook(receiver.port) + "bearer_file = \"token\"\n"));
    fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    run(
        "chmod",
        ["600", home.path().join("token").to_str().unwrap()],
    )
    .ok();
    let noisy = |home: Home| {
        Ca::with(home, |serve| {
            serve.env("HALLPASS_LOG", "trace");
        })
    };
    let mut ca = noisy(home);
    let bob = ca.enrol("bob", &["on-call"]);
    let more = |receiver: &Webhook, attempts: usize| {
        let before = receiver.attempts();
        wait_until("attempts", || receiver.attempts() >= before + attempts);
    };
    under_load(&ca, &bob, || {
        more(&receiver, 5);
        receiver.end();
        std::thread::sleep(Duration::from_secs(1));
        receiver.start_again();
        more(&receiver, 10);
        ca.signal(libc::SIGKILL);
    });
    ca = noisy(ca.kill());
    under_load(&ca, &bob, || more(&receiver, 3));
    ca = noisy(ca.stop());
    let log = ca.home.lines();
    wait_until("the last entry", || {
        cursor(&ca.home, "hook") == log.len() as u64
    });
    assert_whole(&indexed(receiver.entries()), &log);
    let key = fs::read_to_string(ca.home.path().join("keys/log-1.vkey")).unwrap();
    let key: VerifierKey = key.parse().unwrap();
    for post in receiver.posts() {
        assert!(post.entries.len() <= 100);
        let head = post.head.to_ascii_lowercase();
        assert!(
            post.head.starts_with("POST /in?key=hidden HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        assert!(
            post.head.contains(&format!(": Bearer {TOKEN}\r\n")),
            "{head}"
        );
        let checkpoint = Checkpoint::open(&post.checkpoint, &key).unwrap();
        let (last, _) = indexed(post.entries).pop().unwrap();
        assert!(checkpoint.size > last as u64, "it covers them");
    }
    let said = ca.server_log();
    for secret in [TOKEN, "key=hidden"] {
        assert!(!said.contains(secret), "{said}");
        assert!(!log.iter().any(|entry| entry.contains(secret)));
    }
    for words in [
        "the log is not delivered: trying again",
        "the log is being delivered again",
        "it answered 500",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_webhook_over_tls_is_known_by_its_certificate() {
    let others = OtherCa::new();
    let right = Webhook::over_tls(&others.certify("localhost"), |_| Manner::Take);
    let wrong = Webhook::over_tls(&others.certify("elsewhere.example.org"), |_| Manner::Take);
    let table = |name: &str, port: u16| {
        let ca_file = others.root();
        format!(
            "[[deliver]]\nname = \"{name}\"\nwebhook = \"https://localhost:{port}/\"\nca_file = {ca_file:?}\n"
        )
    };
    let tables = table("right", right.port) + &table("wrong", wrong.port);
    let ca = Ca::on(home_with(&tables));
    let log = ca.home.lines();
    wait_until("all entries", || {
        cursor(&ca.home, "right") >= log.len() as u64
    });
    wait_until("some attempts", || wrong.attempts() >= 3);
    assert_whole(&indexed(right.entries()), &ca.home.lines());
    assert!(wrong.posts().is_empty());
    assert_eq!(cursor(&ca.home, "wrong"), 0);
}

#[test]
fn a_receiver_that_never_answers_holds_nobody_up() {
    // One whose kernel takes what it never reads, one that answers nothing, one where nobody is.
    let others = OtherCa::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let receiver = Webhook::start(|_| Manner::Stare);
    let rsyslog = Rsyslog::start(&others, "localhost");
    let tables = [
        webhook(receiver.port),
        webhook(1).replace("hook\"", "nobody\""),
        syslog(silent.local_addr().unwrap().port(), &others),
        syslog(rsyslog.port, &others).replace("siem", "stopped"),
    ];
    let ca = Ca::on(home_with(&tables.concat()));
    let bob = ca.enrol("bob", &["on-call"]);
    wait_until("messages", || !rsyslog.received().is_empty());
    rsyslog.signal(libc::SIGSTOP);
    let start = Instant::now();
    assert!((0..200).all(|_| issue(&ca, &bob)));
    assert!(
        start.elapsed() < Duration::from_secs(40),
        "{:?}",
        start.elapsed()
    );
    let start = Instant::now();
    ca.stop();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    rsyslog.signal(libc::SIGCONT);
}

#[test]
fn a_new_receiver_begins_at_the_first_entry_and_another_log_is_noticed() {
    let receiver = Webhook::start(|_| Manner::Take);
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let backup = ca.home.folder.join("backup.db");
    let log = rusqlite::Connection::open(ca.home.database()).unwrap();
    log.execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    drop(log);
    assert!((0..250).all(|_| issue(&ca, &bob)));
    let home = ca.stop();
    add(&home, &webhook(receiver.port));
    let ca = Ca::on(home);
    wait_until("all entries", || {
        cursor(&ca.home, "hook") == ca.home.lines().len() as u64
    });
    assert_whole(&indexed(receiver.entries()), &ca.home.lines());
    // Once they are delivered, they are not delivered again.
    let posts = receiver.posts().len();
    let ca = Ca::on(ca.stop());
    wait_until("all entries", || {
        cursor(&ca.home, "hook") == ca.home.lines().len() as u64
    });
    assert_eq!(indexed(receiver.entries()).len(), ca.home.lines().len());
    let home = ca.stop();
    fs::rename(backup, home.database()).unwrap();
    run("chmod", ["600", home.database().to_str().unwrap()]).ok();
    let ca = Ca::on(home);
    wait_until("all entries", || {
        cursor(&ca.home, "hook") == ca.home.lines().len() as u64
    });
    let again: Vec<String> = receiver.posts()[posts..]
        .iter()
        .flat_map(|post| post.entries.clone())
        .collect();
    assert!(again.ends_with(&ca.home.lines()));
    assert!(
        ca.server_log()
            .contains("the log is not the one that was delivered before")
    );
    let mode = run(
        "stat",
        [
            "-c",
            "%a",
            ca.home.path().join("delivery.db").to_str().unwrap(),
        ],
    )
    .ok();
    assert_eq!(mode.trim(), "600");
}

#[test]
fn serve_says_what_is_wrong_with_a_delivery() {
    let mut wrong = String::new();
    for (table, expected) in WRONG {
        let home = home_with(&format!("[[deliver]]\n{table}"));
        fs::write(home.path().join("open"), "token").unwrap();
        let empty = home.path().join("empty");
        fs::write(&empty, "two words\n").unwrap();
        run("chmod", ["600", empty.to_str().unwrap()]).ok();
        let (code, message) = serve_fails(&home);
        let message = message.replace(home.path().to_str().unwrap(), "HOME");
        if code != 78 || !message.contains(expected) {
            wrong += &format!("{table}: {code}, {message}\n");
        }
    }
    assert_eq!(wrong, "");
}

/// The lines of a table, and what is said of it.
const WRONG: &[(&str, &str)] = &[
    ("syslog = 'siem:6514'", "missing field `name`"),
    (
        "name = 'SIEM'\nsyslog = 'siem:6514'",
        "name \"SIEM\" is not legal: use 1 to 48 of a-z",
    ),
    (
        "name = 'siem'",
        "deliver \"siem\": add where to: syslog = \"HOST:PORT\" or webhook = ",
    ),
    (
        "name = 'siem'\nsyslog = 'siem:6514'\nwebhook = 'https://siem/'",
        "deliver \"siem\": it has both syslog and webhook: make a table of each",
    ),
    (
        "name = 'siem'\nsyslog = 'siem'",
        "address \"siem\" is not legal: use HOST:PORT; 6514 is usual for syslog",
    ),
    (
        "name = 'siem'\nwebhook = 'http://siem/'",
        "webhook \"http://siem\" is not legal: use https://HOST:PORT/PATH without a user or a fragment, or http:// for a receiver on this machine",
    ),
    (
        "name = 'siem'\nsyslog = 'siem:6514'\nport = 1",
        "unknown field `port`",
    ),
    (
        "name = 'siem'\nsyslog = 'siem:6514'\nbearer_file = 'token'",
        "deliver \"siem\": bearer_file is for a webhook: remove it",
    ),
    (
        "name = 'siem'\nwebhook = 'http://localhost/'\nca_file = 'ca.pem'",
        "deliver \"siem\": ca_file is for https, and the webhook is http: remove it",
    ),
    (
        "name = 'siem'\nsyslog = 'siem:6514'\nca_file = 'ca.pem'",
        "hallpass: hallpass.toml: deliver \"siem\": ca_file HOME/ca.pem: ",
    ),
    (
        "name = 'siem'\nsyslog = 'siem:6514'\nca_file = 'empty'",
        "hallpass: hallpass.toml: deliver \"siem\": ca_file HOME/empty: it holds no certificate in PEM",
    ),
    (
        "name = 'siem'\nwebhook = 'http://localhost/'\nbearer_file = 'token'",
        "hallpass: hallpass.toml: deliver \"siem\": bearer_file HOME/token: No such file or directory",
    ),
    (
        "name = 'siem'\nwebhook = 'http://localhost/'\nbearer_file = 'open'",
        "hallpass: hallpass.toml: deliver \"siem\": others can read bearer_file HOME/open: run chmod 600 HOME/open",
    ),
    (
        "name = 'siem'\nwebhook = 'http://localhost/'\nbearer_file = 'empty'",
        "hallpass: hallpass.toml: deliver \"siem\": bearer_file HOME/empty: it must hold one token, in one line",
    ),
    (
        "name = 'a'\nsyslog = 'siem:6514'\n[[deliver]]\nname = 'a'\nwebhook = 'https://siem/'",
        "hallpass: hallpass.toml: deliver \"a\": another table has the same name: choose another",
    ),
];
