//! CA keys in a PKCS#11 token, here SoftHSM.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use serde_json::json;

use crate::support::{
    Answer, Ca, Home, P256, Person, Postgres, Ran, SoftHsm, Sshd, make_csr, program, run,
    serve_fails, serve_fails_with, wait_until,
};

const NOT_THE_LOG: [&str; 2] = ["--token-keys", "ssh-user,ssh-host,x509-root,x509-issuing"];

fn serve(hsm: &SoftHsm, home: Home) -> Ca {
    Ca::with(home, |serve| {
        hsm.lend(serve);
    })
}

fn ask_ssh(ca: &Ca, person: &Person) -> Answer {
    let ask = json!({"role": "server-operator", "purpose": "incident", "reason": "x"});
    person
        .asks(ca, "POST", "/v1/certificates/ssh")
        .ssh(&person.key, ask)
        .send()
}

fn ask_x509(ca: &Ca, person: &Person) -> Answer {
    make_csr(&person.folder, "db", &P256, &[]);
    let csr = fs::read_to_string(person.folder.join("db.csr")).unwrap();
    let ask = json!({"role": "patients-read", "purpose": "incident", "reason": "INC-1",
                     "csr": csr});
    person
        .asks(ca, "POST", "/v1/certificates/x509")
        .json(&ask)
        .send()
}

/// A request got nothing, and was told why.
#[track_caller]
fn assert_unavailable(answer: &Answer, why: &str) {
    let (status, kind, detail) = answer.problem();
    assert_eq!((status, kind.as_str()), (503, "unavailable"), "{detail}");
    assert!(detail.contains(why), "{detail}");
    assert!(!answer.body.contains("-cert-v01"), "{answer:?}");
}

fn key_files(home: &Home, ending: &str) -> BTreeSet<String> {
    let names = fs::read_dir(home.path().join("keys")).unwrap();
    names
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect()
}

/// The whole path with stock programs, and the log checked afterwards.
fn logs_in_everywhere(algorithm: &str, in_sshd_log: &str, in_x509: &str) {
    let hsm = SoftHsm::new();
    let home = hsm.home(&["--token-algorithm", algorithm]);
    assert_eq!(key_files(&home, ".token").len(), 5);
    assert_eq!(
        key_files(&home, ".age"),
        BTreeSet::from(["seal.age".to_owned()])
    );
    let ca = serve(&hsm, home);
    let bob = ca.enrol("bob", &["on-call"]);

    let sshd = Sshd::start(&ca, &["operator"]);
    let ssh = "ssh --role server-operator --purpose incident --reason x --";
    let ssh = ssh.split(' ').map(str::to_owned).chain(sshd.target());
    let said = bob.hallpass(ssh.chain(["echo in".to_owned()])).ok();
    assert_eq!(said, "in\n");
    wait_until("sshd's log line", || sshd.log().contains(in_sshd_log));

    let postgres = Postgres::start(&ca);
    let psql = "psql --role patients-read --purpose incident --reason INC-1 --";
    let psql = psql.split(' ').map(str::to_owned).chain(postgres.target());
    let query = ["-XAtc", "SELECT name FROM records"].map(str::to_owned);
    assert_eq!(bob.hallpass(psql.chain(query)).ok(), "ward 3\n");
    let issuing = ca.home.path().join("keys/x509-issuing-1.pem");
    let shown = run(
        "openssl",
        ["x509", "-text", "-noout", "-in", issuing.to_str().unwrap()],
    )
    .ok();
    assert!(shown.contains(in_x509), "{shown}");
    assert_eq!(ca.readyz().0, 200);

    // An offline look at the log knows these signatures too.
    let home = ca.stop();
    let path = home.path();
    let home = path.to_str().unwrap();
    Ran::of(program().args(["audit", "verify", "--home", home])).ok();
}

#[test]
fn p256_keys_in_the_token_log_in_to_sshd_and_postgresql() {
    logs_in_everywhere("ecdsa-p256", "CA ECDSA SHA256:", "NIST CURVE: P-256");
}

#[test]
fn p384_keys_in_the_token_log_in_to_sshd_and_postgresql() {
    logs_in_everywhere("ecdsa-p384", "CA ECDSA SHA256:", "NIST CURVE: P-384");
}

#[test]
fn ed25519_keys_in_the_token_log_in_to_sshd_and_postgresql() {
    logs_in_everywhere("ed25519", "CA ED25519 SHA256:", "ED25519 Public-Key");
}

#[test]
fn only_the_keys_that_are_named_are_in_the_token() {
    let hsm = SoftHsm::new();
    let home = Home::unmade();
    let said = home.init(|init| {
        hsm.init(init).args(["--token-keys", "ssh-user,x509-root"]);
    });
    let said = said.ok();
    let inside: Vec<&str> = said
        .lines()
        .filter(|line| line.ends_with("  in the token"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(inside, ["ssh-user", "x509-root"], "{said}");
    assert_eq!(
        key_files(&home, ".token"),
        BTreeSet::from(["ssh-user-1.token", "x509-root-1.token"].map(str::to_owned))
    );
    assert_eq!(key_files(&home, ".age").len(), 4);
    let ca = serve(&hsm, home);
    let bob = ca.enrol("bob", &["on-call"]);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    assert_eq!(ask_x509(&ca, &bob).status, 200);
}

#[test]
fn a_backup_of_a_home_brings_the_places_of_the_keys_along() {
    let hsm = SoftHsm::new();
    let ca = serve(&hsm, hsm.home(&[]));
    let file = ca.home.folder.join("backup");
    let folder = ca.home.path();
    let (file, home) = (file.to_str().unwrap(), folder.to_str().unwrap());
    Ran::of(program().args(["backup", file, "--home", home])).ok();
    let before = ca.home.folder.join("before");
    let ca = ca.stop();
    fs::rename(&folder, before).unwrap();
    Ran::of(program().args(["restore", file, "--home", home])).ok();
    let place = folder.join("keys/ssh-user-1.token");
    assert_eq!(
        fs::metadata(place).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let ca = serve(&hsm, ca);
    let bob = ca.enrol("bob", &["on-call"]);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
}

#[test]
fn a_key_that_follows_one_in_the_token_is_in_it_too_and_of_its_kind() {
    let hsm = SoftHsm::new();
    let home = hsm.home(&[
        "--token-keys",
        "ssh-user,x509-root,x509-issuing",
        "--token-algorithm",
        "ecdsa-p384",
    ]);
    let ca = serve(&hsm, home);
    let admin = ca.admin();
    let bob = ca.enrol("bob", &["on-call"]);
    for kind in ["ssh-user", "ssh-host", "x509-issuing", "x509-root"] {
        admin.hallpass(["key", "rotate", kind]).ok();
    }
    let ca = serve(&hsm, ca.stop());
    admin.connect(&ca);
    bob.connect(&ca);
    for key in ["ssh-user-2", "ssh-host-2", "x509-issuing-2", "x509-root-2"] {
        let force = ["key", "activate", key, "--force", "nobody uses it yet"];
        admin.hallpass(force).ok();
    }
    assert!(key_files(&ca.home, ".age").contains("ssh-host-2.age"));
    let inside = key_files(&ca.home, ".token");
    for key in ["ssh-user-2", "x509-issuing-2", "x509-root-2"] {
        assert!(inside.contains(&format!("{key}.token")), "{inside:?}");
        let path = ca.home.path().join("keys").join(format!("{key}.token"));
        let place = fs::read_to_string(path).unwrap();
        assert!(place.contains("algorithm = \"ecdsa-p384\""), "{place}");
        assert!(in_the_token(&hsm, "list").contains(&format!("hallpass {key}: sensitive")));
    }
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    assert_eq!(ask_x509(&ca, &bob).status, 200);
    let ca = serve(&hsm, ca.stop());
    bob.connect(&ca);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    assert_eq!(ask_x509(&ca, &bob).status, 200);
}

#[test]
fn the_logs_key_and_one_that_waits_for_its_certificate_are_in_the_token_too() {
    let hsm = SoftHsm::new();
    let ca = serve(&hsm, hsm.home(&[]));
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    admin.hallpass(["key", "rotate", "log"]).ok();
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    for (step, key) in [("activate", "log-2"), ("retire", "log-1")] {
        let force = ["key", step, key, "--force", "nobody uses it yet"];
        admin.hallpass(force).ok();
        assert_eq!(ask_ssh(&ca, &bob).status, 200);
    }
    let inside = key_files(&ca.home, ".token");
    assert!(inside.contains("log-2.token"), "{inside:?}");
    let home = ca.stop();
    let key = |line: &str| {
        let mut key = program();
        let mut words = line.split(' ');
        key.args(["key", words.next().unwrap(), "--home"])
            .arg(home.path())
            .arg("--passphrase-file")
            .arg(home.folder.join("passphrase"))
            .args(words)
            .current_dir(home.folder.path());
        Ran::of(hsm.lend(&mut key))
    };
    key("csr x509-issuing --out issuing.csr").ok();
    let waits = home.path().join("keys/x509-issuing-request.token");
    assert!(waits.exists());
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n";
    home.folder.write("extensions", extensions);
    let root = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 10 -subj /CN=Root \
                -addext keyUsage=critical,keyCertSign,cRLSign -keyout root.key -out root.crt";
    let sign = "x509 -req -in issuing.csr -CA root.crt -CAkey root.key -CAcreateserial -days 9 \
                -extfile extensions -out issuing.crt";
    for line in [root, sign] {
        let mut openssl = std::process::Command::new("openssl");
        let openssl = openssl.args(line.split(' ').filter(|word| !word.is_empty()));
        Ran::of(openssl.current_dir(home.folder.path())).ok();
    }
    key("install x509-issuing issuing.crt --root root.crt").ok();
    assert!(!waits.exists());
    assert!(key_files(&home, ".token").contains("x509-issuing-2.token"));

    let ca = serve(&hsm, home);
    admin.connect(&ca);
    let force = [
        "key",
        "activate",
        "x509-root-2",
        "--force",
        "nobody uses it yet",
    ];
    admin.hallpass(force).ok();
    assert_eq!(ask_x509(&ca, &bob).status, 200);
    let path = ca.home.path().display().to_string();
    admin.hallpass(["audit", "verify", "--home", &path]).ok();
}

#[test]
fn keys_are_imported_beside_those_in_the_token() {
    let hsm = SoftHsm::new();
    let home = hsm.home(&[]);
    let (user, root) = (home.folder.join("user"), home.folder.join("root"));
    let user = user.to_str().unwrap();
    run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", user]).ok();
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 10 -subj /CN=Old \
                -addext keyUsage=critical,keyCertSign,cRLSign -keyout";
    let certificate = home.folder.join("root.crt");
    let (root, certificate) = (root.to_str().unwrap(), certificate.to_str().unwrap());
    run(
        "openssl",
        make.split(' ').chain([root, "-out", certificate]),
    )
    .ok();
    // What a crash left must not be taken for the key.
    let keys = home.path().join("keys");
    for name in ["ssh-user", "x509-root"] {
        let place = |number| keys.join(format!("{name}-{number}.token"));
        fs::copy(place(1), place(2)).unwrap();
    }
    let import = |line: &[&str]| {
        let mut import = program();
        import
            .args(["key", "import"])
            .args(line)
            .args(["--activate", "--reason", "moving over", "--home"])
            .arg(home.path())
            .arg("--passphrase-file")
            .arg(home.folder.join("passphrase"));
        import
    };
    let user = ["ssh-user", user];
    Ran::of(&mut import(&user)).fails_with(78, "give --pin-file FILE");
    Ran::of(hsm.lend(&mut import(&user))).ok();
    let root = ["x509-root", root, "--certificate", certificate];
    let said = Ran::of(hsm.lend(&mut import(&root))).ok();
    // The root in the token vouched for it.
    assert!(!said.contains("hallpass connect"), "{said}");
    let sealed = ["seal.age", "ssh-user-2.age", "x509-root-2.age"];
    assert_eq!(
        key_files(&home, ".age"),
        BTreeSet::from(sealed.map(str::to_owned))
    );
    let inside = key_files(&home, ".token");
    assert!(inside.contains("x509-issuing-2.token"), "{inside:?}");
    assert_eq!(inside.len(), 6, "{inside:?}");

    let ca = serve(&hsm, home);
    let bob = ca.enrol("bob", &["on-call"]);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    assert_eq!(ask_x509(&ca, &bob).status, 200);
    let lists = ca.admin().hallpass(["key", "crl"]).ok();
    assert_eq!(lists.matches("BEGIN X509 CRL").count(), 4, "{lists}");
}

#[test]
fn no_private_key_can_be_taken_out_of_the_token() {
    let hsm = SoftHsm::new();
    let home = hsm.home(&[]);
    let seen = in_the_token(&hsm, "list");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.len(), 5, "{seen}");
    for kind in ["ssh-user", "ssh-host", "x509-root", "x509-issuing", "log"] {
        let line = format!(
            "hallpass {kind}-1: sensitive always-sensitive never-extractable private; \
             value refused"
        );
        assert!(lines.contains(&&*line), "{line}\n{seen}");
    }
    // Nor is it on our side.
    let found = run(
        "grep",
        [
            "-rlaE",
            "PRIVATE KEY|AGE-SECRET-KEY",
            home.path().to_str().unwrap(),
        ],
    );
    assert_eq!((found.code, found.out.as_str()), (1, ""), "{found:?}");
}

#[test]
fn what_is_wrong_with_the_token_is_said_before_a_home_is_made() {
    let hsm = SoftHsm::new();
    hsm.add_token("other");
    let home = Home::unmade();
    let init = |module: &str, label: &str, more: &[&str]| {
        home.init(|init| {
            hsm.lend(init)
                .args(["--token", module, "--token-label", label])
                .args(more);
        })
    };
    let module = SoftHsm::MODULE;
    let none = "/usr/lib/softhsm/none.so";
    init(none, SoftHsm::LABEL, &[]).fails_with(
        78,
        "the PKCS#11 module /usr/lib/softhsm/none.so can't be loaded: ",
    );
    init("libm.so.6", SoftHsm::LABEL, &[]).fails_with(
        78,
        "it has no C_GetFunctionList, so it is no PKCS#11 module",
    );
    let ran = init(module, "valut", &[]);
    ran.fails_with(78, "has no token \"valut\", but ");
    for there in ["\"vault\" (serial ", "\"other\" (serial "] {
        assert!(ran.err.contains(there), "{ran:?}");
    }
    init(module, SoftHsm::LABEL, &["--token-serial", "77"])
        .fails_with(78, "has no token \"vault\" (serial 77), but \"");
    let wrong = hsm.pin_file("wrong", "1234-5678");
    let ran = init(
        module,
        SoftHsm::LABEL,
        &["--pin-file", wrong.to_str().unwrap()],
    );
    ran.fails_with(78, "the token \"vault\" refuses the PIN: it is wrong");
    assert!(!ran.err.contains("1234-5678"), "{ran:?}");
    let empty = hsm.pin_file("empty", "");
    init(
        module,
        SoftHsm::LABEL,
        &["--pin-file", empty.to_str().unwrap()],
    )
    .fails_with(78, "the PIN is empty");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
    init(
        module,
        SoftHsm::LABEL,
        &["--pin-file", wrong.to_str().unwrap()],
    )
    .fails_with(78, "others can read the PIN file");
    init(module, SoftHsm::LABEL, &["--token-keys", "ssh-usr"])
        .fails_with(64, "ssh-user, ssh-host, x509-root, x509-issuing or log");
    init(module, SoftHsm::LABEL, &["--token-algorithm", "rsa"])
        .fails_with(64, "give one of ed25519, ecdsa-p256, ecdsa-p384");
    let copied = hsm.folder.join("copied.so");
    fs::copy(module, &copied).unwrap();
    fs::set_permissions(&copied, fs::Permissions::from_mode(0o777)).unwrap();
    init(copied.to_str().unwrap(), SoftHsm::LABEL, &[])
        .fails_with(78, "others can change the PKCS#11 module");
    hsm.add_token(SoftHsm::LABEL);
    init(module, SoftHsm::LABEL, &[]).fails_with(78, "has several tokens \"vault\": \"vault\"");
    assert!(!home.path().exists());
}

#[test]
fn a_server_that_can_not_use_the_token_says_so_at_its_start() {
    let hsm = SoftHsm::new();
    let home = hsm.home(&[]);
    let fails = |home: &Home, adjust: &dyn Fn(&mut Command), words: &str| {
        let (code, message) = serve_fails_with(home, |serve| {
            hsm.lend(serve);
            adjust(serve);
        });
        assert_eq!(code, 78, "{message}");
        assert!(message.contains(words), "{message}");
        message
    };
    let (code, message) = serve_fails(&home);
    assert_eq!(code, 78);
    assert_eq!(
        message,
        "hallpass: there is no terminal to ask for the token's PIN: give --pin-file FILE"
    );
    let wrong = hsm.pin_file("wrong", "1234-5678");
    let message = fails(
        &home,
        &|serve| {
            serve.env("HALLPASS_PIN_FILE", &wrong);
        },
        "the token \"vault\" refuses the PIN: it is wrong",
    );
    assert!(!message.contains("1234-5678"));

    let config = home.path().join("hallpass.toml");
    let text = fs::read_to_string(&config).unwrap();
    let with = |from: &str, to: &str| fs::write(&config, text.replace(from, to)).unwrap();
    with("label = \"vault\"", "label = \"valut\"");
    fails(
        &home,
        &|_| {},
        "has no token \"valut\", but \"vault\" (serial ",
    );
    with(SoftHsm::MODULE, "/nowhere/module.so");
    fails(&home, &|_| {}, "/nowhere/module.so can't be loaded: ");
    hsm.add_token("other");
    with("label = \"vault\"", "label = \"other\"");
    fails(
        &home,
        &|_| {},
        "the key is in the token \"vault\", and \"other\" is open: put the right `label`",
    );
    with("[token]", "# [token]\n# ");
    fs::write(&config, text.split("[token]").next().unwrap()).unwrap();
    fails(
        &home,
        &|_| {},
        "the key is in the token \"vault\", and hallpass.toml names none: add a table [token]",
    );
    fs::write(&config, &text).unwrap();

    let place = home.path().join("keys/ssh-user-1.token");
    let written = fs::read_to_string(&place).unwrap();
    let id = written.split("id = \"").nth(1).unwrap();
    fs::write(&place, written.replace(&id[..8], "00000000")).unwrap();
    let message = fails(
        &home,
        &|_| {},
        "the key \"hallpass ssh-user-1\" (id 00000000",
    );
    assert!(
        message.contains("is not in the token \"vault\""),
        "{message}"
    );
    // Another key of ours is not this one.
    fs::copy(home.path().join("keys/ssh-host-1.token"), &place).unwrap();
    fails(&home, &|_| {}, "it belongs to another key");
    fs::write(&place, written.replace("ecdsa-p256", "ecdsa-p384")).unwrap();
    fails(
        &home,
        &|_| {},
        "its public key is none of the key's algorithm",
    );
    in_the_token(&hsm, "generate-copyable");
    let id = format!("id = \"{}\"", &id[..32]);
    fs::write(&place, written.replace(&id, "id = \"c0ffee\"")).unwrap();
    fails(
        &home,
        &|_| {},
        "in the token \"vault\" can be copied out of it",
    );
    fs::write(&place, &written).unwrap();
    drop(serve(&hsm, home));
}

#[test]
fn a_pin_may_come_as_a_systemd_credential() {
    let hsm = SoftHsm::new();
    let home = hsm.home(&[]);
    hsm.pin_file("hallpass-pin", SoftHsm::PIN);
    let ca = Ca::with(home, |serve| {
        hsm.lend(serve)
            .env_remove("HALLPASS_PIN_FILE")
            .env("CREDENTIALS_DIRECTORY", hsm.folder.path());
    });
    // Nobody reads it from the outside.
    for file in ["cmdline", "environ"] {
        let seen = fs::read(format!("/proc/{}/{file}", ca.pid())).unwrap();
        assert!(!String::from_utf8_lossy(&seen).contains(SoftHsm::PIN));
    }
    assert!(!ca.server_log().contains(SoftHsm::PIN));
}

#[test]
fn a_pin_is_typed_at_a_prompt_that_does_not_show_it() {
    let hsm = SoftHsm::new();
    let home = Home::unmade();
    let line = format!(
        "{} init --admin alice --home {} --ssh-key {} --passphrase-file {} \
         --token {} --token-label {}",
        env!("CARGO_BIN_EXE_hallpass"),
        home.path().display(),
        home.folder.join("admin.pub").display(),
        home.folder.join("passphrase").display(),
        SoftHsm::MODULE,
        SoftHsm::LABEL,
    );
    // script(1) gives it a terminal.
    let mut script = Command::new("script");
    let mut script = hsm
        .lend(script.args(["-qec", &line, "/dev/null"]))
        .env_remove("HALLPASS_PIN_FILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = script.stdin.take().unwrap();
    // Typed before the prompt, it would be echoed by the terminal itself.
    std::thread::sleep(Duration::from_millis(1500));
    writeln!(stdin, "{}", SoftHsm::PIN).unwrap();
    let said = Ran::from(script.wait_with_output().unwrap()).ok();
    assert!(said.contains("PIN of the token vault: "), "{said}");
    assert!(said.contains("or in the token \"vault\":"), "{said}");
    assert!(!said.contains(SoftHsm::PIN), "{said}");
}

#[test]
fn a_key_that_is_deleted_from_the_token_takes_only_its_own_certificates_along() {
    let hsm = SoftHsm::new();
    let ca = serve(&hsm, hsm.home(&[]));
    let bob = ca.enrol("bob", &["on-call"]);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    in_the_token(&hsm, "delete hallpass ssh-user-1");
    let missing = "is not in the token \"vault\", behind /usr/lib/softhsm/libsofthsm2.so: restore";
    for _ in 0..3 {
        assert_unavailable(&ask_ssh(&ca, &bob), missing);
    }
    assert_eq!(ask_x509(&ca, &bob).status, 200);
    bob.hallpass(["whoami"]).ok();
    let (status, health) = ca.readyz();
    assert_eq!(status, 503);
    assert!(
        health["detail"].as_str().unwrap().contains(missing),
        "{health}"
    );
    // A client is told, and what was begun stands in the log.
    let request = "request server-operator --purpose incident --reason x";
    bob.hallpass(request.split(' ')).fails_with(69, missing);
    wait_until("four entries", || {
        ca.home.entries("request-failed").len() == 4
    });
    for (place, entry) in ca.home.log().iter().enumerate() {
        assert_eq!(entry["index"], place);
    }
    assert_eq!(ca.server_log().matches("it is opened anew").count(), 1);
}

#[test]
fn a_lost_token_is_told_of_and_used_again_once_it_is_back() {
    let hsm = SoftHsm::new();
    hsm.add_token("other");
    let ca = serve(&hsm, hsm.home(&NOT_THE_LOG));
    let bob = ca.enrol("bob", &["on-call"]);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    for _ in 0..2 {
        hsm.unplug();
        let why = "has no token \"vault\", but \"other\" (serial ";
        wait_until("the loss is seen", || ask_ssh(&ca, &bob).status == 503);
        wait_until("it is not there", || {
            ca.readyz().1.to_string().contains("other")
        });
        for _ in 0..3 {
            assert_unavailable(&ask_ssh(&ca, &bob), why);
            assert_unavailable(&ask_x509(&ca, &bob), why);
        }
        bob.hallpass(["whoami"]).ok();
        let (status, health) = ca.readyz();
        assert_eq!(status, 503);
        assert!(health["detail"].as_str().unwrap().contains(why), "{health}");
        hsm.plug_in();
        wait_until("it is back", || ca.readyz().0 == 200);
        assert_eq!(ask_ssh(&ca, &bob).status, 200);
        assert_eq!(ask_x509(&ca, &bob).status, 200);
    }
    let log = ca.server_log();
    for (words, times) in [
        ("the token failed: it is opened anew", 2),
        ("the token is lost: nothing is signed", 2),
        ("the token is open again", 2),
    ] {
        assert_eq!(log.matches(words).count(), times, "{log}");
    }
}

#[test]
fn without_the_token_that_has_the_logs_key_nothing_is_issued_until_it_is_back() {
    let hsm = SoftHsm::new();
    let ca = serve(&hsm, hsm.home(&["--token-keys", "log"]));
    let bob = ca.enrol("bob", &["on-call"]);
    assert_eq!(ask_ssh(&ca, &bob).status, 200);
    hsm.unplug();
    assert_unavailable(&ask_ssh(&ca, &bob), "the audit log can't be written");
    let issued = ca.home.entries("certificate-issued").len();
    assert_eq!(issued, 1);
    hsm.plug_in();
    wait_until("issuing goes on", || ask_ssh(&ca, &bob).status == 200);
    let home = ca.stop();
    drop(serve(&hsm, home));
}

#[test]
fn a_pin_that_was_changed_meanwhile_is_not_tried_until_the_token_locks() {
    let hsm = SoftHsm::new();
    let ca = serve(&hsm, hsm.home(&NOT_THE_LOG));
    let bob = ca.enrol("bob", &["on-call"]);
    hsm.unplug();
    wait_until("the loss is seen", || ask_ssh(&ca, &bob).status == 503);
    hsm.plug_in();
    in_the_token(&hsm, "change-pin 1111-2222");
    let why = "the token \"vault\" refuses the PIN: it is wrong";
    wait_until("it is refused", || {
        ask_ssh(&ca, &bob).body.contains("refuses the PIN")
    });
    std::thread::sleep(Duration::from_millis(1500));
    assert_unavailable(&ask_ssh(&ca, &bob), why);
    // The right PIN again would open it, if it were tried.
    in_the_token(&hsm, "change-pin-back 1111-2222");
    std::thread::sleep(Duration::from_millis(1500));
    assert_unavailable(&ask_ssh(&ca, &bob), why);
    let ca = serve(&hsm, ca.stop());
    assert_eq!(ask_ssh(&ca, &bob_at(&ca)).status, 200);
}

/// Bob, who was enrolled before the server was started anew elsewhere.
fn bob_at(ca: &Ca) -> Person {
    ca.enrol("bob-again", &["on-call"])
}

#[test]
fn many_sign_at_once_also_while_the_token_comes_and_goes() {
    let hsm = SoftHsm::new();
    let ca = serve(&hsm, hsm.home(&[]));
    let bob = ca.enrol("bob", &["on-call"]);
    let many = |times: usize| -> Vec<u16> {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..24)
                .map(|_| {
                    scope.spawn(|| -> Vec<u16> {
                        (0..times).map(|_| ask_ssh(&ca, &bob).status).collect()
                    })
                })
                .collect();
            all.into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        })
    };
    assert!(many(4).iter().all(|status| *status == 200));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| many(12));
        for _ in 0..3 {
            hsm.unplug();
            std::thread::sleep(Duration::from_millis(300));
            hsm.plug_in();
            std::thread::sleep(Duration::from_millis(300));
        }
        let answers = asking.join().unwrap();
        assert!(
            answers.iter().all(|status| [200, 503].contains(status)),
            "{answers:?}"
        );
    });
    wait_until("it is back", || ca.readyz().0 == 200);
    assert!(many(2).iter().all(|status| *status == 200));
    assert!(!ca.server_log().contains("panicked"));
}

/// Does something in the token as another program would: this one, started again, since a process
/// has one `SOFTHSM2_CONF`.
fn in_the_token(hsm: &SoftHsm, task: &str) -> String {
    let mut other = Command::new(std::env::current_exe().unwrap());
    other
        .args([
            "token::another_program_in_the_token",
            "--exact",
            "--nocapture",
        ])
        .env("HALLPASS_TEST_TASK", task);
    let said = Ran::of(hsm.lend(&mut other)).ok();
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("seen: "))
        .collect();
    lines.join("\n")
}

#[test]
fn another_program_in_the_token() {
    let Ok(task) = std::env::var("HALLPASS_TEST_TASK") else {
        return;
    };
    let pkcs11 = Pkcs11::new(Path::new(SoftHsm::MODULE)).unwrap();
    let locking = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    pkcs11.initialize(locking).unwrap();
    let slots = pkcs11.get_slots_with_initialized_token().unwrap();
    let is_ours = |slot| pkcs11.get_token_info(slot).unwrap().label() == SoftHsm::LABEL;
    let slot = slots.into_iter().find(|slot| is_ours(*slot)).unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    let pin = |text: &str| text.to_owned().into();
    let login = |text| session.login(UserType::User, Some(&pin(text))).unwrap();
    match task.split_once(' ') {
        Some(("delete", label)) => {
            login(SoftHsm::PIN);
            let label = Attribute::Label(label.as_bytes().to_vec());
            let objects = session.find_objects(&[label]).unwrap();
            assert_eq!(objects.len(), 2);
            for object in objects {
                session.destroy_object(object).unwrap();
            }
        }
        Some(("change-pin", new)) => {
            login(SoftHsm::PIN);
            session.set_pin(&pin(SoftHsm::PIN), &pin(new)).unwrap();
        }
        Some(("change-pin-back", old)) => {
            login(old);
            session.set_pin(&pin(old), &pin(SoftHsm::PIN)).unwrap();
        }
        _ => {
            login(SoftHsm::PIN);
            match &*task {
                "list" => list(&session),
                "generate-copyable" => generate_copyable(&session),
                other => panic!("{other}"),
            }
        }
    }
}

/// Makes a key that can be taken out of the token.
fn generate_copyable(session: &Session) {
    let p256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec();
    let id = Attribute::Id(vec![0xc0, 0xff, 0xee]);
    let public = [
        Attribute::Token(true),
        Attribute::EcParams(p256),
        id.clone(),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Sign(true),
        id,
    ];
    let pair = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
    pair.unwrap();
}

#[expect(clippy::print_stdout, reason = "the other process reads it")]
fn list(session: &Session) {
    let private = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
    for key in session.find_objects(&private).unwrap() {
        let asked = [
            AttributeType::Label,
            AttributeType::Sensitive,
            AttributeType::AlwaysSensitive,
            AttributeType::NeverExtractable,
            AttributeType::Private,
        ];
        let mut words = String::new();
        for attribute in session.get_attributes(key, &asked).unwrap() {
            words += &match attribute {
                Attribute::Label(label) => String::from_utf8(label).unwrap() + ":",
                Attribute::Sensitive(true) => " sensitive".to_owned(),
                Attribute::AlwaysSensitive(true) => " always-sensitive".to_owned(),
                Attribute::NeverExtractable(true) => " never-extractable".to_owned(),
                Attribute::Private(true) => " private".to_owned(),
                other => panic!("{other:?}"),
            };
        }
        let value = session.get_attribute_info(key, &[AttributeType::Value]);
        let value = match value.unwrap()[..] {
            [AttributeInfo::Sensitive] => "refused",
            _ => "given",
        };
        println!("seen: {words}; value {value}");
    }
}
