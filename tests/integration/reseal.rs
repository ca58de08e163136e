//! What opens a home's keys, changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hallpass::keys::{KeyStore, Passphrase};
use zeroize::Zeroizing;

use crate::support::{Ca, Folder, Home, PASSPHRASE, Ran, program, run};

const NEW: &str = "five other words entirely here";

fn private(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.write(name, text);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// `hallpass key reseal` with the passphrase that the home was made with.
fn reseal(home: &Home, line: &str) -> Ran {
    let passphrase = home.folder.join("passphrase");
    let with = ["--passphrase-file", passphrase.to_str().unwrap()];
    Ran::of(command(home, line).args(with))
}

fn command(home: &Home, line: &str) -> Command {
    let mut command = program();
    let words = line.split(' ').filter(|word| !word.is_empty());
    command.args(["key", "reseal", "--home"]).arg(home.path());
    command.args(words);
    command
}

fn opens(home: &Home, text: &str) -> bool {
    let passphrase = Passphrase::new(Zeroizing::new(text.to_owned())).unwrap();
    KeyStore::open(&home.path().join("keys"), &passphrase).is_ok()
}

/// An identity of age-keygen's: its file and its recipient.
fn identity(folder: &Folder, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    let at = path.to_str().unwrap();
    run("age-keygen", ["-o", at]).ok();
    let recipient = run("age-keygen", ["-y", at]).ok();
    (path, recipient.trim_end().to_owned())
}

fn serve_with(home: Home, identity: &Path) -> Ca {
    Ca::with(home, |serve| {
        serve.env("HALLPASS_AGE_IDENTITY", identity);
    })
}

#[test]
fn a_new_passphrase_opens_the_home_and_the_old_one_no_longer() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let new = private(&ca.home.folder, "new", &format!("{NEW}\n"));
    let wrong = private(&ca.home.folder, "wrong", "five words that are wrong\n");
    let line = format!("--new-passphrase-file {}", new.display());
    let refused = Ran::of(
        command(&ca.home, &line)
            .arg("--passphrase-file")
            .arg(&wrong),
    );
    refused.fails_with(78, "seal.age: the passphrase is wrong");
    let weak = private(&ca.home.folder, "weak", "short\n");
    let short = reseal(
        &ca.home,
        &format!("--new-passphrase-file {}", weak.display()),
    );
    short.fails_with(78, "shorter than 12 characters");
    assert!(opens(&ca.home, PASSPHRASE));

    // The server goes on, and goes on writing keys that the new passphrase opens.
    let said = reseal(&ca.home, &line).ok();
    assert!(said.contains("still open in the old way"), "{said}");
    bob.request("patients-read --purpose incident --reason=INC-1");
    ca.admin().hallpass(["key", "rotate", "ssh-user"]).ok();
    let home = ca.stop();
    assert!(!opens(&home, PASSPHRASE));
    assert!(opens(&home, NEW));
    let (code, said) = crate::support::serve_fails(&home);
    assert!(
        code == 78 && said.contains("the passphrase is wrong"),
        "{said}"
    );
    fs::copy(new, home.folder.join("passphrase")).unwrap();
    let ca = Ca::on(home);
    assert!(
        ca.admin()
            .hallpass(["key", "list"])
            .ok()
            .contains("ssh-user-2")
    );
    let seal = fs::metadata(ca.home.path().join("keys/seal.age")).unwrap();
    assert_eq!(seal.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_reseal_that_is_killed_leaves_one_of_both() {
    let home = Home::new();
    let new = private(&home.folder, "new", &format!("{NEW}\n"));
    let old = home.folder.join("passphrase");
    let line = |new: &Path| format!("--new-passphrase-file {}", new.display());
    // How long one takes, so that the kills hit all of it.
    let start = std::time::Instant::now();
    reseal(&home, &line(&new)).ok();
    let whole = start.elapsed();
    let mut is_new = true;
    for step in 0..8_u32 {
        let (from, to) = if is_new { (&new, &old) } else { (&old, &new) };
        let mut child = command(&home, &line(to))
            .arg("--passphrase-file")
            .arg(from)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // From half of it on: what comes before only reads.
        std::thread::sleep(whole / 2 + whole * step / 12 + Duration::from_millis(1));
        child.kill().unwrap();
        child.wait().unwrap();
        let (with_old, with_new) = (opens(&home, PASSPHRASE), opens(&home, NEW));
        assert_ne!(with_old, with_new, "step {step}");
        is_new = with_new;
    }
    if is_new {
        fs::copy(&new, &old).unwrap();
    }
    drop(Ca::on(home));
}

#[test]
fn an_age_identity_opens_the_home_instead_of_the_passphrase() {
    let home = Home::new();
    let (file, recipient) = identity(&home.folder, "vault.txt");
    let (other, other_recipient) = identity(&home.folder, "other.txt");
    let added = reseal(&home, &format!("--add-identity {recipient} --name vault")).ok();
    assert_eq!(
        added,
        "The age identity vault opens the keys from now on.\n"
    );
    let listed = reseal(&home, "--list").ok();
    assert!(
        listed.contains("passphrase") && listed.contains(&recipient),
        "{listed}"
    );
    let twice = reseal(&home, &format!("--add-identity {recipient} --name vault"));
    twice.fails_with(78, "seal-vault.age exists already");

    // Stock age opens it, too, and finds the home's own identity.
    let seal = home.path().join("keys/seal-vault.age");
    let age = ["-d", "-i", file.to_str().unwrap(), seal.to_str().unwrap()];
    assert!(run("age", age).ok().starts_with("AGE-SECRET-KEY-1"));

    let ca = serve_with(home, &file);
    ca.admin().hallpass(["whoami"]).ok();
    let home = ca.stop();
    let stranger = program()
        .args(["serve", "--listen", "127.0.0.1:0", "--home"])
        .arg(home.path())
        .arg("--age-identity")
        .arg(&other)
        .env("HALLPASS_LOG", "error")
        .output()
        .unwrap();
    let stranger = Ran::from(stranger);
    stranger.fails_with(
        78,
        "keys opens with the passphrase or the age identity vault, and not with",
    );

    // As a systemd credential.
    let credentials = home.folder.private("credentials");
    fs::copy(&file, credentials.join("hallpass-age-identity")).unwrap();
    let by_credential = Ran::of(
        command(&home, &format!("--add-identity {other_recipient}"))
            .env("CREDENTIALS_DIRECTORY", &credentials),
    );
    let name = &other_recipient[other_recipient.len() - 8..];
    assert_eq!(
        by_credential.ok(),
        format!("The age identity {name} opens the keys from now on.\n")
    );
    drop(serve_with(home, &other));
}

#[test]
fn one_way_to_open_a_home_remains_and_is_shown_to_work() {
    let home = Home::new();
    let (file, recipient) = identity(&home.folder, "vault.txt");
    reseal(&home, "--remove-passphrase").fails_with(65, "the passphrase is the only way");
    reseal(&home, "--remove-identity vault").fails_with(65, "the age identity vault does not open");
    reseal(&home, &format!("--add-identity {recipient} --name vault")).ok();
    // Opened with the very way that is to go.
    let same = reseal(&home, "--remove-passphrase");
    same.fails_with(
        78,
        "keys opens with the age identity vault, and not with what was given",
    );
    let by_identity = |line: &str| {
        let mut command = command(&home, line);
        Ran::of(command.arg("--age-identity").arg(&file))
    };
    by_identity("--remove-identity vault").fails_with(78, "opens with the passphrase, and not");
    by_identity("--remove-passphrase").ok();
    assert!(!opens(&home, PASSPHRASE));
    let listed = by_identity("--list").ok();
    assert!(
        !listed.contains("the passphrase") && listed.contains("vault"),
        "{listed}"
    );
    by_identity("--remove-identity vault").fails_with(65, "the age identity vault is the only way");
    let (code, said) = crate::support::serve_fails(&home);
    assert!(
        code == 78 && said.contains("opens with the age identity vault"),
        "{said}"
    );
    let asked = Ran::of(&mut command(
        &home,
        &format!("--add-identity {recipient} --name x"),
    ));
    asked.fails_with(78, "no passphrase opens");

    // A backup of such a home is one.
    let backup = home.folder.join("backup.tar.gz");
    let back_up = ["backup", backup.to_str().unwrap(), "--home"];
    Ran::of(program().args(back_up).arg(home.path())).ok();
    let restored = Home::empty();
    let restore = ["restore", backup.to_str().unwrap(), "--home"];
    Ran::of(program().args(restore).arg(restored.path())).ok();
    for name in ["passphrase", "admin", "admin.pub"] {
        fs::copy(home.folder.join(name), restored.folder.join(name)).unwrap();
    }
    drop(serve_with(restored, &file));

    // And the passphrase comes back.
    let new = private(&home.folder, "new", &format!("{NEW}\n"));
    by_identity(&format!("--new-passphrase-file {}", new.display())).ok();
    assert!(opens(&home, NEW));
    Ran::of(
        command(&home, "--remove-identity vault")
            .arg("--passphrase-file")
            .arg(&new),
    )
    .ok();
    assert!(!home.path().join("keys/seal-vault.recipient").exists());
}

#[test]
fn what_is_no_age_identity_is_named() {
    let home = Home::new();
    let (file, recipient) = identity(&home.folder, "vault.txt");
    let text = fs::read_to_string(&file).unwrap();
    let secret = text.lines().last().unwrap();
    let given = reseal(&home, &format!("--add-identity {secret}"));
    given.fails_with(64, "this is an age identity, a secret");
    reseal(&home, "--add-identity age1nonsense").fails_with(64, "no age recipient");
    reseal(&home, &format!("--add-identity {recipient} --name ../x")).fails_with(64, "../x");
    reseal(&home, "--list --remove-passphrase").fails_with(64, "cannot be used with");
    let missing = "age1absent1dpskcmrsv9ehxc503xy";
    let plugin = reseal(&home, &format!("--add-identity {missing}"));
    plugin.fails_with(
        78,
        "the age plugin failed: Could not find 'age-plugin-absent'",
    );

    let with = |path: &Path| {
        let mut command = command(&home, "--remove-passphrase");
        Ran::of(command.arg("--age-identity").arg(path))
    };
    reseal(&home, &format!("--add-identity {recipient}")).ok();
    with(&home.folder.join("none")).fails_with(78, "can't read the age identity file");
    let public = private(&home.folder, "public", &recipient);
    with(&public).fails_with(
        78,
        "can't be used as an age identity file: identity file contains non-identity data on line 1",
    );
    let empty = private(&home.folder, "empty", "# nothing\n");
    with(&empty).fails_with(78, "it is empty");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    with(&file).fails_with(78, "others can read the age identity file");
    let nowhere = Folder::new();
    let none = program()
        .args(["key", "reseal", "--list", "--home"])
        .arg(nowhere.join("none"))
        .output();
    Ran::from(none.unwrap()).fails_with(78, "there is no home at");
}

/// A plugin that keeps its secret to itself, as one for a hardware key does.
const PLUGIN: &str = r#"#!/usr/bin/env python3
import base64, sys

def read():
    words, body = sys.stdin.readline().split()[1:], ""
    while True:
        line = sys.stdin.readline().rstrip("\n")
        body += line
        if len(line) < 64:
            return words, base64.b64decode(body + "=" * (-len(body) % 4))

def write(words, body=b""):
    text = base64.b64encode(body).decode().rstrip("=")
    print("-> " + words + "\n" + text, flush=True)

def turn(key):
    return bytes(byte ^ 0x5a for byte in key)

told = []
while not told or told[-1][0][0] != "done":
    told.append(read())
for words, body in told:
    if words[0] == "wrap-file-key":
        write("msg", b"touch it")
        read()
        write("recipient-stanza 0 handy", turn(body))
        read()
    if words[:3] == ["recipient-stanza", "0", "handy"]:
        write("file-key 0", turn(body))
        read()
write("done")
"#;

#[test]
fn an_identity_of_an_age_plugin_opens_the_home() {
    let home = Home::new();
    let plugin = home.folder.write("age-plugin-handy", PLUGIN);
    fs::set_permissions(plugin, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        home.folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let passphrase = home.folder.join("passphrase");
    let added = Ran::of(
        command(
            &home,
            "--add-identity age1handy1dpskcmrsv9ehxaj3lnn --name handy",
        )
        .arg("--passphrase-file")
        .arg(&passphrase)
        .env("PATH", &path),
    );
    assert!(added.err.contains("touch it"), "{added:?}");
    added.ok();
    let identity = private(
        &home.folder,
        "handy.txt",
        "AGE-PLUGIN-HANDY-1DPSKCMRSV9EHX76CES6\n",
    );
    let mut without = command(&home, "--remove-passphrase");
    let without = Ran::of(without.arg("--age-identity").arg(&identity));
    without.fails_with(78, "age-plugin-handy");
    let ca = Ca::with(home, |serve| {
        serve
            .env("HALLPASS_AGE_IDENTITY", &identity)
            .env("PATH", &path);
    });
    ca.admin().hallpass(["whoami"]).ok();
}
