//! Every command in docs/rotation.md, in its order, on a real CA with real hosts.
//!
//! In an indented block, a line `WHO$ COMMAND` or `WHO# COMMAND` is a command, and the lines below it
//! are among what it prints; when the first of them begins with `hallpass: `, it fails. Times and
//! bundle versions may be others. A shell runs the commands, with `hallpass` first in its path.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use age::secrecy::ExposeSecret;
use regex::Regex;
use serde_json::Value;

use crate::support::{Ca, Home, Host, Person, Ran, Witness, program, short_lived, wait_until};

const PAGE: &str = include_str!("../../docs/rotation.md");
const URL: &str = "https://ca.example.org:8443";
const HOME: &str = "/var/lib/hallpass";
const BACKUPS: &str = "/mnt/backup";
const SAFE: &str = "/media/safe/";
/// How long certificates live, so that nobody waits long for the last of them.
const LIFE: &str = "8s";

#[test]
fn every_command_of_the_runbook_does_what_it_says() {
    let steps = steps(PAGE);
    assert!(steps.len() > 80, "{} commands", steps.len());
    let mut world = World::new();
    for step in &steps {
        let ran = world.run(step);
        let said = format!("{}{}", ran.out, ran.err);
        let fails = step
            .prints
            .first()
            .is_some_and(|line| line.starts_with("hallpass: "));
        assert_eq!(ran.code != 0, fails, "{}: {ran:?}", step.line);
        let said = plain(&said.replace(&world.url, URL));
        for line in step.prints.iter().filter(|line| !line.ends_with("...")) {
            assert!(
                said.contains(&plain(line)),
                "{}: {line:?} is not in\n{said}",
                step.line
            );
        }
    }
}

/// A command, and lines that it prints.
struct Step<'a> {
    /// Whether the page shows a policy before it.
    follows_policy: bool,
    who: &'a str,
    line: &'a str,
    prints: Vec<&'a str>,
}

fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let (mut is_output, mut follows_policy) = (false, false);
    for line in page.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            is_output = false;
            // A command elsewhere would go unnoticed.
            let is_block = line.starts_with("```") || line.starts_with('\t');
            assert!(!is_block, "indent by four spaces: {line:?}");
            continue;
        };
        let command = line.split_once("$ ").or_else(|| line.split_once("# "));
        let command = command.filter(|(who, _)| !who.contains(' '));
        match (command, steps.last_mut()) {
            (Some((who, line)), _) => {
                steps.push(Step {
                    follows_policy: std::mem::take(&mut follows_policy),
                    who,
                    line,
                    prints: Vec::new(),
                });
                is_output = true;
            }
            (None, Some(step)) if is_output => step.prints.push(line),
            _ => {
                assert!(!line.contains("hallpass "), "who runs {line:?}?");
                follows_policy |= line.starts_with("permit");
            }
        }
    }
    steps
}

/// Text without what differs each time.
fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    for (what, instead) in [
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\d+, (not )?the newest", "N, ${1}the newest"),
        (r"[ \n]+", " "),
    ] {
        let what = Regex::new(what).unwrap();
        text = what.replace_all(&text, instead).into_owned();
    }
    text
}

/// The machines and people of the page.
struct World {
    /// None while it is stopped.
    ca: Option<Ca>,
    home: Option<Home>,
    url: String,
    folder: PathBuf,
    alice: Person,
    /// Her key's file, which she loses.
    key: &'static str,
    bob: Person,
    carol: Person,
    hosts: [Host; 2],
    /// None while it is told something.
    witness: Option<Witness>,
    /// What the last invitation printed.
    token: String,
    /// Whom the keys are sealed to as well.
    vault: String,
}

impl World {
    fn new() -> Self {
        let home = short_lived(LIFE, LIFE);
        let witness = Witness::start("witness.example.org", &[&home.log_key()]);
        home.ask(&witness.url, &witness.home.key);
        let ca = Ca::on(home);
        let alice = ca.admin();
        let bob = ca.enrol("bob", &["administrators"]);
        let carol = ca.enrol("carol", &["on-call"]);
        let hosts = [Host::with_sshd("app-1"), Host::with_postgres("db-1")];
        for host in &hosts {
            host.take_in(&ca, &["--ttl", LIFE]);
        }
        let folder = ca.home.folder.path().to_owned();
        let copy = |from: PathBuf, to: PathBuf| fs::copy(from, to).unwrap();
        let (new, dora) = (Person::stranger(), Person::stranger());
        copy(new.folder.join("key"), alice.folder.join("key-new"));
        copy(new.folder.join("key.pub"), bob.folder.join("alice-new.pub"));
        copy(dora.folder.join("key.pub"), carol.folder.join("dora.pub"));
        copy(alice.folder.join("key.pub"), folder.join("alice.pub"));
        copy(folder.join("passphrase"), folder.join("new-passphrase"));
        let vault = age::x25519::Identity::generate();
        let safe = ca.home.folder.private("safe").join("vault.txt");
        fs::write(&safe, vault.to_string().expose_secret()).unwrap();
        fs::set_permissions(safe, Permissions::from_mode(0o600)).unwrap();
        Self {
            url: ca.url.clone(),
            ca: Some(ca),
            home: None,
            folder,
            alice,
            key: "key",
            bob,
            carol,
            hosts,
            witness: Some(witness),
            token: String::new(),
            vault: vault.to_public().to_string(),
        }
    }

    fn run(&mut self, step: &Step<'_>) -> Ran {
        let line = self.filled_in(step.line);
        match (
            step.who,
            step.line.split(' ').collect::<Vec<_>>()[..].as_ref(),
        ) {
            ("ca", ["systemctl", verb, "hallpass"]) => {
                if step.follows_policy {
                    self.put_policy();
                }
                self.systemctl(verb);
                Ran::of(&mut Command::new("true"))
            }
            ("witness", ["systemctl", "restart", "hallpass-witness"]) => {
                self.tell_witness();
                Ran::of(&mut Command::new("true"))
            }
            ("root", ["openssl" | "printf", ..]) => {
                Ran::of(shell(Command::new("sh"), &line).current_dir(&self.folder))
            }
            ("ca", [verb, ..]) => {
                if step.line.starts_with("hallpass restore ") {
                    self.lose_machine();
                }
                assert!(
                    ["hallpass", "cat", "cp", "mv", "rm"].contains(verb),
                    "{line}"
                );
                let mut command = shell(Command::new("sh"), &line);
                command
                    .env("HALLPASS_HOME", self.folder.join("home"))
                    .env("HALLPASS_PASSPHRASE_FILE", self.folder.join("passphrase"))
                    .env("HALLPASS_CONFIG", self.folder.join("no-config"))
                    .current_dir(&self.folder);
                Ran::of(&mut command)
            }
            ("app-1" | "db-1", ["hallpass", "host", "join", ..]) => {
                let host = self.host(step.who);
                host.join(self.ca.as_ref().unwrap(), &self.token)
            }
            ("app-1" | "db-1", ["hallpass", "host", ..]) => {
                let host = self.host(step.who);
                let mut command = shell(Command::new("sh"), &line);
                command
                    .env("HALLPASS_HOST_STATE", host.folder.join("state"))
                    .env("HOME", host.folder.path());
                Ran::of(&mut command)
            }
            ("alice" | "bob" | "carol", ["hallpass", ..]) => self.person(step, &line),
            _ => panic!("{}: who or what is {:?}?", step.who, step.line),
        }
    }

    fn person(&mut self, step: &Step<'_>, line: &str) -> Ran {
        let person = match step.who {
            "alice" => &self.alice,
            "bob" => &self.bob,
            _ => &self.carol,
        };
        let words: Vec<&str> = step.line.split(' ').collect();
        let refused = step
            .prints
            .first()
            .is_some_and(|line| line.starts_with("hallpass: "));
        let mut watching = Vec::new();
        match words[1..] {
            ["key", verb @ ("activate" | "retire"), id, ..] => {
                if verb == "activate" && !refused {
                    // Somebody holds a certificate by the key before.
                    for ask in [
                        "server-operator --purpose incident --reason x",
                        "patients-read --purpose incident --reason INC-1",
                    ] {
                        let ran = self
                            .carol
                            .hallpass(["request"].into_iter().chain(ask.split(' ')));
                        // Nobody enrolled her with the CA that was made anew.
                        assert!([0, 77].contains(&ran.code), "{ran:?}");
                    }
                }
                if !refused && !words.contains(&"--force") {
                    wait_until(step.line, || !waits(person, id));
                }
            }
            // Years later: she has connected since, or asked for a certificate.
            ["key", "rotate", "x509-root"] => self.connect_alice(),
            // As their timers do.
            ["key", "rotate", .., "--follow"] => {
                watching.extend(self.hosts.iter().map(Host::watch));
            }
            _ => {}
        }
        let mut command = shell(person.program("sh"), line);
        let ran = Ran::of(command.current_dir(person.folder.path()));
        drop(watching);
        match words[1..] {
            ["host", "invite", ..] => {
                let token = ran.out.trim_end().lines().last();
                self.token = token.unwrap_or_default().to_owned();
            }
            // So do all others.
            ["connect", ..] => {
                for other in [&self.bob, &self.carol] {
                    let key = other.folder.join("key").display().to_string();
                    let fingerprint = self.fingerprint();
                    let arguments = ["connect", &self.url, "--fingerprint", &fingerprint];
                    let arguments = arguments.into_iter().chain(["--ssh-key", &key]);
                    other.hallpass(arguments).ok();
                }
            }
            ["user", "key", "remove", "alice", ..] => {
                self.key = "key-new";
                self.connect_alice();
            }
            _ => {}
        }
        ran
    }

    /// The command with what is true here.
    fn filled_in(&self, line: &str) -> String {
        let home = self.folder.join("home").display().to_string();
        let folder = self.folder.display().to_string();
        let mut line = line
            .replace(URL, &self.url)
            .replace(HOME, &home)
            .replace(BACKUPS, &folder)
            .replace(SAFE, &format!("{folder}/safe/"))
            .replace("/run/new-passphrase", &format!("{folder}/new-passphrase"))
            .replace("age1...", &self.vault)
            .replace("app-1.example.org", "127.0.0.1")
            .replace("db-1.example.org", "localhost");
        if line.starts_with("hallpass host invite ") {
            line += &format!(" --ttl {LIFE}");
        }
        if line.starts_with("hallpass connect ") {
            let key = self.alice.folder.join(self.key);
            line += &format!(" --ssh-key {}", key.display());
        }
        let fingerprint = if line.contains(" key remove alice ") {
            let public = self.alice.key.public_key();
            public.fingerprint(ssh_key::HashAlg::Sha256).to_string()
        } else {
            self.fingerprint()
        };
        line.replace("SHA256:...", &fingerprint).replace(
            "--log-key hallpass/...",
            &format!("--log-key {}", self.log_key()),
        )
    }

    /// What people pin: the newest root's.
    fn fingerprint(&self) -> String {
        let keys = self.folder.join("home/keys");
        let root = (1..)
            .map(|number| keys.join(format!("x509-root-{number}.pem")))
            .take_while(|path| path.exists())
            .last();
        let Some(root) = root else {
            return String::new();
        };
        let out = Ran::of(program().arg("inspect").arg(root)).ok();
        let line = out.lines().find(|line| line.starts_with("fingerprint"));
        let (_, fingerprint) = line.unwrap().rsplit_once(' ').unwrap();
        fingerprint.to_owned()
    }

    /// The newest key of the log, as it lies on the CA's machine.
    fn log_key(&self) -> String {
        let keys = self.folder.join("home/keys");
        let key = (1..)
            .map(|number| keys.join(format!("log-{number}.vkey")))
            .take_while(|path| path.exists())
            .last();
        let key = key.map(|path| fs::read_to_string(path).unwrap());
        key.unwrap_or_default().trim().to_owned()
    }

    fn connect_alice(&self) {
        let key = self.alice.folder.join(self.key).display().to_string();
        let fingerprint = self.fingerprint();
        let arguments = ["connect", &self.url, "--fingerprint", &fingerprint];
        let arguments = arguments.into_iter().chain(["--ssh-key", &key]);
        self.alice.hallpass(arguments).ok();
    }

    fn systemctl(&mut self, verb: &str) {
        if verb != "start" {
            self.home = self.ca.take().map(Ca::stop);
        }
        if verb != "stop" {
            let address = self.url.trim_start_matches("https://").to_owned();
            self.ca = self.home.take().map(|home| Ca::at(home, &address));
        }
    }

    fn policy(&self) -> PathBuf {
        self.folder.join("home/policies/recovery.cedar")
    }

    /// Its operator lists the keys that the log has, and starts it again.
    fn tell_witness(&mut self) {
        let keys = self.alice.hallpass(["key", "export-public", "log"]).ok();
        let witness = self.witness.take().unwrap();
        let address = witness.address().to_owned();
        let home = witness.stop();
        home.follow(&keys.lines().collect::<Vec<_>>());
        self.witness = Some(Witness::at(home, &address));
    }

    /// The policy that the page shows.
    fn put_policy(&self) {
        let begin = PAGE.find("    @id(\"recovery\")").unwrap();
        let end = begin + PAGE[begin..].find(");\n").unwrap() + 3;
        fs::write(self.policy(), &PAGE[begin..end]).unwrap();
    }

    /// The home is gone, and so is what alice enrolled after the backup.
    fn lose_machine(&mut self) {
        self.home = self.ca.take().map(Ca::kill);
        fs::remove_dir_all(self.folder.join("home")).unwrap();
        self.key = "key";
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap()
    }
}

/// Whether a key's next step waits for something.
fn waits(person: &Person, id: &str) -> bool {
    let out = person.hallpass(["key", "show", id, "--json"]).ok();
    let key: Value = serde_json::from_str(&out).unwrap();
    !key["waits_for"].as_array().is_none_or(Vec::is_empty)
}

/// A shell that runs the line and finds the program.
fn shell(mut shell: Command, line: &str) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_hallpass")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    shell
        .args(["-c", line])
        .env("PATH", format!("{}:{path}", programs.display()));
    shell
}
