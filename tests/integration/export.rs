//! Stretches of the log as files, and the proof beside each.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{Ca, Home, Person, Ran, fails_when_full, run};

fn export(person: &Person, name: &str, more: &[&str]) -> Ran {
    let out = person.folder.join(name);
    let out = ["audit", "export", "--out", out.to_str().unwrap()];
    person.hallpass(out.iter().chain(more))
}

fn verify(person: &Person, name: &str) -> Ran {
    let proof = person.folder.join(name);
    person.hallpass(["audit", "verify-proof", proof.to_str().unwrap()])
}

fn lines(person: &Person, name: &str) -> Vec<String> {
    let text = fs::read_to_string(person.folder.join(name)).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The log's entries as they are stored.
fn stored(home: &Home) -> Vec<String> {
    let log = rusqlite::Connection::open_with_flags(
        home.database(),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    );
    let log = log.unwrap();
    let mut rows = log
        .prepare("SELECT body FROM entries ORDER BY idx")
        .unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn a_time_is_exported_whole_and_proves_itself_without_the_ca() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    let all = stored(&ca.home);
    let time = |index: usize| {
        let entry: Value = serde_json::from_str(&all[index]).unwrap();
        entry["time"].as_str().unwrap().to_owned()
    };
    // Also around where the clock was corrected, whose days are there twice.
    let corrected = all
        .iter()
        .position(|entry| entry.contains("clock-corrected"));
    let corrected = corrected.unwrap();
    for (number, (since, until)) in [
        (None, None),
        (Some(time(0)), Some(time(0))),
        (Some(time(300)), Some(time(900))),
        (Some(time(corrected - 70)), Some(time(corrected + 5))),
        (Some(time(corrected)), Some(time(corrected + 30))),
        (Some(time(corrected + 300)), None),
        (None, Some(time(257))),
        (Some("2199-01-01T00:00:00Z".to_owned()), None),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{number}.jsonl");
        let mut window = Vec::new();
        if let Some(since) = &since {
            window.extend(["--since", since]);
        }
        if let Some(until) = &until {
            window.extend(["--until", until]);
        }
        export(&alice, &name, &window).ok();
        let inside = |entry: &String| {
            let entry: Value = serde_json::from_str(entry).unwrap();
            let text = entry["time"].as_str().unwrap();
            let time: hallpass::model::Timestamp = text.parse().unwrap();
            since
                .as_ref()
                .is_none_or(|since| time >= since.parse().unwrap())
                && until
                    .as_ref()
                    .is_none_or(|until| time < until.parse().unwrap())
        };
        let exported = lines(&alice, &name);
        let expected = match all.iter().position(inside) {
            Some(first) => &all[first..=all.iter().rposition(inside).unwrap()],
            None => &[],
        };
        assert_eq!(exported, expected, "{since:?} {until:?}");
        let said = verify(&alice, &format!("{name}.proof")).ok();
        assert!(said.starts_with("Proven: "), "{said}");
        for name in [name.clone(), format!("{name}.proof")] {
            let mode = fs::metadata(alice.folder.join(name)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
    }
    // With the key alone, in another account, after the CA is gone.
    let key = alice.hallpass(["audit", "key"]).ok();
    drop(ca);
    let stranger = Person::stranger();
    let proof = alice.folder.join("2.jsonl.proof");
    let said = stranger.hallpass([
        "audit",
        "verify-proof",
        proof.to_str().unwrap(),
        "--key",
        key.trim(),
    ]);
    assert!(said.ok().contains("is all entries from "));
    let another = Ca::on(Home::of_another_ca()).admin();
    let said = another.hallpass(["audit", "verify-proof", proof.to_str().unwrap()]);
    assert_eq!(said.code, 76, "{said:?}");
}

#[test]
fn whatever_is_done_to_an_export_is_noticed() {
    let ca = Ca::start();
    let alice = ca.admin();
    ca.enrol("bob", &["on-call"]);
    for format in ["jsonl", "csv", "ocsf"] {
        let name = format!("log.{format}");
        export(&alice, &name, &["--format", format]).ok();
        verify(&alice, &format!("{name}.proof")).ok();
        let path = alice.folder.join(&name);
        let text = fs::read_to_string(&path).unwrap();
        let whole: Vec<&str> = text.split_inclusive('\n').collect();
        let header = usize::from(format == "csv");
        let third = header + 2;
        let attack = |what: &str, code: i32, message: &str, lines: Vec<&str>| {
            fs::write(&path, lines.concat()).unwrap();
            let ran = verify(&alice, &format!("{name}.proof"));
            let said = format!("{}: {message}", path.display());
            assert_eq!(ran.code, code, "{format} {what}: {ran:?}");
            assert!(ran.err.contains(&said), "{format} {what}: {ran:?}");
        };
        let mut removed = whole.clone();
        removed.remove(third);
        let message = format!("line {} should be entry 2, and is another", third + 1);
        attack("removed", 76, &message, removed);
        let mut swapped = whole.clone();
        swapped.swap(third, third + 1);
        attack("swapped", 76, &message, swapped);
        let mut added = whole.clone();
        added.push(whole[third]);
        let message = format!("line {} is one too many", whole.len() + 1);
        attack("added", 76, &message, added);
        let last = whole.len() - 1;
        let message = format!("it ends before entry {}", last - header);
        attack("the last removed", 76, &message, whole[..last].to_vec());
        let changed = whole[last].replace("bob", "eve");
        let mut lines = whole.clone();
        lines[last] = &changed;
        attack("changed", 76, "the export is not what the log has", lines);
        let message = format!("line {} can't be read", third + 1);
        let cut = &whole[third][..whole[third].len() / 2];
        let mut lines = whole[..third].to_vec();
        lines.push(cut);
        attack("cut off", 65, &message, lines);
        if format != "jsonl" {
            // What stands beside the entry alone.
            let changed = whole[last].replacen("bob", "eve", 1);
            let mut lines = whole.clone();
            lines[last] = &changed;
            let message = format!("line {} can't be read: what stands beside", last + 1);
            attack("a cell changed", 65, &message, lines);
        }
        fs::write(&path, &text).unwrap();
        verify(&alice, &format!("{name}.proof")).ok();
    }
    // The proof of another stretch, and proofs that were changed.
    let proof = fs::read_to_string(alice.folder.join("log.jsonl.proof")).unwrap();
    let first = stored(&ca.home)[1].clone();
    let since = serde_json::from_str::<Value>(&first).unwrap()["time"].clone();
    ca.enrol("dave", &[]);
    export(&alice, "all.jsonl", &["--since", since.as_str().unwrap()]).ok();
    let forge = |text: &str| {
        fs::write(alice.folder.join("log.jsonl.proof"), text).unwrap();
        verify(&alice, "log.jsonl.proof").code
    };
    let other = fs::read_to_string(alice.folder.join("all.jsonl.proof")).unwrap();
    assert_eq!(forge(&other), 76);
    assert_eq!(forge(&proof), 0);
    assert_eq!(forge(&proof.replace("format jsonl", "format csv")), 65);
    let next = proof.lines().nth(3).unwrap();
    assert_eq!(forge(&proof.replace(next, "next 3")), 76);
    assert_eq!(forge(&proof.replace("\n\n", "\n")), 65);
    assert_eq!(forge(&proof[..proof.len() - 10]), 76);
    fs::remove_file(alice.folder.join("log.jsonl")).unwrap();
    assert_eq!(forge(&proof), 66);
}

#[test]
fn an_export_overwrites_nothing_and_is_for_those_who_may_read() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    for name in ["there.jsonl", "there.jsonl.proof"] {
        let path = alice.folder.write(name, "mine");
        let said = format!(
            "hallpass: {} exists already, and is not overwritten: choose another --out",
            path.display()
        );
        export(&alice, "there.jsonl", &[]).fails(73, &said);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(path).unwrap();
    }
    let ran = export(&bob, "log.jsonl", &[]);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(files(&bob, "log.jsonl").is_empty());
    // A disk that takes no more.
    let mut command = alice.program("prlimit");
    let out = alice.folder.join("full.jsonl");
    command.args(["--fsize=2000", env!("CARGO_BIN_EXE_hallpass"), "audit"]);
    let ran = Ran::of(fails_when_full(command.args(["export", "--out"]).arg(out)));
    assert_eq!(ran.code, 73, "{ran:?}");
    assert!(files(&alice, "full.jsonl").is_empty());
    let ran = export(&alice, "x", &["--format", "xml"]);
    assert_eq!(ran.code, 64, "{ran:?}");
}

fn files(person: &Person, part: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(person.folder.path()).unwrap().flatten();
    let paths = files.map(|file| file.path());
    paths
        .filter(|path| path.to_str().is_some_and(|path| path.contains(part)))
        .collect()
}

#[test]
fn python_reads_the_table_and_no_cell_is_a_formula() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let reason = "=HYPERLINK(\"http://evil\",\"x, y\")";
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": reason});
    let request = bob.asks(&ca, "POST", "/v1/certificates/ssh");
    assert_eq!(request.ssh(&bob.key, ask).send().status, 200);
    export(&alice, "log.csv", &["--format", "csv"]).ok();
    let program = "import csv, json, sys
rows = list(csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8')))
print(json.dumps(rows))";
    let path = alice.folder.join("log.csv");
    let rows = run("python3", ["-c", program, path.to_str().unwrap()]).ok();
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let all = stored(&ca.home);
    assert_eq!(rows.len(), all.len());
    for (row, entry) in rows.iter().zip(&all) {
        assert_eq!(row["entry"], entry.as_str());
        for (name, cell) in row.as_object().unwrap() {
            let cell = cell.as_str().unwrap();
            assert!(
                !cell.starts_with(['=', '+', '-', '@', '\t', '\r']),
                "{name}: {cell}"
            );
        }
    }
    let row = rows.iter().find(|row| row["kind"] == "certificate-issued");
    let row = row.unwrap();
    assert_eq!(row["user"], "bob");
    assert_eq!(row["reason"], format!("'{reason}"));
    assert_eq!(row["role"], "server-operator");
}

#[test]
fn a_siem_gets_events_of_the_schema() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let request = bob.asks(&ca, "POST", "/v1/certificates/ssh");
    assert_eq!(request.ssh(&bob.key, ask).send().status, 200);
    assert_eq!(bob.asks(&ca, "GET", "/v1/users").send().status, 403);
    let stranger = Person::stranger();
    assert_eq!(stranger.asks(&ca, "GET", "/v1/whoami").send().status, 401);
    export(&alice, "log.ocsf", &["--format", "ocsf"]).ok();
    let all = stored(&ca.home);
    let events = lines(&alice, "log.ocsf");
    assert_eq!(events.len(), all.len());
    let mut classes = std::collections::BTreeMap::new();
    for (event, entry) in events.iter().zip(&all) {
        let event: Value = serde_json::from_str(event).unwrap();
        let parsed: Value = serde_json::from_str(entry).unwrap();
        assert_eq!(event["raw_data"], entry.as_str());
        assert_eq!(event["metadata"]["uid"], parsed["index"].to_string());
        let time: hallpass::model::Timestamp = parsed["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(event["time"], time.as_millis());
        let number = |name: &str| event[name].as_u64().unwrap();
        assert_eq!(
            number("type_uid"),
            number("class_uid") * 100 + number("activity_id")
        );
        assert_eq!(number("category_uid"), number("class_uid") / 1000);
        // What the schema demands of each class.
        let demanded: &[&str] = match number("class_uid") {
            3001 => &["/user/name"],
            3002 => &["/user/name", "/service/name", "/src_endpoint/ip"],
            3004 => &["/entity/name"],
            6002 => &["/app/vendor_name"],
            6003 => &["/actor/user/name", "/api/operation", "/src_endpoint/ip"],
            other => panic!("{other}: {event}"),
        };
        let always = [
            "/severity_id",
            "/metadata/version",
            "/metadata/product/vendor_name",
        ];
        for pointer in demanded.iter().chain(&always) {
            let value = event.pointer(pointer);
            assert!(
                value.is_some_and(|value| !value.is_null()),
                "{pointer}: {event}"
            );
        }
        let kind = parsed["event"]["kind"].as_str().unwrap().to_owned();
        classes.insert(kind, (number("class_uid"), number("status_id")));
    }
    assert_eq!(classes["certificate-issued"], (6003, 1));
    assert_eq!(classes["request-refused"], (6003, 2));
    assert_eq!(classes["unauthenticated-refused"], (3002, 2));
    assert_eq!(classes["user-enrolled"], (3001, 1));
    assert_eq!(classes["server-started"], (6002, 1));
}

#[test]
fn what_is_exported_under_load_is_one_moment() {
    let ca = Ca::start();
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let ask =
                        json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
                    let request = bob.asks(&ca, "POST", "/v1/certificates/ssh");
                    assert_eq!(request.ssh(&bob.key, ask).send().status, 200);
                }
            });
        }
        for round in 0..8 {
            let name = format!("{round}.jsonl");
            export(&alice, &name, &[]).ok();
            verify(&alice, &format!("{name}.proof")).ok();
        }
        done.store(true, Ordering::Relaxed);
    });
    let all = stored(&ca.home);
    let mut length = 0;
    for round in 0..8 {
        let exported = lines(&alice, &format!("{round}.jsonl"));
        assert!(all.starts_with(&exported) && exported.len() > length);
        length = exported.len();
    }
}

#[test]
fn hashes_are_for_everybody_and_entries_are_not() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &[]);
    let get = |target: &str| bob.asks(&ca, "GET", target).send();
    let size = ca.home.log().len();
    let answer = get(&format!("/v1/log/range?first=1&next=3&size={size}"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["first"], 1);
    for target in [
        "first=3&next=1&size=5",
        "first=0&next=6&size=5",
        "first=0&next=1&size=999999",
        "first=0&next=1&size=18446744073709551615",
    ] {
        let (status, kind, _) = get(&format!("/v1/log/range?{target}")).problem();
        assert_eq!((status, kind.as_str()), (404, "not-found"), "{target}");
    }
    for target in [
        "first=-1&next=1&size=5",
        "first=0&next=1",
        "first=0&next=1&size=5&x=1",
    ] {
        assert_eq!(
            get(&format!("/v1/log/range?{target}")).status,
            400,
            "{target}"
        );
    }
    assert_eq!(get("/v1/audit/span").status, 403);
    assert_eq!(get("/v1/audit/span?since=yesterday").status, 400);
}
