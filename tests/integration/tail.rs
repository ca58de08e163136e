//! The log read live: by `hallpass audit tail`, and as server-sent events.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use std::time::{Duration, Instant};

use crate::support::{Ca, Folder, Home, Person, issue, run, tls, tls_from, under_load, wait_until};
use rustls::{ClientConnection, StreamOwned};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A `hallpass audit tail --follow` that runs.
struct Follower {
    folder: Folder,
    process: Child,
}

impl Follower {
    fn start(person: &Person, arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let file = |name| fs::File::create(folder.join(name)).unwrap();
        let process = person
            .command()
            .args(["audit", "tail", "--follow"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap();
        Self { folder, process }
    }

    fn out(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("out")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn err(&self) -> String {
        fs::read_to_string(self.folder.join("err")).unwrap()
    }

    fn signal(&self, signal: i32) {
        run(
            "kill",
            [format!("-{signal}"), self.process.id().to_string()],
        )
        .ok();
    }

    /// Waits for the end: the exit code, none after a signal.
    fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("the end of tail", || {
            let ended = self.process.try_wait().unwrap();
            code = ended.map(|status| status.code());
            code.is_some()
        });
        code.unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Opens a stream with a signed request; its beginning.
fn open(ca: &Ca, person: &Person, target: &str) -> (Stream, String) {
    open_on(tls(ca).unwrap(), ca, person, target)
}

fn open_on(mut stream: Stream, ca: &Ca, person: &Person, target: &str) -> (Stream, String) {
    let request = person.asks(ca, "GET", target);
    stream.write_all(&request.bytes()).unwrap();
    let head = read_until(&mut stream, "\r\n\r\n");
    (stream, head)
}

/// Reads until that text or the end has come.
fn read_until(stream: &mut Stream, text: &str) -> String {
    let mut read = String::new();
    let mut piece = [0; 4096];
    let start = Instant::now();
    while !read.contains(text) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited for {text:?}"
        );
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => read += &String::from_utf8_lossy(&piece[..length]),
        }
    }
    read
}

#[test]
fn following_under_load_loses_and_repeats_nothing_over_restarts() {
    let mut ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let audrey = ca.enrol("audrey", &["auditors"]);
    let address = ca.address().to_owned();
    let mut tail = Follower::start(&audrey, &["--json", "--from", "0"]);
    for kill in [true, false, true] {
        under_load(&ca, &bob, || {
            let seen = tail.out().len();
            wait_until("entries to be followed", || tail.out().len() > seen + 50);
            ca.signal(if kill { libc::SIGKILL } else { libc::SIGTERM });
        });
        let home = if kill { ca.kill() } else { ca.stop() };
        // Long enough to be missed.
        std::thread::sleep(Duration::from_millis(400));
        ca = Ca::at(home, &address);
    }
    under_load(&ca, &bob, || {
        let seen = tail.out().len();
        wait_until("entries to be followed", || tail.out().len() > seen + 50);
    });
    wait_until("the last entry", || {
        tail.out().len() >= ca.home.lines().len()
    });
    assert_eq!(tail.out(), ca.home.lines());
    let said = tail.err();
    for words in [
        "hallpass: the connection was lost: ",
        "hallpass: the connection is back\n",
    ] {
        assert!(said.matches(words).count() >= 3, "{said}");
    }
    tail.signal(libc::SIGINT);
    assert_eq!(tail.wait(), None);
    assert_eq!(tail.err(), said, "no word at the end");
}

#[test]
fn the_last_entries_that_match_are_shown() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let admin = ca.admin();
    let json = |arguments: &str| -> Vec<String> {
        let arguments = format!("audit tail --json {arguments}");
        let out = admin.hallpass(arguments.trim().split(' ')).ok();
        out.lines().map(str::to_owned).collect()
    };
    assert_eq!(json(""), ca.home.lines(), "fewer than ten");
    assert!((0..5).all(|_| issue(&ca, &bob)));
    let whole = ca.home.lines();
    assert_eq!(json(""), whole[whole.len() - 10..]);
    let from = (whole.len() - 3).to_string();
    assert_eq!(json(&format!("--from {from}")), whole[whole.len() - 3..]);
    assert!(json("--from 99999").is_empty());
    // Few of many, and far behind.
    for _ in 0..100 {
        assert!(issue(&ca, &bob));
    }
    let enrolment = whole.iter().find(|line| line.contains("\"user\":\"bob\""));
    let found = json("--user bob");
    assert_eq!(found.len(), 10);
    assert!(
        found
            .iter()
            .all(|line| line.contains("\"requester\":\"bob\""))
    );
    assert_eq!(json("--user alice").last(), enrolment);
    assert!(json("--role patients-read").is_empty());
    let out = admin.hallpass(["audit", "tail", "--user", "bob"]).ok();
    assert_eq!(out.lines().count(), 10);
    let line = out.lines().last().unwrap();
    assert!(
        line.contains("  certificate-issued          bob  server-operator  incident  ")
            && line.ends_with("  grüße"),
        "{line}"
    );
}

#[test]
fn only_what_matches_is_followed() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let carol = ca.enrol("carol", &["on-call"]);
    let admin = ca.admin();
    let tail = Follower::start(
        &admin,
        &["--json", "--user", "carol", "--role", "server-operator"],
    );
    let (mut stream, head) = open(&ca, &admin, "/v1/audit/tail?user=carol&from=0");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("content-type: text/event-stream\r\n"),
        "{head}"
    );
    for _ in 0..20 {
        assert!(issue(&ca, &bob));
    }
    assert!(issue(&ca, &carol) && issue(&ca, &bob) && issue(&ca, &carol));
    wait_until("both of carol's", || tail.out().len() == 2);
    let log = ca.home.lines();
    let hers: Vec<usize> = (0..log.len())
        .filter(|place| log[*place].contains("carol"))
        .collect();
    assert_eq!(hers.len(), 3, "one of them her enrolment");
    assert_eq!(tail.out(), [log[hers[1]].clone(), log[hers[2]].clone()]);
    // Some may have come right behind the head.
    let mut events = head;
    let last = format!("id: {}\n", hers[2]);
    events += &read_until(&mut stream, &last);
    let expected = format!("id: {}\ndata: {}\n\n", hers[0], log[hers[0]]);
    assert!(events.contains(&expected), "{events}");
    let ids = events.lines().filter(|line| line.starts_with("id: "));
    assert_eq!(ids.count(), 3, "{events}");
}

#[test]
fn who_may_not_read_the_log_may_not_follow_it() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let refusal = "hallpass: no policy permits bob to read-log";
    for arguments in [&["audit", "tail"][..], &["audit", "tail", "--follow"]] {
        bob.hallpass(arguments).fails(77, refusal);
    }
    let (status, kind, _) = bob.asks(&ca, "GET", "/v1/audit/tail").send().problem();
    assert_eq!((status, kind.as_str()), (403, "denied"));
    let refused = ca.home.entries("request-refused");
    assert_eq!(
        refused.last().unwrap()["event"]["refused"]["request"],
        "GET /v1/audit/tail"
    );
    let stranger = Person::stranger();
    let (status, kind, _) = stranger.asks(&ca, "GET", "/v1/audit/tail").send().problem();
    assert_eq!((status, kind.as_str()), (401, "not-accepted"));
    let admin = ca.admin();
    // The same request again.
    let request = admin.asks(&ca, "GET", "/v1/audit/tail");
    let mut first = tls(&ca).unwrap();
    first.write_all(&request.bytes()).unwrap();
    assert!(read_until(&mut first, "id: ").contains("200 OK"));
    assert_eq!(request.send().status, 401);
    for query in ["from=-1", "from=9223372036854775808", "limit=1", "usr=bob"] {
        let target = format!("/v1/audit/tail?{query}");
        assert_eq!(
            admin.asks(&ca, "GET", &target).send().status,
            400,
            "{query}"
        );
    }
}

#[test]
fn an_archive_that_cant_be_read_is_named() {
    let ca = Ca::on(Home::with_history());
    let admin = ca.admin();
    let log = ca.home.lines();
    let time = |entry: &str| {
        let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
        entry["time"].as_str().unwrap().to_owned()
    };
    for before in [&time(&log[800]), "2199-01-01T00:00:00Z"] {
        admin
            .hallpass(["audit", "archive", "--before", before])
            .ok();
    }
    let ca = Ca::on(ca.stop());
    admin.connect(&ca);
    let file = ca.home.path().join("archive/entries-768-1280.jsonl.gz");
    let aside = ca.home.path().join("aside");
    fs::rename(&file, &aside).unwrap();
    let named = format!("{}: No such file", file.display());

    // From where it can't be read on.
    let mut tail = Follower::start(&admin, &["--from", "1000"]);
    assert_eq!(tail.wait(), Some(69), "{}", tail.err());
    assert!(tail.out().is_empty() && tail.err().contains(&named));
    let request = admin.asks(&ca, "GET", "/v1/audit/tail?from=1000");
    let (status, _, detail) = request.send().problem();
    assert_eq!(status, 503);
    assert!(detail.contains(&named), "{detail}");

    // Up to there, and on when it is back.
    let mut tail = Follower::start(&admin, &["--json", "--from", "0"]);
    wait_until("the name of the file", || tail.err().contains(&named));
    assert!(tail.out() == log[..768], "{} entries", tail.out().len());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(tail.err().matches(&named).count(), 1, "{}", tail.err());
    fs::rename(&aside, &file).unwrap();
    wait_until("all", || tail.out().len() >= log.len());
    assert!(tail.out().starts_with(&log));
    let said = tail.err();
    assert!(
        said.ends_with("hallpass: the connection is back\n"),
        "{said}"
    );
    tail.signal(libc::SIGINT);
    assert_eq!(tail.wait(), None);
}

#[test]
fn a_disabled_auditors_stream_ends() {
    let ca = Ca::start();
    let admin = ca.admin();
    let audrey = ca.enrol("audrey", &["auditors"]);
    let (mut stream, _) = open(&ca, &audrey, "/v1/audit/tail");
    let mut tail = Follower::start(&audrey, &["--json"]);
    wait_until("the last entries", || !tail.out().is_empty());
    let start = Instant::now();
    admin.hallpass(["user", "disable", "audrey"]).ok();
    read_until(&mut stream, "an end, and not this");
    // A keep-alive would come after 15 s.
    assert!(start.elapsed() < Duration::from_secs(12));
    assert_eq!(tail.wait(), Some(77));
    let said = tail.err();
    assert!(
        said.contains("hallpass: the request was not accepted"),
        "{said}"
    );
    let disabled = ca.home.entries("user-disabled")[0]["index"]
        .as_u64()
        .unwrap();
    let seen = tail.out().last().unwrap().to_owned();
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    assert!(seen["index"].as_u64().unwrap() <= disabled);
}

#[test]
fn a_locked_auditors_stream_ends() {
    let ca = Ca::start();
    let audrey = ca.enrol("audrey", &["auditors"]);
    let mut tail = Follower::start(&audrey, &["--json"]);
    wait_until("the last entries", || !tail.out().is_empty());
    let lock = ["lock", "user/audrey", "--reason", "x"];
    ca.admin().hallpass(lock).ok();
    assert_eq!(tail.wait(), Some(77));
    let said = tail.err();
    assert!(said.contains("user/audrey is locked since "), "{said}");
}

#[test]
fn a_server_that_stops_waits_for_no_stream() {
    let ca = Ca::start();
    let admin = ca.admin();
    let mut streams: Vec<Stream> = (0..10)
        .map(|_| open(&ca, &admin, "/v1/audit/tail?from=0").0)
        .collect();
    let start = Instant::now();
    let home = ca.stop();
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "it waits 15 s for requests"
    );
    for stream in &mut streams {
        assert!(
            read_until(stream, "\r\n0\r\n\r\n").contains("\r\n0\r\n\r\n"),
            "a whole answer"
        );
    }
    // Closed in order, although they were open.
    let wal = format!("{}-wal", home.database().display());
    assert!(!std::path::Path::new(&wal).exists());
}

#[test]
fn streams_are_few_and_places_are_given_back() {
    let ca = Ca::start();
    let admin = ca.admin();
    let mut streams = Vec::new();
    let mut take = |source: &str| {
        let stream = tls_from(&ca, source).unwrap();
        let (stream, head) = open_on(stream, &ca, &admin, "/v1/audit/tail");
        let is_open = head.starts_with("HTTP/1.1 200");
        if is_open {
            streams.push(stream);
        } else {
            assert!(head.starts_with("HTTP/1.1 503"), "{head}");
            assert!(head.contains("retry-after: 1\r\n"), "{head}");
        }
        is_open
    };
    for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        for _ in 0..16 {
            assert!(take(source), "{source}");
        }
        assert!(!take(source), "{source} has its share");
    }
    assert!(!take("127.0.0.5"), "all are taken");
    let (status, kind, detail) = admin.asks(&ca, "GET", "/v1/audit/tail").send().problem();
    assert_eq!((status, kind.as_str()), (503, "busy"));
    assert_eq!(
        detail,
        "64 clients follow the log already: end one, or try again later"
    );
    streams.clear();
    let mut again = false;
    wait_until("places to be free", || {
        again = again || {
            let (_, head) = open(&ca, &admin, "/v1/audit/tail");
            head.starts_with("HTTP/1.1 200")
        };
        again
    });
}

#[test]
fn who_reads_nothing_holds_nothing_up() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let admin = ca.admin();
    let open_one = || {
        let stream = tls_from(&ca, "127.0.0.1").unwrap();
        open_on(stream, &ca, &admin, "/v1/audit/tail?from=0")
    };
    let idle: Vec<(Stream, String)> = (0..16).map(|_| open_one()).collect();
    assert!(open_one().1.starts_with("HTTP/1.1 503"));
    // Once more is to be sent than kernels hold on the way, they are dropped, and their places given
    // to others.
    under_load(&ca, &bob, || {
        wait_until("a place", || {
            std::thread::sleep(Duration::from_millis(200));
            open_one().1.starts_with("HTTP/1.1 200")
        });
    });
    assert!(issue(&ca, &bob));
    let status = fs::read_to_string(format!("/proc/{}/status", ca.pid())).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory: u64 = memory
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(memory < 400_000, "{memory} kB");
    drop(idle);
}

#[test]
fn tail_ends_with_its_reader() {
    let ca = Ca::start();
    let admin = ca.admin();
    let mut tail = admin
        .command()
        .args(["audit", "tail", "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = tail.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    drop(out);
    // Nothing happens that could be printed.
    let mut code = None;
    wait_until("the end of tail", || {
        code = tail.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    assert_eq!(code, Some(Some(0)));
    let mut said = String::new();
    tail.stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_log_put_back_to_an_old_backup_is_not_followed() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let admin = ca.admin();
    let backup = ca.home.folder.join("backup.db");
    let log = rusqlite::Connection::open(ca.home.database()).unwrap();
    log.execute("VACUUM INTO ?1", [backup.to_str().unwrap()])
        .unwrap();
    drop(log);
    let mut tail = Follower::start(&admin, &["--json", "--from", "0"]);
    assert!((0..20).all(|_| issue(&ca, &bob)));
    wait_until("all entries", || tail.out().len() == ca.home.lines().len());
    // What came behind the checkpoint that was seen at the beginning.
    admin.hallpass(["audit", "tail"]).ok();
    let address = ca.address().to_owned();
    let home = ca.stop();
    fs::rename(backup, home.database()).unwrap();
    run("chmod", ["600", home.database().to_str().unwrap()]).ok();
    let _ca = Ca::at(home, &address);
    assert_eq!(tail.wait(), Some(76));
    assert!(
        tail.err().contains("THE CA'S AUDIT LOG WAS CHANGED"),
        "{}",
        tail.err()
    );
}
