use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Folder, Home};

/// The secret of the real provider's client `hallpass-confidential`.
pub(crate) const CLIENT_SECRET: &str = "the-secret-of-the-confidential-client";

/// An OpenID provider on loopback that takes orders: tests/openid says which. It may end and begin
/// again, at the same address.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    program: &'static str,
    settings: Value,
    folder: Folder,
    running: Option<Running>,
}

struct Running {
    process: Child,
    /// Taken by whoever gives an order, until it is answered.
    orders: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Provider {
    /// The real one, with accounts alice and bob, both in the group on-call.
    pub(crate) fn start() -> Self {
        Self::run("provider.js", json!({}))
    }

    /// The same over TLS, as `localhost`, with that certificate and key.
    pub(crate) fn over_tls((certificate, key): &(PathBuf, PathBuf)) -> Self {
        Self::run(
            "provider.js",
            json!({"certificate": certificate, "key": key}),
        )
    }

    /// One that lies when it is told to. It takes everybody for bob, in the group on-call.
    pub(crate) fn liar() -> Self {
        Self::run("liar.js", json!({}))
    }

    fn run(program: &'static str, settings: Value) -> Self {
        let mut provider = Self {
            issuer: String::new(),
            program,
            settings,
            folder: Folder::new(),
            running: None,
        };
        provider.start_again();
        provider
    }

    pub(crate) fn start_again(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("a log file");
        let mut process = Command::new("node")
            .arg(scripts().join(self.program))
            .arg(self.settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("node; scripts/test installs it");
        let orders = process.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let begun = self.answer(&mut answers);
        self.issuer = text(&begun["issuer"]);
        let port = self
            .issuer
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        self.settings["port"] = port.map_or(Value::Null, |port: u16| port.into());
        self.running = Some(Running {
            process,
            orders: Mutex::new((orders, answers)),
        });
    }

    /// Ends it: nobody listens at its address.
    pub(crate) fn end(&mut self) {
        if let Some(Running { mut process, .. }) = self.running.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Gives it an order, and waits until it is carried out.
    pub(crate) fn tell(&self, order: &Value) -> Value {
        let running = self.running.as_ref().expect("a provider that runs");
        let mut orders = running
            .orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (input, answers) = &mut *orders;
        writeln!(input, "{order}").expect("a provider that reads");
        let answer = self.answer(answers);
        assert!(answer["error"].is_null(), "{order}: {answer}");
        answer
    }

    /// Makes or changes an account of the real provider's.
    pub(crate) fn account(&self, name: &str, mut change: Value) {
        change["account"] = name.into();
        self.tell(&change);
    }

    /// What the liar was asked so far at one of its endpoints.
    pub(crate) fn asked(&self, endpoint: &str) -> Vec<Value> {
        let asked = self.tell(&json!({"asked": true}));
        asked[endpoint]
            .as_array()
            .expect("an endpoint of its")
            .clone()
    }

    /// Its table in hallpass.toml under that name, with further lines.
    pub(crate) fn table(&self, name: &str, more: &str) -> String {
        self.table_for("hallpass", name, more)
    }

    /// The same for another of its clients.
    pub(crate) fn table_for(&self, client: &str, name: &str, more: &str) -> String {
        format!(
            "\n[[provider]]\nname = \"{name}\"\nissuer = \"{}\"\nclient_id = \"{client}\"\n{more}\n",
            self.issuer
        )
    }

    fn answer(&self, answers: &mut impl BufRead) -> Value {
        let mut line = String::new();
        answers.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{} said {line:?}\n{}", self.program, self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}'s log:\n{}", self.program, self.log());
        }
        self.end();
    }
}

/// Where the providers and the browser are, with what they need.
pub(super) fn scripts() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openid");
    assert!(
        folder.join("node_modules/.package-lock.json").is_file(),
        "tests/openid has no packages yet: run `npm --prefix tests/openid ci --ignore-scripts`; \
         scripts/test does"
    );
    folder
}

/// A home with that at the end of its hallpass.toml.
pub(crate) fn home_with(tables: &str) -> Home {
    let home = Home::new();
    let path = home.path().join("hallpass.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    fs::write(path, text + tables).expect("a configuration");
    home
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
