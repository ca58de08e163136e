use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Ca, Folder, P256, Person, Ran, free_port, is_root, make_csr, run, wait_until};

/// A stock PostgreSQL, set up as docs/hosts.md says, in a folder of its own.
pub(crate) struct Postgres {
    pub(crate) folder: Folder,
    pub(crate) port: u16,
    process: Child,
}

impl Postgres {
    /// As Debian sets it up, with nothing of Hallpass's but what pg_hba.conf needs.
    pub(crate) fn bare() -> Self {
        Self::run(initialised(), "")
    }

    /// With a database `patients` and the users of the starter roles.
    pub(crate) fn start(ca: &Ca) -> Self {
        let folder = initialised();
        let admin = ca.admin();
        make_csr(&folder, "server", &P256, &[]);
        certify(&folder, &admin);
        hand_over(&folder, "server.key");
        hand_over(&folder, "server.crt");
        folder.write("hallpass_root.pem", admin.hallpass(["trust", "x509"]).ok());
        hand_over(&folder, "hallpass_root.pem");

        Self::run(
            folder,
            "ssl = on\n\
             ssl_cert_file = 'server.crt'\n\
             ssl_key_file = 'server.key'\n\
             ssl_ca_file = 'hallpass_root.pem'\n\
             ssl_min_protocol_version = 'TLSv1.3'\n",
        )
    }

    fn run(folder: Folder, config: &str) -> Self {
        let data = folder.join("data");
        let port = free_port();
        append(
            &data.join("postgresql.conf"),
            &format!(
                "{config}\
                 log_connections = on\n\
                 # What the tests add: a port, a place, and no waiting for the disk.\n\
                 listen_addresses = '127.0.0.1'\n\
                 port = {port}\n\
                 unix_socket_directories = ''\n\
                 fsync = off\n"
            ),
        );
        let hba = "\
            hostssl patients patients_read 127.0.0.1/32 cert\n\
            hostssl patients maintenance 127.0.0.1/32 cert\n\
            hostnossl all owner 127.0.0.1/32 trust\n";
        fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");

        let postgres = Self {
            process: spawn(&folder),
            folder,
            port,
        };
        postgres.wait();
        postgres.owner("postgres", "CREATE DATABASE patients").ok();
        for statement in [
            "CREATE USER patients_read",
            "CREATE USER maintenance",
            "CREATE TABLE records (name text)",
            "INSERT INTO records VALUES ('ward 3')",
            "GRANT SELECT ON records TO patients_read",
        ] {
            postgres.owner("patients", statement).ok();
        }
        postgres
    }

    fn wait(&self) {
        wait_until("PostgreSQL", || {
            self.owner("postgres", "SELECT 1").code == 0
        });
    }

    /// Stops it as its service does.
    pub(crate) fn stop(&mut self) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(pid, libc::SIGINT) };
        self.process.wait().expect("its end");
    }

    /// Starts it again after [`stop`](Self::stop).
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(&self.folder);
        self.wait();
    }

    /// Has it trust those roots from now on.
    pub(crate) fn trust(&self, roots: &str) {
        self.folder.write("hallpass_root.pem", roots);
        hand_over(&self.folder, "hallpass_root.pem");
        self.reload();
    }

    /// Has it look at revocation lists from now on.
    pub(crate) fn revoke(&self, lists: &str) {
        self.folder.write("crl.pem", lists);
        hand_over(&self.folder, "crl.pem");
        append(
            &self.folder.join("data/postgresql.conf"),
            "ssl_crl_file = 'crl.pem'\n",
        );
        self.reload();
    }

    /// Gives it a new certificate.
    pub(crate) fn certify(&self, admin: &Person) {
        certify(&self.folder, admin);
        hand_over(&self.folder, "server.crt");
        self.reload();
    }

    fn reload(&self) {
        let before = self.log().matches("received SIGHUP").count();
        self.owner("postgres", "SELECT pg_reload_conf()").ok();
        wait_until("the reload", || {
            self.log().matches("received SIGHUP").count() > before
        });
    }

    /// What PostgreSQL has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("postgres.log")).expect("PostgreSQL's log")
    }

    /// Runs a statement as the owner of everything, without TLS.
    fn owner(&self, database: &str, statement: &str) -> Ran {
        let at = format!(
            "host=127.0.0.1 port={} user=owner dbname={database} sslmode=disable",
            self.port
        );
        run("psql", [&at, "-XAtqc", statement])
    }

    /// Runs a statement with exactly the given files.
    pub(crate) fn psql(&self, user: &str, certificate: &Path, key: &Path, root: &Path) -> Ran {
        let at = format!(
            "host=localhost port={} user={user} dbname=patients sslmode=verify-full \
             sslcert={} sslkey={} sslrootcert={}",
            self.port,
            certificate.display(),
            key.display(),
            root.display(),
        );
        run("psql", [&at, "-XAtqc", "SELECT name FROM records"])
    }

    /// `-h localhost -p PORT patients`
    pub(crate) fn target(&self) -> [String; 5] {
        ["-h", "localhost", "-p", &self.port.to_string(), "patients"].map(str::to_owned)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- PostgreSQL's log:\n{}", self.log());
        }
        let pid = i32::try_from(self.process.id()).expect("a pid");
        // SIGQUIT ends the whole family at once; nothing here needs saving.
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(pid, libc::SIGQUIT) };
        self.process.wait().ok();
    }
}

fn spawn(folder: &Folder) -> Child {
    let log = fs::File::create(folder.join("postgres.log")).expect("a log file");
    as_postgres(&program("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("postgres; scripts/test installs it")
}

fn certify(folder: &Folder, admin: &Person) {
    let request = folder.join("server.csr");
    let request = request.to_str().expect("a plain path");
    admin
        .hallpass(["host-cert", "tls", request, "--name", "localhost"])
        .ok();
}

/// Written by a root shell, then handed over.
fn hand_over(folder: &Folder, name: &str) {
    let to = folder.join("data").join(name);
    fs::copy(folder.join(name), &to).expect("a file of the data folder");
    if is_root() {
        run("chown", [OsStr::new("postgres"), to.as_os_str()]).ok();
    }
}

/// A folder with a data folder in it.
fn initialised() -> Folder {
    let folder = Folder::new();
    let data = folder.join("data");
    if is_root() {
        let path = folder.path().to_str().expect("a plain path");
        run("chown", ["postgres", path]).ok();
    }
    // C.UTF-8 is everywhere; --no-sync, since nothing here outlives the test.
    let initdb = [
        "--no-sync",
        "--auth=trust",
        "--username=owner",
        "--locale=C.UTF-8",
        "-D",
    ];
    Ran::of(as_postgres(&program("initdb")).args(initdb).arg(&data)).ok();
    folder
}

/// A program of Debian's newest installed PostgreSQL.
fn program(name: &str) -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL; scripts/test installs it");
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL; scripts/test installs it")
}

/// It refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program)
        // It looks around from where it is started.
        .current_dir("/");
    command
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).expect("a file of the data folder");
    fs::write(path, before + text).expect("a file of the data folder");
}
