//! A home in one file, and what becomes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{
    Ca, Folder, Home, Person, Ran, Volume, fails_when_full, run, serve_fails, wait_until,
};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hallpass"));
    command.env_remove("HALLPASS_HOME").args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn back_up(home: &Home, file: &Path) -> Ran {
    Ran::of(&mut program(&[
        "backup",
        text(file),
        "--home",
        text(&home.path()),
    ]))
}

fn restore(file: &Path, home: &Path) -> Ran {
    Ran::of(&mut program(&["restore", text(file), "--home", text(home)]))
}

/// A home restored out of a backup of another, with what is beside it.
fn restored(file: &Path) -> Home {
    let home = Home::new();
    fs::remove_dir_all(home.path()).unwrap();
    restore(file, &home.path()).ok();
    home
}

fn issue(ca: &Ca, person: &Person) -> u64 {
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    let request = person.asks(ca, "POST", "/v1/certificates/ssh");
    let answer = request.ssh(&person.key, ask).send();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["entry"].as_u64().unwrap()
}

/// Every file of a home but those of a running server, with its mode and content.
fn parts(home: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut parts = Vec::new();
    for folder in ["", "policies", "keys", "archive"] {
        for file in fs::read_dir(home.join(folder)).into_iter().flatten() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_file() && !name.starts_with("hallpass.db") && name != "hallpass.lock" {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                let place = path.strip_prefix(home).unwrap().to_owned();
                parts.push((place, mode, fs::read(&path).unwrap()));
            }
        }
    }
    parts.sort();
    parts
}

fn nothing_but(folder: &Path, names: &[&str]) {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn a_working_home_is_backed_up_and_comes_back_whole() {
    let ca = Ca::on(Home::with_history());
    let (alice, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    alice
        .hallpass(["audit", "archive", "--before", "2199-01-01T00:00:00Z"])
        .ok();
    let folder = Folder::new();
    let file = folder.join("backup.tar.gz");
    let (done, newest) = (AtomicBool::new(false), std::sync::Mutex::new(0));
    let size = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                *newest.lock().unwrap() = issue(&ca, &bob);
            }
        });
        wait_until("something is issued", || *newest.lock().unwrap() > 0);
        let before = *newest.lock().unwrap();
        let said = back_up(&ca.home, &file).ok();
        done.store(true, Ordering::Relaxed);
        let size = said
            .split(" with ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let size: u64 = size.parse().unwrap();
        assert!(size > before, "{said}");
        size
    });
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    nothing_but(folder.path(), &["backup.tar.gz"]);
    // Anybody's tar and sha256sum can tell what is in it.
    let list = run("tar", ["tzf", text(&file)]).ok();
    let names: Vec<&str> = list.lines().collect();
    assert_eq!(names[0], "hallpass-backup");
    assert_eq!(names.last(), Some(&"SHA256SUMS"));
    for name in [
        "hallpass.toml",
        "hallpass.db",
        "keys/seal.age",
        "policies/roles.toml",
    ] {
        assert!(names.contains(&name), "{list}");
    }
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("archive/entries-0-")),
        "{list}"
    );
    let out = folder.private("out");
    run("tar", ["xzf", text(&file), "-C", text(&out)]).ok();
    let sums = Command::new("sha256sum")
        .args(["-c", "--quiet", "SHA256SUMS"])
        .current_dir(&out)
        .output();
    assert!(sums.unwrap().status.success());

    let said = format!(
        "hallpass: {} exists already, and is not overwritten: choose another name",
        file.display()
    );
    back_up(&ca.home, &file).fails(73, &said);

    let other = ca.stop();
    let home = restored(&file);
    assert_eq!(parts(&home.path()), parts(&other.path()));
    assert!(!home.path().join("hallpass.db-wal").exists());
    let mode = fs::metadata(home.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let log = home.log();
    assert_eq!(log.last().unwrap()["index"], size - 1);
    assert!(other.log().starts_with(&log));
    // It serves, and says once what it is.
    let mut home = home;
    for _ in 0..2 {
        let ca = Ca::on(home);
        alice.connect(&ca);
        bob.connect(&ca);
        issue(&ca, &bob);
        alice.hallpass(["audit", "show", "7"]).ok();
        home = ca.stop();
    }
    let entries = home.entries("log-restored");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["event"]["size"], size);
    assert_eq!(entries[0]["index"], size);
}

#[test]
fn a_damaged_home_is_backed_up_and_said_to_be_damaged() {
    let ca = Ca::on(Home::with_history());
    let alice = ca.admin();
    alice
        .hallpass(["audit", "archive", "--before", "2199-01-01T00:00:00Z"])
        .ok();
    let home = ca.stop();
    let archive = home.path().join("archive/entries-0-1280.jsonl.gz");
    let whole = fs::read(&archive).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let folder = Folder::new();
    for (content, why) in [
        (None, "No such file or directory"),
        (Some(changed), "it was changed"),
    ] {
        match content {
            None => fs::remove_file(&archive).unwrap(),
            Some(content) => fs::write(&archive, content).unwrap(),
        }
        let file = folder.join("archive.tar.gz");
        let ran = back_up(&home, &file);
        assert_eq!(ran.code, 76, "{ran:?}");
        assert!(ran.out.starts_with("Backed up "), "{ran:?}");
        let damaged = format!("{}: {why}", text(&archive));
        assert!(ran.err.contains(&damaged), "{ran:?}");
        assert!(ran.err.contains("entries 0 to 1279"), "{ran:?}");
        // All else comes back and works, and the file may come out of an older backup.
        let other = Home::new();
        fs::remove_dir_all(other.path()).unwrap();
        let ran = restore(&file, &other.path());
        assert_eq!(ran.code, 76, "{ran:?}");
        assert!(ran.out.starts_with("Made "), "{ran:?}");
        let archive = other.path().join("archive/entries-0-1280.jsonl.gz");
        let damaged = format!("{}: {why}", text(&archive));
        assert!(ran.err.contains(&damaged), "{ran:?}");
        let ca = Ca::on(other);
        alice.connect(&ca);
        assert_eq!(alice.hallpass(["audit", "show", "7"]).code, 69);
        fs::create_dir_all(archive.parent().unwrap()).unwrap();
        fs::write(&archive, &whole).unwrap();
        alice.hallpass(["audit", "show", "7"]).ok();
        fs::remove_file(&file).unwrap();
    }
    fs::write(&archive, &whole).unwrap();
    let file = folder.join("log.tar.gz");
    let log = rusqlite::Connection::open(home.database()).unwrap();
    log.execute_batch(
        "DROP TRIGGER entries_stay;
         UPDATE entries SET body = replace(body, ':600', ':601') WHERE idx = 1400",
    )
    .unwrap();
    drop(log);
    let ran = back_up(&home, &file);
    assert_eq!(ran.code, 76, "{ran:?}");
    let damaged = format!(
        "{} was changed: entry 1400 is not what was committed",
        text(&home.database())
    );
    assert!(ran.err.contains(&damaged), "{ran:?}");
    nothing_but(folder.path(), &["log.tar.gz"]);
    let ran = restore(&file, &folder.join("none"));
    assert_eq!(ran.code, 65, "{ran:?}");
    nothing_but(folder.path(), &["log.tar.gz"]);
}

#[test]
fn a_home_that_nobody_serves_is_backed_up_as_well() {
    let home = Ca::start().kill();
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    back_up(&home, &file).ok();
    assert_eq!(restored(&file).log(), home.log());
    drop(Ca::on(home));
    let missing = folder.join("nowhere");
    let ran = Ran::of(&mut program(&[
        "backup",
        text(&folder.join("c")),
        "--home",
        text(&missing),
    ]));
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.err.contains("there is no home at"), "{ran:?}");
}

/// Lets a person go on with a CA that has moved, with all that they remember of it.
fn follow(person: &Person, from: &str, to: &Ca) {
    let path = person.folder.join("config/client.toml");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains(from), "{config}");
    fs::write(&path, config.replace(from, &to.url)).unwrap();
}

#[test]
fn clients_notice_that_an_old_backup_was_restored() {
    let ask = "request server-operator --purpose incident --reason x";
    let asks = |person: &Person| person.hallpass(ask.split(' '));
    for more in [0, 40] {
        let ca = Ca::start();
        let (bob, dave) = (
            ca.enrol("bob", &["on-call"]),
            ca.enrol("dave", &["on-call"]),
        );
        bob.request("server-operator --purpose incident --reason x");
        let folder = Folder::new();
        let file = folder.join("b.tar.gz");
        back_up(&ca.home, &file).ok();
        // What bob sees is not in the backup.
        for _ in 0..3 {
            asks(&bob).ok();
        }
        let url = ca.url.clone();
        drop(ca.stop());
        let ca = Ca::on(restored(&file));
        dave.connect(&ca);
        // What was signed before the restore is not taken, and these tests sign in whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
        // Fewer entries than bob saw, or others.
        for _ in 0..more {
            issue(&ca, &dave);
        }
        follow(&bob, &url, &ca);
        let ran = asks(&bob);
        assert_eq!(ran.code, 76, "{ran:?}");
        assert!(
            ran.err.contains("THE CA'S AUDIT LOG WAS CHANGED"),
            "{ran:?}"
        );
        assert!(ran.err.contains("run `hallpass connect` again"), "{ran:?}");
        bob.connect(&ca);
        asks(&bob).ok();
    }
}

#[test]
fn what_was_asked_before_the_restore_is_not_taken_again() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    back_up(&ca.home, &file).ok();
    let request = bob.asks(&ca, "GET", "/v1/whoami");
    let (time, nonce) = (request.time.clone(), request.nonce.clone());
    assert_eq!(request.send().status, 200);
    drop(ca.stop());
    let ca = Ca::on(restored(&file));
    let mut again = bob.asks(&ca, "GET", "/v1/whoami");
    (again.time, again.nonce) = (time, nonce);
    assert_eq!(again.send().status, 401);
    let refusals = ca.home.entries("unauthenticated-refused");
    assert_eq!(refusals[0]["event"]["refused"]["code"], "forgotten");
    assert_eq!(bob.asks(&ca, "GET", "/v1/whoami").send().status, 200);
}

/// Writes a backup anew with something else in it, sums included.
const FORGE: &str = r#"
import hashlib, io, sys, tarfile
source, target, what = sys.argv[1:4]
members = [(m, tarfile.open(source).extractfile(m).read()) for m in tarfile.open(source)]
def plain(name, data):
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o777
    return member, data
def special(name, kind, to):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member, b""
extra = {
    "parent": lambda: plain("../evil", b"x"),
    "inside": lambda: plain("keys/../../evil", b"x"),
    "absolute": lambda: plain("/tmp/hallpass-evil", b"x"),
    "foreign": lambda: plain("passphrase", b"x"),
    "wal": lambda: plain("hallpass.db-wal", b"x"),
    "twice": lambda: plain("hallpass.toml", b"x"),
    "symlink": lambda: special("keys/link", tarfile.SYMTYPE, "/etc/passwd"),
    "hardlink": lambda: special("keys/link", tarfile.LNKTYPE, "/etc/passwd"),
    "folder": lambda: special("keys/sub", tarfile.DIRTYPE, ""),
    "fifo": lambda: special("keys/fifo", tarfile.FIFOTYPE, ""),
}
if what in extra:
    members.insert(-1, extra[what]())
if what == "no-sums":
    members.pop()
if what == "no-label":
    members.pop(0)
if what == "no-key":
    members = [m for m in members if m[0].name != "keys/log-1.vkey"]
if what == "no-policies":
    members = [m for m in members if not m[0].name.startswith("policies/")]
if what == "label":
    data = members[0][1].replace(b"/v1", b"/v2")
    members[0] = plain("hallpass-backup", data)
if what == "database":
    for place, (member, data) in enumerate(members):
        if member.name == "hallpass.db":
            assert b"alice" in data
            members[place] = plain(member.name, data.replace(b"alice", b"mallo"))
if what == "truncated-database":
    for place, (member, data) in enumerate(members):
        if member.name == "hallpass.db":
            members[place] = plain(member.name, data[:5000])
if what != "member":
    sums = b"".join(hashlib.sha256(d).hexdigest().encode() + b"  " + m.name.encode() + b"\n"
                    for m, d in members if m.name != "SHA256SUMS")
    if members[-1][0].name == "SHA256SUMS":
        members[-1] = plain("SHA256SUMS", sums)
else:
    for place, (member, data) in enumerate(members):
        if member.name == "policies/access.cedar":
            members[place] = plain(member.name, b"permit (principal, action, resource);")
with tarfile.open(target, "w:gz", format=tarfile.USTAR_FORMAT) as out:
    for member, data in members:
        out.addfile(member, io.BytesIO(data))
"#;

#[test]
fn a_backup_that_is_not_what_was_written_makes_no_home() {
    let ca = Ca::start();
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    back_up(&ca.home, &file).ok();
    let place = folder.private("place");
    let home = place.join("home");
    let fails = |file: &Path, code: i32, why: &str| {
        let ran = restore(file, &home);
        assert_eq!(ran.code, code, "{why}: {ran:?}");
        assert!(ran.err.contains(why), "{why}: {ran:?}");
        // Nothing of it stays.
        nothing_but(&place, &[]);
    };
    let whole = fs::read(&file).unwrap();
    let bad = folder.join("bad.tar.gz");
    let attempt = |bytes: &[u8], why: &str| {
        fs::write(&bad, bytes).unwrap();
        fails(&bad, 65, why);
    };
    attempt(b"", "is no backup");
    attempt(b"some text", "is no backup");
    attempt(&whole[..20], "is no backup");
    for part in 1..8 {
        attempt(
            &whole[..whole.len() * part / 8],
            "is damaged: it is cut off",
        );
    }
    for part in 1..8 {
        let mut changed = whole.clone();
        changed[whole.len() * part / 8] ^= 0x10;
        attempt(&changed, "");
    }
    run(
        "tar",
        [
            "czf",
            text(&bad),
            "-C",
            text(&ca.home.path()),
            "hallpass.toml",
        ],
    )
    .ok();
    fails(&bad, 65, "is no backup");
    fails(&folder.join("nothing"), 66, "No such file");
    for (what, why) in [
        ("none", ""),
        ("member", "the SHA-256 sums do not fit"),
        ("parent", "\"../evil\" in it is no part of a home"),
        ("inside", "\"keys/../../evil\" in it is no part of a home"),
        ("absolute", "in it is no part of a home"),
        ("foreign", "\"passphrase\" in it is no part of a home"),
        ("wal", "\"hallpass.db-wal\" in it is no part of a home"),
        ("twice", "\"hallpass.toml\" in it stands there twice"),
        ("symlink", "\"keys/link\" in it is no plain file"),
        ("hardlink", "\"keys/link\" in it is no plain file"),
        ("folder", "\"keys/sub/\" in it is no plain file"),
        ("fifo", "\"keys/fifo\" in it is no plain file"),
        ("no-sums", "the sums at its end are missing"),
        ("no-label", "is no backup"),
        ("label", "is no backup"),
        ("no-key", "it has no key of the log"),
        ("no-policies", "policies is missing"),
        ("database", "is not what was committed"),
        ("truncated-database", "the log in the backup"),
    ] {
        run("python3", ["-c", FORGE, text(&file), text(&bad), what]).ok();
        if what == "none" {
            restore(&bad, &home).ok();
            // Whatever the file says, what must be private is.
            let mode =
                |name: &str| fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode("keys/seal.age"), mode("hallpass.db")), (0o600, 0o600));
            fs::remove_dir_all(&home).unwrap();
            continue;
        }
        fails(&bad, 65, why);
        assert!(!folder.join("evil").exists() && !place.join("evil").exists());
    }
    assert!(!Path::new("/tmp/hallpass-evil").exists());
    // A home is never overwritten, nor anything else.
    let ran = restore(&file, &ca.home.path());
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.err.contains("exists already"), "{ran:?}");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("mine"), "").unwrap();
    let ran = restore(&file, &home);
    assert_eq!(ran.code, 78, "{ran:?}");
    nothing_but(&home, &["mine"]);
    assert!(ran.err.contains(text(&home.join("mine"))), "{ran:?}");
    fs::remove_file(home.join("mine")).unwrap();
    restore(&file, &home).ok();
}

#[test]
fn a_home_comes_back_on_a_volume_of_its_own() {
    let ca = Ca::start();
    let alice = ca.admin();
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    back_up(&ca.home, &file).ok();
    let original = parts(&ca.stop().path());

    // In place of a test's own home, so that it can be served.
    let home = Home::unmade();
    fs::create_dir(home.path()).unwrap();
    let volume = Volume::on(&home.path(), "64m");
    fs::create_dir(volume.0.join("lost+found")).unwrap();
    let bad = folder.join("bad.tar.gz");
    let whole = fs::read(&file).unwrap();
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(restore(&bad, &volume.0).code, 65);
    nothing_but(&volume.0, &["hallpass.lock", "lost+found"]);
    restore(&file, &volume.0).ok();
    assert_eq!(parts(&volume.0), original);
    assert!(!volume.0.join(".restore").exists());
    assert_eq!(restore(&file, &volume.0).code, 78);
    let ca = Ca::on(home);
    alice.connect(&ca);
    issue(&ca, &ca.enrol("bob", &["on-call"]));
    let home = ca.stop();
    drop(volume);
    drop(home);

    let empty = folder.private("empty");
    let link = folder.join("link");
    std::os::unix::fs::symlink(&empty, &link).unwrap();
    restore(&file, &link).ok();
    assert_eq!(parts(&empty), original);
    let here = folder.private("here");
    let mut command = program(&["restore", text(&file), "--home", "."]);
    Ran::of(command.current_dir(&here)).ok();
    assert_eq!(parts(&here), original);
}

#[test]
fn a_restore_that_is_killed_makes_no_home_and_the_next_one_does() {
    let ca = Ca::on(Home::with_history());
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    back_up(&ca.home, &file).ok();
    let original = parts(&ca.stop().path());
    let home = folder.private("home");
    let begin = || {
        let mut command = program(&["restore", text(&file), "--home", text(&home)]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let restoring = command.spawn().unwrap();
        wait_until("a beginning", || home.join(".restore").exists());
        restoring
    };
    for wait in [0, 20, 60, 120, 240, 480] {
        let mut restoring = begin();
        if wait == 0 {
            // Two at once.
            let ran = restore(&file, &home);
            assert_eq!(ran.code, 78, "{ran:?}");
            assert!(ran.err.contains("another hallpass works on"), "{ran:?}");
        }
        std::thread::sleep(Duration::from_millis(wait));
        restoring.kill().ok();
        let done = restoring.wait().unwrap().success();
        if !home.join("hallpass.toml").exists() {
            assert!(!done);
            restore(&file, &home).ok();
        }
        assert_eq!(parts(&home), original);
        fs::remove_dir_all(&home).unwrap();
        folder.private("home");
    }

    // Killed between the first and the last part.
    restore(&file, &home).ok();
    let rest = home.join(".restore");
    fs::create_dir(&rest).unwrap();
    fs::rename(home.join("hallpass.toml"), rest.join("hallpass.toml")).unwrap();
    for part in ["keys", "hallpass.db"] {
        let ran = restore(&file, &home);
        assert_eq!(ran.code, 78, "{ran:?}");
        fs::rename(home.join(part), rest.join(part)).unwrap();
    }
    let ran = restore(&file, &home);
    assert_eq!(ran.code, 78, "{ran:?}");
    let said =
        "of a restore that was interrupted, and .restore the rest; it was never served. Remove";
    assert!(ran.err.contains(said), "{ran:?}");
    assert!(rest.join("hallpass.toml").exists() && rest.join("keys").exists());
    // Of a home that was served and lost its configuration, nobody is told to remove the rest.
    fs::remove_file(rest.join("hallpass.toml")).unwrap();
    let ran = restore(&file, &home);
    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.err.contains("is not overwritten"), "{ran:?}");
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let ca = Ca::start();
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    let limited = |bytes: u64, arguments: &[&str]| {
        let mut command = Command::new("prlimit");
        command
            .args([&format!("--fsize={bytes}"), env!("CARGO_BIN_EXE_hallpass")])
            .args(arguments)
            .env_remove("HALLPASS_HOME");
        Ran::of(fails_when_full(&mut command))
    };
    let home = ca.home.path();
    let backup = ["backup", text(&file), "--home", text(&home)];
    for bytes in [0, 1000, 20_000, 100_000] {
        let ran = limited(bytes, &backup);
        if ran.code != 0 {
            nothing_but(folder.path(), &[]);
        } else {
            fs::remove_file(&file).unwrap();
        }
        // The server did not even notice.
        ca.admin().hallpass(["whoami"]).ok();
    }
    back_up(&ca.home, &file).ok();
    let place = folder.private("place");
    let target = place.join("home");
    for bytes in [0, 1000, 20_000] {
        let ran = limited(bytes, &["restore", text(&file), "--home", text(&target)]);
        assert_ne!(ran.code, 0, "{ran:?}");
        nothing_but(&place, &[]);
    }
}

#[test]
fn keys_and_log_of_two_backups_do_not_fit_together() {
    let (one, other) = (Home::new(), Home::of_another_ca());
    let folder = Folder::new();
    let file = folder.join("b.tar.gz");
    back_up(&one, &file).ok();
    let home = restored(&file);
    fs::remove_dir_all(home.path().join("keys")).unwrap();
    run(
        "cp",
        ["-a", text(&other.path().join("keys")), text(&home.path())],
    )
    .ok();
    let (code, message) = serve_fails(&home);
    assert_eq!(code, 78, "{message}");
    assert!(message.contains("from the same backup"), "{message}");
}
