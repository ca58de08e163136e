//! What `init` and `serve` check before anything else, and what they say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Ca, Home, PASSPHRASE, Ran, run, serve_fails};

fn chmod(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A log is kept for years, and by more than one version.
#[test]
fn a_log_of_the_version_before_is_upgraded_and_goes_on() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let request = || bob.request("server-operator --purpose incident --reason=x");
    (0..5).for_each(|_| drop(request()));
    let address = ca.address().to_owned();
    let home = ca.stop();
    let log = rusqlite::Connection::open(home.database()).unwrap();
    log.execute_batch(include_str!("../older/schema-4.sql"))
        .unwrap();
    drop(log);
    let verify =
        |home: &Home| bob.hallpass(["audit", "verify", "--home", home.path().to_str().unwrap()]);
    verify(&home).fails_with(66, "start the server, which upgrades it");

    let busy = rusqlite::Connection::open(home.database()).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (_, error) = serve_fails(&home);
    assert!(
        error.contains("hallpass.db is of the version of Hallpass before this one")
            && error.contains("could not be upgraded and is as it was: database is locked"),
        "{error}"
    );
    drop(busy);
    verify(&home).fails_with(66, "start the server, which upgrades it");

    let ca = Ca::at(home, &address);
    assert!(ca.server_log().contains("it is being upgraded"));
    request();
    let listed = ca
        .admin()
        .hallpass(["audit", "list", "--role", "server-operator", "--json"])
        .ok();
    assert_eq!(listed.lines().count(), 6, "{listed}");
    let home = ca.stop();
    verify(&home).ok();
    let ca = Ca::at(home, &address);
    assert_eq!(ca.server_log().matches("it is being upgraded").count(), 1);
}

#[test]
fn a_home_is_made_closed_and_sealed() {
    let home = Home::new();
    let mode = |name: &str| {
        fs::metadata(home.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("keys"), 0o700);
    assert_eq!(mode("hallpass.db"), 0o600);
    let mut sealed = 0;
    for file in fs::read_dir(home.path().join("keys")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(
            !text.contains("PRIVATE KEY") && !text.contains("AGE-SECRET-KEY"),
            "{name}"
        );
        if name.ends_with(".age") {
            assert_eq!(mode(&format!("keys/{name}")), 0o600, "{name}");
            assert!(text.starts_with("age-encryption.org/v1\n"), "{name}");
            sealed += 1;
        }
    }
    // Five keys and what seals them.
    assert_eq!(sealed, 6);
    // The starter policies are the ones in the repository.
    for name in [
        "roles.toml",
        "access.cedar",
        "administration.cedar",
        "hallpass.cedarschema",
    ] {
        let ours = format!("{}/policies/{name}", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(
            fs::read(home.policy(name)).unwrap(),
            fs::read(ours).unwrap(),
            "{name}"
        );
    }
    let entries = home.log();
    assert_eq!(entries[0]["event"]["kind"], "authority-created");
    assert_eq!(entries.last().unwrap()["event"]["kind"], "user-enrolled");
}

#[test]
fn init_overwrites_no_home() {
    let home = Home::new();
    let before = fs::read(home.path().join("keys/seal.age")).unwrap();
    let path = |name: &str| home.folder.join(name).to_str().unwrap().to_owned();
    let again = run(
        env!("CARGO_BIN_EXE_hallpass"),
        [
            "init",
            "--home",
            &path("home"),
            "--admin",
            "alice",
            "--ssh-key",
            &path("admin.pub"),
            "--passphrase-file",
            &path("passphrase"),
        ],
    );
    let said = format!(
        "hallpass: {}/hallpass.db exists already: choose another --home, or remove the old home \
         if nothing trusts its keys any more",
        path("home")
    );
    assert_eq!(again.code, 78, "{again:?}");
    assert!(
        again.err.contains("exists already: choose another --home"),
        "{said}\n{again:?}"
    );
    assert_eq!(fs::read(home.path().join("keys/seal.age")).unwrap(), before);
}

#[test]
fn a_passphrase_is_asked_for_twice_and_never_shown() {
    let home = Home::new();
    let program = env!("CARGO_BIN_EXE_hallpass");
    let line = format!(
        "{program} init --home {0}/new --admin alice --ssh-key {0}/admin.pub",
        home.folder.path().display()
    );
    // script(1) gives it a terminal.
    let with = |typed: &str| {
        use std::io::Write;
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env_remove("HALLPASS_PASSPHRASE_FILE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = script.stdin.take().unwrap();
        for part in typed.split_inclusive('\n') {
            // Typed before the prompt, it would be echoed by the terminal itself.
            std::thread::sleep(std::time::Duration::from_millis(1500));
            stdin.write_all(part.as_bytes()).unwrap();
        }
        Ran::from(script.wait_with_output().unwrap())
    };
    let differ = with("five random words here\nfive random words her\n");
    assert_eq!(differ.code, 78, "{differ:?}");
    assert!(
        differ.out.contains("the two passphrases differ: try again"),
        "{differ:?}"
    );
    let short = with("short\n");
    assert!(
        short.out.contains("shorter than 12 characters"),
        "{short:?}"
    );
    assert!(!home.folder.join("new").exists());
    let made = with("five random words here\nfive random words here\n");
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.out.contains("fingerprint  SHA256:"), "{made:?}");
    assert!(!made.out.contains("five random"), "{made:?}");
}

#[test]
fn serve_asks_for_the_passphrase_on_a_terminal_and_serves() {
    use std::io::{Read, Write};
    let home = Home::new();
    // With `exec`, since a shell that waits would be stopped by the Ctrl-C itself.
    let line = format!(
        "exec {} serve --listen 127.0.0.1:0 --home {}",
        env!("CARGO_BIN_EXE_hallpass"),
        home.path().display()
    );
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_remove("HALLPASS_PASSPHRASE_FILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut said = String::new();
    let mut until = |words: &str| {
        let mut piece = [0; 1024];
        while !said.contains(words) {
            let length = stdout.read(&mut piece).unwrap();
            assert_ne!(length, 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        said.clone()
    };
    until("Passphrase of");
    // The terminal stops echoing a moment after the prompt.
    std::thread::sleep(std::time::Duration::from_millis(300));
    writeln!(stdin, "{PASSPHRASE}").unwrap();
    let said = until("fingerprint SHA256:");
    assert!(said.contains("listening on https://127.0.0.1:"), "{said}");
    assert!(!said.contains(PASSPHRASE), "{said}");
    // Ctrl-C.
    stdin.write_all(&[3]).unwrap();
    assert_eq!(script.wait().unwrap().code(), Some(0));
}

#[test]
fn the_passphrase_comes_from_a_systemd_credential() {
    let home = Home::new();
    let folder = home.folder.private("credentials");
    let passphrase = folder.join("hallpass-passphrase");
    fs::copy(home.folder.join("passphrase"), &passphrase).unwrap();
    let init = |more: &[&Path]| {
        Ran::of(
            Command::new(env!("CARGO_BIN_EXE_hallpass"))
                .env("CREDENTIALS_DIRECTORY", &folder)
                .env_remove("HALLPASS_PASSPHRASE_FILE")
                .arg("init")
                .arg("--home")
                .arg(home.folder.join("new"))
                .args(["--admin", "alice", "--ssh-key"])
                .arg(home.folder.join("admin.pub"))
                .args(more),
        )
    };
    // A service's user has it through an access control list, whose mask shows as the group's rights.
    for (mode, why) in [(0o444, "others can read"), (0o460, "others can read")] {
        chmod(&passphrase, mode);
        let refused = init(&[]);
        assert_eq!(refused.code, 78, "{refused:?}");
        assert!(refused.err.contains(why), "{refused:?}");
    }
    chmod(&passphrase, 0o440);
    let elsewhere = home.folder.join("elsewhere");
    fs::copy(&passphrase, &elsewhere).unwrap();
    let refused = init(&[Path::new("--passphrase-file"), &elsewhere]);
    assert!(refused.err.contains("others can read"), "{refused:?}");
    assert!(init(&[]).ok().contains("Made the home"));
}

/// A way to spoil a home, and what `serve` then says.
type Spoil = (&'static str, fn(&Home), &'static str);

const SPOILT: [Spoil; 27] = [
    (
        "no home",
        |home| fs::remove_dir_all(home.path()).unwrap(),
        "there is no home at HOME: make one with `hallpass init --home HOME`",
    ),
    (
        "no database",
        |home| fs::remove_file(home.database()).unwrap(),
        "HOME/hallpass.db is missing: restore it from a backup; when `hallpass init` was interrupted, remove the home and run it again",
    ),
    (
        "a key that others can read",
        |home| chmod(&home.path().join("keys/ssh-user-1.age"), 0o644),
        "others can open HOME/keys/ssh-user-1.age: run chmod 600 HOME/keys/ssh-user-1.age and chown it to the server's user",
    ),
    (
        "a folder of keys that others can enter",
        |home| chmod(&home.path().join("keys"), 0o755),
        "others can open HOME/keys: run chmod 700 HOME/keys and chown it to the server's user",
    ),
    (
        "a log that others can read",
        |home| chmod(&home.database(), 0o644),
        "others can open HOME/hallpass.db: run chmod 600 HOME/hallpass.db and chown it to the server's user",
    ),
    (
        "a home that others can change",
        |home| chmod(&home.path(), 0o777),
        "others can change HOME: run chmod go-w HOME and chown it to the server's user or root",
    ),
    (
        "a policy that others can change",
        |home| chmod(&home.policy("access.cedar"), 0o666),
        "others can change HOME/policies/access.cedar: run chmod go-w HOME/policies/access.cedar and chown it to the server's user or root",
    ),
    (
        "a key that is missing",
        |home| fs::remove_file(home.path().join("keys/x509-issuing-1.age")).unwrap(),
        "HOME/keys/x509-issuing-1.age is missing: restore keys/ and hallpass.db from the same backup",
    ),
    (
        "a key of another home",
        |home| {
            let other = Home::of_another_ca();
            let key = "keys/ssh-user-1.age";
            fs::copy(other.path().join(key), home.path().join(key)).unwrap();
        },
        "can't open HOME/keys/ssh-user-1.age: it is damaged or was sealed for another home: restore it from a backup",
    ),
    (
        "all keys of another home",
        |home| {
            let other = Home::of_another_ca();
            fs::remove_dir_all(home.path().join("keys")).unwrap();
            fs::rename(other.path().join("keys"), home.path().join("keys")).unwrap();
        },
        "HOME/hallpass.db: the newest checkpoint: it is of the log ORIGIN, not of ORIGIN; restore keys/ and hallpass.db from the same backup",
    ),
    (
        "all keys of another home but the log's",
        |home| {
            let other = Home::of_another_ca();
            let (theirs, ours) = (other.path().join("keys"), home.path().join("keys"));
            fs::copy(ours.join("log-1.vkey"), theirs.join("log-1.vkey")).unwrap();
            fs::remove_dir_all(&ours).unwrap();
            fs::rename(theirs, ours).unwrap();
        },
        "the key ssh-user-1 in keys/ is not the one that the audit log introduced: restore keys/ and hallpass.db from the same backup",
    ),
    (
        "a log's key that is none",
        |home| fs::write(home.path().join("keys/log-1.vkey"), "hallpass+00+AQ==\n").unwrap(),
        "keys/log-1.vkey is not the verifier key of keys/log-1.age: restore keys/ from a backup",
    ),
    (
        "a log whose administrator was replaced",
        |home| {
            let log = rusqlite::Connection::open(home.database()).unwrap();
            let changed = log
                .execute_batch(
                    "DROP TRIGGER entries_stay;
                     UPDATE entries SET body = replace(body, 'alice', 'malory')
                     WHERE kind = 'user-enrolled'",
                )
                .map(|()| log.changes());
            assert_eq!(changed, Ok(1));
        },
        "HOME/hallpass.db was changed: entry 6 is not what was committed; nothing is issued on such a log. Keep the file for whoever finds out, see what does not fit with `hallpass audit verify`, and restore a backup",
    ),
    (
        "a log whose administrator was replaced, with the entry's hash",
        |home| {
            use hallpass::audit::record_hash;
            let log = rusqlite::Connection::open(home.database()).unwrap();
            log.execute_batch("DROP TRIGGER entries_stay; DROP TRIGGER tree_stays")
                .unwrap();
            let (index, body): (i64, String) = log
                .query_row(
                    "SELECT idx, body FROM entries WHERE kind = 'user-enrolled'",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .unwrap();
            let body = body.replace("alice", "malory");
            let leaf = record_hash(body.as_bytes()).0;
            log.execute("UPDATE entries SET body = ? WHERE idx = ?", (body, index))
                .unwrap();
            log.execute(
                "UPDATE tree SET hashes = CAST(? || substr(hashes, 33) AS BLOB) WHERE idx = ?",
                (leaf, index),
            )
            .unwrap();
        },
        "HOME/hallpass.db was changed: the hashes of its tree are not those that the newest checkpoint was signed for; nothing is issued on such a log. Keep the file for whoever finds out, see what does not fit with `hallpass audit verify`, and restore a backup",
    ),
    (
        "a log that was cut off",
        |home| {
            let log = rusqlite::Connection::open(home.database()).unwrap();
            log.execute_batch(
                "DROP TRIGGER entries_remain;
                 DELETE FROM entries WHERE idx = (SELECT max(idx) FROM entries)",
            )
            .unwrap();
        },
        "HOME/hallpass.db was changed: it has 6 entries, and the newest checkpoint was signed for 7; nothing is issued on such a log. Keep the file for whoever finds out, see what does not fit with `hallpass audit verify`, and restore a backup",
    ),
    (
        "a wrong passphrase",
        |home| {
            home.folder
                .write("passphrase", "not the right passphrase\n");
        },
        "can't open HOME/keys/seal.age: the passphrase is wrong",
    ),
    (
        "a passphrase that others can read",
        |home| chmod(&home.folder.join("passphrase"), 0o644),
        "others can read the passphrase file FOLDER/passphrase: run chmod 600 FOLDER/passphrase",
    ),
    (
        "a passphrase file that is missing",
        |home| fs::remove_file(home.folder.join("passphrase")).unwrap(),
        "can't read the passphrase file FOLDER/passphrase: No such file or directory (os error 2)",
    ),
    (
        "a damaged log",
        |home| {
            fs::write(
                home.database(),
                "not a database, and long enough to tell".repeat(30),
            )
            .unwrap();
        },
        "HOME/hallpass.db is damaged or no SQLite database: restore it from a backup",
    ),
    (
        "a database of another program",
        |home| {
            fs::remove_file(home.database()).unwrap();
            let other = rusqlite::Connection::open(home.database()).unwrap();
            other.execute_batch("CREATE TABLE things (a)").unwrap();
            chmod(&home.database(), 0o600);
        },
        "this is not an audit log of this version of Hallpass (application id 0x0, schema 0): use the version that wrote it",
    ),
    (
        "a log that an entry was taken from",
        |home| {
            let log = rusqlite::Connection::open(home.database()).unwrap();
            log.execute_batch("DROP TRIGGER entries_remain; DELETE FROM entries WHERE idx = 1")
                .unwrap();
        },
        "HOME/hallpass.db has a gap: entries are missing from the log; restore it from a backup",
    ),
    (
        "a role with a typo",
        |home| home.edit_policy("roles.toml", "max_ttl = \"1h\"", "max_tll = \"1h\""),
        "HOME/policies/roles.toml:30:1: unknown field `max_tll`, expected one of `description`, `principals`, `extensions`, `force_command`, `source_address`, `hosts`, `max_ttl`, `default_ttl`, `purposes`, `reason`, `groups`, `sensitivity`, `environment`",
    ),
    (
        "a purpose that is not declared",
        |home| {
            home.edit_policy(
                "roles.toml",
                "purposes = [\"deploy\"]",
                "purposes = [\"deplay\"]",
            );
        },
        "HOME/policies/roles.toml:43:1: [ssh.deploy] purposes: deplay is not declared: add it to [purposes] or correct it",
    ),
    (
        "a policy with a typo",
        |home| {
            home.edit_policy(
                "access.cedar",
                "context.purpose == \"deploy\"",
                "context.porpoise == \"deploy\"",
            );
        },
        "HOME/policies/access.cedar:28:8: for policy `deployers-deploy`, attribute `porpoise` in context for Action::\"request\" not found; did you mean `purpose`?",
    ),
    (
        "a policy that does not parse",
        |home| home.edit_policy("access.cedar", "permit (", "permt ("),
        "HOME/policies/access.cedar:7:1: invalid policy effect: permt; effect must be either `permit` or `forbid`",
    ),
    (
        "a setting that there is not",
        |home| {
            let path = home.path().join("hallpass.toml");
            fs::write(
                &path,
                "listen_on = 1\n".to_owned() + &fs::read_to_string(&path).unwrap(),
            )
            .unwrap();
        },
        r#"HOME/hallpass.toml: TOML parse error at line 1, column 1
  |
1 | listen_on = 1
  | ^^^^^^^^^
unknown field `listen_on`, expected one of `listen`, `names`, `log_format`, `witness`, `deliver`, `token`, `policy`, `fido2`, `provider`, `sessions`, `workload`"#,
    ),
    (
        "a setting of the wrong type",
        |home| {
            fs::write(
                home.path().join("hallpass.toml"),
                "listen = 8443\nnames = [\"ca\"]\n",
            )
            .unwrap();
        },
        r#"HOME/hallpass.toml: TOML parse error at line 1, column 10
  |
1 | listen = 8443
  |          ^^^^
invalid type: integer `8443`, expected socket address"#,
    ),
];

#[test]
fn serve_says_what_is_wrong_with_a_home_and_how_to_mend_it() {
    let mut wrong = String::new();
    let origin = regex::Regex::new("hallpass/[0-9a-f]{16}").unwrap();
    for (what, spoil, expected) in SPOILT {
        let home = Home::new();
        spoil(&home);
        let (code, message) = serve_fails(&home);
        let place = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let message = message
            .replace(&place(home.path()), "HOME")
            .replace(&place(home.folder.path().to_owned()), "FOLDER");
        let message = origin.replace_all(&message, "ORIGIN");
        if (code, &*message) != (78, &format!("hallpass: {expected}")) {
            wrong += &format!("{what}: {code}, {message}\n");
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn what_belongs_to_somebody_else_is_not_trusted_whatever_its_mode() {
    if !crate::support::is_root() {
        // Only root can give a file away.
        return;
    }
    for part in [
        "",
        "hallpass.toml",
        "policies",
        "policies/access.cedar",
        "hallpass.db",
        "keys",
    ] {
        let home = Home::new();
        let path = home.path().join(part);
        run("chown", ["65534", path.to_str().unwrap()]).ok();
        let (code, message) = serve_fails(&home);
        assert_eq!(code, 78, "{part}: {message}");
        assert!(
            message.contains("chown it to the server's user"),
            "{message}"
        );
    }
}

#[test]
fn one_server_works_on_a_home() {
    let ca = Ca::start();
    let (code, message) = serve_fails(&ca.home);
    assert_eq!(code, 78);
    assert!(message.contains("another hallpass works on"), "{message}");
}

#[test]
fn a_port_in_use_is_said_at_once() {
    let ca = Ca::start();
    let home = Home::new();
    let ran = Ran::of(
        Command::new(env!("CARGO_BIN_EXE_hallpass"))
            .args(["serve", "--listen", ca.address(), "--home"])
            .arg(home.path())
            .arg("--passphrase-file")
            .arg(home.folder.join("passphrase")),
    );
    assert_eq!(ran.code, 78);
    assert!(ran.err.contains("Address already in use"), "{ran:?}");
}

#[test]
fn the_environment_comes_before_the_file() {
    let home = Home::new();
    let ca = Ca::with(home, |serve| {
        serve
            .env("HALLPASS_NAMES", "127.0.0.1,ca.example.org")
            .env("HALLPASS_LOG_FORMAT", "json");
    });
    let issued = ca.home.entries("server-certificate-issued").pop().unwrap();
    assert_eq!(
        issued["event"]["names"],
        serde_json::json!(["127.0.0.1", "ca.example.org"])
    );
    let line = ca.server_log().lines().next_back().unwrap().to_owned();
    assert!(
        serde_json::from_str::<serde_json::Value>(&line).is_ok(),
        "{line}"
    );
}

#[test]
fn init_that_is_killed_leaves_nothing_that_serves() {
    // At any moment: what is left is refused by serve with words on what to do, or is a whole home.
    let template = Home::new();
    for millis in (0..900).step_by(60) {
        let home = Home::new();
        fs::remove_dir_all(home.path()).unwrap();
        let mut init = Command::new(env!("CARGO_BIN_EXE_hallpass"))
            .args(["init", "--admin", "alice", "--home"])
            .arg(home.path())
            .arg("--ssh-key")
            .arg(template.folder.join("admin.pub"))
            .arg("--passphrase-file")
            .arg(template.folder.join("passphrase"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        init.kill().ok();
        let done = init.wait().unwrap().success();
        // The last thing that it writes.
        if home.path().join("hallpass.toml").exists() {
            drop(Ca::on(home));
            continue;
        }
        assert!(!done);
        let (code, message) = serve_fails(&home);
        assert_eq!(code, 78, "{message}");
        assert!(
            message.contains("there is no home at") || message.contains("was interrupted"),
            "{message}"
        );
    }
}
