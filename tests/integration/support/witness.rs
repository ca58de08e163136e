use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::raw::whole;
use super::{Answer, Folder, Home, PASSPHRASE, Ran, program, run};

/// The home of a witness, with the passphrase beside it.
pub(crate) struct WitnessHome {
    pub(crate) folder: Folder,
    pub(crate) key: String,
}

impl WitnessHome {
    /// Made by `hallpass witness init`, to follow these logs.
    pub(crate) fn new(name: &str, logs: &[&str]) -> Self {
        let folder = Folder::new();
        let passphrase = folder.write("passphrase", PASSPHRASE);
        run("chmod", ["600", passphrase.to_str().expect("a plain path")]).ok();
        let said = Self::init(&folder, name).ok();
        let mut lines = said.lines().map(str::trim);
        let key = lines.find(|line| line.starts_with(&format!("{name}+")));
        let home = Self {
            key: key.expect("the witness's key").to_owned(),
            folder,
        };
        home.follow(logs);
        home
    }

    pub(crate) fn init(folder: &Folder, name: &str) -> Ran {
        let mut init = program();
        init.args(["witness", "init", "--name", name, "--home"]);
        init.arg(folder.join("home")).arg("--passphrase-file");
        Ran::of(init.arg(folder.join("passphrase")))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Makes it follow these logs, from its next start on.
    pub(crate) fn follow(&self, logs: &[&str]) {
        let logs: Vec<String> = logs.iter().map(|log| format!("{log:?}")).collect();
        let text = format!("logs = [{}]\n", logs.join(", "));
        self.folder.write("home/witness.toml", text);
    }

    pub(crate) fn serve(&self, listen: &str) -> Command {
        let mut serve = program();
        serve.args(["witness", "serve", "--listen", listen, "--home"]);
        serve.arg(self.path()).arg("--passphrase-file");
        serve.arg(self.folder.join("passphrase"));
        serve
    }
}

/// A witness that serves.
pub(crate) struct Witness {
    pub(crate) home: WitnessHome,
    pub(crate) url: String,
    process: Child,
}

impl Witness {
    pub(crate) fn start(name: &str, logs: &[&str]) -> Self {
        Self::on(WitnessHome::new(name, logs))
    }

    pub(crate) fn on(home: WitnessHome) -> Self {
        Self::at(home, "127.0.0.1:0")
    }

    pub(crate) fn at(home: WitnessHome, listen: &str) -> Self {
        Self::with(home, listen, |_| {})
    }

    pub(crate) fn with(home: WitnessHome, listen: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut options = fs::OpenOptions::new();
        let log = options.create(true).append(true);
        let log = log.open(home.folder.join("serve.log")).expect("a log file");
        let mut serve = home.serve(listen);
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
                .unwrap_or_else(|| panic!("witness serve said {line:?}\n{}", log()))
                .to_owned()
        };
        let url = word("listening on ");
        assert_eq!(word("key "), home.key);
        Self { home, url, process }
    }

    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.folder.join("serve.log")).expect("the witness's log")
    }

    /// Ends it and gives the home back.
    pub(crate) fn stop(self) -> WitnessHome {
        self.end(libc::SIGTERM)
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(self) -> WitnessHome {
        self.end(libc::SIGKILL)
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        // SAFETY: our own child, not waited for yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn end(mut self, signal: i32) -> WitnessHome {
        self.signal(signal);
        let code = self.process.wait().expect("our own child").code();
        let expected = (signal == libc::SIGTERM).then_some(0);
        assert_eq!(code, expected, "{}", self.log());
        let nobody = WitnessHome {
            folder: Folder::new(),
            key: String::new(),
        };
        std::mem::replace(&mut self.home, nobody)
    }

    /// Sends a body to `add-checkpoint`.
    pub(crate) fn add(&self, body: impl AsRef<[u8]>) -> Answer {
        self.try_add(body).expect("an answer")
    }

    pub(crate) fn try_add(&self, body: impl AsRef<[u8]>) -> std::io::Result<Answer> {
        let body = body.as_ref();
        let head = format!(
            "POST /add-checkpoint HTTP/1.1\r\nHost: witness\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange(&[head.as_bytes(), body].concat())
    }

    /// Sends bytes and reads one answer.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let sent = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => answer.extend(&piece[..length]),
                Err(error) => return Err(sent.err().unwrap_or(error)),
            }
            if let Some(answer) = whole(&answer) {
                return Ok(answer);
            }
        }
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the witness's log:\n{}", self.log());
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Home {
    /// The line that `hallpass audit key` prints.
    pub(crate) fn log_key(&self) -> String {
        let key = fs::read_to_string(self.path().join("keys/log-1.vkey")).expect("the log's key");
        key.trim().to_owned()
    }

    /// Has the CA ask a witness, from its next start on.
    pub(crate) fn ask(&self, url: &str, key: &str) {
        let path = self.path().join("hallpass.toml");
        let text = fs::read_to_string(&path).expect("a configuration");
        let witness = format!("{text}\n[[witness]]\nurl = {url:?}\nkey = {key:?}\n");
        fs::write(path, witness).expect("a configuration");
    }
}
