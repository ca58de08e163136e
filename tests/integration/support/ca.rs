use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use ssh_key::PrivateKey;

use super::{Folder, Ran, Request, exchange, run};

pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
const ADMIN: &str = "alice";

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hallpass"));
    for name in [
        "HALLPASS_HOME",
        "HALLPASS_CONFIG",
        "HALLPASS_IDENTITY",
        "HALLPASS_LISTEN",
        "HALLPASS_NAMES",
        "HALLPASS_LOG",
        "HALLPASS_LOG_FORMAT",
        "HALLPASS_PASSPHRASE_FILE",
        "HALLPASS_PIN_FILE",
        "HALLPASS_AGE_IDENTITY",
        "CREDENTIALS_DIRECTORY",
        "SSH_AUTH_SOCK",
        "SSH_ASKPASS",
    ] {
        command.env_remove(name);
    }
    command
}

/// A CA's home with the administrator's SSH key and the passphrase beside it.
pub(crate) struct Home {
    pub(crate) folder: Folder,
}

impl Home {
    /// Made by `hallpass init`; once, then copied.
    pub(crate) fn new() -> Self {
        static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
        let template = TEMPLATE.get_or_init(|| {
            let folder = std::env::temp_dir().join(format!("hallpass-{}", std::process::id()));
            fs::remove_dir_all(&folder).ok();
            fs::create_dir_all(&folder).expect("a temporary folder");
            let passphrase = folder.join("passphrase");
            fs::write(&passphrase, format!("{PASSPHRASE}\n")).expect("a file of our own");
            fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600))
                .expect("our own file");
            new_key(&folder.join("admin"), &["-t", "ed25519"]);
            Ran::of(&mut init(&folder)).ok();
            // SAFETY: the handler only runs a program.
            unsafe { libc::atexit(remove_template) };
            folder
        });
        let home = Self::empty();
        let (from, to) = (template.join("."), home.folder.path());
        run("cp", [OsStr::new("-a"), from.as_os_str(), to.as_os_str()]).ok();
        home
    }

    /// A folder for one.
    pub(crate) fn empty() -> Self {
        let folder = Folder::new();
        Self { folder }
    }

    /// A copy of this one, as a thief or a backup has it.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::empty();
        self.copy_to(&copy);
        copy
    }

    pub(crate) fn copy_to(&self, other: &Self) {
        let (from, to) = (self.folder.join("."), other.folder.path());
        run("cp", [OsStr::new("-a"), from.as_os_str(), to.as_os_str()]).ok();
    }

    /// With CA keys that no other home has.
    pub(crate) fn of_another_ca() -> Self {
        let home = Self::unmade();
        home.init(|_| {}).ok();
        home
    }

    /// A folder with all that `hallpass init` needs.
    pub(crate) fn unmade() -> Self {
        let home = Self::new();
        fs::remove_dir_all(home.path()).expect("a home of ours");
        home
    }

    /// Runs `hallpass init`.
    pub(crate) fn init(&self, adjust: impl FnOnce(&mut Command)) -> Ran {
        let mut command = init(self.folder.path());
        adjust(&mut command);
        Ran::of(&mut command)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("home")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path().join("hallpass.db")
    }

    pub(crate) fn policy(&self, name: &str) -> PathBuf {
        self.path().join("policies").join(name)
    }

    /// Puts text in place of other text of a policy file.
    pub(crate) fn edit_policy(&self, name: &str, from: &str, to: &str) {
        let path = self.policy(name);
        let text = fs::read_to_string(&path).expect("a policy file");
        assert!(text.contains(from), "{name} has no {from:?}");
        fs::write(path, text.replacen(from, to, 1)).expect("a policy file");
    }

    pub(crate) fn root_pem(&self) -> String {
        fs::read_to_string(self.path().join("keys/x509-root-1.pem")).expect("a root certificate")
    }

    fn serve(&self) -> Command {
        self.serve_at("127.0.0.1:0")
    }

    fn serve_at(&self, address: &str) -> Command {
        let mut serve = program();
        serve
            // `localhost` is the databases'.
            .env("HALLPASS_NAMES", "127.0.0.1")
            .args(["serve", "--listen", address, "--home"])
            .arg(self.path())
            .arg("--passphrase-file")
            .arg(self.folder.join("passphrase"));
        serve
    }

    /// All entries of the log, read beside the server.
    pub(crate) fn log(&self) -> Vec<Value> {
        let lines = self.lines();
        lines
            .iter()
            .map(|body| serde_json::from_str(body).expect("JSON"))
            .collect()
    }

    /// All entries as they are stored.
    pub(crate) fn lines(&self) -> Vec<String> {
        let database =
            Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY)
                .expect("the log");
        let mut rows = database
            .prepare("SELECT body FROM entries ORDER BY idx")
            .expect("the log's table");
        rows.query_map([], |row| row.get(0))
            .expect("the log's entries")
            .collect::<Result<_, _>>()
            .expect("an entry")
    }

    /// The entries of a kind.
    pub(crate) fn entries(&self, kind: &str) -> Vec<Value> {
        let mut entries = self.log();
        entries.retain(|entry| entry["event"]["kind"] == kind);
        entries
    }

    /// What happened last of a kind.
    #[track_caller]
    pub(crate) fn newest(&self, kind: &str) -> Value {
        let newest = self.entries(kind).pop();
        newest.unwrap_or_else(|| panic!("no {kind}"))["event"].take()
    }

    /// Why the newest request of somebody who was not identified was refused.
    #[track_caller]
    pub(crate) fn newest_code(&self) -> String {
        let refused = self.newest("unauthenticated-refused");
        let code = refused["refused"]["code"].as_str();
        code.expect("a code").to_owned()
    }
}

/// A home whose certificates for people live that long, and at most that long.
pub(crate) fn short_lived(default: &str, longest: &str) -> Home {
    let home = Home::new();
    let path = home.policy("roles.toml");
    let text = fs::read_to_string(&path).expect("the roles");
    let line = |line: &str| match line.split_once(" = ") {
        Some(("max_ttl", _)) => format!("max_ttl = \"{longest}\"\n"),
        Some(("default_ttl", _)) => format!("default_ttl = \"{default}\"\n"),
        _ => format!("{line}\n"),
    };
    fs::write(&path, text.lines().map(line).collect::<String>()).expect("the roles");
    home
}

fn init(folder: &Path) -> Command {
    let mut command = program();
    command
        .args(["init", "--admin", ADMIN, "--home"])
        .arg(folder.join("home"))
        .arg("--ssh-key")
        .arg(folder.join("admin.pub"))
        .arg("--passphrase-file")
        .arg(folder.join("passphrase"));
    command
}

extern "C" fn remove_template() {
    let folder = std::env::temp_dir().join(format!("hallpass-{}", std::process::id()));
    fs::remove_dir_all(folder).ok();
}

/// How `hallpass serve` ends on a home that is not right: its exit code and message.
pub(crate) fn serve_fails(home: &Home) -> (i32, String) {
    serve_fails_with(home, |_| {})
}

pub(crate) fn serve_fails_with(home: &Home, adjust: impl FnOnce(&mut Command)) -> (i32, String) {
    let mut serve = home.serve();
    adjust(serve.env("HALLPASS_LOG", "error"));
    serve.stdin(Stdio::null());
    serve.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = serve.spawn().expect("a process");
    let start = Instant::now();
    while process.try_wait().expect("a process of ours").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            process.kill().ok();
            let ran = process.wait_with_output().map(Ran::from);
            panic!("it serves: {ran:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = Ran::from(process.wait_with_output().expect("what it said"));
    (ran.code, ran.err.trim_end().to_owned())
}

/// A CA that serves.
pub(crate) struct Ca {
    pub(crate) home: Home,
    pub(crate) url: String,
    pub(crate) fingerprint: String,
    process: Child,
}

impl Ca {
    pub(crate) fn start() -> Self {
        Self::on(Home::new())
    }

    pub(crate) fn on(home: Home) -> Self {
        Self::with(home, |_| {})
    }

    pub(crate) fn with(home: Home, adjust: impl FnOnce(&mut Command)) -> Self {
        let serve = home.serve();
        Self::run(home, serve, adjust)
    }

    /// At the address where another server was.
    pub(crate) fn at(home: Home, address: &str) -> Self {
        let serve = home.serve_at(address);
        Self::run(home, serve, |_| {})
    }

    /// The status of `/readyz`, and what it says.
    pub(crate) fn readyz(&self) -> (u16, Value) {
        let request = b"GET /readyz HTTP/1.1\r\nHost: ca\r\nConnection: close\r\n\r\n";
        let answer = exchange(self, request).unwrap();
        (answer.status, answer.json())
    }

    fn run(home: Home, mut serve: Command, adjust: impl FnOnce(&mut Command)) -> Self {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(home.folder.join("serve.log"))
            .expect("a log file");
        serve
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        adjust(&mut serve);
        let mut process = serve.spawn().expect("hallpass");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut word = |before: &str| {
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            let log = || fs::read_to_string(home.folder.join("serve.log")).unwrap_or_default();
            line.strip_prefix(before)
                .unwrap_or_else(|| panic!("serve said {line:?}\n{}", log()))
                .to_owned()
        };
        let url = word("listening on ");
        let fingerprint = word("fingerprint ");
        Self {
            url,
            fingerprint,
            home,
            process,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("https://")
    }

    /// What the server itself has said.
    pub(crate) fn server_log(&self) -> String {
        fs::read_to_string(self.home.folder.join("serve.log")).expect("the server's log")
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        // SAFETY: our own child, not waited for yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for the end; the exit code, or none when it was killed.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.ended().code()
    }

    /// Waits for the end, and how it was.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.process.wait().expect("our own child")
    }

    /// Ends it and gives the home back.
    pub(crate) fn stop(mut self) -> Home {
        self.signal(libc::SIGTERM);
        assert_eq!(self.wait(), Some(0), "{}", self.server_log());
        self.into_home()
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(mut self) -> Home {
        self.signal(libc::SIGKILL);
        self.wait();
        self.into_home()
    }

    fn into_home(mut self) -> Home {
        std::mem::replace(
            &mut self.home,
            Home {
                folder: Folder::new(),
            },
        )
    }

    /// The first administrator, connected.
    pub(crate) fn admin(&self) -> Person {
        let folder = Folder::new();
        for name in ["key", "key.pub"] {
            let from = self.home.folder.join(name.replace("key", "admin"));
            fs::copy(from, folder.join(name)).expect("the administrator's key");
        }
        let person = Person::new(folder);
        person.connect(self);
        person
    }

    /// A newly enrolled person, connected.
    pub(crate) fn enrol(&self, name: &str, groups: &[&str]) -> Person {
        let person = Person::stranger();
        let mut arguments = vec!["user", "add", name, "--ssh-key"];
        let key = person.folder.join("key.pub");
        arguments.push(key.to_str().expect("a plain path"));
        arguments.extend(groups.iter().flat_map(|group| ["--group", group]));
        self.admin().hallpass(arguments).ok();
        person.connect(self);
        person
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.server_log());
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Somebody with an SSH key, a home folder and a runtime folder of their own.
pub(crate) struct Person {
    pub(crate) folder: Folder,
    pub(crate) key: PrivateKey,
}

impl Person {
    /// Somebody with a fresh key whom no CA knows.
    pub(crate) fn stranger() -> Self {
        let folder = Folder::new();
        new_key(&folder.join("key"), &["-t", "ed25519"]);
        Self::new(folder)
    }

    fn new(folder: Folder) -> Self {
        folder.private("runtime");
        let key = PrivateKey::read_openssh_file(&folder.join("key")).expect("an SSH key");
        Self { folder, key }
    }

    pub(crate) fn connect(&self, ca: &Ca) {
        self.connect_by(&ca.url, &ca.fingerprint);
    }

    fn connect_by(&self, url: &str, fingerprint: &str) {
        self.hallpass([
            "connect",
            url,
            "--fingerprint",
            fingerprint,
            "--ssh-key",
            self.folder.join("key").to_str().expect("a plain path"),
        ])
        .ok();
    }

    /// Connects anew, to the root that signs now.
    pub(crate) fn reconnect(&self, ca: &Ca, admin: &Self) {
        admin.reconnect_to(ca);
        let keys = admin.hallpass(["key", "list", "--json"]).ok();
        let root = keys
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .find(|key| {
                let id = key["key"].as_str().expect("an id");
                id.starts_with("x509-root-") && key["state"] == "active"
            })
            .expect("a root");
        self.connect_by(
            &ca.url,
            root["fingerprint"].as_str().expect("a fingerprint"),
        );
    }

    /// The administrator reads the fingerprint on the CA's machine.
    fn reconnect_to(&self, ca: &Ca) {
        let folder = ca.home.path().join("keys");
        let mut roots: Vec<PathBuf> = fs::read_dir(folder)
            .expect("keys")
            .flatten()
            .map(|file| file.path())
            .filter(|path| path.display().to_string().ends_with(".pem"))
            .filter(|path| path.display().to_string().contains("x509-root-"))
            .collect();
        roots.sort();
        let pem = fs::read_to_string(roots.pop().expect("a root")).expect("a certificate");
        let fingerprint = hallpass::certificate::fingerprint_of_pem(&pem).expect("a certificate");
        self.connect_by(&ca.url, &fingerprint);
    }

    /// `hallpass` in this person's account, without an ssh-agent.
    pub(crate) fn command(&self) -> Command {
        let mut command = program();
        command
            .env("HOME", self.folder.path())
            .env("HALLPASS_CONFIG", self.folder.join("config"))
            .env("XDG_RUNTIME_DIR", self.folder.join("runtime"))
            .current_dir(self.folder.path());
        command
    }

    /// Another program in this person's account.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, value) in self.command().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    pub(crate) fn hallpass<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        Ran::of(self.command().args(arguments))
    }

    /// Runs `hallpass request ... --json` and gives what it prints.
    #[track_caller]
    pub(crate) fn request(&self, line: &str) -> Value {
        let arguments = ["request"].into_iter().chain(line.split(' '));
        let text = self.hallpass(arguments.chain(["--json"])).ok();
        serde_json::from_str(&text).expect("JSON")
    }

    /// A request of the API, signed by this person.
    pub(crate) fn asks<'a>(&'a self, ca: &'a Ca, method: &str, target: &str) -> Request<'a> {
        Request::new(ca, &self.key, method, target)
    }

    /// As after a restart of this person's machine.
    pub(crate) fn forget_certificates(&self) {
        let runtime = self.folder.join("runtime");
        fs::remove_dir_all(&runtime).expect("a folder of ours");
        self.folder.private("runtime");
    }

    /// The same, but for whoever is signed in.
    pub(crate) fn forget_issued(&self) {
        let folders = fs::read_dir(self.folder.join("runtime/hallpass")).expect("a folder of ours");
        for folder in folders.flatten().map(|entry| entry.path()) {
            let name = folder.file_name().expect("a name").to_string_lossy();
            if folder.is_dir() && !name.starts_with("login-") {
                fs::remove_dir_all(folder).expect("a folder of ours");
            }
        }
    }

    /// The files in this person's runtime folder.
    pub(crate) fn runtime_files(&self) -> Vec<PathBuf> {
        let mut waiting = vec![self.folder.join("runtime")];
        let mut files = Vec::new();
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(folder).expect("a folder of ours").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files
    }
}

/// Makes a key pair without a passphrase.
pub(crate) fn new_key(path: &Path, kind: &[&str]) {
    let path = path.to_str().expect("a plain path");
    let rest = ["-q", "-N", "", "-C", "", "-f", path];
    run("ssh-keygen", kind.iter().chain(&rest)).ok();
}
