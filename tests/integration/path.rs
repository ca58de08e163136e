//! The whole path: a request, a certificate, a login with stock programs, the logs.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Ca, Postgres, Ran, Sshd, free_port, run, wait_until};

const SSH: [&str; 8] = [
    "ssh",
    "--role",
    "server-operator",
    "--purpose",
    "incident",
    "--reason",
    "ward 3 can't log in",
    "--",
];
const PSQL: [&str; 8] = [
    "psql",
    "--role",
    "patients-read",
    "--purpose",
    "incident",
    "--reason",
    "INC-4711",
    "--",
];

#[test]
fn ssh_logs_in_and_sshd_names_person_role_purpose_and_entry() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);

    let arguments = SSH.map(str::to_owned).into_iter().chain(sshd.target());
    let said = bob
        .hallpass(arguments.chain(["echo hello".to_owned()]))
        .ok();
    assert_eq!(said, "hello\n");

    let entry = ca.home.entries("certificate-issued").pop().unwrap();
    let (index, serial) = (&entry["index"], &entry["event"]["certificate"]["serial"]);
    let named = format!(
        "ID user=bob role=server-operator purpose=incident entry={index} (serial {}) CA ED25519",
        text(serial)
    );
    wait_until("sshd's log line", || sshd.log().contains(&named));

    // The whole of who, what, when and why.
    let event = &entry["event"];
    assert_eq!(event["by"]["requester"], "bob");
    assert_eq!(event["by"]["method"], "ssh-key");
    assert_eq!(event["by"]["source"], "127.0.0.1");
    assert_eq!(
        event["by"]["fingerprint"],
        bob.key
            .public_key()
            .fingerprint(ssh_key::HashAlg::Sha256)
            .to_string()
    );
    assert_eq!(event["request"]["role"], "server-operator");
    assert_eq!(event["request"]["purpose"], "incident");
    assert_eq!(event["request"]["reason"], "ward 3 can't log in");
    assert_eq!(event["request"]["ttl"], 900);
    assert_eq!(event["decision"]["policies"][0], "on-call-operates-servers");
    let loaded = ca.home.entries("policy-loaded").pop().unwrap();
    assert_eq!(
        event["decision"]["policy_set"],
        loaded["event"]["policy_set"]
    );
    let logged = text(&event["certificate"]["certificate"]);
    let file = bob.folder.write("logged-cert.pub", logged);
    let inspected = run("ssh-keygen", ["-L", "-f", file.to_str().unwrap()]).ok();
    assert!(inspected.contains("Key ID: \"user=bob role=server-operator purpose=incident"));
    assert!(
        inspected.contains("Principals: \n                operator\n"),
        "{inspected}"
    );
    assert!(
        inspected.contains("Critical Options: (none)"),
        "{inspected}"
    );
    assert!(
        inspected.contains(
            "Extensions: \n                permit-port-forwarding\n                permit-pty\n"
        ),
        "{inspected}"
    );

    // From one line of sshd's log, one look-up finds it, by either number.
    let admin = ca.admin();
    for number in [index.to_string(), text(serial)] {
        let shown = admin.hallpass(["audit", "show", &number, "--json"]).ok();
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), entry);
    }
}

#[test]
fn psql_logs_in_and_postgresql_names_person_role_purpose_and_entry() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let postgres = Postgres::start(&ca);

    let arguments = PSQL.map(str::to_owned).into_iter().chain(postgres.target());
    let query = "SELECT name, client_serial, client_dn, version FROM records, pg_stat_ssl \
                 WHERE pid = pg_backend_pid()";
    let said = bob
        .hallpass(arguments.chain(["-XAtc", query].map(str::to_owned)))
        .ok();
    let entry = ca.home.entries("certificate-issued").pop().unwrap();
    let serial = text(&entry["event"]["certificate"]["serial"]);
    let index = &entry["index"];
    // PostgreSQL keeps 63 bytes of the name.
    let name =
        format!("/description=purpose=incident entry={index}/role=patients-read/UID=bob/CN=");
    assert_eq!(said.trim(), format!("ward 3|{serial}|{:.63}|TLSv1.3", name));
    let named = format!(
        "identity=\"CN=patients_read,UID=bob,role=patients-read,description=purpose=incident \
         entry={index}\" method=cert"
    );
    wait_until("PostgreSQL's log line", || postgres.log().contains(&named));

    let admin = ca.admin();
    let shown = admin.hallpass(["audit", "show", &serial]).ok();
    assert!(shown.contains("INC-4711"), "{shown}");
    let listed = admin
        .hallpass(["audit", "list", "--serial", &serial, "--json"])
        .ok();
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap(), entry);
}

#[test]
fn ssh_and_psql_end_with_the_programs_own_code_and_signal() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    let postgres = Postgres::start(&ca);

    let ssh = |command: &str| {
        let arguments = SSH.map(str::to_owned).into_iter().chain(sshd.target());
        bob.hallpass(arguments.chain([command.to_owned()])).code
    };
    assert_eq!(ssh("exit 37"), 37);
    // ssh's own way of saying that the command over there died.
    assert_eq!(ssh("kill -KILL $$"), 255);
    let psql = PSQL.map(str::to_owned).into_iter().chain(postgres.target());
    let broken = ["-v", "ON_ERROR_STOP=1", "-f", "-"].map(str::to_owned);
    let mut child = bob
        .command()
        .args(psql.chain(broken))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"SELECT nothing;\n")
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));

    // A signal to the process that was started reaches ssh, since it is that process.
    let arguments = SSH.map(str::to_owned).into_iter().chain(sshd.target());
    let mut child = bob
        .command()
        .args(arguments.chain(["echo up; sleep 60".to_owned()]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: our own child, not waited for yet.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    assert_eq!(Ran::from(child.wait_with_output().unwrap()).code, 255);
}

#[test]
fn ssh_sees_the_terminal_it_was_started_on() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    let words: Vec<String> = SSH
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .into_iter()
        // What ssh runs on its own terminal once it is connected. On the other side, an sshd that
        // is not root's can give none.
        .chain(["-o", "PermitLocalCommand=yes", "-o"].map(str::to_owned))
        .chain(["'LocalCommand=tty; stty size'".to_owned()])
        .chain(sshd.target())
        .chain(["true".to_owned()])
        .collect();
    let line = format!(
        "stty rows 33 cols 77; {} {}",
        env!("CARGO_BIN_EXE_hallpass"),
        words.join(" ")
    );
    // script(1) gives it a terminal.
    let mut script = bob.program("script");
    let said = Ran::of(script.args(["-qec", &line, "/dev/null"])).ok();
    assert!(said.contains("/dev/pts/"), "{said}");
    assert!(said.contains("33 77"), "{said}");
}

#[test]
fn scp_sftp_rsync_and_forwarding_work_on_requested_files() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    let answer = bob.request("server-operator --purpose incident --reason=copy --out access");
    let known_hosts = format!("UserKnownHostsFile={}", text(&answer["known_hosts"]));
    let key = text(&answer["key"]);
    let options = [
        "-i",
        &key,
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        &known_hosts,
        "-o",
        "BatchMode=yes",
    ];
    let port = sshd.port.to_string();
    let place = |name: &str| sshd.folder.join(name).display().to_string();
    let host = format!("{}@127.0.0.1", sshd.account);
    let file = bob.folder.write("release.tar", "release 7");

    let to = format!("{host}:{}", place("by-scp"));
    let scp = options
        .into_iter()
        .chain(["-P", &port, file.to_str().unwrap(), &to]);
    run("scp", scp).ok();
    assert_eq!(fs::read_to_string(place("by-scp")).unwrap(), "release 7");

    let batch = bob.folder.write(
        "batch",
        format!("put {} {}\n", file.display(), place("by-sftp")),
    );
    let sftp = options
        .into_iter()
        .chain(["-P", &port, "-b", batch.to_str().unwrap(), &host]);
    run("sftp", sftp).ok();
    assert_eq!(fs::read_to_string(place("by-sftp")).unwrap(), "release 7");

    let ssh = format!("ssh {} -p {port}", options.join(" "));
    let to = format!("{host}:{}", place("by-rsync"));
    run("rsync", ["-a", "-e", &ssh, file.to_str().unwrap(), &to]).ok();
    assert_eq!(fs::read_to_string(place("by-rsync")).unwrap(), "release 7");

    // And rsync over `hallpass ssh` itself.
    let own = format!(
        "{} ssh --role server-operator --purpose incident --reason copy -- -p {port}",
        env!("CARGO_BIN_EXE_hallpass")
    );
    let to = format!("{host}:{}", place("by-hallpass"));
    let mut rsync = bob.program("rsync");
    Ran::of(rsync.args(["-a", "-e", &own, file.to_str().unwrap(), &to])).ok();
    assert_eq!(
        fs::read_to_string(place("by-hallpass")).unwrap(),
        "release 7"
    );

    // ssh -L to something that answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let behind = listener.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"through the tunnel").unwrap();
    });
    let local = free_port();
    let forward = format!("127.0.0.1:{local}:{behind}");
    let ssh = options.into_iter().chain([
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-L",
        &forward,
        "-p",
        &port,
        &host,
    ]);
    let mut tunnel = Command::new("ssh")
        .args(ssh)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut stream = None;
    wait_until("the tunnel", || {
        stream = TcpStream::connect(("127.0.0.1", local)).ok();
        stream.is_some()
    });
    let mut said = String::new();
    stream.unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "through the tunnel");
    tunnel.kill().unwrap();
    tunnel.wait().unwrap();
    answering.join().unwrap();
}

#[test]
fn a_role_without_the_extension_forwards_nothing() {
    let ca = Ca::start();
    let eve = ca.enrol("eve", &["deployers"]);
    let sshd = Sshd::start(&ca, &["deploy"]);
    let port = free_port();
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", sshd.port);
    let arguments = ["ssh", "--role", "deploy", "--purpose", "deploy", "--"].map(str::to_owned);
    let options = ["-o", "ExitOnForwardFailure=yes", "-L", &forward].map(str::to_owned);
    let mut tunnel = eve
        .command()
        .args(
            arguments
                .clone()
                .into_iter()
                .chain(options)
                .chain(sshd.target()),
        )
        .arg("sleep 60")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stream = None;
    wait_until("ssh to listen", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let mut said = String::new();
    // sshd closes the channel; its banner would have come through an open one.
    stream.unwrap().read_to_string(&mut said).ok();
    assert_eq!(said, "");
    tunnel.kill().unwrap();
    tunnel.wait().unwrap();

    let terminal = eve.hallpass(
        arguments
            .into_iter()
            .chain(["-tt".to_owned()])
            .chain(sshd.target())
            .chain(["tty".to_owned()]),
    );
    assert!(
        terminal.err.contains("PTY allocation request failed"),
        "{terminal:?}"
    );
}

#[test]
fn a_forced_command_is_the_only_one_that_runs() {
    let home = crate::support::Home::new();
    home.edit_policy(
        "roles.toml",
        "source_address = \"requester\"",
        "source_address = \"requester\"\nforce_command = \"echo only this\"",
    );
    let ca = Ca::on(home);
    let eve = ca.enrol("eve", &["deployers"]);
    let sshd = Sshd::start(&ca, &["deploy"]);
    let arguments = ["ssh", "--role", "deploy", "--purpose", "deploy", "--"].map(str::to_owned);
    let said = eve
        .hallpass(
            arguments
                .into_iter()
                .chain(sshd.target())
                .chain(["echo something else".to_owned()]),
        )
        .ok();
    assert_eq!(said, "only this\n");
}

#[test]
fn pg_dump_works_on_requested_files_as_the_words_say() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let postgres = Postgres::start(&ca);
    let words = bob
        .hallpass([
            "request",
            "patients-read",
            "--purpose",
            "incident",
            "--reason",
            "INC-1",
            "--out",
            "access",
        ])
        .ok();
    let line = words.lines().find(|line| line.contains("pg_dump")).unwrap();
    let line = line
        .trim()
        .replace("-h HOST DATABASE", &postgres.target().join(" "));
    let dumped = run("sh", ["-c", &line]).ok();
    assert!(dumped.contains("CREATE TABLE public.records"), "{dumped}");
    assert!(dumped.contains("ward 3"), "{dumped}");
}

#[test]
fn psql_verifies_the_server() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let postgres = Postgres::start(&ca);
    // Its certificate is for localhost, not for 127.0.0.1.
    let arguments = PSQL.map(str::to_owned).into_iter();
    let target = [
        "-h",
        "127.0.0.1",
        "-p",
        &postgres.port.to_string(),
        "patients",
        "-Xc",
        "SELECT 1",
    ]
    .map(str::to_owned);
    let refused = bob.hallpass(arguments.chain(target));
    assert_eq!(refused.code, 2);
    assert!(
        refused
            .err
            .contains("does not match host name \"127.0.0.1\""),
        "{refused:?}"
    );
}

#[test]
fn ssh_knows_the_host_by_its_certificate_alone() {
    let ca = Ca::start();
    let bob = ca.enrol("bob", &["on-call"]);
    let sshd = Sshd::start(&ca, &["operator"]);
    // Its certificate is for 127.0.0.1, not for localhost.
    let target = [
        "-o",
        "BatchMode=yes",
        "-p",
        &sshd.port.to_string(),
        "localhost",
        "true",
    ]
    .map(str::to_owned);
    let refused = bob.hallpass(SSH.map(str::to_owned).into_iter().chain(target));
    assert_eq!(refused.code, 255);
    assert!(
        refused.err.contains("Host key verification failed"),
        "{refused:?}"
    );
}

/// A JSON string's or number's text.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
