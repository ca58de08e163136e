//! `hallpass request`

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;

use super::ClientArgs;
use super::ask::AskArgs;
use super::failure::Failure;
use super::output::{Facts, both, clean, length, print, print_json, shell};
use crate::client::{self, ConfigFolder, Session, Sessions, Subject};
use crate::model::{RoleName, RoleSummary};

/// Get a certificate as files, and see how to use it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hallpass request server-operator --purpose incident --reason 'disk full' --ttl 10m
  hallpass request patients-read --purpose support --reason SUP-7 --out ./access --json
  hallpass request deploy --purpose deploy --key ~/.ssh/id_ed25519_sk")]
pub(super) struct Args {
    /// The role
    role: RoleName,
    #[command(flatten)]
    ask: AskArgs,
    /// Certify this key instead of a fresh one: an SSH key, or for a database PKCS#8 in PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where to put the files, named after the role; left out: a private folder that is swept
    /// when the certificate has ended
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let (folder, api) = args.client.open()?;
    let roles: Vec<RoleSummary> = api.get("/v1/roles")?;
    let listed = roles.iter().find(|role| role.name == args.role);
    let is_ssh = listed.map(|role| role.kind == "ssh");
    let ask = args.ask.of(args.role);
    let sessions = Sessions::open(&folder, &api)?;
    let request = |subject| sessions.request(&ask, &subject, args.out.as_deref());
    let fresh_ssh = || Subject::fresh_ssh(&format!("hallpass {}", ask.role));
    let session = match (&args.key, is_ssh) {
        (None, Some(true)) => request(fresh_ssh()?)?,
        (None, Some(false)) => request(Subject::fresh_x509()?)?,
        (Some(path), Some(true)) => request(Subject::ssh(path)?)?,
        (Some(path), Some(false)) => request(Subject::x509(path)?)?,
        // What policy grants for certain reasons only is not listed. The CA says which kind it is, or
        // why it refuses.
        (None, None) => match request(fresh_ssh()?) {
            Err(error) if error.is_wrong_kind() => request(Subject::fresh_x509()?)?,
            outcome => outcome?,
        },
        (Some(path), None) => match Subject::x509(path) {
            Ok(subject) => request(subject)?,
            Err(_) => request(Subject::ssh(path)?)?,
        },
    };
    if args.json {
        return print_json(&in_json(&folder, &session));
    }
    print(in_words(&folder, &session))
}

fn in_json(folder: &ConfigFolder, session: &Session) -> serde_json::Value {
    let held = &session.held;
    let mut value = json!({
        "kind": if session.root.is_some() { "x509" } else { "ssh" },
        "role": held.role,
        "purpose": held.purpose,
        "entry": held.entry,
        "serial": held.serial,
        "valid_after": held.valid_after,
        "valid_before": held.valid_before,
        "good_for": held.good_for,
        "key": session.key,
        "certificate": session.certificate,
    });
    match &session.root {
        Some(root) => value["root"] = json!(root),
        None => value["known_hosts"] = json!(folder.known_hosts()),
    }
    value
}

fn in_words(folder: &ConfigFolder, session: &Session) -> String {
    let held = &session.held;
    let mut facts = Facts::new();
    facts.add("role", format!("{} for {}", held.role, held.purpose));
    facts.add("good for", held.good_for.join(", "));
    facts.add("ends", both(held.valid_before));
    facts.add("", format!("in {}", length(held.left(client::now()))));
    facts.add("entry", held.entry);
    facts.add("serial", held.serial);
    facts.add("key", session.key.display());
    facts.add("certificate", session.certificate.display());
    let mut text = format!("{facts}\nUse it with:\n");
    let user = held.good_for.first().map_or("USER", String::as_str);
    let user = clean(user);
    let lines = if session.root.is_some() {
        let environment: Vec<String> = client::psql_environment(session)
            .into_iter()
            .map(|(name, value)| format!("{name}={}", shell(&value.to_string_lossy())))
            .collect();
        let environment = environment.join(" ");
        vec![
            format!("{environment} psql -h HOST DATABASE"),
            format!("{environment} pg_dump -h HOST DATABASE"),
        ]
    } else {
        // -i says which key, and finds the certificate where it is beside it.
        let beside = session.key.as_os_str().to_string_lossy() + "-cert.pub";
        let known = if beside == session.certificate.as_os_str().to_string_lossy() {
            6
        } else {
            4
        };
        let options: Vec<String> = client::ssh_options(folder, session)
            .iter()
            .skip(known)
            .map(|word| shell(&word.to_string_lossy()))
            .collect();
        let key = shell(&session.key.to_string_lossy());
        let options = format!("-i {key} -o IdentitiesOnly=yes {}", options.join(" "));
        vec![
            format!("ssh {options} {user}@HOST"),
            format!("scp {options} FILE {user}@HOST:"),
            format!("sftp {options} {user}@HOST"),
        ]
    };
    for line in lines {
        writeln!(text, "  {line}").expect("a String takes any text");
    }
    text
}
