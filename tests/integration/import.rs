//! CA keys that were made elsewhere, and the fleet that trusts them already.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Ca, Folder, Home, Person, Postgres, Ran, Sshd, program, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A key of ssh-keygen's.
fn ssh_key(folder: &Folder, name: &str, options: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let rest = ["-q", "-C", "", "-f", text(&path)];
    run("ssh-keygen", options.iter().chain(&rest)).ok();
    path
}

fn ed25519(folder: &Folder, name: &str) -> PathBuf {
    ssh_key(folder, name, &["-t", "ed25519", "-N", ""])
}

fn openssl(folder: &Folder, line: &str) {
    let mut openssl = std::process::Command::new("openssl");
    let ran = Ran::of(openssl.args(line.split(' ')).current_dir(folder.path()));
    ran.ok();
}

/// `root.key`, `root.crt` and below them `issuing.key`, `issuing.crt`, as an administrator makes
/// them with openssl.
fn x509_ca(folder: &Folder) {
    openssl(folder, "ecparam -name prime256v1 -genkey -out root.key");
    openssl(
        folder,
        "req -x509 -new -key root.key -days 3650 -subj /C=CH/O=Ward/CN=Ward-Root -out root.crt \
         -addext keyUsage=critical,keyCertSign,cRLSign",
    );
    openssl(
        folder,
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out issuing.key",
    );
    issue(folder, "issuing", "-days 1000", ISSUING);
}

const ISSUING: &str =
    "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// A certificate `NAME.crt` under the root for `NAME.key`.
fn issue(folder: &Folder, name: &str, life: &str, extensions: &str) {
    folder.write("extensions", extensions);
    openssl(
        folder,
        &format!("req -new -key {name}.key -subj /C=CH/O=Ward/CN=Ward-{name} -out {name}.csr"),
    );
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA root.crt -CAkey root.key -CAcreateserial {life} \
             -extfile extensions -out {name}.crt"
        ),
    );
}

/// `hallpass key import` on a home that is not served.
fn import(home: &Home, folder: &Folder, line: &str) -> Ran {
    let mut command = program();
    command
        .args(["key", "import", "--home"])
        .arg(home.path())
        .arg("--passphrase-file")
        .arg(home.folder.join("passphrase"))
        .args(line.split(' ').map(|word| word.replace('_', " ")))
        .current_dir(folder.path());
    Ran::of(&mut command)
}

const NOW: &str = "--activate --reason moving_over";

fn login(person: &Person, sshd: &Sshd) -> Ran {
    let ask = "ssh --role server-operator --purpose incident --reason x --";
    let arguments = ask.split(' ').map(str::to_owned).chain(sshd.target());
    person.hallpass(arguments.chain(["echo in".to_owned()]))
}

fn select(person: &Person, postgres: &Postgres) -> Ran {
    let ask = "psql --role patients-read --purpose incident --reason INC-1 --";
    let arguments = ask.split(' ').map(str::to_owned).chain(postgres.target());
    let query = ["-XAtqc", "SELECT name FROM records"].map(str::to_owned);
    person.hallpass(arguments.chain(query))
}

fn states(home: &Home, admin: &Person) -> Vec<String> {
    let out = admin.hallpass(["key", "list", "--all", "--json"]).ok();
    assert!(home.path().exists());
    out.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|key| {
            let text = |name: &str| key[name].as_str().unwrap().to_owned();
            format!("{} {}", text("key"), text("state"))
        })
        .collect()
}

/// Nothing in the home has these bytes, or a private key in PEM.
fn is_nowhere(home: &Home, secret: &[u8]) {
    let within = |content: &[u8], part: &[u8]| content.windows(part.len()).any(|at| at == part);
    let mut waiting = vec![home.path()];
    let mut looked = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
            continue;
        }
        let content = fs::read(&path).unwrap();
        assert!(!within(&content, secret), "{path:?}");
        assert!(!within(&content, b"PRIVATE KEY"), "{path:?}");
        looked += 1;
    }
    assert!(looked > 10, "{looked} files");
}

#[test]
fn an_openssh_ca_moves_over_and_no_host_is_touched() {
    let folder = Folder::new();
    let old = ed25519(&folder, "ca");
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let sshd = Sshd::start(&ca, &["operator"]);
    // The fleet trusts the CA that ssh-keygen was used with, and nothing else.
    let trusted = fs::read_to_string(folder.join("ca.pub")).unwrap();
    sshd.folder.write("hallpass_user_ca.pub", &trusted);
    let user = ed25519(&folder, "user");
    let user_pub = folder.join("user.pub");
    let sign = [
        "-q",
        "-s",
        text(&old),
        "-I",
        "x",
        "-n",
        "operator",
        text(&user_pub),
    ];
    run("ssh-keygen", sign).ok();
    let before = Ran::of(&mut sshd.ssh(["-i", text(&user)]));
    assert_eq!(before.ok(), "in\n");
    assert_ne!(login(&bob, &sshd).code, 0);

    // A server is in the way.
    let address = ca.address().to_owned();
    let line = format!("ssh-user ca {NOW}");
    import(&ca.home, &folder, &line).fails_with(78, "stop the server first");
    let home = ca.stop();
    let said = import(&home, &folder, &line).ok();
    assert!(
        said.contains("Imported as ssh-user-2, active: SHA256:"),
        "{said}"
    );
    assert!(said.contains("ca still has the key unsealed"), "{said}");
    let seed = ssh_key::PrivateKey::read_openssh_file(&old).unwrap();
    let seed = seed.key_data().ed25519().unwrap().private.to_bytes();
    is_nowhere(&home, &seed);

    let ca = Ca::at(home, &address);
    // What bob still holds was signed by the key before.
    let carol = ca.enrol("carol", &["on-call"]);
    assert_eq!(login(&carol, &sshd).ok(), "in\n");
    assert_eq!(Ran::of(&mut sshd.ssh(["-i", text(&user)])).ok(), "in\n");
    assert_eq!(
        states(&ca.home, &admin)[..2],
        ["ssh-user-1 retiring", "ssh-user-2 active"]
    );
    let exported = admin.hallpass(["key", "export-public", "ssh-user-2"]).ok();
    assert_eq!(exported.trim_end(), trusted.trim_end());
    is_nowhere(&ca.home, &seed);

    let staged = ca.home.entries("ca-key-staged").pop().unwrap();
    assert_eq!(staged["event"]["by"], Value::Null);
    let activated = ca.home.entries("ca-key-activated").pop().unwrap();
    assert_eq!(activated["event"]["forced"], "moving over");
    let home = ca.stop();
    let verify = ["audit", "verify", "--home", text(&home.path())].map(str::to_owned);
    assert!(
        Ran::of(program().args(verify))
            .ok()
            .contains("certificates")
    );
    import(&home, &folder, &line)
        .fails_with(65, "this key is here already: it is ssh-user-2, active");
}

#[test]
fn a_staged_import_is_activated_over_the_api_or_by_another_run() {
    let folder = Folder::new();
    ed25519(&folder, "users");
    ed25519(&folder, "hosts");
    let home = Home::new();
    import(&home, &folder, "ssh-user users").ok();
    import(&home, &folder, "ssh-host hosts").ok();
    import(&home, &folder, "ssh-user hosts").fails_with(65, "key ssh-user-2 is staged already");
    import(&home, &folder, "ssh-user users").fails_with(65, "it is ssh-user-2, staged");
    import(&home, &folder, &format!("ssh-user users {NOW}")).ok();
    let ca = Ca::on(home);
    let admin = ca.admin();
    let force = ["key", "activate", "ssh-host-2", "--force", "all know it"];
    admin.hallpass(force).ok();
    let host = ed25519(&folder, "host");
    let line = format!("host-cert ssh {}.pub --name h", text(&host));
    admin.hallpass(line.split(' ')).ok();
    let shown = run(
        "ssh-keygen",
        ["-L", "-f", text(&folder.join("host-cert.pub"))],
    )
    .ok();
    let print = run("ssh-keygen", ["-l", "-f", text(&folder.join("hosts.pub"))]).ok();
    let print = print.split(' ').nth(1).unwrap();
    assert!(shown.contains(print), "{shown}");
    assert!(
        admin
            .hallpass(["key", "list", "--all"])
            .ok()
            .contains("ssh-user-2")
    );

    let all = admin.hallpass(["key", "export-public"]).ok();
    assert_eq!(all.matches("ssh-ed25519 ").count(), 4, "{all}");
    assert!(
        all.contains("BEGIN CERTIFICATE") && all.contains("hallpass/"),
        "{all}"
    );
    let users = admin.hallpass(["key", "export-public", "ssh-user"]).ok();
    assert_eq!(users.lines().count(), 2);
    let none = admin.hallpass(["key", "export-public", "ssh-user-9"]);
    none.fails_with(65, "there is no key ssh-user-9");
    admin
        .hallpass(["key", "export-public", "ssh-usr"])
        .fails_with(64, "ssh-user");
}

#[test]
fn an_x509_ca_moves_over_and_no_database_is_touched() {
    let folder = Folder::new();
    x509_ca(&folder);
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let postgres = Postgres::start(&ca);
    // The database trusts the root that openssl made, and nothing else.
    let root = fs::read_to_string(folder.join("root.crt")).unwrap();
    postgres.trust(&root);
    assert_ne!(select(&bob, &postgres).code, 0);
    let address = ca.address().to_owned();
    let home = ca.stop();
    let chain = fs::read_to_string(folder.join("issuing.crt")).unwrap() + &root;
    folder.write("chain.pem", chain);
    let without = import(
        &home,
        &folder,
        "x509-issuing issuing.key --certificate chain.pem",
    );
    without.fails_with(
        65,
        "which is no trusted root of this home: give that root's certificate",
    );
    let line = format!("x509-issuing issuing.key --certificate chain.pem --root root.crt {NOW}");
    let said = import(&home, &folder, &line).ok();
    assert!(
        said.contains("Imported as x509-issuing-2, active"),
        "{said}"
    );
    assert!(said.contains("Its root is x509-root-2 here"), "{said}");
    assert!(!home.path().join("keys/x509-root-2.age").exists());
    let der = folder.join("issuing.der");
    openssl(&folder, "ec -in issuing.key -outform DER -out issuing.der");
    is_nowhere(&home, &fs::read(der).unwrap()[7..39]);

    let ca = Ca::at(home, &address);
    // Who pinned the old root follows, and logs in on a certificate of the imported CA.
    let carol = ca.enrol("carol", &["on-call"]);
    for person in [&bob, &carol] {
        // bob holds one from before.
        person.hallpass(["whoami"]).ok();
    }
    assert_eq!(select(&carol, &postgres).ok(), "ward 3\n");
    assert_eq!(
        states(&ca.home, &admin)[2..],
        [
            "x509-root-1 retiring",
            "x509-root-2 active",
            "x509-issuing-1 retiring",
            "x509-issuing-2 active",
            "log-1 active"
        ]
    );
    // Below a root whose key is elsewhere, nothing is signed here.
    let rotate = admin.hallpass(["key", "rotate", "x509-issuing"]);
    rotate.fails_with(65, "the private key of x509-root-2 is elsewhere");
    // A root of our own can follow it.
    admin.hallpass(["key", "rotate", "x509-root"]).ok();
    let force = ["key", "activate", "x509-root-3", "--force", "test"];
    admin.hallpass(force).ok();
    assert!(states(&ca.home, &admin).contains(&"x509-issuing-3 active".to_owned()));
    let home = ca.stop();
    let verify = ["audit", "verify", "--home", text(&home.path())].map(str::to_owned);
    Ran::of(program().args(verify)).ok();
    drop(Ca::on(home));
}

#[test]
fn an_imported_root_signs_an_issuing_ca_here() {
    let folder = Folder::new();
    x509_ca(&folder);
    let ca = Ca::start();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let postgres = Postgres::start(&ca);
    postgres.trust(&fs::read_to_string(folder.join("root.crt")).unwrap());
    let address = ca.address().to_owned();
    let home = ca.stop();
    let line = format!("x509-root root.key --certificate root.crt {NOW}");
    let said = import(&home, &folder, &line).ok();
    assert!(said.contains("x509-issuing-2 was made under it"), "{said}");
    let ca = Ca::at(home, &address);
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");
    admin.hallpass(["key", "rotate", "x509-issuing"]).ok();
    assert!(states(&ca.home, &admin).contains(&"x509-issuing-3 staged".to_owned()));
}

#[test]
fn an_issuing_ca_that_is_staged_with_its_root_is_activated_with_it() {
    let folder = Folder::new();
    x509_ca(&folder);
    let home = Home::new();
    let line = "x509-issuing issuing.key --certificate issuing.crt --root root.crt";
    let said = import(&home, &folder, line).ok();
    assert!(said.contains("hallpass key activate x509-root-2"), "{said}");
    let ca = Ca::on(home);
    let admin = ca.admin();
    let alone = admin.hallpass(["key", "activate", "x509-issuing-2"]);
    alone.fails_with(
        65,
        "x509-issuing-2 stands under x509-root-2, which is not active yet",
    );
    let force = ["key", "activate", "x509-root-2", "--force", "all have it"];
    admin.hallpass(force).ok();
    let after = states(&ca.home, &admin);
    for key in ["x509-root-2 active", "x509-issuing-2 active"] {
        assert!(after.contains(&key.to_owned()), "{after:?}");
    }
    admin.hallpass(["whoami"]).ok();
}

#[test]
fn keys_come_in_every_usual_wrapping() {
    let folder = Folder::new();
    x509_ca(&folder);
    folder.write("pass", "short\n");
    fs::set_permissions(folder.join("pass"), PermissionsExt::from_mode(0o600)).unwrap();
    for (name, line) in [
        ("sec1", "ec -in issuing.key -out sec1"),
        ("params", "ecparam -name prime256v1 -genkey -out unused"),
        (
            "pbkdf2",
            "pkcs8 -topk8 -in issuing.key -out pbkdf2 -passout file:pass",
        ),
        (
            "scrypt",
            "pkcs8 -topk8 -scrypt -in issuing.key -out scrypt -passout file:pass",
        ),
        ("bare", "ec -in issuing.key -no_public -out bare"),
    ] {
        openssl(&folder, line);
        if name == "params" {
            let key = fs::read_to_string(folder.join("sec1")).unwrap();
            let parameters =
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
            folder.write(name, format!("some words\n{parameters}{key}"));
        }
        fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        let home = Home::new();
        let line = format!(
            "x509-issuing {name} --certificate issuing.crt --root root.crt --key-passphrase-file pass"
        );
        let ran = import(&home, &folder, &line);
        assert!(ran.err.is_empty(), "{name}: {ran:?}");
        ran.ok();
    }
    ssh_key(&folder, "locked", &["-t", "ed25519", "-N", "short"]);
    let home = Home::new();
    import(&home, &folder, "ssh-user locked").fails_with(78, "give --key-passphrase-file FILE");
    import(&home, &folder, "ssh-user locked --key-passphrase-file pass").ok();
    drop(Ca::on(home));
}

#[test]
fn what_is_not_a_key_for_the_purpose_is_named() {
    let folder = Folder::new();
    x509_ca(&folder);
    ed25519(&folder, "ca");
    ssh_key(&folder, "rsa", &["-t", "rsa", "-b", "2048", "-N", ""]);
    ssh_key(&folder, "ecdsa", &["-t", "ecdsa", "-N", ""]);
    ssh_key(&folder, "locked", &["-t", "ed25519", "-N", "short"]);
    folder.write("wrong", "another\n");
    fs::set_permissions(folder.join("wrong"), PermissionsExt::from_mode(0o600)).unwrap();
    let key = fs::read(folder.join("ca")).unwrap();
    folder.write("cut", &key[..key.len() / 2]);
    folder.write("noise", [0xff_u8, 0x00, 0x80].repeat(100));
    folder.write("empty", "");
    folder.write("huge", vec![b'x'; 70 << 10]);
    openssl(
        &folder,
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem",
    );
    openssl(
        &folder,
        "ecparam -name secp384r1 -genkey -noout -out p384.pem",
    );
    openssl(&folder, "genpkey -algorithm ED25519 -out ed25519.pem");
    openssl(
        &folder,
        "ec -in issuing.key -aes256 -out legacy.pem -passout pass:short",
    );
    openssl(
        &folder,
        "pkcs8 -topk8 -in issuing.key -out locked.pem -passout pass:short",
    );
    for (name, days, extensions) in [
        ("leaf", "-days 10", "basicConstraints=CA:FALSE\n"),
        (
            "nosign",
            "-days 10",
            "basicConstraints=CA:TRUE\nkeyUsage=cRLSign\n",
        ),
        (
            "mail",
            "-days 10",
            "basicConstraints=CA:TRUE\nkeyUsage=keyCertSign\nextendedKeyUsage=emailProtection\n",
        ),
    ] {
        fs::copy(
            folder.join("issuing.key"),
            folder.join(format!("{name}.key")),
        )
        .unwrap();
        issue(&folder, name, days, extensions);
    }
    openssl(
        &folder,
        "x509 -in issuing.crt -outform DER -out issuing.der",
    );
    let x509 = "--certificate issuing.crt --root root.crt";
    let long = vec![b'x'; (1 << 20) + 1];
    folder.write("long.crt", long);
    let home = Home::new();
    for (line, code, words) in [
        (
            "ssh-user missing".to_owned(),
            66,
            "can't read missing: No such file",
        ),
        ("ssh-user .".to_owned(), 66, "can't read .: Is a directory"),
        (
            "ssh-user ca.pub".to_owned(),
            65,
            "ca.pub holds a public key or a certificate: give the file with the private key",
        ),
        (
            "ssh-user issuing.crt".to_owned(),
            65,
            "issuing.crt holds a public key or a certificate",
        ),
        (
            "ssh-user issuing.key".to_owned(),
            65,
            "issuing.key holds a private key of another kind: ssh-user takes an Ed25519 private key in OpenSSH's format",
        ),
        (
            format!("x509-issuing ca {x509}"),
            65,
            "ca holds a private key of another kind: x509-issuing takes an ECDSA private key on P-256",
        ),
        (
            "ssh-host rsa".to_owned(),
            65,
            "rsa holds an ssh-rsa key that can't be a CA key here: ssh-host takes an Ed25519",
        ),
        (
            "ssh-host ecdsa".to_owned(),
            65,
            "ecdsa holds an ecdsa-sha2-nistp256 key",
        ),
        (
            "ssh-user cut".to_owned(),
            65,
            "cut holds a private key that is cut off or damaged",
        ),
        (
            "ssh-user noise".to_owned(),
            65,
            "noise holds no private key",
        ),
        (
            "ssh-user empty".to_owned(),
            65,
            "empty holds no private key",
        ),
        (
            "ssh-user huge".to_owned(),
            65,
            "huge is longer than 64 KiB: it is no private key",
        ),
        (
            "ssh-user /dev/zero".to_owned(),
            65,
            "/dev/zero is longer than 64 KiB",
        ),
        (
            "ssh-user locked --key-passphrase-file wrong".to_owned(),
            65,
            "the passphrase does not open the key in locked",
        ),
        (
            format!("x509-issuing locked.pem {x509} --key-passphrase-file wrong"),
            65,
            "the passphrase does not open the key in locked.pem",
        ),
        (
            format!("x509-issuing legacy.pem {x509}"),
            65,
            "hallpass key import KIND <(openssl pkey -in legacy.pem)",
        ),
        (
            format!("x509-issuing rsa.pem {x509}"),
            65,
            "rsa.pem holds an RSA key",
        ),
        (
            format!("x509-issuing p384.pem {x509}"),
            65,
            "x509-issuing takes an ECDSA private key on P-256",
        ),
        (
            format!("x509-issuing ed25519.pem {x509}"),
            65,
            "ed25519.pem holds an Ed25519 key",
        ),
        ("log ca".to_owned(), 65, "a log key is not imported"),
        ("witness ca".to_owned(), 64, "witness"),
        (
            "x509-issuing issuing.key".to_owned(),
            65,
            "give it with --certificate FILE",
        ),
        (
            "ssh-user ca --root root.crt".to_owned(),
            65,
            "--root does not go with ssh-user",
        ),
        (
            "ssh-user ca --certificate root.crt".to_owned(),
            65,
            "ssh-user has no certificate",
        ),
        ("ssh-user ca --activate".to_owned(), 64, "--reason"),
        (
            "x509-issuing issuing.key --certificate missing.crt".to_owned(),
            66,
            "missing.crt: No such file",
        ),
        (
            "x509-issuing issuing.key --certificate long.crt".to_owned(),
            65,
            "long.crt is longer than 1 MiB",
        ),
        (
            "x509-issuing issuing.key --certificate root.crt".to_owned(),
            65,
            "root.crt: no certificate in it belongs to the key",
        ),
        (
            "x509-issuing issuing.key --certificate ca.pub".to_owned(),
            65,
            "ca.pub: it holds no certificate in PEM",
        ),
        (
            "x509-issuing issuing.key --certificate issuing.der".to_owned(),
            65,
            "issuing.der: it holds no certificate in PEM",
        ),
        (
            "x509-issuing leaf.key --certificate leaf.crt --root root.crt".to_owned(),
            65,
            "leaf.crt: its certificate is not a CA's",
        ),
        (
            "x509-issuing nosign.key --certificate nosign.crt --root root.crt".to_owned(),
            65,
            "its key usage lacks keyCertSign",
        ),
        (
            "x509-issuing mail.key --certificate mail.crt --root root.crt".to_owned(),
            65,
            "its extended key usage is limited",
        ),
        (
            "x509-issuing issuing.key --certificate issuing.crt --root issuing.crt".to_owned(),
            65,
            "issuing.crt: no certificate in it is a root's",
        ),
        (
            "x509-root issuing.key --certificate issuing.crt".to_owned(),
            65,
            "issuing.crt: no certificate in it is a root's",
        ),
    ] {
        import(&home, &folder, &line).fails_with(code, words);
    }
    // None of it left anything behind.
    let again = import(&home, &folder, "ssh-user ca").ok();
    assert!(again.contains("Imported as ssh-user-2, staged"), "{again}");
}

#[test]
fn certificates_that_can_not_be_a_cas_here_are_named() {
    let folder = Folder::new();
    x509_ca(&folder);
    // Of another root with the same name.
    let other = Folder::new();
    x509_ca(&other);
    fs::copy(other.join("root.crt"), folder.join("other.crt")).unwrap();
    let subject = "-subj /DC=org/DC=example/CN=Twice";
    let usage = "-addext keyUsage=critical,keyCertSign";
    for (name, options) in [
        ("twice", subject),
        (
            "short",
            "-subj /CN=Short -addext basicConstraints=critical,CA:TRUE,pathlen:0",
        ),
    ] {
        openssl(
            &folder,
            &format!("req -x509 -new -key root.key -days 10 {options} {usage} -out {name}.crt"),
        );
    }
    let expired = std::process::Command::new("faketime")
        .args(["2020-01-01", "openssl"])
        .args("req -x509 -new -key root.key -days 10 -subj /CN=Old -addext".split(' '))
        .args(["keyUsage=critical,keyCertSign", "-out", "old.crt"])
        .current_dir(folder.path())
        .status();
    assert!(expired.unwrap().success());
    let home = Home::new();
    for (line, words) in [
        (
            "x509-root root.key --certificate old.crt",
            "old.crt: its certificate expired at 2020-01-11T",
        ),
        (
            "x509-root root.key --certificate twice.crt",
            "can't be written as it stands there",
        ),
        (
            "x509-root root.key --certificate short.crt",
            "short.crt: its certificate allows no CA below it (pathlen:0)",
        ),
        (
            "x509-issuing issuing.key --certificate issuing.crt --root other.crt",
            "other.crt: its root did not issue the CA's certificate",
        ),
        (
            "x509-issuing issuing.key --certificate issuing.crt --root old.crt",
            "old.crt: its certificate expired",
        ),
    ] {
        import(&home, &folder, line).fails_with(65, words);
    }
}

#[test]
fn a_key_that_others_can_read_is_taken_with_a_warning() {
    let folder = Folder::new();
    let key = ed25519(&folder, "ca");
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let ran = import(&Home::new(), &folder, "ssh-user ca");
    assert_eq!(
        ran.err,
        "hallpass: warning: others can read ca: whoever did can sign with this key\n"
    );
    ran.ok();
}

#[test]
fn a_home_that_is_not_right_takes_no_key() {
    let folder = Folder::new();
    ed25519(&folder, "ca");
    let home = Home::new();
    folder.write("wrong", "another passphrase entirely\n");
    fs::set_permissions(folder.join("wrong"), PermissionsExt::from_mode(0o600)).unwrap();
    let at = |home: &Path, passphrase: &Path| {
        let arguments = ["key", "import", "ssh-user", "ca", "--home"];
        let mut command = program();
        command.args(arguments).arg(home).arg("--passphrase-file");
        Ran::of(command.arg(passphrase).current_dir(folder.path()))
    };
    let right = home.folder.join("passphrase");
    at(&home.path(), &folder.join("wrong")).fails_with(78, "the passphrase is wrong");
    at(&folder.join("none"), &right).fails_with(78, "there is no home at");
    assert!(!home.path().join("keys/ssh-user-2.age").exists());
    at(&home.path(), &right).ok();
}

#[test]
fn a_home_that_was_restored_starts_once_before_a_key_comes_in() {
    let folder = Folder::new();
    ed25519(&folder, "ca");
    let home = Home::new();
    let backup = folder.join("backup.tar.gz");
    let back_up = ["backup", text(&backup), "--home", text(&home.path())].map(str::to_owned);
    Ran::of(program().args(back_up)).ok();
    fs::remove_dir_all(home.path()).unwrap();
    let restore = ["restore", text(&backup), "--home", text(&home.path())].map(str::to_owned);
    Ran::of(program().args(restore)).ok();
    import(&home, &folder, "ssh-user ca").fails_with(78, "start the server once");
    let home = Ca::on(home).stop();
    import(&home, &folder, "ssh-user ca").ok();
}
