//! Old entries in files: they leave the database, and stay in the log.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{Ca, Home, Person, run, serve_fails, tls, wait_until};

/// Everything that may be archived.
const ALL: [&str; 4] = ["audit", "archive", "--before", "2199-01-01T00:00:00Z"];

fn open(home: &Home) -> Connection {
    Connection::open(home.database()).unwrap()
}

/// The log's entries as they are stored, by index.
fn stored(home: &Home) -> Vec<String> {
    let log = open(home);
    let mut rows = log
        .prepare("SELECT body FROM entries ORDER BY idx")
        .unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// All that a client gets of the log.
fn listed(person: &Person, more: &[&str]) -> Vec<String> {
    let list = ["audit", "list", "--json"];
    let text = person.hallpass(list.iter().chain(more)).ok();
    text.lines().map(str::to_owned).collect()
}

fn archives(home: &Home) -> Vec<PathBuf> {
    let files = fs::read_dir(home.path().join("archive"));
    let files = files.into_iter().flatten().flatten();
    files.map(|file| file.path()).collect()
}

fn value(entry: &str) -> Value {
    serde_json::from_str(entry).unwrap()
}

#[test]
fn archived_entries_are_read_as_before() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    let before = stored(&ca.home);
    let filters: [&[&str]; 6] = [
        &["--user", "carol"],
        &["--user", "dave"],
        &["--role", "server-operator", "--user", "bob"],
        &["--purpose", "maintenance"],
        &[
            "--since",
            &time(&before[700]),
            "--until",
            &time(&before[1230]),
        ],
        &["--since", &time(&before[1205]), "--user", "dave"],
    ];
    let expected: Vec<_> = filters
        .iter()
        .map(|filter| listed(&alice, filter))
        .collect();
    let said = alice.hallpass(ALL).ok();
    assert!(said.starts_with("entries 0 to "), "{said}");
    let again = alice.hallpass(ALL).ok();
    assert!(again.starts_with("Nothing to archive"), "{again}");
    // From the CA, and from its database.
    let home = ca.home.path();
    let here = ["audit", "verify", "--no-certificates", "--home"];
    let here = [&here[..], &[home.to_str().unwrap()]].concat();
    for verify in [&here[..3], &here] {
        let verified = alice.hallpass(verify).ok();
        assert!(verified.starts_with("Verified: all "), "{verified}");
    }

    // What is in the file is what was in the database, for everybody with zcat and sha256sum.
    let files = archives(&ca.home);
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700));
    let text = run("zcat", [file.to_str().unwrap()]).ok();
    let archived: Vec<&str> = text.lines().collect();
    let count = archived.len();
    assert!(archived == before[..count]);
    assert!(count > 1200 && count < before.len() - 999, "{count}");
    assert_eq!(count % 256, 0);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("entries-0-{count}.jsonl.gz"));
    let sum = run("sha256sum", [file.to_str().unwrap()]).ok();
    let logged = ca.home.entries("log-archived").pop().unwrap();
    assert_eq!(logged["event"]["sha256"], sum.split(' ').next().unwrap());
    assert_eq!(logged["event"]["by"]["requester"], "alice");

    let ca = Ca::on(ca.stop());
    alice.connect(&ca);
    let kept = stored(&ca.home);
    assert!(kept.len() < before.len() - count + 40, "{}", kept.len());
    for (filter, expected) in filters.iter().zip(&expected) {
        assert!(listed(&alice, filter) == *expected, "{filter:?}");
    }
    assert!(listed(&alice, &[]).starts_with(&before));
    for index in [0, 1, 300, 600, count - 1, count, count + 1] {
        let number = index.to_string();
        let shown = alice.hallpass(["audit", "show", "--json", &number]).ok();
        assert_eq!(shown.trim_end(), before[index]);
        let out = alice.folder.join(format!("{index}.tlog-proof"));
        let out = out.to_str().unwrap();
        alice
            .hallpass(["audit", "prove", &number, "--out", out])
            .ok();
        alice.hallpass(["audit", "verify-proof", out]).ok();
        let serial = value(&before[index])["event"]["certificate"]["serial"].clone();
        if let Some(serial) = serial.as_str() {
            let shown = alice.hallpass(["audit", "show", "--json", serial]).ok();
            assert_eq!(shown.trim_end(), before[index]);
            let (has, other) = (["--serial", serial], ["--serial", serial, "--user", "dave"]);
            assert_eq!(listed(&alice, &has), before[index..=index]);
            assert_eq!(listed(&alice, &other), [""; 0]);
        }
    }
    let out = alice.folder.join("log.jsonl");
    let export = ["audit", "export", "--out", out.to_str().unwrap()];
    let window = [
        "--since",
        &time(&before[5]),
        "--until",
        &time(&before[count + 400]),
    ];
    alice.hallpass(export.iter().chain(&window)).ok();
    let exported = fs::read_to_string(&out).unwrap();
    let exported: Vec<&str> = exported.lines().collect();
    let first = before
        .iter()
        .position(|entry| time(entry) == time(&before[5]))
        .unwrap();
    assert!(exported == before[first..count + 400]);
    let proof = format!("{}.proof", out.display());
    alice.hallpass(["audit", "verify-proof", &proof]).ok();
    // Who is enrolled is still what the archived entries say.
    let users = alice.hallpass(["user", "list", "--json"]).ok();
    let carol = users
        .lines()
        .map(value)
        .find(|user| user["name"] == "carol");
    assert_eq!(carol.unwrap()["enabled"], false, "{users}");
    // The next file goes on where this one ends.
    let bob = ca.enrol("bob", &["on-call"]);
    for _ in 0..400 {
        let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
        let request = bob.asks(&ca, "POST", "/v1/certificates/ssh");
        assert_eq!(request.ssh(&bob.key, ask).send().status, 200);
    }
    let said = alice.hallpass(ALL).ok();
    assert!(said.starts_with(&format!("entries {count} to ")), "{said}");
    let ca = Ca::on(ca.stop());
    alice.connect(&ca);
    assert!(listed(&alice, &[]).starts_with(&before));
}

fn time(entry: &str) -> String {
    value(entry)["time"].as_str().unwrap().to_owned()
}

#[test]
fn a_damaged_or_missing_file_is_named_and_never_skipped() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    alice.hallpass(ALL).ok();
    let mut home = ca.stop();
    let file = archives(&home).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    // More than a member's header, which says nothing of the entries.
    for byte in &mut changed[whole.len() / 2..][..64] {
        *byte ^= 1;
    }
    for (content, why) in [
        (None, "No such file or directory"),
        (Some(&whole[..whole.len() - 100]), "it was changed"),
        (Some(&changed[..]), "it was changed"),
        (Some(&b""[..]), "it was changed"),
    ] {
        match content {
            None => fs::remove_file(&file).unwrap(),
            Some(content) => fs::write(&file, content).unwrap(),
        }
        fs::remove_file(home.folder.join("serve.log")).unwrap();
        let ca = Ca::on(home);
        alice.connect(&ca);
        let said = format!("archive/entries-0-1280.jsonl.gz: {why}");
        for command in [
            "show 7",
            "list",
            "list --user dave",
            "prove 7",
            "export --out x",
        ] {
            let line = format!("audit {command}");
            let ran = alice.hallpass(line.split(' '));
            assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{command}: {ran:?}");
            assert!(ran.err.contains(&said), "{command}: {ran:?}");
        }
        let missing = "archived entries are missing";
        assert_eq!(ca.server_log().contains(missing), content.is_none());
        // What is not archived, and what only needs the tree, goes on.
        alice.hallpass(["audit", "show", "2000"]).ok();
        alice.hallpass(["user", "list"]).ok();
        home = ca.stop();
    }
    fs::write(&file, &whole).unwrap();
    let ca = Ca::on(home);
    alice.connect(&ca);
    alice.hallpass(["audit", "show", "7"]).ok();
    // Changed under the server's hands, each entry is still checked against the tree.
    fs::write(&file, &changed).unwrap();
    let ran = alice.hallpass(["audit", "list"]);
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(
        ran.err.contains("archive/entries-0-1280.jsonl.gz"),
        "{ran:?}"
    );
}

#[test]
fn the_database_gives_up_archived_entries_alone() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    let refused = |log: &Connection, sql: &str| {
        let error = log.execute(sql, []).unwrap_err().to_string();
        assert!(
            error.contains("the audit log is append-only"),
            "{sql}: {error}"
        );
    };
    let log = open(&ca.home);
    refused(&log, "DELETE FROM entries WHERE idx = 7");
    alice.hallpass(ALL).ok();
    for sql in [
        "DELETE FROM entries WHERE idx = 2000",
        // Kept: who was enrolled, what times are found by.
        "DELETE FROM entries WHERE kind = 'user-disabled'",
        "DELETE FROM entries WHERE idx = 512",
        "DELETE FROM archives",
        "UPDATE archives SET next = 99999",
        "DELETE FROM archived_serials",
        "UPDATE archived_serials SET idx = 1",
        "DELETE FROM tree WHERE idx = 7",
        "UPDATE entries SET body = '' WHERE idx = 512",
    ] {
        refused(&log, sql);
    }
    drop(log);
    // Whoever drops the triggers is found out at the next start.
    let home = ca.stop();
    let database = fs::read(home.database()).unwrap();
    for (sql, why) in [
        (
            "DELETE FROM entries WHERE kind = 'user-disabled'",
            "of the entries that are archived in entries-0-1280.jsonl.gz, 4 should have been kept, \
             and 3 are there",
        ),
        (
            "INSERT INTO archives VALUES (1280, 2000, 'entries-1280-2000.jsonl.gz', '')",
            "other files of archived entries are recorded than the log has entries of",
        ),
        ("DELETE FROM archives", "has a gap"),
        (
            "UPDATE archives SET sha256 = 'x'",
            "other files of archived entries are recorded than the log has entries of",
        ),
        ("DELETE FROM entries WHERE idx = 1400", "has a gap"),
    ] {
        let log = open(&home);
        for trigger in ["entries_remain", "archives_remain", "archives_stay"] {
            log.execute(&format!("DROP TRIGGER {trigger}"), []).unwrap();
        }
        assert!(log.execute(sql, []).unwrap() > 0);
        // The log's key has signed for some of it. Who takes that away is found out all the same.
        let signed = log.execute("DELETE FROM marks WHERE name = 'state'", []);
        assert_eq!(signed, Ok(1));
        drop(log);
        let (code, message) = serve_fails(&home);
        assert_eq!(code, 78, "{sql}: {message}");
        assert!(message.contains(why), "{sql}: {message}");
        fs::write(home.database(), &database).unwrap();
    }
    drop(Ca::on(home));
}

/// A look-up by serial number goes by what the database keeps of the file.
#[test]
fn who_takes_an_archived_entry_out_of_what_is_searched_is_found_out() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    alice.hallpass(ALL).ok();
    let home = ca.stop();
    let database = fs::read(home.database()).unwrap();
    let verify = ["audit", "verify", "--no-certificates", "--home"];
    let verify = || alice.hallpass(verify.iter().chain([&home.path().to_str().unwrap()]));
    verify().ok();
    for (sql, index, entries) in [
        (
            "DELETE FROM archived_serials WHERE idx = 700",
            "serial",
            "512 to 767",
        ),
        (
            "UPDATE archived_serials SET idx = 701 WHERE idx = 700",
            "serial",
            "512 to 767",
        ),
        (
            "UPDATE archived_serials SET serial = 1 WHERE idx = 700",
            "serial",
            "512 to 767",
        ),
        (
            "INSERT INTO archived_serials VALUES (1, 300)",
            "serial",
            "256 to 511",
        ),
        (
            "DELETE FROM entries WHERE kind = 'user-disabled' AND idx < 1280",
            "state",
            "",
        ),
    ] {
        let log = open(&home);
        for trigger in [
            "entries_remain",
            "archived_serials_remain",
            "archived_serials_stay",
        ] {
            log.execute(&format!("DROP TRIGGER {trigger}"), []).unwrap();
        }
        assert_eq!(log.execute(sql, []), Ok(1), "{sql}");
        drop(log);
        let ran = verify();
        assert_eq!(ran.code, 76, "{sql}: {ran:?}");
        let named = format!(
            "the index entries_{index} of the database has something else of entries {entries}"
        );
        assert!(ran.err.contains(&named), "{sql}: {ran:?}");
        fs::write(home.database(), &database).unwrap();
    }
}

#[test]
fn what_is_not_what_was_committed_is_not_archived() {
    let home = Home::with_history();
    let log = open(&home);
    log.execute("DROP TRIGGER entries_stay", []).unwrap();
    log.execute(
        "UPDATE entries SET body = replace(body, ':600', ':601') WHERE idx = 77",
        [],
    )
    .unwrap();
    drop(log);
    let ca = Ca::on(home);
    let alice = ca.admin();
    let ran = alice.hallpass(ALL);
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(
        ran.err.contains("entry 77 is not what was committed"),
        "{ran:?}"
    );
    assert_eq!(archives(&ca.home), [""; 0].map(PathBuf::from));
    assert!(ca.home.entries("log-archived").is_empty());
}

#[test]
fn archiving_is_for_administrators() {
    let ca = Ca::on(Home::with_history());
    let auditor = ca.enrol("ann", &["auditors"]);
    let ran = auditor.hallpass(ALL);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(
        ran.err.contains("no policy permits ann to archive-log"),
        "{ran:?}"
    );
    assert!(archives(&ca.home).is_empty());
    let alice = ca.admin();
    for body in [
        json!({}),
        json!({"before": "2026"}),
        json!({"before": "2199-01-01T00:00:00Z", "x": 1}),
    ] {
        let request = alice.asks(&ca, "POST", "/v1/audit/archive").json(&body);
        assert_eq!(request.send().status, 400, "{body}");
    }
    let ran = alice.hallpass(["audit", "archive", "--before", "2001-01-01T00:00:00Z"]);
    assert!(ran.ok().starts_with("Nothing to archive"));
    // Something else where a file should go is not overwritten.
    fs::create_dir(ca.home.path().join("archive")).unwrap();
    let there = ca.home.path().join("archive/entries-0-1280.jsonl.gz");
    fs::write(&there, "mine").unwrap();
    let ran = alice.hallpass(ALL);
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(
        ran.err
            .contains("is there already and holds something else"),
        "{ran:?}"
    );
    assert_eq!(fs::read(&there).unwrap(), b"mine");
}

#[test]
fn a_server_killed_while_it_archives_loses_nothing() {
    let mut issued_in_all = 0;
    for round in 0..4 {
        let ca = Ca::on(Home::with_history());
        let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
        let before = stored(&ca.home);
        let mut archiving = alice
            .command()
            .args(ALL)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let issued = std::thread::scope(|scope| {
            // Others get their certificates meanwhile.
            let issuing = scope.spawn(|| {
                let mut issued = Vec::new();
                loop {
                    let ask =
                        json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
                    let request = bob.asks(&ca, "POST", "/v1/certificates/ssh");
                    let Ok(answer) = request.ssh(&bob.key, ask).try_send() else {
                        return issued;
                    };
                    assert_eq!(answer.status, 200, "{answer:?}");
                    issued.push(answer.json()["serial"].as_str().unwrap().to_owned());
                }
            });
            std::thread::sleep(Duration::from_millis(40 + 120 * round));
            ca.signal(libc::SIGKILL);
            archiving.wait().unwrap();
            issuing.join().unwrap()
        });
        let home = ca.kill();
        let ca = Ca::on(home);
        alice.connect(&ca);
        let ran = alice.hallpass(ALL);
        assert_eq!(ran.code, 0, "{ran:?}");
        let all = listed(&alice, &[]);
        assert!(all.starts_with(&before), "round {round}");
        let serials: BTreeSet<_> = all
            .iter()
            .map(|entry| value(entry)["event"]["certificate"]["serial"].clone())
            .filter_map(|serial| serial.as_str().map(str::to_owned))
            .collect();
        assert!(issued.iter().all(|serial| serials.contains(serial)));
        issued_in_all += issued.len();
        let files = archives(&ca.home);
        assert_eq!(
            files.len(),
            ca.home.entries("log-archived").len(),
            "{files:?}"
        );
        assert!(stored(&ca.home).len() < before.len());
        drop(Ca::on(ca.stop()));
    }
    assert!(issued_in_all > 0);
}

/// As when the disk is slow: the client gives up, and the entry is still on its way.
#[test]
fn a_file_that_an_entry_is_about_to_name_stays() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    let before = stored(&ca.home);
    let ask = |until: &str| {
        let request = alice.asks(&ca, "POST", "/v1/audit/archive");
        request.json(&json!({"before": until}))
    };
    let log = open(&ca.home);
    log.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut gives_up = tls(&ca).unwrap();
    gives_up
        .write_all(&ask(&time(&before[800])).bytes())
        .unwrap();
    let file = ca.home.path().join("archive/entries-0-768.jsonl.gz");
    wait_until("the file", || file.exists());
    drop(gives_up);
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| ask("2199-01-01T00:00:00Z").send());
        // Long enough for another file.
        std::thread::sleep(Duration::from_secs(2));
        assert!(file.exists());
        log.execute_batch("COMMIT").unwrap();
        second.join().unwrap()
    });
    let (status, kind, detail) = second.problem();
    assert_eq!((status, kind.as_str()), (409, "conflict"), "{detail}");
    wait_until("the entry", || !ca.home.entries("log-archived").is_empty());
    alice.hallpass(ALL).ok();
    let ca = Ca::on(ca.stop());
    alice.connect(&ca);
    assert_eq!(ca.home.entries("log-archived").len(), 2);
    assert!(stored(&ca.home).len() < before.len() - 1000);
    assert!(listed(&alice, &[]).starts_with(&before));
}

#[test]
fn what_a_crash_left_is_finished_or_tidied() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    let before = stored(&ca.home);
    alice.hallpass(ALL).ok();
    let done = ca.stop();
    let file = archives(&done).pop().unwrap();
    let content = fs::read(&file).unwrap();

    // Killed while it wrote, and before an entry told of what it had written: then more had become
    // old enough.
    let home = Home::with_history();
    let folder = home.path().join("archive");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".entries.draft"), &content[..1000]).unwrap();
    let members = [0, 1].map(|member| length_of_member(&content, member));
    let shorter = folder.join("entries-0-512.jsonl.gz");
    fs::write(&shorter, &content[..members[0] + members[1]]).unwrap();
    fs::write(folder.join(file.file_name().unwrap()), &content).unwrap();
    // Not what a crash left, and nobody's to remove.
    let foreign = folder.join("entries-0-99999.jsonl.gz");
    fs::write(&foreign, "mine").unwrap();
    let ca = Ca::on(home);
    alice.connect(&ca);
    alice.hallpass(ALL).ok();
    assert!(!shorter.exists() && !folder.join(".entries.draft").exists());
    assert_eq!(fs::read(&foreign).unwrap(), b"mine");
    let same = folder.join(file.file_name().unwrap());
    assert!(fs::read(same).unwrap() == content);
    assert!(listed(&alice, &[]).starts_with(&before[..2000]));

    // Killed while it deleted.
    let log = open(&done);
    log.execute_batch("DROP TRIGGER archived_serials_remain")
        .unwrap();
    log.execute("DELETE FROM archived_serials WHERE idx >= 700", [])
        .unwrap();
    log.execute("UPDATE marks SET value = 700 WHERE name = 'cleared'", [])
        .unwrap();
    let mut insert = log
        .prepare(
            "INSERT OR IGNORE INTO entries (idx, time, kind, requester, serial, body)
             VALUES (?1, ?2, ?3, 'bob', ?4, ?5)",
        )
        .unwrap();
    for (index, body) in before[..1280].iter().enumerate().skip(700) {
        let entry = value(body);
        let serial = entry["event"]["certificate"]["serial"].as_str();
        let serial: Option<i64> = serial.map(|serial| serial.parse().unwrap());
        let time: hallpass::model::Timestamp = time(body).parse().unwrap();
        let kind = entry["event"]["kind"].as_str();
        let row = (index as i64, time.as_millis() as i64, kind, serial, body);
        insert.execute(row).unwrap();
    }
    drop(insert);
    drop(log);
    let half = stored(&done).len();
    // The database has the only copy of what it still has, unless the file is what it was.
    let mut done = done;
    let mut changed = content.clone();
    changed[content.len() - 100] ^= 1;
    for content in [None, Some(changed)] {
        match &content {
            None => fs::remove_file(&file).unwrap(),
            Some(content) => fs::write(&file, content).unwrap(),
        }
        let ca = Ca::on(done);
        alice.connect(&ca);
        let ran = alice.hallpass(ALL);
        assert_eq!(ran.code, 69, "{ran:?}");
        assert!(ran.err.contains(file.to_str().unwrap()), "{ran:?}");
        let kept = ca.server_log().matches("stay in the database").count();
        assert_eq!(kept, if content.is_none() { 1 } else { 2 });
        done = ca.stop();
        assert!(stored(&done).len() > half);
    }
    fs::write(&file, &content).unwrap();
    let ca = Ca::on(done);
    alice.connect(&ca);
    assert!(stored(&ca.home).len() < half - 500);
    assert!(listed(&alice, &[]).starts_with(&before));
    for index in [701, 1279] {
        let serial = value(&before[index])["event"]["certificate"]["serial"].clone();
        if let Some(serial) = serial.as_str() {
            assert_eq!(listed(&alice, &["--serial", serial]), before[index..=index]);
        }
    }
}

/// How long a member of the file is, as its header says.
fn length_of_member(content: &[u8], member: usize) -> usize {
    let mut at = 0;
    for _ in 0..member {
        at += length_of_member(&content[at..], 0);
    }
    let length = content[at + 16..at + 20].try_into().unwrap();
    u32::from_le_bytes(length) as usize
}
