use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use ssh_key::{HashAlg, PrivateKey, PublicKey};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::openid::scripts;
use super::{Ca, Folder, Person, Provider, Ran, home_with, run, wait_until};

/// `hallpass` with these asks for what only on-call gets in an incident.
pub(crate) const PATIENTS: [&str; 6] = [
    "request",
    "patients-read",
    "--purpose",
    "incident",
    "--reason",
    "INC-4711",
];

/// How long a login may take. What it waits for at most is shorter.
const LONGEST: Duration = Duration::from_secs(90);

/// A CA where people sign in with that provider, as `clinic`.
pub(crate) fn clinic(provider: &Provider) -> Ca {
    Ca::on(home_with(&provider.table("clinic", "")))
}

/// Signs in in a real browser as that user; what `hallpass login` printed.
#[track_caller]
pub(crate) fn sign_in(person: &Person, user: &str, options: &[&str]) -> String {
    let browser = Browser::of(user);
    let said = Login::begin(person, &browser, options).ends().ok();
    assert!(browser.page().contains("Signed in"), "{}", browser.page());
    said
}

/// Does so where it is to come to nothing.
#[track_caller]
pub(crate) fn is_refused(ca: &Ca, person: &Person, user: &str, words: &str) {
    let before = ca.home.entries("session-begun").len();
    let browser = Browser::of(user);
    Login::begin(person, &browser, &[])
        .ends()
        .fails_with(77, words);
    assert!(
        browser.page().contains("Not signed in"),
        "{}",
        browser.page()
    );
    assert_eq!(ca.home.entries("session-begun").len(), before);
}

/// Between two times of the log.
pub(crate) fn seconds_between(begin: &Value, end: &Value) -> i64 {
    let seconds = |time: &Value| {
        let time = time.as_str().expect("as the log has it");
        OffsetDateTime::parse(time, &Rfc3339)
            .expect("as the log has it")
            .unix_timestamp()
    };
    seconds(end) - seconds(begin)
}

/// Of the key that signs, given the event that a session began with.
pub(crate) fn session_fingerprint(begun: &Value) -> String {
    let line = begun["public_key"].as_str().expect("as the log has it");
    let key = PublicKey::from_openssh(line).expect("as the log has it");
    key.fingerprint(HashAlg::Sha256).to_string()
}

impl Person {
    /// Somebody whom only a provider knows, connected. No key of theirs is enrolled.
    pub(crate) fn newcomer(ca: &Ca) -> Self {
        let person = Self::stranger();
        for name in ["key", "key.pub"] {
            fs::remove_file(person.folder.join(name)).expect("a key of ours");
        }
        person
            .hallpass(["connect", &ca.url, "--fingerprint", &ca.fingerprint])
            .ok();
        person
    }

    /// The private key of this person's session, as whoever reads their files has it.
    pub(crate) fn session_key(&self) -> PrivateKey {
        let (_, text) = self.session_key_file();
        PrivateKey::from_openssh(text).expect("an SSH key")
    }

    /// Its file and text.
    pub(crate) fn session_key_file(&self) -> (PathBuf, String) {
        let mut keys = self.session_files().into_iter().filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            text.contains("PRIVATE KEY").then_some((path, text))
        });
        let key = keys.next().expect("a private key of a session");
        assert!(keys.next().is_none(), "more than one private key");
        key
    }

    /// What this person's session has left in the runtime folder: certificates and their keys are
    /// elsewhere in there.
    pub(crate) fn session_files(&self) -> Vec<PathBuf> {
        let mut files = self.runtime_files();
        files.retain(|path| path.display().to_string().contains("/login-"));
        files
    }
}

/// A real browser, and who sits at it.
pub(crate) struct Browser {
    folder: Folder,
}

impl Browser {
    /// Somebody who signs in as that user, and agrees to everything.
    pub(crate) fn of(user: &str) -> Self {
        Self::with(user, "")
    }

    /// Somebody who signs in, and then refuses.
    pub(crate) fn refusing(user: &str) -> Self {
        Self::with(user, "OPENID_ANSWER=deny")
    }

    /// Somebody who signs in, and whose way back is taken by a thief.
    pub(crate) fn caught(user: &str) -> Self {
        Self::with(user, "OPENID_CATCH=1")
    }

    /// At a provider whose certificate the browser does not know.
    pub(crate) fn trusting(user: &str) -> Self {
        Self::with(user, "OPENID_INSECURE=1")
    }

    fn with(user: &str, environment: &str) -> Self {
        let folder = Folder::new();
        let program = scripts().join("browser.js");
        // Like xdg-open, it is done before its window is closed.
        let text = format!(
            "#!/bin/sh\n\
             cd '{}' || exit\n\
             {{\n\
                 OPENID_USER='{user}' OPENID_CODE=\"$2\" {environment} \
                 node '{}' \"$1\" >page 2>errors </dev/null &\n\
                 echo $! >pid\n\
                 wait $!\n\
                 echo $? >draft\n\
                 mv draft code\n\
             }} >/dev/null 2>&1 &\n",
            folder.path().display(),
            program.display(),
        );
        let script = folder.write("open", text);
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("our own file");
        Self { folder }
    }

    /// What BROWSER names.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("open")
    }

    /// Opens a page and, where it asks for one, types a code.
    pub(crate) fn open(&self, url: &str, code: &str) {
        let program = self.program();
        run(program.to_str().expect("a plain path"), [url, code]).ok();
    }

    /// The text of the page that came last.
    #[track_caller]
    pub(crate) fn page(&self) -> String {
        wait_until("the browser", || self.folder.join("code").exists());
        assert_eq!(self.read("code"), "0", "{}", self.read("errors"));
        self.read("page")
    }

    fn read(&self, name: &str) -> String {
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        text.trim().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let pid = self.read("pid").parse();
        if let (Ok(pid), false) = (pid, self.folder.join("code").exists()) {
            // SAFETY: the shell that would have waited for it has not: it is still that process.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            let start = Instant::now();
            while !self.folder.join("code").exists() && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the browser: {} {}",
                self.read("page"),
                self.read("errors")
            );
        }
    }
}

/// `hallpass login` under way.
pub(crate) struct Login {
    folder: Folder,
    process: Child,
}

impl Login {
    /// Opens that browser.
    pub(crate) fn begin(person: &Person, browser: &Browser, options: &[&str]) -> Self {
        Self::begin_with(person.command(), browser, options)
    }

    /// The same by a command that was made ready.
    pub(crate) fn begin_with(mut command: Command, browser: &Browser, options: &[&str]) -> Self {
        command.env("BROWSER", browser.program());
        Self::run(Folder::new(), command, options)
    }

    /// Opens a browser that is the test's own code: [`Self::url`] says what it was given.
    pub(crate) fn by_hand(person: &Person, options: &[&str]) -> Self {
        Self::by_hand_with(person.command(), options)
    }

    /// The same by a command that was made ready.
    pub(crate) fn by_hand_with(mut command: Command, options: &[&str]) -> Self {
        let folder = Folder::new();
        let text = format!(
            "#!/bin/sh\ncd '{}' && echo \"$1\" >draft && mv draft url\n",
            folder.path().display()
        );
        let script = folder.write("open", text);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our own file");
        command.env("BROWSER", script);
        Self::run(folder, command, options)
    }

    fn run(folder: Folder, mut command: Command, options: &[&str]) -> Self {
        // The tests themselves may be run over SSH, which would change how it logs in.
        for name in ["SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"] {
            if !command.get_envs().any(|(given, _)| given == name) {
                command.env_remove(name);
            }
        }
        let file = |name| fs::File::create(folder.join(name)).expect("a file of our own");
        let process = command
            .arg("login")
            .args(options)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("hallpass");
        Self { folder, process }
    }

    /// The URL that the browser was given.
    #[track_caller]
    pub(crate) fn url(&mut self) -> String {
        self.try_url()
            .unwrap_or_else(|| panic!("it opened no browser: {}", self.said()))
    }

    /// The same; nothing when it ended before.
    pub(crate) fn try_url(&mut self) -> Option<String> {
        let start = Instant::now();
        loop {
            // Looked at before the file, which may be written just before the end.
            let is_over = self.is_over();
            if let Ok(url) = fs::read_to_string(self.folder.join("url")) {
                return Some(url.trim().to_owned());
            }
            if is_over {
                return None;
            }
            assert!(
                start.elapsed() < LONGEST,
                "it opens no browser: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where a person without a browser is sent to, and the code to type there.
    #[track_caller]
    pub(crate) fn device(&mut self, provider: &Provider) -> (String, String) {
        let mut found = None;
        wait_until("a URL and a code", || {
            assert!(!self.is_over(), "it ended: {}", self.said());
            found = device_in(&self.said(), &provider.issuer);
            found.is_some()
        });
        found.expect("just found")
    }

    /// All that it has printed so far.
    pub(crate) fn said(&self) -> String {
        self.read("out") + &self.read("err")
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.process.try_wait().expect("our own child").is_some()
    }

    /// Waits until it ends.
    #[track_caller]
    pub(crate) fn ends(mut self) -> Ran {
        let start = Instant::now();
        while !self.is_over() {
            assert!(
                start.elapsed() < LONGEST,
                "it does not end: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.process.wait().expect("our own child");
        Ran {
            code: status.code().unwrap_or(-1),
            out: self.read("out"),
            err: self.read("err"),
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).expect("a file of our own")
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The URL below the issuer, and the code: as the providers make them, capitals with a hyphen or
/// eight hexadecimal digits, and no part of the URL.
fn device_in(said: &str, issuer: &str) -> Option<(String, String)> {
    let words = || {
        said.split_whitespace()
            .map(|word| word.trim_matches(['.', ',', ':', '"', '(', ')']))
    };
    let url = words().find(|word| word.starts_with(issuer))?;
    let is_code = |word: &&str| {
        let real = word.len() == 9
            && word.chars().enumerate().all(|(place, letter)| match place {
                4 => letter == '-',
                _ => letter.is_ascii_uppercase(),
            });
        real || (word.len() == 8 && word.chars().all(|digit| digit.is_ascii_hexdigit()))
    };
    let code = words().find(is_code)?;
    Some((url.to_owned(), code.to_owned()))
}

/// What a browser is answered for a URL. It follows no redirection.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) status: u16,
    /// Where it is sent on to.
    pub(crate) location: Option<String>,
    pub(crate) text: String,
}

/// Gets a URL; nothing when there is nobody.
pub(crate) fn visit(url: &str) -> Option<Visit> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let mut answer = agent.get(url).call().ok()?;
    let location = answer.headers().get("location");
    Some(Visit {
        status: answer.status().as_u16(),
        location: location.map(|location| location.to_str().expect("a URL").to_owned()),
        text: answer.body_mut().read_to_string().unwrap_or_default(),
    })
}

/// A parameter of a URL, as it stands there.
#[track_caller]
pub(crate) fn parameter(url: &str, name: &str) -> String {
    let (_, query) = url.split_once('?').expect("a query");
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {url}"))
        .to_owned()
}
