//! An issuing CA under a root whose key is on another machine.

use std::fs;

use crate::support::{Ca, Folder, Home, Person, Postgres, Ran, program};

const ISSUING: &str =
    "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";

fn openssl(folder: &Folder, line: &str) {
    let mut openssl = std::process::Command::new("openssl");
    let ran = Ran::of(openssl.args(line.split(' ')).current_dir(folder.path()));
    ran.ok();
}

/// The machine with the root: `root.key` and `root.crt`.
fn root_machine() -> Folder {
    let folder = Folder::new();
    openssl(
        &folder,
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key",
    );
    openssl(
        &folder,
        "req -x509 -new -key root.key -days 3650 -subj /CN=Ward-Root -out root.crt \
         -addext keyUsage=critical,keyCertSign,cRLSign",
    );
    folder
}

/// Answers a request there with a certificate `NAME.crt`.
fn answer(folder: &Folder, request: &str, name: &str, life: &str, extensions: &str) {
    folder.write("request.csr", request);
    folder.write("extensions", extensions);
    openssl(
        folder,
        &format!(
            "x509 -req -in request.csr -CA root.crt -CAkey root.key -CAcreateserial -days {life} \
             -extfile extensions -out {name}.crt"
        ),
    );
}

/// `hallpass key ...` on the CA's machine, with files of another folder.
fn key(home: &Home, folder: &Folder, line: &str) -> Ran {
    let mut command = program();
    let mut words = line.split(' ');
    command
        .args(["key", words.next().unwrap(), "--home"])
        .arg(home.path())
        .arg("--passphrase-file")
        .arg(home.folder.join("passphrase"))
        .args(words.map(|word| word.replace('_', " ")))
        .current_dir(folder.path());
    Ran::of(&mut command)
}

fn select(person: &Person, postgres: &Postgres) -> Ran {
    let ask = "psql --role patients-read --purpose incident --reason INC-1 --";
    let arguments = ask.split(' ').map(str::to_owned).chain(postgres.target());
    let query = ["-XAtqc", "SELECT name FROM records"].map(str::to_owned);
    person.hallpass(arguments.chain(query))
}

fn states(admin: &Person) -> String {
    let out = admin.hallpass(["key", "list"]).ok();
    let lines = out.lines().filter(|line| line.starts_with("x509-"));
    let words = lines.map(|line| {
        line.split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    });
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn an_issuing_ca_is_requested_and_installed_under_a_root_elsewhere() {
    let ca = Ca::start();
    let address = ca.address().to_owned();
    let root = root_machine();
    let (admin, bob) = (ca.admin(), ca.enrol("bob", &["on-call"]));
    let postgres = Postgres::start(&ca);
    // The server may work meanwhile.
    let request = key(&ca.home, &root, "csr x509-issuing").ok();
    assert!(
        request.starts_with("-----BEGIN CERTIFICATE REQUEST-----"),
        "{request}"
    );
    let again = key(&ca.home, &root, "csr x509-issuing --out again.csr");
    again.ok();
    assert_eq!(fs::read_to_string(root.join("again.csr")).unwrap(), request);
    assert_eq!(states(&admin), "x509-root-1 active, x509-issuing-1 active");
    let sealed = fs::read(ca.home.path().join("keys/x509-issuing-request.age")).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1"));

    answer(&root, &request, "issuing", "100", ISSUING);
    key(
        &ca.home,
        &root,
        "install x509-issuing issuing.crt --root root.crt",
    )
    .fails_with(78, "stop the server first");
    let home = ca.stop();
    key(&home, &root, "install x509-issuing issuing.crt").fails_with(
        65,
        "which is no trusted root of this home: give that root's certificate",
    );
    let installed = key(
        &home,
        &root,
        "install x509-issuing issuing.crt --root root.crt",
    )
    .ok();
    assert!(
        installed.starts_with("Installed as x509-issuing-2, staged: SHA256:")
            && installed.contains("Its root is x509-root-2 here, without its private key.")
            && installed.contains("hallpass key activate x509-root-2"),
        "{installed}"
    );
    key(
        &home,
        &root,
        "install x509-issuing issuing.crt --root root.crt",
    )
    .fails_with(65, "no request for a certificate waits");
    let ca = Ca::at(home, &address);
    assert_eq!(
        states(&admin),
        "x509-root-1 active, x509-root-2 staged, x509-issuing-1 active, x509-issuing-2 staged"
    );
    admin
        .hallpass(["key", "activate", "x509-root-2", "--force", "x"])
        .ok();
    postgres.trust(&admin.hallpass(["trust", "x509"]).ok());
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");
    let certificate = ca.home.entries("certificate-issued").pop().unwrap();
    let signer = &certificate["event"]["certificate"]["ca"];
    let of = |file: &str| {
        let pem = fs::read_to_string(root.join(file)).unwrap();
        hallpass::certificate::fingerprint_of_pem(&pem).unwrap()
    };
    assert_eq!(*signer, of("issuing.crt"));

    // The next one stands under the same root, which is trusted by now.
    admin
        .hallpass(["key", "rotate", "x509-issuing"])
        .fails_with(65, "`hallpass key csr x509-issuing` requests it");
    let home = ca.stop();
    let request = key(&home, &root, "csr x509-issuing").ok();
    answer(&root, &request, "next", "100", ISSUING);
    let line = "install x509-issuing next.crt --activate --reason the_next --json";
    let installed: serde_json::Value = serde_json::from_str(&key(&home, &root, line).ok()).unwrap();
    assert_eq!(installed["key"], "x509-issuing-3");
    assert_eq!(installed["state"], "active");
    let ca = Ca::at(home, &address);
    bob.forget_certificates();
    assert_eq!(select(&bob, &postgres).ok(), "ward 3\n");
    let path = ca.home.path().display().to_string();
    let verified = ["audit", "verify", "--home", &path];
    admin.hallpass(verified).ok();
}

#[test]
fn what_does_not_answer_the_request_is_named_and_the_request_still_waits() {
    let home = Home::new();
    let root = root_machine();
    let (other_root, other_home) = (root_machine(), Home::of_another_ca());
    let request = key(&home, &root, "csr x509-issuing").ok();
    let another = key(&other_home, &root, "csr x509-issuing").ok();
    answer(&root, &another, "another", "100", ISSUING);
    answer(&other_root, &request, "elsewhere", "100", ISSUING);
    fs::copy(other_root.join("elsewhere.crt"), root.join("elsewhere.crt")).unwrap();
    answer(
        &root,
        &request,
        "leaf",
        "100",
        "basicConstraints=CA:FALSE\n",
    );
    answer(
        &root,
        &request,
        "idle",
        "100",
        "basicConstraints=critical,CA:TRUE\n",
    );
    answer(
        &root,
        &request,
        "client",
        "100",
        &format!("{ISSUING}extendedKeyUsage=clientAuth\n"),
    );
    root.write("extensions", ISSUING);
    let old = std::process::Command::new("faketime")
        .args([
            "2020-01-01",
            "openssl",
            "x509",
            "-req",
            "-in",
            "request.csr",
        ])
        .args("-CA root.crt -CAkey root.key -CAcreateserial -days 10".split(' '))
        .args(["-extfile", "extensions", "-out", "old.crt"])
        .current_dir(root.path())
        .status();
    assert!(old.unwrap().success());
    answer(&root, &request, "good", "100", ISSUING);
    let good = fs::read_to_string(root.join("good.crt")).unwrap();
    root.write("cut.crt", &good[..good.len() / 2]);
    let mut lines: Vec<&str> = good.lines().collect();
    lines.remove(3);
    root.write("torn.crt", lines.join("\n"));
    root.write("empty.crt", "");

    key(&home, &root, "csr ssh-user").fails_with(65, "only x509-issuing is requested");
    let entries = home.log().len();
    for (file, words) in [
        ("another.crt", "no certificate in it belongs to the key"),
        (
            "elsewhere.crt",
            "its root did not issue the CA's certificate",
        ),
        ("leaf.crt", "its certificate is not a CA's"),
        ("idle.crt", "its key usage lacks keyCertSign"),
        ("client.crt", "its extended key usage is limited"),
        ("old.crt", "its certificate expired at 2020-01-11T"),
        ("cut.crt", "it holds no certificate in PEM"),
        ("torn.crt", "its certificate is damaged"),
        ("empty.crt", "it holds no certificate in PEM"),
        ("root.crt", "no certificate in it belongs to the key"),
    ] {
        let line = format!("install x509-issuing {file} --root root.crt");
        let ran = key(&home, &root, &line);
        assert!(ran.err.contains(words), "{file}: {ran:?}");
        assert_eq!(ran.code, 65, "{file}: {ran:?}");
        assert_eq!(home.log().len(), entries, "{file}");
    }
    // A new request makes the answer to the one before worthless.
    let kept = home.copy();
    let anew = key(&kept, &root, "csr x509-issuing --anew").ok();
    assert_ne!(anew, request);
    key(
        &kept,
        &root,
        "install x509-issuing good.crt --root root.crt",
    )
    .fails_with(65, "no certificate in it belongs to the key");
    // A rotation in between takes nothing away from it.
    let ca = Ca::on(home);
    let admin = ca.admin();
    admin.hallpass(["key", "rotate", "x509-issuing"]).ok();
    let home = ca.stop();
    key(
        &home,
        &root,
        "install x509-issuing good.crt --root root.crt",
    )
    .fails_with(65, "key x509-issuing-2 is staged already");
    let ca = Ca::on(home);
    ca.admin()
        .hallpass(["key", "cancel", "x509-issuing-2"])
        .ok();
    let home = ca.stop();
    let backup = home.copy();
    key(
        &home,
        &root,
        "install x509-issuing good.crt --root root.crt",
    )
    .ok();
    // As after a stop before the request was let go.
    for ending in ["age", "csr"] {
        let name = format!("keys/x509-issuing-request.{ending}");
        fs::copy(backup.path().join(&name), home.path().join(&name)).unwrap();
    }
    key(
        &home,
        &root,
        "install x509-issuing good.crt --root root.crt",
    )
    .fails_with(65, "this key is here already: it is x509-issuing-3, staged");
    drop(Ca::on(home));
}

#[test]
fn a_ca_that_may_sign_no_lists_is_taken_with_a_warning() {
    let home = Home::new();
    let root = root_machine();
    let request = key(&home, &root, "csr x509-issuing").ok();
    let usage = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n";
    answer(&root, &request, "issuing", "100", usage);
    let warned = key(
        &home,
        &root,
        "install x509-issuing issuing.crt --root root.crt",
    );
    assert!(
        warned.err.contains(
            "x509-issuing-2 lacks the key usage cRLSign: `hallpass key crl` will not work"
        ),
        "{warned:?}"
    );
    warned.ok();
    // An import is warned of as well, and the warning is true.
    let home = Home::new();
    openssl(
        &root,
        "req -x509 -new -key root.key -days 10 -subj /CN=No-Lists -out lists.crt \
         -addext keyUsage=critical,keyCertSign",
    );
    let warned = key(
        &home,
        &root,
        "import x509-root root.key --certificate lists.crt --activate --reason x",
    );
    assert!(
        warned
            .err
            .contains("x509-root-2 lacks the key usage cRLSign"),
        "{warned:?}"
    );
    warned.ok();
    let ca = Ca::on(home);
    let lists = ca.admin().hallpass(["key", "crl"]);
    assert_eq!(lists.code, 65, "{lists:?}");
    assert!(
        lists
            .err
            .contains("x509-root-2 can't sign a list of revoked certificates"),
        "{lists:?}"
    );
}
